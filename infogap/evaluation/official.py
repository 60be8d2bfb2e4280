"""Answers read by the rules of the benchmarks' own harnesses, for comparison with published numbers.

The rules are told again in our words, faults included: each docstring names the faults that change scores, and the
tests pin them. Prefer our own rules (``scoring.read_strictly``) for anything but that comparison.

No answer at all, which a harness that prints whatever was generated does not know, is unanswered and wrong under every
rule; an empty answer is read as the harness reads it. What a harness could not read is unmatched.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from infogap.evaluation.question import UNANSWERED, UNMATCHED, Question, Reading

METHOD: Final = "official"

# Commas are missing in the source, which joins the last two pairs of phrases: they are never found.
_MME_PREFIXES: Final = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is" + "The correct option is",
    "Best answer:" + "Best option:",
)

_HRBENCH_REFUSALS: Final = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_HRBENCH_SPACES: Final = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_HRBENCH_STATED: Final = re.compile(r"answer\s+is\s+\**([ABCD])", re.IGNORECASE)
_HRBENCH_LAST_WORDS: Final = 4


def mme_realworld(question: Question, answer: str | None) -> Reading:
    """Read as MME-RealWorld does: strip stock phrases, take the first capital A to E, else an option holding the text.

    Source: yfzhang114/MME-RealWorld, ``evaluation/eval_your_results.py``. (lmms-eval and VLMEvalKit have mended the
    joined phrases, and pass options without texts.)

    Faults: any capital counts, so "Based on the sign, D" is B, "Best answer: C" is B and "Dark green, so (A)" is D; an
    empty answer is inside every option, so it is A; so is "e" wherever the first option holds one.
    """
    if answer is None:
        return UNANSWERED
    text = _without_mme_prefixes(answer)
    capital = re.search("[ABCDE]", text)
    if capital:
        return _read(capital[0], question)
    if len(text.split()) > 10:
        return UNMATCHED
    for letter, option in zip(question.sample.option_letters, question.sample.options, strict=True):
        if text.lower() in f"({letter}) {option}".lower():
            return _read(letter, question)
    return UNMATCHED


def xlrs(question: Question, answer: str | None) -> Reading:
    """Read as XLRS-Bench does: all letters A to E in brackets, else all such letters anywhere; the sets must be equal.

    Source: lmms-eval, ``lmms_eval/tasks/xlrs/mcq_utils.py``, which the authors' README points to; VLMEvalKit has the
    same.

    Faults: without brackets letters are taken from inside words and in either case, so "Answer: B" is A, B and E and
    "B, because it is dark" is A, B, C, D and E; without any capital A to E nothing is read, so "b" is unmatched, but
    "(b) Forest" too, unless a capital stands elsewhere.
    """
    if answer is None:
        return UNANSWERED
    text = _without_mme_prefixes(answer)
    if not re.search("[ABCDE]", text):
        return UNMATCHED
    letters = re.findall(r"\(([A-Ea-e])\)", text) or re.findall("[A-Ea-e]", text)
    return _read("".join(sorted({letter.upper() for letter in letters})), question)


def mmstar(question: Question, answer: str | None) -> Reading:
    """Read as MMStar does: one character at a fixed place, in either case.

    The place is the first, or the first after "(", "option " or "the answer is ". Source: MMStar-Benchmark/MMStar,
    ``eval/vlmeval/evaluate/mmstar.py``.

    Faults: "Based on the image, C" is B and "A dog" is A; "The answer is: B", "The answer is (B)", "Answer: B" and
    "**B**" are not read.
    """
    if answer is None:
        return UNANSWERED
    text = answer.lower().strip().replace("\n", " ")
    start = next((prefix for prefix in ("(", "option ", "the answer is ") if text.startswith(prefix)), "")
    return _read_letter(text[len(start) :], question)


def pope(question: Question, answer: str | None) -> Reading:
    """Read as POPE does: "no" if the first sentence holds the word "No", "no" or "not", else "yes".

    Source: AoiDragon/POPE, ``evaluate.py``. (VLMEvalKit instead wants exactly one of yes and no in the whole answer;
    lmms-eval wants the answer to be nothing else.)

    Faults: all that is not denied is "yes": an empty answer, "I cannot tell", "NO", "No!", "There isn't one"; a double
    negation is "no" ("Yes, there is no doubt"); words are split at single spaces and commas are dropped, not split at.
    """
    if answer is None:
        return UNANSWERED
    words = answer.split(".")[0].replace(",", "").split(" ")
    read = "no" if {"No", "no", "not"} & {*words} else "yes"
    return Reading(read == question.gold.strip().lower(), read, METHOD)


def hrbench(question: Question, answer: str | None) -> Reading:
    """Read as VLMEvalKit does HR-Bench: a lone letter near the end, "answer is X", or the only option that occurs.

    A refusal, or "Z", is none of the options. What remains goes to a judge there; here as well, if one is configured.
    Source: VLMEvalKit, ``can_infer`` in ``vlmeval/utils/matching_util.py`` at e8e78f0. (DreamMr/HR-Bench, the authors'
    own, asks a judge about every answer, which is no rule.)

    Faults: "A dog" is A and "It is not B" is B; "answer is" is followed into words, so "The answer is clear: it is
    red" is C; texts are looked for inside words, so "reddish" is "red"; a text inside another makes both occur.
    """
    if answer is None:
        return UNANSWERED
    options = dict(zip(question.sample.option_letters, question.sample.options, strict=True))
    letter = _hrbench_letter(answer, options) or _hrbench_text(answer, options)
    return _read(letter, question) if letter else UNMATCHED


def cvbench(question: Question, answer: str | None) -> Reading:
    """Read as CV-Bench does: the first character after the last "answer is" or "answer:", in either case.

    A full stop and brackets around it are stripped. Source: cambrian-mllm/cambrian, ``extract_mcq_answer`` in
    ``eval/eval/coco/coco_test.py``, the same for all three parts. (lmms-eval takes the first letter instead.)

    Faults: "Based on the image, C" is B; "The answer is: B" and "**B**" are not read, for the colon and the star are
    the first character.
    """
    if answer is None:
        return UNANSWERED
    text = answer.lower().strip()
    for phrase in ("answer is", "answer is:", "answer:"):
        text = text.split(phrase)[-1]
    return _read_letter(text.strip().rstrip(".").lstrip("(").rstrip(")"), question)


def _read(letters: str, question: Question) -> Reading:
    """A letter, or several in alphabetical order."""
    return Reading(letters == question.gold, letters, METHOD)


def _read_letter(text: str, question: Question) -> Reading:
    """The first character, if it is the letter of an option; A to D if the options are inside the question."""
    letter = text[:1].upper()
    known = letter in (question.sample.option_letters or tuple("ABCD"))
    return _read(letter, question) if known else UNMATCHED


def _without_mme_prefixes(answer: str) -> str:
    text = answer.strip()
    for prefix in _MME_PREFIXES:
        text = text.replace(prefix, "")
    return text


def _hrbench_letter(answer: str, options: Collection[str]) -> str | None:
    if any(refusal in answer for refusal in _HRBENCH_REFUSALS):
        return "Z"
    words = answer.translate(_HRBENCH_SPACES).split()
    held = [letter for letter in options if letter in words]
    if not held and "Z" in words:
        return "Z"
    if len(held) == 1 and words.index(held[0]) >= len(words) - _HRBENCH_LAST_WORDS:
        return held[0]
    stated = _HRBENCH_STATED.search(answer)
    return stated[1].upper() if stated and stated[1].upper() in options else None


def _hrbench_text(answer: str, options: dict[str, str]) -> str | None:
    text = answer.lower()
    if len(text) > 2 * sum(map(len, options.values())):
        return None
    held = [letter for letter, option in options.items() if option.lower() in text]
    return held[0] if len(held) == 1 else None
