"""From a played episode and the reading of its answer to a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from infogap.episode.rewards import GroundingConfig, GroundingScore, grounding_score
from infogap.evaluation.arms import NEEDS_BOXES, PlayConfig
from infogap.evaluation.engine import Outcome
from infogap.evaluation.prediction import Prediction
from infogap.evaluation.question import Question, Reading, UnreadableRow
from infogap.evaluation.sheet import UNREADABLE
from infogap.geometry import Box, NestedBoxes, iou


def to_prediction(outcome: Outcome, reading: Reading) -> Prediction:
    """Everything that is known of one episode."""
    question, episode = outcome.case.question, outcome.episode
    sample, crops = question.sample, episode.crops
    pixels = sample.image.size.width * sample.image.size.height
    score = best_crop(question, crops)
    return Prediction(
        key=question.key,
        category=question.category,
        subcategory=question.subcategory,
        variant=question.variant,
        base=question.base or question.key,
        cluster=question.cluster,
        gold=question.gold,
        chance=question.chance,
        view=str(outcome.view),
        arm=outcome.arm,
        attempt=outcome.attempt,
        correct=reading.correct,
        method=reading.method,
        read=reading.read,
        answer=outcome.answer,
        turns=tuple(turn.text for turn in episode.turns),
        stop_reason="" if episode.stop_reason is None else episode.stop_reason.value,
        bad_calls=episode.bad_calls,
        crops=tuple(crop.as_tuple() for crop in crops),
        view_tokens=outcome.view_tokens,
        crop_tokens=outcome.crop_tokens,
        policy_tokens=outcome.policy_tokens,
        seconds=outcome.seconds,
        area_ratio=fmean(crop.area for crop in crops) / pixels if crops else None,
        iou=None if score is None else score.iou,
        coverage=None if score is None else score.coverage,
        box_iou=box_iou(crops, sample.evidence),
        evidence_ratio=sum(chain[0].area for chain in sample.evidence) / pixels if sample.evidence else None,
        information_gain=None if outcome.gain is None else outcome.gain.own,
        placebo_gain=None if outcome.gain is None else outcome.gain.placebo,
    )


def best_crop(question: Question, crops: Sequence[Box]) -> GroundingScore | None:
    """How well the best crop hits the evidence (LFPC section 4); None without a crop or without evidence."""
    if not crops:
        return None
    return grounding_score(crops, question.sample.evidence, question.sample.image.size, GroundingConfig())


def box_iou(crops: Sequence[Box], evidence: Sequence[NestedBoxes]) -> float | None:
    """For each piece of evidence the best IoU of a crop with its innermost box, averaged; 0 without a crop.

    TreeBench's mIoU (arXiv 2507.07999), taken over what was cropped where TreeBench takes boxes that were written.
    """
    if not evidence:
        return None
    return fmean(max((iou(crop, chain[0]) for crop in crops), default=0.0) for chain in evidence)


def unreadable_predictions(row: UnreadableRow, config: PlayConfig) -> list[Prediction]:
    """Predictions of a row that could not be asked: one for every arm that needs no boxes, so that it is counted."""
    return [
        Prediction(
            key=row.key,
            category=row.category,
            subcategory=row.subcategory,
            variant=row.variant,
            base=row.base or row.key,
            cluster=row.cluster or row.key,
            gold="",
            chance=0.0,
            view=str(view),
            arm=arm,
            attempt=attempt,
            correct=False,
            method=UNREADABLE,
            reason=row.reason,
        )
        for view in config.views
        for arm in config.arms
        if arm not in NEEDS_BOXES
        for attempt in range(config.attempts)
    ]
