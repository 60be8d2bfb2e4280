"""Down the ladder, sample by sample (LFPC section 3): what is asked, what is a divergence, what is written down."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol as Interface

from infogap.data.images import HighResImage, ImageError
from infogap.data.manifest import ManifestEntry, ManifestHeader, ManifestWriter, SelectionStatus
from infogap.data.sample import Sample
from infogap.data.shards import decode_or_skip, read_records
from infogap.data.skips import SkipLog, SkipReason
from infogap.episode.matching import match_answer, option_index
from infogap.geometry import visual_tokens
from infogap.resolution.report import Progress, SelectionReport, indexed_count


@dataclass
class ResolutionConfig:
    """How views are selected.

    Args:
        ladder: budgets of visual tokens to try, largest first. Not published; default: halved from 16384 to 128. For a
            sample, levels are left out that are not below its own size and ``original_tokens``.
        original_tokens: budget of the "original": the largest view that the policy can be shown. Not published;
            default: 16384, the largest that LFPC section 6 evaluates.
        samples: answers a level. Not published; default 1, the greedy one; of several the majority counts, and among
            equals the one that came first.
        temperature: of sampling, where there are several answers. Not published; default as in training.
        batch_size: samples that are answered together.
        require_correct: mark samples that are answered wrong on the original instead of selecting a view. Samples that
            are not answered at all are always marked.
        seed: seed of sampling.
    """

    ladder: tuple[int, ...] = (16384, 8192, 4096, 2048, 1024, 512, 256, 128)
    original_tokens: int = 16384
    samples: int = 1
    temperature: float = 1.0
    batch_size: int = 16
    require_correct: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a ladder that does not go down, and numbers that mean nothing."""
        falling = all(upper > lower for upper, lower in itertools.pairwise(self.ladder))
        if not self.ladder or self.ladder[-1] < 1 or not falling:
            raise ValueError(
                f"resolution.ladder is {self.ladder}: give positive budgets, each smaller than the one before."
            )
        for name in ("original_tokens", "samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"resolution.{name} is {getattr(self, name)}: give at least 1.")
        if self.samples > 1 and not self.temperature > 0:
            raise ValueError(
                f"resolution.temperature is {self.temperature}, at which all of the {self.samples} samples would be "
                "the same: give a positive temperature, or 1 sample."
            )

    def levels(self, image: HighResImage, min_tokens: int) -> list[int]:
        """Levels of the ladder for one image, each with a view of its own, all below that of the original."""
        limit = min(visual_tokens(image.view_size(None, min_tokens)), self.original_tokens)
        levels: dict[tuple[int, int], int] = {}
        for level in self.ladder:
            if level < limit:
                levels.setdefault(image.view_size(level, min_tokens), level)
        levels.pop(image.view_size(self.original_tokens, min_tokens), None)
        return list(levels.values())


class Answerer(Interface):
    """Whoever answers the questions: a policy, or a script in a test."""

    @property
    def min_tokens(self) -> int:
        """Fewest visual tokens of a view, which decides whether two budgets give the same view."""

    def answer(self, samples: Sequence[Sample], budgets: Sequence[int]) -> list[list[str | None]]:
        """Answer each sample from its view of at most so many visual tokens.

        Returns:
            For every sample as many answers as the majority is taken of; None where there is no answer.
        """


def same_answer(first: str | None, second: str | None, options: Sequence[str]) -> bool:
    """Whether a policy gave the same answer twice; no answer equals only no answer.

    Both answers were written by a policy, so both may name an option by its letter, where `match_answer` expects one of
    them to be from the data set.
    """
    if first is None or second is None:
        return first is second
    chosen = (option_index(first, options), option_index(second, options)) if options else (None, None)
    if chosen != (None, None):
        return chosen[0] == chosen[1]
    return match_answer(first, second, ()) or match_answer(second, first, ())


def majority(answers: Sequence[str | None], options: Sequence[str]) -> str | None:
    """The answer that was given most often, as it was first written; among equals the one that came first."""
    groups: list[list[str | None]] = []
    for answer in answers:
        given = answer if answer and answer.strip() else None
        group = next((group for group in groups if same_answer(group[0], given, options)), None)
        if group is None:
            groups.append([given])
        else:
            group.append(given)
    return max(groups, key=len)[0]


def select_resolutions(
    shards: Sequence[Path],
    answerer: Answerer,
    config: ResolutionConfig,
    manifest_path: Path,
    header: ManifestHeader,
    skips: SkipLog | None = None,
) -> SelectionReport:
    """Select the view of every sample that is not in the manifest yet.

    Args:
        shards: the samples.
        answerer: who answers.
        config: how views are selected.
        manifest_path: where results are appended, in the order of the shards.
        header: what they are made with.
        skips: counts faulty samples, which are left out, or raises the first if it is strict; None counts them.

    Returns:
        Counts over the whole manifest.

    Raises:
        ValueError: if the manifest was made with something else.
    """
    skips = skips or SkipLog()
    with ManifestWriter(manifest_path, header) as writer:
        progress = Progress(len(writer.entries), indexed_count(shards))
        samples = pending(shards, writer.entries, config, skips)
        while batch := list(itertools.islice(samples, config.batch_size)):
            for entry in _descend_together(batch, answerer, config):
                writer.append(entry)
            progress.log(len(writer.entries))
        return SelectionReport.of(writer.entries.values(), skips.counts)


def _descend(sample: Sample, config: ResolutionConfig, min_tokens: int) -> Generator[int, str | None, ManifestEntry]:
    """The way of one sample down the ladder: yields budgets, is sent answers, returns the result."""
    original = yield config.original_tokens
    right = match_answer(original, sample.answer, sample.options)
    if original is None or (config.require_correct and not right):
        return ManifestEntry(sample.key, SelectionStatus.WRONG_ON_ORIGINAL)
    for level in config.levels(sample.image, min_tokens):
        answer = yield level
        if not same_answer(answer, original, sample.options):
            return ManifestEntry(sample.key, SelectionStatus.SELECTED, level)
    return ManifestEntry(sample.key, SelectionStatus.NEVER_DIVERGES)


def _descend_together(samples: Sequence[Sample], answerer: Answerer, config: ResolutionConfig) -> list[ManifestEntry]:
    """Results of some samples, in order; what they ask at the same time is answered in one batch."""
    descents = [_descend(sample, config, answerer.min_tokens) for sample in samples]
    budgets = {place: next(descent) for place, descent in enumerate(descents)}
    entries: dict[int, ManifestEntry] = {}
    while budgets:
        places = list(budgets)
        answers = answerer.answer([samples[place] for place in places], [budgets[place] for place in places])
        for place, given in zip(places, answers, strict=True):
            try:
                budgets[place] = descents[place].send(majority(given, samples[place].options))
            except StopIteration as end:
                entries[place] = end.value
                del budgets[place]
    return [entries[place] for place in range(len(samples))]


def pending(
    shards: Sequence[Path], done: Mapping[str, ManifestEntry], config: ResolutionConfig, skips: SkipLog
) -> Iterator[Sample]:
    """Sound samples without a result. Their smallest view is decoded, so that no corrupt image stops a long run."""
    for shard in shards:
        for record in read_records(shard, skips):
            sample = None if record["__key__"] in done else decode_or_skip(record, skips)
            if sample is None:
                continue
            try:
                sample.image.view(config.ladder[-1])
            except ImageError as error:
                skips.fault(SkipReason.BAD_IMAGE, error)
            else:
                yield sample
