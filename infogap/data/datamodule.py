"""The datamodule: shards to batches of samples, in a deterministic order that survives interruption."""

from __future__ import annotations

import logging
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from infogap.data.manifest import ManifestEntry, load_manifest
from infogap.data.needle_shards import NeedleShardConfig, ensure_needle_shards
from infogap.data.reader import RecordReader, is_remote, load_manifest_beside, open_set
from infogap.data.remote import Cache, CacheConfig, check_url
from infogap.data.sample import Sample
from infogap.data.sample_set import SampleSet, Selection
from infogap.data.shards import check_local
from infogap.data.skips import SkipLog, SkipReason
from infogap.data.stream import SampleBatch, StreamPosition, TrainLoader, TrainStream, ValidationStream

logger = logging.getLogger(__name__)


@dataclass
class ShardSource:
    """One of several sources of training samples.

    Args:
        root: its shards: a folder, a glob pattern, a file, or an http(s) address.
        weight: samples that are drawn of it, relative to the other sources; give it to all or to none. Default: its
            size, so that all sources come to their ends together.
        manifest: its resolution manifest; null for the one beside its shards.
    """

    root: str
    weight: float | None = None
    manifest: str | None = None


class ShardDataModule(LightningDataModule):
    """Samples from shards, on disk or behind http(s).

    Training batches come without end, `prompts_per_step` samples over all ranks; validation passes over all samples
    once. Steps get `list[Sample]` with every image still compressed. A checkpoint holds the position in the stream.

    Args:
        root: shards for training: a folder, a glob pattern, a file, or the http(s) address of a folder with an index;
            None if there are `sources`.
        val_root: shards for validation, likewise; None for no validation.
        needle: write synthetic scenes to `root` and `val_root`, which must be folders, where they hold no shards.
        prompts_per_step: samples of a step, over all ranks, so that a run is the same experiment on any number of GPUs;
            a multiple of the number of ranks.
        shuffle_buffer: samples among which the next one is drawn. Larger mixes better and costs no memory, since a
            sample is read when it is its turn; of remote shards, those that the buffer spans are fetched first.
        seed: seed of the order of the samples.
        num_workers: processes that read, per rank; 0 reads in the main process.
        strict: raise the first faulty sample instead of skipping and counting it.
        manifest: resolution manifest of the training samples, if `root` is a single source; None for the one beside
            the shards, if it exists. Validation samples use the one beside their own shards.
        require_view_tokens: train only on samples for which resolution selection found a view (LFPC section 3).
        require_evidence: train only on samples with boxes (LFPC section 4).
        limit: train only on the first so many samples that meet the requirements, of every source; LFPC's stage 2 uses
            256.
        cache: copies of remote shards; None for the defaults. Unused where all shards are local.
        sources: several sources of training samples, with weights, in the place of `root`.

    Raises:
        ValueError: if a number is out of range, `needle` is to be written to what is not a folder, or sources lack
            weights that others have.
    """

    def __init__(
        self,
        root: str | None = None,
        val_root: str | None = None,
        needle: NeedleShardConfig | None = None,
        prompts_per_step: int = 8,
        shuffle_buffer: int = 1024,
        seed: int = 0,
        num_workers: int = 0,
        strict: bool = False,
        manifest: str | None = None,
        require_view_tokens: bool = False,
        require_evidence: bool = False,
        limit: int | None = None,
        cache: CacheConfig | None = None,
        sources: list[ShardSource] | None = None,
    ) -> None:
        super().__init__()
        self.root = root
        self.val_root = val_root
        self.needle = needle
        self.prompts_per_step = prompts_per_step
        self.shuffle_buffer = shuffle_buffer
        self.seed = seed
        self.num_workers = num_workers
        self.manifest = manifest
        self.require_view_tokens = require_view_tokens
        self.require_evidence = require_evidence
        self.limit = limit
        self.sources = [*(sources or []), *([] if root is None else [ShardSource(root, manifest=manifest)])]
        self._check()
        self.cache = Cache(cache or CacheConfig())
        self.strict = strict
        self._skips = SkipLog(strict=strict)
        self._position = StreamPosition()

    @property
    def skipped(self) -> Counter[SkipReason]:
        """Times a sample was not used, by reason; every pass counts again.

        What worker processes leave out is counted when the batch that they made next is used.
        """
        return self._skips.counts

    def setup(self, stage: str) -> None:
        """Check that the samples of a step can be shared out.

        Raises:
            ValueError: if they cannot.
        """
        ranks = self._rank_and_world_size()[1]
        if self.prompts_per_step % ranks:
            raise ValueError(
                f"data.prompts_per_step is {self.prompts_per_step} and there are {ranks} processes: make it a multiple "
                "of their number, or use fewer GPUs."
            )

    def prepare_data(self) -> None:
        """Write the needle shards that are asked for and missing. Runs in one process per node.

        Raises:
            ValueError: if a folder holds needle scenes, but others than those that are asked for.
        """
        if self.needle is None:
            return
        series = [(self.sources[0].root, self.needle.count, self.needle.seed)]
        if self.val_root is not None:
            series.append((self.val_root, self.needle.val_count, self.needle.seed + 1))
        for folder, count, seed in series:
            ensure_needle_shards(self.needle.scenes, Path(folder), count=count, seed=seed)

    def train_dataloader(self) -> TrainLoader:
        """Endless batches of `prompts_per_step` samples, from the position of the last checkpoint that was loaded.

        Raises:
            FileNotFoundError: if there are no shards, or a manifest is required and missing.
            ValueError: if `root` is neither a path nor an http(s) address, a manifest or an index is damaged, or no
                sample meets the requirements.
            RemoteError: if an index cannot be fetched.
        """
        sets = [self._training_set(source) for source in self.sources]
        rank, world_size = self._rank_and_world_size()
        stream = TrainStream(
            sets,
            [
                len(samples) if source.weight is None else source.weight
                for source, samples in zip(self.sources, sets, strict=True)
            ],
            batch_size=self.prompts_per_step // world_size,
            shuffle_buffer=self.shuffle_buffer,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            position=self._position,
            cache=self.cache,
            skips=self._skips,
        )
        return TrainLoader(stream, num_workers=self.num_workers, generator=self._generator())

    def val_dataloader(self) -> DataLoader[SampleBatch] | list[Any]:
        """All validation samples once, in fixed order; empty without `val_root`. Errors as in `train_dataloader`.

        With several ranks the last batch of a rank may be empty, so that all ranks have equally many.
        """
        if self.val_root is None:
            return []
        rank, world_size = self._rank_and_world_size()
        selection = Selection(load_manifest_beside(self.val_root, self.cache) or {})
        stream = ValidationStream(
            SampleSet(open_set(self.val_root, self.cache, self._skips), selection, self._skips),
            batch_size=self.prompts_per_step // world_size,
            rank=rank,
            world_size=world_size,
            cache=self.cache,
            skips=self._skips,
        )
        return DataLoader(stream, batch_size=None, num_workers=self.num_workers, generator=self._generator())

    def transfer_batch_to_device(self, batch: SampleBatch, device: torch.device, dataloader_idx: int) -> list[Sample]:
        """Hand the samples to the step as they are: they hold no tensors. Counts the training batches used.

        Counting here and not in the stream leaves out what Lightning has prefetched, and a worker read ahead.
        """
        self._skips.counts.update(batch.skipped)
        if self.trainer is not None and self.trainer.training:
            self._position.batches += 1
        return list(batch)

    def state_dict(self) -> dict[str, Any]:
        """Position in the training stream, and what its order depends on."""
        return {"batches_used": self._position.batches, "order": self._order()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint stopped; warns if the order of the samples is not the same any more."""
        self._position.batches = state_dict["batches_used"]
        for name, value in self._order().items():
            before = state_dict["order"].get(name)
            if value != before:
                change = f"{name} {before}, now it is {value}"
                logger.warning("The checkpoint was written with %s: the order of the samples is another one.", change)

    def _check(self) -> None:
        for name, least in (("prompts_per_step", 1), ("shuffle_buffer", 1), ("num_workers", 0), ("limit", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"data.{name} is {value}: give at least {least}.")
        self._check_sources()
        for where in (*(source.root for source in self.sources), *([] if self.val_root is None else [self.val_root])):
            (check_url if is_remote(where) else check_local)(where)
            is_pattern = set(where) & set("*?[") and not Path(where).is_dir()
            no_folder = is_remote(where) or is_pattern or Path(where).is_file()
            if self.needle is not None and (no_folder or len(self.sources) > 1):
                raise ValueError(f"data.needle is set, but {where!r} is no folder to write shards to: name a folder.")

    def _check_sources(self) -> None:
        weights = [source.weight for source in self.sources]
        if not weights:
            raise ValueError("data.root and data.sources are both empty: name the shards to train on.")
        if self.root is not None and len(weights) > 1:
            raise ValueError("data.root and data.sources are both given: set data.root to null.")
        if any(weight is not None and not 0 < weight < math.inf for weight in weights):
            raise ValueError(f"data.sources has the weights {weights}: give positive numbers.")
        if None in weights and any(weight is not None for weight in weights):
            raise ValueError(f"data.sources has the weights {weights}: give one to every source, or to none.")
        if self.manifest is not None and self.root is None:
            raise ValueError("data.manifest is set beside data.sources: give each source its own.")

    def _order(self) -> dict[str, Any]:
        """Everything the order of the samples depends on besides the shards themselves."""
        return {
            "seed": self.seed,
            "prompts_per_step": self.prompts_per_step,
            "shuffle_buffer": self.shuffle_buffer,
            "limit": self.limit,
            "weights": [source.weight for source in self.sources],
            "require_view_tokens": self.require_view_tokens,
            "require_evidence": self.require_evidence,
            "world_size": self._rank_and_world_size()[1],
        }

    def _training_set(self, source: ShardSource) -> SampleSet:
        """The samples of a source that meet the requirements, no more than the limit."""
        shards = open_set(source.root, self.cache, self._skips)
        selection = Selection(self._manifest(source), self.require_view_tokens, self.require_evidence)
        samples = SampleSet(shards, selection, self._skips)
        if self.limit is not None:
            with RecordReader(self.cache) as reader:
                samples.limit(self.limit, reader, self._skips)
            if len(samples) < self.limit:
                raise ValueError(
                    f"limit is {self.limit}, but {source.root} has only {len(samples)} samples that meet the "
                    "requirements: lower limit or relax the requirements."
                )
        if not len(samples):
            raise ValueError(
                f"The {len(shards)} shards of {source.root} hold no sample that can be used; left out were: "
                f"{self._skips.summary()}. Mend the data, or relax what is required of it."
            )
        return samples

    def _manifest(self, source: ShardSource) -> dict[str, ManifestEntry]:
        """Resolution manifest of a source; empty if there is none and none is required."""
        if source.manifest is None:
            entries = load_manifest_beside(source.root, self.cache)
        else:
            entries = load_manifest(Path(source.manifest)) if Path(source.manifest).exists() else None
        if entries is not None:
            found = Counter(entry.status.value for entry in entries.values())
            logger.info("The resolution manifest of %s says: %s.", source.root, dict(found))
            return entries
        if source.manifest is not None or self.require_view_tokens:
            raise FileNotFoundError(
                f"There is no resolution manifest {source.manifest or f'beside {source.root}'}: run resolution "
                f"selection on {source.root} first, or train with data.require_view_tokens false."
            )
        return {}

    def _rank_and_world_size(self) -> tuple[int, int]:
        """Number of this process and of all of them; (0, 1) without a trainer."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _generator(self) -> torch.Generator:
        """Generator for a loader, which would otherwise draw a number from the global one."""
        return torch.Generator().manual_seed(self.seed)
