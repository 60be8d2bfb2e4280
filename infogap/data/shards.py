"""Samples in WebDataset shards: tar files with two members per sample, `KEY.jpg` (or png, webp) and `KEY.json`.

The format is described in docs/shard_format.md. Here shards are found and read from end to end; `infogap.data.reader`
reads single records. webdataset's own openers are not used, since they run `pipe:` commands and unpickle. Members of
other kinds than image and JSON are not even read.
"""

from __future__ import annotations

import glob
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from infogap.data.index import INDEX_NAME, Place, load_index
from infogap.data.records import IMAGE_SUFFIXES, Record, RecordError, decode_sample, members_of
from infogap.data.sample import Sample
from infogap.data.skips import SkipLog, SkipReason


class ShardError(ValueError):
    """A shard that cannot be read to its end; the message names it."""


_NAME: Final = re.compile(r"((?:.*/|)[^./]+)\.([^/]*)", re.DOTALL)
"""Key and suffix of a member: all of its path before the first dot of the file's name, and what comes after that."""


@dataclass(frozen=True)
class Member:
    """A member of a tar file.

    Attributes:
        name: its path.
        key: of the sample that it belongs to; empty if the name has no suffix.
        suffix: what makes it an image or a JSON, in small letters.
        is_plain: whether it is a file that lies in one piece in the shard: no link, no sparse file, no device.
        offset: where its bytes begin in the shard.
        size: how many they are.
    """

    name: str
    key: str
    suffix: str
    is_plain: bool
    offset: int
    size: int

    @property
    def is_wanted(self) -> bool:
        """Whether it is of a kind that is used; all others stay unread."""
        return self.suffix in (*IMAGE_SUFFIXES, "json")


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
    index = load_index(folder)
    return None if index is None else index.made_from


def _listed_shards(folder: Path) -> list[Path]:
    """Shards that the index of a folder lists."""
    index = load_index(folder)
    assert index is not None  # it is there
    names = [entry.name for entry in index.shards]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise FileNotFoundError(
            f"The index {folder / INDEX_NAME} lists {len(names)} shards, of which {len(missing)} are missing (first: "
            f"{missing[:1]}): copy the whole folder again."
        )
    return [folder / name for name in names]


def read_records(shard: Path, skips: SkipLog) -> Iterator[Record]:
    """Records of a shard in the order of the file, not decoded.

    Of a shard that is truncated or damaged, the records up to there are read, and one fault is counted.

    Raises:
        ShardError: if the shard is truncated or damaged and `skips` is strict.
    """
    return _records(shard, skips, _bytes_of)


def scan_shard(shard: Path, skips: SkipLog) -> list[Place]:
    """Where the records of a shard lie. Images are passed over, not read.

    Faults are counted as in `read_records`; records without an image or a JSON are faults, too, and have no place.

    Raises:
        ShardError: if the shard is truncated or damaged and `skips` is strict.
        RecordError: if a record is incomplete and `skips` is strict.
    """
    places: list[Place] = []
    for record in _records(shard, skips, _extent_of):
        try:
            (image, image_bytes), (start, text) = members_of(record)
        except RecordError as error:
            skips.fault(error.reason, error)
        else:
            places.append(Place(record["__key__"], image, image_bytes, start, len(text), count_chains(text)))
    return places


def count_chains(text: bytes) -> int:
    """Pieces of evidence in a JSON member; 0 if it cannot be read, which decoding it will say."""
    try:
        boxes = json.loads(text)["boxes"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return 0
    return len(boxes) if isinstance(boxes, list) else 0


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


def walk(shard: Path, report: Callable[[str], None]) -> Iterator[Member]:
    """Members of a tar file in order, from their headers alone, whatever is in it; folders are left out.

    Args:
        shard: the file.
        report: is told at the end what is wrong, if it is truncated or damaged; members up to there are yielded.
    """
    fault = None
    try:
        length = shard.stat().st_size
        with tarfile.open(shard, "r:") as archive:
            for header in archive:
                name = header.name.removeprefix("./")  # `tar -C folder .` writes it
                parts = _NAME.fullmatch(name)
                key, suffix = ("", "") if parts is None else (parts[1], parts[2].lower())
                is_plain = header.isreg() and not header.issparse()
                # of a file that ends inside a member, tarfile says so when it looks for the next one
                if not header.isdir() and (not is_plain or header.offset_data + header.size <= length):
                    yield Member(name, key, suffix, is_plain, header.offset_data, header.size)
            fault = _missing_end(archive)
    except Exception as error:  # tarfile lets errors of many kinds through when the file is corrupt
        fault = f"{type(error).__name__}: {error}"
    if fault is not None:
        report(fault)


def group_members(members: Iterable[Member], report: Callable[[Member], None]) -> Iterator[list[Member]]:
    """Images and JSONs that stand side by side and share a key; all others are left out.

    Args:
        members: of one shard.
        report: is told of a member that its group holds already, and that is left out.
    """
    group: list[Member] = []
    for member in members:
        if not (member.is_wanted and member.is_plain):
            continue
        if group and group[0].key != member.key:
            yield group
            group = []
        if any(known.suffix == member.suffix for known in group):
            report(member)
        else:
            group.append(member)
    if group:
        yield group


def _records(shard: Path, skips: SkipLog, content: Callable[[BinaryIO, Member], Any]) -> Iterator[Record]:
    """Records of a shard with some content for each member."""

    def report_end(fault: str) -> None:
        message = f"The shard {shard} is truncated or damaged ({fault}): write or copy it again."
        skips.fault(SkipReason.BROKEN_SHARD, ShardError(message))

    def report_duplicate(member: Member) -> None:
        message = f"The shard {shard} holds the member {member.name!r} twice: remove one of the two."
        skips.fault(SkipReason.DUPLICATE_MEMBER, RecordError(message, SkipReason.DUPLICATE_MEMBER))

    try:
        with shard.open("rb") as file:
            for group in group_members(walk(shard, report_end), report_duplicate):
                contents = {member.suffix: content(file, member) for member in group}
                yield {"__key__": group[0].key, "__url__": str(shard), **contents}
    except OSError as error:
        report_end(f"{type(error).__name__}: {error}")


def _bytes_of(file: BinaryIO, member: Member) -> bytes:
    file.seek(member.offset)
    return file.read(member.size)


def _extent_of(file: BinaryIO, member: Member) -> tuple[int, Any]:
    """Offset of a member, with its size, or of a JSON with its bytes."""
    return member.offset, _bytes_of(file, member) if member.suffix == "json" else member.size


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
