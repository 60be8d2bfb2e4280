"""Boxes around the evidence, as benchmarks write them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

from infogap.data.images import HighResImage
from infogap.data.tables import Record
from infogap.geometry import Box, NestedBoxes

logger = logging.getLogger(__name__)

BoxForm = Literal["corners", "corner_and_size"]
"""What the four numbers of a box are: [x1, y1, x2, y2], or [x, y, width, height]."""


def read_evidence(
    record: Record, column: str, boxes: Any, form: BoxForm, image: HighResImage
) -> tuple[NestedBoxes, ...]:
    """The evidence of a row: for every box a chain of this one alone, since benchmarks nest none.

    Boxes are clamped to the image. If one is empty or lies outside, the row has no evidence and can still be asked.

    Args:
        record: the row.
        column: where the boxes stand, for messages.
        boxes: lists of four numbers, in pixels of the original.
        form: what the numbers are.
        image: the original.

    Raises:
        RowError: if it is something else.
    """
    if not isinstance(boxes, list):
        raise record.error(column, f"it holds {boxes!r:.80} where a list of boxes is needed, correct it")
    found = [_read_box(record, column, box, form, image) for box in boxes]
    # one that is missing makes the others half of the evidence
    return () if None in found else tuple((box,) for box in found if box is not None)


def _read_box(record: Record, column: str, numbers: Any, form: BoxForm, image: HighResImage) -> Box | None:
    """A box, clamped to the image; None, with a warning, if nothing of it lies there: most arms need no box."""
    if not isinstance(numbers, Sequence) or len(numbers) != 4 or not all(type(n) in (int, float) for n in numbers):
        raise record.error(column, f"the box {numbers!r:.80} is no list of four numbers, correct it")
    x1, y1, x2, y2 = map(float, numbers)
    if form == "corner_and_size":
        x2, y2 = x1 + x2, y1 + y2
    try:
        return Box(x1, y1, x2, y2).clamp(image.size)
    except ValueError as error:
        fault = str(error).rstrip(".")
        logger.warning("%s", record.error(column, f"{fault[0].lower()}{fault[1:]}, its row is asked without boxes"))
        return None
