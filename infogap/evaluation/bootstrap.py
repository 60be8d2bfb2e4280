"""Numbers with intervals: a bootstrap over clusters, the same draws for every number, so that differences are paired.

Rows about one image are not independent (HR-Bench asks each question four times), so whole clusters are drawn. Every
number here is a ratio of sums over rows, a quantile, or arithmetic on such, and a draw only weighs the clusters: one
matrix of weights serves all numbers, and two arms of one draw hold the same rows.

The intervals are percentile intervals (Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13) of the
pairs cluster bootstrap (Cameron, Gelbach and Miller 2008, Bootstrap-Based Improvements for Inference with Clustered
Errors). Two limits: draws show nothing that the rows do not hold, so an accuracy of exactly 0 or 1 gets an interval of
no width; and one cluster says nothing about others, so what rests on one gets no interval at all.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.int64]

LEVEL = 0.95
"""Coverage of every interval."""


@dataclass(frozen=True)
class Estimate:
    """A number, its draws, and how many rows it rests on. Arithmetic goes draw by draw.

    Attributes:
        value: the number itself; NaN where it is not defined.
        draws: the number on each draw of clusters, ``[draws]``.
        count: rows that it rests on; of a difference, the fewer.
    """

    value: float
    draws: Floats
    count: int

    @property
    def interval(self) -> tuple[float, float]:
        """The middle 95 % of the draws that are defined; NaN if none is."""
        defined = self.draws[np.isfinite(self.draws)]
        if not len(defined):
            return float("nan"), float("nan")
        tail = 100 * (1 - LEVEL) / 2
        low, high = np.percentile(defined, [tail, 100 - tail])
        return float(low), float(high)

    def __add__(self, other: Estimate | float) -> Estimate:
        return self._combine(operator.add, other)

    def __sub__(self, other: Estimate | float) -> Estimate:
        return self._combine(operator.sub, other)

    def __mul__(self, other: Estimate | float) -> Estimate:
        return self._combine(operator.mul, other)

    def __truediv__(self, other: Estimate | float) -> Estimate:
        return self._combine(operator.truediv, other)

    def at_least(self, least: float) -> Estimate:
        """The number, or ``least`` where it is lower."""
        value = self.value if np.isnan(self.value) else max(self.value, least)
        return Estimate(float(value), np.maximum(self.draws, least), self.count)

    def _combine(self, operation: Callable[[Any, Any], Any], other: Estimate | float) -> Estimate:
        value, draws, count = (
            (other.value, other.draws, min(self.count, other.count))
            if isinstance(other, Estimate)
            else (other, other, self.count)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            combined = operation(np.float64(self.value), np.float64(value))
            return Estimate(_finite_or_nan(combined), np.asarray(operation(self.draws, draws)), count)


class Bootstrap:
    """Draws of clusters.

    Args:
        clusters: names of all clusters, in any order and with repetitions; they are drawn with equal probability.
        draws: how many draws.
        seed: of the draws, which depend on it and on the number of clusters alone.
    """

    def __init__(self, clusters: Sequence[str], draws: int = 2000, seed: int = 0) -> None:
        self.index = {name: place for place, name in enumerate(sorted(set(clusters)))}
        count = len(self.index)
        generator = np.random.default_rng(seed)
        # [draws, clusters]: how often each draw holds each cluster
        self.weights: Floats = (
            generator.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)
            if count
            else np.zeros((draws, 0))
        )

    def places(self, clusters: Sequence[str]) -> Places:
        """Where the draws hold the cluster of every row, ``[rows]``.

        Raises:
            ValueError: if a cluster is none of those that are drawn.
        """
        for cluster in clusters:
            if cluster not in self.index:
                msg = f"The cluster {cluster!r} is not among the {len(self.index)} that the bootstrap draws: name all."
                raise ValueError(msg)
        return np.array([self.index[cluster] for cluster in clusters], dtype=np.int64)

    def ratio(self, numerator: Floats, denominator: Floats, places: Places) -> Estimate:
        """Sum of one column over the sum of another.

        Args:
            numerator: ``[rows]``.
            denominator: ``[rows]``; 1 for every row that counts makes it a mean.
            places: ``[rows]``, see `places`.
        """
        top, bottom = (
            np.bincount(places, weights=column, minlength=len(self.index)) for column in (numerator, denominator)
        )
        count = int(np.count_nonzero(denominator))
        with np.errstate(divide="ignore", invalid="ignore"):
            value = _finite_or_nan(top.sum() / bottom.sum())
            if np.count_nonzero(bottom) < 2:
                return Estimate(value, self._no_draws, count)
            draws = (self.weights @ top) / (self.weights @ bottom)
        return Estimate(value, draws, count)

    def quantile(self, values: Floats, places: Places, share: float) -> Estimate:
        """Quantile of a column: the least value that at least ``share`` of the rows do not exceed.

        Args:
            values: ``[rows]``.
            places: ``[rows]``, see `places`.
            share: between 0 and 1.
        """
        order = np.argsort(values, kind="stable")
        ordered, places = values[order], places[order]

        def pick(weights: Floats) -> float:
            filled = np.cumsum(weights)
            if not len(filled) or filled[-1] == 0:
                return float("nan")
            return float(ordered[np.searchsorted(filled, share * filled[-1] - 1e-9)])

        value = pick(np.ones(len(ordered)))
        if len(np.unique(places)) < 2:
            return Estimate(value, self._no_draws, len(values))
        return Estimate(value, np.array([pick(row[places]) for row in self.weights]), len(values))

    @property
    def _no_draws(self) -> Floats:
        return np.full(len(self.weights), np.nan)


def _finite_or_nan(value: float) -> float:
    return float(value) if np.isfinite(value) else float("nan")
