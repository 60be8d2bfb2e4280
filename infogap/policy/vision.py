"""The vision tower, batched: one attention call per segment length instead of one per image and window.

transformers' SDPA path cuts the patches at ``cu_seqlens`` and calls attention for every piece. Here pieces of equal
length are stacked and attended together. The tower's own modules and weights stay; only the forward of its attention
changes, so that sharding, LoRA and activation checkpointing see the module they expect.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionPatchEmbed,
    Qwen2_5_VLVisionAttention,
    apply_rotary_pos_emb_vision,
)
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from infogap.policy.patches import MERGE, PATCH


class BatchedVisionAttention(Qwen2_5_VLVisionAttention):
    """Qwen2.5-VL's vision attention with pieces of equal length in one call."""

    def forward(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        max_seqlen: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Attend within the pieces between ``cu_seqlens``; ``hidden_states`` is ``[patches, width]``."""
        assert position_embeddings is not None
        count = hidden_states.shape[0]
        # [3, patches, heads, head_dim]
        query, key, value = self.qkv(hidden_states).reshape(count, 3, self.num_heads, -1).permute(1, 0, 2, 3).unbind(0)
        query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        starts, lengths = cu_seqlens[:-1], (cu_seqlens[1:] - cu_seqlens[:-1])
        different = sorted(set(lengths.tolist()))
        if len(different) == 1:
            return self._join(self._attend(query, key, value, different[0]), count)
        output = torch.empty_like(value)
        for length in different:
            where = (starts[lengths == length][:, None] + torch.arange(length, device=starts.device)).flatten()
            piece = self._attend(query[where], key[where], value[where], length)
            output = output.index_copy(0, where, piece)
        return self._join(output, count)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, length: int) -> Tensor:
        """``[pieces * length, heads, head_dim]`` in and out."""
        pieces = (len(query) // length, length, *query.shape[1:])
        query, key, value = (each.reshape(pieces).transpose(1, 2) for each in (query, key, value))
        attended = functional.scaled_dot_product_attention(query, key, value, scale=self.scaling)
        return attended.transpose(1, 2).flatten(0, 1)

    def _join(self, attended: Tensor, count: int) -> Tensor:
        projected: Tensor = self.proj(attended.reshape(count, -1))
        return projected


class LinearPatchEmbed(Qwen2_5_VisionPatchEmbed):
    """The patch embedding as the matrix product that it is: its convolution's stride is its kernel, and is slower."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Embed patches ``[patches, 1176]``."""
        weight = self.proj.weight
        return functional.linear(hidden_states.to(weight.dtype), weight.flatten(1))


def batch_vision_tower(model: nn.Module) -> None:
    """Let the vision tower in ``model`` work in batches. Parameters and their names stay as they are."""
    for module in model.modules():
        if type(module) is Qwen2_5_VLVisionAttention:
            module.__class__ = BatchedVisionAttention
        elif type(module) is Qwen2_5_VisionPatchEmbed:
            module.__class__ = LinearPatchEmbed


@dataclass(frozen=True)
class TowerLayout:
    """Index tensors of the vision tower for some images, which transformers would rebuild image by image at every call.

    Attributes:
        position_ids: row and column of every patch, ``[patches, 2]``.
        cu_seqlens: borders of the images in patches, ``[images + 1]`` int32.
        window_index: order of the 2x2 merge groups in which windows are contiguous, ``[tokens]``.
        cu_window_seqlens: borders of the windows in patches, ``[windows + 1]`` int32.
    """

    position_ids: Tensor
    cu_seqlens: Tensor
    window_index: Tensor
    cu_window_seqlens: Tensor

    def arguments(self, device: torch.device) -> dict[str, Tensor]:
        """Keyword arguments that the tower takes instead of computing them."""
        return {name: value.to(device, non_blocking=True) for name, value in vars(self).items()}


def tower_layout(grids: Sequence[tuple[int, int]], window_size: int) -> TowerLayout:
    """Lay out several images one after the other.

    Args:
        grids: patch rows and columns of every image.
        window_size: side of an attention window in pixels, from the vision configuration.
    """
    parts = [_image_layout(grid, window_size) for grid in grids]
    patches = torch.tensor([0] + [grid[0] * grid[1] for grid in grids]).cumsum(0)
    window_index = [part.window_index + start // MERGE**2 for part, start in zip(parts, patches, strict=False)]
    windows = [part.cu_window_seqlens[1:] + start for part, start in zip(parts, patches, strict=False)]
    return TowerLayout(
        torch.cat([part.position_ids for part in parts]),
        patches.int(),
        torch.cat(window_index),
        torch.cat([torch.zeros(1), *windows]).int(),
    )


@functools.lru_cache(maxsize=4096)
def _image_layout(grid: tuple[int, int], window_size: int) -> TowerLayout:
    grid_thw = torch.tensor([(1, *grid)])
    window_index, cu_window_seqlens = get_vision_window_index(grid_thw, MERGE, window_size, PATCH)
    position_ids = get_vision_position_ids(grid_thw, MERGE)
    return TowerLayout(position_ids, torch.tensor([0, grid[0] * grid[1]]), window_index, cu_window_seqlens)


def encode_images(tower: nn.Module, values: Tensor, grids: Sequence[tuple[int, int]]) -> Tensor:
    """Visual tokens of several images, one after the other.

    Args:
        tower: the model's ``visual`` part.
        values: patches of all images, ``[patches, 1176]``, on the tower's device.
        grids: patch rows and columns of every image.

    Returns:
        ``[sum of tokens, hidden width of the language model]``.
    """
    window_size = cast(int, cast(Any, tower).config.window_size)
    layout = tower_layout(grids, window_size)
    grid_thw = torch.tensor([(1, *grid) for grid in grids], device=values.device)
    encoded: Tensor = tower(values, grid_thw=grid_thw, **layout.arguments(values.device)).pooler_output
    return encoded
