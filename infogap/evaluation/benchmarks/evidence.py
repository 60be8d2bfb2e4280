"""Boxes around the evidence, as benchmarks write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from infogap.data.images import HighResImage
from infogap.evaluation.benchmarks.tables import Record
from infogap.geometry import NESTED_TOLERANCE, Box, NestedBoxes

BoxForm = Literal["corners", "corner_and_size"]
"""What the four numbers of a box are: [x1, y1, x2, y2], or [x, y, width, height]."""


def read_evidence(
    record: Record, column: str, boxes: Any, form: BoxForm, image: HighResImage
) -> tuple[NestedBoxes, ...]:
    """The evidence of a row: for every box a chain of this one alone, since benchmarks nest none.

    Args:
        record: the row.
        column: where the boxes stand, for messages.
        boxes: lists of four numbers, in pixels of the original.
        form: what the numbers are.
        image: the original.

    Raises:
        RowError: if it is something else, or a box is empty or not inside the image.
    """
    if not isinstance(boxes, list):
        raise record.error(column, f"it holds {boxes!r:.80} where a list of boxes is needed, correct it")
    return tuple((_read_box(record, column, box, form, image),) for box in boxes)


def _read_box(record: Record, column: str, numbers: Any, form: BoxForm, image: HighResImage) -> Box:
    if not isinstance(numbers, Sequence) or len(numbers) != 4 or not all(type(n) in (int, float) for n in numbers):
        raise record.error(column, f"the box {numbers!r:.80} is no list of four numbers, correct it")
    x1, y1, x2, y2 = map(float, numbers)
    if form == "corner_and_size":
        x2, y2 = x1 + x2, y1 + y2
    try:
        box = Box(x1, y1, x2, y2)
    except ValueError as error:
        fault = str(error).rstrip(".")
        raise record.error(column, fault[0].lower() + fault[1:]) from error
    if not Box.whole(image.size).contains(box, NESTED_TOLERANCE):
        size = f"{image.size.width}x{image.size.height}"
        raise record.error(column, f"the box {box.as_tuple()} is not inside the image of {size} pixels, correct it")
    return box
