"""Which checkpoint of a run's folder is the newest; needs no Lightning, which takes seconds to import."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import Final

from infogap.policy.checkpoint import LIST_NAME, REST_NAME, read_rollout_step

FOLDER: Final = "checkpoints"
RESULT: Final = "last.ckpt"
NEWEST: Final = "resume.ckpt"

SHARDED_PARTS: Final = (LIST_NAME, REST_NAME)
"""What a sharded checkpoint's folder has beside the shards, written after them."""

_STEP_NAME: Final = re.compile(r"step_(\d+)\.ckpt")


def newest_checkpoint(folder: Path) -> Path:
    """The newest complete checkpoint in a folder, to go on from.

    This is the one of the highest step, unless the run's result is of the same step or a later one. Times of files
    decide only where steps do not, since a copy of a run may have lost them.

    Raises:
        FileNotFoundError: if there is none.
    """
    steps = {step: path for step, path in by_step(folder).items() if is_complete(path)}
    result = folder / RESULT
    if is_complete(result) and (not steps or _is_newer(result, *list(steps.items())[-1])):
        return result
    if not steps:
        raise FileNotFoundError(
            f"{str(folder)!r} holds no complete checkpoint: name the folder 'checkpoints' of a run, or start anew "
            "without --ckpt_path."
        )
    return list(steps.values())[-1]


def has_checkpoint(folder: Path) -> bool:
    """Whether there is a complete checkpoint in a folder."""
    return any(is_complete(path) for path in (folder / RESULT, *by_step(folder).values()))


def is_complete(path: Path) -> bool:
    """Whether a path is a whole checkpoint, as far as its outside shows: a file's end, a folder's last parts."""
    if path.is_dir():
        return all((path / part).is_file() for part in SHARDED_PARTS)
    return zipfile.is_zipfile(path)


def by_step(folder: Path) -> dict[int, Path]:
    """Checkpoints that are named by their step, in the order of the steps."""
    names = ((_STEP_NAME.fullmatch(path.name), path) for path in folder.glob("step_*.ckpt"))
    return dict(sorted((int(name[1]), path) for name, path in names if name is not None))


def _is_newer(result: Path, step: int, path: Path) -> bool:
    """Whether a run's result was written after the checkpoint of a step.

    Where ``resume.ckpt`` names the step, a result of a later step is as a rule that of an earlier run in the same
    folder: then the times of the files decide, as they do where the result does not say its step.
    """
    link = result.with_name(NEWEST)
    found = read_rollout_step(result)
    named = link.is_symlink() and os.readlink(link) == path.name
    if found is None or found == step or (found > step and named):
        return result.stat().st_mtime_ns >= path.stat().st_mtime_ns
    return found > step
