from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from predictions import HandMade, answers, predict, unreadable

from infogap.evaluation.bootstrap import Estimate
from infogap.evaluation.results import Results, ResultsError, load_results
from infogap.evaluation.sheet import Sheet


class Scored(HandMade):
    def scores(self, sheet: Sheet) -> dict[str, Estimate]:
        return {"all right": sheet.accuracy}


ROWS = [
    *answers("own", "1101", evidence_ratio=0.005),
    *answers("no_tool", "1000", evidence_ratio=0.005),
    unreadable("row0004", "own"),
    unreadable("row0004", "no_tool"),
]


def refuse(constant: str) -> Any:
    raise AssertionError(constant)


def results_of(rows: list[Any] = ROWS, **protocol: Any) -> Results:
    return Results.of(rows, Scored(), protocol)


def test_the_file_has_the_documented_shape(tmp_path: Path) -> None:
    results_of(views=[1024]).write(tmp_path / "results.json")
    content = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert list(content) == ["schema", "benchmark", "protocol", "counts", "views"]
    assert (content["schema"], content["benchmark"]) == (1, "hand_made")
    assert content["protocol"] == {"views": [1024], "unreadable": "wrong"}
    view = content["views"]["1024"]
    assert list(view) == ["arms", "categories", "evidence_size", "scores", "probes"]
    accuracy = view["arms"]["own"]["accuracy"]
    assert (accuracy["value"], accuracy["count"]) == (0.6, 5)
    assert accuracy["low"] < 0.6 < accuracy["high"]
    assert view["categories"]["colour"]["no_tool"]["value"] == 0.25
    assert view["evidence_size"]["0.1 to 1 %"]["own"]["value"] == 0.75
    assert view["scores"]["own"]["all right"] == accuracy
    assert view["probes"]["crop_gain"]["value"] == pytest.approx(0.4)


def test_what_is_not_defined_is_null(tmp_path: Path) -> None:
    results = results_of(answers("own", "1") + answers("no_tool", "1") + answers("gt", "1"), temperature=math.nan)
    results.write(tmp_path / "results.json")
    content = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    view = content["views"]["1024"]
    assert view["arms"]["own"]["iou"] == {"value": None, "low": None, "high": None, "count": 0}
    assert view["arms"]["own"]["accuracy"] == {"value": 1, "low": None, "high": None, "count": 1}
    assert view["probes"]["gap_closure"]["value"] is None
    assert content["protocol"]["temperature"] is None


def test_rows_are_counted_whatever_became_of_them() -> None:
    rows = [*ROWS, predict("row0005", False, method="unanswered"), predict("row0006", False, method="unmatched")]
    assert results_of(rows).counts == {
        "rows": 7,
        "clusters": 7,
        "episodes": 10,
        "unanswered": 1,
        "unmatched": 1,
        "judge_unclear": 0,
        "unreadable": 1,
        "unreadable_reasons": [{"key": "row0004", "reason": "Row row0004 of file.tsv has no image."}],
    }


def test_unreadable_rows_are_wrong_unless_the_protocol_excludes_them() -> None:
    wrong, excluded = (results_of(unreadable=rule) for rule in ("wrong", "excluded"))
    assert wrong.views["1024"].arms["own"]["accuracy"].value == 0.6
    assert excluded.views["1024"].arms["own"]["accuracy"].value == 0.75
    assert wrong.counts == excluded.counts
    assert excluded.protocol["unreadable"] == "excluded"
    with pytest.raises(ResultsError, match="unreadable rows are 'skip'"):
        results_of(unreadable="skip")


def test_no_more_than_twenty_reasons_are_shown_but_all_rows_counted() -> None:
    counts = results_of([unreadable(f"row{n}") for n in range(30)]).counts
    assert (counts["unreadable"], len(counts["unreadable_reasons"])) == (30, 20)


def test_a_benchmark_of_which_no_row_could_be_read_still_has_results() -> None:
    rows = [unreadable("a"), unreadable("b")]
    assert results_of(rows).views["1024"].arms["own"]["accuracy"].value == 0
    assert results_of(rows, unreadable="excluded").views == {}


def test_no_predictions_are_an_error() -> None:
    with pytest.raises(ResultsError, match="no prediction of hand_made"):
        results_of([])


def test_the_order_of_predictions_does_not_matter() -> None:
    assert json.dumps(results_of(ROWS).to_json()) == json.dumps(results_of(ROWS[::-1]).to_json())


def test_results_are_read_back_as_they_were(tmp_path: Path) -> None:
    results = results_of(views=[1024])
    results.write(tmp_path / "results.json")
    read = load_results(tmp_path / "results.json")
    assert read.to_json() == results.to_json()
    assert math.isnan(read.views["1024"].arms["no_tool"]["iou"].value)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results_of().write(path)
    before = path.read_bytes()
    with pytest.raises(ResultsError, match=r"protocol .* holds what JSON cannot"):
        results_of(folder=Path("x")).write(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            results_of(views=[1024]).write(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda text: text[: len(text) // 2], "damaged"),
        (lambda text: "[]", "damaged"),
        (lambda text: "null", "damaged"),
        (lambda text: text.replace('"schema": 1', '"schema": 2'), "have schema 2, not 1"),
        (lambda text: text.replace('"counts": {', '"numbers": {'), r"damaged \(KeyError: 'counts'\)"),
        (lambda text: text.replace('"probes": {', '"tests": {'), r"damaged \(KeyError: 'probes'\)"),
        (lambda text: text.replace('"value": 0.6,', '"value": "much",'), "damaged .*much"),
        (lambda text: text.replace('"value": 0.6,', '"value": NaN,'), "damaged .*NaN"),
        (lambda text: text.replace('"benchmark": "hand_made"', '"benchmark": 3'), "damaged"),
        (lambda text: re.sub(r'"views": \{.*', '"views": []}', text, flags=re.DOTALL), "damaged"),
        (lambda text: "\xff", "damaged"),
    ],
)
def test_damaged_results_cost_one_sentence(tmp_path: Path, damage: Any, sentence: str) -> None:
    path = tmp_path / "results.json"
    results_of().write(path)
    path.write_text(damage(path.read_text()), encoding="latin-1")
    with pytest.raises(ResultsError, match=f"{re.escape(str(path))} .*{sentence}") as caught:
        load_results(path)
    assert "\n" not in str(caught.value)


def test_missing_results_are_named(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"no results at .*none\.json"):
        load_results(tmp_path / "none.json")
