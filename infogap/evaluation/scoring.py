"""What an answer is read as, and by which rule: our rules or the benchmark's own, then a judge if there is one.

Our rules are those that training rewards (``infogap.episode.matching``), and some that an evaluation can afford:
numbers in words or with units, yes and no, sets of letters. The rule that applied is kept with every answer, so that a
score without a judge, or without some rule, can be made again from the predictions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Literal

from infogap.episode.answer_text import boxed_text, normalise, only_number, plain_number, without_prefix, words_of
from infogap.episode.matching import OptionRule, find_letter, find_option, match_answer
from infogap.evaluation.benchmarks.base import Benchmark
from infogap.evaluation.judge import Judge
from infogap.evaluation.letter_sets import find_letters
from infogap.evaluation.question import UNANSWERED, UNMATCHED, Question, Reading, Rule

YES_NO = frozenset({"yes", "no"})


def read_strictly(question: Question, answer: str | None) -> Reading:
    """Read an answer by our rules, which read it in one way or not at all.

    The methods, with what they read: "letter" (the answer is a letter), "letter_pattern" ("The answer is B because"),
    "option_text" and "number" (all options are numbers, and the answer holds the number of one), all four a letter;
    "letter_set", the letters in alphabetical order. Of an open question: "letter" and "letter_pattern", if the right
    answer is a single capital letter; "yes_no", the first word or the only one of the two that occurs; "number", if the
    right answer is a number and the answer holds one alone, whatever its unit; "text", normalised.

    Args:
        question: with what is right.
        answer: None if there is none.

    Returns:
        What was read. `UNANSWERED` without an answer or with a blank one; `UNMATCHED` if no option is found, or the
        answer to an open question is nothing but punctuation.
    """
    if answer is None or not answer.strip():
        return UNANSWERED
    if question.letters:
        return _read_letters(question, answer)
    if question.sample.options:
        return _read_option(question, answer)
    return _read_open(question, answer)


class Scorer:
    """Reads answers.

    Args:
        mode: "strict": by our rules. "official": by the benchmark's own.
        benchmark: what is evaluated.
        judge: asked about what the rules could not read; None: such answers are wrong.

    Raises:
        ValueError: if the benchmark has no rule of its own, and the mode is "official".
    """

    def __init__(
        self, mode: Literal["strict", "official"], benchmark: Benchmark | type[Benchmark], judge: Judge | None = None
    ) -> None:
        # Of an object the rule would be a bound method.
        kind = benchmark if isinstance(benchmark, type) else type(benchmark)
        if mode == "official" and kind.official is None:
            raise ValueError(
                f"The benchmark {kind.name} has no rule of its own that works without a judge: set the mode of "
                "scoring to 'strict'."
            )
        self._rule: Rule = kind.official if mode == "official" and kind.official is not None else read_strictly
        self._judge = judge

    def read_many(self, items: Sequence[tuple[Question, str | None]]) -> list[Reading]:
        """Read answers, in order.

        Raises:
            JudgeError: if the judge cannot be asked.
        """
        readings = [self._rule(question, answer) for question, answer in items]
        if self._judge is None:
            return readings
        asked = [
            (place, question, answer)
            for place, ((question, answer), reading) in enumerate(zip(items, readings, strict=True))
            if answer is not None and needs_judge(reading)
        ]
        judged = self._judge.read_many([(question, answer) for _, question, answer in asked])
        for (place, _, _), reading in zip(asked, judged, strict=True):
            readings[place] = reading
        return readings


def needs_judge(reading: Reading) -> bool:
    """Whether rules leave open what an answer means: nothing was read, or a text that is not the right one."""
    return reading == UNMATCHED or (reading.method == "text" and not reading.correct)


def _read_letters(question: Question, answer: str) -> Reading:
    letters = find_letters(answer, len(question.sample.options))
    if letters:
        return Reading(letters == question.letters, "".join(sorted(letters)), "letter_set")
    found = find_option(answer, question.sample.options)
    if found is None or found.rule != OptionRule.OPTION_TEXT:
        return UNMATCHED
    return Reading(question.letters == {found.letter}, found.letter, found.rule.value)


def _read_option(question: Question, answer: str) -> Reading:
    options = question.sample.options
    found = find_option(answer, options)
    if found is not None:
        return Reading(found.letter == question.gold, found.letter, found.rule.value)
    numbers = [plain_number(option.strip()) for option in options]
    number = only_number(answer)
    if number is None or None in numbers or numbers.count(number) != 1:
        return UNMATCHED
    letter = ascii_uppercase[numbers.index(number)]
    return Reading(letter == question.gold, letter, "number")


def _read_open(question: Question, answer: str) -> Reading:
    gold = question.gold.strip()
    stated = without_prefix(boxed_text(answer) or answer)
    if re.fullmatch("[A-Z]", gold) and (found := find_letter(answer, len(ascii_uppercase))):
        return Reading(found.letter == gold, found.letter, found.rule.value)
    if normalise(gold) in YES_NO and (word := _yes_or_no(stated)):
        return Reading(word == normalise(gold), word, "yes_no")
    right = plain_number(gold)
    if right is not None and (number := only_number(stated)):
        return Reading(number == right, number, "number")
    correct = match_answer(answer, gold, ())
    if not correct and not normalise(stated):
        return UNMATCHED
    return Reading(correct, normalise(stated) or answer.strip(), "text")


def _yes_or_no(text: str) -> str | None:
    """The first word, or the only one of the two that occurs."""
    words = words_of(text)
    held = YES_NO & {*words}
    if words and words[0] in YES_NO:
        return words[0]
    return next(iter(held)) if len(held) == 1 else None
