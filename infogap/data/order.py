"""The order of training, in numbers alone: which item a rank uses when.

It follows from the seed, the epoch and the number of ranks, and from nothing else: not from the worker processes, and
not from where a run was interrupted. Of every epoch the ranks together use every item once, and no rank is ever more
than one item ahead of another.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

from webdataset.filters import shuffle


class EndlessOrder:
    """One rank's share of the items of one source, epoch after epoch.

    Each epoch the shards are shuffled and their items, one shard after the other, are cut into one run for each rank.
    A rank therefore needs few shards that another needs too. Its run passes through a shuffle buffer.

    Args:
        groups: number of items of each shard; items are numbered through, shard after shard.
        shuffle_buffer: items among which the next one is drawn; 1 keeps the order within a shard.
        seed: of every random choice.
        rank: this process, below `world_size`.
        world_size: processes that share the items.

    Raises:
        ValueError: if there are no items.
    """

    def __init__(
        self, groups: Sequence[int], *, shuffle_buffer: int, seed: str, rank: int = 0, world_size: int = 1
    ) -> None:
        ends = list(itertools.accumulate(groups))
        self._groups = [range(end - count, end) for count, end in zip(groups, ends, strict=True)]
        self._total = ends[-1] if ends else 0
        if self._total < 1:
            raise ValueError("There are no items to order: give at least one.")
        self._buffer, self._seed = shuffle_buffer, seed
        self._rank, self._world_size = rank, world_size

    def since(self, position: int) -> Iterator[int]:
        """Items without end, from the `position`-th on."""
        epoch = position * self._world_size // self._total  # the right one, or the one before
        while self._used(self._rank, epoch + 1) <= position:
            epoch += 1
        passed = position - self._used(self._rank, epoch)
        yield from self._epoch(epoch)[passed:]
        for later in itertools.count(epoch + 1):
            yield from self._epoch(later)

    def _used(self, rank: int, epochs: int) -> int:
        """Items that a rank uses in so many epochs: over all ranks every item once in each.

        Floors of (total + rank) / ranks sum to the total (Hermite's identity), and differ by one at most.
        """
        return (epochs * self._total + rank) // self._world_size

    def _epoch(self, epoch: int) -> list[int]:
        """This rank's items of one epoch."""
        groups = list(self._groups)
        random.Random(f"shards {self._seed} {epoch}").shuffle(groups)
        shares = [self._used(rank, epoch + 1) - self._used(rank, epoch) for rank in range(self._rank + 1)]
        items = itertools.chain.from_iterable(groups)
        mine = itertools.islice(items, sum(shares[:-1]), sum(shares))
        order = random.Random(f"records {self._seed} {epoch} {self._rank}")
        return list(shuffle(self._buffer, initial=self._buffer, rng=order)(mine))


def draws(weights: Sequence[float]) -> Iterator[int]:
    """Numbers of sources without end, each in proportion to its weight at every moment.

    Always the source that is furthest behind its share, the first of equals: so it is the same on every rank, and a
    batch holds no more of a source by chance.

    Args:
        weights: positive, one for each source.
    """
    if len(weights) == 1:
        yield from itertools.repeat(0)
    total = sum(weights)
    taken = [0] * len(weights)
    for count in itertools.count(1):
        behind = [weight / total * count - used for weight, used in zip(weights, taken, strict=True)]
        source = max(range(len(weights)), key=behind.__getitem__)
        taken[source] += 1
        yield source
