"""Updates of the policy on the rows of one rollout step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from infogap.grpo.batch import ScoredBatch
from infogap.grpo.config import AlgorithmConfig
from infogap.grpo.losses import BatchTotals
from infogap.grpo.metrics import Sums
from infogap.grpo.ranks import Ranks
from infogap.grpo.update import TrainingRow, idle, local_totals, row_loss
from infogap.policy.model import Policy
from infogap.policy.reference import Reference
from infogap.policy.sharding import average_gradients, is_sharded


@dataclass(frozen=True)
class Learner:
    """Computes gradients, row by row.

    Attributes:
        policy: what is trained.
        reference: for the KL term, or None.
        algorithm: the loss, and how many updates.
        temperature: at which tokens are scored.
        ranks: the processes that share the batch.
        backward: backpropagates a loss.
    """

    policy: Policy
    reference: Reference | None
    algorithm: AlgorithmConfig
    temperature: float
    ranks: Ranks
    backward: Callable[[Tensor], None]

    def learn(
        self,
        rows: Sequence[TrainingRow],
        batch: ScoredBatch,
        grounding_weight: float,
        sums: Sums,
        step: Callable[[], None],
    ) -> None:
        """Make all updates of a rollout step.

        Args:
            rows: this rank's rows; ranks may have different numbers of them, and none.
            batch: the episodes that they come from.
            grounding_weight: weight of the taught tokens' cross-entropy.
            sums: collects statistics.
            step: called when the gradients of an update are complete, those of all ranks averaged.
        """
        self.policy.train()  # transformers checkpoints activations in this mode only; there is no dropout by default
        most = self.ranks.most(len(rows))
        if is_sharded(self.policy):  # every forward and backward pass is one of all ranks
            rows = [*rows, *[idle(self.policy)] * (most - len(rows))]
        local = local_totals(rows, batch, self.algorithm)
        tokens, episodes, taught = self.ranks.sum(local).tolist()
        totals = BatchTotals(tokens, episodes, float(local[0]), self.ranks.world_size)
        several = self.algorithm.updates_per_rollout > 1
        with torch.no_grad():
            old = [self.policy(row.row, self.temperature).logprobs if several else None for row in rows]
        ref = [self.reference.logprobs(row.row, self.temperature) if self.reference else None for row in rows]
        for _ in range(self.algorithm.updates_per_rollout):
            losses = []
            for row, old_logprobs, ref_logprobs in zip(rows, old, ref, strict=True):
                scores = self.policy(row.row, self.temperature)
                loss = row_loss(
                    row, scores, old_logprobs, ref_logprobs, totals, taught, grounding_weight, self.algorithm, sums
                )
                losses.append(float(loss.detach()))
                self.backward(loss)
            sums.add("policy/loss", [sum(losses)])
            if most and self.ranks.world_size > 1:
                average_gradients(self.policy.parameters())
            step()
