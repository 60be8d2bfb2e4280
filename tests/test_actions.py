"""What the policy's text is read as."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infogap.episode.protocol import TOOL_NAME, Action, Answer, BadCall, CropCall, NoAction, Protocol, ProtocolConfig
from infogap.geometry import Frame, FramedBox

CALL = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2.5, 30, 40]}}</tool_call>'
CROP = CropCall(FramedBox(1.0, 2.5, 30.0, 40.0, Frame.VIEW_PIXELS))
PIECES = [
    "<tool_call>",
    "</tool_call>",
    "<answer>",
    "</answer>",
    "<think>",
    "</think>",
    CALL,
    '{"name":',
    "B",
    " ",
    "[",
]


def parse(text: str) -> Action:
    return Protocol(ProtocolConfig()).parse(text)


def call(body: Any) -> str:
    return f"<tool_call>{body if isinstance(body, str) else json.dumps(body)}</tool_call>"


def zoom(box: Any, **more: Any) -> str:
    return call({"name": TOOL_NAME, "arguments": {"bbox_2d": box, **more}})


@pytest.mark.parametrize(
    ("text", "action"),
    [
        (CALL, CROP),
        (f"<think>Where? </think>\n{CALL}\n", CROP),
        (zoom([1, 2.5, 30, 40], label="the sign"), CROP),
        (call({"name": TOOL_NAME, "arguments": json.dumps({"bbox_2d": [1, 2.5, 30, 40]}), "id": 3}), CROP),
        (f"{zoom([9, 9, 10, 10])} {CALL}", CROP),
        (f"<answer>B</answer> {CALL}", CROP),
        (f"{CALL}<answer>B</answer>", Answer("B")),
        ("<answer>\n B. red </answer>", Answer("B. red")),
        ("<answer></answer>", Answer("")),
        ("<answer>A</answer><answer>B</answer>", Answer("B")),
        ("<answer>A <answer>B</answer>", Answer("B")),
        ("<answer>B</answer><tool_call>{", Answer("B")),
        ("<answer>B", NoAction()),
        ("B", NoAction()),
        ("", NoAction()),
        ("{CALL}</tool_call>", NoAction()),
        (zoom([-5, 900, 1e3, 2]), CropCall(FramedBox(-5.0, 900.0, 1000.0, 2.0, Frame.VIEW_PIXELS))),
    ],
)
def test_parse(text: str, action: Action) -> None:
    assert parse(text) == action


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('<tool_call>{"name": "image_zoom_in_tool"', "no closing tag"),
        (call('{"name": "image_zoom_in_tool", '), "not valid JSON"),
        (call("import os"), "not valid JSON"),
        (call(""), "not valid JSON"),
        (call([1, 2, 3, 4]), "must be a JSON object"),
        (call({"name": "rotate", "arguments": {"bbox_2d": [1, 2, 3, 4]}}), "only tool is image_zoom_in_tool"),
        (call({"arguments": {"bbox_2d": [1, 2, 3, 4]}}), "only tool is image_zoom_in_tool"),
        (call({"name": TOOL_NAME}), "needs arguments"),
        (call({"name": TOOL_NAME, "arguments": [1, 2, 3, 4]}), "needs arguments"),
        (call({"name": TOOL_NAME, "arguments": {"bbox": [1, 2, 3, 4]}}), "needs arguments"),
        (call({"name": TOOL_NAME, "arguments": "[1, 2"}), "string given as arguments is not valid JSON"),
        (zoom([1, 2, 3]), "exactly 4 numbers"),
        (zoom([1, 2, 3, 4, 5]), "exactly 4 numbers"),
        (zoom("1, 2, 3, 4"), "exactly 4 numbers"),
        (zoom([1, 2, 3, "4"]), "4 numbers and nothing else"),
        (zoom([1, 2, 3, True]), "4 numbers and nothing else"),
        (zoom([1, 2, 3, None]), "4 numbers and nothing else"),
        (zoom([1, 2, 3, float("nan")]), "finite"),
        (zoom([1, 2, 3, float("inf")]), "finite"),
        (zoom([1, 2, 3, 0]).replace("0]", "1e999]"), "finite"),
        (zoom([1, 2, 3, 0]).replace("0]", "1" * 400 + "]"), "finite"),
        (zoom([1, 2, 3, 0]).replace("0]", "1" * 5000 + "]"), "too large to read"),
        (call("[" * 100_000), "too large to read"),
        (call({"name": TOOL_NAME, "arguments": "[" * 100_000}), "too large to read"),
    ],
)
def test_bad_calls(text: str, error: str) -> None:
    action = parse(text)
    assert isinstance(action, BadCall)
    assert error in action.error
    assert action.error.endswith(".")


texts = st.text() | st.lists(st.sampled_from(PIECES) | st.text(max_size=5)).map("".join)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["name", "bbox_2d", "x"]), inner),
)


@given(texts)
@example("<tool_call>" * 20_000)
@example("<answer><tool_call><think>" * 20_000)
@example(" " * 200_000 + "x")
def test_any_text_is_parsed(text: str) -> None:
    protocol = Protocol(ProtocolConfig())
    assert isinstance(protocol.parse(text), Answer | BadCall | CropCall | NoAction)
    if protocol.is_well_formed_turn(text):
        assert not isinstance(protocol.parse(text), NoAction)


@given(json_values, json_values)
def test_any_json_is_read(arguments: object, box: object) -> None:
    for body in ({"name": TOOL_NAME, "arguments": arguments}, {"name": TOOL_NAME, "arguments": {"bbox_2d": box}}):
        assert isinstance(parse(call(body)), BadCall | CropCall)


@given(st.text(alphabet=st.sampled_from('<|>image_pdt/cloansw" ')), st.lists(st.sampled_from(PIECES)))
@example("<|image_pad|>", [])
def test_an_error_never_repeats_what_the_policy_wrote(name: str, pieces: list[str]) -> None:
    for body in ({"name": name}, "".join(pieces), {"name": TOOL_NAME, "arguments": {name: "".join(pieces)}}):
        action = parse(call(body))
        if isinstance(action, BadCall):
            assert "<" not in action.error
