"""Needle scenes: large cluttered canvases with coloured signs that carry one small digit each.

A scene is the smallest picture in which the method can be seen at work: the signs' colours survive a strong
reduction of the canvas, the digits do not, so a policy that sees only the reduced view knows *where* to look and
not *what* is there.

Everything about scene ``index`` follows from ``(seed, index)``. The evidence is known exactly, as nested boxes: the
digit (B_1), its sign, the panel that carries the sign (LFPC section 4).
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from infogap.data.images import HighResImage
from infogap.data.sample import Sample
from infogap.geometry import Box, NestedBoxes, Size

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "yellow": (240, 205, 40),
    "green": (40, 165, 70),
    "cyan": (50, 205, 220),
    "blue": (40, 75, 215),
    "pink": (230, 80, 200),
}
DIGITS = "0123456789"


@dataclass
class NeedleConfig:
    """What the scenes look like. All lengths are pixels of the original.

    Args:
        sides: sides of the canvas; width and height are drawn from it independently. Up to 8192.
        signs: fewest and most signs on a canvas (six colours exist, a colour is used once).
        glyph_height: smallest and largest height of the font's digits.
        sign_scale: side of a sign over the font size, smallest and largest.
        panel_scale: side of the panel over the side of its sign, smallest and largest.
        clutter: number of grey shapes and grey digits per 100,000 pixels. Ours.
        question: ``attribute`` needs one sign, ``relation`` compares two and needs two crops.
        jpeg_quality: quality of the stored JPEG. Ours.

    Raises:
        ValueError: if a value is out of its range, or no canvas can hold a panel.
    """

    sides: tuple[int, ...] = (448,)
    signs: tuple[int, int] = (3, 5)
    glyph_height: tuple[int, int] = (30, 36)
    sign_scale: tuple[float, float] = (1.6, 1.9)
    panel_scale: tuple[float, float] = (1.3, 1.55)
    clutter: int = 12
    question: Literal["attribute", "relation"] = "attribute"
    jpeg_quality: int = 90

    def __post_init__(self) -> None:
        """Refuse a setting that no canvas can hold."""
        if not self.sides or min(self.sides) < 224 or max(self.sides) > 8192:
            raise ValueError(f"needle.sides is {self.sides}: give sides between 224 and 8192 pixels.")
        low, high = self.signs
        if not 2 <= low <= high <= len(COLOURS):
            raise ValueError(f"needle.signs is {self.signs}: give two numbers between 2 and {len(COLOURS)}.")
        if self.question not in ("attribute", "relation"):
            raise ValueError(f"needle.question is {self.question!r}: use 'attribute' or 'relation'.")
        for name, least in (("glyph_height", 8), ("sign_scale", 1.3), ("panel_scale", 1.0)):
            given = getattr(self, name)
            if not least <= given[0] <= given[1]:
                raise ValueError(f"needle.{name} is {given}: give two numbers, {least} <= first <= second.")
        panel = math.ceil(math.ceil(self.glyph_height[1] * self.sign_scale[1]) * self.panel_scale[1])
        if panel >= min(self.sides):
            raise ValueError(
                f"needle.sides is {self.sides} and a panel may have a side of {panel}: give larger canvases or a "
                "smaller glyph_height, sign_scale or panel_scale."
            )
        if self.clutter < 0 or not 1 <= self.jpeg_quality <= 100:
            raise ValueError(
                f"needle.clutter is {self.clutter} and needle.jpeg_quality {self.jpeg_quality}: give 0 or more, and 1 "
                "to 100."
            )


@dataclass(frozen=True)
class Sign:
    """One sign of a scene: its colour, its digit, and the boxes of digit, sign and panel in pixels of the canvas."""

    colour: str
    digit: str
    boxes: NestedBoxes


@dataclass(frozen=True)
class Scene:
    """A canvas and what stands on it."""

    image: Image.Image
    signs: tuple[Sign, ...]


def make_scene(config: NeedleConfig, rng: np.random.Generator) -> Scene:
    """Draw one scene.

    A canvas on which fewer signs than asked for have found a place is drawn anew.

    Args:
        config: what it looks like.
        rng: the only source of randomness.

    Raises:
        ValueError: if 20 canvases had no room.
    """
    for _ in range(20):
        scene = _draw_scene(config, rng)
        if len(scene.signs) >= config.signs[0]:
            return scene
    raise ValueError(
        f"needle.signs is {config.signs}, but a canvas of {config.sides} pixels a side has no room for "
        f"{config.signs[0]} panels: give larger sides or fewer signs."
    )


def _draw_scene(config: NeedleConfig, rng: np.random.Generator) -> Scene:
    """A scene with as many signs as find a place."""
    size = Size(int(rng.choice(config.sides)), int(rng.choice(config.sides)))
    image = _background(size, rng)
    draw = ImageDraw.Draw(image)
    for _ in range(config.clutter * size.width * size.height // 100_000):
        _draw_clutter(draw, size, rng)
    count = int(rng.integers(config.signs[0], config.signs[1] + 1))
    colours = [str(name) for name in rng.permutation(list(COLOURS))[:count]]
    signs: list[Sign] = []
    for colour in colours:
        panel = _free_panel(config, size, [sign.boxes[-1] for sign in signs], rng)
        if panel is not None:
            signs.append(_draw_sign(draw, colour, *panel, rng))
    return Scene(image, tuple(signs))


def make_sample(config: NeedleConfig, seed: int, index: int) -> Sample:
    """Scene ``index`` of the series ``seed`` with one question, as a sample whose image is a JPEG.

    Args:
        config: what a scene looks like.
        seed: the series.
        index: number of the scene in it.
    """
    rng = np.random.default_rng([seed, index])
    scene = make_scene(config, rng)
    question, answer, options, asked = _ask(config, scene, rng)
    buffer = io.BytesIO()
    scene.image.save(buffer, "JPEG", quality=config.jpeg_quality)
    key = f"needle-{config.question}-{seed}-{index:06d}"
    return Sample(
        key=key,
        image=HighResImage(buffer.getvalue(), name=key),
        question=question,
        answer=answer,
        options=options,
        evidence=tuple(sign.boxes for sign in asked),
        source=f"needle-{config.question}",
        metadata={
            "seed": seed,
            "index": index,
            "signs": [{"colour": s.colour, "digit": s.digit, "box": list(s.boxes[1].as_tuple())} for s in scene.signs],
            "asked": [s.colour for s in asked],
        },
    )


def make_samples(config: NeedleConfig, seed: int, count: int) -> Iterator[Sample]:
    """The first ``count`` samples of the series ``seed``.

    Args:
        config: what a scene looks like.
        seed: the series.
        count: how many.
    """
    return (make_sample(config, seed, index) for index in range(count))


def attribute_question(colour: str) -> str:
    """The question that needs one sign."""
    return f"What digit is on the {colour} sign?"


def relation_question(first: str, second: str) -> str:
    """The question that needs two signs; the answer is yes or no."""
    return f"Is the digit on the {first} sign larger than the digit on the {second} sign?"


def _ask(
    config: NeedleConfig, scene: Scene, rng: np.random.Generator
) -> tuple[str, str, tuple[str, ...], tuple[Sign, ...]]:
    """Question, answer, options and the signs that hold the evidence."""
    if config.question == "attribute":
        sign = scene.signs[int(rng.integers(len(scene.signs)))]
        return attribute_question(sign.colour), sign.digit, tuple(DIGITS), (sign,)
    first, second = (scene.signs[int(i)] for i in rng.permutation(len(scene.signs))[:2])
    answer = "yes" if int(first.digit) > int(second.digit) else "no"
    return relation_question(first.colour, second.colour), answer, ("yes", "no"), (first, second)


@functools.lru_cache(maxsize=64)
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's built-in font, so that scenes need no font file of the machine."""
    return ImageFont.load_default(height)


def _background(size: Size, rng: np.random.Generator) -> Image.Image:
    """Soft grey patches under a light that changes evenly over the canvas.

    The light is a cue to absolute position, as a horizon or a shadow is in a photograph: rotary positions are
    relative, and a small policy takes very long to learn where it looks from them alone. The patches are noise at
    1/56 of the size, enlarged, which costs nothing even at 8K.
    """
    rows, columns = max(2, size.height // 56), max(2, size.width // 56)
    x, y = np.meshgrid(np.linspace(-1, 1, columns), np.linspace(-1, 1, rows))
    light = np.stack([45 * x, -20 * x - 20 * y, 45 * y], axis=-1)
    patches = rng.uniform(-14, 14, (rows, columns, 1)) + rng.uniform(-6, 6, (rows, columns, 3))
    coarse = np.clip(140 + light + patches, 0, 255).astype(np.uint8)
    return Image.fromarray(coarse, "RGB").resize(size, Image.Resampling.BICUBIC)


def _draw_clutter(draw: ImageDraw.ImageDraw, size: Size, rng: np.random.Generator) -> None:
    """One grey rectangle, ellipse, line or digit."""
    x, y = int(rng.integers(size.width)), int(rng.integers(size.height))
    w, h = (int(v) for v in rng.integers(8, 60, 2))
    base = int(rng.integers(50, 230))
    colour = tuple(int(np.clip(base + v, 0, 255)) for v in rng.integers(-14, 15, 3))
    kind = int(rng.integers(4))
    if kind == 0:
        draw.rectangle((x, y, x + w, y + h), fill=colour)
    elif kind == 1:
        draw.ellipse((x, y, x + w, y + h), fill=colour)
    elif kind == 2:
        draw.line((x, y, x + w, y + h - 30), fill=colour, width=int(rng.integers(1, 4)))
    else:
        draw.text((x, y), DIGITS[int(rng.integers(10))], font=_font(24), fill=colour)


def _free_panel(
    config: NeedleConfig, size: Size, taken: list[Box], rng: np.random.Generator
) -> tuple[Box, Box, int] | None:
    """A panel that touches no other: its box, its sign's box and the font size; None if 100 tries find no place."""
    for _ in range(100):
        font_size = int(rng.integers(config.glyph_height[0], config.glyph_height[1] + 1))
        sign_side = round(font_size * rng.uniform(*config.sign_scale))
        panel_side = round(sign_side * rng.uniform(*config.panel_scale))
        x, y = int(rng.integers(size.width - panel_side)), int(rng.integers(size.height - panel_side))
        panel = Box(x, y, x + panel_side, y + panel_side)
        free = all(
            panel.x1 >= other.x2 + 8 or other.x1 >= panel.x2 + 8 or panel.y1 >= other.y2 + 8 or other.y1 >= panel.y2 + 8
            for other in taken
        )
        if free:
            dx, dy = (int(rng.integers(panel_side - sign_side + 1)) for _ in range(2))
            return panel, Box(x + dx, y + dy, x + dx + sign_side, y + dy + sign_side), font_size
    return None


def _draw_sign(
    draw: ImageDraw.ImageDraw, colour: str, panel: Box, sign: Box, font_size: int, rng: np.random.Generator
) -> Sign:
    """Paint a panel with its sign and digit."""
    grey = int(rng.integers(30, 110))
    draw.rectangle((panel.x1, panel.y1, panel.x2 - 1, panel.y2 - 1), fill=(grey, grey, grey))
    fill = tuple(int(np.clip(v + d, 0, 255)) for v, d in zip(COLOURS[colour], rng.integers(-12, 13, 3), strict=True))
    draw.rectangle((sign.x1, sign.y1, sign.x2 - 1, sign.y2 - 1), fill=fill)
    digit = DIGITS[int(rng.integers(10))]
    font = _font(font_size)
    left, top, right, bottom = draw.textbbox((0, 0), digit, font=font, stroke_width=1)
    # the digit stands anywhere on its sign that leaves a margin of 3 pixels
    x = sign.x1 + int(rng.integers(3, max(4, int(sign.width - (right - left)) - 3))) - left
    y = sign.y1 + int(rng.integers(3, max(4, int(sign.height - (bottom - top)) - 3))) - top
    ink = (15, 15, 15) if sum(fill) > 330 else (245, 245, 245)
    draw.text((x, y), digit, font=font, fill=ink, stroke_width=1, stroke_fill=ink)
    glyph = Box(x + left, y + top, x + right, y + bottom)
    return Sign(colour, digit, (glyph, sign, panel))
