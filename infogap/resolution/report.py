"""What resolution selection says while it works, and at its end."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from infogap.data.index import load_index
from infogap.data.manifest import ORIGINAL, TEXT, ManifestEntry, SelectionStatus, answer_order
from infogap.data.skips import SkipReason
from infogap.resolution.shares import Share

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SelectionReport:
    """What a manifest holds, and what was left out of it.

    Attributes:
        statuses: samples by what was found out.
        budgets: samples by the visual-token budget of their selected view.
        skipped: faulty samples that were left out, by reason.
        right: by what was shown (see `ManifestEntry.answers`), how many kept answers are right, and how many there are.
            Selection asks no more than it needs, so those at a small view may be the samples that were easy until then.
    """

    statuses: Mapping[SelectionStatus, int]
    budgets: Mapping[int, int]
    skipped: Mapping[SkipReason, int] = field(default_factory=dict)
    right: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, entries: Iterable[ManifestEntry], skipped: Mapping[SkipReason, int]) -> SelectionReport:
        """Count results."""
        listed = list(entries)
        budgets = Counter(entry.view_tokens for entry in listed if entry.view_tokens is not None)
        asked = Counter(name for entry in listed for name in entry.answers)
        right = Counter(name for entry in listed for name in entry.right)
        shares = {name: (right[name], asked[name]) for name in sorted(asked, key=answer_order)}
        return cls(Counter(entry.status for entry in listed), budgets, skipped, shares)

    def render(self, width: int = 40) -> str:
        """A small table, with a bar of at most ``width`` signs for every selected budget."""
        total = max(sum(self.statuses.values()), 1)
        lines = [f"{'samples':<24}{'count':>8}{'share':>7}"]
        for status in SelectionStatus:
            count = self.statuses.get(status, 0)
            lines.append(f"{status:<24}{count:>8}{count / total:>7.1%}")
        lines += [f"{f'left out: {reason}':<24}{count:>8}" for reason, count in sorted(self.skipped.items())]
        longest = max(self.budgets.values(), default=1)
        for budget, count in sorted(self.budgets.items(), reverse=True):
            lines.append(f"{f'view of {budget} tokens':<24}{count:>8}  {'#' * max(round(width * count / longest), 1)}")
        lines += [f"{'answers':<24}{'count':>8}{'right':>7}"] if self.right else []
        for name, (right, asked) in self.right.items():
            lines.append(f"{_SHOWN.get(name, f'view of {name} tokens'):<24}{asked:>8}{right / asked:>7.1%}")
        return "\n".join(lines)

    def save(self, manifest: Path) -> None:
        """Write the table beside a manifest, as ``resolution_report.txt`` for ``resolution.jsonl``."""
        manifest.with_name(f"{manifest.stem}_report.txt").write_text(self.render() + "\n", encoding="utf-8")


_SHOWN = {ORIGINAL: "original", TEXT: "text alone"}


class Progress:
    """Says in the log how far a share is, at most once per interval.

    Args:
        share: the share.
        total: samples of the share; None if unknown, and then no time is estimated.
        interval: seconds between two lines.
        clock: seconds since any fixed moment.
    """

    def __init__(
        self,
        share: Share,
        total: int | None,
        interval: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._whose = "" if share.count == 1 else f"Share {share}: "
        self._total = total
        self._interval, self._clock = interval, clock
        self._start = self._last_line = clock()

    def log(self, answered: int, passed: int) -> None:
        """Note how far the share is.

        Args:
            answered: samples that have been answered since the start.
            passed: samples that were passed over, since they had a result or a fault.
        """
        now = self._clock()
        if now - self._last_line < self._interval or not answered:
            return
        self._last_line = now
        rate, done = answered / (now - self._start), answered + passed
        if self._total is None:
            logger.info("%sSelected the views of %d samples, %.2f a second.", self._whose, done, rate)
        else:
            left = timedelta(seconds=round(max(self._total - done, 0) / rate))
            logger.info(
                "%sSelected the views of %d of %d samples, %.2f a second, %s left.",
                self._whose,
                done,
                self._total,
                rate,
                left,
            )


def share_size(shards: Sequence[Path], share: Share) -> int | None:
    """Samples of a share, by the index beside the shards; None if it does not say, and no time can be estimated."""
    own = [path for _, path in share.shards(shards)]
    try:
        index = load_index(shards[0].parent)
        counts = {} if index is None else {shards[0].with_name(entry.name): entry.samples for entry in index.shards}
        return share.size(sum(counts[path] for path in own), shards)
    except (OSError, ValueError, KeyError):  # a damaged index, or shards of several folders
        return None
