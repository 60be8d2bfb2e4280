"""Large values of a parquet column, one at a time: nothing but the values of one row are whole in memory.

pyarrow unpacks a page at once, and writers put up to 1024 values into a page, or into the dictionary that stands in
front of the pages, before they look at its size. With an image a row that is gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from infogap.data.parquet.errors import PageError
from infogap.data.parquet.layout import Entry
from infogap.data.parquet.pages import PageKind
from infogap.data.parquet.values import DICTIONARY_ENCODINGS, Chunk, Dictionary, OpenPage, value_size

LIST_VALUES: Final = 1 << 20
"""Entries at most of the list in one row, so that a damaged count fills no memory."""


class LeafReader:
    """Reads the rows of one column in a row group, in order.

    Args:
        chunk: the column.

    Raises:
        PageError: if a page is damaged.
        UnboundedPageError: if it cannot be read value by value.
        OSError: if the file cannot be read or unpacked.
    """

    def __init__(self, chunk: Chunk) -> None:
        self._chunk = chunk
        self._pages = iter(chunk.pages)
        self._page: OpenPage | None = None
        self._dictionary: Dictionary | None = None
        self._places: Iterator[int] | None = None
        self._levels: Iterator[tuple[int, int]] = iter(())
        self._ahead: tuple[int, int] | None = None
        if chunk.pages and chunk.pages[0].kind == PageKind.DICTIONARY:
            self._dictionary = Dictionary(chunk, OpenPage(chunk, next(self._pages)))

    def begin(self, rows: int) -> None:
        """Go to the first row that is to be read.

        Args:
            rows: how many are passed over. Their values are not made, and of pages without the first row only levels
                are unpacked.
        """
        within = rows > 0
        while rows and self._open_page():
            assert self._page is not None
            begun = sum(repetition == 0 for repetition in self._page.repetitions())
            if begun > rows:
                break
            rows -= begun
            for definition in self._page.definitions() if self._places is not None else ():
                self._skip_value(definition)
            self._levels = iter(())
        self._advance()
        while within and self._ahead is not None and (rows or self._ahead[0]):
            rows -= self._ahead[0] == 0
            self._skip_value(self._ahead[1])
            self._advance()

    def row(self) -> Any:
        """The next row's value, after `begin`; see `Leaf.build`.

        Raises:
            PageError: if there is none, or the levels of the column do not make up rows.
        """
        entries: list[Entry] = []
        while True:
            if self._ahead is None:
                raise PageError("a column has too few rows")
            repetition, definition = self._ahead
            if bool(entries) != bool(repetition) or len(entries) > LIST_VALUES:
                raise PageError("a row of a column does not begin or end")
            entries.append((definition, self._value(definition)))
            self._advance()
            if self._ahead is None or not self._ahead[0]:
                return self._chunk.leaf.build(entries)

    def close(self) -> None:
        """Remove temporary files."""
        if self._dictionary is not None:
            self._dictionary.close()

    def _value(self, definition: int) -> bytes | str | None:
        if definition < self._chunk.leaf.definition:
            return None
        assert self._page is not None
        if self._places is None:
            stream = self._page.stream
            value = stream.read(value_size(stream))
        else:
            assert self._dictionary is not None
            value = self._dictionary.take(self._place(self._places))
        return str(value, "utf-8") if self._chunk.leaf.text else value

    def _skip_value(self, definition: int) -> None:
        if definition == self._chunk.leaf.definition and self._page is not None:
            if self._places is None:
                self._page.stream.skip(value_size(self._page.stream))
            elif self._dictionary is not None:
                self._dictionary.skip(self._place(self._places))

    def _place(self, places: Iterator[int]) -> int:
        place = next(places, None)
        if place is None:
            raise PageError("a page has too few values")
        return place

    def _advance(self) -> None:
        """Look at the next entry's levels, in the next page if this one is at its end; its value is not read yet."""
        self._ahead = next(self._levels, None)
        while self._ahead is None and self._open_page():
            self._ahead = next(self._levels, None)

    def _open_page(self) -> bool:
        page = next(self._pages, None)
        if page is None:
            return False
        self._page = OpenPage(self._chunk, page)
        self._levels = zip(self._page.repetitions(), self._page.definitions(), strict=True)
        self._places = None
        if page.encoding in DICTIONARY_ENCODINGS:
            if self._dictionary is None:
                raise PageError("a page refers to a dictionary that is not there")
            self._places = self._page.places()
        return True
