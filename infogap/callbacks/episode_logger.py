"""What the policy did, to look at: pictures of some episodes in TensorBoard, and the text of all of them on disk."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from infogap.callbacks.drawing import draw_episode
from infogap.grpo.batch import ScoredBatch
from infogap.rollout import GroupRollout
from infogap.types import Episode

if TYPE_CHECKING:
    from infogap.grpo.module import GRPOModule

FOLDER: Final = "episodes"

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
        folder = Path(trainer.log_dir or trainer.default_root_dir) / FOLDER  # asks all ranks: before any return
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
                file.write("".join(map(json_line, batch_records(scored, self._rollout_step))))
        if trainer.is_global_zero and self._rollout_step % self.every_n_rollouts == 0:
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    self._draw(scored, logger)

    def _draw(self, batch: ScoredBatch, logger: TensorBoardLogger) -> None:
        for group, rollout in enumerate(batch.rollouts[: self.groups]):
            rewards, totals = batch.rewards_pgc[group].tolist(), batch.totals_pg[group].tolist()
            for number in range(min(self.episodes, len(rollout.episodes))):
                scores = dict(zip(batch.reward_names, rewards[number], strict=True))
                picture = np.asarray(draw_episode(rollout, number, scores, totals[number]))
                tag = f"{FOLDER}/group_{group}/episode_{number}"
                logger.experiment.add_image(tag, picture, self._rollout_step, dataformats="HWC")
            rollout.sample.image.release()


def batch_records(batch: ScoredBatch, rollout_step: int) -> list[dict[str, Any]]:
    """What is written about every episode of a batch, group by group, as JSON values.

    Boxes are (x1, y1, x2, y2) in pixels of the original, sizes (width, height) in pixels; the view's is None if the
    policy was shown none. Rewards are unweighted; the total is their weighted sum.
    """
    records = []
    for group, rollout in enumerate(batch.rollouts):
        about_sample = _about_sample(rollout)
        policy_tokens, visual_tokens = rollout.policy_tokens, rollout.visual_tokens
        for number, episode in enumerate(rollout.episodes):
            record: dict[str, Any] = {"rollout_step": rollout_step, "group": group, "episode": number}
            record |= about_sample | _about_episode(episode)
            record |= {"policy_tokens": policy_tokens[number], "visual_tokens": visual_tokens[number]}
            record["rewards"] = dict(zip(batch.reward_names, batch.rewards_pgc[group, number].tolist(), strict=True))
            record["total"] = batch.totals_pg[group, number].item()
            record["advantage"] = batch.advantages_pg[group, number].item()
            records.append(record)
    return records


def json_line(record: dict[str, Any]) -> str:
    """A line of JSON in plain ASCII; numbers that JSON cannot write become null."""
    return json.dumps(_finite(record), allow_nan=False) + "\n"


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


def _about_sample(rollout: GroupRollout) -> dict[str, Any]:
    sample = rollout.sample
    return {
        "sample": sample.key,
        "question": sample.question,
        "options": list(sample.options),
        "expected_answer": sample.answer,
        "evidence": [[list(box.as_tuple()) for box in chain] for chain in sample.evidence],
        "view_size": list(rollout.view) if rollout.group.prompt.images else None,
        "original_size": list(sample.image.size),
    }


def _about_episode(episode: Episode) -> dict[str, Any]:
    turns = [
        {
            "text": turn.text,
            "observation": turn.observation,
            "crop": None if turn.crop is None else list(turn.crop.as_tuple()),
            "error": turn.error,
        }
        for turn in episode.turns
    ]
    return {"turns": turns, "answer": episode.answer, "stop_reason": episode.stop_reason and episode.stop_reason.value}


def _finite(value: Any) -> Any:
    """The same JSON value with None for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
