"""Views decoded side by side before a policy is shown them: one by one, it would wait for them longer than it answers.

An 8K photograph costs 0.1 to 0.9 s for every view, and Pillow decodes and scales without the interpreter's lock.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from PIL import Image

from infogap.data.images import HighResImage, ImageError
from infogap.data.sample import Sample


class PreparedImage(HighResImage):
    """An image with one of its views decoded ahead: the very one that it would give, and any other as before.

    Args:
        image: the image.
        max_tokens: budget of the view that is decoded.
        min_tokens: fewest visual tokens of it.
    """

    def __init__(self, image: HighResImage, max_tokens: int, min_tokens: int) -> None:
        self.__dict__.update(image.__dict__)
        self._budget = (max_tokens, min_tokens)
        self._view = image.view(max_tokens, min_tokens)

    def view(self, max_tokens: int | None, min_tokens: int = 4) -> Image.Image:
        """See `HighResImage.view`."""
        return self._view if (max_tokens, min_tokens) == self._budget else super().view(max_tokens, min_tokens)


def with_views(samples: Sequence[Sample], min_tokens: int) -> list[Sample]:
    """The samples with their selected views decoded."""

    def prepare(sample: Sample) -> Sample:
        assert sample.view_tokens is not None  # the budget that is asked
        return replace(sample, image=PreparedImage(sample.image, sample.view_tokens, min_tokens))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(prepare, samples))


def find_faults(images: Iterable[HighResImage], max_tokens: int) -> list[ImageError | None]:
    """What is wrong with the pixels of some images; found by decoding a small view."""

    def fault(image: HighResImage) -> ImageError | None:
        try:
            image.view(max_tokens)
        except ImageError as error:
            return error
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(fault, images))
