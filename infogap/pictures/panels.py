"""The images of an episode as the policy was shown them, made again from the original, and panels for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from PIL import Image, ImageDraw

from infogap.data.drawing import GREEN, LINE_HEIGHT, Colour, fit, font, outline
from infogap.data.images import HighResImage
from infogap.geometry import TOKEN_SIDE, Box, NestedBoxes, Size, visual_tokens
from infogap.pictures.record import TurnRecord

TURN_COLOURS: Final[tuple[Colour, ...]] = ((225, 30, 30), (255, 140, 0), (190, 40, 200), (30, 100, 230))
"""Colours of the crops of the first turn, the second, ...; they repeat."""

EVIDENCE_COLOUR: Final[Colour] = GREEN

UNRECORDED_TOKENS: Final = 64
"""Most visual tokens of a crop of which it is not known at which size it was shown: some 224 x 224 pixels."""


def turn_colour(index: int) -> Colour:
    """Colour of the turn with that number, from 0."""
    return TURN_COLOURS[index % len(TURN_COLOURS)]


def view_as_shown(image: HighResImage, size: Size) -> Image.Image:
    """The view as the policy was shown it, pixel for pixel.

    Its tokens, as the least and the most, lead to the same size as the budget did that it was made for: of all shapes
    with so many tokens the nearest to the image's is taken. A size that no budget leads to is reached by scaling.

    Args:
        image: the original.
        size: of the view, in pixels.

    Raises:
        ImageError: if the original is corrupt.
    """
    tokens = max(visual_tokens(size), 1)
    found = image.view(tokens, tokens)
    return found if found.size == size else found.resize(size, Image.Resampling.BICUBIC)


def crop_as_shown(image: HighResImage, box: Box, size: Size) -> Image.Image:
    """A crop as the policy was shown it, pixel for pixel; see `view_as_shown`.

    The original stays decoded until `image.release()`.

    Args:
        image: the original.
        box: the region, in pixels of the original.
        size: of the crop as it was shown, in pixels.

    Raises:
        ImageError: if the original is corrupt.
        ValueError: if nothing of the box lies inside the image.
    """
    tokens = max(visual_tokens(size), 1)
    found = image.crop(box, tokens, tokens)
    return found if found.size == size else found.resize(size, Image.Resampling.BICUBIC)


def whole_original(image: HighResImage, side: int) -> Image.Image:
    """The original scaled down so that no side is longer than `side`; it stays decoded until `image.release()`."""
    size = fit(image.size, side)
    tokens = max(-(-size.width // TOKEN_SIDE) * -(-size.height // TOKEN_SIDE), 1)
    found = image.crop(Box.whole(image.size), tokens, tokens)
    return found if found.size == size else found.resize(size, Image.Resampling.BICUBIC)


def enlarged(image: Image.Image, side: int) -> Image.Image:
    """A copy that fits into `side`: scaled down, or, if small, up by a whole factor that keeps its pixels visible."""
    factor = side // max(image.size)
    if factor > 1:
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    return image.resize(fit(Size(*image.size), side), Image.Resampling.BICUBIC)


def with_boxes(
    panel: Image.Image, size: Size, evidence: Iterable[NestedBoxes], turns: Iterable[TurnRecord]
) -> Image.Image:
    """Draw the evidence and the crops of some turns on the panel of a whole image.

    Args:
        panel: shows the whole image; drawn on and returned.
        size: of the original, in pixels.
        evidence: chains of boxes in pixels of the original.
        turns: every crop gets the colour and the number of its turn.
    """
    for chain in evidence:
        for box in chain:
            outline(panel, size, box, EVIDENCE_COLOUR, 1)
    for index, turn in enumerate(turns):
        if turn.crop is not None:
            left, top, _, bottom = outline(panel, size, turn.crop, turn_colour(index), 3)
            place = (left + 2, top - LINE_HEIGHT if top >= LINE_HEIGHT else bottom)
            draw = ImageDraw.Draw(panel)
            draw.text(place, str(index + 1), fill=turn_colour(index), font=font(), stroke_width=2, stroke_fill="white")
    return panel
