"""A user's mistake gives one clear sentence; a faulty sample is left out, counted, and training goes on."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Trainer
from PIL import Image
from tiny_policy import SCENES, TEXTS, TURN_ENDS, tiny_protocol, tiny_rollout, write_tiny_policy

from infogap import cli
from infogap.data.datamodule import ShardDataModule
from infogap.data.images import ImageError
from infogap.data.needle import write_needle_shards
from infogap.data.sample import SampleError
from infogap.data.skips import SkipReason
from infogap.grpo.module import GRPOModule
from infogap.policy.model import PolicyConfig, PolicyError

SOUND = {"schema": 1, "question": "What is it?", "answer": "3"}


def png(width: int = 56, height: int = 56) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((width, height), 80).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def corrupt_png() -> bytes:
    """Sound header and end, but pixels that cannot be unpacked."""
    data = bytearray(png())
    start = data.find(b"IDAT") + 40
    data[start : start + 200] = bytes(200)
    return bytes(data)


def corrupt_jpeg() -> bytes:
    """Sound header and end, but the tables that the scan needs are gone."""
    buffer = io.BytesIO()
    Image.effect_noise((56, 56), 80).convert("RGB").save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    table = data.find(b"\xff\xc4") + 4
    data[table : table + 17] = b"\x00" + b"\xff" * 16
    return bytes(data)


def huge_png() -> bytes:
    """A few bytes that declare 25,000 x 20,000 pixels."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 25_000, 20_000, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in chunks:
        data += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return data


def write_shard(folder: Path, samples: Sequence[tuple[str, bytes, dict[str, object]]]) -> Path:
    folder.mkdir()
    with tarfile.open(folder / "shard-000000.tar", "w") as archive:
        for key, image, fields in samples:
            for suffix, data in (("png", image), ("json", json.dumps(fields).encode())):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return folder


FAULTS = {
    "corrupt PNG": (corrupt_png(), SOUND, SkipReason.BAD_IMAGE, "The image bad is corrupt or truncated"),
    "corrupt JPEG": (corrupt_jpeg(), SOUND, SkipReason.BAD_IMAGE, "The image bad is corrupt or truncated"),
    "cut off": (png()[:-30], SOUND, SkipReason.BAD_IMAGE, "is cut off: write it again"),
    "huge header": (huge_png(), SOUND, SkipReason.BAD_IMAGE, "25000x20000 pixels has more than the 200000000 allowed"),
    "no answer": (png(), {"schema": 1, "question": "?"}, SkipReason.MISSING_FIELD, "answer"),
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_policy(tmp_path_factory.mktemp("policy"))


def train(policy: Path, data: ShardDataModule, steps: int = 3) -> GRPOModule:
    model = GRPOModule(PolicyConfig(str(policy)), tiny_protocol(), tiny_rollout(group_size=2))
    validation = 0 if data.val_root is None else 2
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, limit_train_batches=steps, limit_val_batches=validation, logger=False, **quiet
    )
    trainer.fit(model, data)
    return model


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_sample_is_left_out_and_counted_or_raised_if_strict(fault: str, policy: Path, tmp_path: Path) -> None:
    image, fields, reason, message = FAULTS[fault]
    samples = [("bad", image, fields), *((f"sound{number}", png(), SOUND) for number in range(3))]
    folder = str(write_shard(tmp_path / "shards", samples))
    data = ShardDataModule(folder, folder, prompts_per_step=4)
    assert train(policy, data).rollout_step == 3
    assert data.skipped[reason] >= 2
    assert set(data.skipped) == {reason}
    with pytest.raises((SampleError, ImageError), match=message) as raised:
        train(policy, ShardDataModule(folder, prompts_per_step=4, strict=True))
    assert "bad" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_batch_of_faulty_samples_is_passed_over(policy: Path, tmp_path: Path) -> None:
    samples = [("bad", corrupt_png(), SOUND), ("sound", png(), SOUND)]
    data = ShardDataModule(str(write_shard(tmp_path / "shards", samples)), prompts_per_step=1)
    assert train(policy, data).rollout_step == 3
    assert set(data.skipped) == {SkipReason.BAD_IMAGE}


@pytest.fixture(scope="module")
def config(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration that works."""
    folder = tmp_path_factory.mktemp("config")
    write_needle_shards(SCENES, folder / "train", count=4, seed=0)
    values = {
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 0}
        | {"default_root_dir": str(folder / "runs")}
        | dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False),
        "model": {
            "policy": {"path": str(policy)},
            "protocol": TEXTS | {"frame": "RELATIVE_1000", "turn_end_texts": list(TURN_ENDS)},
            "rollout": {
                "group_size": 2,
                "view": {"mode": "budget", "budget": 4},
                "crop": {"max_tokens": 4, "min_tokens": 4},
                "limits": {"max_turn_tokens": 4, "max_episode_tokens": 10},
            },
        },
        "data": {"root": str(folder / "train"), "prompts_per_step": 2},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def program(monkeypatch: pytest.MonkeyPatch, config: Path, *arguments: str) -> None:
    """Run as `infogap fit ...` does, in this process."""
    monkeypatch.setattr(sys, "argv", ["infogap", "fit", f"--config={config}", *arguments])
    cli.main()


def no_folder(tmp_path: Path) -> Path:
    return tmp_path / "nowhere"


def empty_folder(tmp_path: Path) -> Path:
    return tmp_path


def other_model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    return tmp_path


MISTAKES = {
    "missing shards": ("--data.root={}", no_folder, "nowhere' matches no file: give a folder of shards"),
    "empty shard folder": ("--data.root={}", empty_folder, "holds no *.tar file: give a folder of shards"),
    "missing model": ("--model.policy.path={}", no_folder, "is no model folder: give one with a config.json"),
    "other model": ("--model.policy.path={}", other_model, "holds a model of type 'llama': only 'qwen2_5_vl'"),
    "missing weights": ("--model.init_from={}", no_folder, "nowhere' does not exist: give a checkpoint or a model"),
    "lonely episodes": ("--model.rollout.group_size=1", no_folder, "rollout.group_size is 1: GRPO compares"),
    "no batch": ("--data.prompts_per_step=0", no_folder, "data.prompts_per_step is 0: give at least 1."),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_the_program_one_line(
    mistake: str, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argument, make, message = MISTAKES[mistake]
    with pytest.raises(SystemExit) as stopped:
        program(monkeypatch, config, argument.format(make(tmp_path)))
    assert stopped.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert lines[0].endswith((".", "trained."))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--model.rollout.group_sise=4", "group_sise"),
        ("--model.optim.lr=-1", "optim.lr"),
        ("--model.algorithm.scale_rewards=banana", "banana"),
        ("--model.rollout.view.budget=0", "view.budget 0"),
    ],
)
def test_the_parser_names_the_key_and_stops(
    argument: str, message: str, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        program(monkeypatch, config, argument)
    assert stopped.value.code == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors


def test_a_call_from_python_raises(config: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="matches no file"):
        cli.main(["fit", f"--config={config}", f"--data.root={tmp_path}/nowhere"])
    with pytest.raises(PolicyError, match="is no model folder"):
        cli.main(["fit", f"--config={config}", f"--model.policy.path={tmp_path}/nowhere"])


def test_an_error_of_a_library_keeps_its_traceback(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        json.loads("{")

    monkeypatch.setattr(GRPOModule, "configure_optimizers", broken)
    with pytest.raises(json.JSONDecodeError):
        program(monkeypatch, config)


def test_the_program_prints_no_traceback(config: Path, tmp_path: Path) -> None:
    arguments = ["fit", f"--config={config}", f"--data.root={tmp_path}/nowhere"]
    run = subprocess.run(
        [sys.executable, "-m", "infogap.cli", *arguments], cwd=Path(cli.__file__).parents[1], capture_output=True
    )
    errors = run.stderr.decode()
    assert run.returncode == 2, errors
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("error: The path ")
