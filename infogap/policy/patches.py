"""From images to what Qwen2.5-VL's vision tower eats, and the rotary positions of what comes out.

The Hugging Face processor is not used: it cannot be built without torchvision (its video processor), it resizes what
the caller has already sized, and it works image by image. The values are the same as those of its image processor with
``do_resize=False``; a test compares them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

PATCH = 14
MERGE = 2
TEMPORAL = 2


@dataclass(frozen=True)
class Patches:
    """One image, ready for the vision tower.

    Attributes:
        values: normalised patches, ``[height * width, 3 * 2 * 14 * 14]`` in 2x2 merge-group order, float32.
        grid: number of patch rows and columns ``(height, width)``.
    """

    values: Tensor
    grid: tuple[int, int]

    @property
    def tokens(self) -> int:
        """Visual tokens of the image in the language model."""
        return self.grid[0] * self.grid[1] // MERGE**2


@dataclass(frozen=True)
class Patchifier:
    """Normalises and cuts images.

    Attributes:
        mean: mean of each channel (RGB, 0-1), from the model folder's ``preprocessor_config.json``.
        std: standard deviation of each channel.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, image: Image.Image) -> Patches:
        """Cut one RGB image whose sides are multiples of 28 pixels.

        Raises:
            ValueError: if a side is no multiple of 28.
        """
        if image.width % (PATCH * MERGE) or image.height % (PATCH * MERGE):
            raise ValueError(
                f"An image of {image.width}x{image.height} pixels cannot be cut into patches: make both sides "
                f"multiples of {PATCH * MERGE}."
            )
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
        return Patches(self.cut(pixels)[0], (image.height // PATCH, image.width // PATCH))

    def cut(self, pixels_bchw: Tensor) -> Tensor:
        """Cut a batch of images of equal size.

        Args:
            pixels_bchw: ``[B, 3, height, width]``, 0-255, any dtype and device.

        Returns:
            ``[B, patches, 1176]`` float32 in the order that the vision tower expects.
        """
        batch, channels, height, width = pixels_bchw.shape
        mean = torch.tensor(self.mean, device=pixels_bchw.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=pixels_bchw.device).view(1, 3, 1, 1)
        normalised = (pixels_bchw.float() / 255.0 - mean) / std
        rows, columns = height // (PATCH * MERGE), width // (PATCH * MERGE)
        cells = normalised.view(batch, channels, rows, MERGE, PATCH, columns, MERGE, PATCH)
        # [B, row, column, row in the 2x2 group, column in it, channel, time, patch y, patch x]
        ordered = cells.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)
        ordered = ordered.expand(-1, -1, -1, -1, -1, -1, TEMPORAL, -1, -1)
        return ordered.reshape(batch, rows * columns * MERGE**2, channels * TEMPORAL * PATCH**2)


def rope_positions(
    token_ids: Sequence[int], grids: Sequence[tuple[int, int]], image_token_id: int, start: int
) -> tuple[Tensor, int]:
    """M-RoPE positions of a piece of a sequence (text and images), given where it starts.

    Text advances all three axes by one. An image of ``h x w`` merged tokens keeps time at the current position, counts
    rows and columns from it, and the next text token continues from the largest position plus one (Qwen2-VL, section
    2.1; equal to transformers' ``get_rope_index``, which a test compares).

    Args:
        token_ids: the ids, every image already expanded to its number of ``image_token_id``.
        grids: patch rows and columns of the images in order.
        image_token_id: id of ``<|image_pad|>``.
        start: position of the first token.

    Returns:
        Positions ``[3, tokens]`` (time, height, width) and the position of the token that would follow.

    Raises:
        ValueError: if the images' tokens do not fit the ids.
    """
    columns: list[Tensor] = []
    position, index, image = start, 0, 0
    while index < len(token_ids):
        if token_ids[index] == image_token_id:
            if image == len(grids):
                raise ValueError(f"There are image tokens for more than the {len(grids)} images given.")
            height, width = grids[image][0] // MERGE, grids[image][1] // MERGE
            run = height * width
            if any(token != image_token_id for token in token_ids[index : index + run]) or index + run > len(token_ids):
                raise ValueError(f"Image {image} needs {run} image tokens in a row, and they are not there.")
            rows = torch.arange(height).repeat_interleave(width)
            cols = torch.arange(width).repeat(height)
            columns.append(torch.stack([torch.zeros_like(rows), rows, cols]) + position)
            position, index, image = position + max(height, width), index + run, image + 1
            continue
        end = index
        while end < len(token_ids) and token_ids[end] != image_token_id:
            end += 1
        columns.append(torch.arange(position, position + end - index).expand(3, -1))
        position, index = position + end - index, end
    if image != len(grids):
        raise ValueError(f"{len(grids)} images were given and the ids hold {image}.")
    return (torch.cat(columns, dim=1) if columns else torch.zeros(3, 0, dtype=torch.long)), position
