"""What happens to data that cannot be used: skip, count, and say so without flooding the log."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum

logger = logging.getLogger(__name__)


class SkipReason(StrEnum):
    """Why a sample was left out. The last two are choices of the user, all others are faults of the data.

    ``BROKEN_SHARD`` counts shards, not samples: how many samples it has cost is not known.
    """

    BROKEN_SHARD = "broken_shard"
    DUPLICATE_MEMBER = "duplicate_member"
    NO_IMAGE = "no_image"
    NO_JSON = "no_json"
    BAD_JSON = "bad_json"
    BAD_SCHEMA = "bad_schema"
    MISSING_FIELD = "missing_field"
    BAD_FIELD = "bad_field"
    BAD_IMAGE = "bad_image"
    NO_SELECTED_VIEW = "no_selected_view"
    NO_EVIDENCE = "no_evidence"


class SkipLog:
    """Counts what is skipped, and names a fault in the log at most once per interval.

    Every pass over the data counts again: after three epochs, one corrupt sample has been skipped three times. A
    DataLoader's worker processes count, and name faults, in copies of their own; `take_news` is how theirs come home.

    Args:
        strict: raise the first fault instead of skipping.
        interval: seconds between two log lines. Default: a minute.
        clock: seconds since any fixed moment.

    Attributes:
        counts: times skipped, by reason.
    """

    def __init__(
        self, *, strict: bool = False, interval: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.strict = strict
        self.interval = interval
        self.counts: Counter[SkipReason] = Counter()
        self._clock = clock
        self._last_line: float | None = None
        self._told: Counter[SkipReason] = Counter()

    def fault(self, reason: SkipReason, error: Exception) -> None:
        """Count a fault of the data.

        Args:
            reason: what it is counted under.
            error: what is wrong and where, as one sentence.

        Raises:
            Exception: `error` itself, if strict.
        """
        if self.strict:
            raise error
        self.counts[reason] += 1
        now = self._clock()
        if self._last_line is None or now - self._last_line >= self.interval:
            self._last_line = now
            logger.warning("%s Left out so far: %s.", error, self.summary())

    def drop(self, reason: SkipReason) -> None:
        """Count a sample that is sound but was not asked for."""
        self.counts[reason] += 1

    def take_news(self) -> Counter[SkipReason]:
        """What was counted since the last call."""
        news = self.counts - self._told
        self._told = self.counts.copy()
        return news

    def summary(self) -> str:
        """The counts in words, for messages."""
        return ", ".join(f"{count} {reason}" for reason, count in sorted(self.counts.items())) or "nothing"
