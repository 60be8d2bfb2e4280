"""Help of every command says every field in a sentence; a printed configuration is read again as the same one."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import infogap.callbacks
from infogap import cli, lightning_cli
from infogap.callbacks import EpisodeLogger
from infogap.data.datamodule import ShardDataModule
from infogap.evaluation.datamodule import BenchmarkDataModule
from infogap.evaluation.module import EvaluationModule
from infogap.grpo.module import GRPOModule
from infogap.parser.comments import comment
from infogap.parser.fields import REQUIRED, Field, fields_of, first_sentence, without_default
from infogap.parser.help import own_fields
from infogap.resolution import ResolutionConfig

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = (
    *(["fit"], ["validate"], ["test"], ["compare"], ["export"], ["data"], ["view"], ["ask"], ["doctor"]),
    *(["data", name] for name in ("convert", "check", "filter", "unpack", "index", "report")),
    ["data", "convert", "jsonl"],
)
CLASSES = {
    "model": GRPOModule,
    "data": ShardDataModule,
    "resolution": ResolutionConfig,
    "EpisodeLogger": EpisodeLogger,
    "test model": EvaluationModule,
    "test data": BenchmarkDataModule,
}


def status() -> object:
    """The program's exit status."""
    try:
        cli.main()
    except SystemExit as stopped:
        return stopped.code
    return 0


Print = Callable[..., str]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Print:
    """What the program prints for some words; it must end with status 0."""

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["infogap", *words])
        monkeypatch.chdir(ROOT)
        monkeypatch.setenv("COLUMNS", "100")
        capsys.readouterr()
        assert not status()
        said = capsys.readouterr()
        assert said.err == ""
        return said.out

    return run


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_is_a_page_without_noise(command: list[str], printed: Print) -> None:
    page = printed(*command, "--help")
    assert page.startswith(f"usage: infogap {' '.join(command)}")
    assert page.partition("\n\n")[0].count("\n") < 12
    for noise in ("<class", "{true,false", "NoneType", "Union[", "known subclasses", "==SUPPRESS=="):
        assert noise not in page
    assert max(map(len, page.splitlines())) <= 140


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_option_is_said_something_of(command: list[str], printed: Print) -> None:
    lines = printed(*command, "--help").partition("\n\n")[2].splitlines()
    for number, line in enumerate(lines):
        option = re.match(r"  (-[\w.\[\]-]+)(?: \S+)*(?:   *(\S.*))?$", line)
        if option:
            below = lines[number + 1].strip() if number + 1 < len(lines) else ""
            told = re.split(r"  +", line.strip(), maxsplit=1)[1:] or [below]
            assert len(told[0]) >= 5, f"{option[1]} of {command} has no text"
            assert not told[0].startswith("-")


@pytest.mark.parametrize("owner", CLASSES.values(), ids=list(CLASSES))
def test_every_field_has_a_sentence_and_a_kind(owner: type) -> None:
    for field in fields_of(owner, "x"):
        assert len(field.text) > 8, f"{field.name} of {owner.__name__} has no sentence in its class's docstring"
        assert field.kind
        assert "None" not in field.text


def test_our_fields_come_first_at_every_depth_and_the_trainer_last(printed: Print) -> None:
    page = printed("fit", "--help")
    places = [page.index(f"\n{name}: ") for name in ("model", "data", "resolution", "trainer", "trainer.callbacks")]
    assert places == sorted(places)
    entry = page.partition("--model.rollout.view.budget INT")[2].partition("\n  --")[0]
    assert 'Most visual tokens of a view in mode "budget"' in " ".join(entry.split())
    assert "(default: 1024)" in " ".join(entry.split())
    assert "--model.policy.lora.rank INT" in page
    assert "--data.sources[].root TEXT" in page
    assert "--trainer.max_epochs" not in page  # named only
    assert "max_epochs" in page
    assert "--model.seed" not in page  # seed_everything sets it


def test_the_trainer_has_a_page_of_its_own(printed: Print) -> None:
    page = printed("fit", "--trainer.help")
    assert "--trainer.max_epochs INT|null" in page
    assert "Stop training once this number of epochs is reached (default: null)." in page


def test_the_defaults_of_a_field_are_those_of_its_holder() -> None:
    """PlayConfig samples greedily, where SamplingConfig by itself does not."""
    fields = {field.name: field.default for field in fields_of(EvaluationModule, "model")}
    assert fields["model.play.sampling.temperature"] == "0.0"
    assert {field.name: field.default for field in fields_of(BenchmarkDataModule, "data")}["data.root"] == REQUIRED


def test_a_sentence_ends_at_its_full_stop() -> None:
    assert first_sentence("At most 0.5 of all. The rest is not.") == "At most 0.5 of all."
    assert first_sentence("One sentence") == "One sentence"


PRINTED = {
    "fit": (
        "fit",
        "--config=configs/stage2.yaml",
        "--config=configs/model/qwen2_5_vl_7b.yaml",
        "--model.optim.lr=1e-4",
    ),
    "validate": ("validate", "--config=configs/control.yaml"),
    "test": (
        "test",
        "--config=configs/eval/needle.yaml",
        "--model.play.attempts=2",
        "--model.play.sampling.temperature=1",
    ),
}


@pytest.mark.parametrize("command", PRINTED)
def test_a_printed_configuration_is_read_as_the_same_one(command: str, printed: Print, tmp_path: Path) -> None:
    plain = printed(*PRINTED[command], "--print_config")
    (tmp_path / "printed.yaml").write_text(plain)
    assert printed(command, f"--config={tmp_path / 'printed.yaml'}", "--print_config") == plain
    commented = printed(*PRINTED[command], "--print_config=comments")
    assert [line for line in commented.splitlines() if not line.strip().startswith("# ")] == [
        line for line in plain.splitlines() if not line.startswith("# ")
    ]
    assert "# most visual tokens of a crop. LFPC: not published.\n" in commented
    (tmp_path / "commented.yaml").write_text(commented)
    assert printed(command, f"--config={tmp_path / 'commented.yaml'}", "--print_config") == plain


def test_comments_stand_above_what_they_are_about() -> None:
    written = (
        "model:\n  text: 'a\n\n      size: 3'\n  size: 1\nrows:\n- class_path: a.b.Kind\n  init_args:\n    size: 2\n"
    )
    texts = {"model": "all of it.", "model.size": "how large.", "Kind:size": "its size.", "size": "not this."}
    assert comment(written, texts) == (
        "# all of it.\nmodel:\n  text: 'a\n\n      size: 3'\n  # how large.\n  size: 1\nrows:\n- class_path: a.b.Kind\n"
        "  init_args:\n    # its size.\n    size: 2\n"
    )


def test_a_class_in_another_leaves_the_outer_one_its_comments() -> None:
    inner = "    inner:\n      class_path: b.Inner\n      init_args:\n"
    written = f"row:\n  class_path: a.Outer\n  init_args:\n{inner}        size: 2\n    size: 1\n"
    said = comment(written, {"Outer:size": "outer size.", "Inner:size": "inner size.", "Outer:inner": "a part."})
    assert "        # inner size.\n        size: 2\n    # outer size.\n    size: 1\n" in said
    assert "    # a part.\n    inner:\n" in said


NAMED = [owner for owners in lightning_cli.TrainingCLI.classes.values() for owner in owners]


@pytest.mark.parametrize("owner", [each for each in NAMED if "__init__" in vars(each)])
def test_every_argument_of_a_named_class_has_a_sentence(owner: type) -> None:
    """One without would be in no help."""
    fields = list(fields_of(owner))
    assert fields
    assert [field.name for field in own_fields(owner)] == [field.name for field in fields]


@pytest.mark.parametrize(
    ("text", "default", "said"),
    [
        ("weight of it. Default 0.8.", "0.8", "weight of it."),
        ("weight of it. Not published; default 0.8.", "0.8", "weight of it. Not published."),
        ("whether to. Not published; default no.", "false", "whether to. Not published."),
        ("weight of it. Default 0.8, ours.", "0.8", "weight of it. Default 0.8, ours."),
        ("weight of it. Default 0.85.", "0.8", "weight of it. Default 0.85."),
    ],
)
def test_a_default_is_said_once(text: str, default: str, said: str) -> None:
    assert without_default(Field("x", "FLOAT", default, text)) == said


def test_lightnings_own_options_are_in_the_help(printed: Print) -> None:
    page = printed("fit", "--help")
    assert "  --weights_only true|false\n" in page
    assert "  model.policy FIELDS|null: Which model" in page
    assert "  data.sources [FIELDS, ...]|null: " in page


def test_every_callback_of_ours_is_named() -> None:
    assert {each.__name__ for each in lightning_cli.CALLBACKS} == set(infogap.callbacks.__all__)


def test_help_of_a_light_command_imports_nothing_heavy() -> None:
    code = "import sys; from infogap.cli import main\ntry: main(['doctor', '--help'])\nexcept SystemExit: pass\n"
    code += "print([name for name in ('torch', 'lightning', 'transformers') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"
    assert re.search(r"--hardware NAME", run.stdout)
