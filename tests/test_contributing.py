"""The pages for contributors are run as they stand: their files are written, their commands are called."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from infogap.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "contributing"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: a file if it has a title, else commands if it is of bash."""

    language: str
    title: str
    text: str


def blocks_of(page: str) -> list[Block]:
    found = [Block(*match.groups(default="")) for match in BLOCK.finditer((PAGES / page).read_text())]
    assert len(found) * 2 == len(re.findall(r"^```", (PAGES / page).read_text(), re.MULTILINE)), "a block is not read"
    return found


def change(path: Path, difference: str) -> None:
    """Apply a block of kind diff: lines that begin with a plus are new, one with a minus are gone, others stay."""
    lines = difference.splitlines()
    old = "\n".join(line[1:] for line in lines if not line.startswith("+"))
    new = "\n".join(line[1:] for line in lines if not line.startswith("-"))
    text = path.read_text()
    assert text.count(old) == 1, f"{path.name} has changed: the page's difference does not apply"
    path.write_text(text.replace(old, new))


def follow(page: str, folder: Path) -> None:
    """Do what a page says, from its first block to its last, in a folder."""
    # the folder's own package, if it has one, and not that which runs this test
    python_path = os.pathsep.join([str(folder), str(ROOT)])
    environment = os.environ | {
        "PYTEST_ADDOPTS": "",  # of the run that this test is part of, such as how much must be covered
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": python_path,
    }
    for block in blocks_of(page):
        target = folder / block.title
        if block.language == "diff":
            change(target, block.text)
        elif block.title:
            assert target.resolve().is_relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text)
        elif block.language == "bash":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block.text], cwd=folder, env=environment, capture_output=True
            )
            assert done.returncode == 0, f"{block.text}\n{done.stdout.decode()[-3000:]}\n{done.stderr.decode()[-3000:]}"


# --- a reward ---


@pytest.fixture(scope="module")
def rewarded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the page on rewards was followed."""
    folder = tmp_path_factory.mktemp("rewarded")
    (folder / "configs").symlink_to(ROOT / "configs")
    follow("reward.md", folder)
    return folder


@pytest.fixture
def inside(rewarded: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with the reward in reach of this process."""
    monkeypatch.chdir(rewarded)
    monkeypatch.syspath_prepend(str(rewarded))
    return rewarded


FIT = ("fit", "--config=configs/stage1.yaml", "--config=crop_area_cost.yaml", "--config=few.yaml")


def scalars(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def values(found: EventAccumulator, tag: str) -> list[float]:
    return [event.value for event in found.Scalars(tag)]


def test_every_tag_that_the_page_names_is_written(rewarded: Path) -> None:
    found = scalars(rewarded / "runs" / "stage1")
    named = re.findall(r"^\| `([^`]+)` \|", (PAGES / "reward.md").read_text(), re.MULTILINE)
    assert "reward/crop_area_cost" in named
    assert set(named) <= set(found.Tags()["scalars"])
    assert values(found, "weight/crop_area_cost") == pytest.approx([0.2, 0.2])


def test_the_column_is_that_of_the_episodes(rewarded: Path) -> None:
    lines = (rewarded / "runs" / "stage1" / "episodes" / "rank_0.jsonl").read_text().splitlines()
    episodes = [json.loads(line) for line in lines]
    for step, logged in enumerate(values(scalars(rewarded / "runs" / "stage1"), "reward/crop_area_cost")):
        costs = []
        for episode in (episode for episode in episodes if episode["rollout_step"] == step):
            width, height = episode["original_size"]
            crops = [turn["crop"] for turn in episode["turns"] if turn["crop"] is not None]
            costs.append(-sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in crops) / (width * height))
            assert episode["rewards"]["crop_area_cost"] == pytest.approx(costs[-1])
            weights = {"accuracy": 0.8, "format": 0.2, "tool": 1.2, "grounding": 0.0, "crop_area_cost": 0.2}
            total = sum(weights[name] * score for name, score in episode["rewards"].items())
            assert episode["total"] == pytest.approx(total)
        assert min(costs) < 0
        assert logged == pytest.approx(sum(costs) / len(costs))


def test_the_class_is_in_the_saved_configuration(rewarded: Path) -> None:
    saved = yaml.safe_load((rewarded / "runs" / "stage1" / "config.yaml").read_text())
    expected = {"class_path": "my_rewards.CropAreaCost", "init_args": {"weight": 0.2}}
    assert saved["model"]["rewards"]["extra"] == [expected]


def test_a_saved_configuration_runs_again(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = "runs/stage1/checkpoints/last.ckpt"
    main(["validate", "--config=runs/stage1/config.yaml", f"--ckpt_path={checkpoint}"])
    assert "eval/reward_crop_area_cost" in capsys.readouterr().out


def test_a_run_goes_on_with_the_same_rewards_only(inside: Path) -> None:
    resumed = ("--ckpt_path=runs/stage1/checkpoints", "--trainer.max_epochs=2", "--trainer.logger.init_args.name=again")
    with pytest.raises(ValueError, match=r"with the rewards accuracy, .*, crop_area_cost, but this one has accuracy"):
        main([*FIT, *resumed, "--model.rewards.extra=[]"])
    main([*FIT, *resumed])
    assert values(scalars(inside / "runs" / "again"), "clock/rollout_step") == [2, 3]


def printed(*more: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    """The rewards of one's own that a command would run with."""
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config=configs/stage1.yaml", *more, "--print_config"])
    assert stopped.value.code == 0
    found: list[dict[str, object]] = yaml.safe_load(capsys.readouterr().out)["model"]["rewards"]["extra"]
    return found


def test_the_line_on_the_command_line_is_that_in_the_file(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (PAGES / "reward.md").read_text()
    words = re.search(r"`(--model\.rewards\.extra\+=[^`]+)`", page)
    assert words is not None
    in_file = printed("--config=crop_area_cost.yaml", capsys=capsys)
    assert printed(*words[1].split(), capsys=capsys) == in_file
    added = printed("--config=crop_area_cost.yaml", "--model.rewards.extra+=my_rewards.CropAreaCost", capsys=capsys)
    assert added == [*in_file, {"class_path": "my_rewards.CropAreaCost", "init_args": {"weight": 1.0}}]
    over = printed("--model.rewards.extra+=my_rewards.CropAreaCost", "--config=crop_area_cost.yaml", capsys=capsys)
    assert over == in_file


BAD = """\
from infogap.episode.extra_reward import ExtraReward

class Cost(ExtraReward):
    name = "cost"
    def __call__(self, episode, sample):
        return 0.0

class Unnamed(Cost):
    name = None

class Spaced(Cost):
    name = "crop area"

class Accuracy(Cost):
    name = "accuracy"

class Endless(Cost):
    name = "endless"
    def __call__(self, episode, sample):
        return float("inf")

class Elsewhere:
    pass
"""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("=nowhere_at_all.Cost", "nowhere_at_all"),
        ("=bad_rewards.Missing", "Missing"),
        ("=bad_rewards.Elsewhere", "Elsewhere"),
        (
            "=bad_rewards.Unnamed",
            r"The reward class bad_rewards\.Unnamed has no name: set its attribute `name`\.$",
        ),
        (
            "=bad_rewards.Spaced",
            r"bad_rewards\.Spaced has the name 'crop area', which cannot be part of a metric",
        ),
        ("=bad_rewards.Accuracy", r"^error: Two rewards are called accuracy: rename one of them\.$"),
        ("=bad_rewards.Endless", r"^error: The reward endless of the sample 'needle-.*' is inf, but must be a finite"),
        ("=bad_rewards.Cost --model.rewards.extra.weight=.nan", r"^error: The weight of the reward cost is nan, but"),
        ("=bad_rewards.Cost --model.rewards.extra.wait=1", r"wait"),
        ("=bad_rewards.Cost --model.rewards.extra.weight=much", r"weight.*much"),
    ],
)
def test_a_mistake_costs_one_line(
    inside: Path, capsys: pytest.CaptureFixture[str], words: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inside / "bad_rewards.py").write_text(BAD)
    monkeypatch.setattr(sys, "argv", ["infogap", *FIT, *f"--model.rewards.extra+{words}".split()])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert re.search(message, errors[0]), errors[0]


# --- a benchmark ---


@pytest.mark.parametrize("page", ["benchmark.md", "model_family.md"])
def test_a_page_works_in_a_copy_of_the_package(page: str, tmp_path: Path) -> None:
    for name in ("infogap", "tests", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    follow(page, tmp_path)


def test_all_pages_are_run() -> None:
    assert {path.name for path in PAGES.iterdir()} == {"reward.md", "benchmark.md", "model_family.md"}
