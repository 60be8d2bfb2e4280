"""Options and right answers as benchmarks write them."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Final

from infogap.data.options import LETTERED
from infogap.data.sample import CHAT_MARKUP
from infogap.data.tables import Record

_LETTER: Final = re.compile(r"[(\uff08]?([A-Z])[)\uff09]?\.?")


def columns_of_options(record: Record) -> tuple[str, ...]:
    """Options that have a column each, A, B, ...; an empty one ends them.

    Raises:
        RowError: if there are none, or one that is filled stands behind an empty one.
    """
    texts = [record.optional(letter) for letter in ascii_uppercase]
    count = next((place for place, text in enumerate(texts) if not text), len(texts))
    behind = next((letter for letter, text in zip(ascii_uppercase[count:], texts[count:], strict=True) if text), None)
    if count == 0 or behind is not None:
        after = "" if behind is None else f" before {behind}"
        raise record.error(ascii_uppercase[count], f"the option is empty{after}, fill it in or remove the row")
    return tuple(record.text(letter) for letter in ascii_uppercase[:count])


def listed_options(record: Record, column: str) -> tuple[str, ...]:
    """Options in a column: a list of texts such as "(A) red", such a list as Python writes it, or lines of text.

    Lines may stand between a heading and an instruction, which are left out.

    Raises:
        RowError: if it holds no options, or their letters are not A, B, ... in order.
    """
    value = record.value(column)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            fault = f"its list of options is damaged ({type(error).__name__}), copy the file again"
            raise record.error(column, fault) from error
    if isinstance(value, str):
        value = _lettered_lines(value)
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise record.error(column, f"it holds {value!r:.80} where options are needed, copy the file again")
    matches = [LETTERED.fullmatch(text) for text in value]
    letters = [(match[1] or match[2]) if match else None for match in matches]
    if letters != list(ascii_uppercase[: len(value)]):
        raise record.error(column, f"its options {value!r:.200} are not lettered A, B, ... in order, correct them")
    options = tuple(match[3].strip() for match in matches if match)
    check_options(record, column, options)
    return options


def check_options(record: Record, column: str, options: Sequence[str]) -> None:
    """Refuse options that are empty or hold chat markup.

    Args:
        record: the row, for messages.
        column: where the options are from.
        options: their texts.

    Raises:
        RowError: if there is one.
    """
    for number, option in enumerate(options, 1):
        if not option.strip():
            raise record.error(column, f"option {number} is empty, fill it in or remove the row")
        if CHAT_MARKUP in option:
            fault = f"option {number} holds {CHAT_MARKUP!r}, which would be read as chat markup, take it out"
            raise record.error(column, fault)


def right_letter(record: Record, column: str, options: Sequence[str]) -> str:
    """The letter of the right option, which the column gives as "A", "(A)" or the option's text.

    Args:
        record: the row.
        column: holds the answer.
        options: the options' texts.

    Raises:
        RowError: if it is the letter or the text of none.
    """
    answer = record.text(column)
    letters = ascii_uppercase[: len(options)]
    match = _LETTER.fullmatch(answer)
    if match is not None and match[1] in letters:  # before texts: the options may be letters that the image shows
        return match[1]
    if answer not in options:
        raise record.error(column, f"the answer {answer!r} is none of the options {', '.join(letters)}, correct it")
    return letters[options.index(answer)]


def is_letter(answer: str) -> bool:
    """Whether an answer is an option's letter, such as "A" or "(A)"."""
    return _LETTER.fullmatch(answer) is not None


def generic_prompt(question: str, options: Sequence[str], request: str | None = None) -> str:
    """The prompt of VLMEvalKit for a question that has no other (``vlmeval/dataset/image_mcq.py``, build_prompt).

    Args:
        question: the question.
        options: texts of the options; with none the request is left out, as there.
        request: the last line. Default: that of VLMEvalKit.
    """
    if not options:
        return f"Question: {question}\n"
    listed = "".join(f"{letter}. {text}\n" for letter, text in zip(ascii_uppercase, options, strict=False))
    request = "Please select the correct answer from the options above. \n" if request is None else request
    return f"Question: {question}\nOptions:\n{listed}{request}"


def bracketed(options: Sequence[str]) -> str:
    """Options in lines such as "(A) red"."""
    return "\n".join(f"({letter}) {text}" for letter, text in zip(ascii_uppercase, options, strict=False))


def _lettered_lines(text: str) -> list[str]:
    """The lines from the first to the last that begins with a letter."""
    lines = [line for line in text.splitlines() if line.strip()]
    places = [place for place, line in enumerate(lines) if LETTERED.match(line)]
    return lines[places[0] : places[-1] + 1] if places else []
