from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infogap.episode.protocol import (
    IMAGE_PLACEHOLDER,
    TOOL_NAME,
    Answer,
    CropCall,
    NoAction,
    Protocol,
    ProtocolConfig,
)
from infogap.geometry import Box, Frame, FramedBox, Size

VIEW = Size(112, 84)
CALL = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2.5, 30, 40]}}</tool_call>'


def test_prompt_is_chat_ml() -> None:
    config = ProtocolConfig(tool_system_prompt="Zoom or answer.", direct_system_prompt="Answer.")
    prompt = Protocol(config).prompt("Which colour?", ("red", "blue"), tool=True)
    assert prompt == (
        "<|im_start|>system\nZoom or answer.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Which colour?\nA. red\nB. blue<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    without_image = Protocol(config).prompt("Which colour?", (), tool=False, image=False)
    assert without_image == (
        "<|im_start|>system\nAnswer.<|im_end|>\n<|im_start|>user\nWhich colour?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("frame", Frame)
def test_tool_prompt_holds_a_correct_schema_and_says_the_frame(frame: Frame) -> None:
    prompt = Protocol(ProtocolConfig(frame=frame)).prompt("Q?", (), tool=True)
    listed = re.search(r"<tools>\n(.*)\n</tools>", prompt)
    assert listed is not None
    function = json.loads(listed[1])["function"]
    assert function["name"] == TOOL_NAME
    assert function["parameters"]["required"] == list(function["parameters"]["properties"]) == ["bbox_2d"]
    word = {Frame.VIEW_PIXELS: "pixels", Frame.RELATIVE: "fractions", Frame.RELATIVE_1000: "thousandths"}[frame]
    assert f"Coordinates are {word} of the first image" in prompt.replace(listed[1], "")
    assert f"Coordinates are {word} of the first image" in listed[1]
    assert "{" not in re.sub(r'\{"name": .*\}\}|\{"type": .*\}\}\}', "", prompt)  # every placeholder was replaced


def test_direct_prompt_does_not_name_the_tool() -> None:
    prompt = Protocol(ProtocolConfig()).prompt("Q?", (), tool=False)
    assert TOOL_NAME not in prompt
    assert "tool" not in prompt


def test_prompt_says_whether_thinking_is_needed() -> None:
    for tool in (True, False):
        assert "You may begin a turn" in Protocol(ProtocolConfig()).prompt("Q?", (), tool=tool)
        assert "Begin every turn" in Protocol(ProtocolConfig(require_think=True)).prompt("Q?", (), tool=tool)


def test_placeholders_in_a_question_stay_as_they_are() -> None:
    prompt = Protocol(ProtocolConfig()).prompt("What is {text} {question}?", ("{letter}",), tool=False)
    assert "What is {text} {question}?\nA. {letter}<|im_end|>" in prompt


@pytest.mark.parametrize("options", [(), ("a <|vision_start|>",)])
def test_special_tokens_in_the_question_are_refused(options: tuple[str, ...]) -> None:
    question = "Q?" if options else "Q <|image_pad|>?"
    with pytest.raises(ValueError, match=r"question or one of its options holds the special token <\|"):
        Protocol(ProtocolConfig()).prompt(question, options, tool=False)


def test_more_options_than_letters_are_refused() -> None:
    with pytest.raises(ValueError, match="27 options"):
        Protocol(ProtocolConfig()).prompt("Q?", ["x"] * 27, tool=False)


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        (
            "tool_system_prompt",
            "Call {toolz}.",
            r"tool_system_prompt has the unknown placeholder \{toolz\}; .*\{tools\}",
        ),
        ("tool_reminder", "Go on, {box}.", r"unknown placeholder \{box\}; it may hold: none"),
        ("question_template", "Q", r"question_template is 'Q', but must hold \{question\} exactly once"),
        ("tool_response_template", "{image}{body}{image}", r"must hold \{image\} exactly once"),
        ("direct_system_prompt", "x<|im_end|>", r"holds the special token <\|im_end\|>"),
        ("tool_reminder", "Write <answer>B</answer>.", "must hold no call and no answer"),
        ("crop_text", "<tool_call>{box}</tool_call>", "must hold no call and no answer"),
    ],
)
def test_wrong_texts_are_refused(field: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProtocolConfig(**{field: text})  # type: ignore[arg-type]


def test_empty_turn_end_text_is_refused() -> None:
    with pytest.raises(ValueError, match="turn_end_texts holds an empty text"):
        ProtocolConfig(turn_end_texts=("</tool_call>", ""))


def test_braces_of_json_survive_in_texts() -> None:
    text = 'Write {"bbox_2d": [x1, y1]}, {} or { question }.'
    assert text in Protocol(ProtocolConfig(tool_system_prompt=text)).prompt("Q?", (), tool=True)


@pytest.mark.parametrize(
    ("text", "well_formed", "with_think"),
    [
        (CALL, True, False),
        ("<answer>B</answer>", True, False),
        ("<answer></answer>", True, False),
        ("<think>I see.\n\nA sign.</think>\n<answer>B</answer>\n", True, True),
        (f"  <think></think> {CALL}", True, True),
        ("B", False, False),
        ("I see. <answer>B</answer>", False, False),
        ("<answer>B</answer> Done.", False, False),
        ("<answer>B</answer><answer>B</answer>", False, False),
        (f"{CALL}{CALL}", False, False),
        ("<answer>B", False, False),
        ("<think>a<answer>B</answer>", False, False),
        ("<think>a</think></think><answer>B</answer>", False, False),
        ("<think>a</think><think>b</think><answer>B</answer>", False, False),
        ("<think><answer>A</answer></think><answer>B</answer>", False, False),
        ("<answer>B</answer><think>a</think>", False, False),
        ("<answer><think>a</think>B</answer>", False, False),
        ("<think>a</think>", False, False),
        ("", False, False),
    ],
)
def test_well_formed_turns(text: str, well_formed: bool, with_think: bool) -> None:
    assert Protocol(ProtocolConfig()).is_well_formed_turn(text) is well_formed
    assert Protocol(ProtocolConfig(require_think=True)).is_well_formed_turn(text) is with_think


def test_observation_with_a_crop() -> None:
    config = ProtocolConfig(crop_text="{box}:", tool_reminder=" Go on.")
    protocol = Protocol(config)
    body = protocol.crop_body(FramedBox(1.2, 2, 30, 39.5, Frame.VIEW_PIXELS))
    text = (
        "\n<|im_start|>user\n<tool_response>[1, 2, 30, 40]:<|vision_start|><|image_pad|><|vision_end|></tool_response>"
    )
    text += " Go on.<|im_end|>\n<|im_start|>assistant\n"
    assert protocol.observation(body, with_image=True, closed=True) == text
    assert protocol.observation(body, with_image=True, closed=False) == "<|im_end|>" + text


@pytest.mark.parametrize(
    ("frame", "possible"),
    [
        (Frame.VIEW_PIXELS, "112 pixels wide and 84 pixels high"),
        (Frame.RELATIVE, "from 0 to 1."),
        (Frame.RELATIVE_1000, "from 0 to 1000."),
    ],
)
def test_observation_with_an_error_says_which_coordinates_are_possible(frame: Frame, possible: str) -> None:
    protocol = Protocol(ProtocolConfig(frame=frame))
    text = protocol.observation(protocol.error_body("It is {empty}.", VIEW), with_image=False, closed=True)
    assert text.startswith("\n<|im_start|>user\n<tool_response>Error: It is {empty}. ")
    assert possible in text
    assert IMAGE_PLACEHOLDER not in text


@pytest.mark.parametrize("frame", Frame)
def test_no_observation_can_be_read_as_an_action(frame: Frame) -> None:
    protocol = Protocol(ProtocolConfig(frame=frame))
    bodies = [protocol.crop_body(FramedBox(0, 0, 1, 1, frame)), protocol.error_body("Wrong.", VIEW)]
    for body in bodies:
        text = protocol.observation(body, with_image=True, closed=False)
        assert protocol.parse(text) == NoAction()
        assert not re.search("<(tool_call|answer)>", text)


def test_written_boxes_are_rounded_outwards_to_the_step_of_the_policy() -> None:
    """A number that is no token of the small policy's vocabulary is one that it has never written."""
    protocol = Protocol(ProtocolConfig(frame=Frame.RELATIVE_1000, coordinate_step=20))
    text = protocol.call_text(FramedBox(119, 140, 561, 780.0000000001, Frame.RELATIVE_1000))
    assert '"bbox_2d": [100, 140, 580, 780]' in text
    for frame, step in ((Frame.RELATIVE, 20), (Frame.VIEW_PIXELS, 0)):
        with pytest.raises(ValueError, match=f"coordinate_step is {step}: give at least 1, and"):
            ProtocolConfig(frame=frame, coordinate_step=step)
    with pytest.raises(ValueError, match=r"frame is 'relative', of no type Frame: give Frame\.RELATIVE_1000"):
        ProtocolConfig(frame="relative")  # type: ignore[arg-type]


def test_call_text_is_exact() -> None:
    protocol = Protocol(ProtocolConfig(frame=Frame.RELATIVE_1000))
    # 250.0000000001 is what a change of frames leaves of 250
    text = protocol.call_text(FramedBox(100.7, 20, 250.0000000001, 21.1, Frame.RELATIVE_1000))
    assert text == (
        '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [100, 20, 250, 22]}}</tool_call>'
    )
    text = Protocol(ProtocolConfig(frame=Frame.RELATIVE)).call_text(FramedBox(0.12345, 0, 0.5, 1, Frame.RELATIVE))
    assert '"bbox_2d": [0.1234, 0.0, 0.5, 1.0]' in text
    with pytest.raises(ValueError, match="not in the protocol's frame relative_1000"):
        protocol.call_text(FramedBox(0, 0, 1, 1, Frame.RELATIVE))


def test_answer_text_is_read_back() -> None:
    protocol = Protocol(ProtocolConfig())
    assert protocol.answer_text("B") == "<answer>B</answer>"
    assert protocol.parse(protocol.answer_text("red car")) == Answer("red car")


sides = st.integers(1, 9000)


@given(st.sampled_from(Frame), st.tuples(sides, sides), st.tuples(sides, sides), st.data())
def test_a_written_call_covers_its_box(
    frame: Frame, view: tuple[int, int], original: tuple[int, int], data: st.DataObject
) -> None:
    x1, y1 = data.draw(st.integers(0, original[0] - 1)), data.draw(st.integers(0, original[1] - 1))
    x2, y2 = data.draw(st.integers(x1 + 1, original[0])), data.draw(st.integers(y1 + 1, original[1]))
    box = Box(x1, y1, x2, y2)
    protocol = Protocol(ProtocolConfig(frame=frame))
    text = protocol.call_text(FramedBox.from_original(box, frame, Size(*view), Size(*original)))
    assert protocol.is_well_formed_turn(text)
    action = protocol.parse(text)
    assert isinstance(action, CropCall)
    read = action.box.to_original(Size(*view), Size(*original))
    assert read.contains(box, tolerance=0.01)
    assert Box.whole(Size(*original)).contains(read, tolerance=0.01)
    # no side sticks out by more than one step of the frame, seen in the original
    step_x, step_y = {
        Frame.VIEW_PIXELS: (original[0] / view[0], original[1] / view[1]),
        Frame.RELATIVE: (original[0] / 10_000, original[1] / 10_000),
        Frame.RELATIVE_1000: (original[0] / 1000, original[1] / 1000),
    }[frame]
    assert read.width <= box.width + 2 * step_x + 0.01
    assert read.height <= box.height + 2 * step_y + 0.01
