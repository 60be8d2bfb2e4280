"""Sets of shards, on disk or behind http(s), and single records of them read wherever they lie."""

from __future__ import annotations

import logging
import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote, unquote, urljoin, urlsplit

from infogap.data.index import INDEX_NAME, Place, ShardEntry, ShardIndex, load_index, parse_index
from infogap.data.manifest import ManifestEntry, load_manifest, manifest_path, parse_manifest
from infogap.data.records import Record, RecordError
from infogap.data.remote import Cache, MissingError, check_url
from infogap.data.shards import find_shards, scan_shard
from infogap.data.skips import SkipLog, SkipReason

logger = logging.getLogger(__name__)

OPEN_SHARDS = 4
"""Shards that a reader keeps open. A shuffle buffer spans a few; a copy of a remote one that made room for others takes
its disk space until it is closed."""

_NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Shard:
    """A shard of which it is known what it holds.

    Attributes:
        location: its path or URL.
        places: where its records lie, in the order of the file.
        bytes: size that its index says; None without an index.
        sha256: of the file; None without an index.
    """

    location: str
    places: tuple[Place, ...]
    bytes: int | None = None
    sha256: str | None = None


def is_remote(where: str) -> bool:
    """Whether shards are named by an http(s) address."""
    return where.startswith(("http://", "https://"))


def open_set(where: str, cache: Cache, skips: SkipLog) -> list[Shard]:
    """The shards of a folder, a glob pattern, a file, or an http(s) address of one of these, in a fixed order.

    Behind an address there must be an index. In the place of a glob pattern such an address may hold one range of
    numbers: `https://host/train/shard-{000000..000063}.tar`.

    Args:
        where: the shards.
        cache: fetches what is remote.
        skips: counts faults of shards that have to be scanned, since no index says what they hold.

    Raises:
        ValueError: if `where` is a command or another kind of URL, or an index is damaged or too old.
        FileNotFoundError: if there are no shards, or one that an index lists is missing.
        RemoteError: if an index cannot be fetched.
    """
    if is_remote(where):
        return _remote_shards(where, cache)
    return open_local(find_shards(where), skips)


def open_local(paths: Sequence[Path], skips: SkipLog) -> list[Shard]:
    """Shards on a disk. Those of which no index says what they hold are scanned, and their faults counted."""
    entries = _entries_beside(paths)
    return [_local_shard(path, entries.get(path), skips) for path in paths]


def fetch_index(where: str, cache: Cache) -> tuple[str, ShardIndex]:
    """The index of remote shards, and the address of the folder, which ends in a slash.

    Raises:
        ValueError: if it is damaged, or the address is none that can be used.
        RemoteError: if it cannot be fetched.
    """
    check_url(where)
    is_shard = urlsplit(where).path.endswith(".tar")
    folder = urljoin(where, ".") if is_shard else where.rstrip("/") + "/"
    url = urljoin(folder, INDEX_NAME)
    return folder, parse_index(cache.read(url), url)


def load_manifest_beside(where: str, cache: Cache) -> dict[str, ManifestEntry] | None:
    """The resolution manifest beside some shards, under the name that their index gives; None if there is none.

    Raises:
        ValueError: if it is damaged; else as `open_set`.
    """
    if not is_remote(where):
        path = manifest_path(where)
        return load_manifest(path) if path.exists() else None
    folder, index = fetch_index(where, cache)
    url = urljoin(folder, quote(index.resolution))
    try:
        return parse_manifest(cache.read(url), url)
    except MissingError as error:
        logger.info("There is no resolution manifest: %s", error)
        return None


def _remote_shards(where: str, cache: Cache) -> list[Shard]:
    folder, index = fetch_index(where, cache)
    entries = {entry.name: entry for entry in index.shards}
    names = _expand(unquote(where[len(folder) :])) or list(entries)
    unknown = [name for name in names if name not in entries]
    if unknown or not names:
        raise FileNotFoundError(
            f"The index {folder}{INDEX_NAME} does not list {', '.join(unknown) or 'any shard'}: correct {where!r}."
        )
    shards = []
    for name in names:
        entry = entries[name]
        if entry.members is None:
            raise ValueError(
                f"The index {folder}{INDEX_NAME} does not say where the records of {name} lie: make it anew where the "
                "shards are, with `infogap data index FOLDER`."
            )
        shards.append(Shard(urljoin(folder, quote(name)), entry.members, entry.bytes, entry.sha256))
    return shards


def _expand(name: str) -> list[str]:
    """Names that a name with a range of numbers stands for; none for no name."""
    found = _NUMBERS.search(name)
    if found is None:
        return [name] if name else []
    width = len(found[1])
    numbers = range(int(found[1]), int(found[2]) + 1)
    return [f"{name[: found.start()]}{number:0{width}d}{name[found.end() :]}" for number in numbers]


def _entries_beside(paths: Sequence[Path]) -> dict[Path, ShardEntry]:
    """What the indices beside some shards say of them."""
    entries: dict[Path, ShardEntry] = {}
    for folder in dict.fromkeys(path.parent for path in paths):
        try:
            index = load_index(folder)
        except ValueError as error:  # the shards were named one by one: the index would only have saved time
            logger.warning("%s They are scanned instead.", error)
            continue
        entries |= {folder / entry.name: entry for entry in (() if index is None else index.shards)}
    return entries


def _local_shard(path: Path, entry: ShardEntry | None, skips: SkipLog) -> Shard:
    """A shard on disk; what its index says is believed if the size agrees."""
    if entry is not None and entry.members is not None and path.stat().st_size == entry.bytes:
        return Shard(str(path), entry.members, entry.bytes, entry.sha256)
    return Shard(str(path), tuple(scan_shard(path, skips)))


class RecordReader:
    """Reads records of any shard in any order, and keeps the shards of the last ones open.

    For one process: the files are not shared with a fork. Use it as a context manager.

    Args:
        cache: fetches shards that are remote.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._open: OrderedDict[str, int] = OrderedDict()

    def read(self, shard: Shard, place: Place) -> Record:
        """One record, its image still compressed.

        Raises:
            RecordError: if the shard is not there any more, or too short.
            RemoteError: if it cannot be fetched.
        """
        record: Record = {"__key__": place.key, "__url__": shard.location}
        try:  # what a cache raises is no OSError: a sample is not left out because of a server or of its copy
            file = self._descriptor(shard)
            record["jpg"] = os.pread(file, place.image_bytes, place.image_offset)  # whatever format: its bytes say
            record["json"] = os.pread(file, place.json_bytes, place.json_offset)
        except OSError as error:
            raise self._broken(shard, place, str(error)) from error
        if len(record["jpg"]) != place.image_bytes or len(record["json"]) != place.json_bytes:
            raise self._broken(shard, place, "it ends before the record does")
        return record

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the shards."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _descriptor(self, shard: Shard) -> int:
        found = self._open.pop(shard.location, None)
        if found is None:
            if is_remote(shard.location):
                found = self._cache.open(shard.location, shard.bytes, shard.sha256)
            else:
                found = os.open(shard.location, os.O_RDONLY)
        self._open[shard.location] = found
        if len(self._open) > OPEN_SHARDS:
            os.close(self._open.popitem(last=False)[1])
        return found

    def _broken(self, shard: Shard, place: Place, fault: str) -> RecordError:
        message = f"Sample {place.key!r} of the shard {shard.location} cannot be read ({fault}): copy the shard again."
        return RecordError(message, SkipReason.BROKEN_SHARD)
