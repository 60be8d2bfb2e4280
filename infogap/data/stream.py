"""Endless, resumable streams of training samples, and one pass over validation samples.

Order of the stages: shards -> records of this rank and worker -> shuffle, still compressed -> sample -> batch. Every
random choice follows from (seed, epoch, part), and a stream's position is one number, the batches already used: a
resumed stream is made anew and passes over that many. Nothing is decoded for that but JSON and image headers; pixels
are tried only of the batches that are used.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from webdataset.filters import shuffle

from infogap.data.images import ImageError
from infogap.data.manifest import ManifestEntry
from infogap.data.records import Record
from infogap.data.sample import Sample
from infogap.data.shards import decode_or_skip, read_records
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


@dataclass(frozen=True)
class Selection:
    """Which samples are used.

    Attributes:
        manifest: results of resolution selection by key; a sample gets the view that was selected for it.
        require_view_tokens: drop samples for which no view was selected.
        require_evidence: drop samples without boxes.
        keys: the only keys to use; None for all.
    """

    manifest: Mapping[str, ManifestEntry] = field(default_factory=dict)
    require_view_tokens: bool = False
    require_evidence: bool = False
    keys: frozenset[str] | None = None

    def choose(self, record: Record, skips: SkipLog) -> Sample | None:
        """Sample of a record, or None if it is faulty or not wanted, which is counted."""
        sample = decode_or_skip(record, skips)
        if sample is None:
            return None
        entry = self.manifest.get(sample.key)
        if entry is not None and entry.view_tokens is not None:
            sample = replace(sample, view_tokens=entry.view_tokens)
        if self.require_view_tokens and sample.view_tokens is None:
            skips.drop(SkipReason.NO_SELECTED_VIEW)
            return None
        if self.require_evidence and not sample.evidence:
            skips.drop(SkipReason.NO_EVIDENCE)
            return None
        return sample


def first_samples(
    shards: Sequence[Path], selection: Selection, limit: int, skips: SkipLog
) -> tuple[list[Path], frozenset[str]]:
    """The first `limit` samples that are used, in the fixed order of the shards.

    Returns:
        The shards that hold them, and their keys; fewer keys if there are no more.
    """
    holding: list[Path] = []
    keys: set[str] = set()
    for shard in shards:
        for record in read_records(shard, skips):
            if len(keys) == limit:
                return holding, frozenset(keys)
            if selection.choose(record, skips) is not None:
                keys.add(record["__key__"])
                holding += [shard] if shard not in holding[-1:] else []
    return holding, frozenset(keys)


def viewable(samples: Iterable[Sample], skips: SkipLog) -> list[Sample]:
    """Those of some samples whose image can be decoded; the others are counted, or raised if `skips` is strict.

    A header says nothing of the pixels behind it. Where resolution selection found a view, the image has been decoded.
    """
    sound: list[Sample] = []
    for sample in samples:
        try:
            if sample.view_tokens is None:
                sample.image.view(1, 1)  # a JPEG is decoded at its smallest scale
        except ImageError as error:
            skips.fault(SkipReason.BAD_IMAGE, error)
        else:
            sound.append(sample)
    return sound


@dataclass
class StreamPosition:
    """Batches of a stream that were used, on every rank. Shared by a stream and whoever counts."""

    batches: int = 0


class TrainStream(IterableDataset[SampleBatch]):
    """Batches of training samples without end, in an order that follows from the seed.

    The (rank, worker) pairs are the *parts* of the stream. Each epoch the shards are shuffled and dealt out to the
    parts; with fewer shards than parts, the records are. Parts need not be equally long, since none of them ends.

    A DataLoader takes batches from its workers in turn, and begins with the first one also after a resume. Workers
    therefore take over each other's parts, so that batch n is the same one whether or not the run was interrupted.

    Args:
        shards: the shards, in the fixed order.
        selection: which samples are used.
        batch_size: samples in every batch.
        shuffle_buffer: compressed records among which the next one is drawn; 1 keeps the order within a shard.
        seed: seed of every random choice.
        rank: this process, below `world_size`.
        world_size: processes that share the shards.
        position: where the stream begins; read when iteration begins.
        skips: counts what is not used.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        selection: Selection,
        *,
        batch_size: int,
        shuffle_buffer: int,
        seed: int,
        rank: int,
        world_size: int,
        position: StreamPosition,
        skips: SkipLog,
    ) -> None:
        self.shards = tuple(shards)
        self.selection = selection
        self.batch_size = batch_size
        self.shuffle_buffer = shuffle_buffer
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.position = position
        self.skips = skips

    def __iter__(self) -> Iterator[SampleBatch]:
        worker, workers = _this_worker()
        used = self.position.batches
        turn = (worker + used) % workers
        used_of_turn = (used - turn + workers - 1) // workers  # of the batches turn, turn + workers, ... below `used`
        samples = self._samples(self.rank * workers + turn, self.world_size * workers)
        samples = itertools.islice(samples, used_of_turn * self.batch_size, None)
        while True:
            # after counting, so that a resumed stream need not decode what it passes over; a batch may become smaller
            batch = viewable(itertools.islice(samples, self.batch_size), self.skips)
            if batch:
                yield SampleBatch(batch, self.skips)

    def _samples(self, part: int, parts: int) -> Iterator[Sample]:
        """The samples of one part, epoch after epoch."""
        for epoch in itertools.count():
            any_used = False
            for record in self._records(epoch, part, parts):
                sample = self.selection.choose(record, self.skips)
                if sample is not None:
                    any_used = True
                    yield sample
            if not any_used:
                raise ValueError(
                    f"Part {part} of {parts} (ranks times workers) found no usable sample in {len(self.shards)} shards "
                    f"such as {self.shards[0]}; left out were: {self.skips.summary()}. Mend the data, relax what is "
                    "required of it, or use fewer workers."
                )

    def _records(self, epoch: int, part: int, parts: int) -> Iterator[Record]:
        """The records of one part in one epoch, shuffled."""
        shards = list(self.shards)
        random.Random(f"shards {self.seed} {epoch}").shuffle(shards)
        enough = len(shards) >= parts
        records = self._wanted(shards[part::parts] if enough else shards)
        if not enough:
            records = itertools.islice(records, part, None, parts)
        order = random.Random(f"records {self.seed} {epoch} {part}")
        shuffled: Iterator[Record] = shuffle(self.shuffle_buffer, initial=self.shuffle_buffer, rng=order)(records)
        return shuffled

    def _wanted(self, shards: Sequence[Path]) -> Iterator[Record]:
        keys = self.selection.keys
        for shard in shards:
            for record in read_records(shard, self.skips):
                if keys is None or record["__key__"] in keys:
                    yield record


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

    Every rank yields equally many batches, so that none waits for another: at the end a batch may hold fewer samples,
    and with several ranks it may be empty.

    Args:
        shards: the shards, in the fixed order.
        selection: which samples are used.
        batch_size: most samples in a batch.
        rank: this process, below `world_size`.
        world_size: processes that share the samples.
        skips: counts what is not used.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        selection: Selection,
        *,
        batch_size: int,
        rank: int,
        world_size: int,
        skips: SkipLog,
    ) -> None:
        self.shards = tuple(shards)
        self.selection = selection
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.skips = skips

    def __iter__(self) -> Iterator[SampleBatch]:
        worker, workers = _this_worker()
        records = (record for shard in self.shards for record in read_records(shard, self.skips))
        samples = (sample for record in records if (sample := self.selection.choose(record, self.skips)) is not None)
        for number in itertools.count():
            of_all_ranks = list(itertools.islice(samples, self.batch_size * self.world_size))
            if not of_all_ranks:
                return
            if number % workers == worker:
                yield SampleBatch(viewable(of_all_ranks[self.rank :: self.world_size], self.skips), self.skips)


def _this_worker() -> tuple[int, int]:
    """Number of this DataLoader worker, and of all of them; (0, 1) in the main process."""
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)
