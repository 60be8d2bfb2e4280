"""Whether an answer is right, by rules alone: option letters, option texts, numbers, normalised text. No judge.

The rules favour precision: an answer that could be read in two ways matches nothing, since a reward for a wrong answer
teaches more harm than a missed one. They are ours; the letter parsers of common harnesses take "Based on the image, the
answer is C." for option B.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from string import ascii_uppercase
from typing import Final

_PLAIN_SIGNS: Final = {
    ord(sign): plain
    for plain, signs in (
        ("-", "\N{MINUS SIGN}\N{EN DASH}\N{EM DASH}"),
        ("'", "\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}"),
        ('"', "\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}"),
    )
    for sign in signs
}

# Letters, looked for in cleaned text. Upper case, for "a" is mostly an article; lower case only alone or in brackets.
_LONE_LETTER: Final = re.compile(r"[\s()\[\].,:;*\"'`]*([A-Za-z])[\s()\[\].,:;*\"'`]*")
_LEADING_LETTER: Final = re.compile(r"[\s*\"'`]*(?:\(([A-Za-z])\)|([A-Za-z])\)|([A-Z])(?::|[.,;](?=\s|$)|\s+-\s))")
# A word may follow ("the answer is B because"), but after A and I, which begin phrases ("is A dog"), only some may.
_STATED_LETTER: Final = re.compile(
    r"\b[Aa]nswer\b(?:\s+(?:is|should\s+be|must\s+be)\b)?[\s:(\[*\"'`]*+(?:\b(?:option|choice)\s+)?[(\[*\"'`]*+"
    r"(?<!\w)(?:([B-HJ-Z])(?![\w'])|([AI])(?=[^\w\s']|\s*$|\s+(?:because|since|as|for)\b))"
)
_NAMED_LETTER: Final = re.compile(r"(?<!\w)\(([A-Za-z])\)|\b(?:[Oo]ption|[Cc]hoice)\s+[(*]*([A-Z])(?![\w'])")
_FINAL_LETTER: Final = re.compile(r"(?<![\w'])([A-Z])\W*$")
# What names no answer: "A or B", "not (B)". I is a pronoun after a comma.
_REJECTED_LETTERS: Final = re.compile(
    r"(?<![\w'])\(?[A-Z]\)?(?:\s*(?:[,;&/]|\band\b|\bor\b)+\s*\(?[A-HJ-Z](?![\w'])\)?)+"
    r"|(?:\bnot|n't|\brather\s+than|\binstead\s+of)\s+(?:be\s+)?(?:[Oo]ption\s+|[Cc]hoice\s+)?\(?[A-Z](?![\w'])\)?"
)

# Texts.
_ANSWER_PREFIX: Final = re.compile(
    r"(?:the\s+)?(?:final\s+|correct\s+)?answer\b(?:\s+is\b\s*:?|\s*:)\s*", re.IGNORECASE
)
_CLAUSE_END: Final = re.compile(r"[.,;:!](?=\s|$)|\n|\s-\s")
_NEGATION: Final = re.compile(r"\b(?:not|never|neither|nor|cannot|except|without)\b|n't\b")
_ARTICLES: Final = frozenset({"a", "an", "the"})
_NUMBER: Final = r"(?:(?<![\w.,])[-+])?(?:(?<!\w)\.)?\d+(?:[.,:/]\d+)*"
_WORD: Final = r"[^\W_\d](?:[^\W_]|'(?=[^\W_]))*"
_TOKEN: Final = re.compile(rf"{_NUMBER}|{_WORD}|[^\w\s.,;:!?'\"()\[\]{{}}*`/\\<>-]")
_PLAIN_NUMBER: Final = re.compile(r"([-+]?)(0|[1-9]\d*|[1-9]\d{0,2}(?:,\d{3})+)?(?:\.(\d+))?")


def match_answer(predicted: str | None, sample_answer: str, options: Sequence[str]) -> bool:
    """Whether a predicted answer is right.

    With options both answers are resolved to one of them, and nothing matches where that fails. Without options the
    texts are compared as ``normalise`` leaves them; a right answer that is a single capital letter (options inside the
    question) may also be given as "(B)" or "The answer is B.". Units count: "5%" is neither "5" nor "5 percent".

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
        return _letter_index(predicted, len(ascii_uppercase)) == ascii_uppercase.index(sample_answer.strip())
    return any(_same_text(reading, sample_answer) for reading in (predicted, _without_prefix(predicted)))


def option_index(text: str, options: Sequence[str]) -> int | None:
    """Which option an answer means.

    Tried in this order: a lone letter; an option's text as it stands; a letter, the last one stated to be the answer
    ("The answer is B"), else the only one named ("B. red", "so (B)"); an option's text, normalised. At last these,
    unless they disagree: a first clause that is an option's text ("Red, because ..."), a letter at the end ("... hence
    B"), the only option whose text occurs.

    Args:
        text: the answer.
        options: texts of the options in the order of their letters.

    Returns:
        Index of the option, or None if the answer names none, or more than one.
    """
    text = _clean(text)
    if lone := _LONE_LETTER.fullmatch(text):
        return _index(lone[1], len(options))
    bare = _without_prefix(text)
    for found in (
        _verbatim_option(bare, options),
        _named_letter(text, len(options)),
        _same_option(text, options),
        _same_option(bare, options),
    ):
        if found is not None:
            return found
    clause = _same_option(_first_clause(bare), options)
    return _only({clause, _final_letter(text, len(options)), _mentioned_option(text, options)})


def normalise(text: str) -> str:
    """Text reduced to what counts when answers are compared.

    Case, articles, whitespace and plain punctuation go; compatible characters become one (Unicode NFKC); numbers lose
    thousands commas and trailing zeros ("1,234.0" is "1234"), but keep sign, decimal point and leading zeros, which
    make a code of a number. Other signs, such as the percent sign, stay.
    """
    tokens = _TOKEN.findall(_clean(text).casefold())
    kept = [token for token in tokens[:-1] if token not in _ARTICLES] + tokens[-1:]
    return " ".join(map(_plain_number, kept))


def _clean(text: str) -> str:
    return unicodedata.normalize("NFKC", text).translate(_PLAIN_SIGNS).strip()


def _plain_number(token: str) -> str:
    match = _PLAIN_NUMBER.fullmatch(token)
    if match is None:
        return token
    sign, whole, fraction = match[1], (match[2] or "0").replace(",", ""), (match[3] or "").rstrip("0")
    value = f"{whole}.{fraction}" if fraction else whole
    return f"-{value}" if sign == "-" and value != "0" else value


def _same_text(first: str, second: str) -> bool:
    normalised = normalise(first)
    # Texts of nothing but punctuation are left empty, and must then be equal as they are.
    return normalised == normalise(second) if normalised else first.strip() == second.strip()


def _verbatim_option(text: str, options: Sequence[str]) -> int | None:
    """Before letters are looked for, so that an option "A. Smith" is not option A."""
    return _only(index for index, option in enumerate(options) if _clean(option).casefold() == text.casefold())


def _same_option(text: str, options: Sequence[str]) -> int | None:
    return _only(index for index, option in enumerate(options) if _same_text(text, option))


def _mentioned_option(text: str, options: Sequence[str]) -> int | None:
    """The only option whose text occurs as whole words; an option inside another that occurs does not count."""
    words = f" {normalise(text)} "
    if _NEGATION.search(words):
        return None
    padded = [f" {normalise(option)} " for option in options]
    found = [option for option in padded if option.strip() and option in words]
    return _only(
        padded.index(option) for option in found if not any(option in other for other in found if option != other)
    )


def _letter_index(text: str, count: int) -> int | None:
    text = _clean(text)
    if lone := _LONE_LETTER.fullmatch(text):
        return _index(lone[1], count)
    named = _named_letter(text, count)
    return _final_letter(text, count) if named is None else named


def _named_letter(text: str, count: int) -> int | None:
    """The last letter that is stated to be the answer, else the only one that is named."""
    text = _REJECTED_LETTERS.sub("", text)
    if stated := list(_STATED_LETTER.finditer(text)):
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


def _without_prefix(text: str) -> str:
    stripped = text.strip()
    match = _ANSWER_PREFIX.match(stripped)
    return stripped[match.end() :] if match else stripped


def _first_clause(text: str) -> str:
    match = _CLAUSE_END.search(text)
    return text[: match.start()] if match else text
