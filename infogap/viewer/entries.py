"""What a page shows: episodes, each with its name in the page's address and the group that it stands in."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from infogap.pictures.record import EpisodeRecord


@dataclass(frozen=True)
class Entry:
    """One episode of a page.

    Attributes:
        record: the episode.
        name: what follows the ``#`` of its address, unique in the page.
        group: what its group is called; the episodes of a group are shown side by side.
        label: what the list calls it.
        facets: further properties by which episodes are chosen, such as the rank, or the arm of an evaluation.
        notes: sentences that the page shows with it.
    """

    record: EpisodeRecord
    name: str
    group: str
    label: str
    facets: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def thin_out(entries: Sequence[Entry], limit: int) -> list[Entry]:
    """Whole groups spread evenly over the entries, the first and the last included, so that few episodes are left.

    Args:
        entries: those of a group in a row.
        limit: the most episodes; at least the first group stays, and 0 keeps all.
    """
    if not limit or len(entries) <= limit:
        return list(entries)
    groups = [list(members) for _, members in itertools.groupby(entries, key=lambda entry: entry.group)]
    count = len(groups)
    while count > 1:
        kept = [groups[number * (len(groups) - 1) // (count - 1)] for number in range(count)]
        size = sum(map(len, kept))
        if size <= limit:
            return list(itertools.chain.from_iterable(kept))
        count = min(count - 1, max(count * limit // size, 1))
    return groups[0]


def in_steps(entries: Iterable[Entry], first: int | None, last: int | None) -> list[Entry]:
    """Entries from a rollout step to another.

    Args:
        entries: those to choose from.
        first: the first step; None is open.
        last: the last step, which is included; None is open.
    """
    return [
        entry
        for entry in entries
        if (first is None or entry.record.rollout_step >= first) and (last is None or entry.record.rollout_step <= last)
    ]
