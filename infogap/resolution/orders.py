"""In which order the levels of the ladder are asked: which level is next, and which one was found."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Search = Generator[int, bool, int | None]
"""Yields the level that it needs next, is sent whether the answer from it diverges, returns the selected level."""

OrderName = Literal["descend", "together", "bisect"]


def descend(levels: Sequence[int]) -> Search:
    """The first level, from the top, whose answer diverges (LFPC section 3)."""
    for level in levels:
        diverges = yield level
        if diverges:
            return level
    return None


def bisect(levels: Sequence[int]) -> Search:
    """The first level whose answer diverges, if all smaller ones diverge as well; log2 of the levels are asked.

    That is an assumption: an answer that was lost at one level may be there again, by luck, at a smaller one. Then this
    returns a level whose answer diverges while that of the next larger one does not, but which need not be the first.
    If the smallest level does not diverge, but a larger one does, it may also find none.
    """
    low, high = 0, len(levels)  # the level that is looked for has one of these places, or is none
    while low < high:
        middle = (low + high) // 2
        diverges = yield levels[middle]
        low, high = (low, middle) if diverges else (middle + 1, high)
    return levels[low] if low < len(levels) else None


@dataclass(frozen=True)
class Order:
    """How the levels of a sample are asked.

    Attributes:
        search: which level is needed next.
        all_at_once: ask all levels beside the original, in one batch, before it is known which ones are needed.
    """

    search: Callable[[Sequence[int]], Search]
    all_at_once: bool = False


ORDERS: Final[Mapping[OrderName, Order]] = {
    "descend": Order(descend),
    "together": Order(descend, all_at_once=True),
    "bisect": Order(bisect),
}
