"""What is measured of one arm at one view.

A row that could not be read was never asked: it counts in the accuracy (as wrong, unless it is excluded) and in the
shares of what became of the rows, and nowhere else. What is measured of crops is over the rows that have one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from infogap.evaluation.bootstrap import Estimate
from infogap.evaluation.judge import UNCLEAR
from infogap.evaluation.prediction import Prediction
from infogap.evaluation.question import UNANSWERED, UNMATCHED
from infogap.evaluation.sheet import UNREADABLE, Column, Sheet
from infogap.types import StopReason

COVERAGE_THRESHOLD: Final = 0.9
"""A crop that covers more of B_1 than this holds the evidence (tau of LFPC section 4)."""

SMALL_EVIDENCE: Final = 0.001
LARGE_EVIDENCE: Final = 0.01
"""Bounds of the three bins of evidence size, area of the evidence over that of the image.

Ours, as no paper fixes any: at a view of 1024 visual tokens the evidence of the first bin fills one token at most,
that of the last ten or more.
"""

EVIDENCE_BINS: Final[Mapping[str, Callable[[float], bool]]] = {
    "below 0.1 %": lambda ratio: ratio < SMALL_EVIDENCE,
    "0.1 to 1 %": lambda ratio: SMALL_EVIDENCE <= ratio <= LARGE_EVIDENCE,
    "above 1 %": lambda ratio: ratio > LARGE_EVIDENCE,
}
"""The bins by name; every ratio is in one of them."""


def _if_asked(column: Callable[[Prediction], float | None]) -> Column:
    """The column, not defined where the row could not be read."""
    return lambda prediction: None if prediction.method == UNREADABLE else column(prediction)


@_if_asked
def tool_rate(prediction: Prediction) -> float:
    """Whether a crop was cut."""
    return float(bool(prediction.crops))


@_if_asked
def crops(prediction: Prediction) -> float:
    """Crops that were cut."""
    return float(len(prediction.crops))


@_if_asked
def turns(prediction: Prediction) -> float:
    """Turns that the policy wrote."""
    return float(len(prediction.turns))


@_if_asked
def bad_calls(prediction: Prediction) -> float:
    """Calls that came back with an error."""
    return float(prediction.bad_calls)


def coverage(prediction: Prediction) -> float | None:
    """Share of B_1 that the best crop covers (LFPC section 4); not defined without a crop or evidence."""
    return prediction.coverage


def coverage_above_tau(prediction: Prediction) -> float | None:
    """Whether that is more than `COVERAGE_THRESHOLD`; not defined likewise."""
    return None if prediction.coverage is None else float(prediction.coverage > COVERAGE_THRESHOLD)


def iou(prediction: Prediction) -> float | None:
    """Best IoU of a crop with a nested box; not defined without a crop or evidence."""
    return prediction.iou


def iou_above_half(prediction: Prediction) -> float | None:
    """Whether that is more than 0.5; not defined likewise."""
    return None if prediction.iou is None else float(prediction.iou > 0.5)


def box_iou(prediction: Prediction) -> float | None:
    """TreeBench's mIoU: 0 without a crop, not defined without evidence."""
    return prediction.box_iou


def area_ratio(prediction: Prediction) -> float | None:
    """Mean area of the crops over that of the image; not defined without a crop."""
    return prediction.area_ratio


@_if_asked
def view_tokens(prediction: Prediction) -> float:
    """Visual tokens of the view."""
    return float(prediction.view_tokens)


@_if_asked
def crop_tokens(prediction: Prediction) -> float:
    """Visual tokens of all crops."""
    return float(prediction.crop_tokens)


@_if_asked
def visual_tokens(prediction: Prediction) -> float:
    """Visual tokens of the view and all crops."""
    return float(prediction.view_tokens + prediction.crop_tokens)


@_if_asked
def policy_tokens(prediction: Prediction) -> float:
    """Tokens that the policy wrote."""
    return float(prediction.policy_tokens)


@_if_asked
def seconds(prediction: Prediction) -> float | None:
    """Wall time of a batch over its rows; not defined where several arms shared the work."""
    return prediction.seconds


MEANS: Final[Mapping[str, Column]] = {
    "tool_rate": tool_rate,
    "crops": crops,
    "turns": turns,
    "bad_calls": bad_calls,
    "coverage": coverage,
    "coverage_above_tau": coverage_above_tau,
    "iou": iou,
    "iou_above_half": iou_above_half,
    "box_iou": box_iou,
    "area_ratio": area_ratio,
    "view_tokens": view_tokens,
    "crop_tokens": crop_tokens,
    "visual_tokens": visual_tokens,
    "policy_tokens": policy_tokens,
}
"""Columns whose means are metrics, by name."""

NO_READING: Final = (UNANSWERED.method, UNMATCHED.method, UNCLEAR.method, UNREADABLE)
"""What became of rows whose answer no rule read."""


def measure(sheet: Sheet) -> dict[str, Estimate]:
    """All metrics of one arm at one view, by name.

    ``accuracy`` is Avg@k where rows have k attempts, and then there is ``pass_at_k``: whether any is right. Besides
    `MEANS` there are ``seconds_median`` and ``seconds_p90`` over rows; ``stop_REASON``, the shares of endings of the
    rows that were asked; and the shares of all rows whose answer was not read, ``unanswered``, ``unmatched``,
    ``judge_unclear`` and ``unreadable``, or that a rule read, ``method_RULE`` for each that did.
    """
    numbers = {"accuracy": sheet.accuracy}
    if attempts(sheet) > 1:
        numbers["pass_at_k"] = sheet.mean_of(sheet.solved)
    numbers |= {name: sheet.mean(column) for name, column in MEANS.items()}
    numbers |= {"seconds_median": sheet.quantile(seconds, 0.5), "seconds_p90": sheet.quantile(seconds, 0.9)}
    numbers |= {f"stop_{reason.value}": sheet.mean(_stopped(reason)) for reason in StopReason}
    numbers |= {method: sheet.mean(_read_by(method)) for method in NO_READING}
    methods = {prediction.method for row in sheet.rows for prediction in row} - set(NO_READING)
    return numbers | {f"method_{method}": sheet.mean(_read_by(method)) for method in sorted(methods)}


def accuracy_by_category(sheet: Sheet) -> dict[str, Estimate]:
    """Accuracy in every category, by its name; "" holds rows that have none or whose category could not be read."""
    names = sorted({row[0].category for row in sheet.rows})
    return {name: sheet.where(_in_category(name)).accuracy for name in names}


def accuracy_by_evidence_size(sheet: Sheet) -> dict[str, Estimate]:
    """Accuracy in every one of `EVIDENCE_BINS`, NaN where it has no row; rows without evidence are in none."""
    return {name: sheet.where(_has_evidence(holds)).accuracy for name, holds in EVIDENCE_BINS.items()}


def attempts(sheet: Sheet) -> int:
    """The most attempts that a row has."""
    return max((len(row) for row in sheet.rows), default=0)


def _in_category(name: str) -> Callable[[Prediction], bool]:
    return lambda prediction: prediction.category == name


def _has_evidence(holds: Callable[[float], bool]) -> Callable[[Prediction], bool]:
    return lambda prediction: prediction.evidence_ratio is not None and holds(prediction.evidence_ratio)


def _stopped(reason: StopReason) -> Column:
    return _if_asked(lambda prediction: float(prediction.stop_reason == reason.value))


def _read_by(method: str) -> Column:
    return lambda prediction: float(prediction.method == method)
