"""A contact sheet: some samples at a glance, with their evidence drawn, for people to see whether boxes are right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from PIL import Image

from infogap.data.drawing import BLACK, GAP, GREY, Colour, beside, fit, outline, stack, text_block
from infogap.data.sample import Sample

CELLS: Final = 24
"""Samples of a sheet: as many as can be looked at without scrolling for long."""

COLUMNS: Final = 4
THUMBNAIL_SIDE: Final = 320
"""The most pixels of a side of a thumbnail."""

VIEW_TOKENS: Final = 256
"""Budget of the view that a thumbnail is made from: some 448 x 448 pixels, more than a thumbnail has."""

INNERMOST_WIDTH: Final = 3
OUTER_WIDTH: Final = 1
"""Pixels of the lines around the innermost box of a chain, and around the others."""

CHAIN_COLOURS: Final[tuple[Colour, ...]] = (
    (0, 215, 80),
    (225, 30, 30),
    (30, 100, 230),
    (255, 140, 0),
    (190, 40, 200),
)
"""Colours of the first chain of a sample, the second, ...; they repeat."""

MAX_CHARACTERS: Final = 120
"""The most characters of a text below a thumbnail."""


def draw_cell(sample: Sample) -> Image.Image:
    """A thumbnail with all boxes of a sample, in one colour for a chain, and what is asked below it.

    Returns:
        An RGB picture, `THUMBNAIL_SIDE` pixels wide.

    Raises:
        ImageError: if the image is corrupt.
    """
    size = sample.image.size
    thumbnail = sample.image.view(VIEW_TOKENS).resize(fit(size, THUMBNAIL_SIDE), Image.Resampling.BICUBIC)
    for number, chain in enumerate(sample.evidence):
        colour = CHAIN_COLOURS[number % len(CHAIN_COLOURS)]
        for box in chain:
            outline(thumbnail, size, box, colour, INNERMOST_WIDTH if box is chain[0] else OUTER_WIDTH)
    chains = f", {len(sample.evidence)} pieces of evidence" if len(sample.evidence) > 1 else ""
    return stack(
        [
            _widened(thumbnail),
            text_block(f"{_short(sample.key)}   {size.width} x {size.height}{chains}", THUMBNAIL_SIDE, GREY),
            text_block(_short(sample.question), THUMBNAIL_SIDE, BLACK),
            text_block(_short(_answer(sample)), THUMBNAIL_SIDE, BLACK),
        ],
        2,
    )


def make_sheet(cells: Sequence[Image.Image]) -> Image.Image:
    """Put cells into rows of `COLUMNS`.

    Args:
        cells: at least one, as `draw_cell` makes them.
    """
    rows = [beside(cells[start : start + COLUMNS]) for start in range(0, len(cells), COLUMNS)]
    body = stack(rows, GAP)
    sheet = Image.new("RGB", (body.width + 2 * GAP, body.height + 2 * GAP), "white")
    sheet.paste(body, (GAP, GAP))
    return sheet


def _answer(sample: Sample) -> str:
    """The answer, and the text of the option if it is a letter."""
    answer = sample.answer
    if answer in sample.options or answer not in sample.option_letters:
        return f"answer: {answer}"
    return f"answer: {answer}. {sample.options[sample.option_letters.index(answer)]}"


def _short(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_CHARACTERS else line[: MAX_CHARACTERS - 4] + " ..."


def _widened(image: Image.Image) -> Image.Image:
    """An image on white, `THUMBNAIL_SIDE` pixels wide."""
    wide = Image.new("RGB", (THUMBNAIL_SIDE, image.height), "white")
    wide.paste(image, (0, 0))
    return wide
