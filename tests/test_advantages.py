from __future__ import annotations

import itertools
import math
from statistics import mean, stdev
from typing import Any

import pytest
import torch
from torch import Tensor

from infogap.grpo.advantages import GroupAdvantages, compute_advantages

EPSILON = 1e-4
OPTIONS = [("group", "sum_then_normalize"), ("batch", "sum_then_normalize"), ("none", "sum_then_normalize")]
OPTIONS.append(("group", "normalize_then_sum"))


def compute(
    rewards: Any, weights: Any, scale: Any = "group", aggregation: Any = "sum_then_normalize"
) -> GroupAdvantages:
    return compute_advantages(
        torch.as_tensor(rewards), torch.as_tensor(weights), scale_rewards=scale, aggregation=aggregation
    )


def assert_close(actual: Tensor, expected: Any, tolerance: float = 1e-6) -> None:
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float32), atol=tolerance, rtol=tolerance)


# Accuracy, format and tool columns of two groups of four. With weights 0.8, 0.2 and 1.2 the totals are
#   group 0:   2, 0, 0, 0          mean 0.5, deviations 1.5, -0.5, -0.5, -0.5; variance (2.25 + 3 * 0.25) / 3 = 1
#   group 1:  -0.2 four times      no variance
TABLE = [
    [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
    [[0.0, -1.0, 0.0], [0.0, -1.0, 0.0], [0.0, -1.0, 0.0], [0.0, -1.0, 0.0]],
]
WEIGHTS = [0.8, 0.2, 1.2]


def test_group_scale_by_hand() -> None:
    result = compute(TABLE, WEIGHTS)
    assert_close(result.rewards_pg, [[2.0, 0.0, 0.0, 0.0], [-0.2, -0.2, -0.2, -0.2]])
    assert_close(result.advantages_pg, [[1.5 / 1.0001] + [-0.5 / 1.0001] * 3, [0.0] * 4])
    assert result.zero_variance_p.tolist() == [False, True]


def test_no_scale_by_hand() -> None:
    assert_close(compute(TABLE, WEIGHTS, "none").advantages_pg, [[1.5, -0.5, -0.5, -0.5], [0.0] * 4])


def test_batch_scale_by_hand() -> None:
    # The eight totals have mean (2 - 0.8) / 8 = 0.15, so squared deviations
    # 1.85^2 + 3 * 0.15^2 + 4 * 0.35^2 = 3.4225 + 0.0675 + 0.49 = 3.98, and the variance is 3.98 / 7.
    deviation = math.sqrt(3.98 / 7) + EPSILON
    expected = [[1.5 / deviation] + [-0.5 / deviation] * 3, [0.0] * 4]
    assert_close(compute(TABLE, WEIGHTS, "batch").advantages_pg, expected)


def test_normalize_then_sum_by_hand() -> None:
    # Two episodes that differ by d lie d/2 from their mean, with standard deviation d/sqrt(2): that is z(d), + and -.
    # Weights 1 and 2. Group 0: a = +-z(1). Group 1: a = +-(z(1) - 2 z(10)). Group 2 has constant columns: a = 0.
    # The batch has mean 0 and variance 2 (a0^2 + a1^2) / 5.
    rewards = [[[1.0, 0.7], [0.0, 0.7]], [[1.0, 0.0], [0.0, 10.0]], [[0.7, 0.3], [0.7, 0.3]]]

    def z(difference: float) -> float:
        return difference / 2 / (difference / math.sqrt(2) + EPSILON)

    a0, a1 = z(1), z(1) - 2 * z(10)
    deviation = math.sqrt(2 * (a0**2 + a1**2) / 5) + EPSILON
    result = compute(rewards, [1.0, 2.0], "group", "normalize_then_sum")
    assert_close(result.advantages_pg, [[a0 / deviation, -a0 / deviation], [a1 / deviation, -a1 / deviation], [0, 0]])
    assert_close(result.rewards_pg, [[2.4, 1.4], [1.0, 20.0], [1.3, 1.3]])
    assert result.zero_variance_p.tolist() == [False, False, True]
    assert result.advantages_pg[2].tolist() == [0.0, 0.0]


def test_normalize_then_sum_sees_a_preference_that_equal_totals_hide() -> None:
    rewards = [[[2.0, 0.0], [0.0, 1.0]]]  # with weights 1 and 2 both episodes total 2; their z sum to -+0.707
    summed = compute(rewards, [1.0, 2.0])
    assert summed.zero_variance_p.tolist() == [True]
    assert summed.advantages_pg.tolist() == [[0.0, 0.0]]
    decoupled = compute(rewards, [1.0, 2.0], "group", "normalize_then_sum")
    assert decoupled.zero_variance_p.tolist() == [False]
    assert_close(decoupled.advantages_pg, [[-0.7071, 0.7071]], 2e-4)


def reference(
    rewards: list[list[list[float]]], weights: list[float], scale: str, aggregation: str
) -> list[list[float]]:
    """The definition in plain Python."""
    if aggregation == "normalize_then_sum":
        values = []
        for group in rewards:
            columns = list(zip(*group, strict=True))
            z = [[(r - mean(column)) / (stdev(column) + EPSILON) for r in column] for column in columns]
            values.append([sum(w * row[g] for w, row in zip(weights, z, strict=True)) for g in range(len(group))])
        everything = list(itertools.chain(*values))
        return [[(v - mean(everything)) / (stdev(everything) + EPSILON) for v in group] for group in values]
    totals = [[sum(w * r for w, r in zip(weights, episode, strict=True)) for episode in group] for group in rewards]
    batch_deviation = stdev(itertools.chain(*totals))
    deviations = {
        "group": [stdev(group) + EPSILON for group in totals],
        "batch": [batch_deviation + EPSILON] * len(totals),
        "none": [1.0] * len(totals),
    }
    return [[(r - mean(group)) / s for r in group] for group, s in zip(totals, deviations[scale], strict=True)]


@pytest.mark.parametrize(("scale", "aggregation"), OPTIONS)
def test_equals_the_definition(scale: str, aggregation: str) -> None:
    rewards = torch.randn(5, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = compute(rewards, WEIGHTS, scale, aggregation)
    assert_close(result.advantages_pg, reference(rewards.tolist(), WEIGHTS, scale, aggregation), 1e-5)
    assert not result.zero_variance_p.any()


@pytest.mark.parametrize(("scale", "aggregation"), OPTIONS)
def test_two_ranks_equal_one(scale: Any, aggregation: Any) -> None:
    rewards = 100 + torch.randn(5, 4, 2, generator=torch.Generator().manual_seed(1))
    weights = torch.tensor([1.0, 0.5])
    parts = [rewards[:2], rewards[2:], rewards[:0]]  # uneven, and a rank without groups
    sent: list[Tensor] = []

    def on_rank(part: Tensor, all_reduce: Any) -> GroupAdvantages:
        return compute_advantages(part, weights, scale_rewards=scale, aggregation=aggregation, all_reduce=all_reduce)

    def record(sums: Tensor) -> Tensor:
        sent.append(sums)
        return sums

    for part in parts:
        on_rank(part, record)
    assert len(sent) == (3 if "batch" in scale or aggregation == "normalize_then_sum" else 0)
    assert all(sums.shape == (3,) for sums in sent)
    ranks = [on_rank(part, lambda _: torch.stack(sent).sum(0)) for part in parts]
    whole = compute(rewards, weights, scale, aggregation)
    torch.testing.assert_close(torch.cat([rank.advantages_pg for rank in ranks]), whole.advantages_pg)
    assert ranks[2].advantages_pg.shape == (0, 4)


def test_batch_deviation_survives_rewards_far_from_zero() -> None:
    rewards = 10_000 + torch.randn(8, 8, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    rewards = rewards.float()
    centred = rewards.double().squeeze(2) - rewards.double().squeeze(2).mean(1, keepdim=True)
    expected = centred / (rewards.double().std() + EPSILON)
    assert_close(compute(rewards, [1.0], "batch").advantages_pg, expected.tolist(), 2e-3)


def test_batch_deviation_is_never_the_root_of_a_negative_rounding_error() -> None:
    rewards = torch.full((1000, 2, 1), 999.7)
    rewards[0, 0] += 1.2e-4  # sum of squares minus squared sum comes out as -2.4e-7
    assert compute(rewards, [1.0], "batch").advantages_pg.isfinite().all()


@pytest.mark.parametrize(("scale", "aggregation"), OPTIONS)
def test_rounding_makes_no_advantage(scale: str, aggregation: str) -> None:
    rewards = torch.tensor([[[0.7]] * 7, [[0.7]] * 7])
    rewards[0, 0] += 2e-7  # a few roundings apart, as sums in a different order are
    result = compute(rewards, [1.0], scale, aggregation)
    assert result.zero_variance_p.tolist() == [True, True]
    assert not result.advantages_pg.any()


def test_a_difference_above_the_tolerance_counts() -> None:
    result = compute([[[0.0], [3e-6]]], [1.0])
    assert result.zero_variance_p.tolist() == [False]
    assert result.advantages_pg[0, 1] > 0


def test_a_column_without_weight_changes_nothing() -> None:
    rewards = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(3))
    for scale, aggregation in OPTIONS:
        both = compute(rewards, [1.0, 0.0], scale, aggregation)
        alone = compute(rewards[..., :1], [1.0], scale, aggregation)
        torch.testing.assert_close(both.advantages_pg, alone.advantages_pg)


def test_half_precision_rewards_are_widened() -> None:
    rewards = torch.tensor([[[1.0], [0.0], [0.0]]], dtype=torch.bfloat16)
    expected = compute([[[1.0], [0.0], [0.0]]], [0.8]).advantages_pg
    torch.testing.assert_close(compute(rewards, torch.tensor([0.8])).advantages_pg, expected)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_is_named(value: float) -> None:
    rewards = torch.zeros(3, 4, 2)
    rewards[2, 1, 0] = value
    with pytest.raises(ValueError, match=rf"group 2, episode 1, column 0 is {value};"):
        compute(rewards, [1.0, 0.0])


@pytest.mark.parametrize(
    ("rewards", "weights", "options", "message"),
    [
        (torch.zeros(2, 1, 1), [1.0], {}, "group_size"),
        (torch.zeros(2, 4), [1.0], {}, r"\(2, 4\)"),
        (torch.zeros(2, 4, 2), [1.0], {}, r"weights \(1,\)"),
        (torch.zeros(2, 4, 1), [math.nan], {}, "every weight"),
        (torch.zeros(2, 4, 1), [1.0], {"scale_rewards": "std"}, "'std'; choose one of group, batch, none"),
        (torch.zeros(2, 4, 1), [1.0], {"aggregation": "sum"}, "'sum'; choose one of sum_then_normalize"),
        (torch.zeros(2, 4, 1), [1.0], {"scale_rewards": "batch", "aggregation": "normalize_then_sum"}, "leave scale"),
        (torch.zeros(2, 4, 1), [1.0], {"epsilon": 0.0}, "epsilon is 0.0"),
    ],
)
def test_errors(rewards: Tensor, weights: list[float], options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"scale_rewards": "group", "aggregation": "sum_then_normalize", **options}
    with pytest.raises(ValueError, match=message):
        compute_advantages(rewards, torch.tensor(weights), **arguments)
