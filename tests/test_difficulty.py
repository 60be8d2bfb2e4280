"""Difficulty filters: what the policy answered without looking decides, and a missing answer is an error."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from infogap.data.difficulty import MissingAnswerError, SolvedByText, SolvedInView
from infogap.data.filters import FilterChain
from infogap.data.manifest import ManifestEntry, SelectionStatus
from infogap.data.sample import Sample
from infogap.episode.matching import match_answer

MakeSample = Callable[..., Sample]
Answers = dict[str, str | None]


def entries(answers: Answers, view_tokens: int | None = 64) -> dict[str, ManifestEntry]:
    status = SelectionStatus.NEVER_DIVERGES if view_tokens is None else SelectionStatus.SELECTED
    return {"a": ManifestEntry("a", status, view_tokens, answers)}


@pytest.fixture
def sample(make_sample: MakeSample) -> Sample:
    """A sample of 256 visual tokens with the right answer 3."""
    return make_sample("a", size=(448, 448))


@pytest.mark.parametrize(("text", "kept"), [("3", False), ("The answer is 3.", False), ("7", True), (None, True)])
def test_what_the_text_gives_away_is_dropped(sample: Sample, text: str | None, kept: bool) -> None:
    assert SolvedByText(entries({"original": "3", "text": text}), match_answer).keeps(sample) is kept


def test_options_are_matched_as_options(make_sample: MakeSample) -> None:
    sample = make_sample("a", answer="blue", options=("red", "blue"))
    assert not SolvedByText(entries({"text": "B"}), match_answer).keeps(sample)
    assert SolvedByText(entries({"text": "A"}), match_answer).keeps(sample)


@pytest.mark.parametrize(
    ("answers", "budgets", "kept"),
    [
        ({"128": "3", "64": "7"}, (128,), False),
        ({"128": "3", "64": "7"}, (64,), True),
        ({"128": "3", "64": "7"}, (64, 128), False),  # solved in any of them
        ({"128": "7", "64": None}, (64, 128), True),
        ({"64": "7"}, (), True),
        ({"64": "3"}, (), False),  # a wrong original may be left for a right view
        ({"original": "3"}, (256,), False),  # nothing is scaled down
        ({"original": "3"}, (1024,), False),
        ({"original": "7"}, (1024,), True),
        ({"original": "3", "64": "7"}, (80,), True),  # the same view
    ],
)
def test_what_is_solved_in_the_view_is_dropped(
    sample: Sample, answers: Answers, budgets: tuple[int, ...], kept: bool
) -> None:
    assert SolvedInView(entries(answers), budgets, match_answer).keeps(sample) is kept


def test_without_a_selected_view_nothing_is_solved_in_it(sample: Sample) -> None:
    assert SolvedInView(entries({"original": "3", "64": "3"}, view_tokens=None), (), match_answer).keeps(sample)


def test_a_missing_answer_is_an_error_that_says_what_to_run(sample: Sample, make_sample: MakeSample) -> None:
    kept = entries({"original": "3", "64": "7"})
    with pytest.raises(MissingAnswerError, match=r"no answer to 'a' from the text alone: run .*ask_without_image true"):
        SolvedByText(kept, match_answer).keeps(sample)
    with pytest.raises(MissingAnswerError, match=r"view of 128 tokens: .* with 128 in .*ladder, .*together"):
        SolvedInView(kept, (128,), match_answer).keeps(sample)
    with pytest.raises(MissingAnswerError, match=r"view of 64 tokens"):
        SolvedInView(entries({}), (), match_answer).keeps(sample)
    for step in (SolvedByText(kept, match_answer), SolvedInView(kept, (), match_answer)):
        with pytest.raises(MissingAnswerError, match=r"no result for 'b': run data_scripts/select_resolution\.py"):
            step.keeps(make_sample("b"))


def test_the_filters_stand_in_a_chain_under_their_own_names(sample: Sample) -> None:
    known = entries({"original": "3", "128": "3", "64": "7", "text": "7"})
    chain = FilterChain(
        [
            SolvedByText(known, match_answer),
            SolvedInView(known, (), match_answer),
            SolvedInView(known, (64, 128), match_answer),
        ]
    )
    assert chain.dropping_step(sample) == "solved in a view of 64 or 128 tokens"
    assert set(chain.dropped) == {
        "solved by text alone",
        "solved in the selected view",
        "solved in a view of 64 or 128 tokens",
    }
