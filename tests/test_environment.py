from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from infogap.data.images import HighResImage
from infogap.data.sample import Sample
from infogap.episode.environment import Environment, EpisodeLimits, Observation
from infogap.episode.protocol import IMAGE_PLACEHOLDER, Protocol, ProtocolConfig
from infogap.geometry import Box, Frame, Size
from infogap.types import StopReason

VIEW, ORIGINAL = Size(112, 56), (560, 280)  # the original has 5 pixels for each of the view's
MakeSample = Callable[..., Sample]


class RecordingTool:
    """Shows a blank image and remembers what was asked for."""

    def __init__(self) -> None:
        self.boxes: list[Box] = []

    def look(self, sample: Sample, box: Box) -> Image.Image:
        self.boxes.append(box)
        return Image.new("RGB", (28, 28))


class Game:
    """An environment over a recording tool, with short steps."""

    def __init__(self, sample: Sample, frame: Frame = Frame.VIEW_PIXELS, **limits: Any) -> None:
        self.tool = RecordingTool()
        protocol = Protocol(
            ProtocolConfig(frame=frame, crop_text="{box}", error_text="{error} {range}", tool_reminder="")
        )
        self.environment = Environment(sample, VIEW, protocol, self.tool, EpisodeLimits(**limits))
        self.episode = self.environment.episode

    def step(self, text: str, *, closed: bool = False, truncated: bool = False) -> Observation | None:
        return self.environment.step(text, closed=closed, truncated=truncated)

    def zoom(self, *box: float) -> Observation | None:
        return self.step(zoom(*box))

    def error(self, *box: float) -> str:
        """Text of the failed call of a box."""
        observation = self.zoom(*box)
        assert observation is not None
        assert observation.image is None
        body = re.search("<tool_response>(.*)</tool_response>", observation.text)
        assert body is not None
        return body[1]


Start = Callable[..., Game]


def zoom(*box: float) -> str:
    return f'<tool_call>{{"name": "image_zoom_in_tool", "arguments": {{"bbox_2d": {list(box)}}}}}</tool_call>'


@pytest.fixture
def game(make_sample: MakeSample) -> Start:
    def start(frame: Frame = Frame.VIEW_PIXELS, *, size: tuple[int, int] = ORIGINAL, **limits: Any) -> Game:
        return Game(make_sample("scene", size=size), frame, **limits)

    return start


def test_a_crop_and_an_answer(game: Start) -> None:
    closed = game().step(zoom(10, 10, 30, 50), closed=True)
    play = game()
    observation = play.zoom(10, 10, 30, 50)
    assert observation is not None
    assert play.tool.boxes == [Box(50, 50, 150, 250)]
    assert observation.image is not None
    assert observation.text == (
        "<|im_end|>\n<|im_start|>user\n<tool_response>[10, 10, 30, 50]<|vision_start|><|image_pad|><|vision_end|>"
        "</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )
    assert closed is not None
    assert "<|im_end|>" + closed.text == observation.text  # a closed turn is not closed again
    assert play.step("<answer> 7 </answer>", closed=True) is None
    assert play.episode.stop_reason is StopReason.ANSWERED
    assert play.episode.answer == "7"
    assert play.episode.sample_key == "scene"
    assert [turn.text for turn in play.episode.turns] == [zoom(10, 10, 30, 50), "<answer> 7 </answer>"]
    assert [turn.observation for turn in play.episode.turns] == [observation.text, None]
    assert play.episode.crops == [Box(50, 50, 150, 250)]
    assert play.episode.bad_calls == 0


@pytest.mark.parametrize(
    ("frame", "box"),
    [
        (Frame.VIEW_PIXELS, (28, 14, 84, 42)),
        (Frame.RELATIVE, (0.25, 0.25, 0.75, 0.75)),
        (Frame.RELATIVE_1000, (250, 250, 750, 750)),
    ],
)
def test_boxes_are_read_in_the_protocols_frame(
    game: Start, frame: Frame, box: tuple[float, float, float, float]
) -> None:
    play = game(frame)
    observation = play.zoom(*box)
    assert play.tool.boxes == [Box(140, 70, 420, 210)]
    assert observation is not None
    assert f"<tool_response>{list(box)}<" in observation.text


@pytest.mark.parametrize(
    ("text", "reason", "answer"),
    [("<answer></answer>", StopReason.ANSWERED, ""), ("It is 7.", StopReason.NO_ACTION, None)],
)
def test_endings(game: Start, text: str, reason: StopReason, answer: str | None) -> None:
    play = game()
    assert play.step(text) is None
    assert (play.episode.stop_reason, play.episode.answer) == (reason, answer)


@pytest.mark.parametrize("text", ["Well", zoom(10, 10, 30, 50), "<answer>7</answer>"])
def test_a_truncated_turn_is_not_read(game: Start, text: str) -> None:
    play = game()
    assert play.step(text, truncated=True) is None
    assert (play.episode.stop_reason, play.episode.answer) == (StopReason.MAX_TOKENS, None)
    assert play.episode.truncated
    assert play.tool.boxes == []
    assert play.episode.turns[0].text == text


def test_nothing_is_cut_where_no_token_is_left_to_look_at_it(game: Start) -> None:
    for text in (zoom(10, 10, 30, 50), "<tool_call>nonsense</tool_call>"):
        play = game()
        assert play.environment.step(text, closed=True, truncated=False, spent=True) is None
        assert play.episode.stop_reason is StopReason.MAX_TOKENS
        assert play.episode.crops == []
        assert play.tool.boxes == []
    play = game()
    assert play.environment.step("<answer>7</answer>", closed=False, truncated=False, spent=True) is None
    assert play.episode.stop_reason is StopReason.ANSWERED


def test_a_call_in_the_last_turn_ends_the_episode(game: Start) -> None:
    play = game(max_turns=2, max_crops=5)
    assert play.zoom(10, 10, 30, 50) is not None
    assert play.zoom(10, 10, 30, 50) is None
    assert play.episode.stop_reason is StopReason.MAX_TURNS
    assert len(play.episode.turns) == 2
    assert len(play.tool.boxes) == 1
    assert play.episode.bad_calls == 0  # a limit forbade it, nothing was wrong with it


def test_an_answer_in_the_last_turn_counts(game: Start) -> None:
    play = game(max_turns=1, max_crops=0)
    assert play.step("<answer>7</answer>") is None
    assert play.episode.stop_reason is StopReason.ANSWERED


@pytest.mark.parametrize("crops", [0, 1, 3])
def test_a_call_after_the_last_crop_ends_the_episode(game: Start, crops: int) -> None:
    play = game(max_turns=9, max_crops=crops)
    assert all(play.zoom(10, 10, 30, 50) is not None for _ in range(crops))
    assert play.zoom(20, 10, 30, 50) is None
    assert play.episode.stop_reason is StopReason.MAX_CROPS
    assert len(play.tool.boxes) == crops


def test_failed_calls_cost_turns_but_no_crops(game: Start) -> None:
    play = game(max_turns=4, max_crops=1)
    assert "exactly 4 numbers" in play.error(1, 2, 3)
    assert "empty" in play.error(30, 10, 10, 50)
    assert play.zoom(10, 10, 30, 50) is not None
    assert play.step("<tool_call>{}</tool_call>") is None
    assert play.episode.stop_reason is StopReason.MAX_TURNS
    assert play.episode.bad_calls == 3  # the last one too: it could not be read
    assert [turn.crop is None for turn in play.episode.turns] == [True, True, False, True]


@pytest.mark.parametrize(
    ("box", "error"),
    [
        ((30, 10, 10, 50), "The box is empty: x1 must be less than x2"),
        ((10, 50, 30, 50), "The box is empty"),
        ((113, 10, 150, 50), "The box lies outside the image."),
        ((-50, -50, 0, 0), "The box lies outside the image."),
        ((10, 10, 1e300, 50), "The box lies outside the image."),
    ],
)
def test_boxes_that_cannot_be_cut(game: Start, box: tuple[float, ...], error: str) -> None:
    play = game()
    text = play.error(*box)
    assert text.startswith(error)
    assert text.endswith("The first image is 112 pixels wide and 56 pixels high.")
    assert play.episode.turns[0].error is not None
    assert play.episode.turns[0].error.startswith(error)
    assert play.episode.stop_reason is None


def test_a_box_that_sticks_out_is_clamped(game: Start) -> None:
    play = game()
    observation = play.zoom(100, -20, 130, 30)
    assert play.tool.boxes == play.episode.crops == [Box(500, 0, 560, 150)]
    assert observation is not None
    assert "<tool_response>[100, 0, 112, 30]<" in observation.text  # the policy is told what was cut


def test_a_small_box_is_expanded(game: Start) -> None:
    play = game(min_crop_side=28)
    play.zoom(10, 10, 12, 30)
    assert play.tool.boxes == play.episode.crops == [Box(41, 50, 69, 150)]  # 10 pixels at x = 50 to 60 became 28


@pytest.mark.parametrize(
    ("frame", "box", "least"),
    [
        (Frame.VIEW_PIXELS, (10, 10, 12, 30), "at least 6 wide and 6 high"),  # 28 / 5 = 5.6
        (Frame.RELATIVE, (0.1, 0.1, 0.12, 0.5), "at least 0.05 wide and 0.1 high"),  # 28 / 560, 28 / 280
        (Frame.RELATIVE_1000, (100, 100, 120, 500), "at least 50 wide and 100 high"),
    ],
)
def test_a_small_box_can_be_an_error(game: Start, frame: Frame, box: tuple[float, ...], least: str) -> None:
    play = game(frame, small_crop="error")
    assert f"The box is too small: it must be {least}." in play.error(*box)
    assert play.episode.bad_calls == 1
    assert play.episode.crops == []


# 0.16 to 0.21 of 560 pixels is 28 less a rounding error.
@pytest.mark.parametrize(
    ("frame", "box"), [(Frame.VIEW_PIXELS, (3, 3, 9, 9)), (Frame.RELATIVE, (0.16, 0.1, 0.21, 0.2))]
)
def test_a_box_of_the_least_size_that_is_told_is_cut(game: Start, frame: Frame, box: tuple[float, ...]) -> None:
    play = game(frame, small_crop="error")
    assert play.zoom(*box) is not None
    assert len(play.episode.crops) == 1


def test_an_image_below_the_least_side_can_be_asked_for_whole(game: Start) -> None:
    play = game(size=(400, 20), small_crop="error")
    assert play.zoom(0, 0, 112, 56) is not None
    assert play.episode.crops == [Box(0, 0, 400, 20)]


def test_an_ended_episode_takes_no_step(game: Start) -> None:
    play = game()
    play.step("<answer>7</answer>")
    with pytest.raises(RuntimeError, match=r"sample scene has ended \(answered\)"):
        play.step("<answer>7</answer>")


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_turns": 0}, "max_turns is 0"),
        ({"max_crops": -1}, "max_crops is -1"),
        ({"min_crop_side": 0}, "min_crop_side is 0"),
        ({"max_turn_tokens": 0}, "max_turn_tokens is 0"),
        ({"max_turn_tokens": 300}, "max_turn_tokens is 300, more than max_episode_tokens, 256"),
    ],
)
def test_limits_out_of_range_are_refused(limits: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EpisodeLimits(**limits)  # type: ignore[arg-type]


# The texts a drifting policy may write: special tokens, tags, calls with any box.
wild_texts = st.text(max_size=20) | st.sampled_from(
    [IMAGE_PLACEHOLDER, "<|im_end|>", "<answer>7</answer>", "<tool_call>"]
)
calls = st.builds(zoom, *[st.floats(-200, 300) | st.integers(-(10**30), 10**30)] * 4)
named = st.sampled_from([IMAGE_PLACEHOLDER, "<answer>7</answer>"]).map(
    lambda name: f'<tool_call>{{"name": "{name}"}}</tool_call>'
)


def _blank_sample() -> Sample:
    buffer = io.BytesIO()
    Image.new("RGB", ORIGINAL).save(buffer, "PNG")
    return Sample("blank", HighResImage(buffer.getvalue()), "What?", "7")


@given(
    turns=st.lists(st.tuples(wild_texts | calls | named, st.booleans()), min_size=6, max_size=6),
    frame=st.sampled_from(Frame),
    small_crop=st.sampled_from(["expand", "error"]),
)
def test_any_texts_make_an_episode(turns: list[tuple[str, bool]], frame: Frame, small_crop: str) -> None:
    sample = _blank_sample()
    play = Game(sample, frame, max_turns=5, max_crops=2, small_crop=small_crop)
    for text, closed in turns:
        observation = play.step(text, closed=closed)
        if observation is None:
            break
        placeholders = 0 if observation.image is None else 1
        assert observation.text.count(IMAGE_PLACEHOLDER) == observation.text.count("<|image_pad|>") == placeholders
        assert observation.text.count("<|im_end|>") == 1 + (not closed)
        assert "<answer>" not in observation.text
    assert play.episode.stop_reason is not None
    assert len(play.episode.turns) <= 5
    assert len(play.episode.crops) <= 2
    assert (play.episode.answer is not None) == (play.episode.stop_reason is StopReason.ANSWERED)
    for box in play.episode.crops:
        assert Box.whole(sample.image.size).contains(box)
        assert min(box.width, box.height) >= 28 - 1e-5
