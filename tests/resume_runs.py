"""Small runs in processes of their own, to be killed and gone on with, and what they come to.

The processes are forked from a server that has imported the package once: a start would cost seconds otherwise.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from infogap.callbacks.checkpoint_files import DirectCheckpointIO
from infogap.cli import main
from infogap.policy.checkpoint_folder import has_checkpoint, newest_checkpoint

STAGE_1 = Path(__file__).resolve().parents[1] / "configs" / "stage1.yaml"
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["infogap.cli", "resume_runs"])

CUT_WRITE = "cut_write"
"""File in a run's folder whose text names a checkpoint: half of it is written, and then nothing more happens."""


@dataclass(frozen=True)
class Run:
    """A run of stage 1 with the small policy, cut down: one sample and two episodes a step, short validations."""

    root: Path
    name: str
    steps: int = 30
    every: int = 4
    validate_every: int = 10

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def log(self) -> Path:
        return self.root / f"{self.name}.log"

    @property
    def played(self) -> int:
        """Rollout steps whose episodes are on disk; those of a process that was killed count until they are cut off."""
        path = self.folder / "episodes" / "rank_0.jsonl"
        return len({line[:20] for line in path.read_bytes().splitlines()}) if path.exists() else 0

    def start(self, *more: str) -> BaseProcess:
        """Begin, or go on from the newest checkpoint."""
        if has_checkpoint(self.checkpoints):
            more = (f"--ckpt_path={newest_checkpoint(self.checkpoints)}", *more)
        process = CONTEXT.Process(target=_work, args=(["fit", f"--config={self._configuration()}", *more], self))
        process.start()
        return process

    def finish(self, *more: str) -> int | None:
        """The same, until the process ends; its exit status."""
        process = self.start(*more)
        process.join()
        return process.exitcode

    def _configuration(self) -> Path:
        values = yaml.safe_load(STAGE_1.read_text())
        trainer, model, data = values["trainer"], values["model"], values["data"]
        trainer |= {"accelerator": "cpu", "limit_train_batches": self.steps, "limit_val_batches": 1}
        trainer |= {"val_check_interval": self.validate_every, "num_sanity_val_steps": 0, "enable_progress_bar": False}
        trainer["logger"]["init_args"] |= {"save_dir": str(self.root), "name": self.name}
        trainer["callbacks"] = [
            {"class_path": "EpisodeLogger", "init_args": {"groups": 1, "episodes": 1, "every_n_rollouts": 3}},
            {"class_path": "CropDependence", "init_args": {"rows": 1, "every_n_validations": 2}},
            {"class_path": "RunCheckpoint", "init_args": {"every_n_rollouts": self.every}},
        ]
        model["rollout"] |= {"group_size": 2, "view": {"mode": "budget", "budget": 64}}
        # dropout draws from the global random numbers, which a checkpoint therefore has to hold
        model["policy"]["lora"] = {"rank": 4, "alpha": 8, "dropout": 0.1}
        model["protocol"] = str(STAGE_1.parent / model["protocol"])
        data |= {"root": str(self.root / "train"), "val_root": str(self.root / "val"), "prompts_per_step": 1}
        data["require_view_tokens"] = False
        data["needle"] |= {"count": 16, "val_count": 4}
        path = self.root / f"{self.name}.yaml"
        path.write_text(yaml.safe_dump(values))
        return path


def wait_for(condition: Callable[[], bool], process: BaseProcess, seconds: float = 120) -> None:
    """Look often whether something has become true while a process runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.is_alive(), f"the process ended with {process.exitcode}"
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.002)


def kill(process: BaseProcess) -> None:
    """Kill -9."""
    process.kill()
    process.join()


def outcome(run: Run) -> dict[str, Any]:
    """Everything that must not depend on whether a run was killed."""
    saved = torch.load(run.checkpoints / "last.ckpt", weights_only=True)
    events = EventAccumulator(str(run.folder), size_guidance={"scalars": 0, "images": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("time/")]
    return {
        "weights": saved["state_dict"],
        "optimiser": saved["optimizer_states"],
        "clocks": saved["infogap"],
        "random numbers": saved["callbacks"]["RunCheckpoint"]["random"],
        "position": saved["ShardDataModule"],
        "metrics": {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags},
        "pictures": {tag: [picture.step for picture in events.Images(tag)] for tag in events.Tags()["images"]},
        "episodes": [json.loads(line) for line in (run.folder / "episodes" / "rank_0.jsonl").read_text().splitlines()],
    }


def differences(first: Any, second: Any, where: str = "") -> list[str]:
    """Where two outcomes are not equal bit for bit."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return [] if torch.equal(first, second) else [where]
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return [found for key in first for found in differences(first[key], second[key], f"{where}/{key}")]
    if isinstance(first, list | tuple) and isinstance(second, list | tuple) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return [found for number, pair in pairs for found in differences(*pair, f"{where}/{number}")]
    return [] if first == second else [where]


def _work(arguments: list[str], run: Run) -> None:
    with run.log.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    marker = run.folder / CUT_WRITE
    if marker.exists():
        _cut_write(marker)
    torch.set_num_threads(1)
    main(arguments)


def _cut_write(marker: Path) -> None:
    name = marker.read_text()
    whole = DirectCheckpointIO.save_checkpoint

    def cut(self: DirectCheckpointIO, checkpoint: Any, path: str | Path, storage_options: Any = None) -> None:
        whole(self, checkpoint, path, storage_options)
        if Path(path).name.startswith(name):
            os.truncate(path, Path(path).stat().st_size // 2)
            marker.unlink()
            time.sleep(600)

    DirectCheckpointIO.save_checkpoint = cut  # type: ignore[method-assign]
