"""Questions and answers as training sets write them, and what is left of them for a sample.

A published question is often a whole prompt: a mark for the image, the question, its options, and the request of the
authors' own answer format. Only the question is kept, for the prompt of this package has its own format; the options
are taken out where it is plain which they are.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any, Final

from infogap.data.convert.faults import DropError, DropReason
from infogap.data.options import LETTERED, Asked, split_options
from infogap.data.sample import CHAT_MARKUP
from infogap.data.tables import HALF_CHARACTER

IMAGE_MARK: Final = "<image>"
"""Stands in a question for its image."""

_FORMAT_REQUEST: Final = re.compile(
    r"(?:Think first, call \*\*|Think in the mind first|You FIRST think about the reasoning|(?<=\n)Guidelines:).*",
    re.DOTALL,
)
"""How the requests of a format begin that end a question: of DeepEyes (``mm_process_engine/prompt.py``),
Chain-of-Focus, EasyR1 (``examples/format_prompt``) and Pixel Reasoner."""

_REQUEST_OF_A_LETTER: Final = re.compile(
    r"\(?\s*(?:please\b|answer\b|select\b|choose\b|respond\b|output\b|give\b|write\b|provide\b|let's think\b).*",
    re.IGNORECASE,
)
_LETTER: Final = re.compile(r"\(?([A-Z])\)?[.:]?")
_BRACKETED_OPTION: Final = re.compile(r"(?:^|\s)\(([A-Z])\)\s*")


def checked_text(value: Any, what: str, if_empty: DropReason = DropReason.UNREADABLE_ROW) -> str:
    """The text of a value, without spaces around it; numbers are written out.

    Args:
        value: what a row holds.
        what: what it is, for messages, such as "answer".
        if_empty: what a row is counted under that holds none.

    Raises:
        DropError: if there is none, if it is something else, or if no policy could be given it.
    """
    if value is None or value != value:  # NaN, which differs from itself, is how pandas writes an empty field
        value = ""
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        value = str(value)
    if not isinstance(value, str):
        raise DropError(
            DropReason.UNREADABLE_ROW, f"the {what} is a {type(value).__name__} where text is needed, correct it"
        )
    text = value.strip()
    if not text:
        raise DropError(if_empty, f"the {what} is empty, fill it in or remove the row")
    if CHAT_MARKUP in text:
        fault = f"the {what} holds {CHAT_MARKUP!r}, which would be read as chat markup, take it out"
        raise DropError(DropReason.CHAT_MARKUP, fault)
    if HALF_CHARACTER.search(text):
        fault = f"the {what} holds half a character (a lone surrogate), correct it"
        raise DropError(DropReason.UNREADABLE_TEXT, fault)
    return text


def question_text(value: Any) -> str:
    """A question without the mark of its image and without a published request of a format.

    Raises:
        DropError: if nothing is left of it, or it is no text.
    """
    text = checked_text(value, "question", DropReason.EMPTY_QUESTION).replace(IMAGE_MARK, "")
    return checked_text(_FORMAT_REQUEST.sub("", text), "question", DropReason.EMPTY_QUESTION)


def answer_text(value: Any) -> str:
    r"""An answer, taken out of a list of one and of ``\boxed{...}`` around all of it.

    Raises:
        DropError: if there is none, or several that differ: which of them is right cannot be told, since some data sets
            list spellings of one answer and others its parts.
    """
    if isinstance(value, list):
        value = _only_answer(value)
    if not isinstance(value, str):
        return checked_text(value, "answer", DropReason.EMPTY_ANSWER)
    inner = _unboxed(value.strip())
    if inner.startswith("[") and (listed := _list_of_texts(inner)) is not None:
        inner = _only_answer(listed)
    return checked_text(inner, "answer", DropReason.EMPTY_ANSWER)


def with_options(question: str, answer: str) -> tuple[str, str, tuple[str, ...]]:
    """Take the options out of a question, if it is plain which they are and which of them is right.

    Returns:
        The question, the answer as `Sample.answer` needs it, and the options; all as they were, and no options, if it
        is not plain.
    """
    asked = _split(question)
    right = None if asked is None else right_option(answer, asked.options)
    if asked is None or right is None or len(asked.options) > len(ascii_uppercase):
        return question, answer, ()
    return asked.question, right, asked.options


def listed_options(value: Any) -> tuple[str, ...]:
    """Options that stand in a field of their own: a list of texts, or such a list as JSON or Python writes it.

    Letters before them ("(A) red") are taken off if all have one, in order.

    Raises:
        DropError: if it is something else, or an option cannot be asked.
    """
    if value is None or value == "" or value == []:
        return ()
    if isinstance(value, str):
        value = _list_of_texts(value.strip())
    if not isinstance(value, list):
        raise DropError(DropReason.BAD_OPTIONS, "the options are no list of texts, correct them")
    texts = [checked_text(option, f"option {number}", DropReason.BAD_OPTIONS) for number, option in enumerate(value, 1)]
    if len(texts) > len(ascii_uppercase):
        fault = f"there are {len(texts)} options, give at most one for each letter"
        raise DropError(DropReason.BAD_OPTIONS, fault)
    matches = [LETTERED.fullmatch(text) for text in texts]
    letters = [(match[1] or match[2]) if match else None for match in matches]
    bare = [match[3].strip() for match in matches if match]
    return tuple(bare if letters == list(ascii_uppercase[: len(texts)]) and all(bare) else texts)


def right_option(answer: str, options: Sequence[str]) -> str | None:
    """The right option as `Sample.answer` needs it; None if an answer is none of the options, or not plainly one.

    Args:
        answer: a letter ("B", "(B)", "B."), the text of an option, or both ("B. red").
        options: texts of the options.

    Returns:
        The letter of the option.
    """
    letters = ascii_uppercase[: len(options)]
    lettered = LETTERED.fullmatch(answer)
    place = None
    if match := _LETTER.fullmatch(answer):
        place = letters.find(match[1])
        texts = [option.strip(" ().").casefold() for option in options]
        if match[1].casefold() in texts[:place] + texts[place + 1 :]:  # options that are letters, in another order
            return None
    elif options.count(answer) == 1:
        place = options.index(answer)
    elif lettered is not None:
        place = letters.find(lettered[1] or lettered[2])
        if lettered[3].strip() != options[place]:
            return None
    return None if place is None or place < 0 else letters[place]


def _split(question: str) -> Asked | None:
    asked = split_options(question)
    if asked is None:
        return _split_bracketed(question)
    lines = [line.strip() for line in question.splitlines() if line.strip()]
    last = max(place for place, line in enumerate(lines) if line.endswith(asked.options[-1]))
    behind = lines[last + 1 :]  # what stands behind the options is dropped: it may only ask for a letter
    return asked if all(_REQUEST_OF_A_LETTER.fullmatch(line) for line in behind) else None


def _split_bracketed(question: str) -> Asked | None:
    """Options in the line of the question: "How many? (A) 2 (B) 3", and nothing that might be something else."""
    matches = list(_BRACKETED_OPTION.finditer(question))
    letters = "".join(match[1] for match in matches)
    if len(matches) < 2 or letters != ascii_uppercase[: len(matches)]:
        return None
    ends = [*(match.start() for match in matches[1:]), len(question)]
    options = tuple(question[match.end() : end].strip(" ,;") for match, end in zip(matches, ends, strict=True))
    asked = question[: matches[0].start()].strip()
    is_plain = asked.endswith(("?", ":")) and all(option and not set(option) & set("?\n") for option in options)
    return Asked(asked, options) if is_plain else None


def _only_answer(answers: Sequence[Any]) -> Any:
    if not answers:
        return None
    if any(answer != answers[0] for answer in answers):
        fault = f"it has {len(answers)} answers that differ, leave the one that is right"
        raise DropError(DropReason.SEVERAL_ANSWERS, fault)
    return answers[0]


def _unboxed(text: str) -> str:
    r"""What stands in a ``\boxed{...}`` that is all of a text, or the text."""
    head = "\\boxed{"
    if not text.startswith(head) or not text.endswith("}"):
        return text
    inner, depth = text[len(head) : -1], 0
    for sign in inner:
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if depth < 0:  # the brace was closed before the end: there is more than one
            return text
    return inner.strip()


def _list_of_texts(text: str) -> list[str] | None:
    """A list of texts as JSON or Python writes it; None if it is none."""
    try:
        with warnings.catch_warnings(action="ignore"):  # about backslashes, which are many in formulas
            values = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return values if isinstance(values, list) and all(isinstance(value, str) for value in values) else None
