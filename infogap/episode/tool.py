"""What the policy gets to see when it asks for a crop: the region itself, or what a probe shows in its place.

The replacements measure how much the policy depends on its crops (LFPC section 1). Noise, random regions and other
images change the pixels of a crop and nothing else: its size, hence its number of visual tokens, is that of the crop
which the policy asked for. The ground truth has the size that it would have if it were asked for.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import Protocol

from PIL import Image

from infogap.data.images import HighResImage
from infogap.data.sample import Sample
from infogap.geometry import Box, NestedBoxes, corner_l1


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
    """The annotated evidence, whatever was asked for: what the policy would see if it pointed as the annotator did.

    Shown is the second nested box if there is one (the sign around the words), else the first, grown to a least side,
    at the size at which the tool shows such a region. So it is the ceiling of pointing; its number of visual tokens is
    its own, not that of the crop which was asked for. With several pieces of evidence it is the one nearest to the box
    that was asked for.

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
        return sample.image.crop(target.expand_to(self.min_crop_side, size), self.max_tokens, self.min_tokens)


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
        pixels = _random_of(self.seed, sample, box).randbytes(width * height * 3)
        return Image.frombytes("RGB", (width, height), pixels)


class RandomCrop:
    """A region of the same size somewhere else in the same image, the same one each time for a seed, sample and box.

    Its place is uniform, so that it may hold the evidence by chance: as often as a blind crop of that size would.

    Args:
        max_tokens: the most visual tokens of a crop.
        min_tokens: the fewest visual tokens of a crop; smaller ones are scaled up.
        seed: what the place depends on beside sample and box.
    """

    def __init__(self, max_tokens: int, min_tokens: int = 4, seed: int = 0) -> None:
        self.max_tokens = max_tokens
        self.min_tokens = min_tokens
        self.seed = seed

    def look(self, sample: Sample, box: Box) -> Image.Image:
        """Cut a region as large as the box."""
        size, generator = sample.image.size, _random_of(self.seed, sample, box)
        x1, y1 = (
            generator.uniform(0, limit - side) for limit, side in ((size.width, box.width), (size.height, box.height))
        )
        region = Box(x1, y1, x1 + box.width, y1 + box.height).clamp(size)
        return _shown_as(sample, box, sample.image, region, self.max_tokens, self.min_tokens)


class OtherImageCrop:
    """A region of another image: as real as the policy's own, and about something else.

    It has the size in pixels of the region that was asked for, as far as the other image has room for it, and its
    middle lies at the same place relative to the image.

    Args:
        others: the other image of every sample, by key.
        max_tokens: the most visual tokens of a crop.
        min_tokens: the fewest visual tokens of a crop; smaller ones are scaled up.
    """

    def __init__(self, others: Mapping[str, HighResImage], max_tokens: int, min_tokens: int = 4) -> None:
        self.others = others
        self.max_tokens = max_tokens
        self.min_tokens = min_tokens

    def look(self, sample: Sample, box: Box) -> Image.Image:
        """Cut the region from the other image."""
        other, size = self.others[sample.key], sample.image.size
        x1, x2 = _same_place(box.x1, box.x2, size.width, other.size.width)
        y1, y2 = _same_place(box.y1, box.y2, size.height, other.size.height)
        return _shown_as(sample, box, other, Box(x1, y1, x2, y2), self.max_tokens, self.min_tokens)


def evidence_box(boxes: NestedBoxes) -> Box:
    """Box to show: the second of the chain (the sign around the words) if there is one, else the first."""
    return boxes[min(1, len(boxes) - 1)]


def _random_of(seed: int, sample: Sample, box: Box) -> random.Random:
    """Random numbers of a seed, a sample and a box. Python's hash() of a string differs between processes."""
    digest = hashlib.blake2b(repr((seed, sample.key, box.as_tuple())).encode()).digest()
    return random.Random(int.from_bytes(digest, "big"))


def _shown_as(
    sample: Sample, box: Box, source: HighResImage, region: Box, max_tokens: int, min_tokens: int
) -> Image.Image:
    """A region of an image at the size at which the box of the sample would be shown."""
    shown = sample.image.crop_size(box, max_tokens, min_tokens)
    crop = source.crop(region, max_tokens, min_tokens)
    return crop if crop.size == shown else crop.resize(shown, Image.Resampling.BICUBIC)


def _same_place(low: float, high: float, length: int, other_length: int) -> tuple[float, float]:
    side = min(high - low, float(other_length))
    start = (low + high) / 2 / length * other_length - side / 2
    start = min(max(start, 0.0), other_length - side)
    return start, start + side
