from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from infogap.data.images import HighResImage
from infogap.data.sample import Sample
from infogap.evaluation.benchmarks.base import Benchmark
from infogap.evaluation.judge import UNCLEAR
from infogap.evaluation.letter_sets import find_letters
from infogap.evaluation.question import UNANSWERED, UNMATCHED, Question, Reading, Row, Rule
from infogap.evaluation.scoring import Scorer, needs_judge, read_strictly

COLOURS = ("dark green", "red", "blue", "green")
NOTHING = ("", "unmatched")
PATTERN, TEXT = "letter_pattern", "option_text"

Make = Callable[..., Question]


@pytest.fixture
def make(make_sample: Callable[..., Sample]) -> Make:
    """Factory of questions: `make("B", COLOURS)`, `make("3")`, `make("A", COLOURS, letters="AC")`."""

    def question(answer: str, options: tuple[str, ...] = (), letters: str = "") -> Question:
        sample = make_sample(answer=answer, options=options)
        return Question(sample, "category", "cluster", "prompt", letters=frozenset(letters))

    return question


# Where lmms-eval reads something else on V* (``extract_answer_letter``, lmms_eval/tasks/vstar_bench/utils.py), it is in
# the comment.
STRICT = [
    ("B", "B", "letter"),
    ("b", "B", "letter"),
    (" (B) ", "B", "letter"),
    ("B.", "B", "letter"),
    ("**B**", "B", "letter"),
    ("`b`", "B", "letter"),
    (r"\boxed{B}", "B", "letter"),  # none
    (r"$\boxed{\text{B}}$", "B", "letter"),  # none
    ("E", *NOTHING),
    ("I", *NOTHING),
    ("B. red", "B", PATTERN),
    ("B: red", "B", PATTERN),
    ("b) red", "B", PATTERN),
    ("**B.** red", "B", PATTERN),
    ("A. red", "A", PATTERN),
    ("Option B: red", "B", PATTERN),
    ("Answer: (C) red", "C", PATTERN),  # A
    ("**Answer: B**", "B", PATTERN),
    ("Answer: b", "B", PATTERN),  # A
    ("ANSWER: B", "B", PATTERN),  # A
    ("The answer is\nB", "B", PATTERN),
    ("The answer is **B. red**", "B", PATTERN),
    ("The correct option is C.", "C", PATTERN),
    ("The correct choice is (C).", "C", PATTERN),
    ("Based on the image, the answer is C.", "C", PATTERN),  # B
    ("Dark green, so (A)", "A", PATTERN),  # D
    ("Cannot be sure; the answer is D", "D", PATTERN),  # C
    ("Certainly! The answer is B.", "B", PATTERN),  # C
    ("A closer look shows (D)", "D", PATTERN),  # A
    ("After a closer look, I think it is (C).", "C", PATTERN),  # A
    ("Both cars are parked, hence B", "B", PATTERN),
    ("Definitely C", "C", PATTERN),  # D
    ("Considering the sign, the answer should be B because it is red", "B", PATTERN),  # C
    ("Looking at option A, it is too dark. So the answer is B.", "B", PATTERN),  # A
    ("Option A is dark green. Option B is red. The car is red. Therefore B", "B", PATTERN),  # A
    ("The final answer is B.\n\nExplanation: A is wrong, it is darker.", "B", PATTERN),
    ("A and C are wrong, so the answer is B", "B", PATTERN),  # A
    ("It's not A, it's B", "B", PATTERN),
    ("not (A) but (B)", "B", PATTERN),  # A
    ("It is (B) rather than (A)", "B", PATTERN),
    ("The answer isn't A but B", "B", PATTERN),  # A
    ("Is the answer A? No, it is B.", "B", PATTERN),  # A
    (r"\boxed{B. red}", "B", PATTERN),
    (r"It may be A, but \boxed{(B) red} fits", "B", PATTERN),
    ("B\N{IDEOGRAPHIC FULL STOP}", "B", "letter"),
    ("\N{FULLWIDTH LEFT PARENTHESIS}B\N{FULLWIDTH RIGHT PARENTHESIS}\u7ea2\u8272", "B", PATTERN),
    ("\u7b54\u6848\N{FULLWIDTH COLON}B\N{IDEOGRAPHIC FULL STOP}", "B", PATTERN),
    ("\N{LEFT BLACK LENTICULAR BRACKET}B\N{RIGHT BLACK LENTICULAR BRACKET}", "B", "letter"),
    ("red", "B", TEXT),  # D
    ("Red.", "B", TEXT),  # D
    ("The answer is red", "B", TEXT),  # none
    (r"\boxed{red}", "B", TEXT),  # none
    ("A closer look shows that the car is red", "B", TEXT),  # A
    ("Dark green", "A", TEXT),  # D
    ("The car is dark green in colour.", "A", TEXT),  # none
    ("Blue, because the sky is clear", "C", TEXT),  # B
    ("I think it is blue", "C", TEXT),  # B
    ("greenish", *NOTHING),
    ("reddish", *NOTHING),
    ("dark green or green", *NOTHING),  # D
    ("either red or blue", *NOTHING),
    ("It is not red", *NOTHING),  # D
    ("The car is not green, it is red", *NOTHING),
    ("A or B", *NOTHING),  # A
    ("The answer is A or B", *NOTHING),  # A
    ("A/B", *NOTHING),  # A
    ("Neither A nor B", *NOTHING),  # A
    ("The answer is not B", *NOTHING),  # B
    ("(A), (B)", *NOTHING),  # A
    ("A dog", *NOTHING),  # A
    ("The answer is A dog", *NOTHING),  # A
    ("red, hence C", *NOTHING),  # C
    ("None of the above", *NOTHING),
    ("...", *NOTHING),
    ("Cannot tell", *NOTHING),  # C
]


@pytest.mark.parametrize(("answer", "read", "method"), STRICT)
def test_strict_reading_of_options(make: Make, answer: str, read: str, method: str) -> None:
    assert read_strictly(make("B", COLOURS), answer) == Reading(read == "B", read, method)


@pytest.mark.parametrize(
    ("answer", "read", "method"),
    [
        ("I think it is a dog", "B", TEXT),
        ("a dog", "B", TEXT),
        ("A dog.", "B", TEXT),
        ("It is a hot dog", "C", TEXT),  # the dog inside it does not count
        ("A hot dog or a dog", *NOTHING),
    ],
)
def test_an_option_inside_another(make: Make, answer: str, read: str, method: str) -> None:
    assert read_strictly(make("B", ("cat", "dog", "hot dog")), answer) == Reading(read == "B", read, method)


@pytest.mark.parametrize(
    ("answer", "read", "method"),
    [
        ("There are three of them", "B", "number"),
        ("4 cars", "C", TEXT),
        ("3.0", "B", TEXT),
        ("five or six", *NOTHING),
        ("Two, perhaps three", *NOTHING),
        ("seven", *NOTHING),
    ],
)
def test_options_that_are_numbers(make: Make, answer: str, read: str, method: str) -> None:
    assert read_strictly(make("B", ("2", "3", "4")), answer) == Reading(read == "B", read, method)


def test_number_words_name_no_option_among_texts(make: Make) -> None:
    assert read_strictly(make("B", ("2", "3", "many")), "three") == UNMATCHED
    assert read_strictly(make("B", ("3", "3.0", "4")), "three") == UNMATCHED


def test_letters_name_options_even_if_options_are_letters(make: Make) -> None:
    assert read_strictly(make("A", ("B", "A")), "A") == Reading(True, "A", "letter")
    assert read_strictly(make("A", ("B", "A")), "B") == Reading(False, "B", "letter")


@pytest.mark.parametrize("answer", [None, "", " \n"])
@pytest.mark.parametrize(("gold", "options"), [("B", COLOURS), ("3", ()), ("yes", ())])
def test_no_answer(make: Make, gold: str, options: tuple[str, ...], answer: str | None) -> None:
    assert read_strictly(make(gold, options), answer) == UNANSWERED


@pytest.mark.parametrize(
    ("gold", "answer", "reading"),
    [
        ("3", "3", Reading(True, "3", "number")),
        ("3", "There are three cars.", Reading(True, "3", "number")),
        ("3", "3 m", Reading(True, "3", "number")),
        ("3", r"\boxed{3}, or 4", Reading(True, "3", "number")),
        ("1,234", "about 1234.0", Reading(True, "1234", "number")),
        ("0", "zero", Reading(True, "0", "number")),
        ("3", "four", Reading(False, "4", "number")),
        ("3", "-3", Reading(False, "-3", "number")),
        ("3", "3 or 4", Reading(False, "3 or 4", "text")),
        ("3", "many", Reading(False, "many", "text")),
        ("5 m", "5 m", Reading(True, "5 m", "text")),
        ("5 m", "5", Reading(False, "5", "text")),
        ("yes", "Yes", Reading(True, "yes", "yes_no")),
        ("yes", "Yes, there is no doubt.", Reading(True, "yes", "yes_no")),
        ("no", "There is no dog.", Reading(True, "no", "yes_no")),
        ("no", "**No**", Reading(True, "no", "yes_no")),
        ("No", "The answer is: no, yes is wrong", Reading(True, "no", "yes_no")),
        ("no", "I would say yes", Reading(False, "yes", "yes_no")),
        ("no", "Nothing of that kind", Reading(False, "nothing of that kind", "text")),
        ("no", "It is yes or no", Reading(False, "it is yes or no", "text")),
        ("C", "c", Reading(True, "C", "letter")),
        ("C", "The answer is C.", Reading(True, "C", PATTERN)),
        ("C", "Dark green, so (A)", Reading(False, "A", PATTERN)),
        ("C", "red", Reading(False, "red", "text")),
        ("red car", "The  RED car!", Reading(True, "red car", "text")),
        ("red car", "Answer: red car", Reading(True, "red car", "text")),
        ("red car", "A truck.", Reading(False, "truck", "text")),
        ("red car", "?!", UNMATCHED),
        ("?", "?", Reading(True, "?", "text")),
    ],
)
def test_strict_reading_of_open_questions(make: Make, gold: str, answer: str, reading: Reading) -> None:
    assert read_strictly(make(gold), answer) == reading


SETS = [
    ("A, C", "AC"),
    ("AC", "AC"),
    ("A C", "AC"),
    ("C A", "AC"),
    ("A and C", "AC"),
    ("A & C", "AC"),
    ("A/C", "AC"),
    ("A\nC", "AC"),
    ("(A)(C)", "AC"),
    ("**A**, **C**", "AC"),
    ("a, c", "AC"),
    ("a and c.", "AC"),
    (r"\boxed{A, C}", "AC"),
    ("Answer: AC", "AC"),
    ("The answers are A and C.", "AC"),
    ("The answer(s) is(are): A C", "AC"),
    ("The correct options are (A), (C) because", "AC"),
    ("(A) forest\n(C) lake", "AC"),
    ("A. forest\nC. lake", "AC"),
    ("A: forest, C: lake", "AC"),
    ("A. forest and C. lake", "AC"),
    ("It shows (A) a forest and (C) a lake.", "AC"),
    ("A, B, and D", "ABD"),
    ("b", "B"),
    ("The answer is B because", "B"),
    ("I think C", "C"),
    ("A. A forest", "A"),
    ("A or C", ""),
    ("The answer is A, C or D", ""),
    ("A and E", ""),
    ("E", ""),
    ("not (A) but (C)", ""),
    ("A. forest C. lake", ""),
    ("(A) is right, C too", ""),
    ("bad", ""),
    ("BAD", ""),
    ("Answer: BAD", ""),
    ("A dog", ""),
    ("forest and lake", ""),
]


@pytest.mark.parametrize(("answer", "letters"), SETS)
def test_letters_of_an_answer(answer: str, letters: str) -> None:
    assert find_letters(answer, 4) == set(letters)


@pytest.mark.parametrize(
    ("answer", "reading"),
    [
        ("C and A", Reading(True, "AC", "letter_set")),
        ("A, B, C", Reading(False, "ABC", "letter_set")),
        ("A", Reading(False, "A", "letter_set")),
        ("It is a lake", Reading(False, "C", TEXT)),
        ("A or C", UNMATCHED),
        ("A. forest C. lake", UNMATCHED),
        ("forest and lake", UNMATCHED),
        (None, UNANSWERED),
    ],
)
def test_strict_reading_of_several_letters(make: Make, answer: str | None, reading: Reading) -> None:
    assert read_strictly(make("A", ("forest", "road", "lake", "field"), letters="AC"), answer) == reading


def test_a_set_of_one_letter(make: Make) -> None:
    question = make("C", ("forest", "road", "lake", "field"), letters="C")
    assert read_strictly(question, "C") == Reading(True, "C", "letter_set")
    assert read_strictly(question, "a lake") == Reading(True, "C", TEXT)


BUFFER = io.BytesIO()
Image.new("RGB", (8, 8)).save(BUFFER, "PNG")
IMAGE = HighResImage(BUFFER.getvalue(), name="blank")


@given(
    st.text(),
    st.sampled_from(["B", "yes", "3", "red car", "AC"]),
    st.lists(st.text(min_size=1).filter(lambda text: text.strip() and "<|" not in text), max_size=4),
)
def test_any_answer_can_be_read(answer: str, gold: str, options: list[str]) -> None:
    several = gold == "AC" and len(options) > 2
    right = ("A" if options else gold) if gold != "AC" else "A"
    question = Question(
        Sample("key", IMAGE, "What?", right, tuple(options)), "", "", "", letters=frozenset("AC" if several else "")
    )
    reading = read_strictly(question, answer)
    assert (reading == UNANSWERED) is (not answer.strip())
    assert bool(reading.read) is (reading not in (UNANSWERED, UNMATCHED))
    if reading.correct and options:
        assert reading.read == question.gold


def first_letter(question: Question, answer: str | None) -> Reading:
    """An official rule."""
    return UNANSWERED if answer is None else Reading(answer[:1] == question.gold, answer[:1], "official")


class Ours(Benchmark):
    name: ClassVar[str] = "ours"

    def rows(self, root: Path) -> Iterator[Row]:
        return iter(())


class Theirs(Ours):
    name: ClassVar[str] = "theirs"
    official: ClassVar[Rule | None] = staticmethod(first_letter)


class Unwrapped(Ours):
    official: ClassVar[Rule | None] = first_letter


class RecordingJudge:
    """Finds every answer but "unclear" right, and says what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def read_many(self, items: Sequence[tuple[Question, str]]) -> list[Reading]:
        self.asked += [answer for _, answer in items]
        return [UNCLEAR if answer == "unclear" else Reading(True, q.gold, "judge") for q, answer in items]


def test_strict_mode_reads_strictly_whatever_the_benchmark_does(make: Make) -> None:
    items = [(make("B", COLOURS), answer) for answer, _, _ in STRICT]
    readings = Scorer("strict", Theirs()).read_many(items)
    assert readings == [read_strictly(question, answer) for question, answer in items]


@pytest.mark.parametrize("benchmark", [Theirs(), Theirs, Unwrapped()])
def test_official_mode_reads_by_the_rule_of_the_benchmark(make: Make, benchmark: Any) -> None:
    items = [(make("B", COLOURS), answer) for answer in ("Based on the image, the answer is C.", None, "B")]
    assert Scorer("official", benchmark).read_many(items) == [
        Reading(True, "B", "official"),
        UNANSWERED,
        Reading(True, "B", "official"),
    ]


def test_official_mode_without_such_a_rule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"benchmark ours has no rule of its own .* 'strict'\.$"):
        Scorer("official", Ours())


def test_the_judge_is_asked_only_what_the_rules_leave_open(make: Make) -> None:
    judge, options, several = RecordingJudge(), make("B", COLOURS), make("A", COLOURS, letters="AC")
    items = [
        (options, "B"),
        (options, "yellowish"),
        (options, None),
        (options, "C"),
        (make("red car"), "an automobile in red"),
        (make("red car"), "red car"),
        (several, "A or C"),
        (several, "A, B"),
        (make("3"), "4"),
        (make("3"), "a dozen"),
        (options, "unclear"),
        (options, " "),
    ]
    readings = Scorer("strict", Ours(), judge).read_many(items)  # type: ignore[arg-type]
    assert judge.asked == ["yellowish", "an automobile in red", "A or C", "a dozen", "unclear"]
    assert [reading.method for reading in readings] == [
        *("letter", "judge", "unanswered", "letter", "judge", "text", "judge", "letter_set", "number", "judge"),
        *("judge_unclear", "unanswered"),
    ]
    assert "".join(str(int(reading.correct)) for reading in readings) == "110011100100"
    assert readings[6] == Reading(True, "AC", "judge")
    assert not readings[10].correct


def test_what_needs_a_judge() -> None:
    assert needs_judge(UNMATCHED)
    assert needs_judge(Reading(False, "truck", "text"))
    assert not needs_judge(Reading(True, "car", "text"))
    assert not needs_judge(Reading(False, "C", "letter"))
    assert not needs_judge(UNANSWERED)
