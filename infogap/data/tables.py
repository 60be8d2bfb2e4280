"""Rows of the tables that data sets are published as, one at a time: TSV, parquet, JSON lines and JSON lists.

Files hold gigabytes of images, so none is ever whole in memory, nor a page of a parquet file, into which writers put up
to 1024 rows: it is one row, and a few megabytes that are read ahead. Every record knows where it stands, so that
whatever is wrong with it can be named.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from infogap.data.json_stream import NoListError, read_list
from infogap.data.parquet.errors import PageError, UnboundedPageError
from infogap.data.parquet.pages import LARGE_PAGE
from infogap.data.sample import CHAT_MARKUP

READ_BYTES: Final = 1 << 20
"""Bytes of a parquet file that are read at a time; without a bound pyarrow reads whole row groups."""

HALF_CHARACTER: Final = re.compile(r"[\ud800-\udfff]")
"""A lone surrogate, which JSON can write and no tokenizer reads."""


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
        if HALF_CHARACTER.search(text):
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
        found = [path for path in root.glob(pattern) if path.is_file()]
        # not what is hidden, as macOS's "._train.parquet" and unfinished conversions are
        if parts := [path for path in found if "/." not in f"/{path.relative_to(root).as_posix()}"]:
            return sorted(parts, key=_natural_order)
    raise TableError(
        f"The folder {root} holds no file of {name}: give the file, or a folder with {' or '.join(patterns)}."
    )


def read_tables(
    files: Sequence[Path], needed: Collection[str], wanted: Collection[str] = (), start: int = 0
) -> Iterator[Record]:
    """Stream the rows of files, in order.

    Args:
        files: TSV, parquet, JSON lines or JSON lists, by their suffix.
        needed: columns that every file must have.
        wanted: columns that are read where they are; all others are left out.
        start: rows to pass over, counted over all files. They are not taken apart, so a fault in them goes unnoticed.

    Raises:
        TableError: if a file is of another kind, cannot be read, or lacks a column.
    """
    for file in files:
        reader = READERS.get(file.suffix.lower())
        if reader is None:
            raise TableError(f"The file {file} is none of {', '.join(READERS)}: give one in its published format.")
        try:
            start -= yield from reader(file, needed, wanted, start)
        except (OSError, csv.Error, UnicodeDecodeError) as error:
            raise _unreadable(file, error) from error


def _read_tsv(file: Path, needed: Collection[str], wanted: Collection[str], start: int) -> Generator[Record, None, int]:
    """Tab-separated values as pandas writes them: fields that hold tabs, quotes or line ends stand in quotes."""
    csv.field_size_limit(sys.maxsize)  # an image in base64 is longer than the default of 128 KiB
    number = 0
    with file.open(newline="", encoding="utf-8-sig") as lines:  # Excel writes a byte order mark
        reader = csv.reader(lines, delimiter="\t")
        header = next(reader, [])
        _check_columns(file, header, needed)
        for number, values in enumerate(filter(None, reader), 1):
            if number <= start:
                continue
            if len(values) != len(header):
                fault = f"has {len(values)} fields, but the header names {len(header)}: copy the file again"
                yield Record(file, number, fault=fault)
                continue
            fields = dict(zip(header, values, strict=True))
            yield Record(file, number, {name: fields[name] for name in (*needed, *wanted) if name in fields})
    return min(number, start)


def read_parquet(
    file: Path, needed: Collection[str], wanted: Collection[str], start: int, large_page: int = LARGE_PAGE
) -> Generator[Record, None, int]:
    """Stream the rows of a parquet file.

    Args:
        file: the file.
        needed: columns that it must have.
        wanted: columns that are read if they are there.
        start: rows to pass over.
        large_page: bytes of an unpacked page beyond which a column is read value by value.

    Returns:
        How many rows were passed over.

    Raises:
        TableError: if pyarrow is missing, the file cannot be read, or lacks a column.
    """
    pyarrow, parquet = load_pyarrow(file)
    from infogap.data.parquet.rows import ParquetRows

    try:
        with parquet.ParquetFile(file, buffer_size=READ_BYTES, pre_buffer=False) as table:
            names = table.schema_arrow.names
            _check_columns(file, names, needed)
            columns = [name for name in names if name in needed or name in wanted]
            start = min(start, table.metadata.num_rows)
            for number, fields in enumerate(ParquetRows(file, table, large_page).read(columns, start), start + 1):
                yield Record(file, number, fields)
    except UnboundedPageError as error:
        remedy = "write it again with pyarrow's defaults, or with fewer rows in a row group"
        raise TableError(f"The file {file} cannot be read in bounded memory: {error}: {remedy}.") from error
    except (pyarrow.ArrowException, PageError) as error:
        raise _unreadable(file, error) from error
    return start


def load_pyarrow(file: Path) -> tuple[ModuleType, ModuleType]:
    """The modules `pyarrow` and `pyarrow.parquet`; a `TableError` that names the file if they are missing."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise TableError(f"Reading {file} needs pyarrow: pip install 'infogap[data]'.") from error
    return pyarrow, parquet


def _read_json_lines(
    file: Path, needed: Collection[str], wanted: Collection[str], start: int
) -> Generator[Record, None, int]:
    passed = 0
    with file.open("rb") as lines:
        checked = False
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            if passed < start:
                passed += 1
                continue
            record = _json_record(file, number, line)
            if not record.fault and not checked:
                _check_columns(file, list(record.fields), needed)
                checked = True
            yield record
    return passed


def _json_record(file: Path, number: int, line: bytes) -> Record:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Record(file, number, fault=f"is no JSON ({error}): copy the file again")
    return _object_record(file, number, fields)


def _read_json_list(
    file: Path, needed: Collection[str], wanted: Collection[str], start: int
) -> Generator[Record, None, int]:
    number, checked = 0, False
    try:
        for number, row in enumerate(read_list(file), 1):
            if number <= start:
                continue
            record = _object_record(file, number, row)
            if not record.fault and not checked:
                _check_columns(file, list(record.fields), needed)
                checked = True
            yield record
    except NoListError as error:
        raise TableError(f"The file {file} {error}: a list of objects is needed.") from error
    except json.JSONDecodeError as error:
        raise _unreadable(file, error) from error
    return min(number, start)


def _object_record(file: Path, number: int, row: object) -> Record:
    if not isinstance(row, dict):
        return Record(file, number, fault=f"is a {type(row).__name__}: an object with named fields is needed")
    return Record(file, number, row)


Reader = Callable[[Path, Collection[str], Collection[str], int], Generator[Record, None, int]]

READERS: Final[Mapping[str, Reader]] = {
    ".tsv": _read_tsv,
    ".parquet": read_parquet,
    ".jsonl": _read_json_lines,
    ".json": _read_json_list,
}
"""What reads a file, by its suffix, from a row on; it returns how many rows were passed over."""


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
