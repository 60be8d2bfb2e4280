"""Every training set that can be converted, in the format of its authors: converted, checked, and trained two steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import training_files as files
from benchmark_files import write_json_lines
from lightning.pytorch import Trainer
from tiny_policy import tiny_protocol, tiny_rollout, write_tiny_policy

from infogap import data_commands
from infogap.data.convert.registry import SOURCES
from infogap.data.datamodule import ShardDataModule
from infogap.grpo.module import GRPOModule
from infogap.policy.loading import PolicyConfig
from infogap.rollout import ViewConfig


def visualprobe(root: Path) -> Path:
    folder = files.mini_o3(root)
    write_json_lines(root / "traces.jsonl", files.search_sessions())
    return folder


WRITERS: dict[str, Callable[[Path], Path]] = {
    "deepeyes": files.deepeyes,
    "visualprobe": visualprobe,
    "deepeyes_4k": lambda root: files.mini_o3(root, "DeepEyes_train_4K"),
    "pixelreasoner": files.pixelreasoner,
    "cof": files.cof,
    "thinklite": files.thinklite,
    "verl": files.deepeyes,
    "jsonl": files.json_lines,
    "vstar_style": files.vstar_style,
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_policy(tmp_path_factory.mktemp("policy"))


def test_every_source_has_a_fixture() -> None:
    assert set(WRITERS) == set(SOURCES)


@pytest.mark.parametrize("name", WRITERS)
def test_a_published_set_is_converted_checked_and_trained(
    name: str, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, shards = WRITERS[name](tmp_path / "published"), tmp_path / "shards"
    boxes = ["--boxes", str(tmp_path / "published" / "traces.jsonl")] if name == "visualprobe" else []
    data_commands.main(["convert", name, str(root), str(shards), *boxes])
    index = json.loads((shards / "shards.json").read_bytes())
    assert (index["source"], index["licence"]) == (name, SOURCES[name].licence)
    summary = capsys.readouterr().out
    kept = next(line.split() for line in summary.splitlines() if line.startswith("kept"))
    assert kept[:2] == ["kept", f"{index['samples']:,}"]

    data_commands.main(["check", str(shards), "--sheet", str(tmp_path / "sheet.png")])  # exits if there are errors
    assert (tmp_path / "sheet.png").stat().st_size > 0

    rollout = tiny_rollout(group_size=2, view=ViewConfig(mode="budget", budget=4))
    model = GRPOModule(PolicyConfig(str(policy)), tiny_protocol(), rollout)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, limit_train_batches=2, limit_val_batches=0, logger=False, **quiet
    )
    data = ShardDataModule(str(shards), prompts_per_step=2, require_evidence=bool(boxes))
    trainer.fit(model, data)
    assert model.rollout_step == 2
    assert not {reason for reason in data.skipped if reason != "no_evidence"}
