"""JSON lists of any length, one entry at a time."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import IO, Any, Final

PIECE: Final = 1 << 20
"""Bytes that are read at a time, and at least before an entry that did not end is tried again."""

ENTRY_CHARACTERS: Final = 1 << 28
"""Characters of the longest entry: an image of 200 million pixels, in base64."""


NUMBER_PART: Final = 3
"""Characters behind a number that tell that it does not go on in the next piece: of "1e+" there is only "1" read."""

_SPACE: Final = re.compile(r"[ \t\n\r]*")


class NoListError(ValueError):
    """A file that holds something else than a list; the message says what."""


def read_list(file: Path) -> Iterator[Any]:
    """Decode the entries of a list.

    Args:
        file: JSON in UTF-8, or in UTF-16 or UTF-32 as `json.loads` reads it.

    Raises:
        NoListError: if it holds something else.
        json.JSONDecodeError: if it is no JSON that Python reads; entries before the fault have been given out.
        OSError: if the file cannot be read.
        UnicodeDecodeError: if it is no text.
    """
    with file.open("rb") as raw:
        text = _Text(raw)
        if (first := text.peek()) != "[":
            raise NoListError(f"holds a {'dict' if first == '{' else type(text.entry()).__name__}")
        text.take()
        if text.peek() == "]":
            text.take()
        else:
            yield from _entries(text)
        if text.peek():
            raise text.fault("Extra data")


def _entries(text: _Text) -> Iterator[Any]:
    while True:
        yield text.entry()
        mark = text.peek()
        if mark not in (",", "]"):
            raise text.fault("Expecting ',' delimiter")
        text.take()
        if mark == "]":
            return


class _Text:
    """The text of a file from a place on; what was taken is let go of."""

    def __init__(self, raw: IO[bytes]) -> None:
        first = raw.read(PIECE)
        encoding = json.detect_encoding(first)
        self._raw, self._decoder = raw, codecs.getincrementaldecoder(encoding)("surrogatepass")
        self._buffer = self._decoder.decode(first, final=not first)
        self._place = self._before = 0  # in the buffer, and the characters that were before the buffer
        self._ended = not first
        self._scan = json.JSONDecoder().raw_decode

    def peek(self) -> str:
        """The next character that is no white space, "" at the end."""
        while True:
            match = _SPACE.match(self._buffer, self._place)
            self._place = match.end() if match else self._place
            if self._place < len(self._buffer) or not self._read(PIECE):
                return self._buffer[self._place : self._place + 1]

    def take(self) -> None:
        """Step over this character."""
        self._place += 1

    def entry(self) -> Any:
        """Decode the value that begins here."""
        self.peek()
        while True:
            try:
                value, end = self._scan(self._buffer, self._place)
            except JSONDecodeError as error:
                fault = self.fault(error.msg, error.pos)
                if not self._read_on():
                    raise fault from error
                continue
            except (ValueError, RecursionError) as error:  # thousands of digits, or of lists in each other
                raise self.fault(str(error)) from error
            if end + NUMBER_PART <= len(self._buffer) or not self._read_on():
                self._place = end
                return value

    def fault(self, what: str, place: int | None = None) -> JSONDecodeError:
        """An error at a place in the buffer, or here; it tells the place in the file."""
        place = self._before + (self._place if place is None else place)
        error = JSONDecodeError(what, "", 0)
        error.args = (f"{what}: character {place}",)
        return error

    def _read_on(self) -> bool:
        """Read so much that entries of all lengths are tried only a few times; False if there is no more."""
        tried = len(self._buffer) - self._place
        return tried <= ENTRY_CHARACTERS and self._read(max(PIECE, tried))

    def _read(self, size: int) -> bool:
        """Let go of what was taken and read on; False at the end, where nothing moves."""
        if self._ended:
            return False
        data = self._raw.read(size)
        self._ended = not data
        more = self._decoder.decode(data, final=self._ended)
        if not self._ended:
            self._buffer = self._buffer[self._place :] + more
            self._before += self._place
            self._place = 0
        return not self._ended
