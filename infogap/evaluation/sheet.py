"""Predictions of one arm at one view as columns, a row a question."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Literal

import numpy as np

from infogap.evaluation.bootstrap import Bootstrap, Estimate, Floats
from infogap.evaluation.prediction import Prediction

Column = Callable[[Prediction], float | None]
"""A number of one prediction; None where it is not defined."""

Unreadable = Literal["wrong", "excluded"]
"""What a row that could not be read is: a wrong answer, or no row."""

UNREADABLE = "unreadable"
"""The method of a prediction of a row that could not be read."""

ARM_ORDER = ("no_image", "no_tool", "own", "gt", "noise", "random", "other", "gt_only")
"""Order of the arms in every table; other names follow in alphabetical order."""


class Sheet:
    """The rows of one arm at one view, sorted by key; several attempts at a row are averaged (Avg@k).

    Args:
        predictions: of one arm and one view.
        bootstrap: draws over the clusters of the whole benchmark, the same for every sheet.

    Attributes:
        rows: the attempts of every row.
        keys: the rows.
        clusters: the cluster of every row.
    """

    def __init__(self, predictions: Sequence[Prediction], bootstrap: Bootstrap) -> None:
        rows: dict[str, list[Prediction]] = defaultdict(list)
        for prediction in predictions:
            rows[prediction.key].append(prediction)
        self.keys = sorted(rows)
        self.rows = [rows[key] for key in self.keys]
        self.clusters = [attempts[0].cluster for attempts in self.rows]
        self._bootstrap = bootstrap
        self._places = bootstrap.places(self.clusters)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def only(self, keys: Collection[str]) -> Sheet:
        """The rows with these keys."""
        return Sheet([p for attempts in self.rows if attempts[0].key in keys for p in attempts], self._bootstrap)

    def where(self, holds: Callable[[Prediction], bool]) -> Sheet:
        """The rows whose first attempt meets a condition, such as being of one category."""
        return Sheet([p for attempts in self.rows if holds(attempts[0]) for p in attempts], self._bootstrap)

    def values(self, column: Column) -> Floats:
        """A column, ``[rows]``: the mean over attempts for which it is defined, NaN if it is for none."""
        return np.array([_mean([column(p) for p in attempts]) for attempts in self.rows], dtype=np.float64)

    def mean(self, column: Column) -> Estimate:
        """Mean over the rows for which the column is defined."""
        return self.mean_of(self.values(column))

    def mean_of(self, values: Floats) -> Estimate:
        """Mean of ``[rows]`` values, leaving out NaN."""
        known = np.isfinite(values)
        return self.ratio(np.where(known, values, 0.0), known.astype(np.float64))

    def ratio(self, numerator: Floats, denominator: Floats) -> Estimate:
        """Sum of ``[rows]`` values over another sum, such as a precision."""
        return self._bootstrap.ratio(numerator, denominator, self._places)

    def quantile(self, column: Column, share: float) -> Estimate:
        """Quantile over the rows for which the column is defined."""
        values = self.values(column)
        known = np.isfinite(values)
        return self._bootstrap.quantile(values[known], self._places[known], share)

    @property
    def solved(self) -> Floats:
        """``[rows]``: 1 where any attempt is right, else 0."""
        return np.array([any(p.correct for p in attempts) for attempts in self.rows], dtype=np.float64)

    @property
    def accuracy(self) -> Estimate:
        """Share of right answers, Avg@k with k attempts; unanswered, unmatched and unreadable rows count as wrong."""
        return self.mean(lambda prediction: float(prediction.correct))


def countable(predictions: Sequence[Prediction], unreadable: Unreadable) -> list[Prediction]:
    """The predictions that numbers are made of: all, or all but those of unreadable rows."""
    return [p for p in predictions if unreadable == "wrong" or p.method != UNREADABLE]


def build_sheets(predictions: Sequence[Prediction], bootstrap: Bootstrap) -> dict[str, dict[str, Sheet]]:
    """Sort predictions into sheets.

    Args:
        predictions: of any arms and views, in any order.
        bootstrap: draws over all their clusters.

    Returns:
        The sheet of every arm, by view: views by their budget, then by name; arms in `ARM_ORDER`.

    Raises:
        ValueError: if two predictions are of the same row, view, arm and attempt, which would count it twice.
    """
    sorted_out: dict[str, dict[str, list[Prediction]]] = defaultdict(lambda: defaultdict(list))
    seen = set()
    for prediction in predictions:
        episode = (prediction.view, prediction.arm, prediction.key, prediction.attempt)
        if episode in seen:
            msg = (
                f"The row {prediction.key!r} has attempt {prediction.attempt} of arm {prediction.arm!r} at view "
                f"{prediction.view!r} twice: remove one of the two predictions."
            )
            raise ValueError(msg)
        seen.add(episode)
        sorted_out[prediction.view][prediction.arm].append(prediction)
    return {
        view: {arm: Sheet(sorted_out[view][arm], bootstrap) for arm in sorted(sorted_out[view], key=arm_place)}
        for view in sorted(sorted_out, key=view_place)
    }


def arm_place(arm: str) -> tuple[int, str]:
    """What arms are sorted by: their place in `ARM_ORDER`, then their name."""
    return ARM_ORDER.index(arm) if arm in ARM_ORDER else len(ARM_ORDER), arm


def view_place(view: str) -> tuple[bool, int, str]:
    """What views are sorted by: those with a budget by its size, then the others by name."""
    is_budget = view.isdecimal()
    return not is_budget, int(view) if is_budget else 0, view


def _mean(values: Sequence[float | None]) -> float:
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")
