"""What the policy gets to see when it asks for a crop: the region itself, or what a probe shows in its place.

The replacements measure how much the policy depends on its crops (LFPC section 1). They change the pixels of a crop and
nothing else: its size, hence its number of visual tokens, is that of the crop which the policy asked for.
"""

from __future__ import annotations

import hashlib
import random
from typing import Protocol

from PIL import Image

from infogap.data.sample import Sample
from infogap.geometry import Box, NestedBoxes, Size, corner_l1


class CropTool(Protocol):
    """Shows something for a box that the policy asked for."""

    def look(self, sample: Sample, box: Box) -> Image.Image:
        """Image that comes back.

        Args:
            sample: what the episode is about.
            box: region in pixels of the original, inside the image and not too small.

        Returns:
            An RGB image with sides that are multiples of 28.
        """
        ...


class OwnCrop:
    """The region that was asked for, cut from the original.

    Args:
        max_tokens: the most visual tokens of a crop.
        min_tokens: the fewest visual tokens of a crop; smaller ones are scaled up.
    """

    def __init__(self, max_tokens: int, min_tokens: int = 4) -> None:
        self.max_tokens = max_tokens
        self.min_tokens = min_tokens

    def look(self, sample: Sample, box: Box) -> Image.Image:
        """Cut the region."""
        return sample.image.crop(box, self.max_tokens, self.min_tokens)


class GroundTruthCrop:
    """The annotated evidence, whatever was asked for.

    Shown is the second nested box if there is one (the sign around the words), else the first, grown to a least side
    and to the shape of the crop that was asked for, so that it is not distorted where the image leaves room. With
    several pieces of evidence it is the one nearest to the box that was asked for.

    Args:
        max_tokens: the most visual tokens of a crop.
        min_tokens: the fewest visual tokens of a crop; smaller ones are scaled up.
        min_crop_side: least side of the region in pixels of the original, as for the policy's own crops.
    """

    def __init__(self, max_tokens: int, min_tokens: int = 4, min_crop_side: float = 28.0) -> None:
        self.max_tokens = max_tokens
        self.min_tokens = min_tokens
        self.min_crop_side = min_crop_side

    def look(self, sample: Sample, box: Box) -> Image.Image:
        """Cut the evidence.

        Raises:
            ValueError: if the sample has no evidence.
        """
        if not sample.evidence:
            raise ValueError(
                f"The sample {sample.key} has no evidence to show as ground truth: leave it out of this arm."
            )
        size = sample.image.size
        target = min(map(evidence_box, sample.evidence), key=lambda context: corner_l1(context, box, size))
        shown = sample.image.crop_size(box, self.max_tokens, self.min_tokens)
        region = _grow_to_aspect(target.expand_to(self.min_crop_side, size), shown.width / shown.height, size)
        crop = sample.image.crop(region, self.max_tokens, self.min_tokens)
        return crop if crop.size == shown else crop.resize(shown, Image.Resampling.BICUBIC)


class NoiseCrop:
    """Uniformly random pixels, the same ones each time for a seed, a sample and a box.

    Args:
        max_tokens: the most visual tokens of a crop.
        min_tokens: the fewest visual tokens of a crop.
        seed: what the noise depends on beside sample and box.
    """

    def __init__(self, max_tokens: int, min_tokens: int = 4, seed: int = 0) -> None:
        self.max_tokens = max_tokens
        self.min_tokens = min_tokens
        self.seed = seed

    def look(self, sample: Sample, box: Box) -> Image.Image:
        """Draw the noise."""
        width, height = sample.image.crop_size(box, self.max_tokens, self.min_tokens)
        # Python's hash() of a string differs between processes; a digest does not.
        digest = hashlib.blake2b(repr((self.seed, sample.key, box.as_tuple())).encode()).digest()
        pixels = random.Random(int.from_bytes(digest, "big")).randbytes(width * height * 3)
        return Image.frombytes("RGB", (width, height), pixels)


def evidence_box(boxes: NestedBoxes) -> Box:
    """Box to show: the second of the chain (the sign around the words) if there is one, else the first."""
    return boxes[min(1, len(boxes) - 1)]


def _grow_to_aspect(box: Box, aspect: float, size: Size) -> Box:
    """Lengthen one axis of a box inside the image until width / height is `aspect`, or as near as the image allows."""
    x1, x2 = _grow_span(box.x1, box.x2, box.height * aspect, size.width)
    y1, y2 = _grow_span(box.y1, box.y2, box.width / aspect, size.height)
    return Box(x1, y1, x2, y2)


def _grow_span(low: float, high: float, length: float, limit: int) -> tuple[float, float]:
    length = min(length, float(limit))
    if length <= high - low:
        return low, high
    start = min(max((low + high - length) / 2, 0.0), limit - length)
    return min(start, low), min(max(start + length, high), float(limit))
