"""What a tar file holds, read from its headers alone: records and where they lie, and what does not belong there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from infogap.data.index import Place
from infogap.data.problems import Problem, Severity
from infogap.data.records import MAX_JSON_BYTES, Record
from infogap.data.shards import Member, group_members, walk


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

    def report_end(fault: str) -> None:
        what = f"it is truncated or damaged ({fault}), and what stands behind that place is lost"
        problems.append(_error("broken shard", path, "", what, "write or copy it again"))

    def report_duplicate(member: Member) -> None:
        fault = f"the member .{member.suffix} is there twice, the second is not read"
        problems.append(_error("duplicate member", path, member.key, fault, "remove one of the two"))

    def watched() -> Iterator[Member]:
        for member in walk(path, report_end):
            problems.extend(_member_problems(path, member))
            yield member

    records = []
    for group in group_members(watched(), report_duplicate):
        key = group[0].key
        problems += _key_problems(path, key)
        records.append(FoundRecord(key, tuple((member.suffix, member.offset, member.size) for member in group)))
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


def _member_problems(path: Path, member: Member) -> Iterator[Problem]:
    if not member.is_wanted:
        yield _unread(path, member)
    elif not member.is_plain:
        fault = f"the member .{member.suffix} is a link or another special file, which is not read"
        remedy = "write the file itself, as `tar --dereference --hard-dereference` does"
        yield _error("special member", path, member.key, fault, remedy)


def _key_problems(path: Path, key: str) -> Iterator[Problem]:
    if not key.isprintable() or "/" in key or key.startswith("__"):
        fault = "its key holds a slash or a control character, or begins with '__'"
        yield _error("bad key", path, key, fault, "name its members otherwise")


def _unread(path: Path, member: Member) -> Problem:
    pickled = member.suffix.rpartition(".")[2] in ("pkl", "pickle", "pth", "pt", "pyd")
    fault = f"the member {member.name!r:.80} is not read" + (", for nothing is ever unpickled" if pickled else "")
    remedy = "leave it out, or put what it says into the metadata"
    return Problem(Severity.WARNING, "member not read", path.name, "", fault, remedy)


def _error(kind: str, path: Path, key: str, fault: str, remedy: str) -> Problem:
    return Problem(Severity.ERROR, kind, path.name, key, fault, remedy)
