"""What counts in the text of an answer: normalised text, boxed text, numbers."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_PLAIN_SIGNS: Final = {
    ord(sign): plain
    for plain, signs in (
        ("-", "\N{MINUS SIGN}\N{EN DASH}\N{EM DASH}"),
        ("'", "\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}"),
        ('"', "\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}"),
        # Chinese signs that NFKC leaves; no space follows them, as one follows ours
        (". ", "\N{IDEOGRAPHIC FULL STOP}"),
        (", ", "\N{IDEOGRAPHIC COMMA}"),
        ("[", "\N{LEFT BLACK LENTICULAR BRACKET}"),
        ("]", "\N{RIGHT BLACK LENTICULAR BRACKET}"),
        ('"', "\N{LEFT CORNER BRACKET}\N{RIGHT CORNER BRACKET}"),
    )
    for sign in signs
}

_ANSWER_PREFIX: Final = re.compile(
    r"(?:the\s+)?(?:final\s+|correct\s+)?answer\b(?:\s+is\b\s*:?|\s*:)\s*", re.IGNORECASE
)
_BOXED: Final = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*+)\}")
_FORMATTED: Final = re.compile(r"\\(?:text\w*|math\w*|operatorname)\s*\{([^{}]*)\}")

_ARTICLES: Final = frozenset({"a", "an", "the"})
_NUMBER: Final = r"(?:(?<![\w.,])[-+])?(?:(?<!\w)\.)?\d+(?:[.,:/]\d+)*"
_WORD: Final = r"[^\W_\d](?:[^\W_]|'(?=[^\W_]))*"
_TOKEN: Final = re.compile(rf"{_NUMBER}|{_WORD}|[^\w\s.,;:!?'\"()\[\]{{}}*`/\\<>-]")
_PLAIN_NUMBER: Final = re.compile(r"([-+]?)(0|[1-9]\d*|[1-9]\d{0,2}(?:,\d{3})+)?(?:\.(\d+))?")
# "B2" is a name and "2nd" a place, neither a number of things. Signs and points belong to a number, units do not.
_COUNTED: Final = re.compile(rf"(?P<digits>{_NUMBER})(?!\d|(?:st|nd|rd|th)\b)|(?P<word>{_WORD})")
_NUMBER_WORDS: Final = re.findall(
    _WORD,
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty",
)


def clean(text: str) -> str:
    """Text with compatible characters made one (Unicode NFKC), typographic signs made plain, and no outer space."""
    return unicodedata.normalize("NFKC", text).translate(_PLAIN_SIGNS).strip()


def normalise(text: str) -> str:
    """Text reduced to what counts when answers are compared.

    Case, articles, whitespace and plain punctuation go; compatible characters become one (Unicode NFKC); numbers lose
    thousands commas and trailing zeros ("1,234.0" is "1234"), but keep sign, decimal point and leading zeros, which
    make a code of a number. Other signs, such as the percent sign, stay.
    """
    tokens = _TOKEN.findall(clean(text).casefold())
    kept = [token for token in tokens[:-1] if token not in _ARTICLES] + tokens[-1:]
    return " ".join(plain_number(token) or token for token in kept)


def same_text(first: str, second: str) -> bool:
    """Whether two texts are one once they are normalised."""
    normalised = normalise(first)
    # Texts of nothing but punctuation are left empty, and must then be equal as they are.
    return normalised == normalise(second) if normalised else first.strip() == second.strip()


def boxed_text(text: str) -> str | None:
    r"""What the last ``\boxed{...}`` of a text holds, without ``\text{...}`` around it; None if there is none."""
    found = _BOXED.findall(text)
    content = _FORMATTED.sub(r"\1", found[-1]).strip() if found else ""
    return content or None


def without_prefix(text: str) -> str:
    """Text without "The answer is" or the like before it."""
    stripped = text.strip()
    match = _ANSWER_PREFIX.match(stripped)
    return stripped[match.end() :] if match else stripped


def words_of(text: str) -> list[str]:
    """The words of a text in order, in lower case."""
    return re.findall(_WORD, clean(text).casefold())


def plain_number(text: str) -> str | None:
    """A text that is one number in digits, as ``normalise`` writes it; None if it is not."""
    match = _PLAIN_NUMBER.fullmatch(text)
    if match is None or not text.strip("+-"):
        return None
    sign, whole, fraction = match[1], (match[2] or "0").replace(",", ""), (match[3] or "").rstrip("0")
    value = f"{whole}.{fraction}" if fraction else whole
    return f"-{value}" if sign == "-" and value != "0" else value


def only_number(text: str) -> str | None:
    """The only number that a text holds, in digits or as an English word up to twenty; units do not count.

    Returns:
        The number as ``normalise`` writes it; None if there is none, there are several that differ, or it is none of
        the plain numbers, such as "3/4" or "12:30".
    """
    found = set()
    for match in _COUNTED.finditer(clean(text).casefold()):
        if match["digits"]:
            found.add(plain_number(match["digits"]))
        elif match["word"] in _NUMBER_WORDS:
            found.add(str(_NUMBER_WORDS.index(match["word"])))
    return found.pop() if len(found) == 1 else None
