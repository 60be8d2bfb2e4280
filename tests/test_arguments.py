"""A mistake in the words of a command costs one sentence with the nearest thing that there is."""

from __future__ import annotations

import pytest

from infogap import cli
from infogap.arguments import CommandError, CommandParser, check_command
from infogap.evaluation.benchmarks.registry import find_benchmark
from infogap.evaluation.question import BenchmarkError


@pytest.fixture
def parser() -> CommandParser:
    parser = CommandParser(prog="infogap look")
    parser.add_argument("image")
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--order", choices=["rising", "falling"])
    return parser


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["a", "--tokns", "3"], "There is no option --tokns: did you mean --tokens?"),
        (["a", "--zzz=3"], "There is no option --zzz: see `infogap look --help`."),
        (["a", "b"], "There is no use for b: see `infogap look --help`."),
        ([], "image is missing: see `infogap look --help`."),
        (["a", "--tokens", "x"], "--tokens: invalid int value: 'x': see `infogap look --help`."),
        (
            ["a", "--order", "fallin"],
            "--order: invalid choice: 'fallin': did you mean falling? All are rising, falling.",
        ),
        (["a", "--order", "zz"], "--order: invalid choice: 'zz': give one of rising, falling."),
        (["a", "--tokens"], "--tokens: expected one argument: see `infogap look --help`."),
    ],
)
def test_a_mistake_is_one_sentence(parser: CommandParser, words: list[str], sentence: str) -> None:
    with pytest.raises(CommandError) as caught:
        parser.parse_args(words)
    assert str(caught.value) == sentence


def test_the_nearest_source_is_named() -> None:
    with pytest.raises(CommandError, match=r"SOURCE: invalid choice: 'jsnl': did you mean jsonl\? All are .*, jsonl,"):
        cli.main(["data", "convert", "jsnl", "x", "y"])


@pytest.mark.parametrize(("name", "meant"), [("vstra", "did you mean 'vstar'"), ("qqq", "give one of cvbench")])
def test_a_benchmark_is_suggested_only_if_it_is_near(name: str, meant: str) -> None:
    with pytest.raises(BenchmarkError, match=f"There is no benchmark '{name}': {meant}"):
        find_benchmark(name)


def test_right_words_are_read(parser: CommandParser) -> None:
    chosen = parser.parse_args(["a", "--tokens", "3"])
    assert (chosen.image, chosen.tokens) == ("a", 3)


def test_an_unknown_command_names_the_nearest() -> None:
    check_command("fit", ["fit", "test"], "infogap")
    with pytest.raises(CommandError, match="There is no command `infogap fitt`: did you mean 'fit'"):
        cli.main(["fitt"])


def test_every_command_is_in_the_overview() -> None:
    named = {line.split()[0] for line in cli.OVERVIEW.splitlines()[2:] if line.startswith("  ")}
    assert named == {*cli.TRAINER_COMMANDS, *cli.MODULES}
