"""What is wrong with shards, as lines of a table: how bad, where, what, and what to do."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """An ``ERROR`` is left out of training, or stops it; a ``WARNING`` trains, but hardly well."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        severity: how bad it is.
        kind: heading under which problems are grouped and counted, in a few words.
        shard: name of the shard or of the file that is wrong.
        key: of the sample; "" if it is not about one.
        fault: what is wrong, in a few words.
        remedy: what to do about it.
    """

    severity: Severity
    kind: str
    shard: str
    key: str
    fault: str
    remedy: str


class ProblemLog:
    """Counts problems by kind and keeps the first ones of each, so that its size does not grow with the data.

    Args:
        limit: problems of a kind that are kept.

    Attributes:
        counts: problems by severity and kind.

    Raises:
        ValueError: if `limit` is below 1.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"The limit of problems that are shown is {limit}: give at least 1.")
        self.limit = limit
        self.counts: Counter[tuple[Severity, str]] = Counter()
        self._first: defaultdict[tuple[Severity, str], list[Problem]] = defaultdict(list)

    def add(self, problems: Iterable[Problem]) -> None:
        """Take note of problems."""
        for problem in problems:
            group = problem.severity, problem.kind
            self.counts[group] += 1
            if len(self._first[group]) < self.limit:
                self._first[group].append(problem)

    def total(self, severity: Severity) -> int:
        """Number of problems of a severity."""
        return sum(count for (found, _), count in self.counts.items() if found is severity)

    def groups(self) -> list[tuple[list[Problem], int]]:
        """The first problems of each kind and how many more there are of it; errors first, then the most frequent.

        The limit is shared: all kinds together show at most so many, but each at least one.
        """
        order = sorted(self.counts, key=lambda group: (group[0] is Severity.WARNING, -self.counts[group], group[1]))
        each = max(self.limit // max(len(order), 1), 1)
        return [(self._first[group][:each], self.counts[group] - min(self.counts[group], each)) for group in order]
