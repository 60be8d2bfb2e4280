"""The method learns: on the shipped policy and a short setting of stage 1 the reward must rise."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest

from infogap.cli import main

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "stage1.yaml"
STEPS = 70


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    folder = tmp_path_factory.mktemp("learning")
    main(
        [
            "fit",
            f"--config={CONFIG}",
            f"--data.root={folder}/train",
            "--data.val_root=null",
            "--data.needle.count=160",
            f"--trainer.limit_train_batches={STEPS}",
            "--trainer.limit_val_batches=0",
            f"--trainer.logger.init_args.save_dir={folder}",
            "--model.rollout.group_size=8",
        ]
    )
    lines = (folder / "stage1" / "episodes" / "rank_0.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def mean_of(episodes: list[dict[str, object]], steps: range, column: str) -> float:
    rows = [episode for episode in episodes if episode["rollout_step"] in steps]
    return fmean(float(row["rewards"][column] if column != "total" else row["total"]) for row in rows)


def test_the_reward_rises(episodes: list[dict[str, object]]) -> None:
    before = mean_of(episodes, range(8), "total")
    after = mean_of(episodes, range(STEPS - 8, STEPS), "total")
    assert after > before + 0.3, f"the mean reward went from {before:.2f} to {after:.2f}"


def test_the_policy_learns_to_use_the_tool(episodes: list[dict[str, object]]) -> None:
    before = mean_of(episodes, range(8), "tool")
    after = mean_of(episodes, range(STEPS - 8, STEPS), "tool")
    assert after > before + 0.1, f"right answers with a crop went from {before:.2f} to {after:.2f} of the episodes"
