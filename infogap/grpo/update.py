"""From scored episodes to gradients: rows, exclusions, totals, and the loss of a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from infogap.episode.protocol import Protocol
from infogap.geometry import FramedBox
from infogap.grpo.batch import ScoredBatch
from infogap.grpo.config import AlgorithmConfig
from infogap.grpo.losses import BatchTotals, PolicyTokens, grounding_cross_entropy, policy_loss
from infogap.grpo.metrics import Sums
from infogap.policy.model import Policy, RowScores
from infogap.policy.packing import Chunk, Part, Row, pack, split_by_budget
from infogap.policy.sharding import idle_row
from infogap.rollout import GroupRollout


@dataclass(frozen=True)
class TrainingRow:
    """A packed row with what its sampled tokens are worth.

    Attributes:
        row: the row.
        advantages: advantage of every branch, ``[branches]``; 0 for a branch of taught tokens.
        included: whether each branch's sampled tokens carry loss, ``[branches]`` bool.
    """

    row: Row
    advantages: Tensor
    included: Tensor

    @property
    def token_mask(self) -> Tensor:
        """Whether each sampled token carries loss, ``[T]`` bool."""
        return self.included[self.row.episode]

    @property
    def lengths(self) -> Tensor:
        """Tokens of each branch that carry loss, ``[branches]``."""
        return torch.bincount(self.row.episode[self.token_mask], minlength=self.row.episodes)


def ground_truth_call(policy: Policy, protocol: Protocol, rollout: GroupRollout) -> list[tuple[Chunk, ...]]:
    """Extra branches of a group: an annotated call for each piece of evidence, of which only coordinates are taught.

    Taught is the outermost box of the chain. All of its boxes earn the full IoU (LFPC section 4), and with this one a
    policy that is off by some pixels still covers B_1; with a tighter one it learns to miss it.

    Args:
        policy: makes tokens of the calls.
        protocol: writes them.
        rollout: the group.
    """
    branches: list[tuple[Chunk, ...]] = []
    for boxes in rollout.sample.evidence:
        framed = FramedBox.from_original(boxes[-1], protocol.config.frame, rollout.view, rollout.sample.image.size)
        text = protocol.call_text(framed)
        first, last = text.index("[") + 1, text.index("]")
        encoded = policy.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        taught = [place for place, (start, end) in enumerate(encoded["offset_mapping"]) if start < last and end > first]
        branches.append((Chunk(tuple(encoded["input_ids"]), taught=tuple(taught)),))
    return branches


def training_rows(
    batch: ScoredBatch, extra: Sequence[Sequence[tuple[Chunk, ...]]], config: AlgorithmConfig, image_token_id: int
) -> list[TrainingRow]:
    """Pack the groups that have something to teach.

    A group whose episodes all earned the same has advantage 0 everywhere and is left out, unless it holds taught tokens
    or a KL term acts on it.

    Args:
        batch: the scored episodes.
        extra: branches of taught tokens for every group.
        config: exclusions and the size of a row.
        image_token_id: id of ``<|image_pad|>``.
    """
    numbers = [
        number
        for number in range(len(batch.rollouts))
        if not bool(batch.zero_variance_p[number]) or extra[number] or config.loss.kl_coef > 0
    ]
    advantages, included, groups = [], [], []  # by group, of every branch
    for number in numbers:
        rollout, extras = batch.rollouts[number], len(extra[number])
        groups.append(replace(rollout.group, episodes=(*rollout.group.episodes, *extra[number])))
        advantages.append([*batch.advantages_pg[number].tolist(), *[0.0] * extras])
        included.append([not (config.mask_truncated and e.truncated) for e in rollout.episodes] + [False] * extras)

    def of(parts: Sequence[Part], values: list[list[Any]]) -> Tensor:
        spans = [values[part.number][part.first : part.first + len(part.group.episodes)] for part in parts]
        return torch.tensor([value for span in spans for value in span])

    return [
        TrainingRow(pack([part.group for part in parts], image_token_id), of(parts, advantages), of(parts, included))
        for parts in split_by_budget(groups, config.row_tokens)
    ]


def idle(policy: Policy) -> TrainingRow:
    """A row that teaches nothing."""
    return TrainingRow(idle_row(policy), torch.zeros(1), torch.zeros(1, dtype=torch.bool))


def local_totals(rows: Sequence[TrainingRow], batch: ScoredBatch, config: AlgorithmConfig) -> Tensor:
    """Of this rank: tokens that carry loss (also of left-out groups), episodes, and taught tokens, ``[3]`` float64.

    Args:
        rows: this rank's rows.
        batch: this rank's groups.
        config: says whether truncated episodes carry loss.
    """
    tokens = sum(
        count
        for rollout in batch.rollouts
        for count, episode in zip(rollout.policy_tokens, rollout.episodes, strict=True)
        if not (config.mask_truncated and episode.truncated)
    )
    taught = sum(len(row.row.taught_target) for row in rows)
    return torch.tensor([tokens, batch.totals_pg.numel(), taught], dtype=torch.float64)


def row_loss(
    training_row: TrainingRow,
    scores: RowScores,
    old_logprobs: Tensor | None,
    ref_logprobs: Tensor | None,
    totals: BatchTotals,
    taught_total: float,
    grounding_weight: float,
    config: AlgorithmConfig,
    sums: Sums,
) -> Tensor:
    """Loss of one row, to be summed over rows; its statistics go to ``sums``.

    Args:
        training_row: the row.
        scores: its tokens under the current policy.
        old_logprobs: under the policy before the first update, ``[T]``; None if that is the current one.
        ref_logprobs: under the reference, ``[T]``, or None.
        totals: counts over the optimiser batch.
        taught_total: taught tokens over the optimiser batch and all ranks.
        grounding_weight: weight of the taught tokens' cross-entropy.
        config: the algorithm.
        sums: collects statistics.
    """
    device = scores.logprobs.device
    mask = training_row.token_mask.to(device)
    row = training_row.row
    logprobs, episode = scores.logprobs[mask], row.episode.to(device)[mask]
    tokens = PolicyTokens(
        logprobs=logprobs,
        old_logprobs=logprobs.detach() if old_logprobs is None else old_logprobs[mask],
        advantages=training_row.advantages.to(device)[episode],
        episode_index=episode,
        ref_logprobs=None if ref_logprobs is None else ref_logprobs[mask],
    )
    output = policy_loss(tokens, totals, config.loss, training_row.lengths.to(device))
    loss = output.loss
    if len(scores.taught_logprobs):
        taught = grounding_cross_entropy(scores.taught_logprobs, taught_total, world_size=totals.world_size)
        loss = loss + grounding_weight * taught
        taught_sum = float(scores.taught_logprobs.detach().sum())
        sums.add_ratio("policy/grounding_loss", -taught_sum, len(scores.taught_logprobs))
    metrics = {name: float(value) for name, value in output.metrics.items()}
    for name, key in _TOKEN_METRICS.items():
        sums.add_ratio(name, metrics[key], metrics["tokens"])
    sums.add_ratio("policy/entropy", float(scores.entropy[mask].sum()), metrics["tokens"])
    played = scores.logprobs.detach() if old_logprobs is None else old_logprobs  # by the policy that sampled
    gap = (played - row.rollout_logprobs.to(device))[mask].abs()
    sums.add_ratio("policy/sampler_gap", float(gap.sum()), metrics["tokens"])
    return loss


_TOKEN_METRICS = {
    "policy/clip_low": "clip_low_tokens",
    "policy/clip_high": "clip_high_tokens",
    "policy/dual_clip": "dual_clip_tokens",
    "policy/kl_old": "kl_old_sum",
    "policy/kl_ref": "kl_ref_sum",
    "policy/ratio": "ratio_sum",
}
