"""Whether the files beside shards agree with them: the index and the resolution manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path

from infogap.data.index import INDEX_NAME, Place, ShardEntry, ShardIndex, load_index
from infogap.data.manifest import load_manifest
from infogap.data.problems import Problem, Severity
from infogap.data.shard_scan import ShardScan

MAKE_INDEX = "write the index anew with `infogap data index`"
SELECT_ANEW = "repair it, or remove it and select resolutions again"
DIFFERS = "shard differs from index"


def read_index(folder: Path) -> tuple[ShardIndex | None, list[Problem]]:
    """The index of a folder, None if there is none or it is damaged, and what is wrong with it."""
    try:
        index = load_index(folder)
    except (ValueError, ArithmeticError, OSError) as error:
        return None, [_wrong("bad index", INDEX_NAME, f"it cannot be used: {error}", f"remove it, and {MAKE_INDEX}")]
    if index is None:
        fault = "there is no index, so that nobody knows whether shards are missing"
        return None, [Problem(Severity.WARNING, "no index", INDEX_NAME, "", fault, MAKE_INDEX)]
    return index, list(_total_problems(folder, index))


def check_files(folder: Path, index: ShardIndex, found: Collection[str]) -> Iterator[Problem]:
    """Shards that are missing, and those that are there and not listed.

    Args:
        folder: of the index.
        index: the index.
        found: names of all tar files in the folder.
    """
    listed = [entry.name for entry in index.shards]
    for name in sorted({name for name in listed if listed.count(name) > 1}):
        yield _wrong("bad index", name, "the index lists it twice", MAKE_INDEX)
    for name in sorted(set(listed) - set(found)):
        if not (folder / name).is_file():
            yield _wrong("missing shard", name, "the index lists it, but it is not there", "copy it again")
    for name in sorted(set(found) - set(listed)):
        yield _wrong("shard not listed", name, "it is not in the index, so that it is not used", MAKE_INDEX)


def check_entry(entry: ShardEntry, scan: ShardScan, *, checksum: bool) -> Iterator[Problem]:
    """Whether the index says the truth of one shard.

    Args:
        entry: what the index says.
        scan: what the shard holds.
        checksum: also read all of the file for its SHA-256.
    """
    name = entry.name
    size = scan.path.stat().st_size
    places = [place for place in (record.place for record in scan.records) if place is not None]
    if size != entry.bytes:
        yield _wrong(DIFFERS, name, f"it has {size} bytes, but {entry.bytes} by the index", "copy it again")
    elif checksum and (digest := _sha256(scan.path)) != entry.sha256:
        fault = f"its SHA-256 begins with {digest[:12]}, but by the index with {entry.sha256[:12]}"
        yield _wrong(DIFFERS, name, fault, f"copy it again, or {MAKE_INDEX}")
    if len(places) != entry.samples:
        yield _wrong(DIFFERS, name, f"it holds {len(places)} samples, but {entry.samples} by the index", MAKE_INDEX)
    for found, listed in zip_longest(places, entry.members if entry.members is not None else ()):
        if entry.members is not None and not _same_place(found, listed):
            known = found if found is not None else listed
            fault = "by the index it lies elsewhere, or another sample lies there"
            yield _wrong("sample differs from index", name, fault, MAKE_INDEX, "" if known is None else known.key)


def check_manifest(path: Path, keys: Mapping[str, str]) -> Iterator[Problem]:
    """Whether a resolution manifest is about the samples of the shards beside it.

    Args:
        path: the manifest.
        keys: names of the shards by the keys of all their samples.
    """
    try:
        entries = load_manifest(path)
    except (ValueError, ArithmeticError, OSError, RecursionError) as error:
        yield _wrong("bad manifest", path.name, f"it cannot be used: {error}", SELECT_ANEW)
        return
    for key in sorted(entries.keys() - keys.keys()):
        fault, remedy = "it has a result for a sample that is in no shard", "see that it belongs to these shards"
        yield Problem(Severity.WARNING, "result without a sample", path.name, key, fault, remedy)
    yield from _without_result(path, [key for key in keys if key not in entries], keys)


def _without_result(path: Path, missing: Iterable[str], keys: Mapping[str, str]) -> Iterator[Problem]:
    for key in missing:
        remedy = "go on with data_scripts/select_resolution.py, which knows what is done"
        fault = f"{path.name} has no result for it"
        yield Problem(Severity.WARNING, "sample without a result", keys[key], key, fault, remedy)


def _total_problems(folder: Path, index: ShardIndex) -> Iterator[Problem]:
    total = json.loads((folder / INDEX_NAME).read_bytes()).get("samples")
    counted = sum(entry.samples for entry in index.shards)
    if total != counted:
        yield _wrong(
            "bad index", INDEX_NAME, f"it says {total!r:.20} samples, and {counted} shard by shard", MAKE_INDEX
        )
    if not index.shards:
        yield _wrong("bad index", INDEX_NAME, "it lists no shards", MAKE_INDEX)


def _same_place(found: Place | None, listed: Place | None) -> bool:
    return found is not None and listed is not None and found[:-1] == listed[:-1]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _wrong(kind: str, name: str, fault: str, remedy: str, key: str = "") -> Problem:
    return Problem(Severity.ERROR, kind, name, key, fault, remedy)
