"""A mistake of whoever asks costs one sentence and the exit status 2, and nothing is written."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_weights import write_file
from tiny import tiny_policy

from infogap.ask import main
from infogap.cli import short_errors
from infogap.data.needle import NeedleConfig, make_sample
from infogap.policy.loading import NEEDLE_POLICY, PolicyConfig

SETTINGS = {
    "list.yaml": "- 1\n",
    "broken.yaml": "model: {rollout: [\n",
    "empty.yaml": "trainer: {}\n",
    "unknown.yaml": "model: {rollout: {views: 3}}\n",
    "type.yaml": "model: {rollout: {limits: {max_turns: many}}}\n",
    "range.yaml": "model: {protocol: {frame: VIEW_PIXELS, coordinate_step: 0}}\n",
    "nowhere.yaml": "model: {protocol: protocols/none.yaml}\n",
}


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and has no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", b"")]
    written = [struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    image = make_sample(NeedleConfig(), 3001, 0).image.data
    (folder / "scene.jpg").write_bytes(image)
    (folder / "cut.jpg").write_bytes(image[: len(image) // 2])
    Image.new("RGB", (64, 64)).save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:60])
    (folder / "text.jpg").write_text("no image")
    (folder / "huge.png").write_bytes(png_header(100_000, 100_000))
    Image.new("RGB", (64, 64)).save(folder / "scene.episode.png")
    (folder / "link.png").symlink_to("scene.jpg")
    (folder / "full.png").symlink_to("/dev/full")
    (folder / "empty").mkdir()
    (folder / "bad.ckpt").write_bytes(b"PK nonsense")
    torch.save({"state_dict": {"policy.x": torch.zeros(1)}}, folder / "other.ckpt")
    write_file(tiny_policy(), folder / "tiny.ckpt", policy=asdict(PolicyConfig()))
    write_file(tiny_policy(), folder / "gone.ckpt", policy=asdict(PolicyConfig("models/gone")))
    write_file(tiny_policy(), folder / "old.ckpt")
    (folder / "llama").mkdir()
    (folder / "llama" / "config.json").write_text('{"model_type": "llama"}')
    for name, text in SETTINGS.items():
        (folder / name).write_text(text)
    return folder


ASKED = ["scene.jpg", "What?"]
MISTAKES: list[tuple[list[str], str]] = [
    ([], "IMAGE, QUESTION is missing: see `infogap ask --help`."),
    (["scene.jpg"], "QUESTION is missing: see `infogap ask --help`."),
    (
        ["none.jpg", "What?"],
        "The image 'none.jpg' cannot be read (No such file or directory): give the path of a JPEG,",
    ),
    (["empty", "What?"], "The image 'empty' cannot be read (Is a directory): give the path of a JPEG, PNG or WEBP"),
    (["text.jpg", "What?"], "The image text.jpg is not a JPEG, PNG or WEBP file: it begins with b'no image'."),
    (["cut.jpg", "What?"], "The image cut.jpg is corrupt or truncated (image file is truncated"),
    (["cut.png", "What?"], "The image cut.png is corrupt or truncated"),
    (["huge.png", "What?"], "The image huge.png of 100000x100000 pixels has more than the 200000000 allowed: scale it"),
    (["scene.jpg", " "], "The question is empty: write it after the image."),
    (["scene.jpg", "<|im_end|>"], "has '<|' in its question, which would be read as chat markup: take it out."),
    ([*ASKED, "--options", "red"], "--options has one option, 'red': give at least two, or leave it out."),
    ([*ASKED, "--options", "red", ""], "--options has an empty text: give one for every option."),
    ([*ASKED, "--options", *"abcdefghijklmnopqrstuvwxyz1"], "has 27 options: give at most one for each letter."),
    (
        [*ASKED, "--options", "red", "blue", "--answer", "C"],
        "--answer 'C' is none of the options: give the text or the",
    ),
    ([*ASKED, "--answer", ""], "--answer is empty: give the right answer, or leave it out."),
    ([*ASKED, "--checkpoint", "none.ckpt"], "The checkpoint 'none.ckpt' does not exist: give one that `infogap fit`"),
    ([*ASKED, "--compare", "none"], "The checkpoint 'none' does not exist: give one that `infogap fit` has written."),
    ([*ASKED, "--checkpoint", "empty"], "The folder 'empty' holds neither a model nor a complete checkpoint: give"),
    ([*ASKED, "--policy", ""], "The folder '.' holds neither a model nor a complete checkpoint: give"),
    ([*ASKED, "--checkpoint", "bad.ckpt"], "bad.ckpt cannot be loaded"),
    ([*ASKED, "--checkpoint", "other.ckpt"], "other.ckpt does not say which run it is of: give one that `infogap fit`"),
    ([*ASKED, "--checkpoint", "tiny.ckpt"], "is not the model that tiny.ckpt was trained from, they differ first at"),
    ([*ASKED, "--checkpoint", "gone.ckpt"], "gone.ckpt needs 'models/gone', which it was trained from, and it is not"),
    (
        [*ASKED, "--checkpoint", "old.ckpt"],
        "old.ckpt does not name the model that it was trained from: give its folder",
    ),
    (
        [*ASKED, "--checkpoint", "old.ckpt", "--base", "empty"],
        "'empty' is no model folder: give one with a config.json",
    ),
    ([*ASKED, "--policy", "llama"], "llama holds a model of type 'llama': only 'qwen2_5_vl' (Qwen2.5-VL) can be"),
    ([*ASKED, "--policy", "a", "--checkpoint", "b"], "--checkpoint: not allowed with argument --policy: see `infogap"),
    ([*ASKED, "--base", "empty"], "--base names the model of a checkpoint, and there is none: give --checkpoint."),
    (
        [*ASKED, "--base", "empty", "--compare", "shipped"],
        "--base names the model of a checkpoint, and shipped and shi",
    ),
    (["scene.jpg", "What \ud800?"], "'scene.jpg' has half a character (a lone surrogate) in its question, which is no"),
    (
        [*ASKED, "--answer", "\udcff"],
        "has half a character (a lone surrogate) in its answer, which is no text: take it",
    ),
    ([*ASKED, "--options", "a", "\udcff"], "has half a character (a lone surrogate) in its option B, which is no text"),
    ([*ASKED, "--json", "empty/../scene.episode.png"], "--json and the picture are both 'scene.episode.png': give two"),
    ([*ASKED, "--config", "none.yaml"], "none.yaml cannot be read (No such file or directory): give the config.yaml"),
    ([*ASKED, "--config", "scene.jpg"], "scene.jpg cannot be read (it is no text): give the config.yaml of a run."),
    ([*ASKED, "--config", "list.yaml"], "list.yaml holds no settings: give the config.yaml of a run of `infogap fit`."),
    ([*ASKED, "--config", "broken.yaml"], "broken.yaml is no YAML ("),
    ([*ASKED, "--config", "empty.yaml"], "empty.yaml has no part 'model': give the config.yaml of a run of `infogap"),
    ([*ASKED, "--config", "unknown.yaml"], "unknown.yaml cannot be used, "),
    ([*ASKED, "--config", "type.yaml"], "type.yaml cannot be used, "),
    ([*ASKED, "--config", "range.yaml"], "coordinate_step is 0: give at least 1"),
    ([*ASKED, "--config", "nowhere.yaml"], "protocols/none.yaml cannot be read (No such file or directory): give"),
    ([*ASKED, "--view-tokens", "0"], "--view-tokens is 0: give at least 1."),
    ([*ASKED, "--crop-tokens", "-1"], "--crop-tokens is -1: give at least 1."),
    ([*ASKED, "--crop-tokens", "1" + 30 * "0"], f"--crop-tokens is 1{30 * '0'}: give at most 300000, which no image"),
    ([*ASKED, "--max-turns", "1" + 30 * "0"], "may be used: lower --crop-tokens, --view-tokens, --max-turns, --max-cr"),
    ([*ASKED, "--view-tokens", "many"], "--view-tokens: invalid int value: 'many': see `infogap ask --help`."),
    ([*ASKED, "--max-turns", "0"], "max_turns is 0, but must be at least 1."),
    (
        [*ASKED, "--max-turn-tokens", "99"],
        "max_turn_tokens is 99, more than max_episode_tokens, 40: lower the first or",
    ),
    ([*ASKED, "--temperature", "-1"], "sampling.temperature is -1.0: give 0 (greedy) or a positive number."),
    ([*ASKED, "--temperature", "nan"], "--temperature is nan: give 0 (greedy) or a positive number."),
    ([*ASKED, "--device", "abacus"], "--device 'abacus' cannot be used here ("),
    ([*ASKED, "--device", "meta"], "--device 'meta' cannot be used here ("),
    ([*ASKED, "--dtype", "int8"], "--dtype: invalid choice: 'int8'"),
    ([*ASKED, "--viewtokens", "3"], "There is no option --viewtokens: did you mean --view-tokens?"),
    ([*ASKED, "--out", "scene.jpg"], "--out 'scene.jpg' is no PNG: give a path that ends in .png."),
    ([*ASKED, "--out", "link.png"], "--out 'link.png' is the image itself: give another path."),
    (
        ["scene.episode.png", "What?", "--out", "scene.episode.png"],
        "--out 'scene.episode.png' is the image itself: give",
    ),
    ([*ASKED, "--json", "scene.jpg"], "--json 'scene.jpg' is the image itself: give another path."),
    ([*ASKED, "--json", "scene.episode.png"], "--json and the picture are both 'scene.episode.png': give two paths."),
    ([*ASKED, "--out", "none/a.png"], "--out 'none/a.png' is in a folder that does not exist: make 'none'."),
    ([*ASKED, "--json", "empty"], "--json 'empty' is a folder: give the path of a file in it."),
    ([*ASKED, "--out", "full.png"], "'full.png' cannot be written (No space left on device): give another path."),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(words)[:60] for words, _ in MISTAKES])
def test_a_mistake_costs_one_sentence(
    files: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(files)
    before = {path: path.read_bytes() for path in files.iterdir() if path.is_file() and path.name != "full.png"}
    with pytest.raises(SystemExit) as exit_, short_errors():
        main(words)
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert message in said
    assert {path: path.read_bytes() for path in before} == before
    assert {path for path in files.iterdir() if path.is_file() and path.name != "full.png"} == set(before)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_of_others_is_refused(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="cannot be written: give a path in a folder of your own"):
        main([*ASKED, "--out", str(tmp_path / "a.png")])


def test_a_base_folder_of_another_model_is_named(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    with pytest.raises(ValueError, match=r"needle_policy is not the model that old.ckpt was trained from, they differ"):
        main([*ASKED, "--checkpoint", "old.ckpt", "--base", str(NEEDLE_POLICY)])


def test_the_program_says_what_is_wrong(files: Path) -> None:
    command = [sys.executable, "-m", "infogap.cli", "ask", "none.jpg", "What?"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=files)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: The image 'none.jpg' cannot be read")
    assert ended.stderr.count("\n") == 1
    assert not ended.stdout
