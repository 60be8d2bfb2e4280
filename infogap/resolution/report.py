"""What resolution selection says while it works, and at its end."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from infogap.data.manifest import ManifestEntry, SelectionStatus
from infogap.data.shards import INDEX_NAME
from infogap.data.skips import SkipReason

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SelectionReport:
    """What a manifest holds, and what was left out of it.

    Attributes:
        statuses: samples by what was found out.
        budgets: samples by the visual-token budget of their selected view.
        skipped: faulty samples that were left out, by reason.
    """

    statuses: Mapping[SelectionStatus, int]
    budgets: Mapping[int, int]
    skipped: Mapping[SkipReason, int] = field(default_factory=dict)

    @classmethod
    def of(cls, entries: Iterable[ManifestEntry], skipped: Mapping[SkipReason, int]) -> SelectionReport:
        """Count results."""
        listed = list(entries)
        budgets = Counter(entry.view_tokens for entry in listed if entry.view_tokens is not None)
        return cls(Counter(entry.status for entry in listed), budgets, skipped)

    def render(self, width: int = 40) -> str:
        """A small table: a line for every status, and a bar of at most ``width`` signs for every selected budget."""
        total = max(sum(self.statuses.values()), 1)
        lines = [f"{'samples':<24}{'count':>8}{'share':>7}"]
        for status in SelectionStatus:
            count = self.statuses.get(status, 0)
            lines.append(f"{status:<24}{count:>8}{count / total:>7.1%}")
        lines += [f"{f'left out: {reason}':<24}{count:>8}" for reason, count in sorted(self.skipped.items())]
        longest = max(self.budgets.values(), default=1)
        for budget, count in sorted(self.budgets.items(), reverse=True):
            lines.append(f"{f'view of {budget} tokens':<24}{count:>8}  {'#' * max(round(width * count / longest), 1)}")
        return "\n".join(lines)


class Progress:
    """Says in the log how far a run is, at most once per interval.

    Args:
        done: samples that had a result at the start.
        total: samples in all; None if unknown, and then no time is estimated.
        interval: seconds between two lines.
        clock: seconds since any fixed moment.
    """

    def __init__(
        self, done: int, total: int | None, interval: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._done, self._total = done, total
        self._interval, self._clock = interval, clock
        self._start = self._last_line = clock()

    def log(self, done: int) -> None:
        """Note that so many samples have a result now."""
        now = self._clock()
        if now - self._last_line < self._interval or done == self._done:
            return
        self._last_line = now
        rate = (done - self._done) / (now - self._start)
        if self._total is None:
            logger.info("Selected the views of %d samples, %.2f a second.", done, rate)
        else:
            left = timedelta(seconds=round(max(self._total - done, 0) / rate))
            logger.info(
                "Selected the views of %d of %d samples, %.2f a second, %s left.", done, self._total, rate, left
            )


def indexed_count(shards: Sequence[Path]) -> int | None:
    """Number of samples in some shards of one folder; None if its index does not say."""
    try:
        listed = json.loads((shards[0].parent / INDEX_NAME).read_bytes())["shards"]
        counts = {entry["name"]: int(entry["samples"]) for entry in listed}
        return sum(counts[shard.name] for shard in shards)
    except (OSError, ValueError, TypeError, KeyError):  # only the estimate of the time is lost
        return None
