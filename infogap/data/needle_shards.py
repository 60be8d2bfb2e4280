"""Needle scenes as shards: written where there are none, and refused where there are others."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from infogap.data.index import INDEX_NAME, has_shards
from infogap.data.needle import NeedleConfig, make_samples
from infogap.data.shards import read_origin
from infogap.data.unfinished import BusyError
from infogap.data.writing import write_shards

logger = logging.getLogger(__name__)


@dataclass
class NeedleShardConfig:
    """Synthetic needle scenes, written where there are no shards yet.

    Args:
        scenes: what the scenes look like.
        count: training samples. Ours.
        val_count: validation samples. Ours.
        seed: series of the training scenes; the validation scenes are the series after it.
    """

    scenes: NeedleConfig = field(default_factory=NeedleConfig)
    count: int = 512
    val_count: int = 64
    seed: int = 0


def ensure_needle_shards(config: NeedleConfig, folder: Path, *, count: int, seed: int) -> None:
    """Write needle scenes to a folder unless it holds them; shards of which nothing is said are the user's own.

    Args:
        config: what a scene looks like.
        folder: where the shards are.
        count: number of samples.
        seed: the series.

    Raises:
        ValueError: if the folder holds needle scenes, but others.
    """
    if not has_shards(folder):
        logger.info("Writing %d needle scenes to %s.", count, folder)
        try:
            write_needle_shards(config, folder, count=count, seed=seed)
        except BusyError:  # another machine of the run writes the same scenes to the same disk
            _wait_for_index(folder)
        return
    found, wanted = read_origin(folder), needle_origin(config, count=count, seed=seed)
    if found is not None and found != wanted:
        names = " and ".join(name for name in wanted if found.get(name) != wanted[name])
        raise ValueError(
            f"The needle scenes in {folder} were drawn with another {names} than data.needle asks for: remove the "
            "folder, name another one, or set data.needle to null to use them as they are."
        )


def _wait_for_index(folder: Path, patience: int = 600) -> None:
    for _ in range(patience):
        if (folder / INDEX_NAME).exists():
            return
        time.sleep(1)
    raise BusyError(f"Another process writes needle scenes to {folder} and does not finish: see whether it still runs.")


def write_needle_shards(config: NeedleConfig, folder: Path, *, count: int, seed: int) -> None:
    """Write the first ``count`` samples of the series ``seed`` as shards of 256 samples; their index says what of.

    Args:
        config: what a scene looks like.
        folder: where the shards are.
        count: number of samples.
        seed: the series.
    """
    made_from = needle_origin(config, count=count, seed=seed)
    write_shards(make_samples(config, seed, count), folder, samples_per_shard=256, prefix="needle", made_from=made_from)


def needle_origin(config: NeedleConfig, *, count: int, seed: int) -> dict[str, Any]:
    """Everything that needle shards follow from, as JSON values.

    Args:
        config: what a scene looks like.
        count: number of samples.
        seed: the series.
    """
    values: dict[str, Any] = json.loads(json.dumps({"scenes": asdict(config), "count": count, "seed": seed}))
    return values
