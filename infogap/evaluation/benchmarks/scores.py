"""Sums that several benchmarks report: accuracy under every heading, and the mean over headings."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import reduce
from operator import add

from infogap.evaluation.bootstrap import Estimate
from infogap.evaluation.prediction import Prediction
from infogap.evaluation.sheet import Sheet

Heading = Callable[[Prediction], str]
"""What a row is filed under; "" for a row of which it could not be read, which is then under none."""


def accuracy_by(sheet: Sheet, heading: Heading) -> dict[str, Estimate]:
    """Accuracy under every heading that occurs, by name."""
    names = sorted({heading(attempts[0]) for attempts in sheet.rows} - {""})
    return {name: under(sheet, heading, name).accuracy for name in names}


def under(sheet: Sheet, heading: Heading, name: str) -> Sheet:
    """The rows under one heading.

    Args:
        sheet: the rows.
        heading: what a row is filed under.
        name: the heading.
    """
    return sheet.where(lambda row: heading(row) == name)


def mean_over(estimates: Collection[Estimate]) -> Estimate | None:
    """The mean in which every estimate weighs the same, whatever it rests on; None of none."""
    if not estimates:
        return None
    mean = reduce(add, estimates) / len(estimates)
    return replace(mean, count=sum(estimate.count for estimate in estimates))
