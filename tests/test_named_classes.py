"""A mistake in a class that a configuration names, in the shape of a value or in a file: one sentence each."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from infogap import cli
from infogap.parser.messages import explain

ROOT = Path(__file__).resolve().parents[1]
REWARDS = """\
from infogap.episode.extra_reward import ExtraReward

class Silent(ExtraReward):
    name = "silent"

class Fine(Silent):
    def __call__(self, episode, sample):
        return 1.0

class Refuses(Fine):
    def __init__(self, weight: float = 1.0):
        raise ValueError("no such weight")

class Stumbles(Fine):
    def __init__(self, weight: float = 1.0):
        int("x")

class Elsewhere:
    pass
"""
FILES = {
    "named_rewards.py": REWARDS,
    "named_unclosed.py": "x = (1\n",
    "named_needing.py": "import nowhere_at_all\n",
    "named_dividing.py": "1 / 0\n",
    "empty.yaml": "",
    "comments.yaml": "# nothing\n",
    "twice.yaml": "model:\n  rollout: {group_size: 3}\n  optim: {lr: 1}\n  rollout: {group_size: 4}\n",
    "twice_in_a_list.yaml": "data:\n  sources:\n  - root: a\n    weight: 1\n    root: b\n",
    "rootless.yaml": "data: {root: null, sources: [{weight: 2}]}",
    "dividing.yaml": "model: {rewards: {extra: [{class_path: named_dividing.Any}]}}",
    "beside.yaml": "trainer: {callbacks: [{class_path: EpisodeLogger, init_arg: {groups: 2}}]}",
}
MISTAKES = {
    "[{class_path: named_unclosed.Any}]": "extra: named_unclosed.Any cannot be imported ('(' was never closed (named_",
    "[{class_path: named_dividing.Any}]": "extra: named_dividing.Any cannot be imported (division by zero)",
    "[{class_path: named_needing.Any}]": "cannot be imported, as it needs the module nowhere_at_all, which is",
    "[{class_path: named_nowhere.Any}]": "there is no module named_nowhere: see that it can be imported (PYTHONPATH=",
    "[{class_path: named_rewards.Fien}]": "there is no class named_rewards.Fien: did you mean Fine?",
    "[{class_path: named_rewards.Silent}]": "named_rewards.Silent lacks __call__: define `__call__`.",
    "[{class_path: named_rewards.Elsewhere}]": "named_rewards.Elsewhere is no ExtraReward: let the class inherit from",
    "[{class_path: infogap.episode.extra_reward.ExtraReward}]": "is only what others inherit from: name a class",
    "[{class_path: named_rewards.Fine, init_arg: {weight: 2}}]": "init_arg cannot stand beside class_path: did you",
    "[{class_path: named_rewards.Fine, weight: 2}]": "weight cannot stand beside class_path: arguments of the class",
    "[{weight: 2, class_path: named_rewards.Fine}]": "weight cannot stand beside class_path: arguments of the class",
    "[{class: named_rewards.Fine}]": "there is no key class: did you mean class_path?",
    "[{class_path: named_rewards.Refuses}]": "named_rewards.py, line 12 (ValueError: no such weight): correct",
    "[{class_path: named_rewards.Stumbles}]": "named_rewards.py, line 16 (ValueError: invalid literal",
}
VALUES = {
    "--model.optim.betas 0.9": "model.optim.betas is '0.9': give a list, such as [0.9, 0.9].",
    "--resolution.ladder 128,64": "resolution.ladder is '128,64': give a list, such as [128, 64].",
    "--data.needle.scenes.sides 448": "data.needle.scenes.sides is '448': give a list, such as [448].",
    "--trainer.precision bf17": "give one of transformer-engine, transformer-engine-float16, 16-true, 16-mixed, bf",
    "--model.rollout.limits 3": "model.rollout.limits is '3': give its fields, or a YAML file of them.",
    "--config {}/empty.yaml": "empty.yaml holds no fields: write some into it",
    "--config {}/comments.yaml": "comments.yaml holds no fields: write some into it",
    "--config {}/twice.yaml": "twice.yaml holds rollout in line 2 and again in line 4: remove one of them.",
    "--config {}/twice_in_a_list.yaml": "twice_in_a_list.yaml holds root in line 3 and again in line 5",
    "--config {}/rootless.yaml": "data.sources: root must be given, as {root: ...}.",
    "--config {}/dividing.yaml": "model.rewards: named_dividing.Any cannot be imported (division by zero)",
    "--config {}/beside.yaml": "trainer.callbacks: init_arg cannot stand beside class_path: did you mean init_args?",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("named")
    for name, text in FILES.items():
        (made / name).write_text(text)
    return made


@pytest.mark.filterwarnings("ignore")  # the program's own filters are set when it trains
@pytest.mark.parametrize(
    ("words", "sentence"),
    [*((["--model.rewards.extra", value], said) for value, said in MISTAKES.items()), *VALUES.items()],
)
def test_a_mistake_costs_one_sentence(
    words: list[str] | str,
    sentence: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(logging, "raiseExceptions", False)  # Lightning's handler has the output of the first test
    given = words if isinstance(words, list) else words.replace("{}", str(folder)).split()
    with pytest.raises(SystemExit) as stopped, cli.short_errors():
        cli._run(["fit", "--config=configs/stage1.yaml", "--trainer.logger=false", *given])
    assert stopped.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line != "Seed set to 0"]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert sentence in errors[0]


def test_choices_are_listed_once() -> None:
    kinds = ("typing.Literal['a', 'b']", "typing.Literal['b', 'c']", "<class 'NoneType'>")
    message = 'Parser key "x":\n  Errors:\n' + "".join(f"    - Expected a {kind}\n" for kind in kinds)
    assert explain(f"{message}  Given value: d") == "x is 'd': give one of a, b, c or null."
