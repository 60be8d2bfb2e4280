"""Greedy episodes of a set of samples under one arm: what the crop call shows, and what the policy is first shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from infogap.data.sample import Sample
from infogap.episode.matching import match_answer
from infogap.episode.rewards import GroundingConfig, grounding_score
from infogap.geometry import Box
from infogap.rollout import GroupRollout, Rollout
from infogap.types import Episode


@dataclass(frozen=True)
class EpisodeResult:
    """What one greedy episode is measured by.

    Attributes:
        key: the sample.
        correct: whether the answer was right.
        crops: regions that were cut.
        area_ratio: mean area of the crops over the image's; None without a crop.
        iou: best IoU of a crop with one of the nested boxes; None without a crop or boxes.
        coverage: how much of B_1 that crop covers; None likewise.
        on_target: whether the first crop's middle lies on the asked panel; None likewise.
        visual_tokens: visual tokens of view and crops.
    """

    key: str
    correct: bool
    crops: tuple[Box, ...]
    area_ratio: float | None
    iou: float | None
    coverage: float | None
    on_target: bool | None
    visual_tokens: int


def run_arm(rollout: Rollout, samples: Sequence[Sample], seed: int = 0, batch_size: int = 32) -> list[EpisodeResult]:
    """Play one episode a sample, in order.

    Args:
        rollout: the policy and the arm: its view, its tool, with or without the tool; group size 1.
        samples: the samples.
        seed: matters only if the rollout samples.
        batch_size: samples that are played side by side.
    """
    return [
        measure(group)
        for start in range(0, len(samples), batch_size)
        for group in rollout.run(samples[start : start + batch_size], ("arm", seed, start))
    ]


def measure(group: GroupRollout) -> EpisodeResult:
    """Measure the first episode of a group."""
    sample, episode = group.sample, group.episodes[0]
    size = sample.image.size
    score = grounding_score(episode.crops, sample.evidence, size, GroundingConfig()) if episode.crops else None
    areas = [crop.area / (size.width * size.height) for crop in episode.crops]
    return EpisodeResult(
        key=sample.key,
        correct=match_answer(episode.answer, sample.answer, sample.options),
        crops=tuple(episode.crops),
        area_ratio=fmean(areas) if areas else None,
        iou=score.iou if score else None,
        coverage=score.coverage if score else None,
        on_target=_on_target(sample, episode),
        visual_tokens=group.visual_tokens[0],
    )


def summarise(results: Sequence[EpisodeResult], tau: float = 0.9) -> dict[str, float]:
    """Means over episodes; those of crops are over the episodes that have one.

    Args:
        results: the episodes.
        tau: threshold of ``coverage_above_tau`` (LFPC section 4).
    """
    coverage = [r.coverage for r in results if r.coverage is not None]
    return {
        "accuracy": fmean(r.correct for r in results),
        "tool_rate": fmean(bool(r.crops) for r in results),
        "crop_area_ratio": _mean(r.area_ratio for r in results),
        "mean_iou": _mean(r.iou for r in results),
        "coverage_above_tau": _mean(c > tau for c in coverage),
        "on_target": _mean(r.on_target for r in results),
        "visual_tokens": fmean(r.visual_tokens for r in results),
    }


def _on_target(sample: Sample, episode: Episode) -> bool | None:
    if not episode.crops or not sample.evidence:
        return None
    crop = episode.crops[0]
    x, y = (crop.x1 + crop.x2) / 2, (crop.y1 + crop.y2) / 2
    panels = [boxes[-1] for boxes in sample.evidence]
    return any(box.x1 <= x <= box.x2 and box.y1 <= y <= box.y2 for box in panels)


def _mean(values: Iterator[float | bool | None]) -> float:
    known = [float(value) for value in values if value is not None]
    return fmean(known) if known else 0.0
