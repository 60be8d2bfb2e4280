"""Rewards of a finished episode: is the answer right, is the text well formed, was the tool used, did the crop hit.

The formulas are those of LFPC sections 3 and 4. To add a reward, write a subclass of ``ExtraReward`` and name it in
``RewardConfig.extra``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final, Literal

from infogap.data.sample import Sample
from infogap.episode import protocol as text_protocol
from infogap.episode.extra_reward import ExtraReward, Reward, check_name, check_weight, checked_score
from infogap.episode.matching import match_answer
from infogap.geometry import Box, NestedBoxes, Size, corner_l1, coverage, iou
from infogap.types import Episode, StopReason


@dataclass
class GroundingConfig:
    """How crops are compared with annotated evidence (LFPC section 4).

    Attributes:
        tau: share of B_1 that a crop must exceed for its IoU to count. LFPC section 4: 0.9.
        omega: weight of the IoU term against the L1 term. Not published; default 0.5.
        reduce: which crop of an episode counts: the best, the last, or the mean of all. Not published; default best.

    Raises:
        ValueError: if tau is outside [0, 1), or omega outside [0, 1].
    """

    tau: float = 0.9
    omega: float = 0.5
    reduce: Literal["best", "last", "mean"] = "best"

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0.0 <= self.tau < 1.0:
            raise ValueError(
                f"tau is {self.tau}, but must be at least 0 and less than 1, the most that can be covered."
            )
        if not 0.0 <= self.omega <= 1.0:
            raise ValueError(f"omega is {self.omega}, but must be between 0 and 1.")


@dataclass
class RewardConfig:
    """Weights of the rewards. Their values are not published; where not said otherwise they are those of DeepEyes.

    Attributes:
        accuracy: weight of a right answer (1 or 0). Default 0.8.
        format: weight of the format penalty (0 or -1). Default 0.2.
        tool: weight of having cropped and answered right (1 or 0). Default 1.2.
        grounding: weight of r_geo, in [0, 1]. Default 0, which is stage 1; our default for stage 2 is 1.0.
        grounding_details: how r_geo is computed.
        extra: rewards of one's own, each a class with its arguments, one of which is its weight, as in
            ``{class_path: my_rewards.CropAreaCost, init_args: {weight: 0.2}}``. Beside ``trainer`` this is the only
            place of the configuration that names classes: what somebody else writes has no field here. Default none.

    Raises:
        ValueError: if a weight is not finite.
    """

    accuracy: float = 0.8
    format: float = 0.2
    tool: float = 1.2
    grounding: float = 0.0
    grounding_details: GroundingConfig = field(default_factory=GroundingConfig)
    extra: list[ExtraReward] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check the weights; those of further rewards are checked where all are put together."""
        for name in ("accuracy", "format", "tool", "grounding"):
            check_weight(name, getattr(self, name))


class AccuracyReward:
    """1 if the answer is right, else 0 (r_acc of LFPC section 3)."""

    name: Final = "accuracy"

    def __call__(self, episode: Episode, sample: Sample) -> float:
        """Compare the answer by rules."""
        return float(match_answer(episode.answer, sample.answer, sample.options))


class FormatReward:
    """0 if the episode is well formed, else -1 (r_format of LFPC section 3).

    Well formed: it ended in an answer, no call failed, and each turn is exactly one action after an optional
    ``<think>`` part. What the paper counts as malformed is not published.

    Args:
        protocol: says whether a turn is well formed.
    """

    name: Final = "format"

    def __init__(self, protocol: text_protocol.Protocol) -> None:
        self._protocol = protocol

    def __call__(self, episode: Episode, sample: Sample) -> float:
        """Check ending, calls and turns."""
        answered = episode.stop_reason is StopReason.ANSWERED and episode.bad_calls == 0
        well_formed = answered and all(self._protocol.is_well_formed_turn(turn.text) for turn in episode.turns)
        return 0.0 if well_formed else -1.0


class ToolReward:
    """1 if at least one crop succeeded and the answer is right, else 0 (1[r_acc > 0] r_tool of LFPC section 3)."""

    name: Final = "tool"

    def __call__(self, episode: Episode, sample: Sample) -> float:
        """Pay for a crop only with a right answer."""
        return float(bool(episode.crops) and match_answer(episode.answer, sample.answer, sample.options))


class GroundingReward:
    """r_geo of LFPC section 4, in [0, 1]; 0 without a crop or without evidence. Not gated by accuracy.

    Args:
        config: tau, omega and which crop counts.
    """

    name: Final = "grounding"

    def __init__(self, config: GroundingConfig) -> None:
        self._config = config

    def __call__(self, episode: Episode, sample: Sample) -> float:
        """Compare the crops with the evidence."""
        score = grounding_score(episode.crops, sample.evidence, sample.image.size, self._config)
        return 0.0 if score is None else score.reward


@dataclass(frozen=True)
class GroundingScore:
    """How well crops hit the evidence; each value is in [0, 1], and 0 without a crop.

    Attributes:
        reward: r_geo.
        iou: max_i IoU(B_p, B_i), whether or not the coverage exceeds tau.
        coverage: share of B_1 that the crop covers.
        l1: r_L1, which is 1 - min_i d_L1(B_p, B_i).
    """

    reward: float
    iou: float
    coverage: float
    l1: float


def grounding_score(
    crops: Sequence[Box], evidence: Sequence[NestedBoxes], size: Size, config: GroundingConfig
) -> GroundingScore | None:
    """Score the crops of an episode against the evidence of its sample (LFPC section 4).

        overlap = area(B_p & B_1) / area(B_1)
        r_IoU   = max_i IoU(B_p, B_i) if overlap > tau, else 0
        r_L1    = 1 - min_i d_L1(B_p, B_i)
        r_geo   = omega * r_IoU + (1 - omega) * r_L1

    For each piece of evidence all four values are those of the crop with the best r_geo, of the last crop, or the mean
    over crops, as ``config.reduce`` says; the result is the mean over the pieces of evidence. The paper speaks of one.

    Args:
        crops: regions that were cut, in pixels of the original, inside it.
        evidence: chains of nested boxes in pixels of the original, the innermost (B_1) first.
        size: size of the original.
        config: tau, omega and which crop counts.

    Returns:
        The score; zeros if there is no crop; None if there is no evidence.
    """
    if not evidence:
        return None
    if not crops:
        return GroundingScore(0.0, 0.0, 0.0, 0.0)
    per_chain = []
    for boxes in evidence:
        scores = [_score_crop(crop, boxes, size, config) for crop in crops]
        if config.reduce == "best":
            scores = [max(scores, key=lambda score: score.reward)]
        elif config.reduce == "last":
            scores = scores[-1:]
        per_chain.append(_mean(scores))
    return _mean(per_chain)


class RewardSet:
    """Named rewards with weights. Every reward is computed whatever its weight, so that metrics keep their keys.

    Args:
        rewards: rewards and their weights, in the order of the columns.

    Attributes:
        names: names of the rewards.
        weights: their weights, in the same order; changed by ``set_weight``.

    Raises:
        ValueError: if a name cannot be a metric's, two rewards have one name, or a weight is not finite.
    """

    def __init__(self, rewards: Sequence[tuple[Reward, float]]) -> None:
        self.names = tuple(check_name(reward) for reward, _ in rewards)
        for name in self.names:
            if self.names.count(name) > 1:
                raise ValueError(f"Two rewards are called {name}: rename one of them.")
        self.weights = [check_weight(reward.name, weight) for reward, weight in rewards]
        self._rewards = [reward for reward, _ in rewards]

    @classmethod
    def from_config(cls, config: RewardConfig, protocol: text_protocol.Protocol) -> RewardSet:
        """The four rewards of LFPC sections 3 and 4, and then those of the configuration.

        Args:
            config: weights, details of the grounding reward, and further rewards.
            protocol: says whether a turn is well formed.
        """
        return cls(
            [
                (AccuracyReward(), config.accuracy),
                (FormatReward(protocol), config.format),
                (ToolReward(), config.tool),
                (GroundingReward(config.grounding_details), config.grounding),
                *((reward, reward.weight) for reward in config.extra),
            ]
        )

    def score(self, episode: Episode, sample: Sample) -> list[float]:
        """Score a finished episode.

        Args:
            episode: the episode.
            sample: its sample.

        Returns:
            One unweighted value for each of ``names``.

        Raises:
            ValueError: if a score is not a finite number.
        """
        return [checked_score(reward, episode, sample) for reward in self._rewards]

    def total(self, scores: Sequence[float]) -> float:
        """Weighted sum of what ``score`` returned."""
        return sum(weight * score for weight, score in zip(self.weights, scores, strict=True))

    def set_weight(self, name: str, value: float) -> None:
        """Change a weight, as the stage switch does.

        Raises:
            ValueError: if no reward has that name, or the weight is not finite.
        """
        if name not in self.names:
            raise ValueError(f"There is no reward {name!r}: use one of {', '.join(self.names)}.")
        self.weights[self.names.index(name)] = check_weight(name, value)


def _score_crop(crop: Box, boxes: NestedBoxes, size: Size, config: GroundingConfig) -> GroundingScore:
    best_iou = max(iou(crop, box) for box in boxes)
    covered = coverage(of=boxes[0], by=crop)
    closeness = 1.0 - min(corner_l1(crop, box, size) for box in boxes)
    counted_iou = best_iou if covered > config.tau else 0.0
    reward = config.omega * counted_iou + (1.0 - config.omega) * closeness
    return GroundingScore(reward, best_iou, covered, closeness)


def _mean(scores: Sequence[GroundingScore]) -> GroundingScore:
    return GroundingScore(
        reward=fmean(score.reward for score in scores),
        iou=fmean(score.iou for score in scores),
        coverage=fmean(score.coverage for score in scores),
        l1=fmean(score.l1 for score in scores),
    )
