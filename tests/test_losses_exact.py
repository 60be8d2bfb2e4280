"""The loss against its definition, written as a plain loop, over the whole grid of options."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from infogap.grpo.losses import BatchTotals, LossConfig, PolicyTokens, policy_loss

LOSS_TYPES = ["dapo", "grpo", "dr_grpo", "bnpo"]
GRID = [
    LossConfig(loss, level, 0.2, 0.28, dual, kl, 16)
    for loss, level, dual, kl in itertools.product(LOSS_TYPES, ["token", "sequence"], [None, 1.5], [0.0, 0.1])
]
METRICS = ["clip_low_tokens", "clip_high_tokens", "dual_clip_tokens", "kl_old_sum", "kl_ref_sum", "ratio_sum", "tokens"]
LENGTHS = [3, 1, 5, 2]


@dataclass
class Case:
    """Episodes of plain lists, the tokens that hold them in shuffled order, and where each token went."""

    episodes: list[list[tuple[float, float, float, float]]]  # logprob, old, ref, advantage
    tokens: PolicyTokens
    order: list[tuple[int, int]]

    def choose(self, episodes: list[int], logprobs: Tensor) -> PolicyTokens:
        """The micro-batch of these episodes, cut out of ``logprobs``."""
        keep = [row for row, (episode, _) in enumerate(self.order) if episode in episodes]
        assert self.tokens.ref_logprobs is not None
        index = torch.tensor([episodes.index(self.order[row][0]) for row in keep], dtype=torch.long)
        columns = (logprobs, self.tokens.old_logprobs, self.tokens.advantages, self.tokens.ref_logprobs)
        logprobs, old, advantages, ref = (column[keep] for column in columns)
        return PolicyTokens(logprobs, old, advantages, index, ref)


@pytest.fixture
def case() -> Case:
    generator = torch.Generator().manual_seed(7)
    advantages = [1.3, -0.7, -0.4, 0.9]
    episodes = []
    for length, advantage in zip(LENGTHS, advantages, strict=True):
        base = -torch.rand(length, generator=generator, dtype=torch.float64) - 0.5
        noise = torch.randn(length, 2, generator=generator, dtype=torch.float64) * 0.5 + 0.2
        rows = zip(base.tolist(), (base - noise[:, 0]).tolist(), (base - noise[:, 1]).tolist(), strict=True)
        episodes.append([(*row, advantage) for row in rows])
    order = [(e, t) for e, length in enumerate(LENGTHS) for t in range(length)]
    order = [order[i] for i in torch.randperm(len(order), generator=generator)]
    columns = torch.tensor([episodes[e][t] for e, t in order], dtype=torch.float64).unbind(1)
    index = torch.tensor([e for e, _ in order])
    tokens = PolicyTokens(columns[0].clone().requires_grad_(), columns[1], columns[3], index, columns[2])
    return Case(episodes, tokens, order)


def reference(
    episodes: list[list[tuple[float, float, float, float]]], totals: BatchTotals, config: LossConfig
) -> tuple[float, dict[str, float]]:
    """The loss in plain Python, episode by episode and token by token."""
    low, high = 1 - config.clip_low, 1 + config.clip_high
    metrics = dict.fromkeys(METRICS, 0.0)
    loss = 0.0
    for episode in episodes:
        mean_log_ratio = sum(lp - old for lp, old, _, _ in episode) / len(episode)
        episode_sum = 0.0
        for lp, old, ref, advantage in episode:
            ratio = math.exp(lp - old if config.importance_level == "token" else mean_log_ratio)
            objective = min(ratio * advantage, min(max(ratio, low), high) * advantage)
            if config.dual_clip is not None and advantage < 0:
                metrics["dual_clip_tokens"] += ratio > config.dual_clip
                objective = max(objective, config.dual_clip * advantage)
            kl_ref = math.exp(ref - lp) - (ref - lp) - 1
            episode_sum += -objective + config.kl_coef * kl_ref
            metrics["clip_low_tokens"] += advantage < 0 and ratio < low
            metrics["clip_high_tokens"] += advantage > 0 and ratio > high
            metrics["kl_old_sum"] += math.exp(lp - old) - (lp - old) - 1
            metrics["kl_ref_sum"] += kl_ref
            metrics["ratio_sum"] += ratio
            metrics["tokens"] += 1
        loss += {
            "dapo": totals.world_size * episode_sum / totals.policy_tokens,
            "grpo": totals.world_size * episode_sum / len(episode) / totals.episodes,
            "dr_grpo": totals.world_size * episode_sum / (totals.episodes * 16),
            "bnpo": episode_sum / totals.local_policy_tokens,
        }[config.loss_type]
    return loss, metrics


@pytest.mark.parametrize("config", GRID, ids=str)
def test_value_metrics_and_gradient_equal_the_definition(config: LossConfig, case: Case) -> None:
    totals = BatchTotals(policy_tokens=17, episodes=7, local_policy_tokens=11, world_size=2)
    output = policy_loss(case.tokens, totals, config, torch.tensor(LENGTHS))
    expected, metrics = reference(case.episodes, totals, config)
    assert output.loss.item() == pytest.approx(expected, abs=1e-12)
    assert {name: value.item() for name, value in output.metrics.items()} == pytest.approx(metrics, rel=1e-6)
    assert metrics["clip_low_tokens"] + metrics["clip_high_tokens"] > 0  # else the grid would not see clipping
    slopes, step = torch.autograd.grad(output.loss, case.tokens.logprobs)[0].tolist(), 1e-6
    for row, (e, t) in enumerate(case.order):
        lp, *rest = original = case.episodes[e][t]
        ends = []
        for moved in (lp + step, lp - step):
            case.episodes[e][t] = (moved, *rest)
            ends.append(reference(case.episodes, totals, config)[0])
        case.episodes[e][t] = original
        assert slopes[row] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-8)


@pytest.mark.parametrize("split", [[[0], [1, 2, 3]], [[2, 0], [3, 1]], [[3], [], [1], [0], [2]]], ids=str)
@pytest.mark.parametrize("config", GRID, ids=str)
def test_micro_batches_add_up_to_the_batch(config: LossConfig, split: list[list[int]], case: Case) -> None:
    totals = BatchTotals(policy_tokens=11, episodes=4, local_policy_tokens=11, world_size=1)
    whole = policy_loss(case.tokens, totals, config, torch.tensor(LENGTHS))
    logprobs = case.tokens.logprobs.detach().clone().requires_grad_()
    loss, metrics = 0.0, dict.fromkeys(METRICS, 0.0)
    for episodes in split:
        lengths = torch.tensor([LENGTHS[e] for e in episodes], dtype=torch.long)
        part = policy_loss(case.choose(episodes, logprobs), totals, config, lengths)
        part.loss.backward()
        loss += part.loss.item()
        metrics = {name: metrics[name] + part.metrics[name].item() for name in METRICS}
    assert loss == pytest.approx(whole.loss.item(), abs=1e-12)
    assert {name: value.item() for name, value in whole.metrics.items()} == pytest.approx(metrics, rel=1e-6)
    expected = torch.autograd.grad(whole.loss, case.tokens.logprobs)[0]
    torch.testing.assert_close(logprobs.grad, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_mean_over_ranks(loss_type: Any, case: Case) -> None:
    config = LossConfig(loss_type, max_completion_length=16)
    whole = BatchTotals(policy_tokens=11, episodes=4, local_policy_tokens=11, world_size=1)
    expected = policy_loss(case.tokens, whole, config, torch.tensor(LENGTHS)).loss.item()
    losses, own_means = [], []
    for episodes, count in (([0, 1], 4), ([2, 3], 7)):
        tokens = case.choose(episodes, case.tokens.logprobs)
        lengths = torch.tensor([LENGTHS[e] for e in episodes])
        rank = BatchTotals(policy_tokens=11, episodes=4, local_policy_tokens=count, world_size=2)
        losses.append(policy_loss(tokens, rank, config, lengths).loss.item())
        alone = BatchTotals(policy_tokens=count, episodes=2, local_policy_tokens=count, world_size=1)
        own_means.append(policy_loss(tokens, alone, LossConfig("dapo"), lengths).loss.item())
    if loss_type == "bnpo":
        expected = sum(own_means) / 2
    assert sum(losses) / 2 == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("config", GRID, ids=str)
@pytest.mark.parametrize("lengths", [[], [0, 0]])
def test_an_empty_micro_batch_has_a_backward(config: LossConfig, lengths: list[int]) -> None:
    weight = torch.ones(3, requires_grad=True)
    empty = (weight * 2)[:0]
    index = torch.zeros(0, dtype=torch.long)
    tokens = PolicyTokens(empty, empty.detach(), empty.detach(), index, empty.detach())
    output = policy_loss(tokens, BatchTotals(0, 2, 0, 1), config, torch.tensor(lengths, dtype=torch.long))
    output.loss.backward()
    assert output.loss.item() == 0.0
    assert torch.equal(weight.grad, torch.zeros(3))
    assert {name: value.item() for name, value in output.metrics.items()} == dict.fromkeys(METRICS, 0.0)
