from __future__ import annotations

import io
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import SingleDeviceStrategy
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from infogap.callbacks.episode_logger import EpisodeLogger, drop_lines_from
from infogap.callbacks.grounding_stage import GroundingStage
from infogap.callbacks.progress import RewardProgressBar
from infogap.data.needle import NeedleConfig, make_sample
from infogap.episode.protocol import Protocol, ProtocolConfig
from infogap.episode.rewards import AccuracyReward, RewardConfig, RewardSet
from infogap.geometry import Box, Size
from infogap.grpo.batch import ScoredBatch
from infogap.pictures.episode import draw_episode
from infogap.pictures.record_file import json_line, read_records
from infogap.policy.packing import Chunk, Group
from infogap.policy.patches import Patches
from infogap.rollout import GroupRollout
from infogap.types import Episode, StopReason, Turn


def make_rewards() -> RewardSet:
    return RewardSet.from_config(RewardConfig(), Protocol(ProtocolConfig()))


def make_batch(groups: int = 2, size: int = 3) -> ScoredBatch:
    """Groups of episodes of one crop each, on needle scenes; every number in it follows from its place."""
    rollouts = []
    for number in range(groups):
        sample = make_sample(NeedleConfig(), 0, number)
        turns = [Turn("look", "shown", crop=Box(0, 0, 100, 50.5)), Turn("bad", "no", error="wrong"), Turn("<answer>")]
        episodes = tuple(Episode(sample.key, turns, StopReason.ANSWERED, "3") for _ in range(size))
        crop = Chunk((7,), (Patches(torch.zeros(1, 1), (8, 16)),))
        chunks = tuple((Chunk((5,) * (2 + e), sampled=True, logprobs=(-1.0,) * (2 + e)), crop) for e in range(size))
        prompt = Chunk((1,), (Patches(torch.zeros(1, 1), (8, 8)),))
        rollouts.append(GroupRollout(sample, Size(112, 112), Group(prompt, chunks), episodes))
    rewards = torch.arange(groups * size * 4, dtype=torch.float32).view(groups, size, 4)
    totals = rewards.sum(dim=2)
    return ScoredBatch(
        tuple(rollouts), make_rewards().names, rewards, totals, -totals, torch.zeros(groups, dtype=torch.bool)
    )


class Clockwork(LightningModule):
    """Has what callbacks may use of a GRPOModule, and plays one batch again and again."""

    def __init__(self, rollout_step: int = 0, batch: ScoredBatch | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.parameter = torch.nn.Parameter(torch.zeros(1))
        self.rewards = make_rewards()
        self.rollout_step = rollout_step
        self.update_step = 0
        self.grounding_loss_weight = 0.0
        self.last_batch: ScoredBatch | None = None
        self.batch = batch or make_batch()
        self.seen: list[tuple[int, float, float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.seen.append((self.rollout_step, self.rewards.weights[3], self.grounding_loss_weight))
        self.last_batch = self.batch
        self.log("reward/total", 1.5, prog_bar=True)
        self.rollout_step += 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.parameter], lr=0.0)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.rollout_step = checkpoint["rollout_step"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["rollout_step"] = self.rollout_step


def make_trainer(folder: Path, callback: Any, steps: int, **options: Any) -> Trainer:
    options = {
        "logger": TensorBoardLogger(folder, name="run", version="v"),
        "enable_progress_bar": False,
        "max_epochs": 1,
    } | options
    return Trainer(
        accelerator="cpu",
        limit_train_batches=steps,
        log_every_n_steps=1,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )


def fit(
    folder: Path, callback: Any, module: Clockwork, steps: int, ckpt_path: Path | None = None, **options: Any
) -> Trainer:
    trainer = make_trainer(folder, callback, steps, **options)
    trainer.fit(module, DataLoader(range(100), batch_size=None), ckpt_path=ckpt_path)  # type: ignore[arg-type]
    return trainer


def read_lines(folder: Path, rank: int = 0) -> list[dict[str, Any]]:
    lines = (folder / "run" / "v" / "episodes" / f"rank_{rank}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# GroundingStage


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("reward", [(0.0, 0.0), (0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (1.5, 0.0), (1.5, 0.0)]),
        ("loss", [(0.0, 0.0), (0.0, 0.0), (0.0, 1.0), (0.0, 2.0), (0.0, 3.0), (0.0, 3.0)]),
        ("both", [(0.0, 0.0), (0.0, 0.0), (0.5, 1.0), (1.0, 2.0), (1.5, 3.0), (1.5, 3.0)]),
    ],
)
def test_the_stage_starts_and_ramps_by_the_rollout_step(kind: Any, expected: Any, tmp_path: Path) -> None:
    stage = GroundingStage(weight=1.5, start=2, ramp=2, kind=kind, loss_weight=3.0)
    module = Clockwork()
    fit(tmp_path, stage, module, 6, logger=False)
    assert [step for step, *_ in module.seen] == list(range(6))
    assert [pytest.approx(weights) for _, *weights in module.seen] == [list(pair) for pair in expected]


def test_a_resumed_run_needs_no_saved_state(tmp_path: Path) -> None:
    module = Clockwork(rollout_step=3)
    fit(tmp_path, GroundingStage(start=2, ramp=3), module, 2, logger=False)
    assert module.seen == [(3, 0.5, 0.0), (4, 0.75, 0.0)]
    assert GroundingStage().state_dict() == {}


@given(st.integers(0, 50), st.integers(0, 50))
def test_exactly_the_steps_of_the_ramp_have_a_part_of_the_weight(start: int, ramp: int) -> None:
    shares = [GroundingStage(start=start, ramp=ramp).share(step) for step in range(110)]
    assert shares == sorted(shares)
    assert shares[:start] == [0.0] * start
    assert all(0.0 < share < 1.0 for share in shares[start : start + ramp])
    assert set(shares[start + ramp :]) == {1.0}


def test_a_stage_leaves_the_other_rewards_alone(tmp_path: Path) -> None:
    module = Clockwork()
    before = module.rewards.weights[:3]
    fit(tmp_path, GroundingStage(), module, 1, logger=False)
    assert module.rewards.weights == [*before, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": 0.0}, "weight is 0.0"),
        ({"weight": math.nan}, "weight is nan"),
        ({"loss_weight": -1.0}, "loss_weight is -1.0"),
        ({"start": -1}, "start is -1"),
        ({"ramp": -2}, "ramp is -2"),
        ({"kind": "none"}, "kind is 'none'"),
    ],
)
def test_a_stage_that_makes_no_sense_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GroundingStage(**arguments)


def test_a_module_without_the_reward_is_refused_before_training(tmp_path: Path) -> None:
    module = Clockwork()
    module.rewards = RewardSet([(AccuracyReward(), 1.0)])
    with pytest.raises(ValueError, match="'grounding', but there is only accuracy"):
        fit(tmp_path, GroundingStage(start=50), module, 1, logger=False)
    assert module.seen == []


# EpisodeLogger: lines


def test_every_episode_of_every_step_is_a_line(tmp_path: Path) -> None:
    fit(tmp_path, EpisodeLogger(groups=0), Clockwork(), 2)
    lines = read_lines(tmp_path)
    places = [(line["rollout_step"], line["group"], line["episode"]) for line in lines]
    assert places == [(step, group, episode) for step in range(2) for group in range(2) for episode in range(3)]


def test_a_line_says_everything_about_its_episode(tmp_path: Path) -> None:
    fit(tmp_path, EpisodeLogger(groups=0), Clockwork(), 1)
    sample = make_sample(NeedleConfig(), 0, 1)
    assert read_lines(tmp_path)[4] == {
        "rollout_step": 0,
        "group": 1,
        "episode": 1,
        "sample": sample.key,
        "question": sample.question,
        "options": list(sample.options),
        "expected_answer": sample.answer,
        "evidence": [[list(box.as_tuple()) for box in sample.evidence[0]]],
        "view_size": [112, 112],
        "original_size": [448, 448],
        "turns": [
            {"text": "look", "observation": "shown", "crop": [0, 0, 100, 50.5], "error": None, "shown": [224, 112]},
            {"text": "bad", "observation": "no", "crop": None, "error": "wrong", "shown": None},
            {"text": "<answer>", "observation": None, "crop": None, "error": None, "shown": None},
        ],
        "answer": "3",
        "stop_reason": "answered",
        "policy_tokens": 3,
        "visual_tokens": 16 + 32,
        "rewards": {"accuracy": 16.0, "format": 17.0, "tool": 18.0, "grounding": 19.0},
        "total": 70.0,
        "advantage": -70.0,
    }


class RestoresLate(SingleDeviceStrategy):
    """Restores the module after fitting has started, as strategies that shard do."""

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return True


@pytest.mark.parametrize("late", [False, True])
def test_a_resumed_run_writes_the_steps_that_it_plays_again_once(late: bool, tmp_path: Path) -> None:
    module = Clockwork()
    fit(tmp_path, EpisodeLogger(groups=0), module, 2).save_checkpoint(tmp_path / "two.ckpt", weights_only=False)
    path = tmp_path / "run" / "v" / "episodes" / "rank_0.jsonl"
    kept = path.read_bytes()
    lines = [json_line({"rollout_step": step}) for step in (2, 2, 3)]
    path.write_bytes(kept + "".join(lines).encode()[:-5])  # killed in the middle of a line
    options: dict[str, Any] = {"max_epochs": 2, "strategy": RestoresLate("cpu") if late else "auto"}
    fit(tmp_path, EpisodeLogger(groups=0), Clockwork(), 1, ckpt_path=tmp_path / "two.ckpt", **options)
    assert path.read_bytes().startswith(kept)
    assert [line["rollout_step"] for line in read_lines(tmp_path)] == [0] * 6 + [1] * 6 + [2] * 6


def test_files_of_ranks_that_are_gone_are_cleaned_up(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "v" / "episodes"
    folder.mkdir(parents=True)
    for name in ("rank_3.jsonl", "rank_other.jsonl"):
        (folder / name).write_text('{"rollout_step": 0, "a": 1}\n{"rollout_step": 1, "a": 1}\n')
    fit(tmp_path, EpisodeLogger(groups=0), Clockwork(rollout_step=1), 1)
    assert read_lines(tmp_path, rank=3) == [{"rollout_step": 0, "a": 1}]
    assert len((folder / "rank_other.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("tail", ["", '{"rollout_step": 0, "x', "\0\0\0\n", "null\n"])
def test_what_is_cut_off(tail: str, tmp_path: Path) -> None:
    path = tmp_path / "rank_0.jsonl"
    kept = "".join(json_line({"rollout_step": step, "text": "\u2028\n\r"}) for step in (0, 9, 9, 10))
    path.write_text(kept + (tail or json_line({"rollout_step": 11})))
    drop_lines_from(path, 11)
    assert path.read_text() == kept
    drop_lines_from(path, 0)
    assert path.read_text() == ""


@pytest.mark.parametrize("options", [{"fast_dev_run": True}, {"logger": False}])
def test_without_a_logger_lines_go_to_the_root_and_a_trial_run_writes_none(
    options: dict[str, Any], tmp_path: Path
) -> None:
    fit(tmp_path, EpisodeLogger(), Clockwork(), 1, **options)
    assert (tmp_path / "episodes" / "rank_0.jsonl").exists() == ("logger" in options)


def test_lines_can_be_switched_off(tmp_path: Path) -> None:
    fit(tmp_path, EpisodeLogger(groups=0, jsonl=False), Clockwork(), 1)
    assert not (tmp_path / "run" / "v" / "episodes").exists()


# EpisodeLogger: pictures


def test_pictures_come_with_the_first_batch_and_then_every_few_steps(tmp_path: Path) -> None:
    module = Clockwork()
    fit(tmp_path, EpisodeLogger(every_n_rollouts=2, groups=1, episodes=2, jsonl=False), module, 3)
    events = EventAccumulator(str(tmp_path / "run" / "v"), size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["episodes/group_0/episode_0", "episodes/group_0/episode_1"]
    pictures = events.Images("episodes/group_0/episode_1")
    assert [picture.step for picture in pictures] == [0, 2]
    assert pictures[0].width > 1000
    assert module.batch.rollouts[0].sample.image._original is None  # a decoded original may take 600 MB


def test_the_picture_of_an_episode_is_drawn_from_its_line(tmp_path: Path) -> None:
    fit(tmp_path, EpisodeLogger(groups=2, episodes=2), Clockwork(), 1)
    events = EventAccumulator(str(tmp_path / "run" / "v"), size_guidance={"images": 0}).Reload()
    record = read_records(tmp_path / "run" / "v" / "episodes" / "rank_0.jsonl")[4]
    (event,) = events.Images(f"episodes/group_{record.group}/episode_{record.episode}")
    picture = Image.open(io.BytesIO(event.encoded_image_string))
    assert (np.asarray(picture) == np.asarray(draw_episode(record, make_sample(NeedleConfig(), 0, 1).image))).all()


def test_more_pictures_than_episodes_are_all_of_them(tmp_path: Path) -> None:
    batch = make_batch(groups=1, size=2)
    fit(tmp_path, EpisodeLogger(groups=9, episodes=9, jsonl=False), Clockwork(batch=batch), 1)
    events = EventAccumulator(str(tmp_path / "run" / "v"), size_guidance={"images": 0}).Reload()
    assert len(events.Tags()["images"]) == 2


@pytest.mark.parametrize("arguments", [{"every_n_rollouts": 0}, {"groups": -1}, {"episodes": -1}])
def test_numbers_out_of_range_are_refused(arguments: dict[str, int]) -> None:
    name, value = next(iter(arguments.items()))
    with pytest.raises(ValueError, match=rf"EpisodeLogger.{name} is {value}: give at least"):
        EpisodeLogger(**arguments)


# RewardProgressBar


def test_the_bar_uses_short_names_and_hides_the_version(tmp_path: Path) -> None:
    metrics = {"reward/total": 1.5, "episode/tool_rate": 0.5, "something/else": 2.0}
    trainer = SimpleNamespace(
        progress_bar_metrics=metrics, loggers=[TensorBoardLogger(tmp_path, name="run", version="v")]
    )
    shown = RewardProgressBar().get_metrics(trainer, Clockwork())  # type: ignore[arg-type]
    assert shown == {"reward": 1.5, "tools": 0.5, "something/else": 2.0}


def test_the_bar_shows_in_a_log_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, RewardProgressBar(), Clockwork(), 2, enable_progress_bar=True)
    written = capfd.readouterr().out
    assert "reward=1.50" in written
    assert "v_num" not in written
