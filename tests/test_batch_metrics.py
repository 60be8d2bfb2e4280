"""What a rollout step is measured by: a fixed set of keys, means that were worked by hand, and sums over ranks."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from infogap.data.needle import NeedleConfig, make_sample
from infogap.data.sample import Sample
from infogap.episode.protocol import Protocol, ProtocolConfig
from infogap.episode.rewards import GroundingConfig, RewardConfig, RewardSet
from infogap.geometry import Box, Size
from infogap.grpo.batch import ScoredBatch, score_batch, score_greedy
from infogap.grpo.metrics import Sums, add_batch_metrics, add_update_keys
from infogap.policy.packing import Chunk, Group
from infogap.policy.patches import Patches
from infogap.rollout import GroupRollout
from infogap.types import Episode, StopReason, Turn

SCENE = make_sample(NeedleConfig(sides=(224,), signs=(2, 2), clutter=0), 0, 0)
CALL = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2, 3, 4]}}</tool_call>'
B1, B2 = Box(40, 40, 60, 60), Box(20, 20, 80, 80)
REWARDS = ("accuracy", "format", "tool", "grounding", "total")
KEYS = {f"reward/{name}{end}" for name in REWARDS for end in ("", "_std")}
KEYS |= {f"group/{name}" for name in ("all_right", "all_wrong", "zero_variance", "advantage_std")}
KEYS |= {f"episode/{name}" for name in ("turns", "crops", "tool_rate", "bad_calls", "policy_tokens", "visual_tokens")}
KEYS |= {f"episode/stop_{reason.value}" for reason in StopReason}
KEYS |= {f"crop/{name}" for name in ("area_ratio", "iou", "coverage", "coverage_above_tau")}


def sample(key: str, answer: str = "3", *, evidence: bool = True) -> Sample:
    return Sample(key, SCENE.image, "What?", answer, evidence=((B1, B2),) if evidence else ())


def answered(text: str) -> Episode:
    return Episode("", [Turn(f"<answer>{text}</answer>")], StopReason.ANSWERED, text)


def cropped(*boxes: Box, answer: str | None = "3") -> Episode:
    turns = [Turn(CALL, "shown", crop=box) for box in boxes]
    if answer is None:
        return Episode("", [*turns, Turn(CALL)], StopReason.MAX_CROPS)
    return Episode("", [*turns, Turn(f"<answer>{answer}</answer>")], StopReason.ANSWERED, answer)


def failed() -> Episode:
    return Episode("", [Turn(CALL, "no", error="outside"), Turn("hm", error="no tag")], StopReason.MAX_TURNS)


def rollout(about: Sample, *episodes: Episode) -> GroupRollout:
    """Two policy tokens a turn; a view of 4 visual tokens, and 1 for each crop."""
    crop = Chunk((7,), (Patches(torch.zeros(1, 1), (2, 2)),))
    prompt = Chunk((1,), (Patches(torch.zeros(1, 1), (4, 4)),))
    chunks = []
    for episode in episodes:
        turns = [[Chunk((5, 6), sampled=True), *([crop] if turn.crop else [])] for turn in episode.turns]
        chunks.append(tuple(chunk for turn in turns for chunk in turn))
    return GroupRollout(about, Size(56, 56), Group(prompt, tuple(chunks)), episodes)


def score(rollouts: Sequence[GroupRollout]) -> ScoredBatch:
    rewards = RewardSet.from_config(RewardConfig(), Protocol(ProtocolConfig()))
    return score_batch(rollouts, rewards, scale_rewards="group", aggregation="sum_then_normalize")


def sums(batch: ScoredBatch) -> Sums:
    found = Sums()
    add_batch_metrics(found, batch, GroundingConfig())
    return found


SCRIPTED = (
    # right with the box B_2 (covers B_1 wholly), wrong without a crop
    rollout(sample("first"), cropped(B2), answered("4")),
    # wrong with two crops, the second of which misses; a failed episode
    rollout(sample("second"), cropped(B1, Box(100, 100, 200, 200), answer=None), failed()),
    # all right, no evidence, equal rewards
    rollout(sample("third", evidence=False), answered("3"), answered("3")),
)


def test_means_are_those_worked_by_hand() -> None:
    found = sums(score(SCRIPTED)).means()
    expected = {
        "reward/accuracy": 3 / 6,
        "reward/format": -2 / 6,
        "reward/tool": 1 / 6,
        "reward/accuracy_std": 0.5 / 3,  # of (1, 0), (0, 0), (1, 1)
        "reward/format_std": 0.0,
        "reward/tool_std": 0.5 / 3,
        # (0.8 + 1.2, 0), (-0.2, -0.2), (0.8, 0.8)
        "reward/total": (2.0 + 0 - 0.2 - 0.2 + 0.8 + 0.8) / 6,
        "reward/total_std": 1.0 / 3,
        "group/all_right": 1 / 3,
        "group/all_wrong": 1 / 3,
        "group/zero_variance": 2 / 3,
        "group/advantage_std": 2**-0.5 / 3,  # +-1 / sqrt(2), divided by the unbiased deviation
        "episode/turns": (2 + 1 + 3 + 2 + 1 + 1) / 6,
        "episode/crops": 3 / 6,
        "episode/tool_rate": 2 / 6,
        "episode/bad_calls": 2 / 6,
        "episode/policy_tokens": 2 * 10 / 6,
        "episode/visual_tokens": (5 + 4 + 6 + 4 + 4 + 4) / 6,
        "episode/stop_answered": 4 / 6,
        "episode/stop_no_action": 0.0,
        "episode/stop_max_turns": 1 / 6,
        "episode/stop_max_crops": 1 / 6,
        "episode/stop_max_tokens": 0.0,
        "crop/area_ratio": (3600 + 400 + 10000) / 224**2 / 3,
        "crop/iou": 1.0,  # each episode's best crop is one of the nested boxes
        "crop/coverage": 1.0,
        "crop/coverage_above_tau": 1.0,
        "reward/grounding": 2 / 6,
        "reward/grounding_std": (0.5 + 0.5) / 3,
    }
    assert set(found) == set(expected) == KEYS
    assert found == pytest.approx(expected, abs=1e-4)


def test_crops_are_measured_against_the_innermost_box_and_the_best_of_the_chain() -> None:
    # 20 x 17 of B_1's 20 x 20 pixels, and nothing else; IoU with B_1 0.85, with B_2 340 / 3600
    half = rollout(sample("first"), cropped(Box(40, 40, 60, 57)), cropped(Box(40, 40, 60, 59)))
    found = sums(score([half])).means()
    assert found["crop/coverage"] == pytest.approx((0.85 + 0.95) / 2)
    assert found["crop/iou"] == pytest.approx((0.85 + 0.95) / 2)  # counted also where coverage is below tau
    assert found["crop/coverage_above_tau"] == 0.5


@pytest.mark.parametrize(
    "episodes",
    [
        [answered("3"), answered("4")],
        [failed(), failed()],
        [cropped(B2), cropped(B1)],
        [Episode("", [Turn("")], StopReason.MAX_TOKENS), Episode("", [Turn("")], StopReason.NO_ACTION)],
    ],
    ids=["no crops", "bad calls", "all right", "cut off"],
)
@pytest.mark.parametrize("evidence", [True, False], ids=["boxes", "no boxes"])
def test_the_keys_are_fixed_and_the_values_finite(episodes: list[Episode], evidence: bool) -> None:
    found = sums(score([rollout(sample("any", evidence=evidence), *episodes)])).means()
    assert set(found) == KEYS
    assert all(torch.tensor(value).isfinite() for value in found.values())


def test_a_mean_over_nothing_is_zero() -> None:
    found = Sums()
    add_update_keys(found)
    found.add("crop/iou", [])
    assert set(found.means().values()) == {0.0}
    names = {"loss", "entropy", "sampler_gap", "clip_low", "clip_high", "dual_clip", "kl_old", "kl_ref", "ratio"}
    names |= {"grounding_loss"}
    assert set(found.means()) == {f"policy/{n}" for n in names} | {"optim/grad_norm", "optim/lr", "crop/iou"}


def test_sums_over_two_ranks_are_those_of_one() -> None:
    """Ranks hold groups of their own; advantages do not depend on other groups here."""
    ranks = [sums(score(SCRIPTED[:1])), sums(score(SCRIPTED[1:]))]
    for number, rank in enumerate(ranks):
        add_update_keys(rank)
        rank.add_ratio("policy/entropy", 2.0 + number, 10 * number + 1)
    tables: list[Tensor] = []

    def record(table: Tensor) -> Tensor:
        tables.append(table)
        return table

    for rank in ranks:
        rank.means(record)
    together = [rank.means(lambda _: tables[0] + tables[1]) for rank in ranks]
    whole = sums(score(SCRIPTED))
    add_update_keys(whole)
    whole.add_ratio("policy/entropy", 5.0, 12)
    assert together[0] == together[1] == pytest.approx(whole.means(), abs=1e-9)


def test_named_means_are_there_also_on_a_rank_without_samples() -> None:
    full, empty = sums(score(SCRIPTED)), Sums()
    names = ("crop/iou", "reward/total")
    tables: list[Tensor] = []
    for rank in (full, empty):
        rank.means(lambda table: tables.append(table) or table, names)
    expected = {name: full.means()[name] for name in names}
    assert empty.means(lambda _: tables[0] + tables[1], names) == expected
    assert empty.means(names=names) == dict.fromkeys(names, 0.0)


def test_reward_columns_are_found_by_name() -> None:
    batch = score(SCRIPTED)
    assert batch.column("accuracy").tolist() == [[1, 0], [0, 0], [1, 1]]
    assert batch.column("format").tolist() == [[0, 0], [-1, -1], [0, 0]]
    assert batch.zero_variance_p.tolist() == [False, True, True]


def test_greedy_episodes_have_rewards_and_no_advantages() -> None:
    rewards = RewardSet.from_config(RewardConfig(), Protocol(ProtocolConfig()))
    batch = score_greedy([rollout(sample("first"), cropped(B2)), rollout(sample("second"), failed())], rewards)
    assert batch.totals_pg[:, 0].tolist() == pytest.approx([2.0, -0.2])
    assert batch.advantages_pg.tolist() == [[0.0], [0.0]]
    found = sums(batch).means()
    assert set(found) == KEYS
    assert found["reward/total_std"] == 0.0
