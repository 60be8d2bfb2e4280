"""What a checkpoint says about its run, read without its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch

from infogap.policy.checkpoint import LIST_NAME, REST_NAME

_MAY_DIFFER: Final = ("gradient_checkpointing",)
"""Fields of the policy that change no result."""


def check_resume(
    path: Path, *, policy: dict[str, Any], init_from: str | None, rewards: Sequence[str], sharded: bool = True
) -> None:
    """See that a run can go on from a checkpoint, before anything large is loaded.

    What a checkpoint does not say, such as one of an earlier version of which rewards its run had, is not checked.

    Args:
        path: a checkpoint: a file, or the folder of a sharded one.
        policy: fields of this run's ``PolicyConfig``.
        init_from: the weights that this run starts from, as in the configuration.
        rewards: names of this run's reward columns. Their weights may differ, and are logged in every step.
        sharded: whether this run is sharded, and can read the folder of a sharded checkpoint.

    Raises:
        ValueError: if the path is no whole checkpoint of ours, is of another policy, or of a run with another start or
            other rewards.
    """
    noted = read_run_state(path)
    _check_weights(path, noted, policy, sharded)
    if "init_from" in noted and not _same_path(noted["init_from"], init_from):
        before, now = (_start(start) for start in (noted["init_from"], init_from))
        raise ValueError(
            f"The checkpoint {path} is of a run that started from {before}, but this one starts from {now}: to train "
            "on from its weights give it as model.init_from and leave --ckpt_path out; to go on with its run start "
            "from the same."
        )
    if "rewards" in noted and set(noted["rewards"]) != set(rewards):
        raise ValueError(
            f"The checkpoint {path} is of a run with the rewards {', '.join(noted['rewards'])}, but this one has "
            f"{', '.join(rewards)}: set model.rewards.extra to what it was, or give the checkpoint as model.init_from."
        )


def check_validation(path: Path, *, policy: dict[str, Any], sharded: bool) -> None:
    """See that a run can play with the weights of a checkpoint, before anything large is loaded.

    Args:
        path: a checkpoint: a file, or the folder of a sharded one. It may hold weights only.
        policy: fields of this run's ``PolicyConfig``.
        sharded: whether this run is sharded, and can read the folder of a sharded checkpoint.

    Raises:
        ValueError: if the path is no whole checkpoint of ours, or is of another policy.
    """
    _check_weights(path, _read_checkpoint(path)["infogap"], policy, sharded)


def _check_weights(path: Path, noted: dict[str, Any], policy: dict[str, Any], sharded: bool) -> None:
    if path.is_dir() and not sharded:
        raise ValueError(
            f"The checkpoint {path} is a folder of shards, which only a sharded run goes on from: add --config "
            "configs/strategy/fsdp.yaml, or give it as model.init_from to start another run from its weights."
        )
    if "policy" in noted:
        _check_policy(path, noted["policy"], policy)


def read_run_state(path: Path) -> dict[str, Any]:
    """What the module noted in a checkpoint; weights are not read.

    Raises:
        ValueError: if the path is no whole checkpoint of ours, or one of weights only.
    """
    checkpoint = _read_checkpoint(path)
    missing = {"loops", "callbacks", "lr_schedulers"} - set(checkpoint)
    if missing or (path.is_file() and "optimizer_states" not in checkpoint):
        raise ValueError(f"{path} holds weights only, not a run's state: give it as model.init_from instead.")
    noted: dict[str, Any] = checkpoint["infogap"]
    return noted


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint of ours."""
    if not path.exists():
        raise ValueError(f"There is no checkpoint {path}: name a file or a folder below a run's 'checkpoints'.")
    checkpoint = _read(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("infogap"), dict):
        raise ValueError(
            f"{path} is no checkpoint of infogap: name one from a run's folder 'checkpoints', or give weights of "
            "another origin as model.init_from."
        )
    return checkpoint


def _read(path: Path) -> Any:
    """The contents of a file, with its tensors left on disk, or of a folder's file of everything else."""
    if path.is_dir():
        _check_folder(path)
    try:
        if path.is_dir():
            return torch.load(path / REST_NAME, map_location="cpu", weights_only=True)
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is damaged, or none of its own
        raise ValueError(
            f"{path} cannot be read as a checkpoint, it is damaged, cut off or something else: give another one of the "
            "same run."
        ) from error


def _check_folder(path: Path) -> None:
    present = {inner.name for inner in path.iterdir()}
    if not any(name.endswith(".distcp") for name in present) and not {REST_NAME, LIST_NAME} & present:
        raise ValueError(f"The folder {path} is no sharded checkpoint: name a checkpoint, not a folder of others.")
    parts = {REST_NAME: REST_NAME in present, LIST_NAME: LIST_NAME in present}
    parts["shards (*.distcp)"] = any(name.endswith(".distcp") for name in present)
    missing = [part for part, there in parts.items() if not there]
    if missing:
        raise ValueError(f"The checkpoint {path} is incomplete, {' and '.join(missing)} missing: give another one.")


def _check_policy(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for name in before.keys() | now.keys():
        if name in _MAY_DIFFER:
            continue
        old, new = before.get(name), now.get(name)
        same = _same_path(old, new) if name == "path" else _plain(old) == _plain(new)
        if not same:
            raise ValueError(
                f"The checkpoint {path} is of another policy, with policy.{name} {old!r} where this run has {new!r}: "
                "set it to what it was, or give the checkpoint as model.init_from."
            )


def _plain(value: Any) -> Any:
    """The same value with lists for tuples: which of both it is depends on where a configuration came from."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _same_path(first: str | None, second: str | None) -> bool:
    if first is None or second is None:
        return first == second
    return first == second or Path(first).resolve() == Path(second).resolve()


def _start(init_from: str | None) -> str:
    return "the policy itself" if init_from is None else repr(init_from)
