"""Loss and gradient of an optimiser batch, however it is cut into rows; what is left out, what is taught."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_policy import PLAIN, SCENES, TURN_ENDS, tiny_protocol, tiny_rollout, write_tiny_policy
from torch import Tensor

from infogap.data.needle import NeedleConfig, make_samples
from infogap.episode.protocol import Protocol
from infogap.episode.rewards import RewardConfig, RewardSet
from infogap.geometry import FramedBox
from infogap.grpo.advantages import compute_advantages
from infogap.grpo.batch import ScoredBatch, score_batch
from infogap.grpo.config import AlgorithmConfig
from infogap.grpo.losses import BatchTotals, LossConfig, LossType
from infogap.grpo.metrics import Sums, add_update_keys
from infogap.grpo.update import TrainingRow, ground_truth_call, local_totals, row_loss, training_rows
from infogap.policy.loading import PolicyConfig, load_policy
from infogap.policy.model import Policy
from infogap.policy.packing import Chunk, Group, pack
from infogap.policy.reference import Reference
from infogap.rollout import Rollout
from infogap.types import StopReason

Extra = Sequence[Sequence[tuple[Chunk, ...]]]
ONE_ROW, ROW_PER_EPISODE = 10**6, 1


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return load_policy(PolicyConfig(str(write_tiny_policy(tmp_path_factory.mktemp("policy")))), TURN_ENDS)


@pytest.fixture(scope="module")
def batch(policy: Policy) -> ScoredBatch:
    """Five groups of four ragged episodes; the last group earned the same throughout."""
    samples = list(make_samples(SCENES, 0, 5))
    protocol = Protocol(tiny_protocol())
    rollouts = Rollout(policy, protocol, tiny_rollout()).run(samples, ("batch", 1))
    rewards = RewardSet.from_config(RewardConfig(), protocol)
    scored = score_batch(rollouts, rewards, scale_rewards="group", aggregation="sum_then_normalize")
    totals = torch.tensor([[0.0, 1, 2, 0.5], [3, 0, 1, 1], [0, 0, 0, 1], [2, 1, 0, 0], [1, 1, 1, 1]])
    found = compute_advantages(
        totals[..., None], torch.ones(1), scale_rewards="group", aggregation="sum_then_normalize"
    )
    return replace(scored, totals_pg=totals, advantages_pg=found.advantages_pg, zero_variance_p=found.zero_variance_p)


def nothing(batch: ScoredBatch) -> Extra:
    return [[] for _ in batch.rollouts]


def taught(policy: Policy, batch: ScoredBatch) -> Extra:
    return [ground_truth_call(policy, PLAIN, rollout) for rollout in batch.rollouts]


def whole_batch(
    policy: Policy,
    batch: ScoredBatch,
    config: AlgorithmConfig,
    extra: Extra | None = None,
    weight: float = 0.0,
    reference: Reference | None = None,
) -> tuple[float, Tensor, dict[str, float], int]:
    """Loss, flat gradient, metrics and number of rows of an optimiser batch."""
    rows = training_rows(batch, nothing(batch) if extra is None else extra, config, policy.vocabulary.image)
    tokens, episodes, taught_total = local_totals(rows, batch, config).tolist()
    totals = BatchTotals(tokens, episodes, tokens, 1)
    policy.zero_grad()
    sums, total = Sums(), 0.0
    add_update_keys(sums)
    for row in rows:
        ref = reference.logprobs(row.row, 1.0) if reference else None
        loss = row_loss(row, policy(row.row, 1.0), None, ref, totals, taught_total, weight, config, sums)
        loss.backward()
        total += float(loss.detach())
    return total, gradient(policy), sums.means(), len(rows)


def gradient(policy: Policy) -> Tensor:
    return torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in policy.parameters()]
    ).clone()


def algorithm(loss_type: LossType = "dapo", row_tokens: int = ONE_ROW, **changes: object) -> AlgorithmConfig:
    loss = LossConfig(loss_type=loss_type, max_completion_length=10)
    return AlgorithmConfig(loss=loss, row_tokens=row_tokens, **changes)  # type: ignore[arg-type]


def test_the_batch_is_what_these_tests_need(batch: ScoredBatch) -> None:
    lengths = [length for rollout in batch.rollouts for length in rollout.policy_tokens]
    stops = [[episode.stop_reason for episode in rollout.episodes] for rollout in batch.rollouts]
    assert len(set(lengths)) > 2  # ragged
    assert any(StopReason.MAX_TOKENS in group for group in stops[:4])
    assert any(episode.crops for rollout in batch.rollouts for episode in rollout.episodes)
    assert batch.zero_variance_p.tolist() == [False, False, False, False, True]


@pytest.mark.parametrize("mask_truncated", [False, True], ids=["all episodes", "truncated masked"])
@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo", "bnpo"])
def test_the_way_rows_are_cut_changes_nothing(
    policy: Policy, batch: ScoredBatch, loss_type: LossType, mask_truncated: bool
) -> None:
    group = max(rollout.group.tokens for rollout in batch.rollouts)
    found = {
        row_tokens: whole_batch(policy, batch, algorithm(loss_type, row_tokens, mask_truncated=mask_truncated))
        for row_tokens in (ONE_ROW, 2 * group, group - 1, ROW_PER_EPISODE)
    }
    loss, expected, metrics, rows = found[ONE_ROW]
    assert rows == 1
    assert float(expected.norm()) > 1e-3
    for row_tokens, (other_loss, other, other_metrics, other_rows) in found.items():
        assert other_rows == {ONE_ROW: 1, 2 * group: 2, group - 1: 5, ROW_PER_EPISODE: 16}[row_tokens]
        assert other_loss == pytest.approx(loss, abs=1e-5)
        assert float((other - expected).norm() / expected.norm()) < 1e-5
        assert other_metrics == pytest.approx(metrics, abs=1e-5)


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo", "bnpo"])
def test_the_gradient_is_that_of_separate_sequences(policy: Policy, batch: ScoredBatch, loss_type: LossType) -> None:
    _, packed, _, _ = whole_batch(policy, batch, algorithm(loss_type))
    tokens = sum(sum(rollout.policy_tokens) for rollout in batch.rollouts)
    policy.zero_grad()
    for number, rollout in enumerate(batch.rollouts):
        for episode, chunks in enumerate(rollout.group.episodes):
            alone = pack([Group(rollout.group.prompt, (chunks,))], policy.vocabulary.image)
            logprobs = policy(alone, 1.0).logprobs
            divisor = {"dapo": tokens, "bnpo": tokens, "grpo": 20 * len(logprobs), "dr_grpo": 20 * 10}[loss_type]
            # at the policy that sampled, the gradient of the clipped objective is that of advantage times log-prob
            (-logprobs.sum() * batch.advantages_pg[number, episode] / divisor).backward()
    assert float((packed - gradient(policy)).norm() / packed.norm()) < 1e-5


def test_masking_truncated_episodes_takes_them_out_of_loss_and_totals(policy: Policy, batch: ScoredBatch) -> None:
    config = algorithm("dapo", mask_truncated=True)
    rows = training_rows(batch, nothing(batch), config, policy.vocabulary.image)
    kept = sum(
        length
        for rollout in batch.rollouts
        for length, episode in zip(rollout.policy_tokens, rollout.episodes, strict=True)
        if episode.stop_reason is not StopReason.MAX_TOKENS
    )
    assert local_totals(rows, batch, config).tolist() == [kept, 20.0, 0.0]
    masked = whole_batch(policy, batch, config)[1]
    flat = [episode for rollout in batch.rollouts for episode in rollout.episodes]
    cut = torch.tensor([episode.truncated for episode in flat]).view(5, 4)
    silent = replace(batch, advantages_pg=batch.advantages_pg.masked_fill(cut, 0.0))
    everything = sum(sum(rollout.policy_tokens) for rollout in batch.rollouts)
    unmasked = whole_batch(policy, silent, algorithm("dapo"))[1] * (everything / kept)
    assert float((masked - unmasked).norm() / masked.norm()) < 1e-5


def test_groups_without_variance_are_not_computed_but_counted(policy: Policy, batch: ScoredBatch) -> None:
    config = algorithm("dapo", ROW_PER_EPISODE)
    rows = training_rows(batch, nothing(batch), config, policy.vocabulary.image)
    assert len(rows) == 16
    everything = sum(sum(rollout.policy_tokens) for rollout in batch.rollouts)
    assert local_totals(rows, batch, config).tolist() == [everything, 20.0, 0.0]
    with_all = replace(batch, zero_variance_p=torch.zeros(5, dtype=torch.bool))
    computed, left_out = whole_batch(policy, with_all, config), whole_batch(policy, batch, config)
    assert (computed[3], left_out[3]) == (20, 16)
    assert left_out[0] == pytest.approx(computed[0], abs=1e-6)
    torch.testing.assert_close(left_out[1], computed[1], rtol=0, atol=1e-7)


def test_a_batch_with_nothing_to_learn_has_no_rows(policy: Policy, batch: ScoredBatch) -> None:
    equal = replace(batch, advantages_pg=torch.zeros(5, 4), zero_variance_p=torch.ones(5, dtype=torch.bool))
    loss, found, metrics, rows = whole_batch(policy, equal, algorithm())
    assert (loss, float(found.norm()), rows) == (0.0, 0.0, 0)
    assert metrics == dict.fromkeys(metrics, 0.0)


def test_only_the_coordinates_of_the_ground_truth_call_are_taught(policy: Policy, batch: ScoredBatch) -> None:
    for rollout, branches in zip(batch.rollouts, taught(policy, batch), strict=True):
        box = rollout.sample.evidence[0][-1]  # the outermost, which forgives most
        framed = FramedBox.from_original(box, PLAIN.config.frame, rollout.view, rollout.sample.image.size)
        text = PLAIN.call_text(framed)
        ((chunk,),) = branches
        assert policy.tokenizer.decode(chunk.token_ids) == text
        assert not chunk.sampled
        assert (
            policy.tokenizer.decode([chunk.token_ids[place] for place in chunk.taught])
            == text[text.index("[") + 1 : text.index("]")]
        )


def test_every_piece_of_evidence_has_a_branch(policy: Policy) -> None:
    relation = NeedleConfig(sides=(224,), signs=(2, 2), clutter=0, question="relation")
    (rollout,) = Rollout(policy, PLAIN, tiny_rollout(group_size=2)).run(list(make_samples(relation, 0, 1)), (0,))
    branches = ground_truth_call(policy, PLAIN, rollout)
    assert len(branches) == 2
    assert branches[0] != branches[1]


def test_taught_branches_leave_the_policy_loss_as_it_is(policy: Policy, batch: ScoredBatch) -> None:
    extra = taught(policy, batch)
    with_all = replace(batch, zero_variance_p=torch.zeros(5, dtype=torch.bool))
    without, beside = whole_batch(policy, with_all, algorithm()), whole_batch(policy, with_all, algorithm(), extra, 0.0)
    assert beside[0] == pytest.approx(without[0], abs=1e-6)
    assert float((beside[1] - without[1]).norm() / without[1].norm()) < 1e-5
    assert beside[2]["policy/grounding_loss"] > 1.0
    for name in set(beside[2]) - {"policy/grounding_loss"}:
        assert beside[2][name] == pytest.approx(without[2][name], abs=1e-5), name


@pytest.mark.parametrize("row_tokens", [ONE_ROW, ROW_PER_EPISODE])
def test_the_gradient_of_taught_tokens_is_a_plain_cross_entropy(
    policy: Policy, batch: ScoredBatch, row_tokens: int
) -> None:
    extra, weight = taught(policy, batch), 0.7
    config = algorithm("dapo", row_tokens)
    both, alone = whole_batch(policy, batch, config, extra, weight), whole_batch(policy, batch, config)
    policy.zero_grad()
    count = sum(len(chunk.taught) for ((chunk,),) in extra)
    total = torch.zeros(())
    for rollout, ((chunk,),) in zip(batch.rollouts, extra, strict=True):
        plain = pack([Group(rollout.group.prompt, ((replace(chunk, taught=()),),))], policy.vocabulary.image)
        first = len(rollout.group.prompt.token_ids)
        logits = policy.parts.lm_head(policy.row_hidden(plain)).index_fill(-1, policy.banned, -math.inf)
        places = torch.tensor([first + place for place in chunk.taught])
        targets = torch.tensor([chunk.token_ids[place] for place in chunk.taught])
        total = total + torch.nn.functional.cross_entropy(logits[places - 1], targets, reduction="sum") / count
    (weight * total).backward()
    expected = gradient(policy)
    assert both[0] - alone[0] == pytest.approx(weight * float(total.detach()), rel=1e-5)
    assert both[2]["policy/grounding_loss"] == pytest.approx(float(total.detach()), rel=1e-5)
    assert float((both[1] - alone[1] - expected).norm() / expected.norm()) < 1e-4


def test_the_kl_term_pulls_towards_the_reference(policy: Policy, batch: ScoredBatch, tmp_path: Path) -> None:
    other = load_policy(PolicyConfig(str(write_tiny_policy(tmp_path, seed=1))), TURN_ENDS)
    config = replace(algorithm(), loss=LossConfig(kl_coef=0.5))
    same = whole_batch(policy, batch, config, reference=Reference(policy))
    away = whole_batch(policy, batch, config, reference=Reference(other))
    plain = whole_batch(policy, batch, algorithm())
    assert same[3] == away[3] == 1
    assert same[2]["policy/kl_ref"] == 0.0
    assert float((same[1] - plain[1]).norm() / plain[1].norm()) < 1e-4
    assert away[2]["policy/kl_ref"] > 0.1
    # every token counts, also those of the group whose advantages are 0
    assert away[0] - plain[0] == pytest.approx(0.5 * away[2]["policy/kl_ref"], rel=1e-4)
    assert float((away[1] - plain[1]).norm()) > 0.1 * float(plain[1].norm())


def test_later_updates_clip_against_the_policy_before_the_first(policy: Policy, batch: ScoredBatch) -> None:
    config = algorithm()
    (row,) = training_rows(batch, nothing(batch), config, policy.vocabulary.image)
    tokens = float(sum(sum(rollout.policy_tokens) for rollout in batch.rollouts))
    scores = policy(row.row, 1.0)
    shift = torch.linspace(-0.5, 0.5, len(scores.logprobs))
    sums = Sums()
    loss = row_loss(
        row, scores, scores.logprobs.detach() - shift, None, BatchTotals(tokens, 20, tokens, 1), 0.0, 0.0, config, sums
    )
    ratio, advantages = shift.exp(), row.advantages[row.row.episode]
    costs = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.28) * advantages)
    assert float(loss.detach()) == pytest.approx(float(costs.sum()) / tokens, abs=1e-6)
    count = len(shift)
    found = sums.means()
    assert found["policy/clip_low"] == pytest.approx(float(((advantages < 0) & (ratio < 0.8)).sum()) / count)
    assert found["policy/clip_high"] == pytest.approx(float(((advantages > 0) & (ratio > 1.28)).sum()) / count)
    assert found["policy/clip_low"] > 0
    assert found["policy/clip_high"] > 0
    assert found["policy/ratio"] == pytest.approx(float(ratio.mean()), rel=1e-5)


def test_rows_know_which_tokens_carry_loss(policy: Policy, batch: ScoredBatch) -> None:
    config = algorithm(mask_truncated=True)
    (row,) = training_rows(batch, taught(policy, batch), config, policy.vocabulary.image)
    expected = [
        0 if episode is None or episode.truncated else length
        for rollout in batch.rollouts
        for episode, length in zip([*rollout.episodes, None], [*rollout.policy_tokens, 0], strict=True)
    ]
    assert isinstance(row, TrainingRow)
    assert row.lengths.tolist() == expected
    assert int(row.token_mask.sum()) == sum(expected)
    assert row.advantages.view(5, 5)[:, 4].tolist() == [0.0] * 5


def test_the_sampler_agrees_with_the_packed_row(policy: Policy, batch: ScoredBatch) -> None:
    metrics = whole_batch(policy, batch, algorithm())[2]
    assert metrics["policy/sampler_gap"] < 1e-5
    assert metrics["policy/ratio"] == 1.0
    assert 0 < metrics["policy/entropy"] < math.log(len(policy.tokenizer))
