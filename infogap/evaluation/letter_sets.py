"""Answers that name several options, as XLRS-Bench asks for: "A C", "AC", "(A)(C)", "The answers are A and C."."""

from __future__ import annotations

import re
from string import ascii_uppercase
from typing import Final

from infogap.episode.answer_text import boxed_text, clean
from infogap.episode.matching import find_letter

_DECORATION: Final = r"[\s()\[\].,:;*\"'`&/+]|\band\b"
_RUN: Final = r"(?<![^\W_])[A-Z]+(?![^\W_]|')"
_LIST: Final = rf"(?:(?:{_DECORATION})*+{_RUN})++"
_WHOLE_LIST: Final = re.compile(rf"{_LIST}(?:{_DECORATION})*")
# Lower-case letters without anything between them are a word ("bad").
_WHOLE_LOWER_CASE_LIST: Final = re.compile(rf"(?:(?:{_DECORATION})*+\b[A-Za-z]\b)+(?:{_DECORATION})*")
_STATED_LIST: Final = re.compile(
    r"\b(?:[Aa]nswer|[Oo]ption|[Cc]hoice)(?:s|\(s\))?(?:\s+(?:is\(are\)|is\b|are\b))?(?=[\s:(\[*\"'`])"
    rf"({_LIST})(?=\W*$|\s*[.,;:]|\s+(?:because|since|as)\b)"
)
_HEADING: Final = re.compile(r"(?:^|[,;.]\s|\band\s)[\s*-]*(?:\(([A-Z])\)|([A-Z])[).:])", re.MULTILINE)
_ALONE: Final = r"(?<![\w'])[A-Z](?![\w'])"
_NAMED: Final = re.compile(r"(?<!\w)\(([A-Z])\)")
_DOUBT: Final = re.compile(r"\b(?:not|never|neither|nor|cannot|except|or|wrong|incorrect|rather|instead)\b|n't\b")


def find_letters(text: str, count: int) -> frozenset[str]:
    r"""Which options an answer names, if several may be right.

    Tried in this order: an answer (or the content of its last ``\boxed{...}``) that is nothing but letters; the last
    list that is stated to be the answer; the letters that head lines or clauses ("A. forest, C. lake"); the letters in
    brackets; one letter, as in ``find_letter``. The last three only without a word of doubt, such as "not" and "or",
    and if no other letter stands alone. Letters without anything between them must be in alphabetical order, or they
    may be a word.

    Args:
        text: the answer.
        count: number of options.

    Returns:
        The letters; none if the answer names none, or one that is no option.
    """
    text = clean(boxed_text(text) or text)
    if _WHOLE_LIST.fullmatch(text):
        return _listed(text, count)
    if _WHOLE_LOWER_CASE_LIST.fullmatch(text):
        return _listed(re.sub(r"\band\b", " ", text).upper(), count)
    if stated := _STATED_LIST.findall(text):
        return _listed(stated[-1], count)
    if _DOUBT.search(text.casefold()):
        return frozenset()
    alone = frozenset(re.findall(_ALONE, text)) & _letters(count)
    for pattern in (_HEADING, _NAMED):
        found = frozenset(str(match[match.lastindex or 0]) for match in pattern.finditer(text))
        if found and alone <= found <= _letters(count):
            return found
    single = find_letter(text, count) if len(alone) == 1 else None
    return frozenset() if single is None else frozenset(single.letter)


def _listed(text: str, count: int) -> frozenset[str]:
    """The letters of a list that holds nothing else."""
    runs = re.findall("[A-Z]+", text)
    named = frozenset("".join(runs))
    in_order = all(list(run) == sorted({*run}) for run in runs)
    return named if in_order and named <= _letters(count) else frozenset()


def _letters(count: int) -> frozenset[str]:
    return frozenset(ascii_uppercase[:count])
