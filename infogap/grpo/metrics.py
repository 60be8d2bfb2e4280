"""What a rollout step is measured by: a fixed set of keys, every step, every rank.

Every metric is a sum and a count, so that ranks add up exactly; a mean over nothing (the IoU of no crops) is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import torch
from torch import Tensor

from infogap.episode.rewards import GroundingConfig, grounding_score
from infogap.grpo.batch import ScoredBatch
from infogap.rollout import GroupRollout
from infogap.types import StopReason

_VALIDATED: Final = (
    "reward/accuracy",
    "reward/total",
    "episode/tool_rate",
    "episode/visual_tokens",
    "crop/area_ratio",
    "crop/iou",
    "crop/coverage",
    "crop/coverage_above_tau",
)
"""What a validation logs of the metrics of a batch."""


class Sums:
    """Named means, kept as sums and counts."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[float, float]] = {}

    def add(self, name: str, values: Iterable[float] | Tensor) -> None:
        """Add the values of one metric; an empty list is a metric that has none this time."""
        listed = [float(value) for value in values]
        total, count = self._entries.get(name, (0.0, 0.0))
        self._entries[name] = (total + sum(listed), count + len(listed))

    def add_ratio(self, name: str, total: float, count: float) -> None:
        """Add a sum of ``count`` values.

        Args:
            name: the metric.
            total: the sum.
            count: how many values it is of.
        """
        before = self._entries.get(name, (0.0, 0.0))
        self._entries[name] = (before[0] + total, before[1] + count)

    def means(
        self, all_reduce: Callable[[Tensor], Tensor] | None = None, names: Sequence[str] | None = None
    ) -> dict[str, float]:
        """The means, over all ranks if ``all_reduce`` sums a tensor over them.

        Args:
            all_reduce: sums a tensor over ranks; all must have the same names in the same order. None on one rank.
            names: the metrics that are wanted, also those that nothing was added to; None for those that were named.
        """
        wanted = list(self._entries) if names is None else names
        table = torch.tensor([self._entries.get(name, (0.0, 0.0)) for name in wanted], dtype=torch.float64).view(-1, 2)
        if all_reduce is not None:
            table = all_reduce(table)
        return {
            name: total / count if count else 0.0 for name, (total, count) in zip(wanted, table.tolist(), strict=True)
        }


def add_batch_metrics(sums: Sums, batch: ScoredBatch, grounding: GroundingConfig) -> None:
    """Rewards, groups, episodes and crops of a scored batch.

    Args:
        sums: where they are added.
        batch: the scored batch.
        grounding: how crops are compared with the evidence.
    """
    for name in batch.reward_names:
        sums.add(f"reward/{name}", batch.column(name).flatten())
        sums.add(f"reward/{name}_std", _group_std(batch.column(name)))
    sums.add("reward/total", batch.totals_pg.flatten())
    sums.add("reward/total_std", _group_std(batch.totals_pg))
    right = batch.column("accuracy") > 0
    sums.add("group/all_right", right.all(dim=1))
    sums.add("group/all_wrong", (~right).all(dim=1))
    sums.add("group/zero_variance", batch.zero_variance_p)
    sums.add("group/advantage_std", _group_std(batch.advantages_pg))
    # a rank without a group names the same metrics
    episodes = [episode for rollout in batch.rollouts for episode in rollout.episodes]
    sums.add("episode/turns", [len(episode.turns) for episode in episodes])
    sums.add("episode/crops", [len(episode.crops) for episode in episodes])
    sums.add("episode/tool_rate", [bool(episode.crops) for episode in episodes])
    sums.add("episode/bad_calls", [episode.bad_calls for episode in episodes])
    sums.add("episode/policy_tokens", [count for rollout in batch.rollouts for count in rollout.policy_tokens])
    sums.add("episode/visual_tokens", [count for rollout in batch.rollouts for count in rollout.visual_tokens])
    for reason in StopReason:
        sums.add(f"episode/stop_{reason.value}", [episode.stop_reason is reason for episode in episodes])
    _add_crop_metrics(sums, batch.rollouts, grounding)


def validation_keys(extra: Iterable[str]) -> dict[str, str]:
    """What a validation logs: names of a batch's metrics, and the keys that they are logged under.

    Args:
        extra: names of the rewards beside the four of LFPC. Their keys have a prefix, so that no name is taken.
    """
    keys = {name: f"eval/{name.split('/')[1]}" for name in _VALIDATED}
    return keys | {f"reward/{name}": f"eval/reward_{name}" for name in extra}


def _group_std(values_pg: Tensor) -> Tensor:
    """Standard deviation of every group; torch warns of no groups."""
    return (values_pg - values_pg.mean(dim=1, keepdim=True)).square().mean(dim=1).sqrt()


def add_update_keys(sums: Sums) -> None:
    """Name the metrics of an update, so that a step in which nothing can be learned logs the same keys."""
    names = (
        "loss",
        "entropy",
        "sampler_gap",
        "clip_low",
        "clip_high",
        "dual_clip",
        "kl_old",
        "kl_ref",
        "ratio",
        "grounding_loss",
    )
    for name in names:
        sums.add(f"policy/{name}", [])
    for name in ("grad_norm", "lr"):
        sums.add(f"optim/{name}", [])


def _add_crop_metrics(sums: Sums, rollouts: Sequence[GroupRollout], grounding: GroundingConfig) -> None:
    cropping = [(rollout.sample, episode) for rollout in rollouts for episode in rollout.episodes if episode.crops]
    sums.add(
        "crop/area_ratio",
        [c.area / (s.image.size.width * s.image.size.height) for s, episode in cropping for c in episode.crops],
    )
    found = [grounding_score(e.crops, s.evidence, s.image.size, grounding) for s, e in cropping]
    scores = [score for score in found if score is not None]
    sums.add("crop/iou", [score.iou for score in scores])
    sums.add("crop/coverage", [score.coverage for score in scores])
    sums.add("crop/coverage_above_tau", [score.coverage > grounding.tau for score in scores])
