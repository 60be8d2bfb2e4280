"""The images of the samples that a run played, found by key in shards."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from infogap.data.images import HighResImage
from infogap.data.index import Place
from infogap.data.reader import RecordReader, Shard, is_remote, open_set
from infogap.data.records import RecordError, decode_sample
from infogap.data.remote import Cache, CacheConfig
from infogap.data.skips import SkipLog
from infogap.pictures.record import EpisodeRecord
from infogap.viewer.run import find_place


class Originals:
    """Finds the image of a sample. Holds places and no bytes; any thread may ask. Use it as a context manager.

    Args:
        shards: those that are looked through.
        keys: keys of the samples that will be asked for.

    Attributes:
        known: how many of the keys the shards hold.
    """

    def __init__(self, shards: Iterable[Shard], keys: Iterable[str]) -> None:
        wanted = set(keys)
        self._places: dict[str, list[tuple[Shard, Place]]] = {}
        for shard in shards:
            for place in shard.places:
                if place.key in wanted:
                    self._places.setdefault(place.key, []).append((shard, place))
        self.known = len(self._places)
        self._reader = RecordReader(Cache(CacheConfig()))
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the shards."""
        self._reader.__exit__(kind, error, trace)

    def find(self, record: EpisodeRecord) -> HighResImage | None:
        """The original of an episode's sample, still compressed; None if it is not there.

        A sample of the same key that asks something else, or has an image of another size, is another sample: several
        sources may use one key, and shards may have been written anew since the run.
        """
        for shard, place in self._places.get(record.sample, []):
            try:
                with self._lock:
                    found = self._reader.read(shard, place)
                sample = decode_sample(found)
            except RecordError:
                continue
            if sample.question == record.question and sample.image.size == record.original_size:
                return sample.image
        return None


def open_places(places: Sequence[str]) -> list[Shard]:
    """The shards that were named by hand.

    Raises:
        ValueError: if a place is not one for shards, or an index is damaged.
        FileNotFoundError: if there are none.
        RemoteError: if an index cannot be fetched.
    """
    cache, skips = Cache(CacheConfig()), SkipLog(strict=False)
    return [shard for place in places for shard in open_set(place, cache, skips)]


def open_configured(places: Sequence[str], run: Path) -> tuple[list[Shard], list[str]]:
    """The shards that a configuration names, as far as they are on this machine; see `find_place`.

    Args:
        places: as the configuration writes them.
        run: folder of the run.

    Returns:
        The shards, and the places where there are none.
    """
    shards, missing = [], []
    for place in places:
        found = None if is_remote(place) else _open_somewhere(place, run)
        if found is None:
            missing.append(place)
        else:
            shards += found
    return shards, missing


def _open_somewhere(place: str, run: Path) -> list[Shard] | None:
    for path in find_place(place, run):
        try:
            return open_places([str(path)])
        except (ValueError, OSError):
            continue
    return None
