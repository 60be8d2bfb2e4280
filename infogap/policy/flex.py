"""FlexAttention over packed rows, for long rows on a GPU, and the choice between it and ``PackedAttention``.

FlexAttention walks blocks of 128 queries and 128 keys, skips blocks of which nothing is visible, and asks the rule of
``attention.sees`` only in blocks of which a part is. Nothing is padded but the end of the row, no key is repeated and
no scores are kept.

What was run: the blocks, the padding, the values and the gradients on the CPU, where FlexAttention computes all scores
and ignores the blocks; the compiled forward pass with them by the CPU's compiler; compilation over changing lengths by
a compiler that makes no kernels. *Not* run, for want of a GPU: the Triton kernels. ``tests/test_flex.py`` compares them
with ``DenseAttention`` where there is a GPU, and the thresholds of ``row_attention`` are estimates until then.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from infogap.policy.attention import Attend, PackedAttention, compute_dtype, related, sees

BLOCK = 128
"""Side of a block. The kernels for GPUs split it as they need."""

FLEX_TOKENS = 4096
"""Shorter rows are left to ``PackedAttention``: in them attention takes a small part of the time, and a process that
never sees a longer one never waits for FlexAttention to be compiled."""

FLEX_GAIN = 1.25
"""How many times more scores ``PackedAttention`` must compute before FlexAttention is chosen. FlexAttention's authors
measured 90 % of the speed of the flash kernels forward and 85 % backward (https://pytorch.org/blog/flexattention/)."""


class FlexRowAttention:
    """One row by FlexAttention. Exactly ``visible``.

    On CUDA FlexAttention is compiled, once a process: the second length that comes makes the kernels general. In a
    process more than a handful of combinations of type and gradient mode end in an error of torch that names its limit
    of recompilations, not in a fallback that would keep all scores. On the CPU it is slow and has no gradients; it is
    there to be tested.

    Args:
        group: group of every token, ``[N]``.
        branch: branch of every token, ``[N]``.

    Attributes:
        mask: the row's blocks, shared by all layers.
        scores: scores that are computed for each query head.
    """

    def __init__(self, group: Tensor, branch: Tensor) -> None:
        self.tokens = len(group)
        # two blocks at least: a compiler takes the size 1 for another case
        missing = max(-self.tokens % BLOCK, 2 * BLOCK - self.tokens)
        # padding is a group of its own, so that it is not seen, and every query sees something
        group = torch.cat([group, (group.min() - 1).expand(missing)]).int()
        branch = functional.pad(branch, (0, missing)).int()

        def rule(_: Tensor, __: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return sees(group, branch, query, key)

        some, full = visible_blocks(group, branch)
        self.mask = BlockMask.from_kv_blocks(
            *_ordered(some & ~full), *_ordered(full), BLOCK_SIZE=BLOCK, mask_mod=rule, seq_lengths=(len(group),) * 2
        )
        self.scores = int(some.sum()) * BLOCK**2

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See ``Attend``; the batch is one row."""
        dtype, missing = compute_dtype(query), self.mask.seq_lengths[0] - self.tokens
        # one layout and one type, whatever comes: each further one would be compiled for
        query, key, value = (
            functional.pad(each.to(dtype), (0, 0, 0, missing)).contiguous() for each in (query, key, value)
        )
        attend = _compiled() if query.is_cuda else _eager
        # what is cast is cast: compiled inside autocast, the backward pass would be traced with it too
        with torch.autocast(query.device.type, enabled=False):
            return attend(query, key, value, self.mask, scaling)[:, :, : self.tokens]


def visible_blocks(group: Tensor, branch: Tensor) -> tuple[Tensor, Tensor]:
    """Of which blocks something is visible, and of which everything is.

    No entry is looked at: tokens of one group and branch see alike but for their order, and of two different blocks one
    is wholly before the other. So blocks are compared by the pairs of group and branch that occur in them.

    Args:
        group: group of every token, of a length that ``BLOCK`` divides, ``[N]``.
        branch: branch of every token, ``[N]``.

    Returns:
        Two bool tensors, queries by keys, ``[N / BLOCK, N / BLOCK]``.
    """
    device, blocks = group.device, len(group) // BLOCK
    width = branch.max() + 2  # as one number: sorting pairs takes a hundred times longer
    kinds, kind = torch.unique(group.long() * width + branch + 1, return_inverse=True)
    kind_group, kind_branch = kinds // width, kinds % width - 1
    number, block = torch.arange(len(kinds), device=device), torch.arange(blocks, device=device)
    holds = torch.zeros(blocks, len(number), device=device)
    holds[block.repeat_interleave(BLOCK), kind] = 1.0
    may_see = related(kind_group, kind_branch, number[:, None], number[None, :])

    def meet(pairs: Tensor) -> Tensor:
        """Whether a block of queries and one of keys hold one of these pairs; sums of zeros are zero in any type."""
        return holds @ pairs.to(holds.dtype) @ holds.T > 0

    before = block[:, None] > block[None, :]
    # every token sees itself, and none of a block but the last sees the block's last
    on_diagonal = block[:, None] == block[None, :]
    return (before & meet(may_see)) | on_diagonal, before & ~meet(~may_see)


def _ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """``BlockMask``'s form of ``[rows, columns]``: how many blocks each row has, and their columns, those first."""
    columns = blocks.int().argsort(dim=1, descending=True, stable=True)
    return blocks.sum(dim=1)[None, None].int(), columns[None, None].int()


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scaling: float) -> Tensor:
    grouped = query.shape[1] != key.shape[1]
    attended = flex_attention(query, key, value, block_mask=mask, scale=scaling, enable_gqa=grouped)
    assert isinstance(attended, Tensor)
    return attended


def _eager(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scaling: float) -> Tensor:
    with warnings.catch_warnings():
        # a remark on speed, which nobody who runs it on a CPU can act on
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile", UserWarning)
        return _attend(query, key, value, mask, scaling)


@functools.cache
def _compiled(backend: Any = "inductor") -> Callable[[Tensor, Tensor, Tensor, BlockMask, float], Tensor]:
    """Compiled with nothing left out: what is left to run uncompiled would keep all scores.

    ``dynamic`` is left to torch, which finds that lengths change and that head counts, scale and block size do not.
    """
    return torch.compile(_attend, fullgraph=True, backend=backend)


def row_attention(group: Tensor, branch: Tensor) -> Attend:
    """The attention of a training row: FlexAttention for a long row on a GPU if it computes fewer scores.

    ``PackedAttention`` pads all episodes of a row to its longest, and so computes many times too much if their lengths
    differ. It runs everywhere and needs no compilation, and its memory is bounded: no mask beyond ``MOST_MASK``.

    Args:
        group: group of every token, ``[N]``.
        branch: branch of every token, ``[N]``.
    """
    packed = PackedAttention(group, branch)
    if not group.is_cuda or len(group) < FLEX_TOKENS:
        return packed
    flex = FlexRowAttention(group, branch)
    return flex if flex_is_cheaper(flex, packed) else packed


def flex_is_cheaper(flex: FlexRowAttention, packed: PackedAttention) -> bool:
    """Whether FlexAttention is expected to be faster, by the scores that each computes."""
    return flex.scores * FLEX_GAIN < packed.scores
