"""`infogap doctor` gives no all-clear for settings that fit refuses or that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_doctor import SIZES, STAGE, WORK, say

from infogap import doctor
from infogap.arguments import CommandError
from infogap.data.needle import NeedleConfig
from infogap.data.needle_shards import write_needle_shards
from infogap.data.sample import Sample
from infogap.doctor import run as doctor_run
from infogap.doctor.budget import Recipe, cache_bytes, memory
from infogap.doctor.hardware import Hardware
from infogap.doctor.machine import Device
from infogap.doctor.plan import make_plan
from infogap.doctor.reading import read_run
from infogap.doctor.shapes import published_config, shape_named
from infogap.doctor.sizes import count
from infogap.episode.extra_reward import ExtraReward
from infogap.policy.loading import PolicyConfig, load_policy
from infogap.policy.memory import GIB, token_bytes
from infogap.types import Episode

ROOT = Path(__file__).resolve().parents[1]
SEVEN = "--config=configs/model/qwen2_5_vl_7b.yaml"


class Doubled(ExtraReward):
    """A reward with the name of another."""

    name = "accuracy"

    def __call__(self, episode: Episode, sample: Sample) -> float:
        return 0.0


class Misnamed(Doubled):
    """A reward whose name is no part of a metric's."""

    name = "my reward"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 20 GiB free, measured at once."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(doctor_run, "measure", lambda kind, free, *_: Hardware(f"this {kind}", free, 1e10, 1e10))
    processor = Device("cpu", "processor", 24.0 * GIB, 20.0 * GIB)
    monkeypatch.setattr("infogap.doctor.machine.devices", lambda _="auto": [processor])


@pytest.mark.parametrize(
    ("word", "fault"),
    [
        ("--trainer.devices=0", "trainer.devices is 0: give a number of at least 1"),
        ("--trainer.devices=-2", "trainer.devices is -2: "),
        ("--trainer.devices=many", "trainer.devices is many: "),
        ("--trainer.devices=[]", "trainer.devices is an empty list: "),
        ("--trainer.devices=1,1", "trainer.devices is 1,1: give .* different numbers"),
        ("--trainer.num_nodes=0", "trainer.num_nodes is 0: give at least 1"),
        ("--data.prompts_per_step=0", "data.prompts_per_step is 0: give at least 1"),
        ("--config=configs/eval/needle.yaml", "needle.yaml is a file of `infogap test` .it sets model.play"),
        ("--hardwre=h100", "no option --hardwre: did you mean --hardware?"),
    ],
)
def test_a_mistake_costs_one_sentence(word: str, fault: str) -> None:
    with pytest.raises(CommandError, match=fault):
        doctor.main([STAGE, word])


@pytest.mark.parametrize(
    ("given", "read"), [("auto", None), ("-1", None), ("3", 3), ("2,", [2]), ("[0,1]", [0, 1]), ("0,1", [0, 1])]
)
def test_devices_are_read_as_lightning_reads_them(given: str, read: object) -> None:
    assert read_run([STAGE, f"--trainer.devices={given}"]).devices == read


@pytest.mark.parametrize(
    ("word", "subject", "fault"),
    [
        ("--trainer.accelerator=gpu", "trainer.accelerator", "is gpu, and this machine has none"),
        ("--trainer.accelerator=tpu", "trainer.accelerator", "tpu is not known here: use one of auto, cpu"),
        ("--trainer.limit_train_batches=0", "trainer", "give trainer.limit_train_batches"),
        ("--trainer.max_steps=0", "trainer", "max_steps at least 1"),
        ("--model.rollout.cache_gib=100", "playing", "lower model.rollout.cache_gib below 20.0"),
        ("--ckpt_path=nowhere", "ckpt_path", "nowhere does not exist"),
        ("--ckpt_path=README.md", "ckpt_path", "README.md cannot be read as a checkpoint"),
        ("--model.init_from=README.md", "model.init_from", "README.md cannot be loaded"),
        ("--model.init_from=configs", "model.init_from", "'configs' is no model folder"),
        ("--data.manifest=README.md", "data.manifest", "README.md"),
        (f"--model.rewards.extra=[{{class_path: {__name__}.Doubled}}]", "model.rewards.extra", "are called accuracy"),
        (f"--model.rewards.extra=[{{class_path: {__name__}.Misnamed}}]", "model.rewards.extra", "'my reward'"),
    ],
)
def test_what_fit_would_refuse_is_a_problem_with_its_field(
    word: str, subject: str, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, lines = say(capsys, STAGE, word)
    assert status == 1
    assert lines[subject].startswith("PROBLEM: ")
    assert fault in lines[subject]


def test_a_file_that_is_no_shard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = tmp_path / "noise.tar"
    noise.write_bytes(bytes(range(1, 256)) * 8)
    status, lines = say(capsys, STAGE, "--data.needle=null", f"--data.root={noise}")
    assert status == 1
    assert lines["data.root"].startswith("PROBLEM: ")
    assert "noise.tar is no shard (ReadError: " in lines["data.root"]


def test_a_manifest_that_nobody_makes(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--data.manifest=no.jsonl", "--model.rollout.view.mode=budget", "--data.require_view_tokens=false")
    status, lines = say(capsys, STAGE, *words)
    assert (status, "PROBLEM: no.jsonl does not exist" in lines["data.manifest"]) == (1, True)


def test_a_manifest_that_fit_makes_is_no_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_needle_shards(NeedleConfig(), tmp_path / "shards", count=2, seed=0)
    words = (f"--data.root={tmp_path / 'shards'}", "--data.needle=null", f"--data.manifest={tmp_path / 'new.jsonl'}")
    status, lines = say(capsys, STAGE, *words)
    assert (status, lines["views"].startswith("WARNING: ")) == (0, True)


@pytest.mark.parametrize(
    ("dtype", "precision"), [("float32", "32-true"), ("float32", "bf16-mixed"), ("bfloat16", "32-true")]
)
def test_keys_and_values_cost_what_playing_counts(dtype: str, precision: str) -> None:
    run = read_run([STAGE, f"--model.policy.dtype={dtype}", f"--trainer.precision={precision}"])
    policy = load_policy(PolicyConfig(dtype=run.policy.dtype))
    with torch.autocast("cpu", torch.bfloat16, enabled="mixed" in precision):
        played = token_bytes(policy)
    assert cache_bytes(make_plan(run, 1).recipe, count(policy.parts.config)) == played


def test_a_sharded_policy_keeps_half_precision_keys() -> None:
    recipe = make_plan(read_run([STAGE, "--config=configs/strategy/fsdp.yaml"]), 1).recipe
    assert (recipe.key_bytes, recipe.compute_bytes) == (2, 2)


def test_costs_before_a_model_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    words = (STAGE, SEVEN, "--config=configs/strategy/fsdp.yaml", "--hardware=h100", "--trainer.devices=8")
    status, lines = say(capsys, *words)
    assert status == 1
    assert lines["model.policy.path"].startswith("PROBLEM: 'models/Qwen2.5-VL-7B-Instruct' is no model folder")
    assert "Qwen2.5-VL-7B" in lines["costs"]
    assert lines["trained"] == "7,615.62 million weights; the model has 8,292.17 million"
    assert lines["a step"].startswith("about ")


def test_names_of_published_shapes() -> None:
    assert shape_named(Path("models/Qwen2.5-VL-7B-Instruct")) == "7b"
    assert shape_named(Path("hub/models--Qwen--Qwen2.5-VL-3B-Instruct/snapshots/0123")) == "3b"
    assert shape_named(Path("qwen2_5_vl_7b")) == "7b"
    assert shape_named(Path("models/Qwen2.5-VL-72B-Instruct")) is None
    assert shape_named(Path("models/Qwen2-VL-7B")) is None
    three = count(published_config("3b"))
    assert three.language + three.tower == 3_754_622_976  # of the index of its published weights


def test_states_that_do_not_fit_are_not_put_down_to_rows(capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = say(capsys, STAGE, SEVEN, "--hardware=h100")
    assert status == 1
    assert "configs/strategy/fsdp.yaml" in lines["states"]
    assert not {"update", "playing", "a step"} & set(lines)


def test_processes_on_a_processor_share_its_memory(capsys: pytest.CaptureFixture[str]) -> None:
    words = (STAGE, "--config=configs/strategy/ddp.yaml", "--trainer.accelerator=cpu")
    _, lines = say(capsys, *words, "--trainer.devices=2")
    assert "2 x this cpu: 10.0 GiB" in lines["planned for"]
    assert "of 2 process(es)" in lines["host memory"]
    status, lines = say(capsys, *words, "--trainer.devices=2", "--data.prompts_per_step=1700")
    assert status == 1
    assert "PROBLEM" not in lines["playing"] + lines["update"]  # a process alone has room enough
    assert lines["host memory"].startswith("PROBLEM: ")


def test_keys_in_float32_by_hand() -> None:
    mixed = Recipe(1, sharded=False, lora=False, key_bytes=4)
    assert cache_bytes(mixed, SIZES) == (4 + 2) * 2 * 4
    assert memory(mixed, WORK, SIZES, 30_000).group_cache == 48 * (50 + 2 * 30)
