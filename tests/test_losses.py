from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from infogap.grpo.losses import (
    BatchTotals,
    LossConfig,
    LossOutput,
    PolicyTokens,
    grounding_cross_entropy,
    k3,
    policy_loss,
)

CLIPS = ["clip_low_tokens", "clip_high_tokens", "dual_clip_tokens"]
ONE = BatchTotals(policy_tokens=1, episodes=1, local_policy_tokens=1, world_size=1)


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def from_ratios(ratios: list[float], advantages: list[float], index: list[int]) -> PolicyTokens:
    """Tokens with the given probability ratios; the old log-probabilities are -1."""
    logprobs = (tensor(ratios).log() - 1).requires_grad_()
    return PolicyTokens(logprobs, torch.full_like(logprobs, -1.0), tensor(advantages), torch.tensor(index))


def gradient(output: LossOutput, tokens: PolicyTokens) -> Tensor:
    output.loss.backward()
    assert tokens.logprobs.grad is not None
    return tokens.logprobs.grad


# One token. Its cost is -min(r A, clip(r, 0.8, 1.28) A); the slope by its log-probability is -r A, or 0 if clipped.
@pytest.mark.parametrize(
    ("ratio", "advantage", "dual_clip", "cost", "slope", "counted"),
    [
        (1.1, 2.0, None, -2.2, -2.2, None),  # inside
        (1.5, 2.0, None, -2.56, 0.0, "clip_high_tokens"),  # min(3, 2.56)
        (0.5, 2.0, None, -1.0, -1.0, None),  # min(1, 1.6): free to rise again
        (0.5, -2.0, None, 1.6, 0.0, "clip_low_tokens"),  # -min(-1, -1.6)
        (1.5, -2.0, None, 3.0, 3.0, None),  # -min(-3, -2.56): free to fall again
        (4.0, -2.0, None, 8.0, 8.0, None),  # without a bound
        (4.0, -2.0, 3.0, 6.0, 0.0, "dual_clip_tokens"),  # 3 * 2
        (2.9, -2.0, 3.0, 5.8, 5.8, None),  # just below it
        (4.0, 2.0, 3.0, -2.56, 0.0, "clip_high_tokens"),  # dual clip is for negative advantages
        (0.5, -2.0, 3.0, 1.6, 0.0, "clip_low_tokens"),
        (1.5, 0.0, 3.0, 0.0, 0.0, None),
    ],
)
def test_clipping_by_hand(
    ratio: float, advantage: float, dual_clip: float | None, cost: float, slope: float, counted: str | None
) -> None:
    tokens = from_ratios([ratio], [advantage], [0])
    output = policy_loss(tokens, ONE, LossConfig(dual_clip=dual_clip), torch.tensor([1]))
    assert output.loss.item() == pytest.approx(cost)
    assert gradient(output, tokens).item() == pytest.approx(slope)
    clipped = {name: value.item() for name, value in output.metrics.items() if "clip" in name}
    assert clipped == {name: float(name == counted) for name in CLIPS}
    assert output.metrics["ratio_sum"].item() == pytest.approx(ratio)


# This rank has episode 0 with two tokens of A = 1 and episode 1 with four of A = -0.25, on-policy: costs -1, -1 and
# four times 0.25, together -1. The other rank has 4 tokens and 2 episodes, so the batch has 10 tokens and 4 episodes.
@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("dapo", -0.2),  # 2 ranks * -1 / 10 tokens
        ("grpo", -0.375),  # 2 ranks * (-1 + 0.25) / 4 episodes
        ("dr_grpo", -0.03125),  # 2 ranks * -1 / (4 episodes * 16)
        ("bnpo", -1 / 6),  # -1 / 6 local tokens
    ],
)
def test_loss_types_by_hand(loss_type: Any, expected: float) -> None:
    tokens = from_ratios([1.0] * 6, [-0.25, 1.0, -0.25, -0.25, 1.0, -0.25], [1, 0, 1, 1, 0, 1])
    totals = BatchTotals(policy_tokens=10, episodes=4, local_policy_tokens=6, world_size=2)
    output = policy_loss(tokens, totals, LossConfig(loss_type, max_completion_length=16), torch.tensor([2, 4]))
    assert output.loss.item() == pytest.approx(expected)


def test_k3_by_hand() -> None:
    # lp - old = log 1.5: k3 = 1.5 - 0.405465 - 1. ref - lp = log 2: k3 = 2 - 0.693147 - 1, slope by lp 1 - 2 = -1.
    # A = 0 leaves only the KL term: 0.1 * 0.306853.
    tokens = from_ratios([1.5], [0.0], [0])
    tokens = replace(tokens, ref_logprobs=tokens.logprobs.detach() + math.log(2))
    output = policy_loss(tokens, ONE, LossConfig(kl_coef=0.1), torch.tensor([1]))
    assert output.metrics["kl_old_sum"].item() == pytest.approx(0.094535, abs=1e-6)
    assert output.metrics["kl_ref_sum"].item() == pytest.approx(0.306853, abs=1e-6)
    assert output.loss.item() == pytest.approx(0.0306853, abs=1e-7)
    assert gradient(output, tokens).item() == pytest.approx(-0.1)


def test_k3_is_unbiased() -> None:
    p, q = tensor([0.5, 0.3, 0.2]), tensor([0.2, 0.2, 0.6])
    assert (p * k3((q / p).log())).sum().item() == pytest.approx((p * (p / q).log()).sum().item())


def test_sequence_level_by_hand() -> None:
    # Episode 0, A = -1, ratios 4 and 1: s = sqrt(4 * 1) = 2, not clipped, so both tokens cost 2, as does their mean.
    # Its slope by either log-probability is s / 2 = 1. Episode 1, A = 1, ratios 1.1 and 2: s = sqrt(2.2) = 1.48 is
    # clipped, so both cost -1.28 with slope 0. Then everything is divided by 2 episodes.
    tokens = from_ratios([4.0, 1.1, 1.0, 2.0], [-1.0, 1.0, -1.0, 1.0], [0, 1, 0, 1])
    totals = BatchTotals(policy_tokens=4, episodes=2, local_policy_tokens=4, world_size=1)
    output = policy_loss(tokens, totals, LossConfig("grpo", "sequence"), torch.tensor([2, 2]))
    assert output.loss.item() == pytest.approx((2 - 1.28) / 2)
    torch.testing.assert_close(gradient(output, tokens), tensor([0.5, 0.0, 0.5, 0.0]))
    assert output.metrics["clip_high_tokens"].item() == 2
    assert output.metrics["ratio_sum"].item() == pytest.approx(2 * 2 + 2 * math.sqrt(2.2))


@pytest.mark.parametrize("detached", [True, False])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_on_policy_gradient_is_reinforce(level: Any, detached: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    chosen, advantages = torch.tensor([0, 4, 1, 1, 2, 3]), tensor([1.0, 1.0, 1.0, -2.0, -2.0, -2.0])
    logprobs = logits.log_softmax(-1)[torch.arange(6), chosen]
    (expected,) = torch.autograd.grad(-(advantages * logprobs).sum() / 6, logits, retain_graph=True)
    old = logprobs.detach() if detached else logprobs
    tokens = PolicyTokens(logprobs, old, advantages, torch.tensor([0, 0, 0, 1, 1, 1]))
    output = policy_loss(tokens, BatchTotals(6, 2, 6, 1), LossConfig("dapo", level), torch.tensor([3, 3]))
    torch.testing.assert_close(torch.autograd.grad(output.loss, logits)[0], expected)
    assert output.metrics["kl_old_sum"].item() == 0.0


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("advantage", [0.0, -1.0, 1.0])
def test_a_huge_ratio_stays_finite(level: Any, advantage: float) -> None:
    logprobs = torch.tensor([-1.0, -200.0], requires_grad=True)
    tokens = PolicyTokens(
        logprobs,
        torch.tensor([-500.0, -1.0]),
        torch.full((2,), advantage),
        torch.tensor([0, 1]),
        torch.full((2,), -1.0),
    )
    output = policy_loss(tokens, BatchTotals(2, 2, 2, 1), LossConfig("dapo", level, kl_coef=0.1), torch.tensor([1, 1]))
    assert gradient(output, tokens).isfinite().all()
    assert all(value.isfinite() for value in (output.loss, *output.metrics.values()))


def test_k3_pulls_back_a_token_that_the_reference_would_never_write() -> None:
    log_ratio = tensor([-300.0]).requires_grad_()
    value = k3(log_ratio)
    value.backward()
    assert value.item() == 299.0
    assert log_ratio.grad is not None
    assert log_ratio.grad.item() == -1.0


def test_half_precision_is_widened() -> None:
    logprobs = torch.full((1000,), -1.0, dtype=torch.bfloat16, requires_grad=True)
    tokens = PolicyTokens(logprobs, logprobs.detach(), torch.full((1000,), 1.01), torch.zeros(1000, dtype=torch.long))
    output = policy_loss(tokens, BatchTotals(1000, 1, 1000, 1), LossConfig(), torch.tensor([1000]))
    assert output.loss.dtype == torch.float32
    assert output.loss.item() == pytest.approx(-1.01, rel=1e-6)
    assert all(value.dtype == torch.float32 and not value.requires_grad for value in output.metrics.values())


def test_half_an_episode_is_refused() -> None:
    tokens = from_ratios([1.0, 1.0], [1.0, 1.0], [0, 1])
    for lengths in ([1, 2], [1], [1, 1, 1]):
        with pytest.raises(ValueError, match="keep every episode whole"):
            policy_loss(tokens, BatchTotals(3, 2, 3, 1), LossConfig(), torch.tensor(lengths))


def test_a_kl_weight_needs_a_reference() -> None:
    with pytest.raises(ValueError, match="ref_logprobs is None"):
        policy_loss(from_ratios([1.0], [1.0], [0]), ONE, LossConfig(kl_coef=0.1), torch.tensor([1]))


@pytest.mark.parametrize("name", ["logprobs", "old_logprobs", "advantages", "episode_index", "ref_logprobs"])
def test_shapes_are_checked(name: str) -> None:
    tokens = from_ratios([1.0, 1.0], [1.0, 1.0], [0, 0])
    with pytest.raises(ValueError, match=r"must be \[tokens\]"):
        replace(tokens, **{name: torch.zeros(2, 1)})


def test_tokens_must_be_flat() -> None:
    values = torch.zeros(2, 1)
    with pytest.raises(ValueError, match=r"must be \[tokens\]"):
        PolicyTokens(values, values, values, values.long())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_type": "ppo"}, "'ppo'; choose one of dapo, grpo, dr_grpo, bnpo"),
        ({"importance_level": "word"}, "'word'; choose one of token, sequence"),
        ({"clip_low": 0.0}, "clip_low is 0.0"),
        ({"clip_low": 1.0}, "clip_low is 1.0"),
        ({"clip_high": -0.1}, "clip_high is -0.1"),
        ({"dual_clip": 1.0}, "dual_clip is 1.0"),
        ({"kl_coef": -0.1}, "kl_coef is -0.1"),
        ({"kl_coef": math.nan}, "kl_coef is nan"),
        ({"loss_type": "dr_grpo"}, "max_completion_length, which is None"),
        ({"loss_type": "dr_grpo", "max_completion_length": 0}, "which is 0"),
    ],
)
def test_config_is_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossConfig(**options)


@pytest.mark.parametrize("counts", [(1, 1, 2, 1), (1, 1, -1, 1), (1, 0, 1, 1), (1, 1, 1, 0)])
def test_totals_are_checked(counts: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"world_size is|policy_tokens is"):
        BatchTotals(*counts)


def test_grounding_cross_entropy() -> None:
    logprobs = tensor([-1.0, -2.0, -0.5]).requires_grad_()
    whole = grounding_cross_entropy(logprobs, 7, world_size=1)
    assert whole.item() == pytest.approx(3.5 / 7)
    assert grounding_cross_entropy(logprobs, 7, world_size=2).item() == pytest.approx(2 * 3.5 / 7)
    parts = [grounding_cross_entropy(part, 7, world_size=1) for part in (logprobs[:1], logprobs[1:], logprobs[:0])]
    assert sum(part.item() for part in parts) == pytest.approx(whole.item())
    torch.testing.assert_close(torch.autograd.grad(whole, logprobs)[0], torch.full_like(logprobs, -1 / 7))
    grounding_cross_entropy(logprobs[:0], 0, world_size=1).backward()
