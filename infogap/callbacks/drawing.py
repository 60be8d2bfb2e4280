"""An episode as one picture: the image with boxes, what the policy was shown, what it wrote, what it earned."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image, ImageDraw

from infogap.data.drawing import (
    BLACK,
    GAP,
    GREEN,
    GREY,
    LINE_HEIGHT,
    Colour,
    beside,
    fit,
    font,
    outline,
    stack,
    text_block,
)
from infogap.data.sample import Sample
from infogap.geometry import TOKEN_SIDE, Box, Size, visual_tokens
from infogap.policy.patches import PATCH
from infogap.rollout import GroupRollout
from infogap.types import Episode, Turn

PANEL_SIDE = 512
"""The most pixels of a side of the original's panel and of the view's."""

CROP_SIDE = 256
"""The most pixels of a side of a crop's panel."""

WIDTH = 2 * PANEL_SIDE + 16
TEXT_WIDTH = WIDTH - CROP_SIDE - 16

RED: Colour = (200, 30, 30)
TURN_COLOURS: tuple[Colour, ...] = ((225, 30, 30), (255, 140, 0), (190, 40, 200), (30, 100, 230))
"""Colours of the crops of the first turn, the second, ...; they repeat."""


def draw_episode(rollout: GroupRollout, number: int, scores: Mapping[str, float], total: float) -> Image.Image:
    """Draw one episode of a group.

    On top stand the question, the answers and the rewards; then the original and the view, with the evidence in green
    and every crop in the colour of its turn; then the turns, each with the crop as the policy was shown it.

    The original is decoded once, and stays decoded for the other episodes of the group: call
    `rollout.sample.image.release()` after the last.

    Args:
        rollout: the group.
        number: which of its episodes.
        scores: the unweighted rewards by name.
        total: their weighted sum.

    Returns:
        An RGB picture, `WIDTH` pixels wide and as high as needed.

    Raises:
        ImageError: if the original is corrupt.
    """
    sample, episode = rollout.sample, rollout.episodes[number]
    blocks = [_header(sample, episode, scores, total), _overview(rollout, episode)]
    shown = (image.grid for chunk in rollout.group.episodes[number] for image in chunk.images)
    for index, turn in enumerate(episode.turns):
        # a crop is not shown if it left no tokens to go on
        rows, columns = next(shown, (0, 0)) if turn.crop is not None else (0, 0)
        blocks.append(_turn(sample, index, turn, Size(columns * PATCH, rows * PATCH)))
    body = stack(blocks, GAP)
    picture = Image.new("RGB", (WIDTH + 2 * GAP, body.height + 2 * GAP), "white")
    picture.paste(body, (GAP, GAP))
    return picture


def _header(sample: Sample, episode: Episode, scores: Mapping[str, float], total: float) -> Image.Image:
    options = [f"{letter}. {text}" for letter, text in zip(sample.option_letters, sample.options, strict=True)]
    answer = "no answer" if episode.answer is None else f"answered {episode.answer!r}"
    ending = "still running" if episode.stop_reason is None else f"ended: {episode.stop_reason.value}"
    rewards = "   ".join(f"{name} {value:.3g}" for name, value in scores.items())
    return stack(
        [
            text_block("   ".join([sample.question, *options]), WIDTH, BLACK),
            text_block(f"{answer}, expected {sample.answer!r}   ({ending})", WIDTH, BLACK),
            text_block(f"total {total:.3g}   =   weighted sum of   {rewards}", WIDTH, BLACK),
            text_block(f"sample {sample.key}", WIDTH, GREY),
        ],
        2,
    )


def _overview(rollout: GroupRollout, episode: Episode) -> Image.Image:
    """The original and the view, side by side, with boxes."""
    image = rollout.sample.image
    original = _cut(rollout.sample, Box.whole(image.size), fit(image.size, PANEL_SIDE))
    marked = _with_boxes(original, rollout.sample, episode)
    panels = [_captioned(marked, f"original, {image.size.width} x {image.size.height} pixels; evidence in green")]
    if rollout.group.prompt.images:
        shown = _enlarged(_view(rollout), PANEL_SIDE)
        caption = f"view, {rollout.view.width} x {rollout.view.height} pixels, {visual_tokens(rollout.view)} tokens"
        panels.append(_captioned(_with_boxes(shown, rollout.sample, episode), caption))
    else:
        panels.append(text_block("the policy was shown no view", PANEL_SIDE, GREY))
    return beside(panels)


def _view(rollout: GroupRollout) -> Image.Image:
    """The view as the policy saw it."""
    tokens = visual_tokens(rollout.view)
    view = rollout.sample.image.view(tokens, tokens)
    return view if view.size == rollout.view else view.resize(rollout.view, Image.Resampling.BICUBIC)


def _cut(sample: Sample, box: Box, size: Size) -> Image.Image:
    """A region of the original at exactly that size."""
    tokens = max(-(-size.width // TOKEN_SIDE) * -(-size.height // TOKEN_SIDE), 1)
    crop = sample.image.crop(box, tokens, tokens)
    return crop if crop.size == size else crop.resize(size, Image.Resampling.BICUBIC)


def _turn(sample: Sample, index: int, turn: Turn, shown: Size) -> Image.Image:
    """What the policy wrote in a turn, and to the left of it the crop that it was shown, at size `shown`, if any."""
    colour = TURN_COLOURS[index % len(TURN_COLOURS)]
    texts = [text_block(f"turn {index + 1}", TEXT_WIDTH, colour), text_block(turn.text, TEXT_WIDTH, BLACK)]
    if turn.error is not None:
        texts.append(text_block(f"error: {turn.error}", TEXT_WIDTH, RED))
    left = Image.new("RGB", (CROP_SIDE, 1), "white")
    if turn.crop is not None:
        corners = ", ".join(f"{edge:.0f}" for edge in turn.crop.as_tuple())
        texts.append(text_block(f"crop ({corners}) of the original", TEXT_WIDTH, GREY))
        left = text_block("crop was not shown: no tokens left", CROP_SIDE, GREY)
    if turn.crop is not None and visual_tokens(shown) > 0:
        crop = _enlarged(_cut(sample, turn.crop, shown), CROP_SIDE)
        ImageDraw.Draw(crop).rectangle((0, 0, crop.width - 1, crop.height - 1), outline=colour, width=2)
        left = _captioned(crop, f"{shown.width} x {shown.height} pixels, {visual_tokens(shown)} tokens")
        left = _padded(left, CROP_SIDE)
    return beside([left, stack(texts, 2)])


def _with_boxes(panel: Image.Image, sample: Sample, episode: Episode) -> Image.Image:
    """The panel of a whole image with the evidence and the crops on it."""
    size = sample.image.size
    for chain in sample.evidence:
        for box in chain:
            outline(panel, size, box, GREEN, 1)
    for index, turn in enumerate(episode.turns):
        if turn.crop is not None:
            colour = TURN_COLOURS[index % len(TURN_COLOURS)]
            left, top, _, bottom = outline(panel, size, turn.crop, colour, 3)
            place = (left + 2, top - LINE_HEIGHT if top >= LINE_HEIGHT else bottom)
            draw = ImageDraw.Draw(panel)
            draw.text(place, str(index + 1), fill=colour, font=font(), stroke_width=2, stroke_fill="white")
    return panel


def _enlarged(image: Image.Image, side: int) -> Image.Image:
    """A copy that fits into `side`: scaled down, or, if small, up by a whole factor that keeps its pixels visible."""
    factor = side // max(image.size)
    if factor > 1:
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    return image.resize(fit(Size(*image.size), side), Image.Resampling.BICUBIC)


def _captioned(panel: Image.Image, caption: str) -> Image.Image:
    return stack([panel, text_block(caption, max(panel.width, CROP_SIDE), GREY)], 4)


def _padded(panel: Image.Image, width: int) -> Image.Image:
    return stack([panel, Image.new("RGB", (width, 1), "white")], 0)
