"""README as its reader uses it: every command of its code blocks is run, in its order, each made small."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import benchmark_files
import pytest
import training_files
from PIL import Image, ImageChops

from infogap.cli import main
from infogap.data.needle import NeedleConfig, make_samples
from infogap.data.writing import write_shards
from infogap.policy.loading import NEEDLE_POLICY

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()

FIT = [
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.val_check_interval=2",
    "--trainer.num_sanity_val_steps=0",
    "--data.prompts_per_step=2",
    "--model.rollout.group_size=2",
]
NEEDLE_FIT = [*FIT, "--data.needle.count=12", "--data.needle.val_count=4"]
TEST = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
SHORT = ["--model.play.limits={max_turns: 2, max_crops: 1, max_turn_tokens: 8, max_episode_tokens: 16}"]
SHORTER = ["--model.rollout.limits={max_turns: 2, max_crops: 1, max_turn_tokens: 8, max_episode_tokens: 16}"]
BUDGET = ["--model.rollout.view={mode: budget, budget: 64}", "--data.require_view_tokens=false"]
TRACES = ["--boxes", "traces.jsonl"]

SMALL: dict[str, list[str]] = {
    "infogap fit --config configs/stage1.yaml --config": [*FIT, *SHORTER, *BUDGET],
    "infogap fit --config configs/stage1.yaml --ckpt_path": [*NEEDLE_FIT, "--trainer.limit_train_batches=3"],
    "infogap fit --config configs/stage2.yaml": [*NEEDLE_FIT, "--data.limit=2"],
    "infogap fit": NEEDLE_FIT,
    "infogap test --config configs/eval/needle.yaml": [*TEST, "--data.needle.count=8", "--data.batch_size=8"],
    "infogap test --config configs/eval/vstar.yaml": [*TEST, *SHORT, "--model.policy={path: needle, dtype: float32}"],
    "infogap data filter": ["--min-side", "1"],
    "python data_scripts/convert.py": TRACES,
}
"""What makes a command small: the words after the first beginning here that it has are added to it."""

ELSEWHERE = {
    "pip install -e '.[dev]' && pytest": (".ci/run", "test_command"),
    "pip install -e .": (".ci/run", "pip install"),
    "python data_scripts/reproduce_needle.py --readme README.md": (
        "tests/test_data_scripts.py",
        "test_the_results_can_be_reproduced",
    ),
}
"""Commands that are run by another test, too large for this one: the file that does, and what it is called there."""


def commands() -> Iterator[str]:
    """Every command of the page's code blocks, in one line each, by the name that the installed program has."""
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            command = " ".join(line.partition(" #")[0].split()).replace("python -m infogap.cli", "infogap")
            if command:
                yield command


def small(command: str) -> list[str]:
    """Words that are added to a command."""
    return next((words for beginning, words in SMALL.items() if command.startswith(beginning)), [])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader has it: the repository, a downloaded model, a benchmark and a training set, all small."""
    home = tmp_path_factory.mktemp("home")
    for name in ("configs", "data_scripts", "docs", "tests"):
        (home / name).symlink_to(ROOT / name)
    (home / "models").mkdir()
    shutil.copytree(NEEDLE_POLICY, home / "models" / "Qwen2.5-VL-7B-Instruct")
    training_files.mini_o3(home / "downloads" / "VisualProbe_train")
    benchmark_files.write_json_lines(home / "traces.jsonl", training_files.search_sessions())
    benchmark_files.vstar_annotations(home / "benchmarks" / "vstar")
    write_shards(make_samples(NeedleConfig(), 5, 12), home / "data" / "train", samples_per_shard=12)
    return home


def run(words: list[str]) -> None:
    """Run a command in this process, as the shell would in its own."""
    match words:
        case ["infogap", "fit", *rest] if any("fsdp" in word for word in rest):  # leaves a process group behind
            subprocess.run([sys.executable, "-m", "infogap.cli", "fit", *rest], check=True)
        case ["infogap", *rest]:
            main(rest)
        case ["python", script, *rest] if script.startswith("data_scripts/"):
            sys.argv = [script, *rest]
            runpy.run_path(script, run_name="__main__")
        case ["tensorboard", *rest]:
            show_in_tensorboard(rest)
        case _:
            pytest.fail(f"README names a command that this test cannot run: {shlex.join(words)}")


def show_in_tensorboard(words: list[str]) -> None:
    """Start the program, wait until it serves, and end it."""
    program = [sys.executable, "-m", "tensorboard.main", *words, "--port=0", "--load_fast=false"]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        served = any("http://" in line for line in server.stderr)
        server.terminate()
    assert served


@pytest.mark.filterwarnings("ignore")  # what a run warns of is other tests' concern; TensorBoard's own are not ours
def test_every_command_runs_in_the_order_of_the_page(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "argv", ["infogap"])
    monkeypatch.syspath_prepend(str(ROOT / "data_scripts"))
    for command in commands():
        if command in ELSEWHERE:
            continue
        if command.startswith("infogap data filter"):  # makes the folder that the training above was given
            shutil.rmtree("data/train")
        run([*shlex.split(command), *small(command)])
    made = ("runs/stage2/checkpoints", "runs/control/checkpoints", "models/focused", "runs/eval/vstar/results.json")
    assert [name for name in made if not os.path.exists(name)] == []
    assert list((home / "data" / "train").glob("*.tar"))
    check_pictures(home / "runs" / "stage1", home)


def check_pictures(run: Path, folder: Path) -> None:
    """See that the script that drew the page's pictures still draws them."""
    runpy.run_path("data_scripts/draw_readme_picture.py")["draw"](run, folder)
    scene = Image.open(folder / "needle_scene.png")
    assert ImageChops.difference(scene, Image.open(ROOT / "docs/images/needle_scene.png")).getbbox() is None
    assert Image.open(folder / "episode.png").width == Image.open(ROOT / "docs/images/episode.png").width
    assert '"What digit is on the red sign?"' in README


def test_what_is_run_elsewhere_is() -> None:
    found = list(commands())
    for command, (file, name) in ELSEWHERE.items():
        assert command in found
        assert name in (ROOT / file).read_text()
    assert len(found) > 15


def test_every_small_setting_belongs_to_a_command() -> None:
    used = [beginning for beginning in SMALL if any(command.startswith(beginning) for command in commands())]
    assert used == list(SMALL)


def test_every_extra_that_is_named_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"pip install -e '\.\[(\w+)\]'", README)) <= set(extras)


def pages() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "notebooks").glob("*.md")])


@pytest.mark.parametrize("page", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"`((?:infogap|configs|data_scripts|tests|docs|notebooks)/[\w./-]+\.\w+)", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []
