"""Samples in WebDataset shards: tar files with two members per sample, `KEY.jpg` (or png, webp) and `KEY.json`.

The format is described in docs/shard_format.md. Shards are local files: webdataset's own openers are not used, since
they run `pipe:` commands and follow URLs. Members of other kinds than image and JSON are not even read.
"""

from __future__ import annotations

import glob
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from webdataset.tariterators import base_plus_ext, group_by_keys

from infogap.data.records import IMAGE_SUFFIXES, SCHEMA, Record, RecordError, decode_sample, encode_sample
from infogap.data.sample import Sample, SampleError
from infogap.data.skips import SkipLog, SkipReason

INDEX_NAME = "shards.json"
"""Index of a folder of shards, written last: where it lies, the shards are complete."""


class ShardError(ValueError):
    """A shard that cannot be read to its end; the message names it."""


def has_shards(folder: Path) -> bool:
    """Whether shards, or an index of shards, lie in a folder."""
    return (folder / INDEX_NAME).exists() or any(folder.glob("*.tar"))


def check_local(where: str) -> None:
    """Refuse commands and URLs.

    Raises:
        ValueError: if `where` is one.
    """
    if "pipe:" in where or re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", where):
        raise ValueError(f"The shards {where!r} are not local files: copy them here, and give a folder, file or glob.")


def find_shards(where: str | Path) -> list[Path]:
    """Shards of a folder, of a glob pattern, or a single one, in a fixed order.

    Of a folder with an index, the shards that it lists; of one without, all `*.tar` by name.

    Raises:
        ValueError: if `where` is a command or a URL, or the index is damaged.
        FileNotFoundError: if there are no shards, or one that the index lists is missing.
    """
    text = str(where)
    check_local(text)
    folder = Path(text)
    if folder.is_file():
        return [folder]
    if (folder / INDEX_NAME).is_file():
        return _listed_shards(folder)
    pattern = str(Path(glob.escape(text)) / "*.tar") if folder.is_dir() else text
    shards = sorted(path for path in map(Path, glob.glob(pattern)) if path.is_file())
    if not shards:
        fault = "holds no *.tar file" if folder.is_dir() else "matches no file"
        raise FileNotFoundError(f"The path {text!r} {fault}: give a folder of shards, a shard, or a glob pattern.")
    return shards


def read_origin(folder: Path) -> dict[str, Any] | None:
    """What the samples of a folder were made from, by its index; None if there is none or it does not say."""
    index = folder / INDEX_NAME
    if not index.is_file():
        return None
    content = json.loads(index.read_bytes())
    origin: dict[str, Any] | None = content.get("made_from")
    return origin


def _listed_shards(folder: Path) -> list[Path]:
    """Shards that the index of a folder lists."""
    index = folder / INDEX_NAME
    try:
        content = json.loads(index.read_bytes())
        schema, names = content["schema"], [Path(entry["name"]).name for entry in content["shards"]]
    except (ValueError, TypeError, KeyError) as error:
        fault = f"{type(error).__name__}: {error}"
        raise ValueError(f"The index {index} is damaged ({fault}): remove it to use every *.tar beside it.") from error
    if schema != SCHEMA:
        raise ValueError(f"The index {index} has the schema {schema!r}: this version reads {SCHEMA}, write it anew.")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise FileNotFoundError(
            f"The index {index} lists {len(names)} shards, of which {len(missing)} are missing (first: "
            f"{missing[:1]}): copy the whole folder again."
        )
    return [folder / name for name in names]


def read_records(shard: Path, skips: SkipLog) -> Iterator[Record]:
    """Records of a shard in the order of the file, not decoded.

    Of a shard that is truncated or damaged, the records up to there are read, and one fault is counted.

    Raises:
        ShardError: if the shard is truncated or damaged and `skips` is strict.
    """

    def duplicate(error: Exception) -> bool:
        fault = RecordError(f"The shard {shard} holds a member twice: {error.args[0]}.", SkipReason.DUPLICATE_MEMBER)
        skips.fault(fault.reason, fault)
        return True

    yield from group_by_keys(_members(shard, skips), handler=duplicate)


def read_samples(shards: Iterable[Path], skips: SkipLog) -> Iterator[Sample]:
    """All sound samples of some shards in order; the others are counted in `skips`, or raised if that is strict."""
    for shard in shards:
        for record in read_records(shard, skips):
            sample = decode_or_skip(record, skips)
            if sample is not None:
                yield sample


def decode_or_skip(record: Mapping[str, Any], skips: SkipLog) -> Sample | None:
    """Sample of a record, or None if it has a fault, which is counted, or raised if `skips` is strict."""
    try:
        return decode_sample(record)
    except RecordError as error:
        skips.fault(error.reason, error)
        return None


def _members(shard: Path, skips: SkipLog) -> Iterator[dict[str, Any]]:
    """Image and JSON members of a tar file, as `group_by_keys` wants them."""
    fault = None
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                name = member.name.removeprefix("./")  # `tar -C folder .` writes it
                file = archive.extractfile(member) if _is_wanted(name) else None
                if file is not None:
                    yield {"fname": name, "data": file.read(), "__url__": str(shard)}
            fault = _missing_end(archive)
    except Exception as error:  # tarfile lets errors of many kinds through when the file is corrupt
        fault = f"{type(error).__name__}: {error}"
    if fault is not None:
        message = f"The shard {shard} is truncated or damaged ({fault}): write or copy it again."
        skips.fault(SkipReason.BROKEN_SHARD, ShardError(message))


def _is_wanted(name: str) -> bool:
    """Whether a member is of a kind that is used; all others stay unread."""
    suffix = base_plus_ext(name)[1]
    return suffix is not None and suffix.lower() in (*IMAGE_SUFFIXES, "json")


def _missing_end(archive: tarfile.TarFile) -> str | None:
    """What is wrong with the end of an archive, None if nothing.

    tarfile takes a damaged header for the end, and a file that was cut between two members for a whole one. A whole
    one ends in a block of zeros.
    """
    assert archive.fileobj is not None  # it is open
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE):
        return None
    return f"no header and no end mark at byte {archive.offset}"


def write_shards(
    samples: Iterable[Sample],
    folder: Path,
    samples_per_shard: int,
    prefix: str = "shard",
    made_from: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write samples as shards `PREFIX-000000.tar`, ... and then their index.

    All of it, or nothing: shards are written in a hidden folder and moved into place when the last one is finished.
    Equal samples give equal bytes.

    Args:
        samples: what to write, one at a time in memory.
        folder: where to; made if it does not exist.
        samples_per_shard: samples in each shard but the last.
        prefix: how the shards' names begin.
        made_from: what the samples follow from, for the index, as JSON values.

    Returns:
        Paths of the shards.

    Raises:
        FileExistsError: if the folder holds shards.
        SampleError: if a sample cannot be encoded or a key occurs twice.
        ValueError: if there are no samples, or `samples_per_shard` is below 1.
    """
    if samples_per_shard < 1:
        raise ValueError(f"samples_per_shard is {samples_per_shard}: give at least 1.")
    folder.mkdir(parents=True, exist_ok=True)
    if has_shards(folder):
        raise FileExistsError(f"The folder {folder} holds shards already: empty it or name another.")
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    try:
        entries = list(_write_all(iter(samples), partial, samples_per_shard, prefix))
        if not entries:
            raise ValueError(f"There are no samples to write to {folder}: give at least one.")
        index: dict[str, Any] = {"schema": SCHEMA, "samples": sum(entry["samples"] for entry in entries)}
        index |= {"shards": entries} if made_from is None else {"made_from": made_from, "shards": entries}
        (partial / INDEX_NAME).write_text(json.dumps(index, indent=1) + "\n")
        names = [entry["name"] for entry in entries]
        for name in [*names, INDEX_NAME]:
            os.replace(partial / name, folder / name)
    finally:
        shutil.rmtree(partial)
    return [folder / name for name in names]


def _write_all(
    samples: Iterator[Sample], folder: Path, samples_per_shard: int, prefix: str
) -> Iterator[dict[str, Any]]:
    """Write every shard; yields their entries in the index."""
    keys: set[str] = set()
    for number in itertools.count():
        chunk = itertools.islice(samples, samples_per_shard)
        first = next(chunk, None)
        if first is None:
            return
        path = folder / f"{prefix}-{number:06d}.tar"
        count = len(keys)
        with tarfile.open(path, "w") as archive:
            for sample in itertools.chain([first], chunk):
                if sample.key in keys:
                    raise SampleError(f"The key {sample.key!r} occurs twice: give every sample a key of its own.")
                keys.add(sample.key)
                _write_members(archive, sample)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        yield {"name": path.name, "samples": len(keys) - count, "bytes": path.stat().st_size, "sha256": digest}


def _write_members(archive: tarfile.TarFile, sample: Sample) -> None:
    """Members of one sample, side by side, without anything that differs from one machine to the next."""
    for suffix, data in encode_sample(sample).items():
        member = tarfile.TarInfo(f"{sample.key}.{suffix}")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
