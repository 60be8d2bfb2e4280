"""What stands in one page of a parquet column: levels, values, or places in the dictionary, and the dictionary."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from infogap.data.parquet.errors import PageError, UnboundedPageError
from infogap.data.parquet.layout import Leaf
from infogap.data.parquet.levels import read_runs
from infogap.data.parquet.pages import Encoding, Page, PageKind
from infogap.data.parquet.streams import PageStream

DICTIONARY_ENCODINGS: Final = (Encoding.PLAIN_DICTIONARY, Encoding.RLE_DICTIONARY)
"""Encodings of pages that refer to a dictionary; the first is the older name of the second."""

VALUE_BYTES: Final = 1 << 28
"""Bytes of the longest value: no JPEG of the 200 million pixels that an image may have is longer."""

NUMBERS_BYTES: Final = 1 << 25
"""Bytes at most of the levels of a page, and of a page of places in a dictionary: those of millions of rows."""

DICTIONARY_VALUES: Final = 1 << 20
"""Values at most of a dictionary: where they are large enough to be read here, writers put 1024 into one."""

KEPT_BYTES: Final = 1 << 26
"""Bytes of values that occur again which are held in memory; beyond, they go to a temporary file."""


@dataclass(frozen=True)
class Chunk:
    """A column within a row group.

    Attributes:
        file: the parquet file, without a buffer; its position is moved.
        leaf: what the column holds.
        codec: its compression.
        pages: its pages in order, a dictionary first if there is one.
    """

    file: io.FileIO
    leaf: Leaf
    codec: str
    pages: Sequence[Page]


class OpenPage:
    """A page, with its levels read and its values to come.

    Args:
        chunk: the column that it is of.
        page: the page.

    Attributes:
        page: the page.
        stream: what follows the levels.

    Raises:
        PageError: if it is damaged.
        UnboundedPageError: if its levels are written in another way, or too long to be held.
        OSError: if it cannot be read or unpacked.
    """

    def __init__(self, chunk: Chunk, page: Page) -> None:
        if page.encoding not in (Encoding.PLAIN, *DICTIONARY_ENCODINGS):
            raise PageError(f"the values of a page have the unknown encoding {page.encoding}")
        self.page, self._leaf = page, chunk.leaf
        before = sum(page.levels or ())
        codec = chunk.codec if page.compressed else "UNCOMPRESSED"
        packed, unpacked = page.packed - before, page.unpacked - before
        self.stream = PageStream(chunk.file, page.start + before, packed, unpacked, codec)
        if page.kind == PageKind.DICTIONARY:
            return
        if page.levels is None:
            self._repetitions = self._levels(self._leaf.repetition, page.level_encodings[0])
            self._definitions = self._levels(self._leaf.definition, page.level_encodings[1])
        else:
            _check_size(max(page.levels))
            front = PageStream(chunk.file, page.start, before, before, "UNCOMPRESSED")
            self._repetitions, self._definitions = (front.read(size) for size in page.levels)

    def _levels(self, highest: int, encoding: int) -> bytes:
        """Levels of the first version, which say how long they are; there are none if only zero is possible."""
        if not highest:
            return b""
        if encoding != Encoding.RLE:
            raise UnboundedPageError("has levels that are not run-length encoded, as none are since 2013")
        size = int.from_bytes(self.stream.read(4), "little")
        _check_size(size)
        return self.stream.read(size)

    def repetitions(self) -> Iterator[int]:
        """For each entry 0 if it begins a row, 1 if it continues a list."""
        return self._exactly(self._repetitions, self._leaf.repetition)

    def definitions(self) -> Iterator[int]:
        """For each entry how much of the way down to a value there is."""
        return self._exactly(self._definitions, self._leaf.definition)

    def places(self) -> Iterator[int]:
        """For each value its place in the dictionary.

        Raises:
            PageError: if the places are written wider than 32 bits.
        """
        _check_size(self.stream.left)
        if not self.stream.left:
            return iter(())
        width = self.stream.read(1)[0]
        if width > 32:
            raise PageError("the places in a dictionary are too wide")
        return read_runs(self.stream.read(self.stream.left), width)

    def _exactly(self, data: bytes, highest: int) -> Iterator[int]:
        count = 0
        for level in islice(read_runs(data, highest.bit_length()), self.page.values) if highest else ():
            if level > highest:
                raise PageError("a level is too high")
            count += 1
            yield level
        for _ in range(count, self.page.values):
            if highest:
                raise PageError("a page has too few levels")
            yield 0


class Dictionary:
    """Values that pages refer to by their places, read in order and kept only if they are needed again.

    Writers number values as they come, so the pages ask for one after the other.

    Args:
        chunk: the column.
        opened: its first page, which is the dictionary.

    Raises:
        PageError: if a page refers to a place that is not there, or is damaged.
        UnboundedPageError: if it has too many values for a dictionary of large ones.
        OSError: if a page cannot be read or unpacked.
    """

    def __init__(self, chunk: Chunk, opened: OpenPage) -> None:
        if opened.page.values > min(DICTIONARY_VALUES, opened.stream.left // 4):
            raise UnboundedPageError(f"has a dictionary of {opened.page.values:,} values")
        self._stream, self._next = opened.stream, 0
        self._uses = [0] * opened.page.values
        self._kept: dict[int, tuple[int, int]] = {}
        for page in chunk.pages[1:]:
            if page.encoding in DICTIONARY_ENCODINGS:
                self._count(chunk, page)
        self._store = tempfile.SpooledTemporaryFile(KEPT_BYTES)  # noqa: SIM115, closed by close()
        self._end = 0

    def _count(self, chunk: Chunk, page: Page) -> None:
        opened = OpenPage(chunk, page)
        values = sum(level == chunk.leaf.definition for level in opened.definitions())
        try:
            for place in islice(opened.places(), values):
                self._uses[place] += 1
        except IndexError as error:
            raise PageError("a page refers to more values than its dictionary has") from error

    def take(self, place: int) -> bytes:
        """The value of a place."""
        self.skip(place)
        if place in self._kept:
            start, size = self._kept[place]
            self._store.seek(start)
            return self._store.read(size)
        while True:
            self._next += 1
            size = value_size(self._stream)
            if self._next - 1 == place:
                value = self._stream.read(size)
                if self._uses[place]:
                    self._keep(place, value)
                return value
            if self._uses[self._next - 1]:
                self._keep(self._next - 1, self._stream.read(size))
            else:
                self._stream.skip(size)

    def skip(self, place: int) -> None:
        """Note that a page refers to a place, and do not read it."""
        self._uses[place] -= 1

    def _keep(self, place: int, value: bytes) -> None:
        self._kept[place] = (self._end, len(value))
        self._store.seek(self._end)
        self._store.write(value)
        self._end += len(value)

    def close(self) -> None:
        """Remove what was kept."""
        self._store.close()


def value_size(stream: PageStream) -> int:
    """Read how long the value is that comes next.

    Raises:
        PageError: if it is longer than what is left.
        UnboundedPageError: if it is too long to be held.
    """
    size = int.from_bytes(stream.read(4), "little")
    if size > stream.left:
        raise PageError("a value is longer than its page")
    if size > VALUE_BYTES:
        raise UnboundedPageError(f"has a value of {size:,} bytes")
    return size


def _check_size(size: int) -> None:
    if size > NUMBERS_BYTES:
        raise UnboundedPageError(f"has levels or places of {size:,} bytes in a page")
