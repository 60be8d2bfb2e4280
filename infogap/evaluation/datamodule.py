"""A benchmark's rows in batches: those about one image together, every row with another image beside it."""

from __future__ import annotations

import glob
import hashlib
import itertools
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset

from infogap.data.images import HighResImage
from infogap.data.manifest import manifest_path
from infogap.data.needle import NeedleConfig
from infogap.data.needle_shards import ensure_needle_shards
from infogap.data.shards import find_shards
from infogap.evaluation.arms import Case
from infogap.evaluation.benchmarks.registry import find_benchmark
from infogap.evaluation.question import BenchmarkError, Question, Row, UnreadableRow

logger = logging.getLogger(__name__)

WINDOW_BYTES = 1 << 30
"""Compressed images that are held while rows about one image are looked for: all of HR-Bench 8K, a gibibyte at most."""


@dataclass
class HeldOutScenes:
    """Synthetic needle scenes, written where there are no shards yet.

    Args:
        scenes: what the scenes look like.
        count: how many.
        seed: series of the scenes. Training uses 0 and 1 by default.
    """

    scenes: NeedleConfig = field(default_factory=NeedleConfig)
    count: int = 256
    seed: int = 3001


@dataclass
class RowBatch:
    """Rows that are played side by side.

    Attributes:
        cases: rows that can be asked.
        unreadable: rows that cannot.
        left_out: rows that were not asked for, such as those without a selected view; the last batch counts them.
    """

    cases: list[Case] = field(default_factory=list)
    unreadable: list[UnreadableRow] = field(default_factory=list)
    left_out: int = 0


class BenchmarkDataModule(LightningDataModule):
    """The rows of a benchmark, streamed from its files.

    Rows about one image are brought together as far as ``WINDOW_BYTES`` of images can be held, so that the image is
    decoded once for all of them. The order depends on the files alone.

    Args:
        benchmark: name of the benchmark, see ``infogap.evaluation.benchmarks.registry``.
        root: its file or folder, as it was downloaded.
        batch_size: rows that are played side by side; each has its views in memory at once, so take fewer for large
            views. A batch may have up to twice as many, so as not to part rows about one image.
        limit: only the first so many rows; for a trial, since it changes what is measured.
        require_view_tokens: leave out rows for which resolution selection found no view; they are counted.
        strict: stop at the first row that cannot be read instead of counting it.
        needle: write synthetic scenes to ``root`` if it holds no shards (benchmark "shards").

    Raises:
        ValueError: if a number is out of range, or the benchmark is unknown.
    """

    def __init__(
        self,
        benchmark: str,
        root: str,
        batch_size: int = 16,
        limit: int | None = None,
        require_view_tokens: bool = False,
        strict: bool = False,
        needle: HeldOutScenes | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("limit", limit)):
            if value is not None and value < 1:
                raise ValueError(f"data.{name} is {value}: give at least 1.")
        self.benchmark = find_benchmark(benchmark)
        self.root, self.batch_size, self.limit = root, batch_size, limit
        self.require_view_tokens, self.strict, self.needle = require_view_tokens, strict, needle

    def prepare_data(self) -> None:
        """Write the needle scenes that are asked for and missing.

        Raises:
            ValueError: if the folder holds other needle scenes than those that are asked for.
        """
        if self.needle is None:
            return
        asked = self.needle
        ensure_needle_shards(asked.scenes, Path(self.root), count=asked.count, seed=asked.seed)

    def digest(self, *, with_views: bool) -> str:
        """A digest that changes when the files do: of their names and sizes, which costs nothing even for terabytes.

        Args:
            with_views: whether the selected views count as well.
        """
        ours = self.benchmark.name == "shards"
        root = Path(self.root)
        if ours:  # beside them lie what was found out about them, and pictures
            paths: Iterable[Path] = find_shards(root)
        else:
            paths = root.rglob("*") if root.is_dir() else [root] if root.is_file() else map(Path, glob.glob(self.root))
        files = sorted(path for path in paths if path.is_file())
        names = [path.relative_to(root) if root.is_dir() else Path(path.name) for path in files]
        listed = [
            f"{name} {path.stat().st_size}"
            for name, path in zip(names, files, strict=True)
            if not any(part.startswith(".") for part in name.parts)  # what download tools keep for themselves
        ]
        if ours and with_views and (manifest := manifest_path(root)).is_file():
            listed.append(hashlib.sha256(manifest.read_bytes()).hexdigest())
        return hashlib.sha256("\n".join(listed).encode()).hexdigest()[:16]

    def test_dataloader(self) -> DataLoader[RowBatch]:
        """The rows once, in batches."""
        return DataLoader(RowStream(self), batch_size=None, generator=torch.Generator())

    def transfer_batch_to_device(self, batch: RowBatch, device: torch.device, dataloader_idx: int) -> RowBatch:
        """Rows hold no tensors."""
        return batch

    def batches(self) -> Iterator[RowBatch]:
        """Read the rows; see ``test_dataloader``.

        Raises:
            BenchmarkError: if a file cannot be used, or, if strict, a row.
        """
        rows = itertools.islice(self.benchmark.rows(Path(self.root)), self.limit)
        batch, left_out = RowBatch(), 0
        for row in with_other_images(by_image(rows)):
            if isinstance(row, UnreadableRow):
                if self.strict:
                    raise BenchmarkError(row.reason)
                batch.unreadable.append(row)
            elif self.require_view_tokens and row.question.sample.view_tokens is None:
                left_out += 1
            else:
                if self._is_full(batch, row):
                    yield batch
                    batch = RowBatch()
                batch.cases.append(row)
        batch.left_out = left_out
        yield batch

    def _is_full(self, batch: RowBatch, row: Case) -> bool:
        """Whether a row must go into the next batch."""
        size = len(batch.cases)
        shares = size > 0 and batch.cases[-1].question.sample.image is row.question.sample.image
        return size >= (2 * self.batch_size if shares else self.batch_size)


class RowStream(IterableDataset[RowBatch]):
    """The batches of a datamodule as a dataset.

    Args:
        data: the datamodule.
    """

    def __init__(self, data: BenchmarkDataModule) -> None:
        self._data = data

    def __iter__(self) -> Iterator[RowBatch]:
        """Begin a pass."""
        return self._data.batches()


def by_image(rows: Iterable[Row], most_bytes: int = WINDOW_BYTES) -> Iterator[Row]:
    """Bring rows about one image together, each image's where its first row stands.

    Args:
        rows: the rows.
        most_bytes: compressed images that may be held at once; rows that are further apart stay apart.
    """
    window: dict[HighResImage | str, list[Row]] = {}  # by image, an unreadable row by itself
    size = 0
    for row in rows:
        image = _image(row)
        if image is not None and image not in window:
            size += len(image.data)
        window.setdefault(row.key if image is None else image, []).append(row)
        while size > most_bytes:
            first = next(iter(window))
            size -= len(first.data) if isinstance(first, HighResImage) else 0
            yield from window.pop(first)
    for together in window.values():
        yield from together


def _image(row: Row) -> HighResImage | None:
    return row.sample.image if isinstance(row, Question) else None


def with_other_images(rows: Iterable[Row]) -> Iterator[Case | UnreadableRow]:
    """Give every row another row's image: the last one before it that is not its own, else the first one after it.

    So it depends on the files alone, not on what is played in one batch or was played before.
    """
    waiting: deque[Question | UnreadableRow] = deque()  # rows before the second image
    own: HighResImage | None = None  # the image of the row before
    other: HighResImage | None = None  # the last image before that one
    for row in rows:
        if isinstance(row, Question) and row.sample.image is not own:
            if own is not None and other is None:
                while waiting:
                    yield _case(waiting.popleft(), row.sample.image)
            own, other = row.sample.image, own
        if other is None:
            waiting.append(row)
        else:
            yield _case(row, other)
    for row in waiting:
        yield _case(row, None)


def _case(row: Row, other: HighResImage | None) -> Case | UnreadableRow:
    return Case(row, other) if isinstance(row, Question) else row
