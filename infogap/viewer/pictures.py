"""The pictures of a page: the images of a sample's episodes as JPEG data addresses."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from PIL import Image

from infogap.data.images import HighResImage, ImageError
from infogap.geometry import Box, Size
from infogap.pictures.panels import UNRECORDED_TOKENS, crop_as_shown, view_as_shown, whole_original
from infogap.pictures.record import EpisodeRecord, TurnRecord

ORIGINAL_SIDE: Final = 896
"""The most pixels of a side of the original in a page: enough to see what is in it, little enough for many of 8K."""

ORIGINAL_QUALITY: Final = 80
SHOWN_QUALITY: Final = 90
"""JPEG quality of what the policy was shown, with colours at full resolution: signs are red or blue in few pixels."""

Region = tuple[Box, Size | None]
"""A crop as it was shown: the region of the original and its size in pixels, None if that is not recorded."""


Finder = Callable[[EpisodeRecord], HighResImage | None]
"""Finds the original of an episode's sample, still compressed; None if it is not there. Called by several threads."""


@dataclass
class Wanted:
    """What is needed of one sample.

    Attributes:
        record: one of its episodes, which says what the sample is.
        views: sizes of its views, in the order of their numbers in the page.
        regions: its distinct crops, likewise.
    """

    record: EpisodeRecord
    views: dict[Size, int] = field(default_factory=dict)
    regions: dict[Region, int] = field(default_factory=dict)

    def add(self, record: EpisodeRecord) -> None:
        """Note the pictures of an episode."""
        if record.view_size is not None:
            self.views.setdefault(record.view_size, len(self.views))
        for turn in record.turns:
            region = region_of(record, turn)
            if region is not None:
                self.regions.setdefault(region, len(self.regions))


def region_of(record: EpisodeRecord, turn: TurnRecord) -> Region | None:
    """What the policy was shown in a turn; None if it was shown no crop."""
    if turn.crop is None or (turn.shown is None and record.says_what_was_shown):
        return None
    return turn.crop, turn.shown


def collect(records: Iterable[EpisodeRecord]) -> list[Wanted]:
    """What is needed of every sample, in the order in which the samples come up."""
    found: dict[tuple[Any, ...], Wanted] = {}
    for record in records:
        found.setdefault(sample_identity(record), Wanted(record)).add(record)
    return list(found.values())


def sample_identity(record: EpisodeRecord) -> tuple[Any, ...]:
    """What two records of one sample have in common; keys may come from several sources."""
    return record.sample, record.question, record.options, record.expected_answer, record.evidence, record.original_size


def make_pictures(wanted: Wanted, find: Finder) -> dict[str, Any] | None:
    """The pictures of one sample as JSON values; None if its image cannot be had.

    All that is cut from the original costs one decoding; a view of a JPEG one more, at reduced scale as in a rollout.
    """
    image = find(wanted.record)
    if image is None:
        return None
    try:
        return {
            "original": data_address(whole_original(image, ORIGINAL_SIDE), ORIGINAL_QUALITY),
            "views": [data_address(view_as_shown(image, size), SHOWN_QUALITY) for size in wanted.views],
            "crops": [_crop(image, *region) for region in wanted.regions],
        }
    except ImageError:
        return None
    finally:
        image.release()


def data_address(image: Image.Image, quality: int) -> str:
    """An image as the address of a JPEG that stands in it."""
    buffer = io.BytesIO()
    subsampling = 0 if quality >= SHOWN_QUALITY else 2
    image.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def numbers_of(wanted: Sequence[Wanted]) -> dict[tuple[Any, ...], int]:
    """The number of each sample by its identity."""
    return {sample_identity(needed.record): number for number, needed in enumerate(wanted)}


def _crop(image: HighResImage, box: Box, size: Size | None) -> str | None:
    """A crop as it was shown; None if it lies outside the image, which a record that was edited can say."""
    try:
        shown = image.crop(box, UNRECORDED_TOKENS) if size is None else crop_as_shown(image, box, size)
    except ImageError:
        raise
    except ValueError:
        return None
    return data_address(shown, SHOWN_QUALITY)
