"""What fit would refuse or could not use: devices, length, rewards, and what training starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

from infogap.doctor.findings import Finding, problem
from infogap.doctor.machine import Device
from infogap.doctor.reading import Run
from infogap.episode.protocol import Protocol
from infogap.episode.rewards import RewardSet
from infogap.grpo.run_state import check_resume
from infogap.policy.checkpoint import is_directory_checkpoint, read_checkpoint
from infogap.policy.checkpoint_folder import is_complete, newest_checkpoint
from infogap.policy.loading import check_folder
from infogap.policy.weights import check_weights, find_weights

KINDS: Final = {
    "auto": ("cuda", "mps", "cpu"),
    "cpu": ("cpu",),
    "gpu": ("cuda", "mps"),
    "cuda": ("cuda",),
    "mps": ("mps",),
}
"""Kinds of devices that each value of `trainer.accelerator` may mean."""


def look_at_settings(run: Run, here: Device | None) -> list[Finding]:
    """Problems with the settings, and a line for each checkpoint that is named.

    Args:
        run: what was configured.
        here: a device of this machine; None if another one is planned for.
    """
    found = _accelerator(run, here)
    if run.steps == 0:
        text = "leaves no step to train: give trainer.limit_train_batches, max_epochs and max_steps at least 1."
        found.append(problem("trainer", text))
    try:
        rewards = RewardSet.from_config(run.rewards, Protocol(run.protocol)).names
    except ValueError as error:
        return [*found, problem("model.rewards.extra", str(error))]
    if run.init_from is not None:
        found.append(_readable("model.init_from", run.init_from, lambda path: _check_start(path, run)))
    if run.resumed is not None:
        found.append(_readable("ckpt_path", run.resumed, lambda path: _check_resumed(path, run, rewards)))
    return found


def _accelerator(run: Run, here: Device | None) -> list[Finding]:
    wanted = run.accelerator
    if not isinstance(wanted, str):  # an object of Lightning's knows its devices
        return []
    if wanted not in KINDS:
        return [problem("trainer.accelerator", f"{wanted} is not known here: use one of {', '.join(KINDS)}.")]
    if here is None or here.kind in KINDS[wanted]:
        return []
    return [problem("trainer.accelerator", f"is {wanted}, and this machine has none: set it to auto or cpu.")]


def _readable(subject: str, name: str, check: Callable[[Path], object]) -> Finding:
    """A line about a checkpoint or a folder: that it can be read, or why not."""
    if not Path(name).exists():
        return problem(subject, f"{name} does not exist: give a checkpoint that `infogap fit` has written.")
    try:
        check(Path(name))
    except (ValueError, OSError) as error:
        return problem(subject, str(error))
    return Finding(subject, f"{name} is there")


def _check_start(path: Path, run: Run) -> None:
    """As `infogap.policy.weights.load_weights` takes it: a model folder, or a checkpoint that fits the model's."""
    found = find_weights(path)
    if found.is_dir() and not is_directory_checkpoint(found):
        check_folder(found)
    elif (run.policy.folder / "config.json").is_file():
        check_weights(run.policy, found)
    else:
        read_checkpoint(found)


def _check_resumed(path: Path, run: Run, rewards: tuple[str, ...]) -> None:
    """As fit takes it: a checkpoint of this run, or a folder of some."""
    found = newest_checkpoint(path) if path.is_dir() and not is_complete(path) else path
    start = None if run.init_from is None else str(find_weights(Path(run.init_from)))
    check_resume(found, policy=asdict(run.policy), init_from=start, rewards=rewards, sharded=run.sharded)
