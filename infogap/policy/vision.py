"""The vision tower, batched: a few attention calls a layer instead of one per image and window.

transformers' SDPA path cuts the patches at ``cu_seqlens`` and calls attention for every piece. Here pieces of equal
length are stacked and attended together; in half precision on a GPU one call of variable length attends all pieces.
Which pieces there are is known before the tower runs (``Pieces``), so that no layer waits for the device to say it.
The tower's own modules and weights stay; only the forward of its attention changes, so that sharding, LoRA and
activation checkpointing see the module they expect.

What was run: the stacked calls, on the CPU. *Not* run, for want of a GPU: the call of variable length, of which only
the arguments were tested. ``tests/test_vision.py`` compares the two where there is a GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionPatchEmbed,
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLVisionAttention,
    apply_rotary_pos_emb_vision,
)
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from infogap.policy.attention import flash_takes
from infogap.policy.patches import MERGE, PATCH

MOST_PIECES = 1 << 15
"""Pieces of one call. CUDA starts at most 65,535 blocks in the direction that its attention kernels lay pieces in."""


@dataclass(frozen=True)
class Pieces:
    """Pieces of a sequence of patches, each of which attends within itself.

    Attributes:
        borders: where they begin and end, ``[pieces + 1]`` int32.
        stacks: how many pieces of which length there are, shortest first.
        order: the patches in the order of ``stacks``, ``[patches]``; None if that is their own.
        inverse: where each patch stands in that order, ``[patches]``; None like ``order``.
    """

    borders: Tensor
    stacks: tuple[tuple[int, int], ...]
    order: Tensor | None
    inverse: Tensor | None

    @staticmethod
    def between(borders: Tensor) -> Pieces:
        """Pieces between ``borders``, ``[pieces + 1]``, on the borders' device. Waits for it if it is not the CPU."""
        host = borders.cpu().long()
        lengths = host.diff()
        different, counts = torch.unique(lengths, return_counts=True)
        stacks = tuple(zip(counts.tolist(), different.tolist(), strict=True))
        if len(stacks) == 1:
            return Pieces(borders.int(), stacks, None, None)
        order = torch.argsort(lengths.repeat_interleave(lengths), stable=True)
        return Pieces(borders.int(), stacks, order, torch.argsort(order)).to(borders.device)

    def to(self, device: torch.device) -> Pieces:
        """The pieces with their tensors on ``device``."""
        moved = {k: v.to(device, non_blocking=True) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return Pieces(**{**vars(self), **moved})


class BatchedVisionAttention(Qwen2_5_VLVisionAttention):
    """Qwen2.5-VL's vision attention with many pieces in one call.

    Attributes:
        sees_whole_images: whether this layer's pieces are images, not windows.
    """

    sees_whole_images: bool

    def forward(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        max_seqlen: int | None = None,
        images: Pieces | None = None,
        windows: Pieces | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Attend within pieces; ``hidden_states`` is ``[patches, width]``.

        ``encode_images`` gives ``images`` and ``windows``; without them, pieces are those between ``cu_seqlens``.
        """
        assert position_embeddings is not None
        pieces = (images if self.sees_whole_images else windows) or Pieces.between(cu_seqlens)
        count = hidden_states.shape[0]
        # [3, patches, heads, head_dim]
        query, key, value = self.qkv(hidden_states).reshape(count, 3, self.num_heads, -1).permute(1, 0, 2, 3).unbind(0)
        query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        attend = attend_at_once if flash_takes(query) and len(pieces.borders) <= MOST_PIECES else attend_stacked
        projected: Tensor = self.proj(attend(query, key, value, pieces).reshape(count, -1))
        return projected


def attend_at_once(query: Tensor, key: Tensor, value: Tensor, pieces: Pieces) -> Tensor:
    """Attention within pieces by one call of variable length; half precision on a GPU only.

    The kernel takes heads of a multiple of 8 up to 256 entries (Qwen2.5-VL's have 80), and scales like every other.

    Args:
        query: ``[patches, heads, head_dim]``.
        key: like ``query``.
        value: like ``query``.
        pieces: which patches attend to each other.

    Returns:
        Like ``query``.
    """
    longest = pieces.stacks[-1][1]
    attended = varlen_attn(query, key, value, pieces.borders, pieces.borders, longest, longest)
    assert isinstance(attended, Tensor)
    return attended


def attend_stacked(query: Tensor, key: Tensor, value: Tensor, pieces: Pieces) -> Tensor:
    """As ``attend_at_once``, by one call for every length of a piece and ``MOST_PIECES`` pieces; anywhere."""
    if pieces.order is not None:
        query, key, value = (each[pieces.order] for each in (query, key, value))
    attended, start = [], 0
    for count, length in pieces.stacks:
        for first in range(0, count, MOST_PIECES):
            number = min(MOST_PIECES, count - first)
            stack = slice(start, start + number * length)
            start = stack.stop
            batch = (number, length, *query.shape[1:])
            some_query, some_key, some_value = (
                each[stack].reshape(batch).transpose(1, 2) for each in (query, key, value)
            )
            found = functional.scaled_dot_product_attention(some_query, some_key, some_value)
            attended.append(found.transpose(1, 2).flatten(0, 1))
    joined = torch.cat(attended)
    return joined if pieces.inverse is None else joined[pieces.inverse]


class LinearPatchEmbed(Qwen2_5_VisionPatchEmbed):
    """The patch embedding as the matrix product that it is: its convolution's stride is its kernel, and is slower."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Embed patches ``[patches, 1176]``."""
        weight = self.proj.weight
        return functional.linear(hidden_states.to(weight.dtype), weight.flatten(1))


def batch_vision_tower(model: nn.Module) -> None:
    """Let the vision tower in ``model`` work in batches. Parameters and their names stay as they are."""
    for module in model.modules():
        if isinstance(module, Qwen2_5_VisionTransformerPretrainedModel):
            for number, block in enumerate(cast(Any, module).blocks):
                block.attn.__class__ = BatchedVisionAttention
                block.attn.sees_whole_images = number in module.fullatt_block_indexes
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

    def arguments(self, device: torch.device) -> dict[str, Tensor | Pieces]:
        """Keyword arguments that the tower takes instead of computing them, and the pieces, which its layers take."""
        arguments: dict[str, Tensor | Pieces] = dict(vars(self))
        arguments |= {"images": Pieces.between(self.cu_seqlens), "windows": Pieces.between(self.cu_window_seqlens)}
        return {
            name: value.to(device) if isinstance(value, Pieces) else value.to(device, non_blocking=True)
            for name, value in arguments.items()
        }


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
