"""Row groups and columns as the footer of a parquet file lists them.

pyarrow has read the footer too. But a damaged one ends the process when pyarrow 26 is asked for the columns of a row
group, because what its C++ part throws there is not caught.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from infogap.data.parquet.compact import CompactReader, number_of
from infogap.data.parquet.errors import PageError

TAIL: Final = 8
"""Bytes behind the footer: its length in four, and the format's mark."""

BYTE_ARRAY: Final = 6
"""Values of any length, in ``Type`` of the format."""

CODECS: Final = ("UNCOMPRESSED", "SNAPPY", "GZIP", "LZO", "BROTLI", "LZ4", "ZSTD", "LZ4_RAW")
"""``CompressionCodec`` of the format, by number."""


@dataclass(frozen=True)
class Column:
    """A column in a row group.

    Attributes:
        kind: of its values, such as `BYTE_ARRAY`.
        codec: its compression, one of `CODECS`.
        encodings: how its values and levels are written, ``Encoding`` in the format.
        values: entries, nulls included.
        unpacked: bytes of all its pages, unpacked.
        start: offset of its first page.
        elsewhere: whether its pages are in another file.
    """

    kind: int
    codec: str
    encodings: frozenset[int]
    values: int
    unpacked: int
    start: int
    elsewhere: bool


@dataclass(frozen=True)
class RowGroup:
    """Rows that are stored together, column by column.

    Attributes:
        rows: how many.
        columns: all columns, in the order of the schema.
    """

    rows: int
    columns: tuple[Column, ...]


def read_footer(file: io.FileIO) -> list[RowGroup]:
    """Read the row groups of a file.

    Args:
        file: the parquet file, which begins and ends as one; its position is moved.

    Raises:
        PageError: if the footer is damaged.
        OSError: if the file cannot be read.
    """
    end = file.seek(0, io.SEEK_END) - TAIL
    file.seek(max(end, 0))
    size = int.from_bytes((file.read(4) or b""), "little")
    if not 0 < size <= end:
        raise PageError("the footer is longer than the file")
    file.seek(end - size)
    try:
        fields = CompactReader(file.read(size) or b"").struct()
    except EOFError as error:
        raise PageError("the footer is cut short") from error
    return [_row_group(group) for group in _structs(fields, 4)]


def _row_group(fields: Mapping[int, Any]) -> RowGroup:
    return RowGroup(number_of(fields, 3), tuple(_column(column) for column in _structs(fields, 1)))


def _column(fields: Mapping[int, Any]) -> Column:
    about, codec = fields.get(3), -1
    if isinstance(about, dict):
        codec = number_of(about, 4)
    encodings = about.get(2) if isinstance(about, dict) else None
    if not isinstance(about, dict) or codec >= len(CODECS) or not isinstance(encodings, list):
        raise PageError("the footer does not describe a column")
    first = number_of(about, 9)
    if about.get(11):  # some write 0 for no dictionary
        first = min(first, number_of(about, 11))
    return Column(
        number_of(about, 1),
        CODECS[codec],
        frozenset(encoding for encoding in encodings if isinstance(encoding, int)),
        number_of(about, 5),
        number_of(about, 6),
        first,
        bool(fields.get(1)),
    )


def _structs(fields: Mapping[int, Any], field: int) -> list[Mapping[int, Any]]:
    found = fields.get(field)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise PageError("the footer lacks a list")
    return found
