"""Images that are the same picture in another file, so that training data holds no image of a benchmark.

The perceptual hash is the sign pattern of a picture's low frequencies: what is left of it when it is re-encoded,
scaled or made lighter, and what differs between two pictures.

What was measured, on 300 images like photographs, 150 like pages of text, 150 like bar charts and 300 needle scenes, of
which a quarter was changed (of 255 bits; two files that differ by up to `DISTANCE` = 48 are taken for one picture):

    change                                                  largest distance    found
    JPEG of quality 30 to 95, PNG, WEBP, grey                      12           100 %
    scaled to a half or a quarter                                  18           100 %
    contrast or brightness x 0.7, brightness x 1.3                 32           100 %
    1 % cut off one edge, or off all four                          32           100 %
    2 % cut off one edge                                           40           100 %
    2 % cut off all four edges                                     58            96 % (text pages 82 %)
    a caption of 5 % of the height below                           86            10 %
    5 % or 10 % cut off all four edges                            148             0 %
    half of the picture, mirrored, turned                         150             0 %

    two different pictures                          smallest distance    taken for one
    photographs (44,850 pairs)                             92                   0
    needle scenes (44,850 pairs)                           92                   0
    pages of text (11,175 pairs)                           72                   0
    bar charts (11,175 pairs)                              46                   1

So it does **not** find parts of a picture, nor a mirrored or turned one, nor one that got a border. Pictures of one
layout, such as charts with other numbers or two frames of a film, may be taken for one. The images of the study are
synthetic: photographs that share a composition lie closer together than these.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infogap.data.images import HighResImage
from infogap.data.sample import Sample

GRID: Final = 64
"""Side in pixels of the grey image that is transformed: four pixels for the shortest wave that is kept."""

FREQUENCIES: Final = 16
"""Frequencies along each axis that are kept, the constant included. With 8, different text pages came as close as 6 of
63 bits, nearer than one picture with 2 % cut off (10); with 16 the two hardly meet."""

VIEW_TOKENS: Final = 64
"""Budget of the view that is decoded for a hash: some 224 x 224 pixels, for which a JPEG is decoded at 1/8 scale."""

FLAT: Final = 2.0
"""Standard deviation of the grey values, of 255, up to which a picture is flat: its low frequencies are the noise of
its encoder, so that it has no bits. One step of a JPEG's brightness at quality 90 is about 2."""

DISTANCE: Final = 48
"""Bits of 255 by which the hashes of one picture may differ; see the table above."""

_ONES: Final = np.array([value.bit_count() for value in range(256)], dtype=np.uint16)


@dataclass(frozen=True)
class ImageHash:
    """What images are compared by.

    Attributes:
        digest: SHA-256 of the file.
        bits: 255 bits and a zero, packed into 32 bytes; None for a flat picture, which only its digest can match.
    """

    digest: bytes
    bits: bytes | None

    @classmethod
    def of(cls, image: HighResImage) -> ImageHash:
        """Hash an image, decoded at reduced scale.

        Raises:
            ImageError: if the image is corrupt.
        """
        view = image.view(VIEW_TOKENS).convert("L").resize((GRID, GRID), Image.Resampling.BOX)
        grey = np.asarray(view, dtype=np.float32)
        digest = hashlib.sha256(image.data).digest()
        if grey.std() <= FLAT:
            return cls(digest, None)
        waves = (_cosines() @ grey @ _cosines().T).ravel()[1:]  # without the constant, which is the brightness
        return cls(digest, np.packbits(waves > np.median(waves)).tobytes())


class NearDuplicates:
    """A filter that drops samples whose image is, in another file, one of some images.

    An image is decoded, at reduced scale, the first time that its file is met; samples that share it share the verdict.

    Args:
        hashes: of the images that must not be trained on, such as a benchmark's.
        distance: bits of 255 by which the hashes of one picture may differ. Default: `DISTANCE`.

    Raises:
        ValueError: if `distance` is negative, or so large that half of all pictures were taken for one.
    """

    name = "near-duplicate image"

    def __init__(self, hashes: Iterable[ImageHash], distance: int = DISTANCE) -> None:
        if not 0 <= distance < 127:
            raise ValueError(f"The distance of near-duplicates is {distance}: give 0 to 126 bits of 255.")
        unique = {known.digest: known.bits for known in hashes}
        rows = [np.frombuffer(bits, np.uint8) for bits in unique.values() if bits is not None]
        self._known: NDArray[np.uint8] = np.stack(rows) if rows else np.empty((0, 32), np.uint8)
        self._distance = distance
        self._verdicts = dict.fromkeys(unique, False)

    def keeps(self, sample: Sample) -> bool:
        """Whether the sample's image is none of the known ones.

        Raises:
            ImageError: if the image is corrupt.
        """
        digest = hashlib.sha256(sample.image.data).digest()
        if digest not in self._verdicts:
            self._verdicts[digest] = self.nearest(ImageHash.of(sample.image)) > self._distance
        return self._verdicts[digest]

    def nearest(self, image: ImageHash) -> int:
        """Bits by which the most similar known picture differs; 255, more than any, if there is none to compare."""
        if image.bits is None or not len(self._known):
            return 255
        differing = self._known ^ np.frombuffer(image.bits, np.uint8)
        return int(_ONES[differing].sum(axis=1).min())


@functools.cache
def _cosines() -> NDArray[np.float32]:
    """Rows of the discrete cosine transform, `FREQUENCIES` x `GRID`; their scale does not matter to an order."""
    places = np.pi * (np.arange(GRID) + 0.5) / GRID
    return np.cos(np.arange(FREQUENCIES)[:, None] * places).astype(np.float32)
