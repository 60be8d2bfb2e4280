"""What a tar file holds, read from its headers alone: records and where they lie, and what does not belong there."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infogap.data.index import Place
from infogap.data.problems import Problem, Severity
from infogap.data.records import IMAGE_SUFFIXES, MAX_JSON_BYTES, Record

_NAME: Final = re.compile(r"((?:.*/|)[^./]+)\.([^/]*)", re.DOTALL)
"""Key and suffix of a member: all of its path before the first dot of the file's name, and what comes after that."""


@dataclass(frozen=True)
class FoundRecord:
    """A record that was found.

    Attributes:
        key: of the sample.
        members: suffix, offset in the tar file and bytes of each member.
    """

    key: str
    members: tuple[tuple[str, int, int], ...]

    @property
    def place(self) -> Place | None:
        """Where image and JSON lie, with no evidence counted; None if there is not exactly one of each."""
        images = [(offset, size) for suffix, offset, size in self.members if suffix != "json"]
        texts = [(offset, size) for suffix, offset, size in self.members if suffix == "json"]
        return Place(self.key, *images[0], *texts[0], 0) if len(images) == len(texts) == 1 else None


@dataclass(frozen=True)
class ShardScan:
    """A shard whose headers were read.

    Attributes:
        path: the shard.
        records: its records in order, up to the place where it is damaged.
        problems: what is wrong with it.
    """

    path: Path
    records: tuple[FoundRecord, ...]
    problems: tuple[Problem, ...]


def scan(path: Path) -> ShardScan:
    """Read the headers of a tar file, whatever is in it."""
    problems: list[Problem] = []
    records: list[FoundRecord] = []
    for key, suffix, offset, size in _members(path, problems):
        if not records or records[-1].key != key:
            problems += _key_problems(path, key)
            records.append(FoundRecord(key, ()))
        known = records[-1].members
        if suffix in (member[0] for member in known):
            fault = f"the member .{suffix} is there twice, the second is not read"
            problems.append(_error("duplicate member", path, key, fault, "remove one of the two"))
        else:
            records[-1] = FoundRecord(key, (*known, (suffix, offset, size)))
    return ShardScan(path, tuple(records), tuple(problems))


def read_record(path: Path, found: FoundRecord) -> Record:
    """The members of one record. Of a JSON that is too long, only as much is read as shows it.

    Raises:
        OSError: if the file cannot be read.
    """
    record: Record = {"__key__": found.key, "__url__": str(path)}
    with path.open("rb") as file:
        for suffix, offset, size in found.members:
            file.seek(offset)
            record[suffix] = file.read(min(size, MAX_JSON_BYTES + 1) if suffix == "json" else size)
    return record


def _members(path: Path, problems: list[Problem]) -> Iterator[tuple[str, str, int, int]]:
    """Key, suffix, offset and size of each image and JSON; what else is found is added to the problems."""
    fault = None
    try:
        length = path.stat().st_size
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                name = member.name.removeprefix("./")  # `tar -C folder .` writes it
                parts = _NAME.fullmatch(name)
                suffix = "" if parts is None else parts[2].lower()
                if member.isdir():
                    continue
                if parts is None or suffix not in (*IMAGE_SUFFIXES, "json"):
                    problems.append(_unread(path, name, suffix))
                elif not member.isreg() or member.issparse():
                    remedy = "write the file itself, as `tar --dereference --hard-dereference` does"
                    fault_here = f"the member .{suffix} is a link or another special file, which is not read"
                    problems.append(_error("special member", path, parts[1], fault_here, remedy))
                elif member.offset_data + member.size <= length:
                    yield parts[1], suffix, member.offset_data, member.size
            fault = _missing_end(archive)
    except Exception as error:  # tarfile lets errors of many kinds through when the file is corrupt
        fault = f"{type(error).__name__}: {error}"
    if fault is not None:
        what = f"it is truncated or damaged ({fault}), and what stands behind that place is lost"
        problems.append(_error("broken shard", path, "", what, "write or copy it again"))


def _missing_end(archive: tarfile.TarFile) -> str | None:
    """What is wrong with the end of an archive: tarfile does not miss the block of zeros."""
    assert archive.fileobj is not None  # it is open
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE):
        return None
    return f"no header and no end mark at byte {archive.offset}"


def _key_problems(path: Path, key: str) -> Iterator[Problem]:
    if not key.isprintable() or "/" in key or key.startswith("__"):
        fault = "its key holds a slash or a control character, or begins with '__'"
        yield _error("bad key", path, key, fault, "name its members otherwise")


def _unread(path: Path, name: str, suffix: str) -> Problem:
    pickled = suffix.rpartition(".")[2] in ("pkl", "pickle", "pth", "pt", "pyd")
    fault = f"the member {name!r:.80} is not read" + (", for nothing is ever unpickled" if pickled else "")
    remedy = "leave it out, or put what it says into the metadata"
    return Problem(Severity.WARNING, "member not read", path.name, "", fault, remedy)


def _error(kind: str, path: Path, key: str, fault: str, remedy: str) -> Problem:
    return Problem(Severity.ERROR, kind, path.name, key, fault, remedy)
