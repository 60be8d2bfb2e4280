"""What arms say together: whether the policy uses its crops, what the tool changes, what is known without the image.

Every number of two or more arms is over the rows that all of them have, on the same draws of clusters: the differences
are paired.

The differences generalise the gain and leakage scores of MMStar (arXiv 2403.20330); ground truth minus noise is the
crop dependence of LFPC's tables 1 and 5 (arXiv 2603.27494). Call and schema gains and harms are those of MED (arXiv
2602.01334, github.com/GAIR-NLP/Med).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from infogap.evaluation.bootstrap import Estimate, Floats
from infogap.evaluation.prediction import Prediction
from infogap.evaluation.sheet import Sheet

Sheets = Mapping[str, Sheet]
"""The sheet of every arm of one view."""

DIFFERENCES: Final[Mapping[str, tuple[str, str]]] = {
    "crop_dependence": ("own", "noise"),
    "gt_dependence": ("gt", "noise"),
    "gt_minus_own": ("gt", "own"),
    "crop_gain": ("own", "no_tool"),
    "crop_specificity": ("own", "random"),
    "content_reliance": ("own", "other"),
    "dual_view_gap": ("gt_only", "no_tool"),
}
"""Accuracy of the first arm minus that of the second, by the probe's name.

``crop_dependence``, ``gt_dependence``: does noise in place of the crop do harm? ``gt_minus_own``: what better boxes
would add. ``crop_gain``: what the tool adds. ``crop_specificity``: what its crops add over random ones of the same
area. ``content_reliance``: what they add over another image's crop; near 0, answers do not come from the crops.
``dual_view_gap``: what seeing the evidence alone adds to seeing the whole image (ZoomBench).
"""

TERMS: Final[Mapping[str, tuple[bool, bool]]] = {
    "call_gain": (False, True),
    "schema_gain": (False, False),
    "call_harm": (True, True),
    "schema_harm": (True, False),
}
"""MED's four terms: whether the policy was right without the tool, and whether it cut a crop with it."""

FACTORS: Final = frozenset(f"{term}_{factor}" for term in TERMS for factor in ("mass", "policy", "quality"))
"""Names of the factors of MED's terms."""


def probe(sheets: Sheets) -> dict[str, Estimate]:
    """All probes whose arms are there, by name.

    Args:
        sheets: the arms of one view; the sheets share one bootstrap.

    Returns:
        `DIFFERENCES`; ``gap_closure``; ``leakage``; MED's terms and their factors, see `tool_effects`;
        ``tool_only_solved`` and ``tool_only_share``, see `tool_only`; the information gains. NaN where a denominator
        is 0.
    """
    numbers = {
        name: difference(sheets[first], sheets[second])
        for name, (first, second) in DIFFERENCES.items()
        if first in sheets and second in sheets
    }
    if {"own", "no_tool", "gt"} <= sheets.keys():
        numbers["gap_closure"] = gap_closure(sheets["own"], sheets["no_tool"], sheets["gt"])
    if "no_image" in sheets:
        numbers["leakage"] = leakage(sheets["no_image"])
    if "own" in sheets:
        numbers |= _of_own(sheets["own"], [sheets[arm] for arm in ("no_tool", "no_image") if arm in sheets])
        if "no_tool" in sheets:
            numbers |= tool_effects(sheets["no_tool"], sheets["own"])
    return numbers


def shared(*sheets: Sheet) -> list[Sheet]:
    """The sheets, cut down to the rows that all of them have."""
    keys = set(sheets[0].keys).intersection(*(sheet.keys for sheet in sheets[1:]))
    return [sheet.only(keys) for sheet in sheets]


def difference(first: Sheet, second: Sheet) -> Estimate:
    """Accuracy of the first minus that of the second, over the rows that both have."""
    first, second = shared(first, second)
    return first.accuracy - second.accuracy


def gap_closure(own: Sheet, no_tool: Sheet, ground_truth: Sheet) -> Estimate:
    """How much of what the ground-truth crops gain over no tool the policy's own crops gain.

    1: as good as the ground truth. NaN if the ground-truth crops gain nothing.

    Args:
        own: predictions with the policy's own crops.
        no_tool: predictions without the tool.
        ground_truth: predictions with crops of the evidence.
    """
    own, no_tool, ground_truth = shared(own, no_tool, ground_truth)
    return (own.accuracy - no_tool.accuracy) / (ground_truth.accuracy - no_tool.accuracy)


def leakage(no_image: Sheet) -> Estimate:
    """How much of the accuracy without an image is beyond blind guessing; at least 0.

    MMStar subtracts the score of the language model that the policy was built on; chance needs no second model.
    """
    return (no_image.accuracy - no_image.mean(lambda prediction: prediction.chance)).at_least(0.0)


def tool_effects(no_tool: Sheet, own: Sheet) -> dict[str, Estimate]:
    """MED's split of the difference between answering with and without the tool.

    Accuracy of own minus no tool is ``call_gain + schema_gain - call_harm - schema_harm``: shares of rows that turned
    right or wrong, with a crop ("call") or with nothing but the tool's prompt ("schema"). Every term is the product of
    its factors: ``mass``, the share that was wrong (right) without the tool; ``policy``, how many of those cut a crop
    (none); ``quality``, how many of these turned right (wrong). A call that came back with an error cut nothing.

    With several attempts attempt i is paired with attempt i, and attempts that one arm lacks are left out.
    """
    pairs = _Pairs(no_tool, own)

    def numbers_of(name: str, was_right: bool, called: bool) -> dict[str, Estimate]:
        domain = pairs.share(lambda direct, _: direct.correct is was_right)
        chosen = pairs.share(lambda direct, tool: direct.correct is was_right and bool(tool.crops) is called)
        turned = pairs.share(
            lambda direct, tool: (
                direct.correct is was_right and bool(tool.crops) is called and tool.correct is not was_right
            )
        )
        return {
            name: pairs.sheet.mean_of(turned),
            f"{name}_mass": pairs.sheet.mean_of(domain),
            f"{name}_policy": pairs.sheet.ratio(chosen, domain),
            f"{name}_quality": pairs.sheet.ratio(turned, chosen),
        }

    numbers: dict[str, Estimate] = {}
    for name, (was_right, called) in TERMS.items():
        numbers |= numbers_of(name, was_right, called)
    return numbers


def tool_only(own: Sheet, others: list[Sheet]) -> dict[str, Estimate]:
    """What is solved with the tool and in no other way; a row is solved if any attempt is right.

    Args:
        own: the arm with the policy's own crops.
        others: arms without crops, at least one.

    Returns:
        ``tool_only_solved``: share of rows that only ``own`` solves. ``tool_only_share``: the same of the rows that
        ``own`` solves, as arXiv 2606.02357 counts it.
    """
    own, *others = shared(own, *others)
    only = own.solved * np.prod([1.0 - other.solved for other in others], axis=0)
    return {"tool_only_solved": own.mean_of(only), "tool_only_share": own.ratio(only, own.solved)}


def _of_own(own: Sheet, others: list[Sheet]) -> dict[str, Estimate]:
    numbers = tool_only(own, others) if others else {}
    gains = {
        "information_gain": own.mean(lambda prediction: prediction.information_gain),
        "placebo_gain": own.mean(lambda prediction: prediction.placebo_gain),
        "information_gain_over_placebo": own.mean(_gain_over_placebo),
    }
    return numbers | {name: gain for name, gain in gains.items() if gain.count}


def _gain_over_placebo(prediction: Prediction) -> float | None:
    if prediction.information_gain is None or prediction.placebo_gain is None:
        return None
    return prediction.information_gain - prediction.placebo_gain


class _Pairs:
    """Attempts of two arms side by side.

    Attributes:
        sheet: the second arm's rows for which there are pairs.
    """

    def __init__(self, first: Sheet, second: Sheet) -> None:
        first, second = shared(first, second)
        self._rows = []
        for ours, theirs in zip(first.rows, second.rows, strict=True):
            partners = {prediction.attempt: prediction for prediction in theirs}
            pairs = [(one, partners[one.attempt]) for one in ours if one.attempt in partners]
            if pairs:
                self._rows.append(pairs)
        self.sheet = second.only({pairs[0][0].key for pairs in self._rows})

    def share(self, holds: Callable[[Prediction, Prediction], bool]) -> Floats:
        """``[rows]``: how many of a row's pairs meet a condition."""
        return np.array([np.mean([holds(*pair) for pair in pairs]) for pairs in self._rows], dtype=np.float64)
