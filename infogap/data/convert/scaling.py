"""Images scaled down on their way into a shard, with their boxes, in as little memory as their format allows."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from typing import Final

from PIL import Image

from infogap.data.images import HighResImage
from infogap.data.sample import Sample
from infogap.geometry import Box, Size

JPEG_QUALITY: Final = 95
"""Of images that are scaled down: the highest that Pillow's documentation recommends. Colours keep their resolution
(4:4:4), for questions ask for the colour of small things."""


STRIP_ROWS: Final = 256
"""Rows of an original that are scaled at a time: a hundredth of a large one, and more than strips see of others."""

LANCZOS_SUPPORT: Final = 3
"""Pixels at the smaller scale that the filter reaches to each side."""


def scale_down(sample: Sample, max_side: int) -> Sample:
    """The sample with its image, if that has a longer side, scaled to ``max_side`` pixels, and its boxes alike.

    Boxes are not clamped: one that reaches beyond the image by the tolerance of `Sample` then does so by less.

    Raises:
        ImageError: if the image is corrupt.
    """
    old = sample.image.size
    if max(old) <= max_side:
        return sample
    new = Size(*(max(round(side * max_side / max(old)), 1) for side in old))
    buffer = io.BytesIO()
    small = _Original(sample.image.data, name=sample.image.name).scaled(new)
    small.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    wide, high = new.width / old.width, new.height / old.height
    evidence = tuple(
        tuple(Box(box.x1 * wide, box.y1 * high, box.x2 * wide, box.y2 * high) for box in chain)
        for chain in sample.evidence
    )
    return replace(sample, image=HighResImage(buffer.getvalue(), name=sample.image.name), evidence=evidence)


class _Original(HighResImage):
    """An image that is decoded once, to be scaled down."""

    def scaled(self, size: Size) -> Image.Image:
        """The whole image in RGB at a smaller size.

        Args:
            size: as shown, after the EXIF orientation.

        Raises:
            ImageError: if the data is corrupt or truncated.
        """
        target = self._shown(size)  # in stored orientation: the swap undoes itself
        image = self._open()
        drafted = image.draft("RGB", target)
        extent = drafted[1] if drafted else None  # the drafted image is padded to whole pixels: its true extent
        self._load(image)
        return self._transposed(_scaled_in_strips(image, target, extent or (0.0, 0.0, *image.size)))


def _scaled_in_strips(image: Image.Image, size: Size, extent: tuple[float, float, float, float]) -> Image.Image:
    """An image of which an extent is scaled to a size, in RGB.

    Every strip sees the rows around it that the filter asks for, so that the result is that of the whole, while copies
    in other modes and half-scaled ones are those of a strip.
    """
    left, top, right, bottom = extent
    step = (bottom - top) / size.height
    margin = math.ceil(LANCZOS_SUPPORT * max(step, 1.0)) + 1
    rows = max(int(STRIP_ROWS / step), 1)
    small = Image.new("RGB", size)
    for start in range(0, size.height, rows):
        end = min(start + rows, size.height)
        first, last = top + start * step, top + end * step
        above, below = max(math.floor(first) - margin, 0), min(math.ceil(last) + margin, image.height)
        strip = _filterable(image.crop((0, above, image.width, below)))
        box = (left, first - above, right, min(last - above, strip.height))
        small.paste(_flattened(strip.resize((size.width, end - start), Image.Resampling.LANCZOS, box)), (0, start))
    return small


def _filterable(image: Image.Image) -> Image.Image:
    """The pixels in a mode of which averages can be taken; the image itself if it has one."""
    if image.mode == "P":
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode == "1":
        return image.convert("L")
    return image.convert("I") if image.mode.startswith("I") else image


def _flattened(small: Image.Image) -> Image.Image:
    """Small pixels in RGB. Transparency and 16 bits become what they become wherever an image is read."""
    if small.mode != "I" and not small.has_transparency_data:
        return small.convert("RGB")
    buffer = io.BytesIO()
    small.info.pop("exif", None)
    (small.convert("I;16") if small.mode == "I" else small).save(buffer, "PNG", compress_level=1)
    return Image.fromarray(HighResImage(buffer.getvalue(), name="scaled image").decode())
