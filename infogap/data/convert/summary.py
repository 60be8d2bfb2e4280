"""What a conversion found: how many rows were kept, why the others were not, and what the samples are like."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from typing import Any, Final

from infogap.data.convert.source import Dropped
from infogap.data.filters import answer_fault
from infogap.data.index import ShardEntry
from infogap.data.sample import Sample
from infogap.geometry import TOKEN_SIDE, Size

EXAMPLES: Final = 3
"""Messages that are shown of each reason; all of them stand in the file of dropped rows."""

MEGAPIXELS: Final = (0.25, 1.0, 4.0, 16.0, 64.0)
"""Upper bounds of the histogram's bars, each four times the one before, so that sides double. Images of 4K and of 8K
fall into different bars."""

_NUMBER: Final = re.compile(r"[$€£¥]?\s*[-+]?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)\s*[%°]?")
_NUMBER_WORDS: Final = re.compile(
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|"
    "eighteen|nineteen|twenty"
)


class AnswerKind(StrEnum):
    """What a right answer looks like, which decides whether rules can match it: all but the last two they can."""

    OPTION = "option"
    LETTER = "letter alone"
    YES_NO = "yes or no"
    NUMBER = "number"
    SHORT_TEXT = "short text"
    SENTENCE = "sentence"
    FORMULA = "formula or list"


def answer_kind(sample: Sample) -> AnswerKind:
    """The kind of a sample's right answer.

    The last two kinds are what `infogap.data.filters.answer_fault` says rules can hardly match. A number may have a
    currency or a percent or degree sign, or be an English word up to twenty. A letter alone is a capital one: the
    question has the options in its text.
    """
    if sample.options:
        return AnswerKind.OPTION
    if answer_fault(sample, max_words=sys.maxsize):  # whatever its length
        return AnswerKind.FORMULA
    if answer_fault(sample):
        return AnswerKind.SENTENCE
    text = sample.answer.strip().rstrip(".").strip()
    if re.fullmatch(r"\(?[A-Z]\)?", text):
        return AnswerKind.LETTER
    if text.casefold() in ("yes", "no", "true", "false"):
        return AnswerKind.YES_NO
    if _NUMBER.fullmatch(text) or _NUMBER_WORDS.fullmatch(text.casefold()):
        return AnswerKind.NUMBER
    return AnswerKind.SHORT_TEXT


@dataclass
class Tally:
    """Counts of some rows in a row; two of them can be added.

    Attributes:
        rows: rows of the source.
        kept: rows that became samples.
        scaled: samples whose image was scaled down.
        image_bytes: bytes of the samples' images as they are stored.
        with_boxes: samples with evidence.
        dropped: rows that became none, by reason.
        examples: the first messages of each reason.
        sizes: the samples' images as they are stored, by size as shown.
        answers: samples by kind of answer.
    """

    rows: int = 0
    kept: int = 0
    scaled: int = 0
    image_bytes: int = 0
    with_boxes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    sizes: Counter[Size] = field(default_factory=Counter)
    answers: Counter[AnswerKind] = field(default_factory=Counter)

    def keep(self, sample: Sample, scaled: bool) -> None:
        """Count a row that became this sample."""
        self.rows += 1
        self.kept += 1
        self.scaled += scaled
        self.image_bytes += len(sample.image.data)
        self.with_boxes += bool(sample.evidence)
        self.sizes[sample.image.size] += 1
        self.answers[answer_kind(sample)] += 1

    def drop(self, row: Dropped) -> None:
        """Count a row that became no sample."""
        self.rows += 1
        self.dropped[row.reason] += 1
        messages = self.examples.setdefault(row.reason, [])
        messages += [] if len(messages) == EXAMPLES else [row.message]

    def add(self, other: Tally) -> None:
        """Count the rows that came after these."""
        self.rows += other.rows
        self.kept += other.kept
        self.scaled += other.scaled
        self.image_bytes += other.image_bytes
        self.with_boxes += other.with_boxes
        self.dropped += other.dropped
        self.sizes += other.sizes
        self.answers += other.answers
        for reason, messages in other.examples.items():
            self.examples[reason] = (self.examples.get(reason, []) + messages)[:EXAMPLES]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        sizes = [[*size, count] for size, count in sorted(self.sizes.items())]
        return {**vars(self), "sizes": sizes}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Tally:
        """What `to_json` gave."""
        sizes = Counter({Size(width, height): count for width, height, count in fields["sizes"]})
        answers = Counter({AnswerKind(kind): count for kind, count in fields["answers"].items()})
        return cls(**{**fields, "dropped": Counter(fields["dropped"]), "sizes": sizes, "answers": answers})


@dataclass(frozen=True)
class ConvertReport:
    """What a conversion did.

    Attributes:
        source: name of the data set.
        shards: number of shards.
        shard_bytes: bytes of all shards.
        tally: counts of all rows.
    """

    source: str
    shards: int
    shard_bytes: int
    tally: Tally

    @classmethod
    def of(cls, source: str, entries: Sequence[ShardEntry], *tallies: Tally) -> ConvertReport:
        """The report of these shards and of all rows that were counted in one of the tallies, in their order.

        Args:
            source: name of the published set.
            entries: what the index says of every shard.
            *tallies: counts of rows.
        """
        tally = Tally()
        for part in tallies:
            tally.add(part)
        return cls(source, len(entries), sum(entry.bytes for entry in entries), tally)

    def to_json(self) -> dict[str, Any]:
        """The content of the summary that lies beside the shards, as JSON values."""
        tally = self.tally
        return {
            "source": self.source,
            "rows": tally.rows,
            "kept": tally.kept,
            "dropped": dict(sorted(tally.dropped.items())),
            "dropped_examples": dict(sorted(tally.examples.items())),
            "shards": self.shards,
            "shard_bytes": self.shard_bytes,
            "image_bytes": tally.image_bytes,
            "images_scaled_down": tally.scaled,
            "median_image": list(self.median_image),
            "largest_image": list(self.largest_image),
            "megapixels": self.megapixels(),
            "sides_below_28": self.small_images,
            "answers": {kind.value: tally.answers[kind] for kind in AnswerKind},
            "questions_with_boxes": tally.with_boxes,
        }

    @property
    def median_image(self) -> Size:
        """Of the images in the order of their pixels the one in the middle, of two the smaller."""
        sizes = sorted(self.tally.sizes, key=_pixels)
        for size, count in zip(sizes, accumulate(self.tally.sizes[size] for size in sizes), strict=True):
            if 2 * count >= self.tally.kept:
                return size
        return Size(0, 0)

    @property
    def largest_image(self) -> Size:
        """The image with the most pixels."""
        return max(self.tally.sizes, key=_pixels, default=Size(0, 0))

    @property
    def small_images(self) -> int:
        """Images with a side below 28 pixels, which is less than one visual token."""
        return sum(count for size, count in self.tally.sizes.items() if min(size) < TOKEN_SIDE)

    def megapixels(self) -> dict[str, int]:
        """How many images have how many million pixels."""
        names = [f"below {bound:g}" for bound in MEGAPIXELS] + [f"{MEGAPIXELS[-1]:g} and more"]
        counts = dict.fromkeys(names, 0)
        for size, count in self.tally.sizes.items():
            bar = sum(_pixels(size) >= bound * 1e6 for bound in MEGAPIXELS)
            counts[names[bar]] += count
        return counts

    def render(self, width: int = 40) -> str:
        """A small table, with a bar of at most ``width`` signs for every range of image sizes."""
        tally, total = self.tally, max(self.tally.rows, 1)
        lines = [f"{self.source}: {self.shards} shards, {self.shard_bytes / 1e6:,.1f} MB"]
        lines += [_line("rows", tally.rows), _line("kept", tally.kept, total)]
        for reason, count in sorted(tally.dropped.items()):
            lines += [_line(f"dropped: {reason}", count, total), *(f"    {text}" for text in tally.examples[reason])]
        lines += ["", f"images: median {_written(self.median_image)}, largest {_written(self.largest_image)}"]
        bars = self.megapixels()
        for name, count in bars.items():
            bar = "#" * -(-width * count // max(*bars.values(), 1))
            lines.append(f"{_line(f'{name} megapixels', count)}         {bar}".rstrip())
        lines.append(_line("a side below 28 pixels", self.small_images))
        lines += [_line("scaled down", tally.scaled)] if tally.scaled else []
        lines += ["", "answers"]
        lines += [_line(kind, tally.answers[kind], tally.kept) for kind in AnswerKind if tally.answers[kind]]
        lines.append(_line("questions with boxes", tally.with_boxes, max(tally.kept, 1)))
        return "\n".join(lines)


def _line(name: str, count: int, total: int | None = None) -> str:
    share = "" if total is None else f"{count / total:>8.1%}"
    return f"{name:<32}{count:>9,}{share}"


def _written(size: Size) -> str:
    return f"{size.width}x{size.height}"


def _pixels(size: Size) -> int:
    return size.width * size.height
