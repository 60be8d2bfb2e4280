"""Checkpoints as files and folders: written aside, made to last, and only then given their names.

What bears a checkpoint's name is complete. A write that is cut off leaves something that ends in ``.partial``, which
nothing reads and the next run removes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor

from infogap.policy.checkpoint_folder import NEWEST, by_step, has_checkpoint, newest_checkpoint

logger = logging.getLogger(__name__)

PARTIAL: Final = ".partial"

_MARGIN: Final = 1.01
"""Bytes of a checkpoint per byte of its tensors: names, progress and padding take a little."""


class CheckpointError(OSError):
    """A checkpoint could not be written; the ones before it are as they were."""


class DirectCheckpointIO(TorchCheckpointIO):
    """Writes a file where it is told to.

    Lightning's own holds the whole file in memory twice, and writes it to the folder for temporary files first.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write one file; whoever calls this gives it its final name."""
        with Path(path).open("wb") as file:
            torch.save(checkpoint, file)


def step_name(rollout_step: int) -> str:
    """Name of the checkpoint that was written after so many rollout steps."""
    return f"step_{rollout_step:08d}.ckpt"


def requeued_checkpoint(folder: Path) -> Path | None:
    """The checkpoint to go on from if SLURM has started this job again; None in a first start, or without one."""
    if int(os.environ.get("SLURM_RESTART_COUNT", "0")) == 0 or not has_checkpoint(folder):
        return None
    return newest_checkpoint(folder)


def later_steps(folder: Path, rollout_step: int) -> list[Path]:
    """Checkpoints of steps after that one: of another run in the same folder, or of a future that is played again."""
    return [path for step, path in by_step(folder).items() if step > rollout_step]


def save(trainer: Trainer, partial: Path) -> BaseException | None:
    """Save on all ranks; an error of writing comes back, so that all ranks can end together."""
    lightnings, trainer.strategy.checkpoint_io = trainer.strategy.checkpoint_io, DirectCheckpointIO()
    try:
        trainer.save_checkpoint(partial, weights_only=False)
    except CheckpointException as error:  # that of one rank, raised on all
        return error
    except (OSError, RuntimeError) as error:
        if isinstance(error, CheckpointError) or writing_failed(error) is None:  # no room, which all ranks know
            raise
        trainer.strategy.barrier("Trainer.save_checkpoint")  # where the other ranks wait
        return error
    finally:
        trainer.strategy.checkpoint_io = lightnings
    try:
        if trainer.is_global_zero:
            sync(partial)
    except OSError as error:  # some file systems find out as late as this that they are full
        return error
    return None


def give_name(partial: Path, target: Path) -> None:
    """Give a checkpoint that is safely on disk its name, in place of whatever bears it."""
    old = None
    if target.is_dir() or (partial.is_dir() and target.exists()):  # a folder cannot replace anything
        old = target.rename(target.with_name(f"{target.name}.old{PARTIAL}"))
    os.replace(partial, target)
    _sync(target.parent)
    if old is not None:
        discard(old)


def point_to(target: Path) -> None:
    """Let ``resume.ckpt`` beside a checkpoint name it; a file system without links goes without."""
    link, aside = target.parent / NEWEST, target.parent / (NEWEST + PARTIAL)
    try:
        discard(aside)
        aside.symlink_to(target.name)
        os.replace(aside, link)
    except OSError as error:
        logger.warning("%s does not name the newest checkpoint (%s): resume from %s.", link, error.strerror, target)


def keep_newest(folder: Path, rollout_step: int, keep: int) -> None:
    """Remove the checkpoints of later steps, and of those up to this step all but the newest.

    Args:
        folder: the checkpoints of a run.
        rollout_step: where the run is.
        keep: how many to keep.
    """
    for path in later_steps(folder, rollout_step):
        discard(path)
    for path in list(by_step(folder).values())[:-keep]:
        discard(path)


def remove_partial(folder: Path) -> None:
    """Remove what writes that were cut off, and removals, have left."""
    for path in folder.glob(f"*{PARTIAL}"):
        discard(path)


def discard(path: Path) -> None:
    """Remove a file, a link or a folder, if it exists; a removal that is cut off leaves nothing of that name."""
    if path.is_dir() and not path.is_symlink():
        if path.suffix != PARTIAL:
            path = path.rename(path.with_name(f"{path.name}.old{PARTIAL}"))
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a checkpoint is on disk: a name must not outlive its contents in a loss of power."""
    for inner in path.rglob("*") if path.is_dir() else ():
        _sync(inner)
    _sync(path)


def tensor_bytes(value: Any) -> int:
    """Bytes that all tensors in nested containers take in a file of this process; shared memory counts once."""
    storages = {}
    for tensor in _tensors(value):
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        storage = local.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def is_sharded(value: Any) -> bool:
    """Whether there are tensors of which this process holds a part."""
    return any(isinstance(tensor, DTensor) for tensor in _tensors(value))


def shortage(folder: Path, tensors: int) -> str | None:
    """What is wrong if a checkpoint with so many bytes of tensors does not fit into a folder; None if it does."""
    needed, free = int(tensors * _MARGIN) + 2**20, shutil.disk_usage(folder).free
    if free >= needed:
        return None
    return f"it takes {needed / 1e9:.3f} GB, and only {free / 1e9:.3f} GB are free"


def writing_failed(error: BaseException) -> str | None:
    """Why a file could not be written, if that is what an error says."""
    if isinstance(error, CheckpointException):
        inner = next(iter(error.failures.values()))[0]
        return writing_failed(inner) or str(inner)
    if isinstance(error, OSError):
        return error.strerror or str(error)
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OSError):  # torch's writer fails once more when it closes the file
        return writing_failed(cause)
    if isinstance(error, RuntimeError) and "PytorchStreamWriter" in str(error):
        return "a write to it was cut short"
    return None


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        with contextlib.suppress(OSError):  # fsync has said already what is wrong
            os.close(opened)
