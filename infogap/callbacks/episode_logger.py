"""What the policy did, to look at: pictures of some episodes in TensorBoard, and the text of all of them on disk."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from infogap.grpo.batch import ScoredBatch
from infogap.pictures.episode import draw_episode
from infogap.pictures.record import EpisodeRecord, records_of
from infogap.pictures.record_file import EPISODE_FOLDER, record_line

if TYPE_CHECKING:
    from infogap.grpo.module import GRPOModule

_FIRST_KEY: Final = re.compile(rb'\{"rollout_step": (\d+),')


class EpisodeLogger(Callback):
    """Draws a few episodes now and then for TensorBoard, and writes every episode as a line of JSON.

    The lines are in `<log_dir>/episodes/rank_<rank>.jsonl`, one file a rank, written after every batch. A resumed run
    takes out the lines of the batches that it plays again. Steps are rollout steps, counted from 0.

    Args:
        every_n_rollouts: rollout steps from one set of pictures to the next; the first batch has one.
        groups: groups to draw; 0 draws nothing.
        episodes: episodes to draw of each.
        jsonl: whether to write the lines.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(self, every_n_rollouts: int = 20, groups: int = 2, episodes: int = 2, jsonl: bool = True) -> None:
        for name, value, least in (
            ("every_n_rollouts", every_n_rollouts, 1),
            ("groups", groups, 0),
            ("episodes", episodes, 0),
        ):
            if value < least:
                raise ValueError(f"EpisodeLogger.{name} is {value}: give at least {least}.")
        self.every_n_rollouts = every_n_rollouts
        self.groups = groups
        self.episodes = episodes
        self.jsonl = jsonl
        self._path: Path | None = None
        self._rollout_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the file, and take out what will be played again.

        This cannot be done when fitting starts: a sharded module has not got its rollout step back by then.
        """
        folder = Path(trainer.log_dir or trainer.default_root_dir) / EPISODE_FOLDER  # asks all ranks: before any return
        trial: bool = trainer.fast_dev_run  # type: ignore[attr-defined]  # set by one of its connectors
        if not self.jsonl or trial:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"rank_{trainer.global_rank}.jsonl"
        for path in folder.glob("rank_*.jsonl"):
            rank = path.stem.removeprefix("rank_")
            # a run that is resumed on fewer ranks cleans up after those that are gone
            if rank.isdecimal() and int(rank) % trainer.world_size == trainer.global_rank:
                drop_lines_from(path, cast("GRPOModule", pl_module).rollout_step)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the rollout step before the module counts it."""
        self._rollout_step = cast("GRPOModule", pl_module).rollout_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the batch, and draw some of it if it is time."""
        scored = cast("GRPOModule", pl_module).last_batch
        if scored is None:
            return
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write("".join(map(record_line, batch_records(scored, self._rollout_step))))
        if trainer.is_global_zero and self._rollout_step % self.every_n_rollouts == 0:
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    self._draw(scored, logger)

    def _draw(self, batch: ScoredBatch, logger: TensorBoardLogger) -> None:
        for group, rollout in enumerate(batch.rollouts[: self.groups]):
            for record in _group_records(batch, group, self._rollout_step)[: self.episodes]:
                picture = np.asarray(draw_episode(record, rollout.sample.image))
                tag = f"{EPISODE_FOLDER}/group_{group}/episode_{record.episode}"
                logger.experiment.add_image(tag, picture, self._rollout_step, dataformats="HWC")
            rollout.sample.image.release()


def batch_records(batch: ScoredBatch, rollout_step: int) -> list[EpisodeRecord]:
    """What is kept of every episode of a batch, group by group."""
    return [record for group in range(len(batch.rollouts)) for record in _group_records(batch, group, rollout_step)]


def drop_lines_from(path: Path, rollout_step: int) -> None:
    """Cut a file of episodes off before its first line of that rollout step or later, or its first broken line.

    Steps never fall within a file, so what is cut off is what a resumed run writes again. One line is held at a time.
    """
    with path.open("rb+") as file:
        end = 0
        for line in file:
            first = _FIRST_KEY.match(line)
            if first is None or not line.endswith(b"\n") or int(first[1]) >= rollout_step:
                break
            end += len(line)
        file.truncate(end)


def _group_records(batch: ScoredBatch, group: int, rollout_step: int) -> list[EpisodeRecord]:
    rewards = [dict(zip(batch.reward_names, row, strict=True)) for row in batch.rewards_pgc[group].tolist()]
    totals, advantages = batch.totals_pg[group].tolist(), batch.advantages_pg[group].tolist()
    rollout = batch.rollouts[group]
    return records_of(rollout, rewards, totals, advantages, rollout_step=rollout_step, group=group)
