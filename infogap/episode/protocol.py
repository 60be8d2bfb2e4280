"""The text protocol between policy and environment: what the policy is told, what it may write, how that is read.

The chat format is Qwen2.5-VL's ChatML. In each turn the policy writes, after an optional ``<think>`` part, a call
``<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [x1, y1, x2, y2]}}</tool_call>`` or
``<answer>...</answer>``.

Only text that the policy wrote is ever parsed. Observations hold neither an answer nor a call, and never repeat what
the policy wrote, so that they cannot bring in a special token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Final

from infogap.episode import texts
from infogap.episode.actions import TOOL_NAME, Action, Answer, BadCall, CropCall, NoAction, read_call
from infogap.geometry import Frame, FramedBox, Size

__all__ = [
    "IMAGE_PLACEHOLDER",
    "TOOL_NAME",
    "TURN_END",
    "Action",
    "Answer",
    "BadCall",
    "CropCall",
    "NoAction",
    "Protocol",
    "ProtocolConfig",
]

IMAGE_PLACEHOLDER: Final = "<|vision_start|><|image_pad|><|vision_end|>"
TURN_END: Final = "<|im_end|>"

# Possessive (*+): a policy may write anything, and without backtracking the time stays linear in its length.
_ACTION: Final = re.compile(r"<(tool_call|answer)>((?:(?!</?\1>).)*+)</\1>", re.DOTALL)
_NO_TAG: Final = r"(?:(?!</?(?:think|tool_call|answer)>).)*+"
_WELL_FORMED: Final = re.compile(
    rf"(?P<think><think>{_NO_TAG}</think>\s*+)?(?:<tool_call>{_NO_TAG}</tool_call>|<answer>{_NO_TAG}</answer>)",
    re.DOTALL,
)


@dataclass
class ProtocolConfig:
    """Texts and rules of the protocol. All texts are ours and not published; a config may replace any of them.

    A text may hold the ``{placeholders}`` listed with it and no others; any other brace, as in JSON, stays as it is.

    Attributes:
        frame: frame of the policy's boxes. Default: pixels of the view, which Qwen2.5-VL was trained to write.
        coordinate_step: boxes that are written for the policy are rounded outwards to multiples of this. Default 1;
            larger for a policy that was taught a coarser grid, such as the small one.
        tool_system_prompt: system text with the tool. ``{tools}``: JSON schema; ``{frame}``: what coordinates mean;
            ``{think}``: whether a turn must or may begin with reasoning.
        direct_system_prompt: system text without the tool. ``{think}`` as above.
        question_template: user text. ``{question}`` (needed): the question followed by its options; ``{image}``:
            where the
            view stands; without it, before the text.
        option_template: one option. ``{letter}`` (needed): A, B, ...; ``{text}`` (needed): the option.
        tool_response_template: what a call brings back. ``{body}`` (needed): crop or error text; ``{image}`` (needed):
            the crop, if any.
        crop_text: body after a crop. ``{box}``: the region that was really cut, in the frame's units.
        error_text: body after a failed call. ``{error}``: what was wrong; ``{range}``: which coordinates are possible.
        tool_reminder: text after the tool response, in the same user turn. No placeholder.
        require_think: whether a well-formed turn must begin with a ``<think>`` part. Not published; default no.
        turn_end_texts: texts at which the sampler ends a turn, themselves included, beside the stop token. Without them
            a model may go on after its call and invent the result.

    Raises:
        ValueError: if a text has an unknown placeholder, lacks a needed one, holds a special token of the chat format,
            or is part of an observation and holds a call or an answer.
    """

    frame: Frame = Frame.VIEW_PIXELS
    coordinate_step: int = 1
    tool_system_prompt: str = texts.TOOL_SYSTEM_PROMPT
    direct_system_prompt: str = texts.DIRECT_SYSTEM_PROMPT
    question_template: str = "{question}"
    option_template: str = "\n{letter}. {text}"
    tool_response_template: str = "<tool_response>{body}{image}</tool_response>"
    crop_text: str = "The region {box} of the first image, enlarged:"
    error_text: str = "Error: {error} {range} Call the tool again with a corrected box, or give the final answer."
    tool_reminder: str = "\nLook closer at another region if you need to, or give the final answer."
    require_think: bool = False
    turn_end_texts: tuple[str, ...] = ("</tool_call>",)

    def __post_init__(self) -> None:
        """Check every text."""
        if not isinstance(self.frame, Frame):
            raise ValueError(f"frame is {self.frame!r}, of no type Frame: give Frame.RELATIVE_1000 or another of them.")
        step = self.coordinate_step
        if step < 1 or (step > 1 and self.frame is Frame.RELATIVE):
            raise ValueError(f"coordinate_step is {step}: give at least 1, and 1 for the frame RELATIVE.")
        for name in texts.ALLOWED_PLACEHOLDERS:
            texts.check_text(name, getattr(self, name))
        if "" in self.turn_end_texts:
            raise ValueError("turn_end_texts holds an empty text, which would end every turn at once: remove it.")


class Protocol:
    """Writes the prompt and the observations, and reads the policy's turns.

    Args:
        config: texts and rules.
    """

    def __init__(self, config: ProtocolConfig) -> None:
        self.config = config

    def prompt(self, sample_question: str, options: Sequence[str], *, tool: bool, image: bool = True) -> str:
        """Render the prompt, up to the point where the policy begins to write.

        Args:
            sample_question: the question.
            options: texts of the options in the order of their letters, or empty.
            tool: whether the policy is told about the tool.
            image: whether the prompt shows the view; without it there is no image placeholder.

        Returns:
            ChatML text with one ``IMAGE_PLACEHOLDER`` if ``image``, else with none.

        Raises:
            ValueError: if question or options hold a special token, or there are more options than letters.
        """
        for text in (sample_question, *options):
            texts.check_no_special_token("the question or one of its options", text)
        if len(options) > len(ascii_uppercase):
            raise ValueError(
                f"A question has {len(options)} options, but there are only 26 letters: remove some of them."
            )
        listed = "".join(
            texts.fill(self.config.option_template, letter=letter, text=text)
            for letter, text in zip(ascii_uppercase, options, strict=False)
        )
        template = self.config.question_template
        template = template if "{image}" in template else "{image}" + template
        shown = IMAGE_PLACEHOLDER if image else ""
        user = texts.fill(template, question=sample_question + listed, image=shown)
        return (
            f"<|im_start|>system\n{self._system(tool=tool)}{TURN_END}\n"
            f"<|im_start|>user\n{user}{TURN_END}\n"
            "<|im_start|>assistant\n"
        )

    def plain_prompt(self, text: str, *, image: bool = True) -> str:
        """Render a prompt in which nothing is ours: Qwen2.5-VL's own system text, the view, a text.

        Args:
            text: the user's text, such as a benchmark's own.
            image: as in ``prompt``.

        Raises:
            ValueError: if the text holds a special token.
        """
        texts.check_no_special_token("the text", text)
        return (
            f"<|im_start|>system\nYou are a helpful assistant.{TURN_END}\n"
            f"<|im_start|>user\n{IMAGE_PLACEHOLDER if image else ''}{text}{TURN_END}\n"
            "<|im_start|>assistant\n"
        )

    def parse(self, text: str) -> Action:
        """Read one turn of the policy. Never raises.

        The last complete call or answer decides, so an answer beats a call only if it comes after it. Without a
        complete one, a call that was opened and not closed is a bad call, and anything else, an unclosed answer too,
        is no action.

        Args:
            text: what the policy wrote in this turn; it may have been cut right after an end text such as
                ``</tool_call>``.

        Returns:
            What the policy does.
        """
        found = list(_ACTION.finditer(text))
        if not found:
            return BadCall("The call has no closing tag.") if "<tool_call>" in text else NoAction()
        kind, body = found[-1].groups()
        return Answer(body.strip()) if kind == "answer" else read_call(body, self.config.frame)

    def is_well_formed_turn(self, text: str) -> bool:
        """Whether a turn is exactly one action after an optional ``<think>`` part, with only whitespace around them.

        With ``require_think`` the ``<think>`` part must be there. No tag may stand inside another.
        """
        match = _WELL_FORMED.fullmatch(text.strip())
        return match is not None and (match["think"] is not None or not self.config.require_think)

    def observation(self, body: str, *, with_image: bool, closed: bool) -> str:
        """Render what comes back after a call, up to the point where the policy goes on.

        Args:
            body: text from ``crop_body`` or ``error_body``.
            with_image: whether a crop comes back.
            closed: whether the policy's turn ended in the stop token; if not, the text begins with it.

        Returns:
            ChatML text with one ``IMAGE_PLACEHOLDER`` if ``with_image``, else with none.
        """
        image = IMAGE_PLACEHOLDER if with_image else ""
        response = texts.fill(self.config.tool_response_template, body=body, image=image)
        return (
            f"{'' if closed else TURN_END}\n<|im_start|>user\n{response}{self.config.tool_reminder}{TURN_END}\n"
            "<|im_start|>assistant\n"
        )

    def crop_body(self, box: FramedBox) -> str:
        """Text that comes with a crop.

        Args:
            box: the region that was cut, in the frame of this protocol.
        """
        return texts.fill(self.config.crop_text, box=json.dumps(texts.written(box)))

    def error_body(self, error: str, view: Size) -> str:
        """Text that comes back after a failed call.

        Args:
            error: one sentence that says what was wrong, without text of the policy.
            view: size of the shown view in pixels.
        """
        return texts.fill(self.config.error_text, error=error, range=texts.range_text(self.config.frame, view))

    def call_text(self, box: FramedBox) -> str:
        """Text of a call, as the policy should write it.

        Coordinates are rounded outwards, to multiples of ``coordinate_step`` (frame 0-1: to 4 decimals), so that the
        written box covers ``box`` and is never empty.

        Raises:
            ValueError: if the box is in another frame than the protocol's.
        """
        if box.frame is not self.config.frame:
            raise ValueError(f"{box} is not in the protocol's frame {self.config.frame.value}: convert it first.")
        call = {"name": TOOL_NAME, "arguments": {"bbox_2d": texts.written(box, self.config.coordinate_step)}}
        return f"<tool_call>{json.dumps(call)}</tool_call>"

    def answer_text(self, answer: str) -> str:
        """Text of a final answer, as the policy should write it."""
        return f"<answer>{answer}</answer>"

    def _system(self, *, tool: bool) -> str:
        think = texts.think_text(self.config.require_think)
        if not tool:
            return texts.fill(self.config.direct_system_prompt, think=think)
        frame = self.config.frame
        tools = texts.tool_schema(frame)
        return texts.fill(self.config.tool_system_prompt, tools=tools, frame=texts.FRAME_TEXTS[frame], think=think)
