"""Default texts of the protocol, and the placeholders they may hold.

The texts are ours and not published; they have the form that DeepEyes made common for Qwen2.5-VL.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Final

from infogap.episode.actions import TOOL_NAME
from infogap.geometry import Frame, FramedBox, Size

FRAME_TEXTS: Final[Mapping[Frame, str]] = {
    Frame.VIEW_PIXELS: (
        "Coordinates are pixels of the first image as it is shown to you: "
        "x counts from its left edge, y from its top edge."
    ),
    Frame.RELATIVE: (
        "Coordinates are fractions of the first image: x is 0 at its left edge and 1 at its right edge, "
        "y is 0 at its top edge and 1 at its bottom edge."
    ),
    Frame.RELATIVE_1000: (
        "Coordinates are thousandths of the first image: x is 0 at its left edge and 1000 at its right edge, "
        "y is 0 at its top edge and 1000 at its bottom edge."
    ),
}

TOOL_SYSTEM_PROMPT: Final = """\
You answer a question about an image. The image is shown to you at reduced resolution, so small details may be lost in \
it; the tool cuts a region out of the full-resolution original and shows it to you enlarged.

<tools>
{tools}
</tools>

{frame} They always refer to the first image, never to an enlarged one.

{think} After that do exactly one of two things.
To look closer, call the tool and wait for the enlarged region:
<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [x1, y1, x2, y2]}}</tool_call>
To finish, give the final answer in as few words as possible; if options are listed, give the letter of one of them:
<answer>final answer</answer>"""

DIRECT_SYSTEM_PROMPT: Final = """\
You answer a question about an image. {think} After that give the final answer in as few words as possible; if options \
are listed, give the letter of one of them:
<answer>final answer</answer>"""

# Placeholders that each text of the config may hold, and those that it must hold exactly once.
ALLOWED_PLACEHOLDERS: Final[Mapping[str, frozenset[str]]] = {
    "tool_system_prompt": frozenset({"tools", "frame", "think"}),
    "direct_system_prompt": frozenset({"think"}),
    "question_template": frozenset({"question", "image"}),
    "option_template": frozenset({"letter", "text"}),
    "tool_response_template": frozenset({"body", "image"}),
    "crop_text": frozenset({"box"}),
    "error_text": frozenset({"error", "range"}),
    "tool_reminder": frozenset(),
}
REQUIRED_PLACEHOLDERS: Final[Mapping[str, tuple[str, ...]]] = {
    "question_template": ("question",),
    "option_template": ("letter", "text"),
    "tool_response_template": ("body", "image"),
}
# An empty option template means that options are not shown (they still decide how an answer is matched).
OPTIONAL_TEXTS: Final = ("option_template",)
OBSERVATION_TEXTS: Final = ("tool_response_template", "crop_text", "error_text", "tool_reminder")

_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SPECIAL_TOKEN: Final = re.compile(r"<\|[a-z_]+\|>")
_TAG_PAIR: Final = re.compile(r"<(tool_call|answer)>.*</\1>", re.DOTALL)


def fill(template: str, **values: str) -> str:
    """Replace the placeholders of a checked template.

    All are replaced in one pass, so that a value which itself looks like a placeholder stays as it is.
    """
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def check_text(name: str, text: str) -> None:
    """Check one text of the protocol config.

    Raises:
        ValueError: if it has an unknown placeholder, lacks a needed one or holds it twice, holds a special token of the
            chat format, or is part of an observation and holds a call or an answer.
    """
    found = _PLACEHOLDER.findall(text)
    for placeholder in found:
        if placeholder not in ALLOWED_PLACEHOLDERS[name]:
            known = ", ".join(f"{{{each}}}" for each in sorted(ALLOWED_PLACEHOLDERS[name])) or "none"
            raise ValueError(f"{name} has the unknown placeholder {{{placeholder}}}; it may hold: {known}.")
    needed = REQUIRED_PLACEHOLDERS.get(name, ()) if text or name not in OPTIONAL_TEXTS else ()
    for placeholder in needed:
        if found.count(placeholder) != 1:
            raise ValueError(f"{name} is {text!r}, but must hold {{{placeholder}}} exactly once.")
    check_no_special_token(name, text)
    if name in OBSERVATION_TEXTS and _TAG_PAIR.search(text):
        raise ValueError(f"{name} is {text!r}, but an observation must hold no call and no answer: remove the tags.")


def check_no_special_token(name: str, text: str) -> None:
    """Check that a text holds no special token of the chat format.

    Raises:
        ValueError: naming the token.
    """
    if match := _SPECIAL_TOKEN.search(text):
        raise ValueError(f"{name} holds the special token {match[0]}: remove it, the chat format places these itself.")


def think_text(required: bool) -> str:
    """What the policy is told about reasoning."""
    begin = "Begin every turn" if required else "You may begin a turn"
    return f"{begin} with your reasoning between <think> and </think>."


def range_text(frame: Frame, view: Size) -> str:
    """Which coordinates are possible, told to the policy after a failed call.

    Args:
        frame: frame of the policy's boxes.
        view: size of the shown view in pixels.
    """
    if frame is Frame.VIEW_PIXELS:
        return f"The first image is {view.width} pixels wide and {view.height} pixels high."
    return f"Coordinates in the first image go from 0 to {1 if frame is Frame.RELATIVE else 1000}."


def tool_schema(frame: Frame) -> str:
    """JSON schema of the tool on one line, in the form of Qwen's function calling.

    Args:
        frame: frame of the policy's boxes.
    """
    box = {
        "type": "array",
        "items": {"type": "number"},
        "minItems": 4,
        "maxItems": 4,
        "description": f"The region as [x1, y1, x2, y2]: left, top, right, bottom. {FRAME_TEXTS[frame]}",
    }
    function = {
        "name": TOOL_NAME,
        "description": "Cut a region out of the original image at full resolution and show it enlarged.",
        "parameters": {"type": "object", "properties": {"bbox_2d": box}, "required": ["bbox_2d"]},
    }
    return json.dumps({"type": "function", "function": function})


def written(box: FramedBox, step: int = 1) -> list[float]:
    """Coordinates as they are written: rounded outwards to multiples of ``step``, in the frame 0-1 to 4 decimals."""
    parts = 10_000 if box.frame is Frame.RELATIVE else 1
    # The inner rounding keeps 250.0000000001, which is 250 after a change of frames, from becoming 251.
    low = [math.floor(round(value * parts / step, 6)) * step for value in (box.x1, box.y1)]
    high = [math.ceil(round(value * parts / step, 6)) * step for value in (box.x2, box.y2)]
    return [value / parts if parts > 1 else value for value in (*low, *high)]
