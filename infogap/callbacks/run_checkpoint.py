"""Checkpoints of a run: a run that is killed at any moment goes on as if it had not been."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]

from infogap.callbacks.checkpoint_files import (
    PARTIAL,
    CheckpointError,
    discard,
    give_name,
    is_sharded,
    keep_newest,
    later_steps,
    point_to,
    remove_partial,
    save,
    shortage,
    step_name,
    tensor_bytes,
    writing_failed,
)
from infogap.callbacks.random_states import RandomStates, gather_random_states, set_random_states
from infogap.callbacks.stop_signals import TERMINATED, StopSignals, requeue_job
from infogap.policy.checkpoint_folder import FOLDER, RESULT, has_checkpoint, newest_checkpoint

if TYPE_CHECKING:
    from infogap.grpo.module import GRPOModule

logger = logging.getLogger(__name__)

BARRIER: Final = "RunCheckpoint"


class RunCheckpoint(Checkpoint):
    """Saves the run now and then, when it is told to end, and when it is done.

    In `<log_dir>/checkpoints` are ``step_<rollout steps>.ckpt``, the newest ones of them, the link ``resume.ckpt`` to
    the newest of all, and, when the run is done, its result ``last.ckpt``. Each holds everything that the run goes on
    from: beside what Lightning, the module and the datamodule save, the states of all random number generators of every
    rank.

    A checkpoint gets its name when it is on disk and its step is in the log; a cut write is never seen. If a validation
    follows upon a step, the step is saved after it. Where a resumed run starts, the logs of TensorBoard are told to
    forget what the run has written beyond.

    SIGTERM ends the run with the exit status 143 once the current step, or validation, is complete and saved. On SLURM
    the signal that Lightning's ``SLURMEnvironment`` waits for (SIGUSR1: ``#SBATCH --signal=SIGUSR1@600``) does so too,
    and has the job queued again. All ranks stop at the same step, even if the signal reached one only.

    Args:
        every_n_rollouts: rollout steps from one checkpoint to the next.
        keep: how many of the newest to keep, beside the result.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(self, every_n_rollouts: int = 25, keep: int = 2) -> None:
        for name, value in (("every_n_rollouts", every_n_rollouts), ("keep", keep)):
            if value < 1:
                raise ValueError(f"RunCheckpoint.{name} is {value}: give at least 1.")
        self.every_n_rollouts, self.keep = every_n_rollouts, keep
        self._trainer: Trainer | None = None
        self._folder: Path | None = None
        self._signals = StopSignals()
        self._written: Path | None = None  # complete, but without its name yet
        self._writing = False
        self._stopping = False
        self._due_after_validation = False
        self._validation_due = False
        self._restored: list[RandomStates] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Know the trainer when the state is asked for."""
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        """Random states of all ranks, and whether the validation after the step has yet to run. All ranks must ask."""
        assert self._trainer is not None  # a state is asked for by a trainer
        states = gather_random_states(self._trainer.strategy.root_device)
        return {"random": states, "validation_due": self._validation_due}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until training begins, so that what setting up draws does not matter."""
        self._restored, self._validation_due = state_dict["random"], state_dict["validation_due"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """See that there is room before anything is written.

        Raises:
            CheckpointError: if there is not, on all ranks.
        """
        if not self._writing:  # somebody else's checkpoint
            return
        folder, own = self._place, tensor_bytes(checkpoint)
        if is_sharded(checkpoint):  # every rank writes its part; a file is written by rank 0
            own = sum(trainer.strategy.broadcast(own, rank) for rank in range(trainer.world_size))
        problem = trainer.strategy.broadcast(shortage(folder, own) if trainer.is_global_zero else None)
        if problem is not None:
            raise CheckpointError(self._failure(problem))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tidy up after an earlier process, and be where it was."""
        folder = Path(trainer.log_dir or trainer.default_root_dir) / FOLDER  # asks all ranks: before any return
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by one of its connectors
            return
        self._folder, self._stopping, self._signals = folder, False, StopSignals()
        rollout_step = cast("GRPOModule", pl_module).rollout_step
        if trainer.is_global_zero:
            folder.mkdir(parents=True, exist_ok=True)
            remove_partial(folder)
            if later := later_steps(folder, rollout_step):
                found = ", ".join(path.name for path in later)
                logger.warning("%s holds %s of another run: the first checkpoint replaces them.", folder, found)
            for log in trainer.loggers:
                forget_from(log, rollout_step)
        trainer.strategy.barrier(BARRIER)
        self._signals.install(trainer)
        if self._restored is not None:
            self._restore(trainer, self._restored)
            self._restored = None
        if self._validation_due:
            self._validate(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """By now the step before is in the log."""
        self._settle(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time, and no validation will follow, or if the run is told to end."""
        if self._folder is None:
            return
        validates = _will_validate(trainer)
        due = cast("GRPOModule", pl_module).rollout_step % self.every_n_rollouts == 0 and not _is_the_end(trainer)
        self._stopping = trainer.strategy.reduce_boolean_decision(self._signals.received, all=False)
        self._due_after_validation = due and validates
        if self._stopping or (due and not validates):
            self._validation_due = validates
            self._write(trainer, self._folder / step_name(cast("GRPOModule", pl_module).rollout_step))
            self._validation_due = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """By now the step before is in the log, and a run that is to end does so without the validation."""
        self._settle(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if it was time before the validation, or if the run was told to end in it."""
        if self._folder is None or trainer.state.fn != "fit" or trainer.sanity_checking or self._validation_due:
            return
        self._stopping = trainer.strategy.reduce_boolean_decision(self._signals.received, all=False)
        if self._stopping or self._due_after_validation:
            self._due_after_validation = False
            self._write(trainer, self._folder / step_name(cast("GRPOModule", pl_module).rollout_step))
            self._settle(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """By now the last step is in the log."""
        self._settle(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the result."""
        if self._folder is not None:
            self._write(trainer, self._folder / RESULT)
            self._settle(trainer, pl_module)

    @property
    def _place(self) -> Path:
        assert self._folder is not None  # found when training starts
        return self._folder

    def _restore(self, trainer: Trainer, states: list[RandomStates]) -> None:
        if trainer.global_rank < len(states):
            set_random_states(states[trainer.global_rank], trainer.strategy.root_device)
        if trainer.world_size != len(states):
            logger.warning(
                "The checkpoint was written by %d processes, now there are %d: random numbers are other ones.",
                len(states),
                trainer.world_size,
            )

    def _validate(self, trainer: Trainer) -> None:
        """The validation after the last step, which the run was told to end before."""
        loop = trainer.fit_loop.epoch_loop.val_loop
        loop.restarting = False
        trainer.validating = True
        loop.run()
        trainer.training = True
        self._validation_due = False

    def _write(self, trainer: Trainer, target: Path) -> None:
        """Write a checkpoint aside.

        Raises:
            CheckpointError: if it cannot be written, on all ranks.
        """
        partial = target.with_name(target.name + PARTIAL)
        if trainer.is_global_zero:
            discard(partial)
        trainer.strategy.barrier(BARRIER)
        self._writing = True
        try:
            error = save(trainer, partial)
        finally:
            self._writing = False
        if not trainer.strategy.reduce_boolean_decision(error is None):
            if trainer.is_global_zero:
                discard(partial)
            reason = writing_failed(error) if error is not None else None
            raise CheckpointError(self._failure(reason or "another rank could not write its part")) from error
        self._written = partial

    def _settle(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give what was written its name, now that its step is in the log, and end the run if it is told to."""
        if self._written is None:
            return
        for log in trainer.loggers:
            log.save()
        rollout_step = cast("GRPOModule", pl_module).rollout_step
        target = self._written.with_suffix("")
        if trainer.is_global_zero:
            give_name(self._written, target)
            point_to(target)
            keep_newest(self._place, rollout_step, self.keep)
        self._written = None
        trainer.strategy.barrier(BARRIER)
        if self._stopping:
            self._leave(trainer, target, rollout_step)

    def _leave(self, trainer: Trainer, target: Path, rollout_step: int) -> NoReturn:
        requeue = trainer.strategy.reduce_boolean_decision(self._signals.requeue, all=False)
        if trainer.is_global_zero:
            logger.warning("Terminated after rollout step %d: go on with --ckpt_path %s", rollout_step, target)
            if requeue:
                requeue_job()
        raise SIGTERMException(TERMINATED)  # a SystemExit, known as an orderly end

    def _failure(self, reason: str) -> str:
        place = self._place
        then = f"go on with --ckpt_path {newest_checkpoint(place)}" if has_checkpoint(place) else "start again"
        return f"A checkpoint could not be written to {place} ({reason}): mend that, make room for example, and {then}."


def forget_from(log: Any, rollout_step: int) -> None:
    """Mark in a log of TensorBoard that what it says of this step and later ones holds no longer.

    A resumed run writes a file of its own beside that of the killed one; readers that know the mark then show no step
    twice.
    """
    if isinstance(log, TensorBoardLogger):
        start = Event(step=rollout_step, session_log=SessionLog(status=SessionLog.START))
        log.experiment._get_file_writer().add_event(start)


def _will_validate(trainer: Trainer) -> bool:
    """Whether a validation follows upon the step that is about to end."""
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None  # made before training
    return sum(trainer.num_val_batches) > 0 and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def _is_the_end(trainer: Trainer) -> bool:
    """Whether the step is the run's last, whose checkpoint is the result."""
    epochs = trainer.max_epochs
    last_epoch = epochs is not None and 0 <= epochs <= trainer.current_epoch + 1
    return (trainer.is_last_batch and last_epoch) or 0 <= trainer.max_steps <= trainer.global_step
