"""The samples of one source that a run uses: chosen by what is known of them, read and decoded one by one."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from infogap.data.images import ImageError
from infogap.data.index import Place
from infogap.data.manifest import ManifestEntry
from infogap.data.reader import RecordReader, Shard
from infogap.data.records import RecordError
from infogap.data.sample import Sample
from infogap.data.shards import decode_or_skip
from infogap.data.skips import SkipLog, SkipReason


@dataclass(frozen=True)
class Selection:
    """Which samples are used.

    Attributes:
        manifest: results of resolution selection by key; a sample gets the view that was selected for it.
        require_view_tokens: drop samples for which no view was selected.
        require_evidence: drop samples without boxes.
    """

    manifest: Mapping[str, ManifestEntry] = field(default_factory=dict)
    require_view_tokens: bool = False
    require_evidence: bool = False

    def reason_against(self, place: Place) -> SkipReason | None:
        """Why a sample is not wanted; None if it is."""
        if self.require_view_tokens and self.view_tokens(place.key) is None:
            return SkipReason.NO_SELECTED_VIEW
        return SkipReason.NO_EVIDENCE if self.require_evidence and not place.chains else None

    def view_tokens(self, key: str) -> int | None:
        """Budget of the view that was selected for a sample."""
        entry = self.manifest.get(key)
        return None if entry is None else entry.view_tokens


class SampleSet:
    """The wanted samples of some shards, numbered through in the order of the shards.

    Holds places and no bytes, so that it costs a process some hundred bytes a sample.

    Args:
        shards: where they are.
        selection: which ones are used.
        skips: counts those that are not, once.

    Attributes:
        groups: number of wanted samples of each shard.
    """

    def __init__(self, shards: Sequence[Shard], selection: Selection, skips: SkipLog) -> None:
        self._selection = selection
        self._items: list[tuple[Shard, Place]] = []
        self.groups: list[int] = []
        for shard in shards:
            before = len(self._items)
            for place in shard.places:
                reason = selection.reason_against(place)
                if reason is None:
                    self._items.append((shard, place))
                else:
                    skips.drop(reason)
            self.groups.append(len(self._items) - before)

    def __len__(self) -> int:
        return len(self._items)

    def read(self, number: int, reader: RecordReader, skips: SkipLog) -> Sample | None:
        """One sample with its selected view, or None if it is faulty, which is counted, or raised if `skips` is strict.

        The image is decoded as far as is needed to know that it can be: a header says nothing of the pixels behind it.
        Where resolution selection found a view, it has been decoded before.

        Args:
            number: the sample's number in the set.
            reader: reads records.
            skips: counts faults.
        """
        shard, place = self._items[number]
        try:
            sample = decode_or_skip(reader.read(shard, place), skips)
        except RecordError as error:
            skips.fault(error.reason, error)
            return None
        if sample is None:
            return None
        tokens = self._selection.view_tokens(sample.key)
        if tokens is not None:
            return replace(sample, view_tokens=tokens)
        try:
            sample.image.view(1, 1)  # a JPEG is decoded at its smallest scale
        except ImageError as error:
            skips.fault(SkipReason.BAD_IMAGE, error)
            return None
        return sample

    def limit(self, count: int, reader: RecordReader, skips: SkipLog) -> None:
        """Keep the first so many sound samples; fewer if there are no more.

        Args:
            count: how many to keep.
            reader: reads records.
            skips: counts faults.
        """
        sound = (number for number in range(len(self)) if self.read(number, reader, skips) is not None)
        kept = list(itertools.islice(sound, count))
        ends = [bisect.bisect_left(kept, end) for end in itertools.accumulate(self.groups)]
        self.groups = [end - start for start, end in itertools.pairwise([0, *ends])]
        self._items = [self._items[number] for number in kept]
