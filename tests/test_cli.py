"""Both stages through the command line, with the shipped policy and the shipped configurations, for a few steps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from shard_files import members_of, write_tar
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from infogap.cli import main, short_errors
from infogap.data.needle import NeedleConfig, make_samples

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
PROMPTS, GROUP, STEPS = 2, 4, 3
TAGS = {
    "reward": "accuracy format tool grounding total accuracy_std format_std tool_std grounding_std total_std",
    "group": "all_right all_wrong zero_variance advantage_std",
    "episode": "turns crops tool_rate bad_calls policy_tokens visual_tokens stop_answered stop_no_action "
    "stop_max_turns stop_max_crops stop_max_tokens",
    "crop": "area_ratio iou coverage coverage_above_tau",
    "policy": "loss entropy sampler_gap clip_low clip_high dual_clip kl_old kl_ref ratio grounding_loss",
    "optim": "grad_norm lr",
    "time": "rollout reward pack update step tokens_per_second episodes_per_second",
    "weight": "accuracy format tool grounding grounding_loss",
    "clock": "rollout_step update_step",
    "eval": "accuracy total tool_rate visual_tokens area_ratio iou coverage coverage_above_tau "
    "own_crop noise_crop gt_crop no_tool crop_dependence crop_gain",
}
SCALARS = {f"{family}/{tag}" for family, tags in TAGS.items() for tag in tags.split()} | {"epoch"}


def arguments(folder: Path, config: str, *more: str) -> list[str]:
    """Arguments that make a configuration small and keep its files in a folder."""
    small = {
        "data.root": folder / "train",
        "data.val_root": folder / "val",
        "data.needle.count": 24,
        "data.needle.val_count": 8,
        "data.prompts_per_step": PROMPTS,
        "model.rollout.group_size": GROUP,
        "trainer.accelerator": "cpu",
        "trainer.limit_train_batches": STEPS,
        "trainer.limit_val_batches": 2,
        "trainer.val_check_interval": STEPS,
        "trainer.num_sanity_val_steps": 0,
        "trainer.logger.init_args.save_dir": folder,
    }
    return ["fit", f"--config={CONFIGS / config}", *(f"--{key}={value}" for key, value in small.items()), *more]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stage 1, then stage 2 from its weights; a warning that is not known fails here."""
    folder = tmp_path_factory.mktemp("stages")
    main(arguments(folder, "stage1.yaml"))
    weights = folder / "stage1" / "checkpoints" / "last.ckpt"
    main(arguments(folder, "stage2.yaml", f"--model.init_from={weights}", "--data.limit=4"))
    return folder


def events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def values(found: EventAccumulator, tag: str) -> list[float]:
    return [event.value for event in found.Scalars(tag)]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_stage_writes_its_metrics(stages: Path, stage: str) -> None:
    found = events(stages / stage)
    assert set(found.Tags()["scalars"]) == SCALARS
    for tag in SCALARS - {"epoch"} - {f"eval/{name}" for name in TAGS["eval"].split()}:
        assert len(values(found, tag)) == STEPS, tag
    assert "episodes/group_0/episode_0" in found.Tags()["images"]
    assert values(found, "clock/rollout_step") == [0, 1, 2]
    assert values(found, "clock/update_step") == [1, 2, 3]
    assert all(gap < 1e-3 for gap in values(found, "policy/sampler_gap"))


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_stage_writes_its_episodes_and_a_checkpoint(stages: Path, stage: str) -> None:
    episodes = lines(stages / stage / "episodes" / "rank_0.jsonl")
    assert [episode["rollout_step"] for episode in episodes] == [
        s for s in range(STEPS) for _ in range(PROMPTS * GROUP)
    ]
    assert all(episode["evidence"] for episode in episodes)
    assert (stages / stage / "config.yaml").is_file()
    saved = torch.load(stages / stage / "checkpoints" / "last.ckpt", weights_only=True)
    started = str(stages / "stage1" / "checkpoints" / "last.ckpt") if stage == "stage2" else None
    assert saved["infogap"].pop("policy")["vision_tower"] == "frozen"
    assert saved["infogap"].pop("rewards") == ["accuracy", "format", "tool", "grounding"]
    assert saved["infogap"] == {"rollout_step": STEPS, "update_step": STEPS, "init_from": started}


def test_only_stage_2_pays_for_precise_crops(stages: Path) -> None:
    assert values(events(stages / "stage1"), "weight/grounding") == [0.0] * STEPS
    assert values(events(stages / "stage2"), "weight/grounding") == [4.0] * STEPS


def test_views_are_selected_before_training(stages: Path) -> None:
    _, *entries = lines(stages / "train" / "resolution.jsonl")
    assert len(entries) == 24
    selected = {entry["key"]: entry["view_tokens"] for entry in entries if entry["status"] == "selected"}
    assert selected
    episodes = lines(stages / "stage1" / "episodes" / "rank_0.jsonl")
    assert {episode["sample"] for episode in episodes} <= set(selected)
    for episode in episodes:
        width, height = episode["view_size"]  # type: ignore[misc]
        assert width * height / 28**2 <= selected[episode["sample"]]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
def test_a_run_goes_on_from_its_checkpoint(stages: Path) -> None:
    folder = stages / "stage1" / "checkpoints"  # the newest in it
    main(arguments(stages, "stage1.yaml", f"--ckpt_path={folder}", "--trainer.max_epochs=2"))
    episodes = lines(stages / "stage1" / "episodes" / "rank_0.jsonl")
    assert sorted({episode["rollout_step"] for episode in episodes}) == list(range(2 * STEPS))
    assert len(episodes) == 2 * STEPS * PROMPTS * GROUP


def test_a_checkpoint_of_stage_1_is_refused_by_stage_2_before_anything_is_loaded(
    stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infogap.grpo.module.load_policy", lambda *_: pytest.fail("the policy was loaded"))
    weights = stages / "stage1" / "checkpoints" / "last.ckpt"
    more = (f"--model.init_from={weights}", "--data.limit=4", f"--ckpt_path={weights.parent}")
    with pytest.raises(
        ValueError, match=r"to train on from its weights give it as model.init_from and leave --ckpt_path"
    ):
        main(arguments(stages, "stage2.yaml", *more))


def test_validation_takes_a_folder_of_checkpoints_too(stages: Path) -> None:
    _, *more = arguments(stages, "stage1.yaml", f"--ckpt_path={stages}")
    with pytest.raises(FileNotFoundError, match="holds no complete checkpoint"):
        main(["validate", *more])


def test_a_policy_is_exported_from_the_command_line(stages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", str(stages / "stage1" / "checkpoints" / "last.ckpt"), str(stages / "exported")])
    assert (stages / "exported" / "config.json").is_file()
    assert "gives the policy's logits" in " ".join(capsys.readouterr().out.split())


def test_what_lightning_refuses_costs_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped, short_errors():
        raise MisconfigurationException("You requested gpu: [0, 1]\n But your machine only has: [0]")
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: You requested gpu: [0, 1] But your machine only has: [0]\n"


def test_the_program_prints_no_warning(stages: Path, tmp_path: Path) -> None:
    steps = [
        "--trainer.limit_train_batches=1",
        "--trainer.val_check_interval=1",
        "--trainer.logger.init_args.name=program",
    ]
    run = subprocess.run(
        [sys.executable, "-m", "infogap.cli", *arguments(stages, "stage1.yaml", *steps)],
        cwd=CONFIGS.parent,
        capture_output=True,
    )
    errors = run.stderr.decode()
    assert run.returncode == 0, errors
    assert "Warning" not in errors
    assert "litlogger" not in errors
    assert (stages / "program" / "checkpoints" / "last.ckpt").is_file()


def test_an_error_in_training_stands_in_a_line_of_its_own(tmp_path: Path) -> None:
    """Output and errors go to one file, as in a terminal or a log, where a progress bar is being drawn."""
    first, second = make_samples(NeedleConfig(), 0, 2)
    write_tar(tmp_path / "train" / "shard-000000.tar", members_of(first) | members_of(second, question=None))
    more = ["--data.needle=null", "--data.val_root=null", "--data.strict=true", "--data.require_view_tokens=false"]
    more += ["--model.rollout.view.mode=budget", "--trainer.limit_val_batches=0", "--data.prompts_per_step=1"]
    run = subprocess.run(
        [sys.executable, "-m", "infogap.cli", *arguments(tmp_path, "stage1.yaml", *more)],
        cwd=CONFIGS.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert run.returncode == 2, run.stdout
    assert "Epoch 0" in run.stdout
    errors = [line for line in run.stdout.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    said = [line.removeprefix("INFO: ") for line in run.stdout.splitlines() if "Seed set to" in line]
    assert said == ["Seed set to 0"]


def test_a_recipe_runs_without_its_progress_bar(stages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.limit_train_batches=0", "--trainer.limit_val_batches=0"]
    main(arguments(stages, "stage1.yaml", *quiet, "--trainer.logger.init_args.name=quiet"))
    assert "Epoch" not in capsys.readouterr().out


@pytest.mark.parametrize("command", ["fit", "test"])
def test_help_names_the_program(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: infogap {command} ")
