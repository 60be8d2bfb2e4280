"""The clipped policy loss of GRPO and its relatives, over policy tokens only.

Everything is flat: the ``T`` policy tokens of the ``E`` episodes of one micro-batch, in any order. Observation tokens
never get here. **An episode is never split over two micro-batches**, so a mean over an episode needs local data only.

With ``r`` the probability ratio of the current policy to the one that sampled, and ``A`` the advantage, a token costs

    -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) + kl_coef * k3

Every ``loss_type`` is a sum of token costs, with weights that depend on the optimiser batch alone. The losses of its
micro-batches therefore add up to the loss of the batch, however it is cut:

    dapo     ranks / (policy tokens of the batch)                    Yu et al. 2025, arXiv 2503.14476
    grpo     ranks / (policy tokens of the episode * episodes)       Shao et al. 2024, arXiv 2402.03300
    dr_grpo  ranks / (episodes * max_completion_length)              Liu et al. 2025, arXiv 2503.20783
    bnpo     1 / (policy tokens of the batch on this rank)           TRL's name

Sharded and replicated training average gradients over ranks, hence the number of ranks above: **the loss is the mean
over ranks of the sum over micro-batches.** ``bnpo`` is the mean of the ranks' own token means: on one rank it is
``dapo``, on many it gives a token more weight on a rank with fewer tokens. Names and normalisers are TRL's, but where
TRL averages over micro-batches (all but ``dapo``), some of unequal size change its loss, and here they do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

LossType = Literal["dapo", "grpo", "dr_grpo", "bnpo"]
ImportanceLevel = Literal["token", "sequence"]

# exp() of much more overflows, and an infinite ratio times an advantage of 0 is NaN; verl's limit is 20 as well.
MAX_LOG_RATIO = 20.0


@dataclass(frozen=True)
class LossConfig:
    """How token costs are clipped, regularised and averaged.

    Attributes:
        loss_type: what the sum of token costs is divided by. "dapo" (TRL's default): policy tokens of the whole
            optimiser batch. "grpo": policy tokens of the episode, then episodes. "dr_grpo": episodes times
            max_completion_length. "bnpo": policy tokens of the batch on the same rank. LFPC's choice is not published.
        importance_level: "token": every token has its own probability ratio. "sequence" (GSPO, arXiv 2507.18071): the
            tokens of an episode share exp(mean log ratio); use it with loss_type "grpo" and a far narrower clip (GSPO
            section 5.1: clip_low 3e-4, clip_high 4e-4).
        clip_low: the ratio is clipped below 1 - clip_low; 0.2 as in PPO and DAPO. LFPC's value is not published.
        clip_high: the ratio is clipped above 1 + clip_high; 0.28 as in DAPO. LFPC's value is not published.
        dual_clip: with a negative advantage A, a token costs at most dual_clip * |A| (Ye et al. 2020, arXiv 1912.09729,
            with 3). Null, as in GRPO and DAPO, sets no limit.
        kl_coef: weight of the k3 estimate of KL(policy || reference). 0 (LFPC section 3) needs no reference policy.
        max_completion_length: most policy tokens that an episode may have; dr_grpo needs it, nothing else reads it.
    """

    loss_type: LossType = "dapo"
    importance_level: ImportanceLevel = "token"
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = None
    kl_coef: float = 0.0
    max_completion_length: int | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a value that has no meaning."""
        if self.loss_type not in get_args(LossType):
            raise ValueError(f"loss_type is {self.loss_type!r}; choose one of {', '.join(get_args(LossType))}.")
        if self.importance_level not in get_args(ImportanceLevel):
            choices = ", ".join(get_args(ImportanceLevel))
            raise ValueError(f"importance_level is {self.importance_level!r}; choose one of {choices}.")
        if not 0.0 < self.clip_low < 1.0:
            raise ValueError(f"clip_low is {self.clip_low}; it must lie between 0 and 1.")
        if not self.clip_high > 0.0:
            raise ValueError(f"clip_high is {self.clip_high}; it must be positive.")
        if self.dual_clip is not None and not self.dual_clip > 1.0:
            raise ValueError(f"dual_clip is {self.dual_clip}; it must be above 1, or null to switch it off.")
        if not self.kl_coef >= 0.0:
            raise ValueError(f"kl_coef is {self.kl_coef}; it must be 0 (no reference policy) or positive.")
        if self.loss_type == "dr_grpo" and (self.max_completion_length is None or self.max_completion_length < 1):
            raise ValueError(
                f"loss_type dr_grpo divides by max_completion_length, which is {self.max_completion_length}; "
                "set it to the token limit of an episode."
            )


@dataclass(frozen=True)
class PolicyTokens:
    """The policy tokens of one micro-batch, in any order.

    Attributes:
        logprobs: log-probability of every token under the current policy, with gradient, [T].
        old_logprobs: the same under the policy that sampled, [T]; ``logprobs.detach()`` if that is the current one.
        advantages: advantage of the token's episode, [T].
        episode_index: which episode of the micro-batch, 0 .. E-1, a token belongs to, long [T].
        ref_logprobs: log-probability under the reference policy, [T], or None; needed if ``kl_coef`` is positive.
    """

    logprobs: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    episode_index: Tensor
    ref_logprobs: Tensor | None = None

    def __post_init__(self) -> None:
        """Raise ValueError unless all tensors are [T]: broadcasting would hide the mistake."""
        shape = tuple(self.logprobs.shape)
        for name in ("logprobs", "old_logprobs", "advantages", "episode_index", "ref_logprobs"):
            tensor: Tensor | None = getattr(self, name)
            if tensor is not None and (tensor.ndim != 1 or tuple(tensor.shape) != shape):
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, logprobs {shape}; both must be [tokens].")


@dataclass(frozen=True)
class BatchTotals:
    """Counts over one optimiser batch, which is all micro-batches between two optimiser steps.

    An episode that is excluded from the loss (a truncated one, say) has no policy tokens here, yet it is one of
    ``episodes``: TRL's batch size keeps masked completions too, so in ``grpo`` and ``dr_grpo`` excluding some never
    raises the weight of the others. A group that dynamic sampling threw away is not in the batch and counts nowhere.
    An episode that is merely not computed because its advantage is 0 counts everywhere.

    Attributes:
        policy_tokens: tokens that carry loss, all ranks; ``dapo`` divides by it.
        episodes: episodes, all ranks; ``grpo`` and ``dr_grpo`` divide by it.
        local_policy_tokens: tokens that carry loss on this rank; ``bnpo`` divides by it.
        world_size: ranks whose gradients are averaged.
    """

    policy_tokens: float
    episodes: float
    local_policy_tokens: float
    world_size: int

    def __post_init__(self) -> None:
        """Raise ValueError for counts that contradict each other."""
        if self.world_size < 1:
            raise ValueError(f"world_size is {self.world_size}; it must be 1 or more.")
        if not 0 <= self.local_policy_tokens <= self.policy_tokens:
            raise ValueError(
                f"local_policy_tokens is {self.local_policy_tokens} and policy_tokens is {self.policy_tokens}; the "
                "latter must be the sum of the former over ranks."
            )
        if self.policy_tokens > 0 and not self.episodes > 0:
            raise ValueError(
                f"episodes is {self.episodes} but policy_tokens is {self.policy_tokens}; count episodes too."
            )


@dataclass(frozen=True)
class LossOutput:
    """Loss of one micro-batch and what to log of it.

    Attributes:
        loss: scalar with gradient, to be summed over the micro-batches of an optimiser step.
        metrics: detached float32 scalars, each a sum over policy tokens: add them up over micro-batches, then divide by
            ``tokens``. ``clip_low_tokens``, ``clip_high_tokens`` and ``dual_clip_tokens`` count tokens that this limit
            left without a gradient; ``kl_old_sum`` is k3 of KL(sampling policy || current policy); ``kl_ref_sum`` is k3
            of KL(current policy || reference), 0 without one; ``ratio_sum`` adds up the ratios that were used, before
            clipping. The keys never change.
    """

    loss: Tensor
    metrics: dict[str, Tensor]


def policy_loss(tokens: PolicyTokens, totals: BatchTotals, config: LossConfig, episode_lengths: Tensor) -> LossOutput:
    """Loss of one micro-batch, normalised by the optimiser batch; without tokens it is 0, and backward still works.

    Args:
        tokens: the policy tokens, of any floating type; the arithmetic is float32, or float64 if they are.
        totals: counts over the optimiser batch.
        config: the algorithm.
        episode_lengths: policy tokens of every episode of the micro-batch, long [E]; 0 for an excluded episode.

    Raises:
        ValueError: if the micro-batch holds only part of an episode, or reference log-probabilities are missing.
    """
    _check_whole_episodes(tokens.episode_index, episode_lengths)
    logprobs = _widen(tokens.logprobs)
    advantages = tokens.advantages.detach().to(logprobs)
    log_ratio = logprobs - tokens.old_logprobs.detach().to(logprobs)
    ratio = _importance_ratio(log_ratio, tokens.episode_index, episode_lengths, config.importance_level)
    costs = _clipped_costs(ratio, advantages, config)
    metrics = _metrics(ratio.detach(), log_ratio.detach(), advantages, config)
    if tokens.ref_logprobs is not None:
        kl_ref = k3(tokens.ref_logprobs.detach().to(logprobs) - logprobs)
        costs = costs + config.kl_coef * kl_ref
        metrics["kl_ref_sum"] = kl_ref.detach().sum().float()
    elif config.kl_coef > 0.0:
        raise ValueError(f"kl_coef is {config.kl_coef} but ref_logprobs is None; the reference policy must give them.")
    weights = _token_weights(episode_lengths.to(logprobs), tokens.episode_index, totals, config)
    return LossOutput((costs * weights).sum(), metrics)


def grounding_cross_entropy(logprobs: Tensor, total_tokens: float, *, world_size: int) -> Tensor:
    """Cross-entropy of the coordinate tokens of ground-truth crop calls, as a sum that adds up over micro-batches.

    Args:
        logprobs: log-probability of every coordinate token in this micro-batch, with gradient, [T]; T may be 0.
        total_tokens: number of such tokens in the optimiser batch, all ranks.
        world_size: ranks whose gradients are averaged, as in ``BatchTotals``.

    Returns:
        Scalar ``-world_size * sum(logprobs) / total_tokens``, with gradient.
    """
    return -_widen(logprobs).sum() * (world_size / max(total_tokens, 1.0))


def k3(log_ratio: Tensor) -> Tensor:
    """Schulman's estimator of KL(p || q) per sample of p: ``exp(x) - x - 1`` with ``x = log q - log p``, of any shape.

    Unbiased and never negative (http://joschu.net/blog/kl-approx.html). ``x`` above 20 counts as 20, without gradient.
    """
    log_ratio = log_ratio.clamp(max=MAX_LOG_RATIO)
    return log_ratio.exp() - log_ratio - 1.0


def _importance_ratio(
    log_ratio: Tensor, episode_index: Tensor, episode_lengths: Tensor, level: ImportanceLevel
) -> Tensor:
    """Probability ratio of every token, [T].

    For "sequence" the gradient goes through the shared ratio, which is TRL's form. GSPO-token stops it there and lets
    it through each token instead; as an episode has one advantage, the gradient is the same.
    """
    if level == "sequence":
        sums = log_ratio.new_zeros(len(episode_lengths)).index_add(0, episode_index, log_ratio)
        log_ratio = (sums / episode_lengths.clamp(min=1))[episode_index]
    return log_ratio.clamp(max=MAX_LOG_RATIO).exp()


def _clipped_costs(ratio: Tensor, advantages: Tensor, config: LossConfig) -> Tensor:
    """Cost of every token without the KL term, [T]."""
    clipped_ratio = ratio.clamp(1.0 - config.clip_low, 1.0 + config.clip_high)
    costs = -torch.minimum(ratio * advantages, clipped_ratio * advantages)
    if config.dual_clip is None:
        return costs
    return torch.where(advantages < 0, torch.minimum(costs, -config.dual_clip * advantages), costs)


def _token_weights(lengths: Tensor, episode_index: Tensor, totals: BatchTotals, config: LossConfig) -> Tensor | float:
    """What the cost of a token is multiplied by: one number, or [T] for ``grpo``. A count of 0 means an empty sum."""
    if config.loss_type == "bnpo":
        return 1.0 / max(totals.local_policy_tokens, 1.0)
    if config.loss_type == "dapo":
        return totals.world_size / max(totals.policy_tokens, 1.0)
    per_episode = totals.world_size / max(totals.episodes, 1.0)
    if config.loss_type == "grpo":
        return per_episode / lengths[episode_index]
    assert config.max_completion_length is not None  # LossConfig refuses dr_grpo without it
    return per_episode / config.max_completion_length


def _metrics(ratio: Tensor, log_ratio: Tensor, advantages: Tensor, config: LossConfig) -> dict[str, Tensor]:
    """The sums that ``LossOutput`` describes; ``kl_ref_sum`` stays 0 unless there is a reference."""
    dual_clip = float("inf") if config.dual_clip is None else config.dual_clip
    sums = {
        "clip_low_tokens": ((advantages < 0) & (ratio < 1.0 - config.clip_low)).sum(),
        "clip_high_tokens": ((advantages > 0) & (ratio > 1.0 + config.clip_high)).sum(),
        "dual_clip_tokens": ((advantages < 0) & (ratio > dual_clip)).sum(),
        "kl_old_sum": k3(log_ratio).sum(),
        "kl_ref_sum": ratio.new_zeros(()),
        "ratio_sum": ratio.sum(),
        "tokens": ratio.new_tensor(float(ratio.numel())),
    }
    return {name: value.float() for name, value in sums.items()}


def _check_whole_episodes(episode_index: Tensor, episode_lengths: Tensor) -> None:
    """Raise ValueError unless every episode has exactly as many tokens here as ``episode_lengths`` says."""
    found = torch.bincount(episode_index, minlength=len(episode_lengths))
    if found.tolist() != episode_lengths.tolist():
        raise ValueError(
            f"The micro-batch holds {found.tolist()} tokens of episodes that have {episode_lengths.tolist()}; keep "
            "every episode whole."
        )


def _widen(values: Tensor) -> Tensor:
    """At least float32: bfloat16 has 8 bits for a ratio near 1 or a sum of thousands."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
