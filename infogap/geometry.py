"""Sizes, boxes and the frames boxes are written in.

Two images are in play: the *original*, at full resolution, and the *view*, a scaled copy that the policy is shown.
The policy points in the view, a crop is cut from the original, so every box belongs to a frame. A `Box` is always in
pixels of the original; a `FramedBox` is what a policy wrote and says which frame it means. Going from one to the other
scales each axis by itself: a view's sides are rounded to whole visual tokens, so its two scales differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

TOKEN_SIDE = 28
"""Side in pixels of the square that one visual token covers (Qwen2.5-VL: patches of 14, merged 2 by 2)."""

NESTED_TOLERANCE = 1.0
"""Pixels by which a box may stick out of the next one: annotations are rounded to whole pixels."""


class Size(NamedTuple):
    """Width and height of an image, in pixels."""

    width: int
    height: int


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the original image: left, top, right and bottom edge, the last two exclusive.

    Raises:
        ValueError: if a coordinate is not finite, or the box is empty.
    """

    x1: float
    y1: float
    x2: float
    y2: float

    def __post_init__(self) -> None:
        """Refuse boxes without an area."""
        _check_corners(self.as_tuple())

    @property
    def width(self) -> float:
        """Width in pixels of the original."""
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        """Height in pixels of the original."""
        return self.y2 - self.y1

    @property
    def area(self) -> float:
        """Area in square pixels of the original."""
        return self.width * self.height

    def as_tuple(self) -> tuple[float, float, float, float]:
        """Coordinates as (x1, y1, x2, y2)."""
        return self.x1, self.y1, self.x2, self.y2

    @classmethod
    def whole(cls, size: Size) -> Box:
        """Box around an image of that size."""
        return cls(0.0, 0.0, float(size.width), float(size.height))

    def clamp(self, size: Size) -> Box:
        """Part of the box that lies inside an image of that size.

        Raises:
            ValueError: if nothing of the box lies inside.
        """
        x1, x2 = max(self.x1, 0.0), min(self.x2, float(size.width))
        y1, y2 = max(self.y1, 0.0), min(self.y2, float(size.height))
        if x1 >= x2 or y1 >= y2:
            msg = f"The box {_written(self.as_tuple())} lies outside the image of {size.width}x{size.height} pixels."
            raise ValueError(msg)
        return Box(x1, y1, x2, y2)

    def expand_to(self, min_side: float, size: Size) -> Box:
        """Box with sides of at least `min_side` around the part of this one that lies inside the image.

        A side that is too short grows by the same amount at both ends, and is then shifted to stay inside the image; a
        side of the image that is shorter than `min_side` (pixels of the original) is taken whole.

        Raises:
            ValueError: if nothing of the box lies inside the image.
        """
        inside = self.clamp(size)
        x1, x2 = _expand_span(inside.x1, inside.x2, min_side, size.width)
        y1, y2 = _expand_span(inside.y1, inside.y2, min_side, size.height)
        return Box(x1, y1, x2, y2)

    def contains(self, other: Box, tolerance: float = 0.0) -> bool:
        """Whether no edge of `other` sticks out of this box by more than `tolerance` pixels."""
        return (
            other.x1 >= self.x1 - tolerance
            and other.y1 >= self.y1 - tolerance
            and other.x2 <= self.x2 + tolerance
            and other.y2 <= self.y2 + tolerance
        )


NestedBoxes = tuple[Box, ...]
"""Boxes around one piece of evidence, each inside the next, the innermost (B_1 in LFPC section 4) first."""


def intersection_area(a: Box, b: Box) -> float:
    """Area that two boxes share, in square pixels of the original."""
    width = min(a.x2, b.x2) - max(a.x1, b.x1)
    height = min(a.y2, b.y2) - max(a.y1, b.y1)
    return max(width, 0.0) * max(height, 0.0)


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, in [0, 1]."""
    shared = intersection_area(a, b)
    return min(shared / (a.area + b.area - shared), 1.0)  # rounding may pass 1 by a last digit


def coverage(of: Box, by: Box) -> float:
    """Share of the box `of` that the box `by` covers, in [0, 1]: the overlap of LFPC section 4."""
    return intersection_area(of, by) / of.area


def corner_l1(a: Box, b: Box, size: Size) -> float:
    """Mean |difference| of the four corner coordinates, as shares of the original's sides: d_L1 of LFPC section 4.

    Args:
        a: a box in pixels of the original.
        b: another one.
        size: size of the original.
    """
    horizontal = abs(a.x1 - b.x1) + abs(a.x2 - b.x2)
    vertical = abs(a.y1 - b.y1) + abs(a.y2 - b.y2)
    return (horizontal / size.width + vertical / size.height) / 4.0


def check_nested(boxes: Sequence[Box]) -> None:
    """Raise ValueError, naming the first pair at fault, unless each box is inside the next within one pixel."""
    for index, (inner, outer) in enumerate(pairwise(boxes)):
        if not outer.contains(inner, NESTED_TOLERANCE):
            msg = (
                f"Box {index} {_written(inner.as_tuple())} is not inside box {index + 1} {_written(outer.as_tuple())}: "
                "give nested boxes, the innermost first."
            )
            raise ValueError(msg)


class Frame(StrEnum):
    """What the numbers of a policy's box mean.

    ``VIEW_PIXELS`` are pixels of the shown view, ``RELATIVE`` runs from 0 to 1 over each side of the image,
    ``RELATIVE_1000`` from 0 to 1000.
    """

    VIEW_PIXELS = "view_pixels"
    RELATIVE = "relative"
    RELATIVE_1000 = "relative_1000"

    def extent(self, view: Size) -> tuple[float, float]:
        """Coordinates of the image's lower right corner in this frame."""
        if self is Frame.VIEW_PIXELS:
            return float(view.width), float(view.height)
        return (1.0, 1.0) if self is Frame.RELATIVE else (1000.0, 1000.0)


@dataclass(frozen=True)
class FramedBox:
    """A box as a policy wrote it: the corners may be out of range, out of order or not finite.

    Attributes:
        x1, y1, x2, y2: left, top, right and bottom edge, in `frame`.
        frame: what the numbers mean.
    """

    x1: float
    y1: float
    x2: float
    y2: float
    frame: Frame

    def to_original(self, view: Size, original: Size) -> Box:
        """Box in pixels of an original of size `original`, not clamped, when a view of size `view` was shown.

        Raises:
            ValueError: if a coordinate is not finite, or the box is empty.
        """
        # checked before scaling, so that the message shows the numbers that the policy wrote
        _check_corners((self.x1, self.y1, self.x2, self.y2))
        wide, high = self.frame.extent(view)
        x1, x2 = (x / wide * original.width for x in (self.x1, self.x2))
        y1, y2 = (y / high * original.height for y in (self.y1, self.y2))
        return Box(x1, y1, x2, y2)

    @classmethod
    def from_original(cls, box: Box, frame: Frame, view: Size, original: Size) -> FramedBox:
        """How a policy that is shown `view` would write a box of the original in `frame`: back, see `to_original`."""
        wide, high = frame.extent(view)
        x1, x2 = (x / original.width * wide for x in (box.x1, box.x2))
        y1, y2 = (y / original.height * high for y in (box.y1, box.y2))
        return cls(x1, y1, x2, y2, frame)


def visual_tokens(size: Size) -> int:
    """Visual tokens of an image whose sides are multiples of `TOKEN_SIDE`."""
    return (size.width // TOKEN_SIDE) * (size.height // TOKEN_SIDE)


def fit_to_budget(size: Size, max_tokens: int, min_tokens: int = 4) -> Size:
    """Size to which an image is scaled so that it costs between `min_tokens` and `max_tokens` visual tokens.

    This is the resize rule of Qwen2.5-VL (round the sides to whole tokens; if that is too much, scale by the area and
    round down; if too little, scale and round up), in whole numbers and without its two holes: its result leaves the
    bounds for long thin images, and where the bounds are close together. There the nearest aspect ratio within the
    bounds is taken.

    Args:
        size: size of the image, in pixels.
        max_tokens: the most tokens allowed; it wins over a larger `min_tokens`.
        min_tokens: the fewest tokens allowed. Default: 4, the model family's own minimum (56x56 pixels).

    Returns:
        A size with sides that are positive multiples of `TOKEN_SIDE`.

    Raises:
        ValueError: if a side or a bound is below 1.
    """
    if min(size.width, size.height, max_tokens, min_tokens) < 1:
        msg = (
            f"An image of {size.width}x{size.height} pixels cannot be fitted to {min_tokens} to {max_tokens} visual "
            "tokens: sides and bounds must be at least 1."
        )
        raise ValueError(msg)
    fewest = min(min_tokens, max_tokens)
    short, long = sorted(size)
    units = (max(1, round(short / TOKEN_SIDE)), max(1, round(long / TOKEN_SIDE)))
    if units[0] * units[1] > max_tokens:
        # side / scale / TOKEN_SIDE, with scale = sqrt(area / budget), is sqrt(side * max_tokens / other side)
        units = (math.isqrt(short * max_tokens // long), math.isqrt(long * max_tokens // short))
    elif units[0] * units[1] < fewest:
        units = (_ceil_sqrt(short * fewest, long), _ceil_sqrt(long * fewest, short))
    if not fewest <= units[0] * units[1] <= max_tokens:
        units = _nearest_aspect(long / short, fewest, max_tokens)
    wide, high = units if size.width <= size.height else units[::-1]
    return Size(wide * TOKEN_SIDE, high * TOKEN_SIDE)


def _nearest_aspect(aspect: float, fewest: int, most: int) -> tuple[int, int]:
    """Short and long side in tokens, of the aspect ratio long / short nearest to `aspect` within the bounds."""
    candidates = []
    for short in range(1, math.isqrt(most) + 1):
        longest = most // short
        shortest = max(short, -(-fewest // short))
        if shortest <= longest:
            candidates.append((short, min(max(round(short * aspect), shortest), longest)))
    return min(candidates, key=lambda sides: abs(math.log(sides[1] / sides[0] / aspect)))


def _ceil_sqrt(numerator: int, denominator: int) -> int:
    """The smallest whole number not below sqrt(numerator / denominator), for positive arguments."""
    return math.isqrt(-(-numerator // denominator) - 1) + 1


def _expand_span(low: float, high: float, min_side: float, limit: int) -> tuple[float, float]:
    """One axis of `Box.expand_to`; the span lies in [0, limit]."""
    if high - low >= min_side:
        return low, high
    if min_side >= limit:
        return 0.0, float(limit)
    start = min(max((low + high - min_side) / 2.0, 0.0), limit - min_side)
    return min(start, low), max(start + min_side, high)  # rounding may cut a last digit off the old span


def _check_corners(corners: tuple[float, float, float, float]) -> None:
    """Raise ValueError for corners that make no box."""
    x1, y1, x2, y2 = corners
    if not all(map(_is_finite, corners)):
        msg = f"The box {_written(corners)} has a coordinate that is not finite: give four finite numbers."
        raise ValueError(msg)
    if x1 >= x2 or y1 >= y2 or (x2 - x1) * (y2 - y1) == 0.0:  # the product of two tiny sides can round to 0
        msg = f"The box {_written(corners)} is empty: give x1 < x2 and y1 < y2."
        raise ValueError(msg)


def _is_finite(value: float) -> bool:
    """Whether areas can be computed from a coordinate; math.isfinite fails on the huge integers a policy can write."""
    return abs(value) < 1e100


def _written(corners: tuple[float, float, float, float]) -> str:
    """Coordinates for a message."""
    return "(" + ", ".join(f"{value:.8g}" if _is_finite(value) else "not finite" for value in corners) + ")"
