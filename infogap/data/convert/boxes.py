"""Boxes around the evidence, as training sets write them."""

from __future__ import annotations

from typing import Any

from infogap.data.convert.faults import DropError, DropReason
from infogap.geometry import Box, NestedBoxes, Size


def read_chains(value: Any) -> tuple[NestedBoxes, ...]:
    """Evidence as docs/shard_format.md has it, or a flat list of boxes, each of which is a chain of its own.

    Args:
        value: a list of chains, which are lists of boxes [x1, y1, x2, y2], the innermost first; a list of boxes; or
            None.

    Raises:
        DropError: if it is something else.
    """
    if value is None:
        return ()
    if not isinstance(value, list):
        raise DropError(DropReason.BAD_BOXES, f"the boxes {value!r:.80} are no list, correct them")
    return tuple(_chain(entry) for entry in value)


def read_box(value: Any) -> Box:
    """A box of four numbers [x1, y1, x2, y2].

    Raises:
        DropError: if it is something else, or empty.
    """
    x1, y1, x2, y2 = four_numbers(value)
    try:
        return Box(x1, y1, x2, y2)
    except ValueError as error:
        raise _bad_box(error) from error


def four_numbers(value: Any) -> tuple[float, float, float, float]:
    """What a data set has for a box, whatever the four numbers mean to it.

    Raises:
        DropError: if it is something else, or one of them is too large.
    """
    if not _is_box(value):
        raise DropError(DropReason.BAD_BOXES, f"the box {value!r:.80} is no list of four numbers, correct it")
    try:
        first, second, third, fourth = map(float, value)
    except OverflowError as error:
        raise _bad_box(error) from error
    return first, second, third, fourth


def clamped(boxes: tuple[NestedBoxes, ...], size: Size) -> tuple[NestedBoxes, ...]:
    """The parts of boxes that lie inside an image.

    Args:
        boxes: chains of boxes, in pixels of the original.
        size: size of the original, in pixels.

    Raises:
        DropError: if nothing of a box does.
    """
    try:
        return tuple(tuple(box.clamp(size) for box in chain) for chain in boxes)
    except ValueError as error:
        raise _bad_box(error) from error


def _chain(entry: Any) -> NestedBoxes:
    if _is_box(entry):
        return (read_box(entry),)
    if not isinstance(entry, list) or not entry:
        fault = f"the entry {entry!r:.80} of the boxes is neither a box nor a list of boxes, correct it"
        raise DropError(DropReason.BAD_BOXES, fault)
    return tuple(read_box(box) for box in entry)


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(type(number) in (int, float) for number in value)


def _bad_box(error: Exception) -> DropError:
    text = str(error).rstrip(".")
    return DropError(DropReason.BAD_BOXES, f"a box cannot be used, {text[:1].lower()}{text[1:]}")
