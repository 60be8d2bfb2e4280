from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infogap.episode.matching import match_answer, normalise, option_index

COLOURS = ("dark green", "red", "blue", "green")


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("B", 1),
        ("b", 1),
        (" (B) ", 1),
        ("B.", 1),
        ("**B**", 1),
        ("B. red", 1),
        ("B: red", 1),
        ("(B) red", 1),
        ("b) red", 1),
        ("B - red", 1),
        ("A. red", 0),  # the letter counts, not the text
        ("Answer: B", 1),
        ("Answer:B", 1),
        ("The answer is\nB", 1),
        ("The correct answer is **C**", 2),
        ("the answer is (d).", 3),
        ("The answer is option C", 2),
        ("The answer is A", 0),
        ("The answer is A because it is dark", 0),
        ("Based on the image, the answer is C.", 2),
        ("Dark green, so (A)", 0),
        ("option B is right", 1),
        ("so it must be B", 1),
        ("B, I think", 1),
        ("not (B) but (C)", 2),
        ("The answer is not B, it is C", 2),
        ("A and B are wrong, so the answer is C", 2),
        ("It is (B) rather than (A)", 1),
        ("dark green", 0),
        ("Dark Green.", 0),
        ("The answer is red", 1),
        ("It is green.", 3),
        ("It is dark green.", 0),  # "green" inside it does not count
        ("Red, because A man holds it", 1),
        ("Red, so B", 1),
    ],
)
def test_option_is_found(text: str, index: int) -> None:
    assert option_index(text, COLOURS) == index


@pytest.mark.parametrize(
    "text",
    [
        "",
        "...",
        "E",
        "(E)",
        "A dog",
        "The answer is A dog",
        "(A dog) is here",
        "yellow",
        "green or red",
        "Red? No, blue.",
        "It is not red",
        "It isn't red",
        "A, B",
        "A or B",
        "The answer is B or C",
        "The answer is not B",
        "The answer isn\N{RIGHT SINGLE QUOTATION MARK}t B",
        "(A) is wrong, (B) is right",
        "red, hence C",
        "reddish",
    ],
)
def test_no_option_is_guessed(text: str) -> None:
    assert option_index(text, COLOURS) is None


@pytest.mark.parametrize("text", ["dog", "A dog", "a dog", "the dog"])
def test_an_article_is_no_letter(text: str) -> None:
    assert option_index(text, ("cat", "dog")) == 1


def test_option_that_looks_like_a_named_letter() -> None:
    names = ("B. Jones", "A. Smith", "vitamin C")
    assert option_index("A. Smith", names) == 1
    assert option_index("The answer is A. Smith", names) == 1
    assert option_index("vitamin C", names) == 2
    assert option_index("It is vitamin C", names) == 2


def test_yes_and_no() -> None:
    assert option_index("No, it is not.", ("yes", "no")) == 1
    assert option_index("Yes.", ("yes", "no")) == 0


@pytest.mark.parametrize("answer", ["C", "blue", "Blue"])
@pytest.mark.parametrize(("predicted", "right"), [("C", True), ("blue", True), ("B", False), ("red", False)])
def test_match_with_options(predicted: str, answer: str, right: bool) -> None:
    assert match_answer(predicted, answer, COLOURS) is right


def test_match_with_options_that_are_letters() -> None:
    options = ("B", "A")
    assert match_answer("B", "A", options)  # option B is the text A
    assert not match_answer("A", "A", options)


def test_match_with_options_that_are_numbers() -> None:
    options = ("10", "1", "1,000")
    assert match_answer("1", "B", options)
    assert match_answer("There are 10 of them.", "A", options)
    assert match_answer("1000", "C", options)
    assert not match_answer("10", "B", options)


def test_an_answer_that_is_no_option_matches_nothing() -> None:
    assert not match_answer("yellow", "yellow", COLOURS)


@pytest.mark.parametrize("predicted", [None, "", "  \n"])
@pytest.mark.parametrize("options", [(), COLOURS])
def test_no_answer_is_wrong(predicted: str | None, options: tuple[str, ...]) -> None:
    assert not match_answer(predicted, "red", options)


@pytest.mark.parametrize(
    ("predicted", "answer"),
    [
        ("1,234", "1234"),
        ("1234.0", "1,234"),
        (".50", "0.5"),
        ("+7", "7"),
        ("-0", "0"),
        ("\N{MINUS SIGN}5", "-5"),
        ("7.", "7"),
        ("The answer is 42.", "42"),
        ("Answer: 42", "42"),
        ("Final answer: red", "red"),
        ("The  RED car!", "red car"),
        ("5 %", "5%"),
        ("$1,000.00", "$1000"),
        ("don\N{RIGHT SINGLE QUOTATION MARK}t walk", "Don't walk"),
        ("12:30", "12:30"),
        ("10-20", "10 - 20"),
        ("B", "B"),
        ("(B)", "B"),
        ("The answer is B.", "B"),
        ("B. red", "B"),
        ("The letter is B", "B"),
        ("b", "B"),
        ("?", "?"),
        ("the", "The"),
    ],
)
def test_free_answers_that_match(predicted: str, answer: str) -> None:
    assert match_answer(predicted, answer, ())


@pytest.mark.parametrize(
    ("predicted", "answer"),
    [
        ("5%", "5"),
        ("5", "5%"),
        ("-5", "5"),
        ("3.5 m", "35 m"),
        (".5", "5"),
        ("12", "1,2"),
        ("007", "7"),
        ("10 m", "10"),
        ("12:30", "1230"),
        ("10-20", "-20"),
        ("two", "2"),
        ("red", "red car"),
        ("Plan A", "plan"),
        ("A dog", "A"),
        ("A or B", "B"),
        ("B2", "B"),
        ("?", "!"),
    ],
)
def test_free_answers_that_differ(predicted: str, answer: str) -> None:
    assert not match_answer(predicted, answer, ())


def test_normalise_keeps_what_counts() -> None:
    assert normalise("  The Quick, (brown) fox: 1,234.50 m! ") == "quick brown fox 1234.5 m"
    assert normalise("v2.0 -- 3/4, 007 & 1.2.3") == "v2 0 3/4 007 & 1.2.3"


@given(st.text(alphabet=st.sampled_from("aAbtheB019.,:/+-%'() \n")))
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(st.text(), st.text(min_size=1), st.lists(st.text(min_size=1), max_size=26))
@example("A, " * 20_000, "B", ["red", "blue"])
@example("answer" + "*" * 50_000, "B", ["red", "blue"])
@example("A" + " " * 50_000 + "x", "B", ["red", "blue"])
def test_any_texts_are_compared(predicted: str, answer: str, options: list[str]) -> None:
    assert match_answer(predicted, answer, options) in (True, False)


@given(st.text(min_size=1).filter(str.strip))
def test_an_answer_matches_itself(answer: str) -> None:
    assert match_answer(answer, answer, ())


@given(
    st.integers(0, 3), st.sampled_from(["{}", "({})", "{}.", "Answer: {}", "I think the answer is {}.", "Hence ({})"])
)
def test_every_letter_is_read_in_every_form(index: int, form: str) -> None:
    assert option_index(form.format("ABCD"[index]), COLOURS) == index
