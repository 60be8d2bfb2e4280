"""Pages of a column in a parquet file: where they stand, how long they are, and how they are stored.

Only what reading values of variable length needs is taken from a page header; field numbers are those of
``parquet.thrift`` in https://github.com/apache/parquet-format.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from infogap.data.parquet.compact import CompactReader, number_of
from infogap.data.parquet.errors import PageError

LARGE_PAGE: Final = 1 << 25
"""Bytes of an unpacked page, 32 MiB, beyond which a column is read value by value. pyarrow holds such a page packed,
unpacked and as values: for three columns of pages up to there it takes about 300 MB, well below the gigabyte that
reading a file may take. Writers that look at the size of each value make pages of 1 MiB."""

HEADER_BYTES: Final = (1 << 12, 1 << 20)
"""Bytes in which a page header is looked for, first and at last: it takes about 30, and statistics that writers keep to
a few kilobytes."""


class PageKind(IntEnum):
    """Kinds of pages, ``PageType`` in the format."""

    DATA = 0
    INDEX = 1
    DICTIONARY = 2
    DATA_V2 = 3


class Encoding(IntEnum):
    """How values and levels are written, ``Encoding`` in the format."""

    PLAIN = 0
    PLAIN_DICTIONARY = 2
    RLE = 3
    BIT_PACKED = 4
    DELTA_BINARY_PACKED = 5
    DELTA_LENGTH_BYTE_ARRAY = 6
    DELTA_BYTE_ARRAY = 7
    RLE_DICTIONARY = 8
    BYTE_STREAM_SPLIT = 9
    ALP = 10


DETAILS: Final[Mapping[PageKind, int]] = {PageKind.DATA: 5, PageKind.DICTIONARY: 7, PageKind.DATA_V2: 8}
"""Field of a page header that holds what only this kind of page has."""


@dataclass(frozen=True)
class Page:
    """One page of a column.

    Attributes:
        kind: dictionary or data, in the first or the second version.
        start: offset in the file of what follows the header.
        packed: bytes from there on, as they are stored.
        unpacked: bytes that come out, levels included.
        values: entries, nulls included.
        encoding: how the values are written, by its number in `Encoding`.
        level_encodings: how repetition levels and definition levels are written.
        levels: bytes of repetition levels and of definition levels in front of the values, which the second version
            stores uncompressed; None in the first version, where they are compressed and say their lengths themselves.
        compressed: whether the values are; the second version may leave them as they are.
    """

    kind: PageKind
    start: int
    packed: int
    unpacked: int
    values: int
    encoding: int
    level_encodings: tuple[int, int]
    levels: tuple[int, int] | None
    compressed: bool


def scan_pages(file: io.FileIO, start: int, values: int) -> list[Page]:
    """Find the pages of a column in a row group from their headers alone.

    Args:
        file: the parquet file; its position is moved.
        start: offset of the first page.
        values: entries of the column in the row group, nulls included.

    Returns:
        The dictionary, if there is one, and the data pages in order.

    Raises:
        PageError: if a header is damaged, or the pages are not those of a column.
        OSError: if the file cannot be read.
    """
    pages: list[Page] = []
    end = file.seek(0, io.SEEK_END)
    while values > 0:
        fields, start = _read_header(file, start, end)
        packed = number_of(fields, 3)
        if start + packed > end:
            raise PageError("a page ends after the file")
        if fields.get(1) != PageKind.INDEX:
            page = _page(fields, start, packed)
            if page.kind == PageKind.DICTIONARY and pages:
                raise PageError("a dictionary stands between the pages")
            values -= page.values if page.kind != PageKind.DICTIONARY else 0
            pages.append(page)
        start += packed
    if values < 0:
        raise PageError("the pages of a column hold too many values")
    return pages


def _page(fields: Mapping[int, Any], start: int, packed: int) -> Page:
    if fields.get(1) not in DETAILS:
        raise PageError(f"a page is of the unknown kind {fields.get(1)!r}")
    kind = PageKind(fields[1])
    details = fields.get(DETAILS[kind])
    if not isinstance(details, dict):
        raise PageError("the header of a page lacks a part")
    encoding = number_of(details, 4 if kind == PageKind.DATA_V2 else 2)
    unpacked, levels, level_encodings = number_of(fields, 2), None, (int(Encoding.RLE), int(Encoding.RLE))
    if kind == PageKind.DATA_V2:
        levels = (number_of(details, 6), number_of(details, 5))
        if sum(levels) > min(packed, unpacked):
            raise PageError("the levels of a page are longer than the page")
    elif kind == PageKind.DATA:
        level_encodings = (number_of(details, 4), number_of(details, 3))
    compressed = details.get(7, True) is True or kind != PageKind.DATA_V2
    return Page(kind, start, packed, unpacked, number_of(details, 1), encoding, level_encodings, levels, compressed)


def _read_header(file: io.FileIO, start: int, end: int) -> tuple[Mapping[int, Any], int]:
    """The fields of a page header, and the offset behind it."""
    if not 0 <= start < end:
        raise PageError("a page begins after the end of the file")
    for size in HEADER_BYTES:
        file.seek(start)
        header = CompactReader(file.read(min(size, end - start)) or b"")
        try:
            return header.struct(), start + header.place
        except EOFError:
            continue
    raise PageError("the header of a page does not end")
