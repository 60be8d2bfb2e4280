"""Write needle scenes as WebDataset shards, the default ones or larger ones with questions that need two crops.

python data_scripts/make_needle_shards.py --folder data/needle/train --count 1024 --seed 0
python data_scripts/make_needle_shards.py --folder data/8k --count 9 --scenes.sides [8192] --scenes.question relation
"""

from __future__ import annotations

from pathlib import Path

from jsonargparse import auto_cli

from infogap.cli import short_errors
from infogap.data.needle import NeedleConfig
from infogap.data.needle_shards import write_needle_shards


def make(folder: Path, count: int = 1024, seed: int = 0, scenes: NeedleConfig | None = None) -> None:
    """Write the first ``count`` scenes of a series.

    Args:
        folder: where the shards go; it must hold none yet.
        count: number of samples.
        seed: the series; sample i of a series is always the same.
        scenes: what the scenes look like.
    """
    write_needle_shards(scenes or NeedleConfig(), folder, count=count, seed=seed)


if __name__ == "__main__":
    with short_errors():
        auto_cli(make, as_positional=False)
