"""README's picture: one held-out needle scene, asked of the shipped policy and of one that stage 1 has trained.

    python data_scripts/draw_readme_picture.py runs/stage1

The scene belongs to the series of configs/eval/needle.yaml, which training never sees. It was chosen among those that
the first policy answers wrong and the second right: the picture shows what changes, the tables say how often.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

from infogap.cli import main
from infogap.data.needle import NeedleConfig, make_samples

ROOT = Path(__file__).resolve().parents[1]
SERIES, NUMBER = 3001, 4
VIEW_TOKENS = 64


def draw(checkpoint: Path, folder: Path) -> None:
    """Write needle_scene.png and episode.png.

    Args:
        checkpoint: a checkpoint, or the folder of its run.
        folder: where to.
    """
    sample = next(islice(make_samples(NeedleConfig(), SERIES, NUMBER + 1), NUMBER, None))
    scene = folder / "needle_scene.png"
    scene.write_bytes(sample.image.data)
    asked = [str(scene), sample.question, "--answer", sample.answer, "--options", *sample.options]
    shown = ["--view-tokens", str(VIEW_TOKENS), "--out", str(folder / "episode.png")]
    main(["ask", *asked, *shown, "--policy", "shipped", "--compare", str(checkpoint)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a checkpoint of stage 1, or the folder of its run")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images", help="folder of the pictures")
    arguments = parser.parse_args()
    draw(arguments.checkpoint, arguments.out)
