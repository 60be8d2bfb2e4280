"""From the rewards of a group of episodes to one advantage per episode.

A group is the ``G`` episodes of one prompt. Its baseline is the group's own mean, so nothing here is learned (LFPC
section 3; GRPO, Shao et al. 2024, arXiv 2402.03300). The names of the options, the unbiased standard deviation (divided
by ``n - 1``) and ``epsilon`` are those of TRL's ``GRPOTrainer``.

``sum_then_normalize`` (GRPO): ``r = sum_c w_c r_c``, then ``A = (r - mean_group r) / (s + epsilon)`` where ``s`` is the
standard deviation of ``r`` in its group (``scale_rewards="group"``; LFPC section 3) or over every episode of the batch
(``"batch"``; Liu et al. 2025, arXiv 2508.08221); with ``"none"`` nothing is divided (Dr. GRPO, arXiv 2503.20783).

``normalize_then_sum`` (GDPO, arXiv 2601.05242, as TRL implements it): each column is normalised in its own group,
``z_c = (r_c - mean_group r_c) / (std_group r_c + epsilon)``; the columns are added up, ``a = sum_c w_c z_c``; and the
sums are normalised over the whole batch, ``A = (a - mean_batch a) / (std_batch a + epsilon)``. The mean is 0, as it is
0 in every group, and is left out here. TRL ignores ``scale_rewards``; this module refuses any but ``"group"``.

Suffixes of tensors name their axes: ``p`` prompts (groups), ``g`` episodes of a group, ``c`` reward columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

ScaleRewards = Literal["group", "batch", "none"]
Aggregation = Literal["sum_then_normalize", "normalize_then_sum"]

ZERO_VARIANCE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class GroupAdvantages:
    """What a batch of ``P`` groups of ``G`` episodes earned.

    Attributes:
        rewards_pg: weighted total of the raw reward columns, float32 [P, G].
        advantages_pg: advantage of every episode, float32 [P, G]; exactly 0 throughout a zero-variance group.
        zero_variance_p: bool [P]; true where a group does not say which of its episodes is better, because the values
            that its advantages come from are all equal (spread at most 1e-6). Those values are the weighted totals
            for ``sum_then_normalize``, and for ``normalize_then_sum`` the weighted sums of normalised columns, which
            may differ where the totals are equal.
    """

    rewards_pg: Tensor
    advantages_pg: Tensor
    zero_variance_p: Tensor


def compute_advantages(
    rewards_pgc: Tensor,
    weights_c: Tensor,
    *,
    scale_rewards: ScaleRewards,
    aggregation: Aggregation,
    epsilon: float = 1e-4,
    all_reduce: Callable[[Tensor], Tensor] | None = None,
) -> GroupAdvantages:
    """Turn reward columns into advantages; the formulas stand at the head of this module.

    Args:
        rewards_pgc: raw rewards, [P, G, C], any floating type; the arithmetic is float32. ``P`` may be 0 on a rank.
        weights_c: weight of every column, [C].
        scale_rewards: whose deviation divides the centred totals.
        aggregation: whether columns are added up before or after they are normalised.
        epsilon: added to every standard deviation; 1e-4 is TRL's.
        all_reduce: returns the sum of a tensor over ranks; None if this rank holds the whole batch. Called once, with
            float64 [3] (count, sum, sum of squares) on the rewards' device, for "batch" and "normalize_then_sum" only.

    Raises:
        ValueError: for a bad shape, option, ``epsilon`` or weight, for groups of one, and for rewards not finite.
    """
    check_scaling(scale_rewards, aggregation)
    _check_inputs(rewards_pgc, weights_c, epsilon)
    rewards_pgc = rewards_pgc.detach().float()
    weights_c = weights_c.detach().to(rewards_pgc)
    totals_pg = values_pg = (rewards_pgc * weights_c).sum(-1)
    if aggregation == "normalize_then_sum":
        values_pg = (_normalise_groups(rewards_pgc, epsilon) * weights_c).sum(-1)
        advantages_pg = values_pg / (_batch_deviation(values_pg, all_reduce) + epsilon)
    elif scale_rewards == "group":
        advantages_pg = _normalise_groups(values_pg, epsilon)
    else:
        divisor = _batch_deviation(values_pg, all_reduce) + epsilon if scale_rewards == "batch" else 1.0
        advantages_pg = (values_pg - values_pg.mean(1, keepdim=True)) / divisor
    zero_variance_p = _spread(values_pg).squeeze(1) <= ZERO_VARIANCE_TOLERANCE
    # Rounding leaves 1e-8 where all rewards are equal, and the division would make a small advantage of it.
    return GroupAdvantages(totals_pg, advantages_pg.masked_fill(zero_variance_p[:, None], 0.0), zero_variance_p)


def check_scaling(scale_rewards: ScaleRewards, aggregation: Aggregation) -> None:
    """Refuse an unknown option, and a scale that the aggregation would not use.

    Raises:
        ValueError: naming the option, its value and the choices.
    """
    if scale_rewards not in get_args(ScaleRewards):
        raise ValueError(f"scale_rewards is {scale_rewards!r}; choose one of {', '.join(get_args(ScaleRewards))}.")
    if aggregation not in get_args(Aggregation):
        raise ValueError(f"aggregation is {aggregation!r}; choose one of {', '.join(get_args(Aggregation))}.")
    if aggregation == "normalize_then_sum" and scale_rewards != "group":
        raise ValueError(
            f"scale_rewards is {scale_rewards!r}, but normalize_then_sum always scales a column by its group and their "
            "sum by the batch; leave scale_rewards at 'group'."
        )


def _normalise_groups(values: Tensor, epsilon: float) -> Tensor:
    """Centre axis 1 on its mean and divide by its unbiased standard deviation plus ``epsilon``; other axes are kept.

    Values that are equal within the tolerance become exactly 0.
    """
    centred = values - values.mean(1, keepdim=True)
    # Tensor.std warns of a batch without groups.
    deviation = (centred.square().sum(1, keepdim=True) / (values.shape[1] - 1)).sqrt()
    return (centred / (deviation + epsilon)).masked_fill(_spread(values) <= ZERO_VARIANCE_TOLERANCE, 0.0)


def _spread(values: Tensor) -> Tensor:
    """Largest minus smallest value along axis 1, which is kept with length 1."""
    return values.amax(1, keepdim=True) - values.amin(1, keepdim=True)


def _batch_deviation(values_pg: Tensor, all_reduce: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Unbiased standard deviation over every episode of every rank, a scalar."""
    # Float64: the difference of two large sums loses the variance in float32 where rewards sit far from zero.
    values = values_pg.double()
    sums = torch.stack([values.new_tensor(float(values.numel())), values.sum(), values.square().sum()])
    count, total, squares = (sums if all_reduce is None else all_reduce(sums)).unbind()
    variance = (squares - total.square() / count.clamp(min=1.0)) / (count - 1.0).clamp(min=1.0)
    return variance.clamp(min=0.0).sqrt().to(values_pg)


def _check_inputs(rewards_pgc: Tensor, weights_c: Tensor, epsilon: float) -> None:
    """Raise ValueError unless shapes fit, groups have two episodes or more, and every number is finite."""
    if rewards_pgc.ndim != 3 or weights_c.shape != rewards_pgc.shape[2:]:
        raise ValueError(
            f"Rewards have shape {tuple(rewards_pgc.shape)} and weights {tuple(weights_c.shape)}; they must be "
            "[groups, episodes, columns] and [columns]."
        )
    if rewards_pgc.shape[1] < 2:
        raise ValueError(
            f"The groups have {rewards_pgc.shape[1]} episode, which leaves nothing to compare it with; set group_size "
            "to 2 or more."
        )
    if not epsilon > 0.0:
        raise ValueError(f"epsilon is {epsilon}; it must be positive, for the rewards of a group may all be equal.")
    if not bool(weights_c.isfinite().all()):
        raise ValueError(f"The reward weights are {weights_c.tolist()}; every weight must be finite.")
    bad = (~rewards_pgc.isfinite()).nonzero()
    if len(bad):
        group, episode, column = bad[0].tolist()
        raise ValueError(
            f"The reward of group {group}, episode {episode}, column {column} is "
            f"{float(rewards_pgc[group, episode, column])}; every reward must be finite, so mend its reward function."
        )
