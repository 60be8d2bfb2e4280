"""Every YAML file under configs/ is read by the command line, and files that must agree do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from infogap.callbacks.grounding_stage import GroundingStage
from infogap.data.datamodule import ShardDataModule
from infogap.episode.protocol import Protocol, ProtocolConfig
from infogap.evaluation.arms import NEEDS_BOXES
from infogap.evaluation.benchmarks.registry import BENCHMARKS
from infogap.evaluation.datamodule import BenchmarkDataModule
from infogap.evaluation.module import EvaluationModule
from infogap.geometry import Frame
from infogap.grpo.module import GRPOModule
from infogap.grpo.strategy import ReplicatedStrategy, ShardedStrategy
from infogap.lightning_cli import EvaluationCLI, TrainingCLI
from infogap.policy.checkpoint_folder import FOLDER, RESULT

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FULL = sorted(CONFIGS.glob("*.yaml"))
PROTOCOLS = sorted(CONFIGS.glob("protocol/*.yaml"))
EVALUATIONS = sorted(CONFIGS.glob("eval/*.yaml"))
OVERLAYS = sorted(path for path in CONFIGS.glob("*/*.yaml") if path not in {*PROTOCOLS, *EVALUATIONS})

pytestmark = pytest.mark.filterwarnings(
    # the parsed configurations come as arguments, beside those of pytest
    "ignore:LightningCLI's args parameter is intended to run from within Python:UserWarning",
    "ignore:.*is not supported on this platform:UserWarning",
)


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def read(*paths: Path, more: Sequence[str] = ()) -> TrainingCLI:
    """The command line with everything made from the files, and nothing run."""
    return TrainingCLI(
        GRPOModule,
        ShardDataModule,
        args=[*(f"--config={path}" for path in paths), *more],
        run=False,
        seed_everything_default=0,
        auto_configure_optimizers=False,
    )


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dots in the keys."""
    if not isinstance(values, dict):
        return {prefix: values}
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}.{key}" if prefix else key)
    return found


def raw(file: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((CONFIGS / file).read_text())
    return values


def differences(first: dict[str, Any], second: dict[str, Any]) -> set[str]:
    one, other = flat(first), flat(second)
    missing = object()
    return {key for key in {*one, *other} if one.get(key, missing) != other.get(key, missing)}


def test_no_file_is_overlooked() -> None:
    found = {*CONFIGS.rglob("*.yaml"), *CONFIGS.rglob("*.yml"), *CONFIGS.rglob("*.json")}
    assert found == {*FULL, *OVERLAYS, *PROTOCOLS, *EVALUATIONS}
    assert {name(path) for path in FULL} >= {"stage1.yaml", "stage2.yaml", "control.yaml"}


@pytest.mark.parametrize("path", FULL, ids=name)
def test_a_full_config_is_read(path: Path) -> None:
    cli = read(path, more=["--model.init_from=null"])
    assert cli.model.protocol.config == _protocol(CONFIGS / "protocol" / "needle.yaml")
    assert cli.model.policy_config.path == "needle"
    assert cli.model.rollout_config.group_size == 16
    assert cli.datamodule.prompts_per_step == 8


@pytest.mark.parametrize("path", OVERLAYS, ids=name)
def test_an_overlay_is_read_on_top_of_its_stage_and_changes_it(path: Path) -> None:
    stage = CONFIGS / (path.name if path.parent.name == "paper" else "stage1.yaml")
    more = ["--model.init_from=null"]
    below, above = read(stage, more=more), read(stage, path, more=more)
    changed = below.parser.dump(below.config) != above.parser.dump(above.config)
    assert changed == (path.name != "single.yaml")  # which says what the shipped configs do by themselves


@pytest.mark.parametrize("stage", ["stage1", "stage2", "control"])
@pytest.mark.parametrize("size", ["3b", "7b"])
def test_the_published_setting_is_trained_sharded_or_with_adapters(stage: str, size: str) -> None:
    model, paper = CONFIGS / "model" / f"qwen2_5_vl_{size}.yaml", CONFIGS / "paper" / f"{stage}.yaml"
    sharded = CONFIGS / "strategy" / "fsdp.yaml"
    cli = read(CONFIGS / f"{stage}.yaml", model, sharded, paper, more=["--model.init_from=null"])
    assert isinstance(cli.trainer.strategy, ShardedStrategy)
    assert cli.trainer.precision == "32-true"
    assert cli.model.sharding.compute_dtype == "bfloat16"
    assert (cli.datamodule.prompts_per_step, cli.model.rollout_config.group_size) == (256, 16)
    assert (cli.trainer.limit_train_batches, cli.model.optim_config.lr) == (80, 1e-6)
    assert cli.model.rollout_config.view.mode == ("budget" if stage == "control" else "selected")
    kinds = [callback.kind for callback in cli.trainer.callbacks if isinstance(callback, GroundingStage)]
    assert kinds == (["reward"] if stage == "stage2" else [])
    replicated = CONFIGS / "strategy" / "ddp.yaml"
    overlays = (model, replicated, paper, CONFIGS / "model" / "lora.yaml")
    cli = read(CONFIGS / f"{stage}.yaml", *overlays, more=["--model.init_from=null"])
    assert (cli.datamodule.prompts_per_step, cli.model.optim_config.lr) == (256, 1e-5)
    assert isinstance(cli.trainer.strategy, ReplicatedStrategy)
    assert cli.model.policy_config.lora is not None


def test_the_control_of_the_paper_differs_in_the_gap_alone() -> None:
    assert differences(raw("paper/stage1.yaml"), raw("paper/control.yaml")) == {
        "model.rollout.view.mode",
        "model.rollout.view.budget",
        "model.algorithm.row_tokens",  # whose views are longer
    }


def test_the_large_model_is_trained_in_the_published_setting() -> None:
    cli = read(CONFIGS / "stage1.yaml", CONFIGS / "model" / "qwen2_5_vl_7b.yaml")
    model, data = cli.model, cli.datamodule
    assert (data.prompts_per_step, model.rollout_config.group_size) == (256, 16)
    assert model.rollout_config.limits.max_episode_tokens == 2048
    assert (model.optim_config.lr, model.algorithm.loss.kl_coef) == (1e-6, 0.0)
    assert (model.optim_config.schedule, model.optim_config.warmup_updates) == ("constant", 0)
    assert model.algorithm.row_tokens == 16384
    assert cli.trainer.limit_train_batches == 80
    assert data.needle is None


@pytest.mark.parametrize("stage", ["stage1", "control", "stage2"])
@pytest.mark.parametrize("size", ["3b", "7b"])
def test_no_text_of_the_small_policy_is_left_in_a_large_ones_prompt(stage: str, size: str) -> None:
    """A file that is read on top of another one changes only what it names."""
    overlays = (CONFIGS / f"{stage}.yaml", CONFIGS / "model" / f"qwen2_5_vl_{size}.yaml")
    config = read(*overlays, more=["--model.init_from=null"]).model.protocol.config
    assert config == ProtocolConfig(require_think=True)
    assert config.frame is Frame.VIEW_PIXELS


@pytest.mark.parametrize("path", FULL, ids=name)
def test_a_run_may_be_shorter_than_the_interval_of_validation(path: Path) -> None:
    """Lightning refuses it where it counts batches within an epoch, and only when everything is loaded."""
    assert raw(path.name)["trainer"]["check_val_every_n_epoch"] is None


@pytest.mark.parametrize("path", FULL, ids=name)
def test_one_seed_decides_everything_random(path: Path) -> None:
    cli = read(path, more=["--model.init_from=null", "--seed_everything=7"])
    assert (cli.model.seed, cli.datamodule.seed) == (7, 7)


def test_adapters_go_on_top_of_the_large_model() -> None:
    overlays = CONFIGS / "model" / "qwen2_5_vl_7b.yaml", CONFIGS / "model" / "lora.yaml"
    model = read(CONFIGS / "stage1.yaml", *overlays).model
    assert model.policy_config.lora is not None
    assert model.policy_config.gradient_checkpointing
    assert model.optim_config.lr == 1e-5


def _protocol(path: Path) -> ProtocolConfig:
    values = yaml.safe_load(path.read_text())
    return ProtocolConfig(**(values | {"frame": Frame[values["frame"]]}))


@pytest.mark.parametrize("path", PROTOCOLS, ids=name)
def test_a_protocol_is_complete(path: Path) -> None:
    protocol = Protocol(_protocol(path))
    prompt = protocol.prompt("Why?", ("a", "b"), tool=True)
    assert "Why?" in prompt
    assert prompt.count("<|image_pad|>") == 1


def test_stage_2_is_stage_1_with_boxes() -> None:
    first, second = raw("stage1.yaml"), raw("stage2.yaml")
    assert differences(first, second) == {
        "trainer.limit_train_batches",
        "trainer.logger.init_args.name",
        "trainer.callbacks",
        "model.init_from",
        "model.optim.lr",
        "data.require_evidence",
        "data.limit",
    }
    callbacks = second["trainer"]["callbacks"]
    assert callbacks[0]["class_path"] == "GroundingStage"
    assert callbacks[1:] == first["trainer"]["callbacks"]
    logger = first["trainer"]["logger"]["init_args"]
    assert "RunCheckpoint" in [callback["class_path"] for callback in callbacks]
    assert second["model"]["init_from"] == f"{logger['save_dir']}/{logger['name']}/{FOLDER}/{RESULT}"
    assert second["data"]["require_evidence"] is True
    assert second["data"]["limit"] == 256


def test_the_control_differs_in_the_gap_alone() -> None:
    first, control = raw("stage1.yaml"), raw("control.yaml")
    assert differences(first, control) == {
        "trainer.logger.init_args.name",
        "model.rollout.view.mode",
        "model.rollout.view.budget",
    }
    assert control["model"]["rollout"]["view"]["mode"] == "budget"


def read_evaluation(path: Path) -> EvaluationCLI:
    return EvaluationCLI(
        EvaluationModule,
        BenchmarkDataModule,
        args=[f"--config={path}"],
        run=False,
        seed_everything_default=0,
        auto_configure_optimizers=False,
    )


def test_every_benchmark_has_a_configuration() -> None:
    assert {path.stem for path in EVALUATIONS} == {*BENCHMARKS, "needle"}


@pytest.mark.parametrize("path", EVALUATIONS, ids=name)
def test_an_evaluation_is_read_and_plays_what_its_benchmark_has(path: Path) -> None:
    cli = read_evaluation(path)
    benchmark, arms = cli.datamodule.benchmark, set(cli.model.play.arms)
    assert benchmark.name == ("shards" if path.stem == "needle" else path.stem)
    assert {"no_image", "no_tool", "own", "noise", "random", "other"} <= arms
    assert bool(arms & set(NEEDS_BOXES)) is benchmark.has_boxes
    assert str(cli.model.output) == f"runs/eval/{path.stem}"


@pytest.mark.parametrize("path", EVALUATIONS, ids=name)
def test_published_benchmarks_are_played_alike(path: Path) -> None:
    if path.stem == "needle":
        return
    told_apart = {"model.play.arms", "model.output", "data.benchmark", "data.root", "data.batch_size"}
    assert differences(raw("eval/vstar.yaml"), raw(f"eval/{path.name}")) <= told_apart
    protocol = read_evaluation(path).model.protocol.config
    assert protocol.require_think


def test_needle_scenes_are_evaluated_as_they_are_trained_on() -> None:
    trained, evaluated = raw("stage1.yaml"), raw("eval/needle.yaml")
    assert evaluated["model"]["play"]["crop"] == trained["model"]["rollout"]["crop"]
    assert evaluated["model"]["play"]["limits"] == trained["model"]["rollout"]["limits"]
    assert evaluated["resolution"] == trained["resolution"]
    assert evaluated["data"]["needle"]["seed"] not in range(100)  # training has the first ones
