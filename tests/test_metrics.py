from __future__ import annotations

import math
from typing import Any

import pytest
from predictions import answers, predict, sheet_of, unreadable

from infogap.evaluation.bootstrap import Bootstrap
from infogap.evaluation.metrics import (
    EVIDENCE_BINS,
    accuracy_by_category,
    accuracy_by_evidence_size,
    measure,
)
from infogap.evaluation.sheet import build_sheets, countable


def values(*rows: Any) -> dict[str, float]:
    return {name: estimate.value for name, estimate in measure(sheet_of(list(rows))).items()}


def test_the_accuracy_is_the_share_of_right_rows() -> None:
    assert values(*answers("own", "1101"))["accuracy"] == 0.75


def test_several_attempts_give_their_mean_and_whether_any_is_right() -> None:
    rows = [
        predict(key, sign == "1", attempt=n)
        for key, right in (("a", "100"), ("b", "000"))
        for n, sign in enumerate(right)
    ]
    assert values(*rows)["accuracy"] == pytest.approx(1 / 6)
    assert values(*rows)["pass_at_k"] == 0.5
    assert "pass_at_k" not in values(*answers("own", "10"))


def test_rows_weigh_the_same_however_many_attempts_they_have() -> None:
    rows = [predict("a", False, attempt=n) for n in range(3)] + [predict("b", True)]
    assert values(*rows)["accuracy"] == 0.5


def test_what_is_counted_is_averaged_over_questions() -> None:
    box = (0.0, 0.0, 1.0, 1.0)
    measured = values(
        predict(
            "a", crops=(box, box), turns=("x", "y", "z"), bad_calls=1, view_tokens=100, crop_tokens=40, policy_tokens=9
        ),
        predict("b", crops=(), turns=("x",), view_tokens=50, policy_tokens=1),
    )
    expected = {"tool_rate": 0.5, "crops": 1, "turns": 2, "bad_calls": 0.5, "view_tokens": 75, "crop_tokens": 20}
    expected |= {"visual_tokens": 95, "policy_tokens": 5}
    assert {name: measured[name] for name in expected} == expected


def test_what_is_measured_of_crops_is_over_rows_that_have_it() -> None:
    measured = values(
        predict("a", iou=0.5, coverage=0.9, area_ratio=0.2, box_iou=0.4),
        predict("b", iou=0.7, coverage=1.0, area_ratio=0.4, box_iou=0.6),
        predict("c", crops=(), box_iou=0.0),
        predict("d", area_ratio=0.6),
    )
    expected = {"iou": 0.6, "iou_above_half": 0.5, "coverage": 0.95, "coverage_above_tau": 0.5, "area_ratio": 0.4}
    assert {name: measured[name] for name in expected} == pytest.approx(expected)
    assert measured["box_iou"] == pytest.approx(1 / 3)


def test_metrics_without_a_row_are_nan() -> None:
    measured = measure(sheet_of(answers("no_tool", "10")))
    for name in ("iou", "coverage", "area_ratio", "box_iou"):
        assert math.isnan(measured[name].value)
        assert measured[name].count == 0


def test_seconds_have_median_and_ninetieth_percentile() -> None:
    measured = values(*(predict(str(n), seconds=float(n)) for n in range(1, 11)))
    assert (measured["seconds_median"], measured["seconds_p90"]) == (5, 9)


def test_endings_and_methods_are_shares() -> None:
    measured = values(
        predict("a", stop_reason="answered", method="letter"),
        predict("b", False, stop_reason="max_turns", method="unanswered"),
        predict("c", False, stop_reason="answered", method="unmatched"),
        unreadable("d"),
    )
    assert measured["stop_answered"] == pytest.approx(2 / 3)
    assert measured["stop_max_turns"] == pytest.approx(1 / 3)
    assert measured["stop_no_action"] == 0
    shares = [measured[name] for name in ("unanswered", "unmatched", "unreadable", "method_letter")]
    assert shares == [0.25] * 4
    assert not {"method_unanswered", "method_unmatched", "method_unreadable"} & measured.keys()


def test_an_unreadable_row_is_wrong_and_otherwise_not_measured() -> None:
    measured = measure(sheet_of([predict("a", seconds=3.0, view_tokens=10, turns=("x",)), unreadable("b")]))
    assert (measured["accuracy"].value, measured["accuracy"].count) == (0.5, 2)
    for name, value in (("tool_rate", 1), ("turns", 1), ("visual_tokens", 10), ("seconds_median", 3)):
        assert (measured[name].value, measured[name].count) == (value, 1)


def test_unreadable_rows_can_be_excluded() -> None:
    rows = [predict("a"), predict("b", False), unreadable("c")]
    assert countable(rows, "wrong") == rows
    assert countable(rows, "excluded") == rows[:2]


def test_categories_have_their_own_accuracy_and_rows_without_one_are_not_lost() -> None:
    rows = [predict("a", category="x"), predict("b", False, category="x"), predict("c", category="y"), unreadable("d")]
    by_category = accuracy_by_category(sheet_of(rows))
    assert {name: (e.value, e.count) for name, e in by_category.items()} == {"": (0, 1), "x": (0.5, 2), "y": (1, 1)}


def test_evidence_sizes_fall_into_three_bins() -> None:
    sizes = {"a": 0.0009, "b": 0.001, "c": 0.01, "d": 0.011, "e": None}
    rows = [predict(key, key in "bd", evidence_ratio=size) for key, size in sizes.items()]
    by_size = accuracy_by_evidence_size(sheet_of(rows))
    assert [(e.value, e.count) for e in by_size.values()] == [(0, 1), (0.5, 2), (1, 1)]
    assert list(by_size) == list(EVIDENCE_BINS)


def test_an_empty_evidence_bin_is_nan() -> None:
    by_size = accuracy_by_evidence_size(sheet_of([predict("a", evidence_ratio=0.5)]))
    assert [math.isnan(e.value) for e in by_size.values()] == [True, True, False]


def test_sheets_are_sorted_by_view_and_arm() -> None:
    rows = [
        predict("a", arm=arm, view=view)
        for view in ("selected", "4096", "576")
        for arm in ("zoom", "gt", "own", "no_tool")
    ]
    sheets = build_sheets(rows, Bootstrap("a"))
    assert list(sheets) == ["576", "4096", "selected"]
    assert list(sheets["576"]) == ["no_tool", "own", "gt", "zoom"]


def test_an_episode_that_is_there_twice_is_named() -> None:
    with pytest.raises(ValueError, match="'a' has attempt 0 of arm 'own' at view '1024' twice"):
        build_sheets([predict("a"), predict("a", False)], Bootstrap("a"))
