"""A run that is killed goes on as if it had not been. tests/benchmarks/kill_resume.py does the same at length."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from resume_runs import CUT_WRITE, Run, differences, kill, outcome, wait_for

STEPS, EVERY, VALIDATE_EVERY = 8, 3, 4


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def whole(root: Path) -> dict[str, Any]:
    """The run without an interruption."""
    run = small_run(root, "whole")
    assert run.finish() == 0, run.log.read_text()
    return outcome(run)


def small_run(root: Path, name: str) -> Run:
    return Run(root, name, STEPS, EVERY, VALIDATE_EVERY)


def names(run: Run) -> list[str]:
    return sorted(path.name for path in run.checkpoints.iterdir())


def test_a_run_is_worth_comparing(whole: dict[str, Any]) -> None:
    steps = list(range(STEPS))
    assert [step for step, _ in whole["metrics"]["optim/grad_norm"]] == steps
    assert [episode["rollout_step"] for episode in whole["episodes"]] == [step for step in steps for _ in range(2)]
    assert [step for step, _ in whole["metrics"]["eval/accuracy"]] == [3, 7]
    assert any(value != 0 for _, value in whole["metrics"]["optim/grad_norm"])


def test_a_run_that_is_cut_off_three_times_is_the_run_that_it_would_have_been(
    root: Path, whole: dict[str, Any]
) -> None:
    run = small_run(root, "cut")

    # kill -9 in a step after a checkpoint: of the step before the metrics may be on disk, or not
    process = run.start()
    wait_for(lambda: run.played == 4, process)
    kill(process)
    assert process.exitcode == -signal.SIGKILL
    assert names(run) == ["resume.ckpt", "step_00000003.ckpt"]

    # kill -9 in the middle of a write
    marker = run.folder / CUT_WRITE
    marker.write_text("step_00000006.ckpt")
    process = run.start()
    wait_for(lambda: not marker.exists(), process)
    kill(process)
    assert names(run) == ["resume.ckpt", "step_00000003.ckpt", "step_00000006.ckpt.partial"]

    # SIGTERM, long before the next checkpoint is due
    process = run.start()
    wait_for(lambda: len(list(run.folder.glob("events*"))) == 3 and run.played == 4, process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 143
    saved = run.checkpoints / f"step_{run.played:08d}.ckpt"
    assert f"Terminated after rollout step {run.played}: go on with --ckpt_path {saved}" in run.log.read_text()
    assert (run.checkpoints / "resume.ckpt").resolve() == saved.resolve()

    assert run.finish() == 0, run.log.read_text()
    assert differences(whole, outcome(run)) == []
    assert len(list(run.folder.glob("events*"))) == 4
    assert names(run)[:2] == ["last.ckpt", "resume.ckpt"]
