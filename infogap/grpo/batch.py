"""One rollout step's episodes with what they earned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from infogap.episode.rewards import RewardSet
from infogap.grpo.advantages import Aggregation, ScaleRewards, compute_advantages
from infogap.rollout import GroupRollout


@dataclass(frozen=True)
class ScoredBatch:
    """Groups and their rewards. ``P`` groups of ``G`` episodes, ``C`` reward columns; all tensors on the CPU.

    Attributes:
        rollouts: the groups.
        reward_names: names of the columns.
        rewards_pgc: unweighted rewards, ``[P, G, C]``.
        totals_pg: weighted sums, ``[P, G]``.
        advantages_pg: advantages, ``[P, G]``.
        zero_variance_p: groups whose episodes all earned the same, ``[P]`` bool; they teach nothing.
    """

    rollouts: tuple[GroupRollout, ...]
    reward_names: tuple[str, ...]
    rewards_pgc: Tensor
    totals_pg: Tensor
    advantages_pg: Tensor
    zero_variance_p: Tensor

    def column(self, name: str) -> Tensor:
        """One reward column, ``[P, G]``."""
        return self.rewards_pgc[:, :, self.reward_names.index(name)]


def reward_table(rollouts: Sequence[GroupRollout], rewards: RewardSet) -> Tensor:
    """Every reward column of every episode, ``[P, G, C]`` float32; ``[0, 2, C]`` of no groups."""
    rows = [[rewards.score(episode, rollout.sample) for episode in rollout.episodes] for rollout in rollouts]
    return torch.tensor(rows, dtype=torch.float32) if rows else torch.zeros(0, 2, len(rewards.names))


def score_batch(
    rollouts: Sequence[GroupRollout],
    rewards: RewardSet,
    *,
    scale_rewards: ScaleRewards,
    aggregation: Aggregation,
    all_reduce: Callable[[Tensor], Tensor] | None = None,
) -> ScoredBatch:
    """Score every episode and turn the rewards into advantages.

    Args:
        rollouts: the groups, all of one size.
        rewards: the reward columns and their weights.
        scale_rewards: see ``compute_advantages``.
        aggregation: see ``compute_advantages``.
        all_reduce: sums a tensor over ranks; None on one rank.
    """
    rewards_pgc, weights = reward_table(rollouts, rewards), torch.tensor(rewards.weights, dtype=torch.float32)
    found = compute_advantages(
        rewards_pgc, weights, scale_rewards=scale_rewards, aggregation=aggregation, all_reduce=all_reduce
    )
    return ScoredBatch(
        tuple(rollouts), rewards.names, rewards_pgc, found.rewards_pg, found.advantages_pg, found.zero_variance_p
    )


def score_greedy(rollouts: Sequence[GroupRollout], rewards: RewardSet) -> ScoredBatch:
    """Score groups of one episode each, which have rewards and no advantages."""
    rewards_pgc = reward_table(rollouts, rewards)
    totals = rewards_pgc @ torch.tensor(rewards.weights, dtype=torch.float32)
    nothing = torch.zeros_like(totals)
    return ScoredBatch(
        tuple(rollouts), rewards.names, rewards_pgc, totals, nothing, torch.ones(len(totals), dtype=torch.bool)
    )
