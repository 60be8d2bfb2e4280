"""The resolution manifest: which view of a sample is just too small to answer from (LFPC section 3).

A manifest is a JSON-lines file. Its first line is a header that says which policy and which ladder of resolutions it
was made with; each further line is the result for one sample. Lines are only ever appended, so a run that was killed
goes on where it stopped: a last line without its line end was torn and is dropped. If a key occurs twice the last
line wins. The format is described in docs/shard_format.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SCHEMA = 1
MANIFEST_NAME = "resolution.jsonl"
"""File name of a manifest that lies beside its shards."""


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

    Raises:
        ValueError: if status and view_tokens contradict each other.
    """

    key: str
    status: SelectionStatus
    view_tokens: int | None = None

    def __post_init__(self) -> None:
        """Refuse a selected view without a size, and a size without a selected view."""
        selected = self.status is SelectionStatus.SELECTED
        if selected != (self.view_tokens is not None) or (self.view_tokens is not None and self.view_tokens < 1):
            raise ValueError(
                f"Sample {self.key!r} has the status {self.status} with view_tokens {self.view_tokens}: give a "
                "positive number with 'selected' and none with any other status."
            )


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
        ValueError: if the file exists and was made with another header, or is no manifest.
    """

    def __init__(self, path: Path, header: ManifestHeader) -> None:
        self.entries: dict[str, ManifestEntry] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = _whole_lines(path.read_bytes()) if path.exists() else b""
        line = {"schema": SCHEMA, "policy": header.policy, "ladder": header.ladder, "details": dict(header.details)}
        if whole:
            found, self.entries = _parse(whole, path)
            if found != _parse_header(json.loads(json.dumps(line))):  # as it would be read back
                raise ValueError(
                    f"The manifest {path} was made with {found}, not with {header}: name another file, or remove this "
                    "one."
                )
            os.truncate(path, len(whole))  # otherwise the next line would be appended to the torn one
        self._file = path.open("ab" if whole else "wb", buffering=0)
        if not whole:
            self._write(line)

    def append(self, entry: ManifestEntry) -> None:
        """Write one result."""
        self._write({"key": entry.key, "view_tokens": entry.view_tokens, "status": entry.status.value})
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

    def _write(self, line: Mapping[str, Any]) -> None:
        """One line in one call, so that a kill tears at most this line."""
        self._file.write((json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode())
        os.fsync(self._file.fileno())


def load_manifest(path: Path) -> dict[str, ManifestEntry]:
    """Read the results of a manifest, by key.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no manifest, or a line of it is broken; names the line.
    """
    return _parse(_whole_lines(path.read_bytes()), path)[1]


def load_header(path: Path) -> ManifestHeader:
    """Read what a manifest was made with; errors as in `load_manifest`."""
    return _parse(_whole_lines(path.read_bytes()), path)[0]


def _whole_lines(data: bytes) -> bytes:
    """The data without a torn last line."""
    return data[: data.rfind(b"\n") + 1]


def _parse(data: bytes, path: Path) -> tuple[ManifestHeader, dict[str, ManifestEntry]]:
    """Header and results; the data ends with a line end or is empty."""
    lines = data.splitlines()
    if not lines:
        raise ValueError(
            f"The manifest {path} has no header line: it is empty; remove it and select resolutions again."
        )
    header: ManifestHeader | None = None
    entries: dict[str, ManifestEntry] = {}
    for number, line in enumerate(lines, 1):
        try:
            if header is None:
                header = _parse_header(json.loads(line))
            else:
                entry = _parse_entry(json.loads(line))
                entries[entry.key] = entry
        except (ValueError, TypeError, KeyError) as error:
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
    return ManifestEntry(key, SelectionStatus(line["status"]), tokens)
