"""`infogap doctor`: what it says of a machine, of packages, and of what a run would take."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from infogap import doctor
from infogap.data.needle import NeedleConfig
from infogap.data.needle_shards import write_needle_shards
from infogap.doctor import machine, packages
from infogap.doctor.budget import Recipe, Workload, memory, step_time, trained_weights
from infogap.doctor.findings import Level
from infogap.doctor.hardware import TABLE, Hardware, find_hardware, measure
from infogap.doctor.machine import Device, devices, look_at_attention, look_at_machine
from infogap.doctor.named import count_header
from infogap.doctor.packages import within
from infogap.doctor.sizes import Sizes, count
from infogap.policy.loading import NEEDLE_POLICY, PolicyConfig, load_policy
from infogap.policy.vocabulary import PolicyError

ROOT = Path(__file__).resolve().parents[1]
STAGE = "--config=configs/stage1.yaml"


@pytest.fixture(autouse=True)
def _root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_needle_shards(NeedleConfig(), folder, count=2, seed=0)
    return folder


def say(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, str]]:
    """The exit status, and the lines of the report by their subjects."""
    capsys.readouterr()
    status = 0
    try:
        doctor.main(words)
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    lines: dict[str, str] = {}
    subject = ""
    for line in capsys.readouterr().out.splitlines():
        if line.startswith("  ") and len(line) > 22:
            subject = line[2:22].strip() or subject
            lines[subject] = f"{lines.get(subject, '')} {line[22:].strip()}".strip()
    return status, lines


def fake_cuda(
    monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int], gib: int, count: int = 1
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name=name))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (gib << 30, gib << 30))


def test_a_run_that_works(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = say(capsys, STAGE, f"--data.root={shards}", "--data.needle=null", "--trainer.accelerator=cpu")
    assert status == 0
    assert "1.4 million weights in 1 file(s)" in lines["model"]
    assert lines["data"].startswith(f"{shards}: 1 shards, 2 samples")
    assert "select_resolution.py" in lines["views"]
    assert lines["trained"] == "0.82 million weights; the model has 1.41 million"
    assert "1 x this cpu" in lines["planned for"]
    assert re.match(r"about \d+\.\d s \(playing ", lines["a step"])
    assert "for 300 steps" in lines["the run"]
    assert "3 at a time in runs/stage1/checkpoints" in lines["checkpoints"]


def test_what_cannot_work_is_named_and_the_status_is_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (STAGE, f"--model.policy.path={tmp_path}", f"--data.root={tmp_path}/no", "--data.needle=null")
    more = (f"--model.init_from={tmp_path}/gone", "--trainer.devices=3", "--hardware=h100")
    status, lines = say(capsys, *words, *more)
    assert status == 1
    for subject in ("model.policy.path", "data.root", "model.init_from", "trainer.strategy", "prompts_per_step"):
        assert lines[subject].startswith("PROBLEM: "), subject
    assert "config.json is enough" in lines["costs"]


def test_what_does_not_fit_names_the_field(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (STAGE, f"--data.root={shards}", "--data.needle=null", "--hardware=h100")
    status, lines = say(capsys, *words, "--model.rollout.cache_gib=0.001")
    assert status == 1
    assert "not one group fits: lower model.rollout.group_size" in lines["playing"]
    status, lines = say(capsys, *words, "--model.algorithm.row_tokens=100000000")
    assert status == 1
    assert "lower model.algorithm.row_tokens" in lines["update"]
    status, lines = say(capsys, *words, "--trainer.limit_train_batches=null")
    assert (status, "has no end" in lines["the run"]) == (0, True)


def test_a_gpu_of_the_table_is_planned_for(
    shards: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cuda(monkeypatch, "NVIDIA H100 80GB HBM3", (9, 0), 79)
    status, lines = say(capsys, STAGE, f"--data.root={shards}", "--data.needle=null")
    assert status == 0
    assert lines["cuda:0"] == "NVIDIA H100 80GB HBM3, 79.0 GiB, 79.0 GiB free, compute capability 9.0"
    assert "FlexAttention" in lines["attention"]
    assert "varlen_attn" in lines["vision tower"]
    assert lines["bfloat16"] == "computed by the cuda itself"
    assert "1 x h100: 79.0 GiB, 396 Tflop/s" in lines["planned for"]
    assert "set it to bf16-mixed" in lines["trainer.precision"]
    status, lines = say(capsys, STAGE, f"--data.root={shards}", "--data.needle=null", "--trainer.devices=2")
    assert (status, "this machine has 1" in lines["trainer.devices"]) == (1, True)


def test_an_old_gpu_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cuda(monkeypatch, "Tesla V100-SXM2-16GB", (7, 0), 16, count=2)
    found = devices()
    assert [(each.name, each.bfloat16, each.flash) for each in found] == [("Tesla V100-SXM2-16GB", False, False)] * 2
    lines = {each.subject: each for each in look_at_machine(found, ROOT)}
    assert lines["attention"].level is Level.WARNING
    assert "compute capability 7.0 is below 8.0" in lines["attention"].text
    assert lines["bfloat16"].level is Level.WARNING
    assert {"cuda:0", "cuda:1"} <= set(lines)
    assert [each.kind for each in devices("cpu")] == ["cpu"]


def test_a_gpu_that_others_use_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cuda(monkeypatch, "NVIDIA A100-SXM4-80GB", (8, 0), 80)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10 << 30, 80 << 30))
    line = next(each for each in look_at_machine(devices(), ROOT) if each.subject == "cuda:0")
    assert line.level is Level.WARNING
    assert "10.0 GiB free" in line.text


def test_a_processor_attends_without_flash() -> None:
    (line,) = look_at_attention(Device("cpu", "processor", 1.0, 1.0))
    assert "PackedAttention" in line.text
    assert "are for CUDA" in line.text


def test_names_of_devices() -> None:
    assert find_hardware("NVIDIA H100 80GB HBM3") is TABLE["h100"]
    assert find_hardware("NVIDIA H100 PCIe") is TABLE["h100-pcie"]
    assert find_hardware("NVIDIA A100-PCIE-40GB") is TABLE["a100-40gb"]
    assert find_hardware("NVIDIA A100-SXM4-80GB") is TABLE["a100"]
    assert find_hardware("NVIDIA GeForce RTX 4090") is TABLE["rtx4090"]
    assert find_hardware("NVIDIA A10") is TABLE["a10"]
    assert find_hardware("Tesla V100") is None


@pytest.mark.parametrize(
    ("installed", "bounds", "fits"),
    [
        ("2.13.0+cpu", ">=2.11,<2.14", True),
        ("2.14.0", "<2.14,>=2.11", False),
        ("2.6.3", "<2.7,>=2.6.4", False),
        ("3.11.7", ">=3.11", True),
        ("1.0", ">=1.0,<2", True),
        ("1", "==1.0.0", True),
        ("10.1", ">=9.2", True),
        ("5.0rc1", "", True),
    ],
)
def test_bounds_of_a_version(installed: str, bounds: str, fits: bool) -> None:
    assert within(installed, bounds) is fits


def test_packages_out_of_bounds_or_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["torch<2.14,>=2.11", "lightning<2.7", "peft", 'pyarrow>=15; extra == "data"', "ruff; extra == 'dev'"]
    monkeypatch.setattr(packages, "requires", lambda _: declared)
    there = {"torch": "2.13.0", "lightning": "2.9.0"}

    def version(name: str) -> str:
        if name not in there:
            raise packages.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(packages, "version", version)
    found = {each.subject: each for each in packages.look_at_packages()}
    assert found["lightning"].level is Level.WARNING
    assert "pip install 'lightning<2.7'" in found["lightning"].text
    assert found["peft"].level is Level.PROBLEM
    assert (found["pyarrow"].level, "infogap" in found["pyarrow"].text) == (Level.WARNING, False)
    assert found["packages"].text == "torch 2.13.0"
    assert "ruff" not in found


def test_weights_are_counted_as_they_are() -> None:
    """Against the policy itself, loaded."""
    from transformers import Qwen2_5_VLConfig

    config = Qwen2_5_VLConfig.from_pretrained(NEEDLE_POLICY, local_files_only=True)
    sizes = count(config)
    policy = load_policy(PolicyConfig(vision_tower="frozen"))
    trained = sum(p.numel() for _, p in policy.named_parameters() if p.requires_grad)
    total = sum(p.numel() for _, p in policy.named_parameters())
    assert (sizes.language, sizes.language + sizes.tower) == (trained, total)
    assert trained_weights(Recipe(1, sharded=False, lora=False), sizes) == trained
    assert count_header(NEEDLE_POLICY / "model.safetensors") == total


def test_the_header_of_weights(tmp_path: Path) -> None:
    header = json.dumps({"a": {"shape": [2, 3]}, "b": {"shape": []}, "__metadata__": {"x": "y"}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    assert count_header(path) == 7
    for damaged in (b"", struct.pack("<Q", 1 << 60) + b"{}", struct.pack("<Q", 2) + b"[]"):
        path.write_bytes(damaged)
        with pytest.raises(PolicyError, match="copy the file again"):
            count_header(path)


SIZES = Sizes(
    language=1000, tower=100, layer=200, ends=600, adapters=50, tower_adapters=5, layers=2, width=10, inner=20,
    vocabulary=30, key_width=4,
)  # fmt: skip
WORK = Workload(prompts=4, group=2, prompt=50, view=40, written=10, longest=20, crops=1, crop=5, slot=30, row=100)


def test_memory_by_hand() -> None:
    held = memory(Recipe(2, sharded=True, lora=False), WORK, SIZES, device_bytes=30_000)
    assert held.states == 16 * 1000 / 2 + 4 * 100
    assert held.gathered == 2 * 1000
    assert held.images == 2 * 10 * (4 * (40 + 2 * 5) / 2)
    assert held.cache == pytest.approx(0.7 * (30_000 - 8400 - 2000 - 2000))
    assert held.group_cache == 2 * 2 * 2 * 4 * (50 + 2 * 30)
    assert held.update == 2 * 100 * (2 * 10 + 10 * 10 + 6 * 20) + 12 * 100 * 30 + 2 * (600 + 400)
    assert held.checkpoint == 12 * 1000 + 4 * 100
    assert held.machine == 2 * (4 * 1100 + 18816 * 100)
    lora = memory(Recipe(1, sharded=False, lora=True, weight_bytes=2, frozen_bytes=2), WORK, SIZES, 30_000)
    assert lora.states == 16 * 50 + 2 * 1100
    reference = memory(Recipe(1, sharded=False, lora=False, reference=True), WORK, SIZES, 30_000)
    assert reference.states == 16 * 1000 + 4 * 100 + 4 * 1100


def test_time_by_hand() -> None:
    on = Hardware("a device", 1e9, matmul=1000.0, copy=100.0)
    seconds = step_time(Recipe(1, sharded=False, lora=False), WORK, SIZES, cache=2 * 2 * 2 * 2 * 4 * 110, on=on)
    assert seconds.waves == 2
    assert seconds.update == pytest.approx(8 * 400 * WORK.tokens / 1000)
    held = 2 * (50 + 2 * (5 + 5)) * 32
    read = 10 * (2000 + held) + 10 * 2000
    assert seconds.rollout == pytest.approx(2 * read / 100 + 2 * 400 * 4 * (50 + 10) / 1000)
    assert seconds.vision == pytest.approx(2 * 100 * 4 * 200 / 1000)
    assert seconds.step == pytest.approx(seconds.rollout + seconds.vision + seconds.update)


def test_a_processor_is_measured() -> None:
    found = measure("cpu", 1e9, seconds=0.02)
    assert found.measured
    assert 1e8 < found.matmul < 1e14
    assert 1e7 < found.copy < 1e13
    assert 0 < found.operation_s < 0.1


def test_the_readme_has_the_table_of_the_recipes() -> None:
    script = ROOT / "tests" / "benchmarks" / "recipe_budget.py"
    run = subprocess.run([sys.executable, str(script)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(run.stdout.splitlines()) == 11
    assert run.stdout in (ROOT / "README.md").read_text()


def test_disk_is_that_of_the_nearest_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda where: usage(3, 2, 1) if where == tmp_path else None)
    assert machine.free_disk(tmp_path / "runs" / "new") == (tmp_path, 1)
