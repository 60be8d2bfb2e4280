"""Quality filters: steps that say of a sample why it should not train, composed in order and counted by name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final, Protocol

from infogap.data.images import ImageError
from infogap.data.sample import Sample
from infogap.geometry import TOKEN_SIDE, Box

MIN_SIDE: Final = TOKEN_SIDE
"""Shortest side in pixels of an image that can be used: the 28 of one visual token, below which it is scaled up."""

MAX_WORDS: Final = 6
"""Words of the longest free text that rules can match: names, addresses and amounts have up to about six, and from
there on an answer is a sentence, which a policy says in other words."""

MIN_AREA_SHARE: Final = 1e-5
"""Smallest share of the image that evidence may have: 18 x 18 pixels of an 8K image, less than one visual token."""

MAX_AREA_SHARE: Final = 0.5
"""Largest share of the image that the innermost box may have: there is nothing to search for in half of an image."""

WHOLE_SHARE: Final = 0.99
"""Share of the image from which on a box is the whole image, which needs no pointing; 1 but for rounding."""

UNREADABLE: Final = "unreadable image"
"""What samples are counted under whose image turned out to be corrupt when a step had it decoded."""


class Filter(Protocol):
    """One step.

    Attributes:
        name: what the samples that it drops are counted under, such as "small image".
    """

    name: str

    def keeps(self, sample: Sample) -> bool:
        """Whether the sample may train.

        Raises:
            ImageError: if a step that decodes the image finds it corrupt.
        """


class FilterChain:
    """Steps in order: a sample is dropped by the first that does not keep it, and later ones are not asked.

    Args:
        steps: the steps; put those that decode no image first.

    Attributes:
        steps: the steps.
        kept: samples that all steps kept so far.
        dropped: samples that were dropped so far, by the step's name; steps that dropped none are in it with 0.

    Raises:
        ValueError: if two steps share a name, so that their counts would run together.
    """

    def __init__(self, steps: Sequence[Filter]) -> None:
        self.steps = tuple(steps)
        self.kept = 0
        self.dropped = Counter({step.name: 0 for step in steps})
        if len(self.dropped) < len(self.steps):
            raise ValueError(f"Two filters share a name among {[step.name for step in steps]}: give each its own.")

    def dropping_step(self, sample: Sample) -> str | None:
        """Name of the step that drops a sample, `UNREADABLE` if its image is corrupt; None if all keep it. Counts."""
        name = self._dropping_step(sample)
        if name is None:
            self.kept += 1
        else:
            self.dropped[name] += 1
        return name

    def _dropping_step(self, sample: Sample) -> str | None:
        try:
            return next((step.name for step in self.steps if not step.keeps(sample)), None)
        except ImageError:
            return UNREADABLE


class SmallImages:
    """Drops images with a side that is too short.

    Args:
        min_side: shortest side that is kept, in pixels. Default: `MIN_SIDE`.

    Raises:
        ValueError: if the side is below 1.
    """

    name = "small image"

    def __init__(self, min_side: int = MIN_SIDE) -> None:
        if min_side < 1:
            raise ValueError(f"The shortest side of an image is {min_side}: give at least 1 pixel.")
        self._min_side = min_side

    def keeps(self, sample: Sample) -> bool:
        """Whether both sides are long enough."""
        return min(sample.image.size) >= self._min_side


class Unanswerable:
    """Drops samples with an answer that rules can hardly match, so that right answers would earn nothing.

    Answers to multiple-choice questions are always kept. See `answer_fault` for the others.

    Args:
        max_words: words of the longest free text that is kept. Default: `MAX_WORDS`.

    Raises:
        ValueError: if the number of words is below 1.
    """

    name = "unanswerable"

    def __init__(self, max_words: int = MAX_WORDS) -> None:
        if max_words < 1:
            raise ValueError(f"The longest answer has {max_words} words: give at least 1.")
        self._max_words = max_words

    def keeps(self, sample: Sample) -> bool:
        """Whether rules can match the answer."""
        return answer_fault(sample, self._max_words) is None


class BoxSanity:
    """Drops samples with evidence that is hardly a region to look at; samples without evidence are kept.

    That boxes are nested and lie inside their image is seen to by `Sample`, so that it is no part of this.

    Args:
        min_area_share: smallest share of the image that a box may have. Default: `MIN_AREA_SHARE`.
        max_area_share: largest share that the innermost box of a chain may have. Default: `MAX_AREA_SHARE`.

    Raises:
        ValueError: if the shares are not 0 <= the smallest < the largest <= 1.
    """

    name = "box sanity"

    def __init__(self, min_area_share: float = MIN_AREA_SHARE, max_area_share: float = MAX_AREA_SHARE) -> None:
        if not 0.0 <= min_area_share < max_area_share <= 1.0:
            raise ValueError(
                f"Boxes may have from {min_area_share} to {max_area_share} of an image: give two shares, 0 <= the "
                "smallest < the largest <= 1."
            )
        self._shares = min_area_share, max_area_share

    def keeps(self, sample: Sample) -> bool:
        """Whether no box has a fault."""
        return box_fault(sample, *self._shares) is None


def answer_fault(sample: Sample, max_words: int = MAX_WORDS) -> str | None:
    r"""Why rules can hardly match a sample's answer; None if they can.

    Rules compare normalised texts: a right answer in other words, in another order, or in another notation is wrong to
    them. This finds sentences by their number of words, formulas (a LaTeX command such as ``\frac`` or ``\boxed``,
    ``$...$``, a power, an equation, an operator between operands) and lists of several numbers.

    Args:
        sample: any sample; with options, which are matched by their letters, there is no fault.
        max_words: words of the longest text.
    """
    if sample.options:
        return None
    answer = sample.answer.strip()
    if answer.count("\\boxed") > 1:
        return "its answer has several boxed values"
    if _FORMULA.search(answer):
        return "its answer is a formula"
    if _SEVERAL_NUMBERS.fullmatch(answer):
        return "its answer is a list of numbers"
    words = len(_WORD.findall(answer))
    return f"its answer has {words} words" if words > max_words else None


def box_fault(
    sample: Sample, min_area_share: float = MIN_AREA_SHARE, max_area_share: float = MAX_AREA_SHARE
) -> str | None:
    """What is wrong with the size of a sample's boxes; None if nothing. Arguments as in `BoxSanity`."""
    whole = Box.whole(sample.image.size)
    for chain in sample.evidence:
        innermost, outermost = chain[0].area / whole.area, chain[-1].area / whole.area
        if innermost < min_area_share:
            return f"a box of {chain[0].width:.4g}x{chain[0].height:.4g} pixels is too small to be seen"
        if innermost > max_area_share:
            return f"an innermost box is {innermost:.0%} of the image"
        if outermost >= WHOLE_SHARE:
            return "the outermost box of a chain is the whole image"
    return None


_WORD: Final = re.compile(r"[\u3400-\u9fff]|[^\W_]+(?:['\N{RIGHT SINGLE QUOTATION MARK}.,:/-][^\W_]+)*")
"""A word or a number; an ideograph counts as one, for no spaces part them."""

_FORMULA: Final = re.compile(
    r"\\[A-Za-z]+|\$[^$]+\$|[\^√∫∑π]|_\{|[^=<>!]=[^=]"  # commands, dollar signs, powers, equations
    # "2x + 1", and neither "A+" nor "C++"
    r"|(?<![A-Za-z])(?:[A-Za-z]|\d+(?:\.\d+)?[A-Za-z]?|\))\s*[+*\N{MULTIPLICATION SIGN}\N{MIDDLE DOT}\N{DIVISION SIGN}]"
    r"\s*(?:[\d(]|[A-Za-z](?![A-Za-z]))"
    r"|(?<![A-Za-z\d])(?:\d*[A-Za-z]|\))\s+[-\N{MINUS SIGN}]\s+(?:[\d(]|[A-Za-z](?![A-Za-z]))"  # "x - 1", not "3 - 1"
)
_NUMBER: Final = r"[-+]?\d+(?:\.\d+)?"
_SEVERAL_NUMBERS: Final = re.compile(
    r"(?![-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?$)"  # "1,234" is one
    rf"[\s(\[{{]*{_NUMBER}(?:[)\]}}\s]*(?:[,;]\s*|\s+(?:and|or)\s+|,\s*and\s+)[\s(\[{{]*{_NUMBER})+[\s)\]}}.]*"
)
