"""A sample: one question about one image, with what is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any

from infogap.data.images import HighResImage
from infogap.geometry import NESTED_TOLERANCE, Box, NestedBoxes, check_nested

CHAT_MARKUP = "<|"
"""How every special token of the chat format begins. Text that holds it would be tokenized as one."""


class SampleError(ValueError):
    """A sample that cannot be used; the message names it."""


@dataclass(frozen=True)
class Sample:
    """One question about one image.

    Attributes:
        key: name of the sample, unique in its dataset.
        image: the original.
        question: text of the question, without the options.
        answer: the right answer: free text, the text of an option, or an option's letter.
        options: texts of the options; their letters A, B, ... are implied by the order.
        evidence: a chain of nested boxes for every region that the answer rests on, in pixels of the original (one
            chain for a question about an attribute, two for one about a relation); empty if unknown.
        source: name of the dataset.
        view_tokens: budget of visual tokens of the view that resolution selection chose (LFPC section 3); None if it
            was not run.
        metadata: whatever else the dataset says, as JSON values.

    Raises:
        SampleError: if a text is empty, or holds chat markup or half a character, the options lack the answer, or the
            evidence is not nested or not inside the image.
    """

    key: str
    image: HighResImage
    question: str
    answer: str
    options: tuple[str, ...] = ()
    evidence: tuple[NestedBoxes, ...] = ()
    source: str = ""
    view_tokens: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what would fail later, or silently spoil training."""
        if not self.key.strip():
            msg = f"A sample of source {self.source!r} has an empty key: name it."
            raise SampleError(msg)
        for name, text in (("question", self.question), ("answer", self.answer)):
            self._check_text(name, text)
        if len(self.options) > len(ascii_uppercase):
            self._refuse(f"has {len(self.options)} options: give at most one for each letter")
        for letter, option in zip(self.option_letters, self.options, strict=True):
            self._check_text(f"option {letter}", option)
        if self.options and self.answer not in (*self.option_letters, *self.options):
            self._refuse(
                f"has the answer {self.answer!r}, which is none of its options: give the text or letter of one"
            )
        if self.view_tokens is not None and self.view_tokens < 1:
            self._refuse(f"has a view of {self.view_tokens} tokens: give at least 1")
        for index, chain in enumerate(self.evidence):
            self._check_chain(index, chain)

    @property
    def option_letters(self) -> tuple[str, ...]:
        """Letters of the options, in order."""
        return tuple(ascii_uppercase[: len(self.options)])

    def _check_text(self, name: str, text: str) -> None:
        if not text.strip():
            self._refuse(f"has an empty {name}: fill it in, or drop the sample")
        if CHAT_MARKUP in text:
            self._refuse(f"has {CHAT_MARKUP!r} in its {name}, which would be read as chat markup: take it out")

        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            self._refuse(f"has half a character (a lone surrogate) in its {name}, which is no text: take it out")

    def _check_chain(self, index: int, chain: NestedBoxes) -> None:
        if not chain:
            self._refuse(f"has no box in chain {index} of its evidence: leave the chain out")
        try:
            check_nested(chain)
        except ValueError as error:
            msg = f"The sample {self.key!r} has a wrong chain {index} of evidence: {error}"
            raise SampleError(msg) from error
        whole = Box.whole(self.image.size)
        for box in chain:
            if not whole.contains(box, NESTED_TOLERANCE):
                width, height = self.image.size
                self._refuse(
                    f"has evidence {box.as_tuple()} outside its image of {width}x{height}: give pixels of the original"
                )

    def _refuse(self, fault: str) -> None:
        msg = f"The sample {self.key!r} {fault}."
        raise SampleError(msg)
