"""Lessons for the small policy: plain supervised episodes over needle scenes, from a bank rendered beforehand.

* ``read``: answer directly from a window that shows the asked sign and perhaps others, up to the whole canvas.
* ``look``: with the tool, at a small view, call with a loose box on the asked sign, or answer, about half and half.
* ``zoom``: at a view that can be read, call, see a crop that tells nothing (noise, grey, or a region without the asked
  sign) and answer, which can only come from the view. So the policy can call, and has no reason to rely on crops.
"""

from __future__ import annotations

import io
import multiprocessing
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from infogap.data.needle import COLOURS, NeedleConfig, Sign, attribute_question, make_scene
from infogap.episode.protocol import Protocol
from infogap.geometry import Box, Frame, FramedBox, Size, fit_to_budget

NAMES = list(COLOURS)
CANVAS = 448
WHOLE = Box(0, 0, CANVAS, CANVAS)
CROP_TOKENS = 16
MAX_READABLE_CELL = 60
"""Pixels of the canvas a cell may cover for its digit to be taught: twice the native 28."""
MAX_CANVASES = 1500
"""Scenes whose whole canvas is shown to the language model: their 256 tokens take most of the time to encode."""
VIEW_SIDES = (112, 140, 224, 308)
"""Sides of a canvas at the ladder's levels: 16, 32, 64 and 128 visual tokens."""
STEP = 20
"""Boxes are taught in steps of 20 of 1000, each of which is one token of the vocabulary."""


Kind = tuple[str, tuple[int, int]]
"""A kind of image, "canvas", "view", "window" or "blank" (noise and flat grey), and its size in pixels."""


@dataclass
class Window:
    """A resized region of a scene: pixels ``[height, width, 3]`` uint8, its place, and its signs (colour, digit)."""

    pixels: np.ndarray
    region: Box
    scene: int
    shown: dict[int, int]
    touched: set[int]


@dataclass
class Bank:
    """Rendered scenes: whole canvases, small views, and crop-sized windows by shape."""

    canvases: list[np.ndarray] = field(default_factory=list)
    views: dict[int, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    signs: list[tuple[Sign, ...]] = field(default_factory=list)
    windows: dict[tuple[int, int], list[Window]] = field(default_factory=lambda: defaultdict(list))

    def pixels(self, kind: Kind) -> list[np.ndarray]:
        """All images of a kind."""
        match kind:
            case ("canvas", _):
                return self.canvases[:MAX_CANVASES]
            case ("view", (side, _)):
                return self.views[side]
            case ("window", size):
                return [window.pixels for window in self.windows[size]]
            case (_, (width, height)):
                rng = np.random.default_rng(0)
                noise = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(200)]
                return noise + [np.full((height, width, 3), grey, np.uint8) for grey in range(0, 256, 4)]
        raise ValueError(f"There are no images of kind {kind}.")

    @property
    def kinds(self) -> list[Kind]:
        """All kinds of images."""
        whole: list[Kind] = [("canvas", (CANVAS, CANVAS)), *(("view", (side, side)) for side in VIEW_SIDES)]
        return whole + [(name, size) for size in self.windows for name in ("window", "blank")]


def visible(signs: tuple[Sign, ...], region: Box) -> tuple[dict[int, int], set[int]]:
    """Signs that lie in a region as a whole (colour -> digit), and colours that it touches at all."""
    whole = {NAMES.index(s.colour): int(s.digit) for s in signs if region.contains(s.boxes[1])}
    touched = {
        NAMES.index(s.colour)
        for s in signs
        if s.boxes[1].x1 < region.x2
        and s.boxes[1].x2 > region.x1
        and s.boxes[1].y1 < region.y2
        and s.boxes[1].y2 > region.y1
    }
    return whole, touched


def _window_around(sign: Box, rng: np.random.Generator) -> Box:
    """A region that holds the sign: from hardly more than it to half the canvas, any place, mild aspect ratio."""
    side = sign.width * np.exp(rng.uniform(0.05, 1.2))
    aspect = np.exp(rng.normal(0, 0.2))
    spans = []
    for low, high, want in ((sign.x1, sign.x2, side * aspect), (sign.y1, sign.y2, side / aspect)):
        want = min(CANVAS, max(want, high - low + 4))
        start = min(max(0.0, high - want + (want - (high - low)) * rng.random()), CANVAS - want)
        spans.append((int(start), min(CANVAS, int(np.ceil(start + want)))))
    return Box(spans[0][0], spans[1][0], spans[0][1], spans[1][1])


def _render(job: tuple[int, int, int]) -> Bank:
    seed, start, stop = job
    config, bank = NeedleConfig(sides=(CANVAS,)), Bank()
    for index in range(start, stop):
        rng = np.random.default_rng([seed, index])
        scene = make_scene(config, rng)
        buffer = io.BytesIO()
        scene.image.save(buffer, "JPEG", quality=config.jpeg_quality)
        image = Image.open(buffer).convert("RGB")
        bank.canvases.append(np.asarray(image))
        bank.signs.append(scene.signs)
        for side in VIEW_SIDES:
            bank.views[side].append(np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)))
        for sign in scene.signs:
            region = _window_around(sign.boxes[1], rng)
            size = fit_to_budget(Size(int(region.width), int(region.height)), CROP_TOKENS, CROP_TOKENS)
            pixels = image.resize(size, Image.Resampling.BICUBIC, box=region.as_tuple())
            bank.windows[size].append(Window(np.asarray(pixels), region, index, *visible(scene.signs, region)))
    return bank


def render_bank(scenes: int, seed: int, workers: int) -> Bank:
    """Render ``scenes`` scenes of the series ``seed``."""
    bank = Bank()
    jobs = [(seed, start, min(start + 50, scenes)) for start in range(0, scenes, 50)]
    with multiprocessing.get_context("spawn").Pool(workers) as processes:
        for part in processes.imap(_render, jobs):
            bank.canvases += part.canvases
            bank.signs += part.signs
            for side, views in part.views.items():
                bank.views[side] += views
            for size, windows in part.windows.items():
                bank.windows[size] += windows
    # rare shapes are left out: each would need batches of its own
    bank.windows = {size: windows for size, windows in bank.windows.items() if len(windows) >= scenes // 30}
    return bank


@dataclass
class Lesson:
    """A batch of episodes whose images have the same shapes.

    Attributes:
        images: one entry an image of the episode, in order: visual tokens ``[B, tokens, width]`` and the grid in
            patches.
        token_ids: ``[B, L]``, right-padded.
        targets: ``[B, L]``: the id that is taught after this position, -100 where none is.
        prompt_length: tokens of each prompt, ``[B]``.
        asked_box: the asked sign in the first image, corners from 0 to 1, ``[B, 4]``.
        asked_digit: its digit, -100 where it is too small to be read, ``[B]``.
    """

    images: list[tuple[Tensor, tuple[int, int]]]
    token_ids: Tensor
    targets: Tensor
    prompt_length: Tensor
    asked_box: Tensor
    asked_digit: Tensor


@dataclass(frozen=True)
class Asked:
    """A sign that is asked for, in the region that the first image shows."""

    sign: Sign
    region: Box = WHOLE

    @property
    def colour(self) -> str:
        """Name of the colour."""
        return self.sign.colour

    @property
    def place(self) -> list[float]:
        """Corners of the sign in the region, from 0 to 1."""
        box, region = self.sign.boxes[1], self.region
        x, y = (
            ((v - region.x1) / region.width for v in (box.x1, box.x2)),
            ((v - region.y1) / region.height for v in (box.y1, box.y2)),
        )
        (left, right), (top, bottom) = x, y
        return [left, top, right, bottom]


class Teacher:
    """Makes lessons from a bank whose images the vision tower has already seen.

    Args:
        bank: the scenes.
        features: visual tokens of every image by kind, ``[images, tokens, width]``.
        tokenizer: the policy's.
        protocol: the policy's.
        seed: of the lessons' order.
    """

    def __init__(
        self,
        bank: Bank,
        features: dict[Kind, Tensor],
        tokenizer: PreTrainedTokenizerFast,
        protocol: Protocol,
        seed: int,
    ) -> None:
        self.bank, self.features, self.tokenizer, self.protocol = bank, features, tokenizer, protocol
        self.rng = np.random.default_rng(seed)
        self.image_pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self._ids: dict[str, list[int]] = {}
        self._sizes = list(bank.windows)
        counts = np.array([len(bank.windows[size]) for size in self._sizes], float)
        self._shares = counts / counts.sum()

    def read_crop(self, batch: int) -> Lesson:
        """Answer directly from a crop-sized window."""
        size = self._size()
        windows = self.bank.windows[size]
        rows = self.rng.integers(len(windows), size=batch)
        asked = []
        for row in rows:
            window = windows[row]
            shown = [s for s in self.bank.signs[window.scene] if NAMES.index(s.colour) in window.shown]
            asked.append(Asked(shown[self.rng.integers(len(shown))], window.region))
        return self._write([self._show(("window", size), rows)], asked, tool=self.rng.random() < 0.3)

    def read_view(self, batch: int, side: int) -> Lesson:
        """Answer directly from the whole canvas at some resolution."""
        scenes, signs = self._all_signs(batch, MAX_CANVASES if side == CANVAS else None)
        kind: Kind = ("canvas" if side == CANVAS else "view", (side, side))
        return self._write([self._show(kind, scenes)], [Asked(s) for s in signs], tool=self.rng.random() < 0.3)

    def look(self, batch: int) -> Lesson:
        """At any view: call with a loose box, or answer."""
        side = VIEW_SIDES[self.rng.integers(len(VIEW_SIDES))]
        scenes, signs = self._all_signs(batch)
        calls = [self._loose_call(sign) if self.rng.random() < 0.6 else None for sign in signs]
        images = [self._show(("view", (side, side)), scenes)]
        return self._write(images, [Asked(s) for s in signs], tool=True, calls=calls)

    def zoom(self, batch: int) -> Lesson:
        """At the whole canvas: call, see a crop that tells nothing, answer."""
        scenes, signs = self._all_signs(batch, MAX_CANVASES)
        crops = self._uninformative(self._size(), [NAMES.index(sign.colour) for sign in signs])
        images = [self._show(("canvas", (CANVAS, CANVAS)), scenes), crops]
        calls = [self._loose_call(sign) for sign in signs]
        return self._write(images, [Asked(s) for s in signs], tool=True, calls=calls)

    def _size(self) -> tuple[int, int]:
        return self._sizes[self.rng.choice(len(self._sizes), p=self._shares)]

    def _show(self, kind: Kind, rows: Sequence[int] | np.ndarray) -> tuple[Tensor, tuple[int, int]]:
        return self.features[kind][torch.as_tensor(rows)], (kind[1][1] // 14, kind[1][0] // 14)

    def _all_signs(self, batch: int, scenes_used: int | None = None) -> tuple[list[int], list[Sign]]:
        """Scene and sign of about ``batch`` rows, every sign of each scene: only the question tells its rows apart."""
        scenes: list[int] = []
        signs: list[Sign] = []
        while len(signs) < batch:
            scene = int(self.rng.integers(min(len(self.bank.canvases), scenes_used or len(self.bank.canvases))))
            signs += self.bank.signs[scene]
            scenes += [scene] * len(self.bank.signs[scene])
        return scenes, signs

    def _loose_call(self, asked: Sign) -> str:
        """A call whose box is 1.6 to 2.6 times the panel a side and holds the sign anywhere inside."""
        _, sign, panel = asked.boxes
        side = panel.width * self.rng.uniform(1.6, 2.6)
        corners = []
        for low, high in ((sign.x1, sign.x2), (sign.y1, sign.y2)):
            slack = max(8.0, side * np.exp(self.rng.uniform(-0.15, 0.15)) - (high - low))
            start = low - slack * self.rng.uniform(0.2, 0.8)
            corners.append((start, start + high - low + slack))
        scale = 1000 / CANVAS / STEP
        first = [max(0, int(np.floor(low * scale))) * STEP for low, _ in corners]
        last = [min(1000 // STEP, int(np.ceil(high * scale))) * STEP for _, high in corners]
        return self.protocol.call_text(FramedBox(*first, *last, frame=Frame.RELATIVE_1000))

    def _uninformative(self, size: tuple[int, int], colours: list[int]) -> tuple[Tensor, tuple[int, int]]:
        """Noise, flat grey, or a window that does not touch a sign of the asked colour."""
        windows, kinds, rows = self.bank.windows[size], [], []
        for colour in colours:
            row = int(self.rng.integers(len(windows)))
            while colour in windows[row].touched:
                row = int(self.rng.integers(len(windows)))
            blank = self.rng.random() < 0.4
            kinds.append("blank" if blank else "window")
            rows.append(int(self.rng.integers(len(self.features["blank", size]))) if blank else row)
        chosen = [self.features[kind, size][row] for kind, row in zip(kinds, rows, strict=True)]
        return torch.stack(chosen), (size[1] // 14, size[0] // 14)

    def _write(
        self,
        images: list[tuple[Tensor, tuple[int, int]]],
        asked: list[Asked],
        *,
        tool: bool,
        calls: list[str | None] | list[str] | None = None,
    ) -> Lesson:
        """Write the episodes: prompt, then a call or an answer, then after a crop the answer."""
        observation = self.protocol.observation("", with_image=True, closed=False)
        rows, taught, prompts = [], [], []
        for number, item in enumerate(asked):
            call = calls[number] if calls else None
            answer = self.protocol.answer_text(item.sign.digit) + "<|im_end|>"
            pieces = [(self.protocol.prompt(attribute_question(item.colour), (), tool=tool), images[0][1], False)]
            pieces.append((call or answer, None, True))
            if call and len(images) > 1:
                pieces += [(observation, images[1][1], False), (answer, None, True)]
            encoded = [(self._encode(text, grid), own) for text, grid, own in pieces]
            prompts.append(len(encoded[0][0]))
            rows.append([token for ids, _ in encoded for token in ids])
            taught.append([token if own else -100 for ids, own in encoded for token in ids])
        length = max(map(len, rows))
        cell = [item.region.width / (images[0][1][1] / 2) for item in asked]
        digits = [
            int(item.sign.digit) if side <= MAX_READABLE_CELL else -100 for item, side in zip(asked, cell, strict=True)
        ]
        return Lesson(
            images,
            torch.tensor([row + [0] * (length - len(row)) for row in rows]),
            torch.tensor([row[1:] + [-100] * (length - len(row) + 1) for row in taught]),
            torch.tensor(prompts),
            torch.tensor([item.place for item in asked]),
            torch.tensor(digits),
        )

    def _encode(self, text: str, grid: tuple[int, int] | None) -> list[int]:
        if text not in self._ids:
            self._ids[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = self._ids[text]
        if grid is None:
            return ids
        where = ids.index(self.image_pad)
        return ids[:where] + [self.image_pad] * (grid[0] * grid[1] // 4) + ids[where + 1 :]
