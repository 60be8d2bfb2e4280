"""Golden tables: what the harnesses of the benchmarks read, right or not. Where they err it is said in a comment."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from infogap.data.sample import Sample
from infogap.evaluation import official
from infogap.evaluation.question import UNANSWERED, UNMATCHED, Question, Reading, Rule

COLOURS = ("dark green", "red", "blue", "green")
FIVE = (*COLOURS, "none of these")
LANDS = ("forest", "road", "lake", "field")
DOUBT = "I have looked at it for a long time and cannot tell what this may be"

Make = Callable[..., Question]


@pytest.fixture
def make(make_sample: Callable[..., Sample]) -> Make:
    """Factory of questions: `make("B", COLOURS)`."""

    def question(answer: str, options: tuple[str, ...] = (), letters: str = "") -> Question:
        sample = make_sample(answer=answer, options=options)
        return Question(sample, "category", "cluster", "prompt", letters=frozenset(letters))

    return question


def reading(read: str, right: str) -> Reading:
    return Reading(read == right, read, "official") if read else UNMATCHED


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("B", "B"),
        (" (B) red", "B"),
        ("The best answer is: C", "C"),
        ("The correct answer is B. red", "B"),
        ("The answer is **D**", "D"),
        ("E", "E"),
        ("red", "B"),
        ("The answer is red", "B"),
        ("Best answer: C", "B"),  # the B of "Best", for the phrase is never found
        ("The best option is C", "C"),
        ("The best option is red", ""),  # that phrase neither
        ("The correct option is C", "C"),
        ("Based on the sign, D", "B"),
        ("Dark green, so (A)", "D"),
        ("Cannot tell", "C"),
        ("", "A"),
        ("The best answer is", "A"),
        ("e", "A"),  # of "dark green"
        ("green", "A"),  # inside "dark green"
        ("yellow", ""),
        (DOUBT.lower(), ""),
    ],
)
def test_mme_realworld(make: Make, answer: str, read: str) -> None:
    assert official.mme_realworld(make("B", FIVE), answer) == reading(read, "B")


def test_mme_realworld_reads_no_long_text(make: Make) -> None:
    assert official.mme_realworld(make("B", ("yes", DOUBT)), DOUBT.lower()) == UNMATCHED
    assert official.mme_realworld(make("B", ("yes", DOUBT)), DOUBT.lower()[2:20]) == reading("B", "B")


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("A C", "AC"),
        ("C, A", "AC"),
        ("(A) forest (C) lake", "AC"),
        ("(a) Forest, C", "A"),  # only brackets count once there are any
        ("The answer is A, C", "AC"),
        ("B", "B"),
        ("Answer: B", "ABE"),
        ("B, because it is dark", "ABCDE"),
        ("Forest", ""),  # without a capital of an option nothing is read
        ("b", ""),
        ("(b) Forest", ""),
        ("", ""),
    ],
)
def test_xlrs(make: Make, answer: str, read: str) -> None:
    assert official.xlrs(make("A", LANDS, letters="AC"), answer) == reading(read, "AC")


def test_xlrs_with_one_right_letter(make: Make) -> None:
    assert official.xlrs(make("B", LANDS), "(B)") == Reading(True, "B", "official")
    assert official.xlrs(make("B", LANDS), "B C") == Reading(False, "BC", "official")
    assert official.xlrs(make("B", LANDS, letters="B"), "The answer is B") == Reading(True, "B", "official")


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("B", "B"),
        ("b. red", "B"),
        ("(B) red", "B"),
        ("Option B", "B"),
        ("The answer is B", "B"),
        ("the answer is\nb", "B"),
        ("Based on the image, C", "B"),
        ("A dog", "A"),
        ("Dark green", "D"),
        ("The answer is: B", ""),
        ("The answer is (B)", ""),
        ("Answer: B", "A"),
        ("**B**", ""),
        ("red", ""),
        ("", ""),
        ("(", ""),
        ("the answer is ", ""),
    ],
)
@pytest.mark.parametrize("options", [COLOURS, ()])
def test_mmstar(make: Make, answer: str, read: str, options: tuple[str, ...]) -> None:
    assert official.mmstar(make("B", options), answer) == reading(read, "B")


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("yes", "yes"),
        ("Yes, it is.", "yes"),
        ("no", "no"),
        ("No, there is none.", "no"),
        ("It is not there", "no"),
        ("Yes. There is no doubt.", "yes"),  # only the first sentence counts
        ("Yes, there is no doubt.", "no"),
        ("NO", "yes"),
        ("No!", "yes"),
        ("No\nIt is not.", "no"),  # because of "not"; the first word is "No\nIt"
        ("No\nnone", "yes"),
        ("There isn't one", "yes"),
        ("I cannot tell", "yes"),
        ("", "yes"),
        (". no", "yes"),
    ],
)
@pytest.mark.parametrize("gold", ["yes", "no"])
def test_pope(make: Make, answer: str, read: str, gold: str) -> None:
    assert official.pope(make(gold), answer) == reading(read, gold)


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("B", "B"),
        ("(B) red", "B"),
        ("**B**", "B"),
        ("So I would say that it has to be B.", "B"),
        ("The correct answer is **B**. Here is a long list of reasons why it is so", "B"),
        ("B is what I see here in this picture", ""),  # too far from the end
        ("The answer is red", "B"),
        ("red", "B"),
        ("A dog", "A"),
        ("It is not B", "B"),
        ("The answer is clear: it is red", "C"),
        ("The answer is a red one", "A"),
        ("A or B", ""),
        ("reddish", "B"),
        ("dark green", ""),  # "green" occurs as well
        ("blue " + "x" * 60, ""),  # longer than twice all options
        ("yellow", ""),
        ("", ""),
        ("Z", "Z"),
        ("Cannot determine the answer", "Z"),
        ("b", ""),
        ("E", ""),
    ],
)
def test_hrbench(make: Make, answer: str, read: str) -> None:
    assert official.hrbench(make("B", COLOURS), answer) == reading(read, "B")


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("(B)", "B"),
        ("B.", "B"),
        ("b", "B"),
        ("(B) red", "B"),
        ("The answer is (B).", "B"),
        ("Answer: B", "B"),
        ("First the answer is A, then the answer is B", "B"),
        ("Based on the image, C", "B"),
        ("A dog", "A"),
        ("The answer is: B", ""),
        ("**B**", ""),
        ("It is (B)", ""),
        ("red", ""),
        ("E", ""),
        ("", ""),
    ],
)
def test_cvbench(make: Make, answer: str, read: str) -> None:
    assert official.cvbench(make("B", COLOURS), answer) == reading(read, "B")


RULES = (official.mme_realworld, official.xlrs, official.mmstar, official.pope, official.hrbench, official.cvbench)


@pytest.mark.parametrize("rule", RULES)
def test_no_answer_is_never_right(make: Make, rule: Rule) -> None:
    gold, options = ("yes", ()) if rule is official.pope else ("A", FIVE)
    assert rule(make(gold, options), None) == UNANSWERED


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule is not official.pope])
@pytest.mark.parametrize("letter", "ABCD")
def test_every_rule_reads_a_plain_letter(make: Make, rule: Rule, letter: str) -> None:
    assert rule(make("C", COLOURS), letter) == Reading(letter == "C", letter, "official")
