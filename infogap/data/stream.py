"""Endless, resumable streams of training samples, and one pass over validation samples.

Order of the stages: places of samples -> order of this rank (`infogap.data.order`) -> batch of this worker -> bytes ->
sample. Until its turn a sample is a number: what is in memory are the samples of the batches that DataLoader workers
hold ready (its `prefetch_factor`, 2 each) and of the one in use, compressed. A stream's position is one number, the
batches already used, and a stream can begin anywhere at once, with any number of workers.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from infogap.data.order import EndlessOrder, draws
from infogap.data.reader import RecordReader
from infogap.data.remote import Cache
from infogap.data.sample import Sample
from infogap.data.sample_set import SampleSet
from infogap.data.skips import SkipLog, SkipReason


class SampleBatch:
    """Samples on their way from a DataLoader to the step.

    On purpose neither a sequence nor a dataclass: Lightning's precision plugins take those apart to convert the
    tensors in them, and fail on a frozen dataclass such as `Sample`.

    Args:
        samples: the samples.
        skips: where the process that made the batch counts what it leaves out.

    Attributes:
        samples: the samples.
        skipped: what a worker process has left out since its last batch. Empty from the main process, which has
            counted it already.
    """

    def __init__(self, samples: Sequence[Sample], skips: SkipLog) -> None:
        self.samples = tuple(samples)
        self.skipped = Counter[SkipReason]() if get_worker_info() is None else skips.take_news()

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __len__(self) -> int:
        return len(self.samples)


@dataclass
class StreamPosition:
    """Batches of a stream that were used, on every rank. Shared by a stream and whoever counts."""

    batches: int = 0


class TrainStream(IterableDataset[SampleBatch]):
    """Batches of training samples without end, in an order that follows from the seed and the number of ranks.

    Worker processes make whole batches in turn, each from its own reads, so that the batches are the same with any
    number of them. A faulty sample makes its batch smaller, on its rank alone; one without a sound sample takes the
    next sound one of the order, so that no rank is ever without.

    Args:
        sets: the samples, source by source.
        weights: how many samples are drawn of each source, relative to the others.
        batch_size: samples in every batch.
        shuffle_buffer: samples among which the next one is drawn; 1 keeps the order within a shard.
        seed: seed of every random choice.
        rank: this process, below `world_size`.
        world_size: processes that share the samples.
        position: where the stream begins; read when iteration begins.
        cache: fetches shards that are remote.
        skips: counts what is not used.
    """

    def __init__(
        self,
        sets: Sequence[SampleSet],
        weights: Sequence[float],
        *,
        batch_size: int,
        shuffle_buffer: int,
        seed: int,
        rank: int,
        world_size: int,
        position: StreamPosition,
        cache: Cache,
        skips: SkipLog,
    ) -> None:
        self.sets, self.weights = tuple(sets), tuple(weights)
        self.orders = [
            EndlessOrder(
                samples.groups,
                shuffle_buffer=shuffle_buffer,
                seed=f"{seed} {number}",
                rank=rank,
                world_size=world_size,
            )
            for number, samples in enumerate(sets)
        ]
        self.batch_size = batch_size
        self.position = position
        self.cache = cache
        self.skips = skips

    def __iter__(self) -> Iterator[SampleBatch]:
        worker, workers = _this_worker(self.skips)
        start = self.position.batches  # it moves on while batches are used
        with RecordReader(self.cache) as reader:
            for number, batch in enumerate(self._batches(start)):
                if number % workers == worker:
                    read = [self._read(source, item, reader) for source, item in batch]
                    sound = [sample for sample in read if sample is not None]
                    yield SampleBatch(sound or [self._next_sound(start + number + 1, reader)], self.skips)

    def _batches(self, used: int) -> Iterator[list[tuple[int, int]]]:
        """Source and number of the samples of each batch, from the `used`-th batch on."""
        sources = draws(self.weights)
        passed = Counter(itertools.islice(sources, used * self.batch_size))
        items = [order.since(passed[source]) for source, order in enumerate(self.orders)]
        while True:
            yield [(source, next(items[source])) for source in itertools.islice(sources, self.batch_size)]

    def _read(self, source: int, item: int, reader: RecordReader) -> Sample | None:
        return self.sets[source].read(item, reader, self.skips)

    def _next_sound(self, used: int, reader: RecordReader) -> Sample:
        """The first sound sample from the `used`-th batch on."""
        # after so many every source has come to the end of a whole epoch
        longest = max(len(samples) / weight for samples, weight in zip(self.sets, self.weights, strict=True))
        tries = 2 * math.ceil(longest * sum(self.weights))
        following = itertools.chain.from_iterable(self._batches(used))
        for source, item in itertools.islice(following, tries):
            sample = self._read(source, item, reader)
            if sample is not None:
                return sample
        raise ValueError(
            f"None of {tries} samples, read in the order of training, can be used; left out were: "
            f"{self.skips.summary()}. Mend the data: `infogap data check FOLDER` names what is wrong."
        )


class TrainLoader(DataLoader[SampleBatch]):
    """Loader of a `TrainStream` that Lightning recognises as resumable.

    The datamodule keeps the position, because Lightning restores a loader's state only in the middle of an epoch; but
    without a state here it warns that the run cannot be resumed.

    Args:
        stream: the batches.
        num_workers: processes that read; 0 for the main process.
        generator: where worker seeds come from.
    """

    def __init__(self, stream: TrainStream, *, num_workers: int, generator: torch.Generator) -> None:
        super().__init__(stream, batch_size=None, num_workers=num_workers, generator=generator)
        self._position = stream.position

    def state_dict(self) -> dict[str, int]:
        """Batches used."""
        return {"batches_used": self._position.batches}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Begin there; to be called before iteration."""
        self._position.batches = state_dict["batches_used"]


class ValidationStream(IterableDataset[SampleBatch]):
    """All samples once, in fixed order, dealt out to the ranks one by one.

    Every rank yields equally many batches, so that none waits for another: a batch with faulty samples is smaller, as
    is the last one, and may be empty.

    Args:
        samples: the samples.
        batch_size: most samples in a batch.
        rank: this process, below `world_size`.
        world_size: processes that share the samples.
        cache: fetches shards that are remote.
        skips: counts what is not used.
    """

    def __init__(
        self, samples: SampleSet, *, batch_size: int, rank: int, world_size: int, cache: Cache, skips: SkipLog
    ) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.cache = cache
        self.skips = skips

    def __iter__(self) -> Iterator[SampleBatch]:
        worker, workers = _this_worker(self.skips)
        of_all_ranks = self.batch_size * self.world_size
        with RecordReader(self.cache) as reader:
            for number, start in enumerate(range(0, len(self.samples), of_all_ranks)):
                if number % workers == worker:
                    mine = range(start + self.rank, min(start + of_all_ranks, len(self.samples)), self.world_size)
                    read = [self.samples.read(item, reader, self.skips) for item in mine]
                    yield SampleBatch([sample for sample in read if sample is not None], self.skips)


def _this_worker(skips: SkipLog) -> tuple[int, int]:
    """Number of this DataLoader worker, and of all of them; (0, 1) in the main process.

    A worker begins with a copy of what the main process has counted, which it must not count again.
    """
    info = get_worker_info()
    if info is None:
        return 0, 1
    skips.take_news()
    return info.id, info.num_workers
