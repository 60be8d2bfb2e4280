"""The datamodule: shards to batches of samples, in a deterministic order that survives interruption."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from infogap.data.manifest import MANIFEST_NAME, ManifestEntry, load_manifest
from infogap.data.needle import NeedleConfig, needle_origin, write_needle_shards
from infogap.data.sample import Sample
from infogap.data.shards import check_local, find_shards, has_shards, read_origin
from infogap.data.skips import SkipLog, SkipReason
from infogap.data.stream import (
    SampleBatch,
    Selection,
    StreamPosition,
    TrainLoader,
    TrainStream,
    ValidationStream,
    first_samples,
)

logger = logging.getLogger(__name__)


@dataclass
class NeedleShardConfig:
    """Synthetic needle scenes, written where there are no shards yet.

    Args:
        scenes: what the scenes look like.
        count: training samples.
        val_count: validation samples.
        seed: series of the training scenes; the validation scenes are the series after it.
    """

    scenes: NeedleConfig = field(default_factory=NeedleConfig)
    count: int = 512
    val_count: int = 64
    seed: int = 0


class ShardDataModule(LightningDataModule):
    """Samples from shards on disk.

    Training batches come without end, `prompts_per_step` samples over all ranks; validation passes over all samples
    once. Steps get `list[Sample]` with every image still compressed. A checkpoint holds the position in the stream.

    Args:
        root: shards for training: a folder, a glob pattern or a file.
        val_root: shards for validation, likewise; None for no validation.
        needle: write synthetic scenes to `root` and `val_root`, which must be folders, where they hold no shards.
        prompts_per_step: samples of a step, over all ranks, so that a run is the same experiment on any number of GPUs;
            a multiple of the number of ranks.
        shuffle_buffer: compressed records held in memory to shuffle, per worker. Larger mixes better; 8K photographs
            take some 10 MB each.
        seed: seed of the order of the samples.
        num_workers: processes that read, per rank; 0 reads in the main process.
        strict: raise the first faulty sample instead of skipping and counting it.
        manifest: resolution manifest of the training samples; None for `resolution.jsonl` beside the shards, if it
            exists. Validation samples use the one beside their own shards.
        require_view_tokens: train only on samples for which resolution selection found a view (LFPC section 3).
        require_evidence: train only on samples with boxes (LFPC section 4).
        limit: train only on the first so many samples that meet the requirements; LFPC's stage 2 uses 256.

    Raises:
        ValueError: if a number is out of range, or `needle` is to be written to what is not a folder.
    """

    def __init__(
        self,
        root: str,
        val_root: str | None = None,
        needle: NeedleShardConfig | None = None,
        prompts_per_step: int = 8,
        shuffle_buffer: int = 128,
        seed: int = 0,
        num_workers: int = 0,
        strict: bool = False,
        manifest: str | None = None,
        require_view_tokens: bool = False,
        require_evidence: bool = False,
        limit: int | None = None,
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
        self._check()
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
        series = [(self.root, self.needle.count, self.needle.seed)]
        if self.val_root is not None:
            series.append((self.val_root, self.needle.val_count, self.needle.seed + 1))
        for folder, count, seed in series:
            if has_shards(Path(folder)):
                self._check_origin(Path(folder), needle_origin(self.needle.scenes, count=count, seed=seed))
            else:
                logger.info("Writing %d needle scenes to %s.", count, folder)
                write_needle_shards(self.needle.scenes, Path(folder), count=count, seed=seed)

    def train_dataloader(self) -> TrainLoader:
        """Endless batches of `prompts_per_step` samples, from the position of the last checkpoint that was loaded.

        Raises:
            FileNotFoundError: if there are no shards, or a manifest is required and missing.
            ValueError: if `root` is no local path, or a manifest or an index is damaged.
        """
        shards = find_shards(self.root)
        selection = Selection(self._manifest(shards[0].parent), self.require_view_tokens, self.require_evidence)
        if self.limit is not None:
            shards, keys = first_samples(shards, selection, self.limit, self._skips)
            if len(keys) < self.limit:
                raise ValueError(
                    f"limit is {self.limit}, but {self.root} has only {len(keys)} samples that meet the requirements: "
                    "lower limit or relax the requirements."
                )
            selection = replace(selection, keys=keys)
        rank, world_size = self._rank_and_world_size()
        stream = TrainStream(
            shards,
            selection,
            batch_size=self.prompts_per_step // world_size,
            shuffle_buffer=self.shuffle_buffer,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            position=self._position,
            skips=self._skips,
        )
        return TrainLoader(stream, num_workers=self.num_workers, generator=self._generator())

    def val_dataloader(self) -> DataLoader[SampleBatch] | list[Any]:
        """All validation samples once, in fixed order; empty without `val_root`. Errors as in `train_dataloader`.

        With several ranks the last batch of a rank may be empty, so that all ranks have equally many.
        """
        if self.val_root is None:
            return []
        shards = find_shards(self.val_root)
        beside = shards[0].parent / MANIFEST_NAME
        rank, world_size = self._rank_and_world_size()
        stream = ValidationStream(
            shards,
            Selection(load_manifest(beside) if beside.exists() else {}),
            batch_size=self.prompts_per_step // world_size,
            rank=rank,
            world_size=world_size,
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
        for where in (self.root, self.val_root):
            if where is None:
                continue
            check_local(where)
            if self.needle is not None and (set(where) & set("*?[") or Path(where).is_file()):
                raise ValueError(f"data.needle is set, but {where!r} is no folder to write shards to: name a folder.")

    def _check_origin(self, folder: Path, wanted: dict[str, Any]) -> None:
        """Refuse other needle scenes; shards of which nothing is said are the user's own."""
        found = read_origin(folder)
        if found is not None and found != wanted:
            names = " and ".join(name for name in wanted if found.get(name) != wanted[name])
            raise ValueError(
                f"The needle scenes in {folder} were drawn with another {names} than data.needle asks for: remove the "
                "folder, name another one, or set data.needle to null to use them as they are."
            )

    def _order(self) -> dict[str, int | None]:
        """Everything the order of the samples depends on besides the shards themselves."""
        return {
            "seed": self.seed,
            "prompts_per_step": self.prompts_per_step,
            "shuffle_buffer": self.shuffle_buffer,
            "num_workers": self.num_workers,
            "limit": self.limit,
            "world_size": self._rank_and_world_size()[1],
        }

    def _manifest(self, folder: Path) -> dict[str, ManifestEntry]:
        """Resolution manifest of the training samples; empty if there is none and none is required."""
        path = Path(self.manifest) if self.manifest is not None else folder / MANIFEST_NAME
        if path.exists():
            entries = load_manifest(path)
            found = Counter(entry.status.value for entry in entries.values())
            logger.info("The resolution manifest %s says: %s.", path, dict(found))
            return entries
        if self.manifest is not None or self.require_view_tokens:
            raise FileNotFoundError(
                f"There is no resolution manifest {path}: run resolution selection on {self.root} first, or train with "
                "data.require_view_tokens false."
            )
        return {}

    def _rank_and_world_size(self) -> tuple[int, int]:
        """Number of this process and of all of them; (0, 1) without a trainer."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _generator(self) -> torch.Generator:
        """Generator for a loader, which would otherwise draw a number from the global one."""
        return torch.Generator().manual_seed(self.seed)
