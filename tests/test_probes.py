from __future__ import annotations

import math

import numpy as np
import pytest
from predictions import TOOL_ARMS, answers, predict, sheets_of, unreadable

from infogap.evaluation.bootstrap import Estimate
from infogap.evaluation.prediction import Prediction
from infogap.evaluation.probes import DIFFERENCES, TERMS, probe

CHANCE = "1000"
"""Right answers of a blind guess among four options, repeated."""


def probes_of(*arms: list[Prediction]) -> dict[str, Estimate]:
    return probe(sheets_of([prediction for arm in arms for prediction in arm]))


def test_a_policy_that_ignores_its_crops_depends_on_none() -> None:
    right = "1101" * 25
    arms = [answers(arm, right) for arm in (*TOOL_ARMS, "no_tool", "gt_only")]
    probes = probes_of(*arms)
    for name in DIFFERENCES:
        assert probes[name].value == 0
        assert not probes[name].draws.any(), name
        assert probes[name].count == 100
    assert math.isnan(probes["gap_closure"].value)


def test_a_sampling_policy_that_ignores_its_crops_has_zero_in_most_intervals() -> None:
    random = np.random.default_rng(0)
    names = ("crop_dependence", "gt_dependence", "crop_gain", "crop_specificity", "content_reliance")
    held = []
    for _ in range(40):
        right = {arm: "".join(random.choice(["0", "1"], 200, p=[0.3, 0.7])) for arm in (*TOOL_ARMS, "no_tool")}
        probes = probes_of(*(answers(arm, signs) for arm, signs in right.items()))
        held += [probes[name].interval[0] <= 0 <= probes[name].interval[1] for name in names]
    assert 0.90 <= np.mean(held) <= 0.99


def test_an_oracle_closes_the_gap_and_depends_on_its_crops() -> None:
    everything, chance = "1" * 100, CHANCE * 25
    blind = [answers(arm, chance) for arm in ("noise", "random", "other", "no_tool", "no_image")]
    probes = probes_of(answers("own", everything), answers("gt", everything), *blind)
    assert probes["gap_closure"].value == 1
    assert probes["gap_closure"].interval == (1, 1)
    for name in ("crop_dependence", "gt_dependence", "crop_gain", "crop_specificity", "content_reliance"):
        assert probes[name].value == 0.75
        assert probes[name].interval[0] > 0.6
    assert probes["gt_minus_own"].value == 0
    assert probes["leakage"].value == 0


def test_a_text_memoriser_has_leakage_only() -> None:
    arms = [answers(arm, "1" * 100) for arm in (*TOOL_ARMS, "no_tool", "gt_only", "no_image")]
    probes = probes_of(*arms)
    assert probes["leakage"].value == 0.75
    assert probes["leakage"].interval == (0.75, 0.75)
    assert all(not probes[name].draws.any() for name in (*DIFFERENCES, *TERMS, "tool_only_solved"))


def test_leakage_below_chance_is_none() -> None:
    leakage = probes_of(answers("no_image", "0" * 9 + "1"))["leakage"]
    assert leakage.value == 0
    assert (leakage.draws >= 0).all()


def test_arms_that_some_rows_lack_are_compared_on_the_others() -> None:
    probes = probes_of(answers("own", "10010"), answers("gt", "--111"), answers("no_tool", "11000"))
    assert probes["gt_minus_own"].value == pytest.approx(1 - 1 / 3)
    assert probes["gt_minus_own"].count == 3
    assert probes["crop_gain"].value == 0
    assert probes["gap_closure"].value == pytest.approx(1 / 3)  # over the last three rows alone


def test_arms_without_common_rows_give_nan() -> None:
    probes = probes_of(answers("own", "11--"), answers("noise", "--01"), answers("no_tool", "--01"))
    assert math.isnan(probes["crop_dependence"].value)
    assert probes["crop_dependence"].count == 0
    assert math.isnan(probes["call_gain"].value)
    assert math.isnan(probes["tool_only_solved"].value)


def test_only_probes_whose_arms_are_there_appear() -> None:
    assert probes_of(answers("no_tool", "10")) == {}
    assert set(probes_of(answers("own", "10"), answers("gt", "11"))) == {"gt_minus_own"}
    assert set(probes_of(answers("gt_only", "10"), answers("no_tool", "11"))) == {"dual_view_gap"}


def med_table() -> list[list[Prediction]]:
    """20 rows: (right without the tool, with a crop, right with the tool) and how many."""
    cells = {
        (False, True, True): 4,
        (False, True, False): 2,
        (False, False, True): 1,
        (False, False, False): 3,
        (True, True, False): 2,
        (True, True, True): 3,
        (True, False, False): 1,
        (True, False, True): 4,
    }
    kinds = [kind for kind, count in cells.items() for _ in range(count)]
    without = [predict(f"row{n}", kind[0], "no_tool") for n, kind in enumerate(kinds)]
    crops = {True: {}, False: {"crops": ()}}
    return [without, [predict(f"row{n}", kind[2], "own", **crops[kind[1]]) for n, kind in enumerate(kinds)]]


def test_the_four_terms_of_med_and_their_factors() -> None:
    probes = probes_of(*med_table())
    expected = {
        "call_gain": (4 / 20, 10 / 20, 6 / 10, 4 / 6),
        "schema_gain": (1 / 20, 10 / 20, 4 / 10, 1 / 4),
        "call_harm": (2 / 20, 10 / 20, 5 / 10, 2 / 5),
        "schema_harm": (1 / 20, 10 / 20, 5 / 10, 1 / 5),
    }
    for name, (term, mass, policy, quality) in expected.items():
        found = [probes[key].value for key in (name, f"{name}_mass", f"{name}_policy", f"{name}_quality")]
        assert found == pytest.approx([term, mass, policy, quality])
        assert term == pytest.approx(mass * policy * quality)


def test_the_four_terms_of_med_add_up_in_every_draw() -> None:
    probes = probes_of(*med_table())
    total = probes["call_gain"] + probes["schema_gain"] - probes["call_harm"] - probes["schema_harm"]
    assert total.value == pytest.approx(probes["crop_gain"].value, abs=1e-12)
    assert total.draws == pytest.approx(probes["crop_gain"].draws, abs=1e-12)


def test_rows_are_paired_by_their_key_not_by_their_place() -> None:
    without, own = med_table()
    in_order, turned = probes_of(without, own), probes_of(without, own[::-1])
    for name, probe_in_order in in_order.items():
        assert turned[name].value == pytest.approx(probe_in_order.value, nan_ok=True), name


def test_attempts_are_paired_by_their_number() -> None:
    without = [predict("a", False, "no_tool"), predict("a", True, "no_tool", attempt=1), predict("b", True, "no_tool")]
    own = [predict("a", False, attempt=1), predict("a", True), predict("b", True), predict("b", False, attempt=1)]
    probes = probes_of(without, own)
    assert probes["call_gain"].value == probes["call_harm"].value == 0.25  # half of row a's attempts each
    assert probes["call_gain_mass"].value == 0.25  # attempt 1 of row b has no partner


def test_an_unreadable_row_gains_and_loses_nothing() -> None:
    rows = [unreadable("x", "own"), unreadable("x", "no_tool"), predict("a"), predict("a", False, "no_tool")]
    probes = probe(sheets_of(rows))
    assert probes["crop_gain"].value == probes["call_gain"].value == 0.5
    assert probes["call_harm"].value == 0


def test_a_policy_that_never_calls_has_no_quality_of_calls() -> None:
    own = [predict(row.key, row.correct, crops=()) for row in answers("own", "1100")]
    probes = probes_of(own, answers("no_tool", "1010"))
    assert probes["call_gain"].value == probes["call_gain_policy"].value == 0
    assert math.isnan(probes["call_gain_quality"].value)
    assert probes["schema_gain"].value == probes["schema_harm"].value == 0.25


def test_rows_that_only_the_tool_solves() -> None:
    probes = probes_of(answers("own", "111100"), answers("no_tool", "100010"), answers("no_image", "010000"))
    assert probes["tool_only_solved"].value == pytest.approx(2 / 6)
    assert probes["tool_only_share"].value == pytest.approx(2 / 4)


def test_a_row_that_any_attempt_without_the_tool_solves_is_not_the_tools_alone() -> None:
    without = [predict("row0000", False, "no_tool"), predict("row0000", True, "no_tool", attempt=1)]
    assert probes_of(answers("own", "1"), without)["tool_only_solved"].value == 0


def test_information_gains_are_over_the_rows_that_have_them() -> None:
    rows = [
        predict("a", information_gain=1.0, placebo_gain=0.25),
        predict("b", information_gain=3.0),
        predict("c"),
    ]
    probes = probes_of(rows)
    assert (probes["information_gain"].value, probes["information_gain"].count) == (2, 2)
    assert (probes["placebo_gain"].value, probes["placebo_gain"].count) == (0.25, 1)
    over_placebo = probes["information_gain_over_placebo"]
    assert (over_placebo.value, over_placebo.count) == (0.75, 1)
    assert "information_gain" not in probes_of(answers("own", "10"))
