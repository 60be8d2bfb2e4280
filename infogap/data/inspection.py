"""Whether samples are sound: what would be left out of training, and what would train, but hardly well."""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from infogap.data.filters import MIN_SIDE, answer_fault, box_fault
from infogap.data.images import ImageError
from infogap.data.index import ShardIndex
from infogap.data.problems import Problem, Severity
from infogap.data.records import RecordError, decode_sample
from infogap.data.sample import Sample
from infogap.data.shard_scan import FoundRecord, ShardScan, read_record
from infogap.data.skips import SkipReason

_REMEDIES: Final = {
    SkipReason.NO_IMAGE: "write one member KEY.jpg, KEY.png or KEY.webp beside KEY.json",
    SkipReason.NO_JSON: "write a member KEY.json beside the image",
    SkipReason.BAD_JSON: "write one JSON object with the fields of docs/shard_format.md",
    SkipReason.BAD_IMAGE: "write the image again, or leave the sample out",
}
"""What to do where the messages of `decode_sample` do not always end in it."""

Item = TypeVar("Item")

_MARKUP: Final = re.compile(
    r"</?(?:image|img|video|audio|think|answer|tool_call|tool_response|box|ref|im_start|im_end)\b[^<>]*>|\[/?INST\]",
    re.IGNORECASE,
)
"""Tags that other formats put into questions; `Sample` refuses the special tokens of ours."""


def choose(scans: Sequence[ShardScan], count: int | None, seed: int) -> list[tuple[ShardScan, FoundRecord]]:
    """Records to look at, in the order of the shards.

    Args:
        scans: all shards.
        count: how many; None: all. The records are cut into so many equal stretches, and one of each is drawn, so that
            every shard has its share.
        seed: what is drawn follows from it.

    Raises:
        ValueError: if `count` is below 1.
    """
    everything = [(scan, record) for scan in scans for record in scan.records]
    return everything if count is None else spread(everything, count, seed)


def spread(items: Sequence[Item], count: int, seed: int) -> list[Item]:
    """One item, drawn with `seed`, from each of `count` equal stretches of the items; all if there are no more.

    Args:
        items: what is drawn from.
        count: how many to draw.
        seed: of the draws.

    Raises:
        ValueError: if `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"The number of samples to look at is {count}: give at least 1.")
    if count >= len(items):
        return list(items)
    bounds = [number * len(items) // count for number in range(count + 1)]
    generator = random.Random(seed)
    return [items[generator.randrange(low, high)] for low, high in itertools.pairwise(bounds)]


class KeyCheck:
    """Finds keys that occur twice in a dataset.

    Attributes:
        shards: name of the shard by key, for all keys that were seen.
    """

    def __init__(self) -> None:
        self.shards: dict[str, str] = {}

    def see(self, scan: ShardScan) -> Iterator[Problem]:
        """Note the keys of a shard; yields those that were seen before."""
        name = scan.path.name
        for record in scan.records:
            first = self.shards.get(record.key)
            if first is None:
                self.shards[record.key] = name
            else:
                where = "this shard" if first == name else first
                fault, remedy = f"another sample in {where} has this key", "give every sample a key of its own"
                yield Problem(Severity.ERROR, "duplicate key", name, record.key, fault, remedy)


class SampleCheck:
    """Looks at samples one by one. Of those that it has seen it keeps digests, to find questions that are repeated.

    Args:
        index: what the index says of the samples; None if there is none.
        decode: decode images, a JPEG at its smallest scale and others in full, instead of trusting their headers.
    """

    def __init__(self, index: ShardIndex | None, *, decode: bool) -> None:
        self._decode = decode
        entries = () if index is None else index.shards
        self._chains = {place.key: place.chains for entry in entries for place in entry.members or ()}
        self._asked: dict[bytes, str] = {}

    def see(self, scan: ShardScan, found: FoundRecord) -> tuple[Sample | None, list[Problem]]:
        """Read and check one record.

        Returns:
            The sample, None if it would be left out of training, and what is wrong with it.

        Raises:
            OSError: if the shard cannot be read.
        """
        shard = scan.path.name
        try:
            sample = decode_sample(read_record(scan.path, found))
        except RecordError as error:
            fault, remedy = _split(error)
            kind = str(error.reason).replace("_", " ")
            return None, [Problem(Severity.ERROR, kind, shard, found.key, fault, remedy)]
        if self._decode:
            try:
                sample.image.view(1, 1)
            except ImageError as error:
                fault = str(error).rpartition(": ")[0]
                remedy = _REMEDIES[SkipReason.BAD_IMAGE]
                return None, [Problem(Severity.ERROR, "bad image", shard, found.key, fault, remedy)]
        problems = [
            Problem(Severity.WARNING, kind, shard, found.key, fault, remedy)
            for kind, fault, remedy in (*sample_warnings(sample), *self._repetition(sample))
        ]
        chains = self._chains.get(found.key, len(sample.evidence))
        if chains != len(sample.evidence):
            fault = f"it has {len(sample.evidence)} chains of evidence, but {chains} by the index"
            remedy = "write the index anew with `infogap data index`"
            problems.append(Problem(Severity.ERROR, "sample differs from index", shard, found.key, fault, remedy))
        return sample, problems

    def _repetition(self, sample: Sample) -> Iterator[tuple[str, str, str]]:
        digest = hashlib.sha256(sample.image.data)
        digest.update(sample.question.encode(errors="surrogatepass"))
        first = self._asked.setdefault(digest.digest(), sample.key)
        if first != sample.key:
            yield "question repeated", f"{first!r} asks the same of the same image", "leave one of the two out"


def sample_warnings(sample: Sample) -> Iterator[tuple[str, str, str]]:
    """What makes a sound sample train hardly well: kind, fault and remedy of each."""
    width, height = sample.image.size
    if min(width, height) < MIN_SIDE:
        fault = f"its image of {width}x{height} pixels has a side under {MIN_SIDE}, which has to be scaled up"
        yield "small image", fault, f"drop it: infogap data filter --min-side {MIN_SIDE}"
    if box := box_fault(sample):
        yield "box size", box, "correct the box, or drop it: infogap data filter --box-sanity"
    if answer := answer_fault(sample):
        yield (
            "unanswerable",
            f"{answer}, which rules can hardly match",
            "drop it: infogap data filter --drop-unanswerable",
        )
    for name, text in (("question", sample.question), ("answer", sample.answer), *_named_options(sample)):
        if tag := _MARKUP.search(text):
            yield "markup", f"its {name} holds {tag[0]!r:.40}, which is read as text", "take it out"


def _named_options(sample: Sample) -> Iterator[tuple[str, str]]:
    for letter, option in zip(sample.option_letters, sample.options, strict=True):
        yield f"option {letter}", option


def _split(error: RecordError) -> tuple[str, str]:
    """Fault and remedy of a message of `decode_sample`, without the place that stands before them."""
    text = str(error.__cause__ or error).rstrip(".")
    if error.reason in _REMEDIES:
        return text, _REMEDIES[error.reason]
    fault, _, remedy = text.rpartition(": ")
    return fault, remedy
