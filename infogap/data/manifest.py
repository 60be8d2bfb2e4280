"""The resolution manifest: which view of a sample is just too small to answer from (LFPC section 3).

A manifest is a JSON-lines file. Its first line is a header that says which policy and which ladder of resolutions it
was made with; each further line is the result for one sample. While views are being selected, lines are only ever
appended, so a run that was killed goes on where it stopped: a last line without its line end was torn and is dropped.
If a key occurs twice the last line wins. The format is described in docs/shard_format.md.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from infogap.data.index import DEFAULT_MANIFEST, load_index
from infogap.data.shards import find_shards

logger = logging.getLogger(__name__)

SCHEMA = 1
MANIFEST_NAME = DEFAULT_MANIFEST
"""File name of a manifest that lies beside its shards, unless their index has another."""

ORIGINAL = "original"
"""Name of the answer from the original."""

TEXT = "text"
"""Name of the answer without an image. Those from views are named by their budget in visual tokens."""


class SelectionStatus(StrEnum):
    """What resolution selection found out about a sample."""

    SELECTED = "selected"
    NEVER_DIVERGES = "never_diverges"
    WRONG_ON_ORIGINAL = "wrong_on_original"


@dataclass(frozen=True)
class ManifestEntry:
    """Result of resolution selection for one sample.

    Attributes:
        key: key of the sample.
        status: what was found out.
        view_tokens: visual tokens of the selected view; None unless the status is ``SELECTED``.
        answers: what the policy answered without the tool, by what it was shown: ``ORIGINAL``, a budget of visual
            tokens such as "512", or ``TEXT``; None where it gave no answer. Empty if answers were not kept.
        right: those of them that were right.

    Raises:
        ValueError: if status and view_tokens contradict each other, or an answer is right that is not there.
    """

    key: str
    status: SelectionStatus
    view_tokens: int | None = None
    answers: Mapping[str, str | None] = field(default_factory=dict, hash=False)
    right: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Refuse a selected view without a size, and a size without a selected view."""
        selected = self.status is SelectionStatus.SELECTED
        if selected != (self.view_tokens is not None) or (self.view_tokens is not None and self.view_tokens < 1):
            raise ValueError(
                f"Sample {self.key!r} has the status {self.status} with view_tokens {self.view_tokens}: give a "
                "positive number with 'selected' and none with any other status."
            )
        if not self.right <= self.answers.keys():
            raise ValueError(
                f"Sample {self.key!r} has answers to {sorted(self.answers)}, of which {sorted(self.right)} are right: "
                "name only answers that are there."
            )

    def joined(self, later: ManifestEntry) -> ManifestEntry:
        """A later result of the same sample, with the answers of both."""
        answers = {**self.answers, **later.answers}
        right = (self.right - later.answers.keys()) | later.right
        return ManifestEntry(later.key, later.status, later.view_tokens, answers, right)


@dataclass(frozen=True)
class ManifestHeader:
    """What a manifest was made with. Results made with different headers do not belong into one file.

    Attributes:
        policy: fingerprint of the model that answered.
        ladder: visual-token budgets that were tried, largest first.
        details: everything else the results depend on, as JSON values (answers per level, prompt, ...).
    """

    policy: str
    ladder: tuple[int, ...]
    details: Mapping[str, Any] = field(default_factory=dict)


class ManifestWriter:
    """Appends results to a manifest, one line each, on disk before `append` returns.

    One process writes one file. Use it as a context manager.

    Args:
        path: the manifest; made with its folder if it does not exist.
        header: what the results are made with.

    Attributes:
        entries: results that are in the file, by key; a resumed run skips these.

    Raises:
        ValueError: if the file exists and was made with another header, is no manifest, or is being written by another
            process, as far as its disk can lock files.
    """

    def __init__(self, path: Path, header: ManifestHeader) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        try:
            _lock(self._file, path)
            self.entries = load_results(path, header)
            whole = _whole_lines(path.read_bytes())
            self._file.truncate(len(whole))  # otherwise the next line would be appended to a torn one
            if not whole:
                self._write(_header_line(header))
        except BaseException:
            self._file.close()
            raise

    def append(self, entry: ManifestEntry) -> None:
        """Write one result."""
        self._write(_entry_line(entry))
        self.entries[entry.key] = entry

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        """One line in one call, so that a kill tears at most this line."""
        self._file.write(line)
        os.fsync(self._file.fileno())


def manifest_path(root: str | Path) -> Path:
    """Where the manifest of some shards lies: beside the first one, under the name that its folder's index gives.

    Args:
        root: a folder of shards, a glob pattern or a file.

    Raises:
        FileNotFoundError: if there are no shards.
        ValueError: if they are not local, or the index is damaged.
    """
    folder = find_shards(root)[0].parent
    index = load_index(folder)
    return folder / (MANIFEST_NAME if index is None else index.resolution)


def write_manifest(path: Path, header: ManifestHeader, entries: Iterable[ManifestEntry]) -> None:
    """Write a whole manifest at once, in the place of one that is there; see `ManifestWriter` for one that grows."""
    partial = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}")
    with partial.open("wb") as file:
        file.write(_header_line(header))
        file.writelines(map(_entry_line, entries))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def load_manifest(path: Path) -> dict[str, ManifestEntry]:
    """Read the results of a manifest, by key; raises FileNotFoundError without one, else as `parse_manifest`."""
    return parse_manifest(path.read_bytes(), str(path))


def parse_manifest(data: bytes, where: str) -> dict[str, ManifestEntry]:
    """Results by key from the content of a manifest that messages call `where`.

    Raises:
        ValueError: if it is no manifest, or a line of it is broken; names the line.
    """
    return _parse(_whole_lines(data), where)[1]


def load_results(path: Path, header: ManifestHeader) -> dict[str, ManifestEntry]:
    """Read the results of a manifest that may have been begun; none if there is no file, or no whole line in it.

    Raises:
        ValueError: if it was made with another header, or as in `load_manifest`.
    """
    try:
        whole = _whole_lines(path.read_bytes())
    except FileNotFoundError:
        return {}
    if not whole:
        return {}
    found, entries = _parse(whole, path)
    if found != _parse_header(json.loads(_header_line(header))):  # as it would be read back
        raise ValueError(
            f"The manifest {path} was made with {found}, not with {header}: name another file, or remove this one."
        )
    return entries


def load_header(path: Path) -> ManifestHeader:
    """Read what a manifest was made with; errors as in `load_manifest`."""
    return _parse(_whole_lines(path.read_bytes()), path)[0]


def _whole_lines(data: bytes) -> bytes:
    """The data without a torn last line."""
    return data[: data.rfind(b"\n") + 1]


def _parse(data: bytes, path: Path | str) -> tuple[ManifestHeader, dict[str, ManifestEntry]]:
    """Header and results; the data ends with a line end or is empty."""
    lines = data.splitlines()
    if not lines:
        raise ValueError(f"The manifest {path} has no header line: remove it and select resolutions again.")
    header: ManifestHeader | None = None
    entries: dict[str, ManifestEntry] = {}
    for number, line in enumerate(lines, 1):
        try:
            if header is None:
                header = _parse_header(json.loads(line))
            else:
                entry = _parse_entry(json.loads(line))
                entries[entry.key] = entry
        except (ValueError, TypeError, KeyError, ArithmeticError) as error:
            what = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"Line {number} of the manifest {path} is broken ({what}): repair or remove it."
            ) from error
    assert header is not None  # there is a first line
    return header, entries


def _parse_header(line: dict[str, Any]) -> ManifestHeader:
    if line["schema"] != SCHEMA:
        raise ValueError(f"schema is {line['schema']!r}, but this version reads {SCHEMA}")
    return ManifestHeader(str(line["policy"]), tuple(int(level) for level in line["ladder"]), dict(line["details"]))


def _parse_entry(line: dict[str, Any]) -> ManifestEntry:
    key, tokens = line["key"], line["view_tokens"]
    if not isinstance(key, str) or not (tokens is None or type(tokens) is int):
        raise TypeError(f"key is {key!r} and view_tokens is {tokens!r}, but text and a whole number or null are needed")
    answers, right = line.get("answers", {}), line.get("right", [])
    if not isinstance(answers, dict) or not all(answer is None or type(answer) is str for answer in answers.values()):
        raise TypeError(f"answers is {answers!r}, but an object of texts is needed")
    if not isinstance(right, list):
        raise TypeError(f"right is {right!r}, but a list of names is needed")
    return ManifestEntry(key, SelectionStatus(line["status"]), tokens, answers, frozenset(right))


def _header_line(header: ManifestHeader) -> bytes:
    line = {"schema": SCHEMA, "policy": header.policy, "ladder": header.ladder, "details": dict(header.details)}
    return _line(line)


def _entry_line(entry: ManifestEntry) -> bytes:
    line: dict[str, Any] = {"key": entry.key, "view_tokens": entry.view_tokens, "status": entry.status.value}
    if entry.answers:
        names = sorted(entry.answers, key=answer_order)
        line["answers"] = {name: entry.answers[name] for name in names}
        line["right"] = [name for name in names if name in entry.right]
    return _line(line)


def answer_order(name: str) -> tuple[int, int]:
    """Sorts the names of answers: the original, the views from large to small, the text alone."""
    return (1, -int(name)) if name.isdecimal() else (0 if name == ORIGINAL else 2, 0)


def _line(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _lock(file: BinaryIO, path: Path) -> None:
    """Take a file for this process alone, until it is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(f"The manifest {path} is being written by another process: wait for it, or end it.") from error
    except OSError as error:  # some disks of clusters cannot: two writers would only do the same work twice
        logger.warning("The disk of %s cannot lock files (%s): see that no other process writes it.", path, error)
