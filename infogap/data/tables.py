"""Rows of the tables that data sets are published as, one at a time: TSV, parquet, JSON lines and JSON lists.

Files hold gigabytes of images, so none but a JSON list is ever whole in memory. Of a parquet file it is one page of a
row group, packed and unpacked, and writers put up to 1024 rows into a page: of HR-Bench 8K the TSV needs far less.
Every record knows where it stands, so that whatever is wrong with it can be named.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from infogap.data.sample import CHAT_MARKUP

PARQUET_ROWS: Final = 8
"""Rows of a parquet file that are decoded at a time: an image of 8K fills megabytes."""

READ_BYTES: Final = 1 << 20
"""Bytes of a parquet file that are read at a time; without a bound pyarrow reads whole row groups."""


_HALF_CHARACTER: Final = re.compile(r"[\ud800-\udfff]")


class TableError(ValueError):
    """A file that cannot be read as a table; the message names it."""


class RowError(ValueError):
    """A fault of one row; the message names file, row and column."""


@dataclass(frozen=True)
class Record:
    """One row of a file, not interpreted.

    Attributes:
        file: the file.
        number: number of the row in it, from 1, a header not counted; None if the file is the row.
        fields: values by column.
        fault: why the row could not be taken apart; "" if it could.
    """

    file: Path
    number: int | None
    fields: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""

    @property
    def place(self) -> str:
        """Where it stands, such as "row 3 of vstar.tsv"."""
        return str(self.file) if self.number is None else f"row {self.number} of {self.file}"

    def error(self, column: str, fault: str) -> RowError:
        """The error that names this place and a column; the fault reads on from there, without a full stop."""
        place = self.place
        return RowError(f"{place[0].upper()}{place[1:]}, column {column!r}: {fault}.")

    def value(self, column: str) -> Any:
        """What stands in a column; None if nothing does.

        Raises:
            RowError: if the row could not be taken apart.
        """
        if self.fault:
            place = self.place
            raise RowError(f"{place[0].upper()}{place[1:]} {self.fault}.")
        return self.fields.get(column)

    def optional(self, column: str) -> str:
        """The text of a column without spaces around it, "" if there is none."""
        value = self.value(column)
        return "" if value is None or value != value else str(value).strip()  # NaN differs from itself

    def text(self, column: str) -> str:
        """The text of a column without spaces around it.

        Raises:
            RowError: if there is none, if it holds chat markup, which a policy would read as a turn of its own, or half
                a character, which JSON can write and no tokenizer reads.
        """
        text = self.optional(column)
        if not text:
            raise self.error(column, "it is empty, fill it in or remove the row")
        if CHAT_MARKUP in text:
            raise self.error(column, f"it holds {CHAT_MARKUP!r}, which would be read as chat markup, take it out")
        if _HALF_CHARACTER.search(text):
            raise self.error(column, "it holds half a character (a lone surrogate), correct it")
        return text


def find_parts(root: Path, patterns: Sequence[str], name: str) -> list[Path]:
    """The files of a data set in the order of their parts.

    Args:
        root: a file, which is taken as it is, or the folder that holds the files.
        patterns: globs below the folder; the first that matches anything counts, so that a folder that holds the same
            rows in two formats gives them once.
        name: of the data set, for messages.

    Raises:
        TableError: if there is none.
    """
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise TableError(f"The path {root} of {name} does not exist: give the file or folder as it was downloaded.")
    for pattern in patterns:
        if parts := sorted((path for path in root.glob(pattern) if path.is_file()), key=_natural_order):
            return parts
    raise TableError(
        f"The folder {root} holds no file of {name}: give the file, or a folder with {' or '.join(patterns)}."
    )


def read_tables(files: Sequence[Path], needed: Collection[str], wanted: Collection[str] = ()) -> Iterator[Record]:
    """Stream the rows of files, in order.

    Args:
        files: TSV, parquet, JSON lines or JSON lists, by their suffix.
        needed: columns that every file must have.
        wanted: columns that are read where they are; all others are left out.

    Raises:
        TableError: if a file is of another kind, cannot be read, or lacks a column.
    """
    for file in files:
        reader = READERS.get(file.suffix.lower())
        if reader is None:
            raise TableError(f"The file {file} is none of {', '.join(READERS)}: give one in its published format.")
        try:
            yield from reader(file, needed, wanted)
        except (OSError, csv.Error, UnicodeDecodeError) as error:
            raise _unreadable(file, error) from error


def _read_tsv(file: Path, needed: Collection[str], wanted: Collection[str]) -> Iterator[Record]:
    """Tab-separated values as pandas writes them: fields that hold tabs, quotes or line ends stand in quotes."""
    csv.field_size_limit(sys.maxsize)  # an image in base64 is longer than the default of 128 KiB
    with file.open(newline="", encoding="utf-8") as lines:
        reader = csv.reader(lines, delimiter="\t")
        header = next(reader, [])
        _check_columns(file, header, needed)
        for number, values in enumerate(filter(None, reader), 1):
            if len(values) != len(header):
                fault = f"has {len(values)} fields, but the header names {len(header)}: copy the file again"
                yield Record(file, number, fault=fault)
                continue
            fields = dict(zip(header, values, strict=True))
            yield Record(file, number, {name: fields[name] for name in (*needed, *wanted) if name in fields})


def _read_parquet(file: Path, needed: Collection[str], wanted: Collection[str]) -> Iterator[Record]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise TableError(f"Reading {file} needs pyarrow: pip install 'infogap[eval]'.") from error
    try:
        with parquet.ParquetFile(file, buffer_size=READ_BYTES, pre_buffer=False) as table:
            names = table.schema_arrow.names
            _check_columns(file, names, needed)
            columns = [name for name in names if name in needed or name in wanted]
            number = 0
            for batch in table.iter_batches(PARQUET_ROWS, columns=columns):
                for fields in batch.to_pylist():
                    number += 1
                    yield Record(file, number, fields)
    except pyarrow.ArrowException as error:
        raise _unreadable(file, error) from error


def _read_json_lines(file: Path, needed: Collection[str], wanted: Collection[str]) -> Iterator[Record]:
    with file.open("rb") as lines:
        checked = False
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            record = _json_record(file, number, line)
            if not record.fault and not checked:
                _check_columns(file, list(record.fields), needed)
                checked = True
            yield record


def _json_record(file: Path, number: int, line: bytes) -> Record:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Record(file, number, fault=f"is no JSON ({error}): copy the file again")
    return _object_record(file, number, fields)


def _read_json_list(file: Path, needed: Collection[str], wanted: Collection[str]) -> Iterator[Record]:
    """A list of objects, whole in memory: only for files that name their images, and do not hold them."""
    try:
        rows = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _unreadable(file, error) from error
    if not isinstance(rows, list):
        raise TableError(f"The file {file} holds a {type(rows).__name__}: a list of objects is needed.")
    records = [_object_record(file, number, row) for number, row in enumerate(rows, 1)]
    if first := next((record for record in records if not record.fault), None):
        _check_columns(file, list(first.fields), needed)
    yield from records


def _object_record(file: Path, number: int, row: object) -> Record:
    if not isinstance(row, dict):
        return Record(file, number, fault=f"is a {type(row).__name__}: an object with named fields is needed")
    return Record(file, number, row)


Reader = Callable[[Path, Collection[str], Collection[str]], Iterator[Record]]

READERS: Final[Mapping[str, Reader]] = {
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
    ".jsonl": _read_json_lines,
    ".json": _read_json_list,
}
"""What reads a file, by its suffix."""


def _check_columns(file: Path, found: Sequence[str], needed: Collection[str]) -> None:
    missing = [name for name in needed if name not in found]
    if missing:
        raise TableError(
            f"The file {file} lacks the columns {missing}, it has {list(found)}: give it as it was published."
        )


def _unreadable(file: Path, error: Exception) -> TableError:
    what = " ".join(str(error).split()) or type(error).__name__
    return TableError(f"The file {file} cannot be read ({what}): download it again.")


def _natural_order(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Parts 2 and 10 in this order, whether or not their numbers are filled up with zeros."""
    runs = re.split(r"(\d+)", path.as_posix())  # every second run is a number
    return [(int(run) if place % 2 else 0, run) for place, run in enumerate(runs)], str(path)
