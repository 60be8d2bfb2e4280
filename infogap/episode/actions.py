"""What a policy can do in a turn, and how a call is read from JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Final

from infogap.geometry import Frame, FramedBox

TOOL_NAME: Final = "image_zoom_in_tool"


@dataclass(frozen=True)
class CropCall:
    """A call that can be read; whether its box lies in the image is for the environment to say."""

    box: FramedBox


@dataclass(frozen=True)
class Answer:
    """A final answer, stripped of surrounding whitespace; it may be empty, and is then an answer that is wrong."""

    text: str


@dataclass(frozen=True)
class BadCall:
    """A call that cannot be read.

    Attributes:
        error: one sentence for the policy that says what is wrong. It never quotes the policy's text.
    """

    error: str


@dataclass(frozen=True)
class NoAction:
    """Neither a call nor a complete answer."""


Action = CropCall | Answer | BadCall | NoAction


def read_call(body: str, frame: Frame) -> CropCall | BadCall:
    """Read what stands between the tags of a call. Never raises, and reads JSON only.

    Keys beside ``name``, ``arguments`` and ``bbox_2d``, such as the ``label`` that some models write, are ignored.

    Args:
        body: text between the tags.
        frame: frame of the box's coordinates.
    """
    try:
        x1, y1, x2, y2 = _read_box(body)
    except _CallError as error:
        return BadCall(str(error))
    return CropCall(FramedBox(x1, y1, x2, y2, frame))


class _CallError(ValueError):
    """Why a call cannot be read, in one sentence for the policy."""


def _read_box(body: str) -> list[float]:
    call = _read_object(body, "The call")
    if call.get("name") != TOOL_NAME:
        raise _CallError(f"The only tool is {TOOL_NAME}.")
    arguments = call.get("arguments")
    # Some models write the arguments as a string that holds JSON.
    arguments = _read_object(arguments, "The string given as arguments") if isinstance(arguments, str) else arguments
    if not isinstance(arguments, dict) or "bbox_2d" not in arguments:
        raise _CallError("The call needs arguments, an object that holds bbox_2d.")
    box = arguments["bbox_2d"]
    if not isinstance(box, list) or len(box) != 4:
        raise _CallError("bbox_2d must be a list of exactly 4 numbers: x1, y1, x2, y2.")
    return [_read_coordinate(value) for value in box]


def _read_object(text: str, name: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise _CallError(f"{name} is not valid JSON at character {error.pos}.") from None
    except (ValueError, RecursionError):  # more digits than an int may have, or thousands of nested brackets
        raise _CallError(f"{name} holds a number or a nesting that is too large to read.") from None
    if not isinstance(value, dict):
        raise _CallError(f"{name} must be a JSON object.")
    return value


def _read_coordinate(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _CallError("bbox_2d must hold 4 numbers and nothing else.")
    try:
        coordinate = float(value)
    except OverflowError:  # an int beyond the largest float
        coordinate = math.inf
    if not math.isfinite(coordinate):
        raise _CallError("bbox_2d must hold finite numbers.")
    return coordinate
