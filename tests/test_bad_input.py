"""A user's mistake gives one clear sentence; a faulty sample is left out, counted, and training goes on."""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from PIL import Image
from tiny_policy import SCENES, TEXTS, TURN_ENDS, tiny_protocol, tiny_rollout, write_tiny_policy

from infogap import cli
from infogap.data.datamodule import ShardDataModule
from infogap.data.images import ImageError
from infogap.data.manifest import MANIFEST_NAME, load_manifest
from infogap.data.needle_shards import write_needle_shards
from infogap.data.sample import SampleError
from infogap.data.skips import SkipReason
from infogap.episode.protocol import Protocol
from infogap.grpo.module import GRPOModule
from infogap.policy.loading import PolicyConfig, PolicyError, load_policy
from infogap.resolution import ResolutionConfig, ensure_manifest

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


def test_worker_processes_count_and_name_faults_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [("bad", png(), {"schema": 1, "question": "?"}), *((f"sound{n}", png(), SOUND) for n in range(3))]
    folder = str(write_shard(tmp_path / "shards", samples))
    data = ShardDataModule(folder, prompts_per_step=3, num_workers=1)
    batches = iter(data.train_dataloader())
    for _ in range(2):
        data.transfer_batch_to_device(next(batches), torch.device("cpu"), 0)
    assert data.skipped[SkipReason.MISSING_FIELD] >= 1
    with pytest.raises(SampleError) as raised:
        next(iter(ShardDataModule(folder, prompts_per_step=4, num_workers=1, strict=True).train_dataloader()))
    mistake = cli._mistake(raised.value)
    assert mistake is not None
    assert mistake.startswith("Sample 'bad' of the shard ")
    assert "\n" not in mistake


def test_strict_holds_for_resolution_selection_too(policy: Path, tmp_path: Path) -> None:
    samples = [("bad", corrupt_png(), SOUND), *((f"sound{number}", png(), SOUND) for number in range(3))]
    folder = write_shard(tmp_path / "shards", samples)
    settings = (PolicyConfig(str(policy)), Protocol(tiny_protocol()), tiny_rollout(), ResolutionConfig(ladder=(1,)))
    with pytest.raises(ImageError, match="The image bad is corrupt"):
        ensure_manifest(folder, *settings, strict=True)
    ensure_manifest(folder, *settings)
    assert set(load_manifest(folder / MANIFEST_NAME)) == {"sound0", "sound1", "sound2"}


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


def garbage(tmp_path: Path) -> Path:
    (tmp_path / "last.ckpt").write_bytes(b"no checkpoint")
    return tmp_path / "last.ckpt"


def damage(policy: Path, folder: Path, name: str, data: bytes | None) -> Path:
    """A copy of a policy of which one file is missing or another."""
    shutil.copytree(policy, folder)
    (folder / name).unlink()
    if data is not None:
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("config.json", b"{}", "holds a model of type None: only 'qwen2_5_vl'"),
        ("config.json", b'{"model_type": "of-tomorrow"}', "holds a model of type 'of-tomorrow': only 'qwen2_5_vl'"),
        ("config.json", b"{", "config.json cannot be loaded (JSONDecodeError"),
        ("config.json", b"[]", "config.json cannot be loaded"),
        ("model.safetensors", None, "cannot be loaded"),
        ("model.safetensors", b"\x00" * 20, "cannot be loaded"),
        ("preprocessor_config.json", b"{}", "preprocessor_config.json lacks 'image_mean': copy the file"),
        ("preprocessor_config.json", b"{", "preprocessor_config.json cannot be loaded"),
    ],
)
def test_a_damaged_model_folder_is_named_in_one_sentence(
    policy: Path, tmp_path: Path, name: str, data: bytes | None, message: str
) -> None:
    with pytest.raises(PolicyError) as raised:
        load_policy(PolicyConfig(str(damage(policy, tmp_path / "copy", name, data))))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith((".", "trained."))


MISTAKES = {
    "missing shards": ("--data.root={}", no_folder, "nowhere' matches no file: give a folder of shards"),
    "empty shard folder": ("--data.root={}", empty_folder, "holds no *.tar file: give a folder of shards"),
    "missing model": ("--model.policy.path={}", no_folder, "is no model folder: give one with a config.json"),
    "other model": ("--model.policy.path={}", other_model, "holds a model of type 'llama': only 'qwen2_5_vl'"),
    "missing weights": ("--model.init_from={}", no_folder, "nowhere' does not exist: give a checkpoint or a model"),
    "garbage for weights": ("--model.init_from={}", garbage, "cannot be loaded"),
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
        (
            "--model.rollout.group_sise=4",
            "There is no field model.rollout.group_sise: did you mean model.rollout.group_size?",
        ),
        ("--modle.init_from=4", "There is no option --modle.init_from: did you mean --model.init_from?"),
        ("--model.optim.lr=-1", "optim.lr is -1.0: give a positive number."),
        ("--model.optim.lr=fast", "model.optim.lr is 'fast': give a number."),
        (
            "--model.algorithm.scale_rewards=banana",
            "model.algorithm.scale_rewards is 'banana': give one of group, batch, none.",
        ),
        ("--model.rollout.view.budget=0", "view.budget 0"),
        ("--trainer.callbacks=[EpisodeLoger]", "there is no class EpisodeLoger: did you mean EpisodeLogger?"),
        ("--config=/nowhere.yaml", "there is no file /nowhere.yaml: correct its path."),
    ],
)
def test_the_parser_names_the_key_and_stops(
    argument: str, message: str, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        program(monkeypatch, config, argument)
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("error: ") and message in line] == lines[-1:]
    assert "usage:" not in lines
    assert "Traceback" not in lines


def test_an_unknown_field_of_a_file_is_named(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = yaml.safe_load(config.read_text())
    limits = values["model"]["rollout"]["limits"]
    limits["max_trun_tokens"] = limits.pop("max_turn_tokens")
    (tmp_path / "typo.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(SystemExit):
        program(monkeypatch, tmp_path / "typo.yaml")
    assert "max_trun_tokens" in capsys.readouterr().err.splitlines()[-1]


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
