"""An episode as one picture: the image with boxes, what the policy was shown, what it wrote, what it earned."""

from __future__ import annotations

from string import ascii_uppercase

from PIL import Image, ImageDraw

from infogap.data.drawing import BLACK, GAP, GREY, Colour, beside, stack, text_block
from infogap.data.images import HighResImage
from infogap.geometry import visual_tokens
from infogap.pictures.panels import (
    UNRECORDED_TOKENS,
    crop_as_shown,
    enlarged,
    turn_colour,
    view_as_shown,
    whole_original,
    with_boxes,
)
from infogap.pictures.record import EpisodeRecord, TurnRecord

PANEL_SIDE = 512
"""The most pixels of a side of the original's panel and of the view's."""

CROP_SIDE = 256
"""The most pixels of a side of a crop's panel."""

WIDTH = 2 * PANEL_SIDE + 16
TEXT_WIDTH = WIDTH - CROP_SIDE - 16

RED: Colour = (200, 30, 30)
BROWN: Colour = (138, 90, 0)
"""Colour of what came back, as in the viewer; it stands further to the right than what the policy wrote."""

INDENT = 24


def draw_episode(record: EpisodeRecord, image: HighResImage) -> Image.Image:
    """Draw one episode.

    On top stand the question, the answers, the rewards and the advantage; then the original and the view, with the
    evidence in green and every crop in the colour of its turn; then the turns, each with the crop as the policy was
    shown it, what the policy wrote, and, indented and brown, what came back.

    The original is decoded once, and stays decoded for the other episodes of the group: call `image.release()` after
    the last.

    Args:
        record: the episode.
        image: the original of its sample.

    Returns:
        An RGB picture, `WIDTH` pixels and a margin wide and as high as needed.

    Raises:
        ImageError: if the original is corrupt.
    """
    blocks = [_header(record), _overview(record, image)]
    blocks += [_turn(record, image, index, turn) for index, turn in enumerate(record.turns)]
    body = stack(blocks, GAP)
    picture = Image.new("RGB", (WIDTH + 2 * GAP, body.height + 2 * GAP), "white")
    picture.paste(body, (GAP, GAP))
    return picture


def _header(record: EpisodeRecord) -> Image.Image:
    options = [f"{letter}. {text}" for letter, text in zip(ascii_uppercase, record.options, strict=False)]
    answer = "no answer" if record.answer is None else f"answered {record.answer!r}"
    expected = "" if record.expected_answer is None else f", expected {record.expected_answer!r}"
    ending = "still running" if record.stop_reason is None else f"ended: {record.stop_reason.value}"
    lines = [
        text_block("   ".join([record.question, *options]), WIDTH, BLACK),
        text_block(f"{answer}{expected}   ({ending})", WIDTH, BLACK),
    ]
    if record.total is not None:
        rewards = "   ".join(f"{name} {_number(value)}" for name, value in record.rewards.items())
        lines.append(text_block(f"total {record.total:.3g}   =   weighted sum of   {rewards}", WIDTH, BLACK))
    if record.advantage is not None:
        lines.append(text_block(f"advantage {record.advantage:.3g}", WIDTH, BLACK))
    return stack([*lines, text_block(f"sample {record.sample}", WIDTH, GREY)], 2)


def _overview(record: EpisodeRecord, image: HighResImage) -> Image.Image:
    """The original and the view, side by side, with boxes."""
    size, view = image.size, record.view_size
    original = with_boxes(whole_original(image, PANEL_SIDE), size, record.evidence, record.turns)
    marked = "; evidence in green" if record.evidence else ""
    panels = [_captioned(original, f"original, {size.width} x {size.height} pixels{marked}")]
    if view is None:
        panels.append(text_block("the policy was shown no view", PANEL_SIDE, GREY))
    else:
        shown = with_boxes(enlarged(view_as_shown(image, view), PANEL_SIDE), size, record.evidence, record.turns)
        panels.append(_captioned(shown, f"view, {view.width} x {view.height} pixels, {visual_tokens(view)} tokens"))
    return beside(panels)


def _turn(record: EpisodeRecord, image: HighResImage, index: int, turn: TurnRecord) -> Image.Image:
    """What the policy wrote in a turn and what came back, and to the left of it the crop that it was shown, if any."""
    colour = turn_colour(index)
    texts = [text_block(f"turn {index + 1}", TEXT_WIDTH, colour), text_block(turn.text, TEXT_WIDTH, BLACK)]
    if turn.error is not None:
        texts.append(text_block(f"error: {turn.error}", TEXT_WIDTH, RED))
    if turn.came_back is not None:
        came_back = text_block(f"came back: {turn.came_back}", TEXT_WIDTH - INDENT, BROWN)
        texts.append(Image.new("RGB", (TEXT_WIDTH, came_back.height), "white"))
        texts[-1].paste(came_back, (INDENT, 0))
    left = Image.new("RGB", (CROP_SIDE, 1), "white")
    if turn.crop is not None:
        corners = ", ".join(f"{edge:.0f}" for edge in turn.crop.as_tuple())
        texts.append(text_block(f"crop ({corners}) of the original", TEXT_WIDTH, GREY))
        left = _crop(record, image, turn, colour)
    return beside([left, stack(texts, 2)])


def _crop(record: EpisodeRecord, image: HighResImage, turn: TurnRecord, colour: Colour) -> Image.Image:
    """The crop of a turn."""
    assert turn.crop is not None
    if turn.shown is not None:
        caption = f"{turn.shown.width} x {turn.shown.height} pixels, {visual_tokens(turn.shown)} tokens"
        shown = crop_as_shown(image, turn.crop, turn.shown)
    elif record.says_what_was_shown:
        return text_block("crop was not shown: no tokens left", CROP_SIDE, GREY)
    else:
        caption = "the size at which it was shown is not recorded"
        shown = image.crop(turn.crop, UNRECORDED_TOKENS)
    crop = enlarged(shown, CROP_SIDE)
    ImageDraw.Draw(crop).rectangle((0, 0, crop.width - 1, crop.height - 1), outline=colour, width=2)
    return stack([_captioned(crop, caption), Image.new("RGB", (CROP_SIDE, 1), "white")], 0)


def _captioned(panel: Image.Image, caption: str) -> Image.Image:
    return stack([panel, text_block(caption, max(panel.width, CROP_SIDE), GREY)], 4)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"
