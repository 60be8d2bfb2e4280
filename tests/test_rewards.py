"""Rewards against tables worked by hand from LFPC sections 3 and 4.

The image is 1000 x 500. B_1 = (100, 100, 200, 150) has 100 * 50 = 5000 pixels, B_2 = (80, 90, 240, 170) has 160 * 80 =
12800.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infogap.data.sample import Sample
from infogap.episode.extra_reward import ExtraReward, checked_score
from infogap.episode.protocol import Protocol, ProtocolConfig
from infogap.episode.rewards import (
    AccuracyReward,
    FormatReward,
    GroundingConfig,
    GroundingReward,
    GroundingScore,
    RewardConfig,
    RewardSet,
    ToolReward,
    grounding_score,
)
from infogap.geometry import Box, Size
from infogap.types import Episode, StopReason, Turn

SIZE = Size(1000, 500)
B_1, B_2 = Box(100, 100, 200, 150), Box(80, 90, 240, 170)
FAR = Box(900, 400, 1000, 500)
CALL = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2, 30, 40]}}</tool_call>'
MakeSample = Callable[..., Sample]


def values(score: GroundingScore | None) -> tuple[float, float, float, float]:
    assert score is not None
    return score.reward, score.iou, score.coverage, score.l1


def played(*texts: str, crops: tuple[Box, ...] = (), answer: str | None = None, error: str | None = None) -> Episode:
    """An episode of these turns, the first ones with these crops; answered if there is an answer."""
    turns = [Turn(text, crop=crops[index] if index < len(crops) else None) for index, text in enumerate(texts)]
    if error is not None:
        turns[0] = Turn(texts[0], error=error)
    reason = StopReason.NO_ACTION if answer is None else StopReason.ANSWERED
    return Episode("sample", turns, reason, answer)


@pytest.mark.parametrize(
    ("crop", "iou", "coverage", "l1", "reward"),
    [
        # B_1 itself, and B_2 itself: nearest box met exactly, B_1 covered.
        (B_1, 1.0, 1.0, 1.0, 1.0),
        (B_2, 1.0, 1.0, 1.0, 1.0),
        # The whole image. IoU with B_2: 12800 / 500000 = 0.0256. d_L1 to B_2: (0.08 + 0.18 + 0.76 + 0.66) / 4 = 0.42,
        # to B_1: (0.1 + 0.2 + 0.8 + 0.7) / 4 = 0.45. r = 0.5 * 0.0256 + 0.5 * 0.58.
        (Box(0, 0, 1000, 500), 0.0256, 1.0, 0.58, 0.3028),
        # B_1 moved right by its half: covers 2500 / 5000, not above 0.9, so the IoU is not paid. IoU with B_1:
        # 2500 / 7500; with B_2: 90 * 50 / (12800 + 5000 - 4500) = 45 / 133, which is more. d_L1 to B_1:
        # (0.05 + 0.05) / 4 = 0.025, to B_2: (0.07 + 0.02 + 0.01 + 0.04) / 4 = 0.035. r = 0.5 * 0 + 0.5 * 0.975.
        (Box(150, 100, 250, 150), 45 / 133, 0.5, 0.975, 0.4875),
        # Nine tenths of B_1: overlap is 0.9, which is not more than tau. d_L1: 0.01 / 4. r = 0.5 * 0 + 0.5 * 0.9975.
        (Box(110, 100, 200, 150), 0.9, 0.9, 0.9975, 0.49875),
        # One pixel more: overlap 91 * 50 / 5000 = 0.91. d_L1: 0.009 / 4. r = 0.5 * 0.91 + 0.5 * 0.99775.
        (Box(109, 100, 200, 150), 0.91, 0.91, 0.99775, 0.953875),
        # Far off: d_L1 to B_1: (0.8 + 0.6 + 0.8 + 0.7) / 4 = 0.725, to B_2: (0.82 + 0.62 + 0.76 + 0.66) / 4 = 0.715.
        (FAR, 0.0, 0.0, 0.285, 0.1425),
    ],
)
def test_grounding_of_one_crop(crop: Box, iou: float, coverage: float, l1: float, reward: float) -> None:
    score = grounding_score([crop], [(B_1, B_2)], SIZE, GroundingConfig())
    assert values(score) == pytest.approx((reward, iou, coverage, l1), abs=1e-12)


@pytest.mark.parametrize(("omega", "reward"), [(0.0, 0.58), (0.25, 0.4414), (1.0, 0.0256)])
def test_omega_weighs_iou_against_l1(omega: float, reward: float) -> None:
    score = grounding_score([Box(0, 0, 1000, 500)], [(B_1, B_2)], SIZE, GroundingConfig(omega=omega))
    assert values(score)[0] == pytest.approx(reward)


def test_tau_gates_the_iou() -> None:
    crop = [Box(150, 100, 250, 150)]  # covers one half of B_1
    assert values(grounding_score(crop, [(B_1,)], SIZE, GroundingConfig(tau=0.5)))[0] == pytest.approx(0.4875)
    assert values(grounding_score(crop, [(B_1,)], SIZE, GroundingConfig(tau=0.49)))[0] == pytest.approx(
        0.5 / 3 + 0.4875
    )


@pytest.mark.parametrize(("reduce", "reward"), [("best", 1.0), ("last", 0.1425), ("mean", (1.0 + 0.1425) / 2)])
def test_which_crop_counts(reduce: Literal["best", "last", "mean"], reward: float) -> None:
    score = grounding_score([B_1, FAR], [(B_1, B_2)], SIZE, GroundingConfig(reduce=reduce))
    assert values(score)[0] == pytest.approx(reward)


def test_the_best_crop_gives_all_values() -> None:
    # The whole image covers more of B_1, but is worth less than nine tenths of B_1: 0.3028 against 0.49875.
    score = grounding_score([Box(0, 0, 1000, 500), Box(110, 100, 200, 150)], [(B_1, B_2)], SIZE, GroundingConfig())
    assert values(score) == pytest.approx((0.49875, 0.9, 0.9, 0.9975))


@pytest.mark.parametrize(
    ("reduce", "reward"),
    [
        ("best", 1.0),  # each piece of evidence has a crop of its own
        # last crop: 0.1425 for the first piece, 1 for the second
        ("last", (0.1425 + 1.0) / 2),
        # B_1 against the second piece: d_L1 = (0.8 + 0.6 + 0.8 + 0.7) / 4 = 0.725, r = 0.1375
        ("mean", ((1.0 + 0.1425) / 2 + (0.1375 + 1.0) / 2) / 2),
    ],
)
def test_two_pieces_of_evidence(reduce: Literal["best", "last", "mean"], reward: float) -> None:
    score = grounding_score([B_1, FAR], [(B_1, B_2), (FAR,)], SIZE, GroundingConfig(reduce=reduce))
    assert values(score)[0] == pytest.approx(reward)


def test_one_crop_for_two_pieces_of_evidence_pays_half() -> None:
    score = grounding_score([B_1], [(B_1, B_2), (FAR,)], SIZE, GroundingConfig())
    assert values(score) == pytest.approx(((1.0 + 0.1375) / 2, 0.5, 0.5, (1.0 + 0.275) / 2))


def test_grounding_without_crop_or_evidence(make_sample: MakeSample) -> None:
    assert grounding_score([], [(B_1,)], SIZE, GroundingConfig()) == GroundingScore(0.0, 0.0, 0.0, 0.0)
    assert grounding_score([B_1], [], SIZE, GroundingConfig()) is None
    reward = GroundingReward(GroundingConfig())
    annotated = make_sample(size=SIZE, evidence=((B_1, B_2),))
    assert reward(played(CALL, crops=(B_1,)), annotated) == 1.0
    assert reward(played("B"), annotated) == 0.0
    assert reward(played(CALL, crops=(B_1,)), make_sample(size=SIZE)) == 0.0


def test_grounding_is_not_gated_by_accuracy(make_sample: MakeSample) -> None:
    episode = played(CALL, "<answer>wrong</answer>", crops=(B_1,), answer="wrong")
    assert GroundingReward(GroundingConfig())(episode, make_sample(size=SIZE, evidence=((B_1,),))) == 1.0


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x1, y1 = draw(st.integers(0, 999)), draw(st.integers(0, 499))
    return Box(x1, y1, draw(st.integers(x1 + 1, 1000)), draw(st.integers(y1 + 1, 500)))


@given(st.lists(boxes(), min_size=1, max_size=4), boxes(), st.floats(0, 0.99), st.floats(0, 1))
def test_grounding_bounds(crops: list[Box], evidence: Box, tau: float, omega: float) -> None:
    scores = {
        reduce: values(grounding_score(crops, [(evidence,)], SIZE, GroundingConfig(tau, omega, reduce)))
        for reduce in ("best", "last", "mean")
    }
    assert all(0.0 <= value <= 1.0 for score in scores.values() for value in score)
    assert scores["best"][0] >= max(scores["last"][0], scores["mean"][0]) - 1e-12
    perfect = grounding_score([*crops, evidence], [(evidence,)], SIZE, GroundingConfig(tau, omega))
    assert values(perfect)[0] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "config", [{"tau": 1.0}, {"tau": -0.1}, {"omega": 1.1}, {"omega": -0.1}, {"tau": float("nan")}]
)
def test_grounding_settings_out_of_range_are_refused(config: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(config))} is "):
        GroundingConfig(**config)  # type: ignore[arg-type]


def test_accuracy(make_sample: MakeSample) -> None:
    sample = make_sample(answer="B", options=("red", "blue"))
    assert AccuracyReward()(played("<answer>B</answer>", answer="B"), sample) == 1.0
    assert AccuracyReward()(played("<answer>red</answer>", answer="red"), sample) == 0.0
    assert AccuracyReward()(played("B"), sample) == 0.0


@pytest.mark.parametrize(
    ("episode", "reward"),
    [
        (played("<answer>3</answer>", answer="3"), 0.0),
        (played(CALL, "<think>So.</think><answer>4</answer>", crops=(B_1,), answer="4"), 0.0),
        (played("Well, <answer>3</answer>", answer="3"), -1.0),
        (played(f"Well, {CALL}", "<answer>3</answer>", crops=(B_1,), answer="3"), -1.0),
        (played(CALL, "<answer>3</answer>", error="The box is empty.", answer="3"), -1.0),
        (played("<answer>3"), -1.0),
        (Episode("sample", [Turn(CALL)], StopReason.MAX_TURNS), -1.0),
        (Episode("sample", [Turn("<answer>3</answer>")], StopReason.MAX_TOKENS), -1.0),
    ],
)
def test_format(make_sample: MakeSample, episode: Episode, reward: float) -> None:
    assert FormatReward(Protocol(ProtocolConfig()))(episode, make_sample()) == reward


def test_format_with_thinking(make_sample: MakeSample) -> None:
    reward = FormatReward(Protocol(ProtocolConfig(require_think=True)))
    assert reward(played("<think>So.</think><answer>3</answer>", answer="3"), make_sample()) == 0.0
    assert reward(played(CALL, "<think>So.</think><answer>3</answer>", answer="3"), make_sample()) == -1.0


@pytest.mark.parametrize(
    ("answer", "crops", "reward"), [("3", (B_1,), 1.0), ("3", (B_1, B_2), 1.0), ("3", (), 0.0), ("4", (B_1,), 0.0)]
)
def test_tool_pays_only_with_a_right_answer(
    make_sample: MakeSample, answer: str, crops: tuple[Box, ...], reward: float
) -> None:
    texts = [CALL] * len(crops) + [f"<answer>{answer}</answer>"]
    assert ToolReward()(played(*texts, crops=crops, answer=answer), make_sample()) == reward


@pytest.mark.parametrize(
    ("episode", "scores", "total"),
    [
        # right, with a crop: 0.8 * 1 + 0.2 * 0 + 1.2 * 1
        (played(CALL, "<answer>3</answer>", crops=(B_1,), answer="3"), [1.0, 0.0, 1.0, 1.0], 2.0),
        # right, without a crop: 0.8
        (played("<answer>3</answer>", answer="3"), [1.0, 0.0, 0.0, 0.0], 0.8),
        # right, but with text around: 0.8 - 0.2
        (played("So <answer>3</answer>", answer="3"), [1.0, -1.0, 0.0, 0.0], 0.6),
        # wrong, with a crop: nothing
        (played(CALL, "<answer>4</answer>", crops=(B_1,), answer="4"), [0.0, 0.0, 0.0, 1.0], 0.0),
        # no action: -0.2
        (played("3"), [0.0, -1.0, 0.0, 0.0], -0.2),
    ],
)
def test_reward_set_of_stage_one(make_sample: MakeSample, episode: Episode, scores: list[float], total: float) -> None:
    rewards = RewardSet.from_config(RewardConfig(), Protocol(ProtocolConfig()))
    assert rewards.names == ("accuracy", "format", "tool", "grounding")
    sample = make_sample(size=SIZE, evidence=((B_1, B_2),))
    assert rewards.score(episode, sample) == scores
    assert rewards.total(scores) == pytest.approx(total)


def test_reward_set_of_stage_two(make_sample: MakeSample) -> None:
    rewards = RewardSet.from_config(RewardConfig(), Protocol(ProtocolConfig()))
    rewards.set_weight("grounding", 1.0)
    assert rewards.weights == [0.8, 0.2, 1.2, 1.0]
    sample = make_sample(size=SIZE, evidence=((B_1, B_2),))
    whole = played(CALL, "<answer>4</answer>", crops=(Box(0, 0, 1000, 500),), answer="4")
    assert rewards.total(rewards.score(whole, sample)) == pytest.approx(0.3028)


def test_grounding_details_reach_the_reward(make_sample: MakeSample) -> None:
    config = RewardConfig(grounding_details=GroundingConfig(reduce="last"))
    rewards = RewardSet.from_config(config, Protocol(ProtocolConfig()))
    sample = make_sample(size=SIZE, evidence=((B_1, B_2),))
    assert rewards.score(played(CALL, CALL, crops=(B_1, FAR)), sample)[3] == pytest.approx(0.1425)


def test_a_reward_of_ones_own(make_sample: MakeSample) -> None:
    class Brevity:
        name = "brevity"

        def __call__(self, episode: Episode, sample: Sample) -> float:
            return 1.0 / len(episode.turns)

    rewards = RewardSet([(Brevity(), 0.5), (AccuracyReward(), 2.0)])
    assert rewards.names == ("brevity", "accuracy")
    scores = rewards.score(played(CALL, "<answer>3</answer>", answer="3"), make_sample())
    assert scores == [0.5, 1.0]
    assert rewards.total(scores) == 2.25


def test_reward_set_refuses_unknown_and_doubled_names() -> None:
    rewards = RewardSet([(AccuracyReward(), 1.0), (ToolReward(), 1.0)])
    with pytest.raises(ValueError, match="no reward 'geo': use one of accuracy, tool"):
        rewards.set_weight("geo", 1.0)
    with pytest.raises(ValueError, match="Two rewards are called accuracy"):
        RewardSet([(AccuracyReward(), 1.0), (AccuracyReward(), 1.0)])
    with pytest.raises(ValueError, match="zip"):
        rewards.total([1.0])


def test_weights_must_be_finite() -> None:
    with pytest.raises(ValueError, match="reward tool is nan"):
        RewardConfig(tool=float("nan"))
    with pytest.raises(ValueError, match="reward tool is inf"):
        RewardSet([(ToolReward(), float("inf"))])
    with pytest.raises(ValueError, match="reward tool is inf"):
        RewardSet([(ToolReward(), 1.0)]).set_weight("tool", float("inf"))


# --- rewards of one's own ---


class Brevity(ExtraReward):
    """Half a point for every turn that was not taken."""

    name = "brevity"

    def __call__(self, episode: Episode, sample: Sample) -> float:
        return -0.5 * (len(episode.turns) - 1)


class Scored(Brevity):
    def __init__(self, score: object, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.score = score

    def __call__(self, episode: Episode, sample: Sample) -> float:
        return self.score  # type: ignore[return-value]


def with_extra(*extra: ExtraReward) -> RewardSet:
    return RewardSet.from_config(RewardConfig(extra=list(extra)), Protocol(ProtocolConfig()))


def test_an_extra_reward_is_one_more_column(make_sample: MakeSample) -> None:
    rewards = with_extra(Brevity(weight=0.1))
    assert rewards.names == ("accuracy", "format", "tool", "grounding", "brevity")
    assert rewards.weights == [0.8, 0.2, 1.2, 0.0, 0.1]
    scores = rewards.score(played(CALL, "<answer>3</answer>", crops=(B_1,), answer="3"), make_sample())
    assert scores == [1.0, 0.0, 1.0, 0.0, -0.5]
    assert rewards.total(scores) == pytest.approx(0.8 + 1.2 - 0.05)
    rewards.set_weight("brevity", 2.0)
    assert rewards.weights[-1] == 2.0


def test_an_extra_reward_without_a_weight_weighs_one() -> None:
    class Careless(Brevity):
        def __init__(self) -> None:
            pass

    assert with_extra(Careless()).weights[-1] == with_extra(Brevity()).weights[-1] == 1.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "has no name: set its attribute `name`"),
        ("", "has the name '', which cannot be part of a metric's key"),
        ("crop area", "has the name 'crop area', which cannot be part of a metric's key"),
        ("crop/area", "has the name 'crop/area', which cannot be"),
        ("fläche", "which cannot be part of a metric's key"),
        (3, "has the name 3, which cannot be"),
        ("total", "has the name 'total', which another metric has"),
        ("accuracy_std", "has the name 'accuracy_std', which another metric has"),
        ("grounding_loss", "has the name 'grounding_loss', which another metric has"),
        ("tool", "Two rewards are called tool"),
    ],
)
def test_a_name_must_do_for_a_metric(name: object, message: str) -> None:
    reward = Brevity()
    reward.name = name  # type: ignore[assignment]
    with pytest.raises(ValueError, match=message):
        with_extra(reward)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), None, "1", [1.0]])
def test_a_score_that_is_no_number_is_refused(make_sample: MakeSample, score: object) -> None:
    message = re.escape(f"The reward brevity of the sample 'here' is {score!r}, but must be a finite number: mend ")
    with pytest.raises(ValueError, match=f"^{message}test_rewards.Scored"):
        with_extra(Scored(score)).score(played("3"), make_sample("here"))


@pytest.mark.parametrize("score", [True, 2, np.float32(0.5)])
def test_any_real_number_is_a_score(make_sample: MakeSample, score: object) -> None:
    assert with_extra(Scored(score)).score(played("3"), make_sample())[-1] == float(score)  # type: ignore[arg-type]


def test_the_weight_of_an_extra_reward_is_finite() -> None:
    with pytest.raises(ValueError, match="The weight of the reward brevity is nan, but must be a finite number"):
        with_extra(Brevity(weight=float("nan")))


class Divides(Brevity):
    """Its mistake is in a line of this file, though what raises may be elsewhere."""

    def __call__(self, episode: Episode, sample: Sample) -> float:
        return 1 / len(episode.crops)


class Asks(Brevity):
    def __call__(self, episode: Episode, sample: Sample) -> float:
        return Box.nowhere  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize(("reward", "error"), [(Divides, "ZeroDivisionError: "), (Asks, "AttributeError: ")])
def test_an_error_of_an_extra_reward_names_its_place(
    make_sample: MakeSample, reward: type[ExtraReward], error: str
) -> None:
    line = inspect.getsourcelines(reward.__call__)[1] + 1
    place = re.escape(f"({__file__}, line {line}): mend ")
    with pytest.raises(ValueError, match=f"of the sample 'here' raised {error}.* {place}.*\\.{reward.__name__}\\.$"):
        with_extra(reward()).score(played("3"), make_sample("here"))


def test_an_error_of_our_own_rewards_comes_as_it_is(make_sample: MakeSample) -> None:
    def broken(episode: Episode, sample: Sample) -> float:
        raise KeyError("ours")

    broken.name = "broken"  # type: ignore[attr-defined]
    with pytest.raises(KeyError, match="ours"):
        checked_score(broken, played("3"), make_sample())  # type: ignore[arg-type]
