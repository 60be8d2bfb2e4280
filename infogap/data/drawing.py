"""Pieces that pictures for people are put together from: blocks of text, blocks side by side, boxes on an image."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

from PIL import Image, ImageDraw, ImageFont

from infogap.geometry import Box, Size

MAX_CHARACTERS = 900
"""The most characters of a text; of a longer one, the middle is left out."""

GAP = 16
FONT_HEIGHT = 14
LINE_HEIGHT = 19

Colour = tuple[int, int, int]

BLACK: Colour = (25, 25, 25)
GREY: Colour = (115, 115, 115)
GREEN: Colour = (0, 215, 80)
"""Colour of evidence."""


def outline(panel: Image.Image, size: Size, box: Box, colour: Colour, width: int) -> tuple[int, int, int, int]:
    """Draw around a box, so that what is in it, and a box of the same place drawn with another width, are both seen.

    Args:
        panel: shows the whole image; drawn on.
        size: of the image that the box belongs to, in pixels.
        box: in pixels of that image.
        colour: of the line.
        width: of the line, in pixels of the panel.

    Returns:
        Left, top, right and bottom pixel of the line in the panel.
    """
    across, down = panel.width / size.width, panel.height / size.height
    left, top = round(box.x1 * across) - width, round(box.y1 * down) - width
    right, bottom = round(box.x2 * across) + width - 1, round(box.y2 * down) + width - 1
    corners = max(left, 0), max(top, 0), min(right, panel.width - 1), min(bottom, panel.height - 1)
    ImageDraw.Draw(panel).rectangle(corners, outline=colour, width=width)
    return corners


def fit(size: Size, side: int) -> Size:
    """The size scaled down so that no side is longer than `side`."""
    scale = min(side / max(size), 1.0)
    return Size(max(round(size.width * scale), 1), max(round(size.height * scale), 1))


def stack(blocks: Sequence[Image.Image], gap: int) -> Image.Image:
    """Blocks from top to bottom, on white."""
    height = sum(block.height for block in blocks) + gap * (len(blocks) - 1)
    stacked = Image.new("RGB", (max(block.width for block in blocks), height), "white")
    top = 0
    for block in blocks:
        stacked.paste(block, (0, top))
        top += block.height + gap
    return stacked


def beside(blocks: Sequence[Image.Image]) -> Image.Image:
    """Blocks from left to right, on white."""
    width = sum(block.width for block in blocks) + GAP * (len(blocks) - 1)
    row = Image.new("RGB", (width, max(block.height for block in blocks)), "white")
    left = 0
    for block in blocks:
        row.paste(block, (left, 0))
        left += block.width + GAP
    return row


def text_block(text: str, width: int, colour: Colour) -> Image.Image:
    """A block of wrapped text, on white.

    Args:
        text: what to write; a long one loses its middle.
        width: of the block in pixels; lines are broken to fit.
        colour: of the letters.
    """
    lines = list(wrap(_shortened(text), width))
    block = Image.new("RGB", (width, LINE_HEIGHT * len(lines)), "white")
    draw = ImageDraw.Draw(block)
    for number, line in enumerate(lines):
        draw.text((0, number * LINE_HEIGHT), line, fill=colour, font=font())
    return block


def wrap(text: str, width: int) -> Iterator[str]:
    """Lines no wider than `width` pixels, broken at spaces where there are any."""
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            while font().getlength(longer) > width:
                fitting = line or _fitting_start(longer, width)
                yield fitting
                longer, line = (word, "") if line else (longer[len(fitting) :], "")
            line = longer
        yield line


@functools.cache
def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's built-in font, so that pictures need no font file of the machine."""
    return ImageFont.load_default(FONT_HEIGHT)


def _shortened(text: str) -> str:
    """Text without its middle if it is long, and without characters that cannot be drawn."""
    if len(text) > MAX_CHARACTERS:
        text = text[: MAX_CHARACTERS // 2] + " [...] " + text[-MAX_CHARACTERS // 2 :]
    return "".join(letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _fitting_start(word: str, width: int) -> str:
    """As many letters of a word as fit into `width` pixels; at least one."""
    end = 1
    while end < len(word) and font().getlength(word[: end + 1]) <= width:
        end += 1
    return word[:end]
