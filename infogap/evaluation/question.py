"""A row of a benchmark: what is asked, what counts as right, and what it shares with other rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from infogap.data.sample import Sample

View = int | Literal["selected"]
"""Budget of the first view in visual tokens; "selected": the one that resolution selection found for the row."""


class BenchmarkError(ValueError):
    """A benchmark's files cannot be used; the message names file, row and column."""


@dataclass(frozen=True)
class Question:
    """One row that can be asked.

    Attributes:
        sample: question, options, answer and image. Its key is the row's id, unique in the benchmark; with options its
            answer is the letter of the right one.
        category: heading under which the benchmark reports it, such as "direct_attributes".
        cluster: what rows that are not independent share, as a rule the image: the unit of the bootstrap.
        official_prompt: the text that the benchmark's own harness sends, options included.
        subcategory: a finer heading, or "".
        variant: which of several forms of one question it is, such as HR-Bench's option cycle; "" if there is one.
        base: what the forms of one question share; the key if there is one form.
        letters: the letters of all right options of a question with several; else empty.
    """

    sample: Sample
    category: str
    cluster: str
    official_prompt: str
    subcategory: str = ""
    variant: str = ""
    base: str = ""
    letters: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        """The row's id."""
        return self.sample.key

    def view_tokens(self, view: View) -> int:
        """Budget of the row's view in visual tokens.

        Raises:
            ValueError: if the view is "selected" and the row has none.
        """
        if view != "selected":
            return view
        if self.sample.view_tokens is None:
            raise ValueError(
                f"The row {self.key} has no selected view: run data_scripts/select_resolution.py on its shards, or "
                "name budgets in model.play.views."
            )
        return self.sample.view_tokens

    def unreadable(self, reason: str) -> UnreadableRow:
        """The row, if its image turns out to be unreadable."""
        return UnreadableRow(
            key=self.key,
            reason=reason,
            category=self.category,
            cluster=self.cluster,
            subcategory=self.subcategory,
            variant=self.variant,
            base=self.base,
        )

    @property
    def gold(self) -> str:
        """The right answer, as predictions and tables show it."""
        return "".join(sorted(self.letters)) or self.sample.answer

    @property
    def chance(self) -> float:
        """Probability that a blind guess is right: 1 over the number of options, 0 for an open question."""
        options = len(self.sample.options)
        if self.letters:
            return 1.0 / (2.0**options - 1.0)
        return 1.0 / options if options else 0.0


@dataclass(frozen=True)
class UnreadableRow:
    """A row that cannot be asked, so that it can be counted.

    Attributes:
        key: the row's id, or its place in the file if the id is what cannot be read.
        reason: one sentence that names file, row and column.
        category: as in ``Question``, as far as it could be read.
        cluster: likewise; the key if unknown.
        subcategory: likewise, without which the row would be under no heading that authors average over.
        variant: likewise.
        base: likewise; the key if unknown.
    """

    key: str
    reason: str
    category: str = ""
    cluster: str = ""
    subcategory: str = ""
    variant: str = ""
    base: str = ""


Row = Question | UnreadableRow


@dataclass(frozen=True)
class Reading:
    """What an answer was read as.

    Attributes:
        correct: whether it is right.
        read: the letter, letters, number or text that was found in it; "" if nothing was.
        method: the rule that found it, such as "letter", "option_text" or "judge"; "unanswered" without an answer,
            "unmatched" if no rule applied.
    """

    correct: bool
    read: str
    method: str


Rule = Callable[[Question, str | None], Reading]
"""Reads an answer, None if there is none."""

UNANSWERED = Reading(False, "", "unanswered")
UNMATCHED = Reading(False, "", "unmatched")
