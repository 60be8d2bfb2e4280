"""Views of many samples: which ones have no result yet, and how they are asked side by side."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from infogap.data.index import Place
from infogap.data.manifest import ManifestEntry, ManifestHeader, ManifestWriter
from infogap.data.reader import RecordReader, Shard, open_local
from infogap.data.records import RecordError
from infogap.data.remote import Cache, CacheConfig
from infogap.data.sample import Sample
from infogap.data.shards import decode_or_skip
from infogap.data.skips import SkipLog, SkipReason
from infogap.resolution.config import ResolutionConfig
from infogap.resolution.questions import Answerer, majority, question
from infogap.resolution.report import Progress, SelectionReport, share_size
from infogap.resolution.shares import (
    Note,
    Share,
    found_results,
    is_finished,
    join_parts,
    part_path,
    remove_parts,
    task_name,
    write_note,
)
from infogap.resolution.views import find_faults

WHOLE = Share()
"""All samples."""


class Pending:
    """The samples of a share that are not answered yet.

    Args:
        shards: all shards.
        share: which samples of them.
        known: results by key.
        config: what a result must hold.
        skips: counts faulty samples, which are left out, or raises the first if it is strict.

    Attributes:
        keys: the samples that were looked at, those with a result too, by key: the numbers of their shard and of their
            place in it.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        share: Share,
        known: Mapping[str, ManifestEntry],
        config: ResolutionConfig,
        skips: SkipLog,
    ) -> None:
        self.keys: dict[str, tuple[int, int]] = {}
        self._shards, self._share, self._known, self._config, self._skips = shards, share, known, config, skips
        self._samples = self._unanswered()

    def take(self, count: int) -> list[Sample]:
        """The next so many; fewer at the end. Pixels are tried, so that no corrupt image stops a long run."""
        taken: list[Sample] = []
        while len(taken) < count and (samples := list(itertools.islice(self._samples, count - len(taken)))):
            faults = find_faults([sample.image for sample in samples], self._config.ladder[-1])
            for sample, fault in zip(samples, faults, strict=True):
                if fault is None:
                    taken.append(sample)
                else:
                    self._skips.fault(SkipReason.BAD_IMAGE, fault)
        return taken

    def _unanswered(self) -> Iterator[Sample]:
        for place, record in self._share.records(self._shards, self._skips):
            key = record["__key__"]
            if key in self.keys:  # a key that occurs twice: its first sample counts
                continue
            self.keys[key] = place
            if not self._config.is_answered(self._known.get(key)):
                sample = decode_or_skip(record, self._skips)
                if sample is not None:
                    yield sample


class _Asked:
    """A sample that is being asked."""

    def __init__(self, sample: Sample, config: ResolutionConfig, min_tokens: int, known: ManifestEntry | None) -> None:
        self.sample = sample
        self._questions = question(sample, config, min_tokens, known)
        self.budgets = next(self._questions)
        self.entry: ManifestEntry | None = None

    def take(self, given: Sequence[Sequence[str | None]]) -> None:
        """Take the answers to what was asked; afterwards there is more to ask, or a result."""
        try:
            self.budgets = self._questions.send(tuple(majority(answers, self.sample.options) for answers in given))
        except StopIteration as end:
            self.entry = end.value


def is_complete(
    shards: Sequence[Path], known: Mapping[str, ManifestEntry], config: ResolutionConfig, skips: SkipLog
) -> bool:
    """Whether all sound samples have a result. Only samples without one are read.

    Args:
        shards: the shards.
        known: results by key.
        config: the ladder, which says what a result needs.
        skips: counts faulty samples.

    Raises:
        RecordError: if one of those is faulty and `skips` is strict.
        ImageError: likewise.
    """
    if not known:
        return False
    with RecordReader(Cache(CacheConfig())) as reader:
        for shard in open_local(shards, skips):
            for place in shard.places:
                if not config.is_answered(known.get(place.key)) and _is_sound(reader, shard, place, skips):
                    return False
    return True


def _is_sound(reader: RecordReader, shard: Shard, place: Place, skips: SkipLog) -> bool:
    sample = None
    try:
        sample = decode_or_skip(reader.read(shard, place), skips)
    except RecordError as error:
        skips.fault(error.reason, error)
    fault = None if sample is None else find_faults([sample.image], 1)[0]
    if fault is not None:
        skips.fault(SkipReason.BAD_IMAGE, fault)
    return sample is not None and fault is None


def select_resolutions(
    shards: Sequence[Path],
    answerer: Answerer,
    config: ResolutionConfig,
    manifest: Path,
    header: ManifestHeader,
    skips: SkipLog | None = None,
    share: Share = WHOLE,
    heartbeat: Callable[[], None] = lambda: None,
    interval: float = 30.0,
) -> SelectionReport | None:
    """Select the view of every sample of a share that has no result yet; the last share to finish writes the manifest.

    Args:
        shards: the samples.
        answerer: who answers.
        config: how views are selected.
        manifest: where results go in the end, in the order of the shards, with a report beside them; until then every
            share appends to a part beside it.
        header: what they are made with.
        skips: counts faulty samples, which are left out, or raises the first if it is strict; None counts them.
        share: which samples.
        heartbeat: called before every round of answers; what it raises ends the selection.
        interval: seconds between two lines of the log.

    Returns:
        Counts over the whole manifest; None if other shares are not finished.

    Raises:
        ValueError: if results that are there were made with something else, or another process works on this share.
    """
    skips = skips or SkipLog()
    task = task_name(shards, header, ask_without_image=config.ask_without_image)
    if not is_finished(manifest, share, task):
        known = found_results(manifest, header)
        with ManifestWriter(part_path(manifest, share), header) as writer:
            pending = Pending(shards, share, known, config, skips)
            progress = Progress(share, share_size(shards, share), interval)
            _answer(pending, answerer, config, known, writer, heartbeat, progress)
        write_note(manifest, Note(task, share, pending.keys, skips.counts))
    joined = join_parts(manifest, header, task)
    if joined is None:
        return None
    report = SelectionReport.of(*joined)
    report.save(manifest)
    remove_parts(manifest, header)
    return report


def _answer(
    pending: Pending,
    answerer: Answerer,
    config: ResolutionConfig,
    known: Mapping[str, ManifestEntry],
    writer: ManifestWriter,
    heartbeat: Callable[[], None],
    progress: Progress,
) -> None:
    """Answer all samples, always as many at a time as there may be: who is finished makes room for the next."""
    asked: list[_Asked] = []
    answered = 0
    while True:
        for sample in pending.take(config.batch_size - len(asked)):
            asked.append(_Asked(sample, config, answerer.min_tokens, known.get(sample.key)))
        if not asked:
            return
        heartbeat()
        questions = [(one.sample, budget) for one in asked for budget in one.budgets]
        given = iter(answerer.answer([sample for sample, _ in questions], [budget for _, budget in questions]))
        for one in asked:
            one.take(list(itertools.islice(given, len(one.budgets))))
            if one.entry is not None:
                writer.append(one.entry)
                answered += 1
        asked = [one for one in asked if one.entry is None]
        progress.log(answered, len(pending.keys) - answered - len(asked))
