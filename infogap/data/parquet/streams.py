"""The bytes of a parquet page, unpacked as they are asked for: of a page of a gigabyte about three megabytes are held.

Snappy is unpacked here because no library does it piece by piece: parquet's snappy has no frames, and a decoder of it
wants the page whole. A compressed image is one literal of 64 KiB after the other, so there is next to nothing to do.
"""

from __future__ import annotations

import io
from typing import Any, Final, Protocol

import pyarrow

from infogap.data.parquet.compact import read_varint
from infogap.data.parquet.errors import PageError, UnboundedPageError

PIECE: Final = 1 << 18
"""Bytes that are read, and unpacked, at a time: few enough to stay in a processor's cache."""

WINDOW: Final = 1 << 16
"""Bytes back to which snappy may refer. Google's library, on which writers of parquet build, packs pieces of 64 KiB
that do not refer to each other."""

COPY: Final = 64
"""Longest copy of snappy."""

ELEMENT: Final = 5
"""Bytes of the longest element of snappy, the bytes of a literal not counted: a tag, and a length or an offset."""

SNAPPY_GAIN: Final = 22
"""Bytes at most that a byte of snappy unpacks to: a copy of 64 is written in 3."""

STREAMED: Final = ("UNCOMPRESSED", "SNAPPY", "GZIP", "ZSTD", "BROTLI")
"""Compressions, in pyarrow's words, of which pages are unpacked piece by piece."""


class _Source(Protocol):
    """Where bytes come from; fewer than were asked for only at its end."""

    def read(self, size: int) -> bytes:
        """The next bytes."""

    def skip(self, size: int) -> None:
        """Pass over the next bytes."""


class PageStream:
    """Unpacks a part of a page, from its beginning on.

    Args:
        file: the parquet file; its position is moved.
        start: offset of the part.
        packed: its bytes as stored.
        unpacked: bytes that come out.
        codec: its compression, one of `STREAMED`.

    Attributes:
        left: bytes that are still to come.

    Raises:
        PageError: if these lengths cannot be.
        OSError: if the file cannot be read.
    """

    def __init__(self, file: io.FileIO, start: int, packed: int, unpacked: int, codec: str) -> None:
        self.left = unpacked
        section = _Section(file, start, packed)
        self._source: _Source = section
        if codec == "SNAPPY":
            self._source = _Snappy(section, packed, unpacked)
        elif codec != "UNCOMPRESSED":
            self._source = _Packed(section, codec)
        elif packed != unpacked:
            raise PageError("a page is uncompressed, but of two lengths")

    def read(self, size: int) -> bytes:
        """The next bytes.

        Raises:
            PageError: if there are not so many.
            OSError: if they cannot be read or unpacked.
        """
        self._count(size)
        data = self._source.read(size)
        if len(data) != size:
            raise PageError("a page is cut short")
        return data

    def skip(self, size: int) -> None:
        """Pass over the next bytes, with the same errors."""
        self._count(size)
        self._source.skip(size)

    def _count(self, size: int) -> None:
        if size > self.left:
            raise PageError("a value is longer than its page")
        self.left -= size


class _Section(io.RawIOBase):
    """Bytes of a file from an offset on, no further than a length; several may share a file."""

    def __init__(self, file: io.FileIO, start: int, length: int) -> None:
        self._file, self._place, self._end = file, start, start + length

    def readable(self) -> bool:
        """That it can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes; fewer at the end."""
        left = self._end - self._place
        size = left if size < 0 else min(size, left)
        self._file.seek(self._place)
        data = self._file.read(size) or b""
        while len(data) < size and (more := self._file.read(size - len(data))):  # there may be less than was asked for
            data += more
        self._place += len(data)
        return data

    def readinto(self, target: Any) -> int:
        """The next bytes, put into a buffer; returns how many."""
        self._file.seek(self._place)
        count = self._file.readinto(memoryview(target)[: self._end - self._place]) or 0
        self._place += count
        return count

    def skip(self, size: int) -> None:
        """Pass over the next bytes."""
        self._place += size


class _Packed:
    """What pyarrow unpacks piece by piece."""

    def __init__(self, section: _Section, codec: str) -> None:
        self._stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(section, mode="r"), codec.lower())

    def read(self, size: int) -> bytes:
        """The next bytes; fewer at the end."""
        data: bytes = self._stream.read(size)  # room that a damaged length asks for in vain is given back untouched
        return data

    def skip(self, size: int) -> None:
        """Pass over the next bytes."""
        while size:
            piece = self._stream.read(min(size, PIECE))
            if not piece:
                raise PageError("a page is cut short")
            size -= len(piece)


class _Snappy:
    """Raw snappy, see its ``format_description.txt`` at https://github.com/google/snappy."""

    def __init__(self, section: _Section, packed: int, unpacked: int) -> None:
        if unpacked > SNAPPY_GAIN * packed:
            raise PageError("a page cannot be packed so well")
        self._section = section
        self._packed, self._place, self._end = bytearray(PIECE + ELEMENT), 0, 0
        self._view = memoryview(self._packed)
        self._out = bytearray(WINDOW + PIECE + COPY)  # the last bytes that were given out, and the next
        self._out_view = memoryview(self._out)
        self._given = self._made = 0
        self._literal = 0  # bytes of a literal that are still to come
        if not self._refill():
            raise PageError("a page is cut short")
        try:
            length, self._place = read_varint(self._packed[: self._end], 0)
        except EOFError as error:
            raise PageError("a page is cut short") from error
        if length != unpacked:
            raise PageError("a page unpacks to another length than its header says")

    def read(self, size: int) -> bytes:
        """The next bytes; fewer at the end."""
        whole = io.BytesIO()
        if size > PIECE:  # make room at once: to grow by and by copies what is there many times
            whole.seek(size - 1)
            whole.write(b"\0")
            whole.seek(0)
        while size and (piece := self._next(size)):
            whole.write(piece)
            size -= len(piece)
        return b"" if size else whole.getvalue()

    def skip(self, size: int) -> None:
        """Pass over the next bytes."""
        while size:
            piece = self._next(size)
            if not piece:
                raise PageError("a page is cut short")
            size -= len(piece)

    def _next(self, size: int) -> memoryview:
        """Up to this many bytes, none at the end; they hold until the next call."""
        if self._given == self._made:
            self._unpack()
        start, self._given = self._given, min(self._given + size, self._made)
        return self._out_view[start : self._given]

    def _refill(self) -> bool:
        """Move what is left to the front and read on; whether anything came."""
        rest = self._end - self._place
        self._packed[:rest] = self._packed[self._place : self._end]
        self._place, self._end = 0, rest
        while count := self._section.readinto(self._view[self._end : PIECE]):
            self._end += count
        return self._end > rest

    def _unpack(self) -> None:
        """Unpack about a piece behind the window."""
        kept = min(self._made, WINDOW)
        self._out[:kept] = self._out[self._made - kept : self._made]
        self._given = self._made = kept
        while self._made < kept + PIECE:
            if self._literal:
                if self._place == self._end and not self._refill():
                    raise PageError("a page is cut short")
                size = min(self._literal, self._end - self._place, kept + PIECE - self._made)
                self._out_view[self._made : self._made + size] = self._view[self._place : self._place + size]
                self._place += size
                self._made += size
                self._literal -= size
            elif self._end - self._place < ELEMENT and not self._refill() and self._place == self._end:
                return
            else:
                self._elements(kept + PIECE)

    def _elements(self, limit: int) -> None:
        """Unpack copies and literals that are there whole, and begin one that is not."""
        packed, place, out, made = self._packed, self._place, self._out, self._made
        view, out_view = self._view, self._out_view
        last = max(self._end - ELEMENT, place)
        while place <= last and made < limit:
            tag = packed[place]
            kind, length = tag & 3, (tag >> 2) + 1
            place += 1
            if kind == 0:
                if length > 60:
                    extra = length - 60
                    length = int.from_bytes(packed[place : place + extra], "little") + 1
                    place += extra
                if length > self._end - place or length > limit - made:
                    self._literal = length
                    break
                out_view[made : made + length] = view[place : place + length]
                place += length
            else:
                if kind == 1:
                    length, offset = (tag >> 2 & 7) + 4, tag >> 5 << 8 | packed[place]
                    place += 1
                else:
                    extra = 2 if kind == 2 else 4
                    offset = int.from_bytes(packed[place : place + extra], "little")
                    place += extra
                if not 0 < offset <= made:
                    raise _far_copy(offset)
                start = made - offset
                if offset >= length:
                    out[made : made + length] = out[start : start + length]
                else:  # it repeats what it has just written
                    out[made : made + length] = (out[start:made] * (length // offset + 1))[:length]
            made += length
        if place > self._end:
            raise PageError("a page is cut short")
        self._place, self._made = place, made


def _far_copy(offset: int) -> Exception:
    if offset > WINDOW:
        return UnboundedPageError(f"is packed by a snappy that refers {offset:,} bytes back")
    return PageError("a page refers to bytes before its beginning")
