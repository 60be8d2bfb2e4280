"""Predictions survive a kill, and a file that was made otherwise is never added to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from predictions import predict, unreadable

from infogap.evaluation.prediction import Prediction
from infogap.evaluation.prediction_file import PredictionFile, load_contents, load_predictions, place_of
from infogap.evaluation.question import BenchmarkError

PROTOCOL = {"benchmark": "vstar", "play": {"views": [1024]}, "seed": 0}
WORDS = ("look \N{GREEK SMALL LETTER ALPHA}", "say")
FULL = predict("q1", turns=WORDS, crops=((1.0, 2.0, 3.5, 4.0),), iou=0.25)


def write(path: Path, *found: Prediction, **changed: object) -> None:
    with PredictionFile(path, PROTOCOL | changed) as file:
        file.append(found)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "predictions.jsonl"
    others = [predict("q2"), predict("q1", arm="noise"), predict("q1", attempt=1)]
    write(path, FULL, *others)
    assert load_predictions(path) == [FULL, *others]
    assert load_contents(path).protocol == PROTOCOL


def test_a_second_run_goes_on_and_the_last_line_counts(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    write(path, FULL)
    with PredictionFile(path, PROTOCOL) as file:
        assert file.holds([place_of(FULL)])
        assert not file.holds([place_of(FULL), place_of(predict("q2"))])
        file.append([predict("q2"), replace(FULL, correct=not FULL.correct)])
        assert file.holds([place_of(FULL), place_of(predict("q2"))])
    assert load_predictions(path) == [replace(FULL, correct=not FULL.correct), predict("q2")]
    assert path.read_bytes().count(b"\n") == 4


@pytest.mark.parametrize("torn", [1, 10, -1])
def test_a_torn_last_line_is_dropped_and_its_row_played_again(tmp_path: Path, torn: int) -> None:
    path = tmp_path / "predictions.jsonl"
    write(path, FULL, predict("q2"))
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    path.write_bytes(whole[: last + torn] if torn > 0 else whole[:torn])
    assert load_predictions(path) == [FULL]
    with PredictionFile(path, PROTOCOL) as file:
        assert not file.holds([place_of(predict("q2"))])
        file.append([predict("q2")])
    assert path.read_bytes() == whole


def test_a_file_of_another_protocol_is_not_added_to(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    write(path, FULL)
    before = path.read_bytes()
    with pytest.raises(BenchmarkError, match=r"was made with seed 0 instead of 1: give model\.output another folder"):
        write(path, seed=1)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "Line 2 of .* is damaged"),
        ('"text"', "Line 2 of .* is damaged"),
        (json.dumps({"key": "q1"}), "Line 2 of .* is damaged .*missing"),
        (json.dumps({"key": "q1", "colour": "red"}), "the field 'colour' is unknown"),
        (json.dumps({"key": 3}), "the field 'key' is 3"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, sentence: str) -> None:
    path = tmp_path / "predictions.jsonl"
    write(path, FULL)
    header, kept = path.read_text().splitlines()
    path.write_text(f"{header}\n{line}\n{kept}\n")
    with pytest.raises(BenchmarkError, match=sentence):
        load_predictions(path)


def test_what_is_no_predictions_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="There is no predictions file"):
        load_predictions(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(BenchmarkError, match="is empty"):
        load_predictions(tmp_path / "empty.jsonl")
    (tmp_path / "other.jsonl").write_text('{"rollout_step": 3}\n')
    with pytest.raises(BenchmarkError, match="is no predictions file"):
        load_predictions(tmp_path / "other.jsonl")
    (tmp_path / "old.jsonl").write_text('{"schema": 0, "protocol": {}}\n')
    with pytest.raises(BenchmarkError, match="its schema is 0, but this version reads 1"):
        load_predictions(tmp_path / "old.jsonl")


def test_half_a_character_of_a_byte_level_policy_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    write(path, replace(FULL, answer="\ud800"))
    assert load_predictions(path)[0].answer == "?"


def test_a_row_that_was_unreadable_is_not_done(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    write(path, unreadable("q3"))
    with PredictionFile(path, PROTOCOL) as file:
        assert not file.holds([place_of(unreadable("q3"))])
        file.append([predict("q3")])
        assert file.holds([place_of(predict("q3"))])
    assert load_predictions(path) == [predict("q3")]


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    with PredictionFile(path, PROTOCOL), pytest.raises(BenchmarkError, match="is being written by another run"):
        PredictionFile(path, PROTOCOL)
    write(path, FULL)
