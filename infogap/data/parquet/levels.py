"""Small numbers of parquet pages, levels and places in a dictionary: runs of one value, mixed with packed bits."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Final

from infogap.data.parquet.compact import read_varint
from infogap.data.parquet.errors import PageError

GROUP: Final = 8
"""Values that are packed into bits together, by the format."""


def read_runs(data: bytes, width: int) -> Iterator[int]:
    """Unpack numbers one at a time, so that a run of billions takes no memory.

    Args:
        data: the numbers, in the format's hybrid of run lengths and packed bits, without a length in front.
        width: bits of a number, 0 to 32.

    Yields:
        The numbers; a last group of packed ones is filled up, so there may be more than were written.

    Raises:
        PageError: if a run is cut short.
    """
    place, size = 0, (width + 7) // 8
    mask = (1 << width) - 1
    while place < len(data):
        try:
            head, place = read_varint(data, place)
        except EOFError as error:
            raise PageError("a run of levels or places is cut short") from error
        packed, count = head & 1, head >> 1
        step = width if packed else size
        if place + (step * count if packed else step) > len(data):
            raise PageError("a run of levels or places is cut short")
        if packed:
            for start in range(place, place + step * count, step) if step else ():
                bits = int.from_bytes(data[start : start + step], "little")
                for shift in range(0, GROUP * width, width):
                    yield bits >> shift & mask
            yield from repeat(0, 0 if step else GROUP * count)
            place += step * count
        else:
            yield from repeat(int.from_bytes(data[place : place + step], "little"), count)
            place += step
