"""An index for shards that another tool has written, or that an older version of this package did."""

from __future__ import annotations

import os
from pathlib import Path

from infogap.data.index import DEFAULT_MANIFEST, INDEX_NAME, ShardEntry, load_index
from infogap.data.shards import scan_shard
from infogap.data.skips import SkipLog
from infogap.data.unfinished import file_sha256
from infogap.data.writing import index_bytes, write_durably


def index_shards(folder: Path) -> list[ShardEntry]:
    """Write the index of all `*.tar` of a folder, in the order of their names, anew.

    What an earlier index says of their origin is kept, and so is the name of the resolution manifest. Images are hashed
    and not decoded: `infogap data check` does.

    Returns:
        What the index says of each shard.

    Raises:
        FileNotFoundError: if there are no shards.
        ShardError: if a shard is truncated or damaged.
        RecordError: if a record lacks its image or its JSON.
        ValueError: if the earlier index is damaged.
    """
    shards = sorted(folder.glob("*.tar"))
    if not shards:
        raise FileNotFoundError(f"The folder {folder} holds no *.tar file: give a folder of shards.")
    earlier = load_index(folder)
    about = {} if earlier is None else dict(earlier.about)
    if earlier is not None and earlier.made_from is not None:
        about["made_from"] = earlier.made_from
    entries = [_entry(shard) for shard in shards]
    partial = folder / f".{INDEX_NAME}.partial"
    resolution = DEFAULT_MANIFEST if earlier is None else earlier.resolution
    write_durably(partial, index_bytes(entries, about, resolution))
    os.replace(partial, folder / INDEX_NAME)
    return entries


def _entry(shard: Path) -> ShardEntry:
    places = tuple(scan_shard(shard, SkipLog(strict=True)))
    return ShardEntry(shard.name, len(places), shard.stat().st_size, file_sha256(shard), places)
