"""Options that stand in the text of a question, as many data sets write them."""

from __future__ import annotations

import re
from string import ascii_uppercase
from typing import Final, NamedTuple

# "(A) red", "A. red", "A) red", "A: red"; brackets of full width occur in MME-RealWorld
LETTERED: Final = re.compile(r"\s*(?:[(\uff08]([A-Z])[)\uff09][.:]?\s*|([A-Z])[.:)](?:\s+|$))(.*)", re.DOTALL)
"""An option with its letter before it: groups 1 or 2 are the letter, 3 is the text."""

_HEADING: Final = re.compile(r"\b(?:options|choices)\s*:\s*$", re.IGNORECASE)
_INLINE: Final = re.compile(r"\b(?:options|choices)\s*:\s*(?=\(?A[.:)])", re.IGNORECASE)


class Asked(NamedTuple):
    """A question with its options taken out.

    Attributes:
        question: the text before the options.
        options: their texts, without letters.
    """

    question: str
    options: tuple[str, ...]


def split_options(text: str) -> Asked | None:
    """Take the options out of a question that holds them; None where it is not plain which they are.

    They stand in lines of their own ("(A) red", "A. red", "A: red"), with nothing but an instruction behind the last,
    or after a heading in one line ("Options: A: red, B: blue"), as in MMStar.
    """
    return _split_lines(text) or _split_inline(text)


def _split_lines(text: str) -> Asked | None:
    lines = [line for line in text.splitlines() if line.strip()]
    matches = [LETTERED.fullmatch(line) for line in lines]
    letters = [(match[1] or match[2]) if match else "" for match in matches]
    joined = "".join(letter or "-" for letter in letters)
    start = joined.find("AB")
    if start < 1:  # none, or no question before them
        return None
    run = joined[start:].split("-")[0]
    if run != ascii_uppercase[: len(run)] or any(letters[start + len(run) :]):  # out of order, or a second list
        return None
    question = _HEADING.sub("", "\n".join(lines[:start]))
    options = tuple(match[3].strip() for match in matches[start : start + len(run)] if match)
    return Asked(question.strip(), options) if question.strip() and all(options) else None


def _split_inline(text: str) -> Asked | None:
    headings = list(_INLINE.finditer(text))
    if len(headings) != 1 or "\n" in text[headings[0].end() :].strip():
        return None
    rest, options = text[headings[0].end() :].strip(), []
    rest = re.sub(r"^\(?A[.:)]\s*", "", rest)
    for letter in ascii_uppercase[1:]:
        parts = re.split(rf"[,;]?\s+\(?{letter}[.:)]\s+", rest)
        if len(parts) > 2:  # the letter occurs inside an option too
            return None
        options.append(parts[0].strip())
        if len(parts) == 1:
            break
        rest = parts[1]
    question = text[: headings[0].start()].strip()
    return Asked(question, tuple(options)) if question and len(options) > 1 and all(options) else None
