"""The switch to stage 2: from some rollout step on, crops are rewarded for where they are (LFPC section 4)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

from lightning.pytorch import Callback, LightningModule, Trainer

if TYPE_CHECKING:
    from infogap.grpo.module import GRPOModule

REWARD: Final = "grounding"

Kind = Literal["reward", "loss", "both"]


class GroundingStage(Callback):
    """Sets the weights of the grounding reward and of the coordinates' cross-entropy before every batch.

    Both follow from the module's rollout step alone, so a resumed run needs no saved state. Before `start` both are 0;
    then come `ramp` steps in which they grow by equal amounts, and after those they have their full value. A weight
    that `kind` does not name stays 0.

    Args:
        weight: full weight of the grounding reward. Not published; default 1.0.
        start: rollout step, counted from 0, of the first batch whose weight is not 0.
        ramp: batches with a part of the weight before the full one. Not published; default 0.
        kind: what supervises the crops: the reward, as in LFPC section 4, the loss, or both.
        loss_weight: full weight of the cross-entropy of the coordinates of annotated calls, each for the outermost box
            of its chain. Not in LFPC; default 1.0 for `kind: loss`. Beside the reward 0.15 was enough on needle scenes,
            and much more took boxes to a size at which the policy misses the evidence (docs/experiments.md).

    Raises:
        ValueError: if a weight is not positive, a number of steps is negative, or the kind is another one.
    """

    def __init__(
        self, weight: float = 1.0, start: int = 0, ramp: int = 0, kind: Kind = "reward", loss_weight: float = 1.0
    ) -> None:
        for name, value in (("weight", weight), ("loss_weight", loss_weight)):
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"GroundingStage.{name} is {value}: give a positive number, or leave the stage out.")
        for name, steps in (("start", start), ("ramp", ramp)):
            if steps < 0:
                raise ValueError(f"GroundingStage.{name} is {steps}: give a number of rollout steps, at least 0.")
        if kind not in get_args(Kind):
            raise ValueError(f"GroundingStage.kind is {kind!r}: use one of {', '.join(get_args(Kind))}.")
        self.weight = weight
        self.start = start
        self.ramp = ramp
        self.kind = kind
        self.loss_weight = loss_weight

    def share(self, rollout_step: int) -> float:
        """Share of the full weights that counts in the batch of that rollout step, in [0, 1]."""
        if rollout_step < self.start:
            return 0.0
        return min((rollout_step - self.start + 1) / (self.ramp + 1), 1.0)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a module without the reward now, not when the stage begins.

        Raises:
            ValueError: if the module has no grounding reward.
        """
        names = cast("GRPOModule", pl_module).rewards.names
        if REWARD not in names:
            raise ValueError(
                f"GroundingStage needs the reward {REWARD!r}, but there is only {', '.join(names)}: add it."
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set both weights."""
        module = cast("GRPOModule", pl_module)
        share = self.share(module.rollout_step)
        module.rewards.set_weight(REWARD, 0.0 if self.kind == "loss" else share * self.weight)
        module.grounding_loss_weight = 0.0 if self.kind == "reward" else share * self.loss_weight
