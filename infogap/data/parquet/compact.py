"""Thrift's compact protocol, in which headers of parquet files are written.

It is described in ``doc/specs/thrift-compact-protocol.md`` of https://github.com/apache/thrift.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from infogap.data.parquet.errors import PageError

DEPTH: Final = 16
"""Structs and lists that may stand in each other: the format has about this many, and damage could have millions."""

COMPACT_TRUE: Final = 1
COMPACT_FALSE: Final = 2
COMPACT_BYTE: Final = 3
COMPACT_INTEGERS: Final = (4, 5, 6)
COMPACT_DOUBLE: Final = 7
COMPACT_BINARY: Final = 8
COMPACT_LIST: Final = 9
COMPACT_STRUCT: Final = 12
"""Types of the compact protocol, as they stand in the header of a field; parquet has no sets and maps."""


def number_of(fields: Mapping[int, Any], field: int) -> int:
    """A field that counts something.

    Raises:
        PageError: if it is not there, or negative.
    """
    value = fields.get(field)
    if type(value) is not int or value < 0:
        raise PageError("a header lacks a number")
    return value


class CompactReader:
    """Reads a struct of Thrift's compact protocol.

    Args:
        data: bytes in which it stands.
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Fields by their numbers: integers, truth values, bytes, structs and lists; others are an error.

        Args:
            depth: how many structs and lists it stands in.

        Raises:
            EOFError: if the bytes end before the struct does.
            PageError: if it is not one of a parquet file.
        """
        fields: dict[int, Any] = {}
        number = 0
        while head := self._take(1)[0]:
            number = number + (head >> 4) if head >> 4 else self._signed()
            fields[number] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (COMPACT_TRUE, COMPACT_FALSE):
            return kind == COMPACT_TRUE
        if kind in COMPACT_INTEGERS:
            return self._signed()
        if kind == COMPACT_STRUCT and depth < DEPTH:
            return self.struct(depth + 1)
        if kind == COMPACT_LIST and depth < DEPTH:
            return self._list(depth + 1)
        if kind == COMPACT_BINARY:
            return self._take(self._varint())
        if kind in (COMPACT_BYTE, COMPACT_DOUBLE):
            return self._take(1 if kind == COMPACT_BYTE else 8)
        raise PageError(f"a header has a field of the type {kind}")

    def _list(self, depth: int) -> list[Any]:
        head = self._take(1)[0]
        size, kind = head >> 4, head & 15
        if size == 15:
            size = self._varint()
        if kind in (COMPACT_TRUE, COMPACT_FALSE):
            return [value == COMPACT_TRUE for value in self._take(size)]
        return [self._value(kind, depth) for _ in range(size)]  # each takes at least a byte, so this ends

    def _signed(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def _varint(self) -> int:
        value, self.place = read_varint(self.data, self.place)
        return value

    def _take(self, size: int) -> bytes:
        piece = self.data[self.place : self.place + size]
        if len(piece) < size:
            raise EOFError
        self.place += size
        return piece


def read_varint(data: bytes | bytearray, place: int) -> tuple[int, int]:
    """A number of up to 64 bits in groups of seven, the lowest first, and the place behind it.

    Raises:
        EOFError: if the bytes end within it.
        PageError: if it is longer.
    """
    value = 0
    for shift in range(0, 64, 7):
        if place >= len(data):
            raise EOFError
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise PageError("a number is too long")
