"""Whether an answer is right, by rules alone: option letters, option texts, numbers, normalised text. No judge.

The rules favour precision: an answer that could be read in two ways matches nothing, since a reward for a wrong answer
teaches more harm than a missed one. They are ours; the letter parsers of common harnesses take "Based on the image, the
answer is C." for option B.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from string import ascii_uppercase
from typing import Final

from infogap.episode.answer_text import boxed_text, clean, normalise, same_text, without_prefix

# Letters, looked for in cleaned text. Upper case, for "a" is mostly an article; lower case only alone, in brackets, or
# as the end of "Answer: b".
_LONE_LETTER: Final = re.compile(r"[\s()\[\].,:;*\"'`]*([A-Za-z])[\s()\[\].,:;*\"'`]*")
_LEADING_LETTER: Final = re.compile(
    r"[\s*\"'`]*(?:\(([A-Za-z])\)|([A-Za-z])\)|([A-Z])[*\"'`]*(?::|[.,;](?=[\s*\"'`]|$|[\u3400-\u9fff])|\s+-\s))"
)
# A word may follow ("the answer is B because"), but after A and I, which begin phrases ("is A dog"), only some may. A
# question ("Is the answer A?") states nothing.
_STATED_LETTER: Final = re.compile(
    r"\b[Aa]nswer\b(?:\s+(?:is|should\s+be|must\s+be)\b)?[\s:(\[*\"'`]*+(?:\b(?:option|choice)\s+)?[(\[*\"'`]*+"
    r"(?<!\w)(?:([B-HJ-Z])(?![\w'?])|([AI])(?=[^\w\s'?]|\s*$|\s+(?:because|since|as|for)\b))"
)
_STATED_LOWER_CASE: Final = re.compile(
    r"\b[Aa]nswer\b[\s*]*+(?::|(?<=\s)(?:is|should\s+be|must\s+be)\b:?)[\s(\[*\"'`]*+(?<!\w)([a-z])(?=[^\w?]*$)"
)
_NAMED_LETTER: Final = re.compile(r"(?<!\w)\(([A-Za-z])\)|\b(?:[Oo]ption|[Cc]hoice)\s+[(*]*([A-Z])(?![\w'])")
_FINAL_LETTER: Final = re.compile(r"(?<![\w'])([A-Z])\W*$")
# What names no answer: "A or B", "not (B)", "neither A nor B". I is a pronoun after a comma.
_REJECTED_LETTERS: Final = re.compile(
    r"(?<![\w'])\(?[A-Z]\)?(?:\s*(?:[,;&/]|\band\b|\bn?or\b)+\s*\(?[A-HJ-Z](?![\w'])\)?)+"
    r"|(?:\bnot|n't|\brather\s+than|\binstead\s+of)\s+(?:be\s+)?(?:[Oo]ption\s+|[Cc]hoice\s+)?\(?[A-Z](?![\w'])\)?"
)

_CLAUSE_END: Final = re.compile(r"[.,;:!](?=\s|$)|\n|\s-\s")
_NEGATION: Final = re.compile(r"\b(?:not|never|neither|nor|cannot|except|without)\b|n't\b")


class OptionRule(StrEnum):
    """The rule that found an option in an answer."""

    LETTER = "letter"
    LETTER_PATTERN = "letter_pattern"
    OPTION_TEXT = "option_text"


@dataclass(frozen=True)
class FoundOption:
    """An option that an answer means.

    Attributes:
        index: place of the option.
        rule: what found it.
    """

    index: int
    rule: OptionRule

    @property
    def letter(self) -> str:
        """Letter of the option."""
        return ascii_uppercase[self.index]


def match_answer(predicted: str | None, sample_answer: str, options: Sequence[str]) -> bool:
    r"""Whether a predicted answer is right.

    With options both answers are resolved to one of them, and nothing matches where that fails. Without options the
    texts are compared as ``normalise`` leaves them; a right answer that is a single capital letter (options inside the
    question) may also be given as "(B)" or "The answer is B.". Units count: "5%" is neither "5" nor "5 percent". Of
    ``\boxed{...}`` the content counts.

    Args:
        predicted: what the policy answered; None: nothing.
        sample_answer: the right answer. With options: the text of one of them, or its letter. If the texts are letters
            themselves, the text counts here, while a letter in ``predicted`` names the option, as the prompt asks for.
        options: texts of the options in the order of their letters, or empty.

    Returns:
        True if they match.
    """
    if predicted is None or not predicted.strip():
        return False
    if options:
        right = _same_option(sample_answer, options)
        right = option_index(sample_answer, options) if right is None else right
        return right is not None and option_index(predicted, options) == right
    if re.fullmatch(r"[A-Z]", sample_answer.strip()):
        found = find_letter(predicted, len(ascii_uppercase))
        return found is not None and found.letter == sample_answer.strip()
    readings = (predicted, without_prefix(predicted), boxed_text(predicted) or predicted)
    return any(same_text(reading, sample_answer) for reading in readings)


def option_index(text: str, options: Sequence[str]) -> int | None:
    """Which option an answer means; see `find_option`.

    Returns:
        Index of the option, or None if the answer names none, or more than one.
    """
    found = find_option(text, options)
    return None if found is None else found.index


def find_option(text: str, options: Sequence[str]) -> FoundOption | None:
    r"""Which option an answer means, and what says so.

    Tried in this order: a lone letter; an option's text as it stands; what the last ``\boxed{...}`` holds, which then
    is the answer; a letter, the last one stated to be the answer ("The answer is B"), else the only one named ("B.
    red", "so (B)"); an option's text, normalised. At last these, unless they disagree: a first clause that is an
    option's text ("Red, because ..."), a letter at the end ("... hence B"), the only option whose text occurs.

    Args:
        text: the answer.
        options: texts of the options in the order of their letters.

    Returns:
        The option, or None if the answer names none, or more than one.
    """
    text = clean(text)
    if lone := _LONE_LETTER.fullmatch(text):
        return _found(_index(lone[1], len(options)), OptionRule.LETTER)
    bare = without_prefix(text)
    verbatim = _verbatim_option(bare, options)
    if verbatim is None and (boxed := boxed_text(text)):
        return find_option(boxed, options)
    for index, rule in (
        (verbatim, OptionRule.OPTION_TEXT),
        (_named_letter(text, len(options)), OptionRule.LETTER_PATTERN),
        (_same_option(text, options), OptionRule.OPTION_TEXT),
        (_same_option(bare, options), OptionRule.OPTION_TEXT),
    ):
        if index is not None:
            return FoundOption(index, rule)
    final = _final_letter(text, len(options))
    index = _only({_same_option(_first_clause(bare), options), final, _mentioned_option(text, options)})
    return _found(index, OptionRule.OPTION_TEXT if final is None else OptionRule.LETTER_PATTERN)


def find_letter(text: str, count: int) -> FoundOption | None:
    """Which of the first ``count`` letters an answer means, if the texts of the options are not known.

    Returns:
        The option of that letter, or None if the answer names none, or more than one.
    """
    text = clean(boxed_text(text) or text)
    if lone := _LONE_LETTER.fullmatch(text):
        return _found(_index(lone[1], count), OptionRule.LETTER)
    named = _named_letter(text, count)
    return _found(_final_letter(text, count) if named is None else named, OptionRule.LETTER_PATTERN)


def _found(index: int | None, rule: OptionRule) -> FoundOption | None:
    return None if index is None else FoundOption(index, rule)


def _verbatim_option(text: str, options: Sequence[str]) -> int | None:
    """Before letters are looked for, so that an option "A. Smith" is not option A."""
    return _only(index for index, option in enumerate(options) if clean(option).casefold() == text.casefold())


def _same_option(text: str, options: Sequence[str]) -> int | None:
    return _only(index for index, option in enumerate(options) if same_text(text, option))


def _mentioned_option(text: str, options: Sequence[str]) -> int | None:
    """The only option whose text occurs as whole words; where it is part of a longer option's, it does not count."""
    words = f" {normalise(text)} "
    if _NEGATION.search(words):
        return None
    found: list[int] = []
    normalised = [normalise(option) for option in options]
    for option in sorted({*normalised} - {""}, key=len, reverse=True):
        words, times = re.subn(rf"(?<!\S){re.escape(option)}(?!\S)", "/", words)  # a sign that no option holds
        found += [index for index, other in enumerate(normalised) if times and other == option]
    return _only(found)


def _named_letter(text: str, count: int) -> int | None:
    """The last letter that is stated to be the answer, else the only one that is named."""
    text = _REJECTED_LETTERS.sub("", text)
    if stated := [*_STATED_LETTER.finditer(text), *_STATED_LOWER_CASE.finditer(text)]:
        return _index(_matched_group(stated[-1]), count)
    leading = _LEADING_LETTER.match(text)
    named = [*([] if leading is None else [leading]), *_NAMED_LETTER.finditer(text)]
    return _only({_index(_matched_group(match), count) for match in named})


def _final_letter(text: str, count: int) -> int | None:
    match = _FINAL_LETTER.search(_REJECTED_LETTERS.sub("", text))
    return None if match is None else _index(match[1], count)


def _matched_group(match: re.Match[str]) -> str:
    return str(match[match.lastindex or 0])


def _index(letter: str, count: int) -> int | None:
    index = ascii_uppercase.index(letter.upper())
    return index if index < count else None


def _only(indices: Iterable[int | None]) -> int | None:
    """The only index that is not None, or None."""
    found = [index for index in indices if index is not None]
    return found[0] if len(found) == 1 else None


def _first_clause(text: str) -> str:
    match = _CLAUSE_END.search(text)
    return text[: match.start()] if match else text
