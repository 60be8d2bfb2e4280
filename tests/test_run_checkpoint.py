"""Checkpoints through a real Trainer, with a module that has only what the callback uses of it."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import socket
import stat
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import ModelParallelStrategy
from resume_runs import CONTEXT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from infogap.callbacks import checkpoint_files, stop_signals
from infogap.callbacks.checkpoint_files import (
    CheckpointError,
    DirectCheckpointIO,
    discard,
    give_name,
    keep_newest,
    point_to,
    requeued_checkpoint,
    shortage,
    tensor_bytes,
    writing_failed,
)
from infogap.callbacks.random_states import random_states, set_random_states
from infogap.callbacks.run_checkpoint import RunCheckpoint
from infogap.policy.checkpoint_folder import is_complete, newest_checkpoint

CPU = torch.device("cpu")


class Dice(LightningModule):
    """Its weight follows from the random numbers of every step; one of its steps may be disturbed."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1000))
        self.rollout_step = 0
        self.validated: list[int] = []
        self.disturbances: dict[int, Any] = {}

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        drawn = torch.rand(()) + random.random() + float(np.random.rand())
        self.manual_backward(((self.weight - drawn) ** 2).sum())
        optimizer.step()
        optimizer.zero_grad()
        self.log("drawn", drawn, batch_size=1)
        if self.rollout_step in self.disturbances:
            self.disturbances[self.rollout_step]()
        self.rollout_step += 1

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated.append(self.rollout_step)
        self.log("eval/rollout_step", float(self.rollout_step), batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([self.weight], lr=0.1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["infogap"] = {"rollout_step": self.rollout_step}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.rollout_step = checkpoint["infogap"]["rollout_step"]


def fit(folder: Path, steps: int, module: Dice | None = None, every: int = 2, keep: int = 2, **options: Any) -> Dice:
    module = module or Dice()
    checkpoint, seed = options.pop("ckpt_path", None), options.pop("seed", 0)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "limit_train_batches": steps,
        "limit_val_batches": 0,
        "check_val_every_n_epoch": None,
        "logger": TensorBoardLogger(folder, name="", version=""),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "callbacks": [RunCheckpoint(every, keep)],
    }
    trainer = Trainer(**(defaults | options))
    loading: dict[str, Any] = {"batch_size": None, "generator": torch.Generator()}  # not the global one, as in infogap
    trainer.fit(module, Loader(Numbers(), **loading), DataLoader(range(1), **loading), ckpt_path=checkpoint)  # type: ignore[arg-type]
    return module


class Numbers(torch.utils.data.IterableDataset[int]):
    """Endless, as the training stream is."""

    def __iter__(self) -> Any:
        return iter(range(1000))


class Loader(DataLoader[int]):
    """Lightning warns of loaders that cannot be resumed."""

    def state_dict(self) -> dict[str, int]:
        return {"position": 0}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        pass


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def step(folder: Path, number: int) -> Path:
    return folder / "checkpoints" / f"step_{number:08d}.ckpt"


def weight_in(path: Path) -> torch.Tensor:
    return torch.load(path, weights_only=True)["state_dict"]["weight"]


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


# What is saved


def test_the_newest_are_kept_and_the_result_is_named_last(tmp_path: Path) -> None:
    module = fit(tmp_path, 7)
    assert names(tmp_path) == ["last.ckpt", "resume.ckpt", "step_00000004.ckpt", "step_00000006.ckpt"]
    assert torch.equal(weight_in(tmp_path / "checkpoints" / "last.ckpt"), module.weight)
    assert os.readlink(tmp_path / "checkpoints" / "resume.ckpt") == "last.ckpt"
    saved = torch.load(step(tmp_path, 4), weights_only=True)
    assert saved["infogap"] == {"rollout_step": 4}


def test_the_last_step_is_saved_once_as_the_result(tmp_path: Path) -> None:
    fit(tmp_path, 4)
    assert names(tmp_path) == ["last.ckpt", "resume.ckpt", "step_00000002.ckpt"]


def test_no_other_checkpoints_are_made_and_a_trial_makes_none(tmp_path: Path) -> None:
    fit(tmp_path, 2, fast_dev_run=True, logger=False, default_root_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [{"every_n_rollouts": 0}, {"keep": 0}])
def test_numbers_out_of_range_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf"RunCheckpoint.{next(iter(arguments))} is 0: give at least 1"):
        RunCheckpoint(**arguments)


# Going on


@pytest.mark.parametrize("number", [2, 3, 4, 5, 6])
def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path, number: int) -> None:
    options = {"limit_val_batches": 1, "val_check_interval": 3, "every": 1, "keep": 9}
    whole = fit(tmp_path / "whole", 7, **options)
    resumed = fit(tmp_path / "resumed", 7, ckpt_path=step(tmp_path / "whole", number), seed=5, **options)
    assert torch.equal(whole.weight, resumed.weight)
    assert scalars(tmp_path / "resumed", "drawn") == scalars(tmp_path / "whole", "drawn")[number:]
    assert whole.validated == [3, 6]
    assert resumed.validated == [at for at in whole.validated if at > number]  # that of the step is done


@pytest.mark.parametrize("number", [2, 3, 4, 5])
def test_a_run_of_several_epochs_goes_on(tmp_path: Path, number: int) -> None:
    options = {"max_epochs": 2, "limit_val_batches": 1, "check_val_every_n_epoch": 1, "every": 1, "keep": 9}
    whole = fit(tmp_path / "whole", 3, **options)
    assert names(tmp_path / "whole")[2:] == [f"step_{at:08d}.ckpt" for at in (1, 2, 3, 4, 5)]
    resumed = fit(tmp_path / "resumed", 3, ckpt_path=step(tmp_path / "whole", number), seed=5, **options)
    assert resumed.rollout_step == 6
    assert torch.equal(whole.weight, resumed.weight)
    assert whole.validated == [3, 6]
    assert resumed.validated == [at for at in whole.validated if at > number]


def test_a_run_goes_on_after_its_end(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", 3, max_epochs=2)
    fit(tmp_path / "resumed", 3)
    last = tmp_path / "resumed" / "checkpoints" / "last.ckpt"
    resumed = fit(tmp_path / "resumed", 3, max_epochs=2, ckpt_path=last, seed=5)
    assert torch.equal(whole.weight, resumed.weight)
    assert scalars(tmp_path / "resumed", "drawn") == scalars(tmp_path / "whole", "drawn")


def test_a_step_that_is_played_again_is_in_the_log_once(tmp_path: Path) -> None:
    fit(tmp_path, 5)
    before = scalars(tmp_path, "drawn")
    fit(tmp_path, 5, ckpt_path=step(tmp_path, 2), seed=5)
    assert len(list(tmp_path.glob("events*"))) == 2
    assert scalars(tmp_path, "drawn") == before
    assert [at for at, _ in before] == [0, 1, 2, 3, 4]


def test_a_checkpoint_has_its_name_only_when_its_step_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[tuple[bool, bool]] = []
    flush = TensorBoardLogger.save

    def look_and_flush(log: TensorBoardLogger) -> None:
        named = step(tmp_path, 2).exists()
        flush(log)
        found = EventAccumulator(str(tmp_path)).Reload()
        flushed.append((named, "picture" in found.Tags()["scalars"]))

    monkeypatch.setattr(TensorBoardLogger, "save", look_and_flush)
    log = TensorBoardLogger(tmp_path, name="", version="")
    module = Dice()
    # as a callback draws: Lightning itself flushes only when it logs metrics
    module.disturbances = {1: lambda: log.experiment.add_scalar("picture", 0.0, 1)}
    fit(tmp_path, 3, module, logger=log, log_every_n_steps=3)
    assert (False, True) in flushed
    assert step(tmp_path, 2).exists()


def test_every_checkpoint_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    whole = DirectCheckpointIO.save_checkpoint
    monkeypatch.setattr(
        DirectCheckpointIO, "save_checkpoint", lambda *a, **k: (written.append(Path(a[2]).name), whole(*a, **k))
    )
    fit(tmp_path, 5, limit_val_batches=1, val_check_interval=2)
    assert written == [f"{name}.partial" for name in ("step_00000002.ckpt", "step_00000004.ckpt", "last.ckpt")]


def test_a_run_from_the_start_replaces_what_another_one_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(tmp_path, 7)
    (tmp_path / "checkpoints" / "step_00000008.ckpt.partial").write_text("cut")
    module = Dice()
    kept: list[list[str]] = []
    module.disturbances = {0: lambda: kept.append(names(tmp_path)), 2: lambda: kept.append(names(tmp_path))}
    fit(tmp_path, 3, module)
    assert kept[0] == ["last.ckpt", "resume.ckpt", "step_00000004.ckpt", "step_00000006.ckpt"]
    assert kept[1] == ["last.ckpt", "resume.ckpt", "step_00000002.ckpt"]
    assert "holds step_00000004.ckpt, step_00000006.ckpt of another run" in caplog.text
    assert scalars(tmp_path, "drawn")[-1][0] == 2


def test_random_states_are_what_they_were() -> None:
    random.gauss(0, 1)
    np.random.randn()  # both keep a second number back
    states = random_states(CPU)
    expected = [torch.rand(3).tolist(), random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand()]
    set_random_states(states, CPU)
    assert [
        torch.rand(3).tolist(), random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand()
    ] == expected  # fmt: skip


# Files


def write(path: Path, value: int = 0) -> Path:
    torch.save({"value": value}, path)
    return path


def write_sharded(path: Path) -> Path:
    path.mkdir()
    for name in (".metadata", "meta.pt", "__0_0.distcp"):
        (path / name).write_text("part")
    return path


def test_the_newest_complete_checkpoint_is_found(tmp_path: Path) -> None:
    first, second = write(tmp_path / "step_00000009.ckpt"), write(tmp_path / "step_00000010.ckpt")
    write(tmp_path / "step_00000099.ckpt.partial")
    cut = write(tmp_path / "step_00000011.ckpt")
    cut.write_bytes(cut.read_bytes()[:-10])
    half = write_sharded(tmp_path / "step_00000012.ckpt")
    (half / "meta.pt").unlink()
    assert newest_checkpoint(tmp_path) == second
    second.unlink()
    assert newest_checkpoint(tmp_path) == first
    sharded = write_sharded(tmp_path / "step_00000013.ckpt")
    assert newest_checkpoint(tmp_path) == sharded


def test_the_result_is_the_newest_unless_steps_were_written_after_it(tmp_path: Path) -> None:
    result, other = write(tmp_path / "last.ckpt"), write(tmp_path / "step_00000002.ckpt")
    os.utime(result, (1, 1))
    assert newest_checkpoint(tmp_path) == other
    os.utime(other, (0, 0))
    assert newest_checkpoint(tmp_path) == result
    other.unlink()
    assert newest_checkpoint(tmp_path) == result


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize(("after", "newest"), [(4, "step_00000006.ckpt"), (6, "last.ckpt"), (8, "last.ckpt")])
def test_a_copied_run_goes_on_from_its_newest_step(tmp_path: Path, after: int, newest: str, sharded: bool) -> None:
    """Copies that do not keep the times of files, nor links: the step was copied last."""
    result, other = tmp_path / "last.ckpt", write(tmp_path / "step_00000006.ckpt")
    if sharded:
        write_sharded(result)
    torch.save({"infogap": {"rollout_step": after}}, result / "meta.pt" if sharded else result)
    for path in (result, other):
        os.utime(path, (5, 5))
    if after != 6:
        os.utime(result, (1, 1) if newest == "last.ckpt" else (9, 9))
    assert newest_checkpoint(tmp_path).name == newest


def test_the_result_of_an_earlier_run_is_not_gone_on_from(tmp_path: Path) -> None:
    torch.save({"infogap": {"rollout_step": 300}}, tmp_path / "last.ckpt")
    os.utime(tmp_path / "last.ckpt", (1, 1))
    point_to(write(tmp_path / "step_00000025.ckpt"))
    assert newest_checkpoint(tmp_path).name == "step_00000025.ckpt"


def test_a_folder_without_checkpoints_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match=rf"^'{folder}' holds no complete checkpoint: "):
            newest_checkpoint(folder)


def test_only_a_job_that_was_queued_again_goes_on_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "step_00000002.ckpt")
    assert requeued_checkpoint(tmp_path) is None
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert requeued_checkpoint(tmp_path) == path
    assert requeued_checkpoint(tmp_path / "missing") is None


@pytest.mark.parametrize("old", [write, write_sharded])
@pytest.mark.parametrize("new", [write, write_sharded])
def test_a_name_passes_from_one_checkpoint_to_the_next(tmp_path: Path, old: Any, new: Any) -> None:
    target, partial = old(tmp_path / "last.ckpt"), new(tmp_path / "last.ckpt.partial")
    made = partial.is_dir()
    give_name(partial, target)
    point_to(target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "resume.ckpt"]
    assert (tmp_path / "resume.ckpt").is_dir() == made
    assert is_complete(tmp_path / "resume.ckpt")


def test_a_removal_that_is_cut_off_leaves_no_half_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_sharded(tmp_path / "step_00000002.ckpt")
    with monkeypatch.context() as cut:
        cut.setattr(shutil, "rmtree", lambda path: (path / "__0_0.distcp").unlink())
        discard(path)
    assert not path.exists()
    checkpoint_files.remove_partial(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_later_steps_go_and_the_newest_of_the_others_stay(tmp_path: Path) -> None:
    for number in (2, 4, 6, 8):
        write(tmp_path / f"step_{number:08d}.ckpt")
    keep_newest(tmp_path, 6, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000004.ckpt", "step_00000006.ckpt"]


# A full disk


def test_tensors_are_counted_once_and_as_a_whole() -> None:
    whole = torch.zeros(100)
    assert tensor_bytes({"a": [whole[:10], (whole, whole.view(10, 10))], "b": "text", "c": 3}) == 400
    assert tensor_bytes([torch.zeros(2), torch.zeros(3, dtype=torch.bfloat16)]) == 14


def test_what_does_not_fit_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = Dice()
    usage = namedtuple("usage", "free")
    module.disturbances = {2: lambda: monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**20 + 11_000))}
    written: list[Any] = []
    whole = DirectCheckpointIO.save_checkpoint
    monkeypatch.setattr(DirectCheckpointIO, "save_checkpoint", lambda *a, **k: (written.append(a[2]), whole(*a, **k)))
    with pytest.raises(
        CheckpointError,
        match=r"^A checkpoint could not be written to .*checkpoints \(it takes .* GB, and only .* GB are free\): mend "
        r"that, make room for example, and go on with --ckpt_path .*step_00000002.ckpt\.$",
    ):
        fit(tmp_path, 7, module)
    assert len(written) == 1
    assert names(tmp_path) == ["resume.ckpt", "step_00000002.ckpt"]
    assert is_complete(step(tmp_path, 2))


def test_room_is_counted_in_bytes(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert shortage(tmp_path, 0) is None
    assert shortage(tmp_path, 2 * free) is not None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_known_by_its_error() -> None:
    with pytest.raises((OSError, RuntimeError)) as caught:
        DirectCheckpointIO().save_checkpoint({"weight": torch.zeros(10**6)}, "/dev/full")
    assert writing_failed(caught.value) == os.strerror(errno.ENOSPC)
    assert writing_failed(RuntimeError("out of memory")) is None


def _fit_with_little_room(folder: Path) -> None:
    module = Dice()
    module.disturbances = {2: lambda: _no_file_beyond(8192)}
    try:
        fit(folder, 7, module, logger=False, default_root_dir=folder)
    except CheckpointError as error:
        _no_file_beyond(resource.RLIM_INFINITY)
        (folder / "said").write_text(str(error))
        raise SystemExit(2) from error


def test_a_write_that_is_cut_short_costs_the_new_checkpoint_only(tmp_path: Path) -> None:
    process = CONTEXT.Process(target=_fit_with_little_room, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 2
    said = (tmp_path / "said").read_text()
    assert f"({os.strerror(errno.EFBIG)}): mend that" in said
    assert said.endswith(f"go on with --ckpt_path {step(tmp_path, 2)}.")
    assert names(tmp_path) == ["resume.ckpt", "step_00000002.ckpt"]
    assert is_complete(step(tmp_path, 2))


def test_an_error_of_another_kind_is_not_taken_for_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(DirectCheckpointIO, "save_checkpoint", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(tmp_path, 3)


# Signals


@pytest.mark.parametrize("at", [4, 6])  # the last one too
def test_a_run_that_is_told_to_end_finishes_its_step_and_saves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, at: int
) -> None:
    whole = fit(tmp_path / "whole", 7)
    module = Dice()
    module.disturbances = {at: terminate}
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        fit(tmp_path, 7, module)
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    saved = step(tmp_path, at + 1)
    assert f"Terminated after rollout step {at + 1}: go on with --ckpt_path {saved}" in caplog.text
    assert weight_in(saved).tolist() == module.weight.tolist()
    resumed = fit(tmp_path, 7, ckpt_path=saved, seed=5)
    assert is_complete(tmp_path / "checkpoints" / "last.ckpt")
    assert torch.equal(whole.weight, resumed.weight)
    assert scalars(tmp_path, "drawn") == scalars(tmp_path / "whole", "drawn")


def test_a_validation_that_was_not_waited_for_is_made_up(tmp_path: Path) -> None:
    options = {"limit_val_batches": 1, "val_check_interval": 3}
    whole = fit(tmp_path / "whole", 7, **options)
    module = Dice()
    module.disturbances = {2: terminate}
    with pytest.raises(SystemExit):
        fit(tmp_path, 7, module, **options)
    assert module.validated == []
    resumed = fit(tmp_path, 7, ckpt_path=step(tmp_path, 3), seed=5, **options)
    assert resumed.validated == whole.validated == [3, 6]
    assert torch.equal(whole.weight, resumed.weight)
    for tag in ("drawn", "eval/rollout_step"):
        assert scalars(tmp_path, tag) == scalars(tmp_path / "whole", tag)


def test_a_run_that_is_told_to_end_in_a_validation_saves_after_it(tmp_path: Path) -> None:
    options = {"limit_val_batches": 1, "val_check_interval": 3}

    class Told(Dice):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step(batch, batch_idx)
            terminate()

    with pytest.raises(SystemExit):
        fit(tmp_path, 7, Told(), **options)
    assert names(tmp_path)[-1] == "step_00000003.ckpt"
    assert fit(tmp_path, 7, ckpt_path=step(tmp_path, 3), **options).validated == [6]


def test_a_signal_before_training_ends_the_run_after_its_first_step(tmp_path: Path) -> None:
    class Early(Callback):
        def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            terminate()

    with pytest.raises(SystemExit) as caught:
        fit(tmp_path, 7, limit_val_batches=1, num_sanity_val_steps=1, callbacks=[Early(), RunCheckpoint()])
    assert caught.value.code == 143
    assert names(tmp_path) == ["resume.ckpt", "step_00000001.ckpt"]


def _fit_told_twice(folder: Path) -> None:
    module = Dice()

    def twice() -> None:
        terminate()
        (folder / "once").touch()
        terminate()
        (folder / "twice").touch()

    module.disturbances = {2: twice}
    fit(folder, 7, module, logger=False, default_root_dir=folder)


def test_a_second_signal_ends_the_run_at_once(tmp_path: Path) -> None:
    process = CONTEXT.Process(target=_fit_told_twice, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 143
    assert (tmp_path / "once").exists()
    assert not (tmp_path / "twice").exists()
    assert names(tmp_path) == ["resume.ckpt", "step_00000002.ckpt"]


@pytest.mark.parametrize("array", [False, True])
def test_slurm_is_asked_to_queue_the_job_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, array: bool) -> None:
    asked = tmp_path / "asked"
    program = tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    slurm = {"JOB_ID": "7", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0", "JOB_NAME": "train"}
    for name, value in (slurm | ({"ARRAY_JOB_ID": "5", "ARRAY_TASK_ID": "2"} if array else {})).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    module = Dice()

    def announce() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        terminate()  # SLURM's own, which may come before the step is over

    module.disturbances = {2: announce}
    with pytest.raises(SystemExit) as caught:
        fit(tmp_path, 7, module, plugins=[SLURMEnvironment()])
    assert caught.value.code == 143
    assert asked.read_text() == ("requeue 5_2\n" if array else "requeue 7\n")
    assert names(tmp_path)[-1] == "step_00000003.ckpt"


def test_a_run_that_slurm_cannot_queue_again_is_saved_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", "")
    stop_signals.requeue_job()
    assert "SLURM did not queue job 7 again" in caplog.text


# Several ranks


class Sharded(Dice):
    """The same with its weight sharded over the ranks; each rank draws numbers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 6, bias=False)
        self.drawn: list[float] = []

    def configure_model(self) -> None:
        if not isinstance(self.layer.weight, DTensor):
            torch.nn.init.ones_(self.layer.weight)
            fully_shard(self.layer, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        self.drawn.append(float(torch.rand(())))
        self.manual_backward(self.layer(torch.full((1, 4), self.drawn[-1])).sum())
        optimizer.step()
        optimizer.zero_grad()
        if self.rollout_step in self.disturbances:
            self.disturbances[self.rollout_step]()
        self.rollout_step += 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.layer.parameters(), lr=0.1)


def _rank(folder: Path, rank: int, port: int, scenario: str, checkpoint: Path | None, seed: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank)}
    module = Sharded()
    if rank == 1:
        module.disturbances = {"told": {2: terminate}, "shard": {2: lambda: _no_file_beyond(0)}}.get(scenario, {})
    elif scenario in ("meta.pt", "late"):
        module.disturbances = {2: lambda: _fail_on_rank_0(scenario)}
    callback = RunCheckpoint(2)

    class Seed(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            torch.manual_seed(seed + rank)

    options: dict[str, Any] = {"devices": 2, "strategy": ModelParallelStrategy(2, 1)}
    options |= {"plugins": [LightningEnvironment()], "logger": False, "default_root_dir": folder}
    status = 0
    try:
        fit(folder, 5, module, callbacks=[Seed(), callback], ckpt_path=checkpoint, **options)
    except CheckpointError as error:
        _no_file_beyond(resource.RLIM_INFINITY)
        (folder / f"said_{rank}").write_text(str(error))
        status = 2
    except SystemExit as error:
        status = int(error.code or 0)
    local = module.layer.weight.to_local().detach().clone()
    torch.save({"weight": local, "drawn": module.drawn}, folder / f"rank_{rank}.pt")
    os._exit(status)


def _no_file_beyond(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _fail_on_rank_0(scenario: str) -> None:
    whole = torch.save

    def fail(value: Any, file: Any = "", **options: Any) -> None:
        if scenario == "late" or str(file).endswith("meta.pt"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(value, file, **options)

    if scenario == "late":
        checkpoint_files.sync = fail
    else:
        torch.save = fail


def two_ranks(folder: Path, scenario: str, checkpoint: Path | None = None, seed: int = 0) -> list[int | None]:
    folder.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [CONTEXT.Process(target=_rank, args=(folder, r, port, scenario, checkpoint, seed)) for r in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        process.kill()
    return [process.exitcode for process in ranks]


def test_ranks_stop_at_the_same_step_and_go_on_with_their_own_random_numbers(tmp_path: Path) -> None:
    assert two_ranks(tmp_path / "whole", "plain") == [0, 0]
    assert two_ranks(tmp_path / "cut", "told") == [143, 143]
    assert names(tmp_path / "cut") == ["resume.ckpt", "step_00000002.ckpt", "step_00000003.ckpt"]
    saved = newest_checkpoint(tmp_path / "cut" / "checkpoints")
    assert sorted(path.name for path in saved.glob("*.distcp")) == ["__0_0.distcp", "__1_0.distcp"]
    assert two_ranks(tmp_path / "cut", "plain", saved, seed=50) == [0, 0]
    for rank in range(2):
        whole, cut = (torch.load(tmp_path / name / f"rank_{rank}.pt", weights_only=True) for name in ("whole", "cut"))
        assert cut["drawn"] == whole["drawn"][3:]
        assert torch.equal(cut["weight"], whole["weight"])
    assert (tmp_path / "cut" / "checkpoints" / "last.ckpt").is_dir()


@pytest.mark.parametrize("where", ["shard", "meta.pt", "late"])
def test_a_disk_that_is_full_for_one_rank_ends_all(tmp_path: Path, where: str) -> None:
    assert two_ranks(tmp_path, where) == [2, 2]
    assert names(tmp_path) == ["resume.ckpt", "step_00000002.ckpt"]
    assert all("mend that" in (tmp_path / f"said_{rank}").read_text() for rank in range(2))
