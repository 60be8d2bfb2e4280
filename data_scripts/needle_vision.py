"""Dense supervision for the small policy: of its vision tower first, of binding in its language model later.

A visual token covers a cell of 28 x 28 pixels. For each one, linear read-outs of the tower's output (thrown away
afterwards) name the colours of the signs that lie in the cell, where each of these signs is relative to the cell, which
digit stands in it, and, on a whole canvas, where the cell lies. A language model then only has to find and copy what
the tokens already say: learning both at once from answers takes this size of model hundreds of thousands of samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from needle_lessons import MAX_READABLE_CELL, NAMES, Lesson
from torch import Tensor, nn
from torch.nn import functional

from infogap.data.needle import Sign
from infogap.geometry import Box, intersection_area

NO_DIGIT = 10


@dataclass
class CellLabels:
    """What stands in every cell of a batch of images, ``C`` cells in all.

    Attributes:
        colours: whether a sign of each colour lies in the cell, ``[C, 6]``.
        boxes: its box relative to the cell's centre, in cells, ``[C, 6, 4]``.
        digit: the digit in the cell, or ``NO_DIGIT``; -100 if digits are too small to be read, ``[C]``.
        place: centre of the cell on the canvas, 0 to 1; NaN if the image is not a whole canvas, ``[C, 2]``.
    """

    colours: Tensor
    boxes: Tensor
    digit: Tensor
    place: Tensor


def label_cells(
    signs: tuple[Sign, ...], region: Box, columns: int, rows: int, whole: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels of an image that shows ``region`` of the canvas in ``columns x rows`` cells."""
    count = columns * rows
    width, height = region.width / columns, region.height / rows
    colours, boxes = np.zeros((count, 6), np.float32), np.zeros((count, 6, 4), np.float32)
    digit, best = np.full(count, NO_DIGIT), np.zeros(count)
    centres = np.stack(np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5), -1).reshape(count, 2)
    place = centres / (columns, rows) if whole else np.full((count, 2), np.nan)
    for sign in signs:
        glyph, box, _ = sign.boxes
        first = max(0, int((box.x1 - region.x1) // width)), max(0, int((box.y1 - region.y1) // height))
        last = min(columns - 1, int((box.x2 - region.x1) // width)), min(rows - 1, int((box.y2 - region.y1) // height))
        for y in range(first[1], last[1] + 1):
            for x in range(first[0], last[0] + 1):
                left, top = region.x1 + x * width, region.y1 + y * height
                cell, index = Box(left, top, left + width, top + height), y * columns + x
                share = intersection_area(box, cell)
                if share >= 0.3 * min(box.area, cell.area):
                    name = NAMES.index(sign.colour)
                    colours[index, name] = 1
                    middle = np.array([left + width / 2, top + height / 2] * 2)
                    boxes[index, name] = (np.array(box.as_tuple()) - middle) / ((width, height) * 2)
                share = intersection_area(glyph, cell)
                if share > best[index] and share >= 0.2 * min(glyph.area, cell.area):
                    digit[index], best[index] = int(sign.digit), share
    if width > MAX_READABLE_CELL:
        digit[:] = -100
    return colours, boxes, digit, place.astype(np.float32)


def stack_labels(labels: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]) -> CellLabels:
    """Labels of several images as one batch of cells."""
    colours, boxes, digit, place = (torch.from_numpy(np.concatenate(part)) for part in zip(*labels, strict=True))
    return CellLabels(colours, boxes, digit.long(), place)


class CellReadout(nn.Module):
    """Linear read-outs of visual tokens.

    Args:
        width: width of a visual token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 6 + 24 + 11 + 2)
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, tokens: Tensor, labels: CellLabels) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch of cells ``[C, width]`` and the read-outs' skills."""
        output = self.head(tokens)
        colours, boxes, digit, place = output.split([6, 24, 11, 2], dim=-1)
        present = labels.colours > 0
        loss = 2 * functional.binary_cross_entropy_with_logits(colours, labels.colours)
        if present.any():
            apart = functional.smooth_l1_loss(boxes.view(-1, 6, 4)[present], labels.boxes[present], beta=0.1)
            loss = loss + apart
        shown = (labels.digit >= 0) & (labels.digit != NO_DIGIT)
        weight = torch.ones(11)
        weight[NO_DIGIT] = 0.04
        if shown.any():
            loss = loss + 2 * functional.cross_entropy(digit, labels.digit, weight=weight)
        known = ~labels.place[:, 0].isnan()
        if known.any():
            loss = loss + 4 * functional.smooth_l1_loss(place[known], labels.place[known], beta=0.05)
        skills = {"loss": loss.item()}
        if shown.any():
            skills["digit"] = (digit[shown].argmax(-1) == labels.digit[shown]).float().mean().item()
        if present.any():
            skills["colour"] = ((colours > 0) == present).all(-1)[present.any(-1)].float().mean().item()
            skills["box_error"] = (boxes.view(-1, 6, 4)[present] - labels.boxes[present]).abs().mean().item()
        if known.any():
            skills["place_error"] = (place[known] - labels.place[known]).abs().mean().item()
        return loss, skills


class BindingReadout(nn.Module):
    """Linear read-outs inside the language model: which cells hold the asked sign, and where it is.

    Binding the colour in the question to its sign is a skill of its own, which comes very late if only the tokens
    of a loose box ask for it. Here the image's tokens, which follow the question, are asked whether they hold the
    sign, and further up the prompt's last tokens are asked for its exact box and its digit.

    Args:
        width: width of the language model.
        last: how many tokens at the end of the prompt are asked.
    """

    def __init__(self, width: int, last: int = 4) -> None:
        super().__init__()
        self.last = last
        self.cell, self.head = nn.Linear(width, 1), nn.Linear(width, 4 + 10)
        for layer in (self.cell, self.head):
            nn.init.normal_(layer.weight, std=0.02)

    def forward(self, lower: Tensor, upper: Tensor, lesson: Lesson, image_pad: int) -> tuple[Tensor, dict[str, float]]:
        """Loss on two layers' hidden states ``[B, L, width]`` and the read-outs' skills."""
        marked = self.cell(functional.rms_norm(lower, lower.shape[-1:]))[..., 0]
        (height, width), batch = lesson.images[0][1], len(lower)
        cells = height * width // 4
        first = ((lesson.token_ids == image_pad).cumsum(1) <= cells) & (lesson.token_ids == image_pad)
        wanted = asked_cells(lesson.asked_box, width // 2, height // 2)
        weight = torch.tensor(cells / 4.0)
        loss = functional.binary_cross_entropy_with_logits(marked[first].view(batch, cells), wanted, pos_weight=weight)
        best = marked[first].view(batch, cells).argmax(1)
        skills = {"bound_cell": wanted.gather(1, best[:, None]).mean().item()}
        places = lesson.prompt_length[:, None] - 1 - torch.arange(self.last)
        asked = upper[torch.arange(batch)[:, None], places]
        output = self.head(functional.rms_norm(asked, upper.shape[-1:]))  # [B, last, 14]
        box = output[..., :4]
        target = lesson.asked_box[:, None].expand_as(box)
        loss = loss + 4 * functional.smooth_l1_loss(box, target, beta=0.05)
        skills["box_error"] = (box - target).abs().mean().item()
        known = lesson.asked_digit >= 0
        if known.any():
            logits, digits = output[known][..., 4:], lesson.asked_digit[known][:, None].expand(-1, self.last)
            loss = loss + functional.cross_entropy(logits.flatten(0, 1), digits.flatten())
            skills["bound_digit"] = (logits.argmax(-1) == digits).float().mean().item()
        return loss, skills


def asked_cells(boxes: Tensor, columns: int, rows: int) -> Tensor:
    """Whether each cell holds a good part of the box ``[B, 4]``, corners from 0 to 1; ``[B, rows * columns]``."""
    left, top = torch.arange(columns) / columns, torch.arange(rows) / rows
    across = (boxes[:, 2:3].minimum(left + 1 / columns) - boxes[:, :1].maximum(left)).clamp_min(0)  # [B, columns]
    down = (boxes[:, 3:].minimum(top + 1 / rows) - boxes[:, 1:2].maximum(top)).clamp_min(0)
    shared = down[:, :, None] * across[:, None, :]
    area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp_max(1 / (columns * rows))
    return (shared >= 0.25 * area[:, None, None]).float().flatten(1)
