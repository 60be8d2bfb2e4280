from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from predictions import HandMade, answers, predict, sheets_of, unreadable

from infogap.arguments import CommandError
from infogap.evaluation.compare import Compared, compare, main
from infogap.evaluation.prediction import Prediction
from infogap.evaluation.prediction_file import PredictionFile
from infogap.evaluation.results import Results, ResultsError


class Another(HandMade):
    name = "another"


def save(folder: Path, predictions: list[Prediction], benchmark: HandMade | None = None, **protocol: Any) -> Path:
    with PredictionFile(folder / "predictions.jsonl", protocol) as file:
        file.append(predictions)
    Results.of(predictions, benchmark or HandMade(), protocol).write(folder / "results.json")
    return folder


def line_of(lines: tuple[Compared, ...], name: str, arm: str = "own") -> Compared:
    (found,) = [line for line in lines if (line.name, line.arm) == (name, arm)]
    return found


def test_differences_are_over_common_rows_and_accuracies_over_all(tmp_path: Path) -> None:
    first = save(tmp_path / "a", answers("own", "1100"))
    second = save(tmp_path / "b", answers("own", "-11011"))
    lines = compare([first, second / "results.json"]).lines
    assert [(line.name, line.accuracy.value, line.accuracy.count) for line in lines] == [("a", 0.5, 4), ("b", 0.8, 5)]
    assert lines[0].difference is None
    gap = lines[1].difference
    assert gap is not None
    assert (gap.value, gap.count) == (pytest.approx(2 / 3 - 1 / 3), 3)


def test_differences_are_paired(tmp_path: Path) -> None:
    own, better = answers("own", "10" * 50), answers("own", "10" * 49 + "11")
    lines = compare([save(tmp_path / "a", own), save(tmp_path / "b", better), save(tmp_path / "c", own)]).lines
    gap = line_of(lines, "b").difference
    assert gap is not None
    assert gap.value == pytest.approx(0.01)
    assert (gap.low, gap.high) == (pytest.approx(0, abs=1e-9), pytest.approx(0.03, abs=0.011))
    same = line_of(lines, "c").difference
    assert same is not None
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_a_comparison_agrees_with_the_results_themselves(tmp_path: Path) -> None:
    predictions = answers("own", "1101" * 10)
    folder = save(tmp_path / "a", predictions)
    low, high = sheets_of(predictions, draws=2000)["own"].accuracy.interval
    accuracy = compare([folder]).lines[0].accuracy
    assert (accuracy.low, accuracy.high) == (low, high)


def test_arms_and_views_that_only_one_result_has_are_listed_without_difference(tmp_path: Path) -> None:
    first = save(tmp_path / "a", answers("own", "10"))
    second = save(tmp_path / "b", answers("own", "10") + answers("gt", "11") + answers("own", "11", view="4096"))
    comparison = compare([first, second])
    listed = [(line.view, line.arm, line.name, line.difference is None) for line in comparison.lines]
    assert listed == [
        ("1024", "own", "a", True),
        ("1024", "own", "b", False),
        ("1024", "gt", "b", True),
        ("4096", "own", "b", True),
    ]


def test_an_arm_without_common_rows_has_no_difference(tmp_path: Path) -> None:
    first = save(tmp_path / "a", answers("own", "10") + answers("gt", "1-"))
    second = save(tmp_path / "b", answers("own", "10") + answers("gt", "-1"))
    assert line_of(compare([first, second]).lines, "b", "gt").difference is None


def test_unreadable_rows_count_as_each_protocol_says(tmp_path: Path) -> None:
    rows = [*answers("own", "11"), unreadable("row0002")]
    wrong, excluded = save(tmp_path / "a", rows), save(tmp_path / "b", rows, unreadable="excluded")
    lines = compare([wrong, excluded]).lines
    assert [line.accuracy.count for line in lines] == [3, 2]


def test_protocols_that_differ_are_a_remark_that_names_the_fields(tmp_path: Path) -> None:
    first = save(tmp_path / "a", answers("own", "10"), sampling={"temperature": 0.0, "top_p": 1.0}, judge="x")
    second = save(tmp_path / "b", answers("own", "10"), sampling={"temperature": 0.7, "top_p": 1.0}, views=[1])
    (remark,) = compare([first, second]).remarks
    for part in ("sampling.temperature (0.0, here 0.7)", "judge ('x', here None)", "views (None, here [1])"):
        assert part in remark
    assert "top_p" not in remark
    assert compare([first, first], ["one", "two"]).remarks == ()


def test_that_policies_differ_is_no_remark(tmp_path: Path) -> None:
    first = save(tmp_path / "a", answers("own", "10"), policy="a", weights="sha256:1", seed=0)
    second = save(tmp_path / "b", answers("own", "10"), policy="b", weights="sha256:2", seed=0)
    assert compare([first, second]).remarks == ()


def test_other_right_answers_are_a_remark(tmp_path: Path) -> None:
    first = save(tmp_path / "a", answers("own", "10"))
    second = save(tmp_path / "b", answers("own", "10", gold="C"))
    (remark,) = compare([first, second]).remarks
    assert "2 rows have another right answer in b than in a, such as 'row0000'" in remark


def test_results_of_different_benchmarks_are_refused(tmp_path: Path) -> None:
    first, second = save(tmp_path / "a", answers("own", "1")), save(tmp_path / "b", answers("own", "1"), Another())
    with pytest.raises(ResultsError, match=r"b/results\.json is about another, .*a/results\.json about hand_made"):
        compare([first, second])


def test_results_without_common_rows_are_refused(tmp_path: Path) -> None:
    first, second = save(tmp_path / "a", [predict("x")]), save(tmp_path / "b", [predict("y"), predict("x", arm="gt")])
    with pytest.raises(ResultsError, match=r"b/results\.json and .*a/results\.json have no row of one arm and view"):
        compare([first, second])


def test_a_missing_predictions_file_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", answers("own", "1"))
    (folder / "predictions.jsonl").unlink()
    with pytest.raises(ResultsError, match=r"no predictions\.jsonl beside .*a/results\.json"):
        compare([folder])


def test_missing_results_and_no_results_are_named(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"no results at .*results\.json"):
        compare([tmp_path])
    with pytest.raises(ResultsError, match="nothing to compare"):
        compare([])


def test_names_are_one_for_each_and_all_different(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", answers("own", "1"))
    for names in (["x"], ["x", "x"], ["x", "y", "z"]):
        with pytest.raises(ResultsError, match="There are 2 results and the names"):
            compare([folder, folder], names)


def test_folders_of_one_name_are_called_by_their_paths(tmp_path: Path) -> None:
    folders = [save(tmp_path / run / "vstar", answers("own", "10")) for run in ("one", "two")]
    names = [line.name for line in compare(folders).lines]
    assert names == [str(folder / "results.json") for folder in folders]


def test_the_command_prints_a_table_and_writes_markdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = save(tmp_path / "a", answers("own", "10" * 20), seed=1)
    second = save(tmp_path / "b", answers("own", "11" * 20), seed=2)
    out = tmp_path / "made" / "table.md"
    main([str(first), str(second), "--names", "before", "after", "--markdown", str(out)])
    printed = capsys.readouterr().out
    for text in (printed, out.read_text()):
        assert "before" in text
        assert "+50.0 [+" in text
        assert "seed (1, here 2)" in text
    assert max(map(len, printed.splitlines()[:-1])) <= 100


def test_the_command_without_results_says_where_it_is_described() -> None:
    with pytest.raises(CommandError, match="RESULT is missing: see `infogap compare --help`"):
        main([])
