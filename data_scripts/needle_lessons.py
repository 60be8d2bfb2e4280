"""Lessons for the small policy: plain supervised episodes over needle scenes, from a bank rendered beforehand.

* ``read``: answer directly from a window that shows the asked sign and perhaps others, from a tight crop to the whole canvas.
* ``look``: with the tool, at a view too small to read, either call with a loose box on the asked sign or answer, half and half.
* ``zoom``: a view that can be read, then answer; or call, see a crop that tells nothing (noise, grey, or a region without the
  asked sign) and answer, which can only come from the view. So the policy can call, and has no reason to rely on crops.
"""

from __future__ import annotations

import io
import multiprocessing
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from infogap.data.needle import COLOURS, NeedleConfig, Sign, attribute_question, make_scene
from infogap.episode.protocol import Protocol
from infogap.geometry import Box, Frame, FramedBox, Size, fit_to_budget
from infogap.policy.patches import Patchifier

NAMES = list(COLOURS)
CANVAS = 448
CROP_TOKENS = 16
STEP = 20
"""Boxes are taught in steps of 20 of 1000, each of which is one token of the vocabulary."""


@dataclass
class Window:
    """A resized region of a scene: pixels ``[height, width, 3]`` uint8, and the signs that lie in it (colour, digit)."""

    pixels: np.ndarray
    shown: dict[int, int]
    touched: set[int]


@dataclass
class Bank:
    """Rendered scenes: whole canvases, small views, and crop-sized windows by shape."""

    canvases: list[np.ndarray] = field(default_factory=list)
    views: dict[int, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    signs: list[tuple[Sign, ...]] = field(default_factory=list)
    windows: dict[tuple[int, int], list[Window]] = field(default_factory=lambda: defaultdict(list))


def visible(signs: tuple[Sign, ...], region: Box) -> tuple[dict[int, int], set[int]]:
    """Signs that lie in a region as a whole (colour -> digit), and colours that it touches at all."""
    whole = {NAMES.index(s.colour): int(s.digit) for s in signs if region.contains(s.boxes[1])}
    touched = {
        NAMES.index(s.colour)
        for s in signs
        if s.boxes[1].x1 < region.x2 and s.boxes[1].x2 > region.x1 and s.boxes[1].y1 < region.y2 and s.boxes[1].y2 > region.y1
    }
    return whole, touched


def _window_around(sign: Box, rng: np.random.Generator) -> Box:
    """A region that holds the sign: from hardly more than it to half the canvas, any place, mild aspect ratio."""
    side = sign.width * np.exp(rng.uniform(0.05, 1.5))
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
        for side in (112, 140):
            bank.views[side].append(np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)))
        for sign in scene.signs:
            region = _window_around(sign.boxes[1], rng)
            size = fit_to_budget(Size(int(region.width), int(region.height)), CROP_TOKENS, CROP_TOKENS)
            pixels = image.resize(size, Image.Resampling.BICUBIC, box=region.as_tuple())
            bank.windows[size].append(Window(np.asarray(pixels), *visible(scene.signs, region)))
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
    # shapes too rare to fill a batch are left out
    bank.windows = {size: windows for size, windows in bank.windows.items() if len(windows) >= 200}
    return bank


@dataclass
class Lesson:
    """A batch of episodes whose images have the same shapes.

    Attributes:
        images: one entry an image of the episode, in order: patches ``[images, patches, 1176]`` and the grid in patches.
        image_rows: which image a row shows, an entry an image of the episode, ``[B]``. Rows that ask about different signs
            of one image share it: the tower sees it once, and the question is all that tells them apart.
        token_ids: ``[B, L]``, right-padded.
        targets: ``[B, L]``: the id that is taught after this position, -100 where none is.
    """

    images: list[tuple[Tensor, tuple[int, int]]]
    image_rows: list[Tensor]
    token_ids: Tensor
    targets: Tensor


def _asked(signs: list[Sign]) -> list[tuple[int, int]]:
    return [(NAMES.index(sign.colour), int(sign.digit)) for sign in signs]


class Teacher:
    """Makes lessons from a bank."""

    def __init__(
        self, bank: Bank, tokenizer: PreTrainedTokenizerFast, protocol: Protocol, patchifier: Patchifier, seed: int
    ) -> None:
        self.bank, self.tokenizer, self.protocol, self.patchifier = bank, tokenizer, protocol, patchifier
        self.rng = np.random.default_rng(seed)
        self.image_pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self._ids: dict[str, list[int]] = {}
        sizes = list(bank.windows)
        counts = np.array([len(bank.windows[size]) for size in sizes], float)
        self._sizes, self._shares = sizes, counts / counts.sum()

    def read_crop(self, batch: int) -> Lesson:
        """Answer directly from a crop-sized window."""
        windows = self.bank.windows[self._sizes[self.rng.choice(len(self._sizes), p=self._shares)]]
        chosen = [windows[i] for i in self.rng.integers(len(windows), size=batch)]
        asked = [self._pick(list(window.shown.items())) for window in chosen]
        return self._write([self._stack([w.pixels for w in chosen])], [list(range(batch))], asked, tool=self.rng.random() < 0.3)

    def read_native(self, batch: int, side: int) -> Lesson:
        """Answer directly from a region of the canvas at its own resolution; ``side`` 448 is the whole canvas."""
        images, rows, asked = [], [], []
        while len(asked) < batch:
            scene = self.rng.integers(len(self.bank.canvases))
            signs = self.bank.signs[scene]
            box = signs[self.rng.integers(len(signs))].boxes[1]
            low = [max(0, int(np.ceil(edge - side))) for edge in (box.x2, box.y2)]
            high = [min(CANVAS - side, int(edge)) for edge in (box.x1, box.y1)]
            x, y = (int(self.rng.integers(a, b + 1)) for a, b in zip(low, high, strict=True))
            shown = list(visible(signs, Box(x, y, x + side, y + side))[0].items())
            rows += [len(images)] * len(shown)
            asked += shown
            images.append(self.bank.canvases[scene][y : y + side, x : x + side])
        return self._write([self._stack(images)], [rows], asked, tool=self.rng.random() < 0.3)

    def look(self, batch: int) -> Lesson:
        """At a view too small to read: call with a loose box, or answer."""
        side = 112 if self.rng.random() < 0.75 else 140
        scenes, rows, signs = self._all_signs(batch)
        calls = [self._loose_call(sign) if self.rng.random() < 0.55 else None for sign in signs]
        images = [self._stack([self.bank.views[side][scene] for scene in scenes])]
        return self._write(images, [rows], _asked(signs), tool=True, calls=calls)

    def zoom(self, batch: int) -> Lesson:
        """At the whole canvas: call, see a crop that tells nothing, answer."""
        scenes, rows, signs = self._all_signs(batch)
        size = self._sizes[self.rng.choice(len(self._sizes), p=self._shares)]
        crops = self._stack([self._uninformative(size, colour) for colour, _ in _asked(signs)])
        images = [self._stack([self.bank.canvases[scene] for scene in scenes]), crops]
        calls = [self._loose_call(sign) for sign in signs]
        return self._write(images, [rows, list(range(len(signs)))], _asked(signs), tool=True, calls=calls)

    def _all_signs(self, batch: int) -> tuple[list[int], list[int], list[Sign]]:
        """Scenes, and for about ``batch`` rows the scene's place in the list and the sign: every sign of each scene."""
        scenes: list[int] = []
        rows: list[int] = []
        signs: list[Sign] = []
        while len(signs) < batch:
            scene = int(self.rng.integers(len(self.bank.canvases)))
            rows += [len(scenes)] * len(self.bank.signs[scene])
            signs += self.bank.signs[scene]
            scenes.append(scene)
        return scenes, rows, signs

    def _pick(self, items: list[tuple[int, int]]) -> tuple[int, int]:
        return items[self.rng.integers(len(items))]

    def _loose_call(self, asked: Sign) -> str:
        """A call whose box is 1 to 2 times the panel a side and holds the sign anywhere inside."""
        _, sign, panel = asked.boxes
        side = panel.width * self.rng.uniform(1.0, 2.0)
        corners = []
        for low, high in ((sign.x1, sign.x2), (sign.y1, sign.y2)):
            slack = max(8.0, side * np.exp(self.rng.uniform(-0.15, 0.15)) - (high - low))
            start = low - slack * self.rng.uniform(0.2, 0.8)
            corners.append((start, start + high - low + slack))
        scale = 1000 / CANVAS / STEP
        first = [max(0, int(np.floor(low * scale))) * STEP for low, _ in corners]
        last = [min(1000 // STEP, int(np.ceil(high * scale))) * STEP for _, high in corners]
        return self.protocol.call_text(FramedBox(*first, *last, frame=Frame.RELATIVE_1000))

    def _uninformative(self, size: tuple[int, int], colour: int) -> np.ndarray:
        """Noise, flat grey, or a region that does not touch a sign of the asked colour."""
        kind = self.rng.random()
        windows = self.bank.windows[size]
        while kind < 0.6:
            window = windows[self.rng.integers(len(windows))]
            if colour not in window.touched:
                return window.pixels
        if kind < 0.9:
            return self.rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        return np.full((size[1], size[0], 3), self.rng.integers(256), dtype=np.uint8)

    def _stack(self, images: list[np.ndarray]) -> tuple[Tensor, tuple[int, int]]:
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        return self.patchifier.cut(pixels), (pixels.shape[2] // 14, pixels.shape[3] // 14)

    def _write(
        self,
        images: list[tuple[Tensor, tuple[int, int]]],
        image_rows: list[list[int]],
        asked: list[tuple[int, int]],
        *,
        tool: bool,
        calls: list[str | None] | None = None,
    ) -> Lesson:
        """Write the episodes: prompt, then a call or an answer, then after a crop the answer."""
        observation = self.protocol.observation("", with_image=True, closed=False)
        rows, taught = [], []
        for number, (colour, digit) in enumerate(asked):
            call = calls[number] if calls else None
            answer = self.protocol.answer_text(str(digit)) + "<|im_end|>"
            pieces = [(self.protocol.prompt(attribute_question(NAMES[colour]), (), tool=tool), images[0][1], False)]
            pieces.append((call or answer, None, True))
            if call and len(images) > 1:
                pieces += [(observation, images[1][1], False), (answer, None, True)]
            encoded = [(self._encode(text, grid), own) for text, grid, own in pieces]
            rows.append([token for ids, _ in encoded for token in ids])
            taught.append([token if own else -100 for ids, own in encoded for token in ids])
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        targets = torch.tensor([row[1:] + [-100] * (length - len(row) + 1) for row in taught])
        return Lesson(images, [torch.tensor(rows) for rows in image_rows], ids, targets)

    def _encode(self, text: str, grid: tuple[int, int] | None) -> list[int]:
        if text not in self._ids:
            self._ids[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = self._ids[text]
        if grid is None:
            return ids
        where = ids.index(self.image_pad)
        return ids[:where] + [self.image_pad] * (grid[0] * grid[1] // 4) + ids[where + 1 :]
