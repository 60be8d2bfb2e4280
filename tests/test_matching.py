from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infogap.episode.answer_text import boxed_text, normalise, only_number, plain_number, without_prefix, words_of
from infogap.episode.matching import FoundOption, OptionRule, find_letter, find_option, match_answer, option_index

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
        ("**A.** red", 0),
        ("**A**: red", 0),
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
        (r"\boxed{B}", 1),
        (r"\boxed{B} because A is too dark", 1),
        (r"It may be A. The answer is $\boxed{\text{(B) red}}$, not C", 1),
        (r"\boxed{A}. No, wait: \boxed{\mathbf{B}}", 1),
        (r"\boxed{}, hence B", 1),
        ("Answer: b", 1),
        ("answer: a", 0),
        ("The final answer is **d**.", 3),
        ("Is the answer A? No, it is B.", 1),
        ("B\N{IDEOGRAPHIC FULL STOP}", 1),
        ("A\N{IDEOGRAPHIC COMMA}red", 0),
        ("B\N{FULLWIDTH COMMA}\u56e0\u4e3a\u662f\u7ea2\u8272", 1),
        ("\N{LEFT BLACK LENTICULAR BRACKET}b\N{RIGHT BLACK LENTICULAR BRACKET}", 1),
        ("red\N{IDEOGRAPHIC FULL STOP}", 1),
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
        "Neither A nor B",
        "dark green or green",
        r"\boxed{yellow}, not B",
        "The answer is a red or blue one",
        "I can answer a",
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


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("(b)", FoundOption(1, OptionRule.LETTER)),
        (r"\boxed{B}", FoundOption(1, OptionRule.LETTER)),
        ("B. red", FoundOption(1, OptionRule.LETTER_PATTERN)),
        ("The answer is B", FoundOption(1, OptionRule.LETTER_PATTERN)),
        ("It is blue, so B or rather C", FoundOption(2, OptionRule.LETTER_PATTERN)),
        ("red", FoundOption(1, OptionRule.OPTION_TEXT)),
        ("The Red.", FoundOption(1, OptionRule.OPTION_TEXT)),
        ("Answer: the red", FoundOption(1, OptionRule.OPTION_TEXT)),
        ("Red, as it seems", FoundOption(1, OptionRule.OPTION_TEXT)),
        ("It looks red to me", FoundOption(1, OptionRule.OPTION_TEXT)),
        ("E", None),
        ("yellow", None),
    ],
)
def test_the_rule_that_found_an_option_is_told(text: str, found: FoundOption | None) -> None:
    assert find_option(text, COLOURS) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("b", FoundOption(1, OptionRule.LETTER)),
        (r"\boxed{B}.", FoundOption(1, OptionRule.LETTER)),
        ("so it is B", FoundOption(1, OptionRule.LETTER_PATTERN)),
        ("F", None),
        ("red", None),
    ],
)
def test_a_letter_is_found_without_options(text: str, found: FoundOption | None) -> None:
    assert find_letter(text, 4) == found


def test_the_same_text_twice_is_no_option() -> None:
    assert option_index("It is red.", ("red", "Red", "blue")) is None
    assert option_index("It is blue.", ("red", "Red", "blue")) == 2


def test_a_found_option_knows_its_letter() -> None:
    assert FoundOption(2, OptionRule.LETTER).letter == "C"


def test_an_option_that_is_boxed_itself() -> None:
    assert option_index(r"\boxed{2}", (r"\boxed{2}", "2")) == 0


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
        (r"So it is \boxed{42}.", "42"),
        (r"\boxed{\text{red car}}", "Red car"),
        (r"\boxed{B}", "B"),
        ("42\N{IDEOGRAPHIC FULL STOP}", "42"),
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
        (r"\boxed{42}, not \boxed{43}", "42"),
    ],
)
def test_free_answers_that_differ(predicted: str, answer: str) -> None:
    assert not match_answer(predicted, answer, ())


def test_normalise_keeps_what_counts() -> None:
    assert normalise("  The Quick, (brown) fox: 1,234.50 m! ") == "quick brown fox 1234.5 m"
    assert normalise("v2.0 -- 3/4, 007 & 1.2.3") == "v2 0 3/4 007 & 1.2.3"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3", "3"),
        ("There are three cars.", "3"),
        ("3. There are 3", "3"),
        ("7.50 kg", "7.5"),
        ("7.5kg", "7.5"),
        ("1,234", "1234"),
        ("-5", "-5"),
        ("5%", "5"),
        ("__5__", "5"),
        ("On the 1st floor stand 4", "4"),
        ("Room B2 holds twenty", "20"),
        ("3 or 4", None),
        ("two of the 3", None),
        ("3/4", None),
        ("12:30", None),
        ("the 2nd", None),
        ("B2", None),
        ("twenty-one", None),
        ("none", None),
        ("", None),
    ],
)
def test_the_only_number_of_a_text(text: str, number: str | None) -> None:
    assert only_number(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [("1,234.50", "1234.5"), ("-0", "0"), (".5", "0.5"), ("007", None), ("1,2", None), ("", None), ("+", None)],
)
def test_a_plain_number(text: str, number: str | None) -> None:
    assert plain_number(text) == number


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"\boxed{a} and \boxed {b}", "b"),
        (r"\boxed{\textbf{(B)} red}", "(B) red"),
        (r"\boxed{}", None),
        (r"\boxed{open", None),
        ("boxed{B}", None),
    ],
)
def test_the_last_box_counts(text: str, boxed: str | None) -> None:
    assert boxed_text(text) == boxed


def test_words_and_prefixes() -> None:
    assert words_of("Don't, 3 B2 (Say) no!") == ["don't", "b2", "say", "no"]
    assert without_prefix(" The correct answer is: red ") == "red"
    assert without_prefix("red, the answer") == "red, the answer"


@given(st.text(alphabet=st.sampled_from("aAbtheB019.,:/+-%'() \n")))
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(st.text(), st.text(min_size=1), st.lists(st.text(min_size=1), max_size=26))
@example("A, " * 20_000, "B", ["red", "blue"])
@example("answer" + "*" * 50_000, "B", ["red", "blue"])
@example("A" + " " * 50_000 + "x", "B", ["red", "blue"])
@example("\\boxed{" * 20_000, "B", ["red", "blue"])
@example("answer: " * 20_000 + "b c", "B", ["red", "blue"])
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
