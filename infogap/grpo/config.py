"""What the GRPO module is configured by, beside the policy and the rollout."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from infogap.grpo.advantages import Aggregation, ScaleRewards, check_scaling
from infogap.grpo.losses import LossConfig

Schedule = Literal["constant", "linear"]


@dataclass
class AlgorithmConfig:
    """How episodes become gradients.

    Args:
        loss: clipping, regularisation and normalisation of the token loss.
        scale_rewards: what a group's centred rewards are divided by: its own standard deviation ("group", LFPC section
            3), that of the whole batch ("batch"), or nothing ("none", Dr. GRPO).
        aggregation: whether reward columns are summed before they are normalised (LFPC), or after (GDPO).
        updates_per_rollout: optimiser steps on the same episodes; above 1 the loss compares with the policy before.
        mask_truncated: leave episodes that ran out of tokens out of the loss (DAPO's overlong masking).
        row_tokens: most tokens of a packed row, that is of one forward and backward pass; a larger group is cut into
            several rows, each with the prompt and some of the episodes. Ours.

    Raises:
        ValueError: if a value means nothing.
    """

    loss: LossConfig = field(default_factory=LossConfig)
    scale_rewards: ScaleRewards = "group"
    aggregation: Aggregation = "sum_then_normalize"
    updates_per_rollout: int = 1
    mask_truncated: bool = False
    row_tokens: int = 16384

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        check_scaling(self.scale_rewards, self.aggregation)
        for name in ("updates_per_rollout", "row_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"algorithm.{name} is {getattr(self, name)}: give at least 1.")


@dataclass
class OptimConfig:
    """AdamW.

    Args:
        lr: learning rate. LFPC section 5: 1e-6 for the 7B.
        vision_lr: learning rate of the vision tower; null is the same.
        betas: decay of the moments.
        weight_decay: decoupled weight decay. Not published.
        warmup_updates: updates over which the rate rises from 0.
        schedule: after that the rate stays ("constant", our reading of LFPC section 5, which gives one number), or
            falls evenly and would be 0 one update after the run's last ("linear").
        max_grad_norm: gradients are scaled down to this norm. Not published; ours.

    Raises:
        ValueError: if a value is out of its range.
    """

    lr: float = 1e-6
    vision_lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup_updates: int = 0
    schedule: Schedule = "constant"
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        """Refuse rates that cannot train."""
        for name in ("lr", "vision_lr", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"optim.{name} is {value}: give a positive number.")
        if self.warmup_updates < 0:
            raise ValueError(f"optim.warmup_updates is {self.warmup_updates}: give 0 or more.")
        if self.schedule not in get_args(Schedule):
            raise ValueError(f"optim.schedule is {self.schedule!r}: use one of {', '.join(get_args(Schedule))}.")

    def factor(self, update: int, total: float) -> float:
        """What the rate is multiplied by in an update.

        Args:
            update: the update, counted from 0.
            total: updates of the whole run; infinite if it has no end, and then nothing falls.
        """
        rise = min(1.0, (update + 1) / self.warmup_updates) if self.warmup_updates else 1.0
        if self.schedule == "constant" or update < self.warmup_updates or math.isinf(total):
            return rise
        return max(0.0, (total - update) / max(1.0, total - self.warmup_updates))
