"""An episode as one picture: the image with boxes, what the policy was shown, what it wrote, what it earned."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

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
MAX_CHARACTERS = 900
"""The most characters of a text; of a longer one, the middle is left out."""

GAP = 16
FONT_HEIGHT = 14
LINE_HEIGHT = 19

BLACK, GREY, GREEN, RED = (25, 25, 25), (115, 115, 115), (0, 215, 80), (200, 30, 30)
TURN_COLOURS = ((225, 30, 30), (255, 140, 0), (190, 40, 200), (30, 100, 230))
"""Colours of the crops of the first turn, the second, ...; they repeat."""

Colour = tuple[int, int, int]


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
    body = _stack(blocks, GAP)
    picture = Image.new("RGB", (WIDTH + 2 * GAP, body.height + 2 * GAP), "white")
    picture.paste(body, (GAP, GAP))
    return picture


def _header(sample: Sample, episode: Episode, scores: Mapping[str, float], total: float) -> Image.Image:
    options = [f"{letter}. {text}" for letter, text in zip(sample.option_letters, sample.options, strict=True)]
    answer = "no answer" if episode.answer is None else f"answered {episode.answer!r}"
    ending = "still running" if episode.stop_reason is None else f"ended: {episode.stop_reason.value}"
    rewards = "   ".join(f"{name} {value:.3g}" for name, value in scores.items())
    return _stack(
        [
            _text("   ".join([sample.question, *options]), WIDTH, BLACK),
            _text(f"{answer}, expected {sample.answer!r}   ({ending})", WIDTH, BLACK),
            _text(f"total {total:.3g}   =   weighted sum of   {rewards}", WIDTH, BLACK),
            _text(f"sample {sample.key}", WIDTH, GREY),
        ],
        2,
    )


def _overview(rollout: GroupRollout, episode: Episode) -> Image.Image:
    """The original and the view, side by side, with boxes."""
    image = rollout.sample.image
    original = _cut(rollout.sample, Box.whole(image.size), _fit(image.size, PANEL_SIDE))
    marked = _with_boxes(original, rollout.sample, episode)
    panels = [_captioned(marked, f"original, {image.size.width} x {image.size.height} pixels; evidence in green")]
    if rollout.group.prompt.images:
        shown = _enlarged(_view(rollout), PANEL_SIDE)
        caption = f"view, {rollout.view.width} x {rollout.view.height} pixels, {visual_tokens(rollout.view)} tokens"
        panels.append(_captioned(_with_boxes(shown, rollout.sample, episode), caption))
    else:
        panels.append(_text("the policy was shown no view", PANEL_SIDE, GREY))
    return _beside(panels)


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
    texts = [_text(f"turn {index + 1}", TEXT_WIDTH, colour), _text(turn.text, TEXT_WIDTH, BLACK)]
    if turn.error is not None:
        texts.append(_text(f"error: {turn.error}", TEXT_WIDTH, RED))
    left = Image.new("RGB", (CROP_SIDE, 1), "white")
    if turn.crop is not None:
        corners = ", ".join(f"{edge:.0f}" for edge in turn.crop.as_tuple())
        texts.append(_text(f"crop ({corners}) of the original", TEXT_WIDTH, GREY))
        left = _text("crop was not shown: no tokens left", CROP_SIDE, GREY)
    if turn.crop is not None and visual_tokens(shown) > 0:
        crop = _enlarged(_cut(sample, turn.crop, shown), CROP_SIDE)
        ImageDraw.Draw(crop).rectangle((0, 0, crop.width - 1, crop.height - 1), outline=colour, width=2)
        left = _captioned(crop, f"{shown.width} x {shown.height} pixels, {visual_tokens(shown)} tokens")
        left = _padded(left, CROP_SIDE)
    return _beside([left, _stack(texts, 2)])


def _with_boxes(panel: Image.Image, sample: Sample, episode: Episode) -> Image.Image:
    """The panel of a whole image with the evidence and the crops on it."""
    across, down = panel.width / sample.image.size.width, panel.height / sample.image.size.height
    draw = ImageDraw.Draw(panel)

    def outline(box: Box, colour: Colour, width: int) -> tuple[int, int, int, int]:
        """Draw around a box, so that two equal boxes are both seen."""
        left, top = round(box.x1 * across) - width, round(box.y1 * down) - width
        right, bottom = round(box.x2 * across) + width - 1, round(box.y2 * down) + width - 1
        corners = max(left, 0), max(top, 0), min(right, panel.width - 1), min(bottom, panel.height - 1)
        draw.rectangle(corners, outline=colour, width=width)
        return corners

    for chain in sample.evidence:
        for box in chain:
            outline(box, GREEN, 1)
    for index, turn in enumerate(episode.turns):
        if turn.crop is not None:
            colour = TURN_COLOURS[index % len(TURN_COLOURS)]
            left, top, _, bottom = outline(turn.crop, colour, 3)
            place = (left + 2, top - LINE_HEIGHT if top >= LINE_HEIGHT else bottom)
            draw.text(place, str(index + 1), fill=colour, font=_font(), stroke_width=2, stroke_fill="white")
    return panel


def _fit(size: Size, side: int) -> Size:
    """The size scaled down so that no side is longer than `side`."""
    scale = min(side / max(size), 1.0)
    return Size(max(round(size.width * scale), 1), max(round(size.height * scale), 1))


def _enlarged(image: Image.Image, side: int) -> Image.Image:
    """A copy that fits into `side`: scaled down, or, if small, up by a whole factor that keeps its pixels visible."""
    factor = side // max(image.size)
    if factor > 1:
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    return image.resize(_fit(Size(*image.size), side), Image.Resampling.BICUBIC)


def _captioned(panel: Image.Image, caption: str) -> Image.Image:
    return _stack([panel, _text(caption, max(panel.width, CROP_SIDE), GREY)], 4)


def _padded(panel: Image.Image, width: int) -> Image.Image:
    return _stack([panel, Image.new("RGB", (width, 1), "white")], 0)


def _stack(blocks: Sequence[Image.Image], gap: int) -> Image.Image:
    """Blocks from top to bottom, on white."""
    height = sum(block.height for block in blocks) + gap * (len(blocks) - 1)
    stacked = Image.new("RGB", (max(block.width for block in blocks), height), "white")
    top = 0
    for block in blocks:
        stacked.paste(block, (0, top))
        top += block.height + gap
    return stacked


def _beside(blocks: Sequence[Image.Image]) -> Image.Image:
    """Blocks from left to right, on white."""
    width = sum(block.width for block in blocks) + GAP * (len(blocks) - 1)
    beside = Image.new("RGB", (width, max(block.height for block in blocks)), "white")
    left = 0
    for block in blocks:
        beside.paste(block, (left, 0))
        left += block.width + GAP
    return beside


def _text(text: str, width: int, colour: Colour) -> Image.Image:
    """A block of wrapped text."""
    lines = list(_wrap(_shortened(text), width))
    block = Image.new("RGB", (width, LINE_HEIGHT * len(lines)), "white")
    draw = ImageDraw.Draw(block)
    for number, line in enumerate(lines):
        draw.text((0, number * LINE_HEIGHT), line, fill=colour, font=_font())
    return block


def _shortened(text: str) -> str:
    """Text without its middle if it is long, and without characters that cannot be drawn."""
    if len(text) > MAX_CHARACTERS:
        text = text[: MAX_CHARACTERS // 2] + " [...] " + text[-MAX_CHARACTERS // 2 :]
    return "".join(letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _wrap(text: str, width: int) -> Iterator[str]:
    """Lines no wider than `width` pixels, broken at spaces where there are any."""
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            while _font().getlength(longer) > width:
                fitting = line or _fitting_start(longer, width)
                yield fitting
                longer, line = (word, "") if line else (longer[len(fitting) :], "")
            line = longer
        yield line


def _fitting_start(word: str, width: int) -> str:
    """As many letters of a word as fit into `width` pixels; at least one."""
    end = 1
    while end < len(word) and _font().getlength(word[: end + 1]) <= width:
        end += 1
    return word[:end]


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(FONT_HEIGHT)
