from __future__ import annotations

import dataclasses
import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_pictures import SCORES, patches, plain_sample, play

from infogap.geometry import Box, Size
from infogap.pictures.record import EpisodeRecord, TurnRecord, records_of
from infogap.pictures.record_file import EpisodeFileError, json_line, read_records, record_line
from infogap.policy.packing import Chunk, Group
from infogap.types import StopReason, Turn

RECORD = EpisodeRecord(
    rollout_step=3,
    group=1,
    episode=2,
    sample="key",
    question="Which?",
    options=("left", "right"),
    expected_answer="A",
    evidence=((Box(1, 2, 3, 4), Box(0, 0, 5, 6.5)),),
    view_size=Size(56, 84),
    original_size=Size(640, 480),
    turns=(
        TurnRecord("look", "shown", crop=Box(0, 0, 100, 50.5), shown=Size(224, 112)),
        TurnRecord("bad", "no", error="wrong"),
        TurnRecord("<answer>", None),
    ),
    answer="B",
    stop_reason=StopReason.ANSWERED,
    policy_tokens=9,
    visual_tokens=6 + 32,
    rewards={"accuracy": 0.0, "format": None},
    total=-0.25,
    advantage=1.5,
)


def written(path: Path, *lines: str) -> Path:
    path.write_text("".join(lines))
    return path


def changed(**values: Any) -> str:
    return json.dumps(json.loads(record_line(RECORD)) | values) + "\n"


texts = st.text(st.characters(codec=None), max_size=20)
edges = st.floats(0, 1000).flatmap(lambda low: st.tuples(st.just(low), st.floats(low + 1, 2000)))
boxes = st.builds(lambda x, y: Box(x[0], y[0], x[1], y[1]), edges, edges)
sizes = st.builds(Size, st.integers(1, 9999), st.integers(1, 9999))
scores = st.none() | st.floats(allow_nan=False, allow_infinity=False)
turns = st.builds(TurnRecord, texts, st.none() | texts, st.none() | boxes, st.none() | texts, st.none() | sizes)
records = st.builds(
    EpisodeRecord,
    options=st.lists(texts, max_size=3).map(tuple),
    evidence=st.lists(st.lists(boxes, min_size=1, max_size=3).map(tuple), max_size=2).map(tuple),
    turns=st.lists(turns, max_size=3).map(tuple),
    rewards=st.dictionaries(texts, scores, max_size=3),
    **dict.fromkeys(("sample", "question"), texts),
    **{name: st.none() | texts for name in ("expected_answer", "answer")},
    **dict.fromkeys(("total", "advantage"), scores),
    **{name: st.integers(0, 10**9) for name in ("rollout_step", "group", "episode", "policy_tokens", "visual_tokens")},
    view_size=st.none() | sizes,
    original_size=sizes,
    stop_reason=st.none() | st.sampled_from(StopReason),
)


@given(records)
def test_records_survive_a_line(tmp_path_factory: pytest.TempPathFactory, record: EpisodeRecord) -> None:
    line = record_line(record)
    assert line.startswith('{"rollout_step": ')
    assert line.isascii()
    assert line.count("\n") == 1
    assert read_records(written(tmp_path_factory.getbasetemp() / "one.jsonl", line, line)) == [record, record]


def test_what_json_cannot_write_becomes_null(tmp_path: Path) -> None:
    line = json_line({"a": math.nan, "b": [math.inf, {"c": -math.inf}, 1.5], "d": "\ud800"})
    assert json.loads(line) == {"a": None, "b": [None, {"c": None}, 1.5], "d": "\ud800"}
    lost = replace(RECORD, rewards={"accuracy": math.nan}, total=math.inf)
    assert read_records(written(tmp_path / "r", record_line(lost))) == [
        replace(RECORD, rewards={"accuracy": None}, total=None)
    ]


def test_lines_of_the_first_version_say_nothing_of_what_was_shown(tmp_path: Path) -> None:
    values = json.loads(record_line(RECORD))
    for turn in values["turns"]:
        del turn["shown"]
    (record,) = read_records(written(tmp_path / "r", json.dumps(values) + "\n"))
    assert record == replace(RECORD, turns=tuple(replace(turn, shown=None) for turn in RECORD.turns))
    assert RECORD.says_what_was_shown
    assert not record.says_what_was_shown


def test_a_line_that_is_still_written_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path / "rank_0.jsonl", record_line(RECORD), record_line(RECORD)[:-20])
    with caplog.at_level(logging.WARNING):
        assert read_records(path) == [RECORD]
    assert caplog.messages == [f"The last line of {path} is incomplete and left out: it is still being written."]


BAD = {
    "torn": ('{"rollout_step": 0, "x\n', "Invalid control character"),
    "list": ("[1]\n", "it is a list and no object"),
    "nothing": ("null\n", "it is a NoneType and no object"),
    "zeros": ("\0\0\n", "Expecting value"),
    "missing": ('{"rollout_step": 0}\n', "stop_reason is missing"),
    "ending": (changed(stop_reason="tired"), "'tired' is not a valid StopReason"),
    "step": (changed(rollout_step="3"), "rollout_step is '3' and no whole number"),
    "question": (changed(question=None), "question is None and no text"),
    "box": (changed(evidence=[[[1, 2, 3]]]), "missing 1 required positional"),
    "empty box": (changed(evidence=[[[1, 2, 1, 3]]]), "is empty"),
    "text box": (changed(evidence=[[["1", 2, 3, 4]]]), "'1' is no number"),
    "size": (changed(original_size=[0, 4]), r"\[0, 4\] is no size"),
    "no size": (changed(original_size=None), "cannot unpack"),
    "turns": (changed(turns=[3]), "not subscriptable"),
    "rewards": (changed(rewards=[]), "no attribute 'items'"),
    "total": (changed(total="1"), "'1' is no number"),
    "negative": (changed(rollout_step=-1), "rollout_step is -1 and below 0"),
    "empty chain": (changed(evidence=[[]]), "a chain of its evidence has no box"),
    "endless box": (changed(evidence=[[[1, 2, 3, 10**400]]]), "finite"),
    "deep": ("[" * 100_000 + "\n", "recursion"),
}


@pytest.mark.parametrize(("line", "reason"), BAD.values(), ids=BAD)
def test_a_bad_line_is_named(line: str, reason: str, tmp_path: Path) -> None:
    path = written(tmp_path / "rank_0.jsonl", record_line(RECORD), line, record_line(RECORD))
    with pytest.raises(EpisodeFileError, match=f"^Line 2 of {path} is no episode .*{reason}.*: remove the line"):
        read_records(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EpisodeFileError, match=f"no file of episodes {tmp_path / 'none'}"):
        read_records(tmp_path / "none")


def test_records_say_at_which_size_each_crop_was_shown() -> None:
    sample = plain_sample()
    turns = [Turn("a", "b", crop=Box(0, 0, 100, 50)), Turn("c", "d", error="e"), Turn("f", "g", crop=Box(0, 0, 28, 28))]
    rollout = play(sample, turns)
    (record,) = records_of(rollout, [SCORES], [2.25], [0.5], rollout_step=7, group=4)
    assert [turn.shown for turn in record.turns] == [Size(168, 84), None, Size(112, 112)]
    assert (record.rollout_step, record.group, record.episode, record.total, record.advantage) == (7, 4, 0, 2.25, 0.5)
    assert record.crops == [Box(0, 0, 100, 50), Box(0, 0, 28, 28)]
    assert record.says_what_was_shown
    last_unseen = replace(rollout, group=Group(rollout.group.prompt, (rollout.group.episodes[0][:1],)))
    (record,) = records_of(last_unseen, [SCORES], [2.25])
    assert [turn.shown for turn in record.turns] == [Size(168, 84), None, None]
    assert record.advantage is None
    assert record.says_what_was_shown


def test_without_a_view_there_is_no_size_of_it() -> None:
    rollout = play(plain_sample(), [Turn("x")])
    blind = replace(rollout, group=Group(Chunk((1,)), ((),)))
    assert records_of(rollout, [{}], [None])[0].view_size == rollout.view
    assert records_of(blind, [{}], [None])[0].view_size is None
    assert patches(rollout.view).tokens == records_of(rollout, [{}], [None])[0].visual_tokens


def test_there_is_one_score_for_every_episode() -> None:
    with pytest.raises(ValueError, match="zip"):
        records_of(play(plain_sample(), [Turn("x")]), [SCORES, SCORES], [1.0, 2.0])


def test_every_field_is_written() -> None:
    assert list(json.loads(record_line(RECORD))) == [field.name for field in dataclasses.fields(EpisodeRecord)]
    assert list(json.loads(record_line(RECORD))["turns"][0]) == [field.name for field in dataclasses.fields(TurnRecord)]
