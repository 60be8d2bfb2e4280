"""Keys and values of running groups, and attention over them: nothing is ever encoded twice.

Each group's prompt is kept once; each running episode has a slot with its own tokens. A decoding step gives every slot
one token; an observation gives some slots several. Both are written in place, into tensors that grow in steps.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from infogap.policy.attention import PackedAttention, fold_heads
from infogap.policy.packing import PROMPT_BRANCH

GROWTH = 64
"""Tokens by which the slots grow when they are full."""


MOST_SCORES = 1 << 29
"""Attention scores of one pass over observations: 2 GiB in float32, and more for what is made of them."""


class PrefillAttention(PackedAttention):
    """Attention of a row of prompts that keeps their keys and values for the episodes to come.

    Attributes:
        keys: by layer, ``[groups, key_value_heads, P, head_dim]``.
        values: like ``keys``.
        lengths: tokens of every prompt, ``[groups]``.
    """

    def __init__(self, group: Tensor) -> None:
        super().__init__(group, torch.full_like(group, PROMPT_BRANCH))
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.lengths = torch.bincount(group)

    def keep_prompt(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Keep a layer's keys and values; layers come in order."""
        assert layer == len(self.keys)
        self.keys.append(key.contiguous())
        self.values.append(value.contiguous())


class SlotCache:
    """The episodes' keys and values beside their prompts'.

    Args:
        prompts: the finished prefill.
        group_of_slot: the group that each slot belongs to, ``[slots]``.
    """

    def __init__(self, prompts: PrefillAttention, group_of_slot: Tensor) -> None:
        self.prompts = prompts
        self.group_of_slot = group_of_slot
        self.lengths = torch.zeros_like(group_of_slot)
        slots, (_, heads, _, width) = len(group_of_slot), prompts.keys[0].shape
        # under autocast the rotated keys are float32 and the values are not
        self.keys = [key.new_empty(slots, heads, 0, width) for key in prompts.keys]
        self.values = [value.new_empty(slots, heads, 0, width) for value in prompts.values]

    @property
    def slots(self) -> int:
        """Number of slots."""
        return len(self.group_of_slot)

    def reserve(self, length: int) -> None:
        """Make room for ``length`` tokens in every slot."""
        missing = length - self.keys[0].shape[2]
        if missing > 0:
            grow = -(-missing // GROWTH) * GROWTH
            self.keys = [functional.pad(key, (0, 0, 0, grow)) for key in self.keys]
            self.values = [functional.pad(value, (0, 0, 0, grow)) for value in self.values]

    def keep(self, slots: Tensor) -> None:
        """Drop every slot but these, in this order."""
        self.group_of_slot, self.lengths = self.group_of_slot[slots], self.lengths[slots]
        self.keys = [key[slots] for key in self.keys]
        self.values = [value[slots] for value in self.values]

    def parts(self, lengths: Mapping[int, int], heads: int) -> list[list[int]]:
        """Cut a forward into several whose attention scores, ``[B, heads, L, keys]``, are at most ``MOST_SCORES``.

        Args:
            lengths: new tokens by slot or other name, in order.
            heads: query heads.

        Returns:
            The names, in order; a name of which the scores are more stands alone.
        """
        prompt = self.prompts.keys[0].shape[2] + int(self.lengths.max())
        parts: list[list[int]] = []
        longest = 0
        for name, length in lengths.items():
            longest = max(longest, length)
            scores = (len(parts[-1]) + 1 if parts else 1) * heads * longest * (prompt + longest)
            if not parts or scores > MOST_SCORES:
                parts.append([])
                longest = length
            parts[-1].append(name)
        return parts

    def attend(self, slots: Tensor, lengths: Tensor) -> SlotAttention:
        """Attention of a forward that appends ``lengths[i]`` tokens to slot ``slots[i]``; the slots grow by that much.

        Args:
            slots: slots that take part, each once, ``[B]``.
            lengths: new tokens of each, at most the padded length of the batch, ``[B]``.
        """
        starts = self.lengths[slots]
        padded = int(lengths.max())
        self.reserve(int(starts.max()) + padded)
        self.lengths[slots] = starts + lengths
        return SlotAttention(self, slots, starts, padded)


class SlotAttention:
    """Attention of new tokens over their slot and their group's prompt. See ``SlotCache.attend``."""

    def __init__(self, cache: SlotCache, slots: Tensor, starts: Tensor, padded: int) -> None:
        device = slots.device
        self.cache, self.slots = cache, slots
        self.all_slots = len(slots) == cache.slots and bool((slots == torch.arange(len(slots), device=device)).all())
        self.columns = starts[:, None] + torch.arange(padded, device=device)  # [B, L]: where the new tokens are written
        self.limit = int(starts.max()) + padded
        own = torch.arange(self.limit, device=device) <= self.columns[:, :, None]  # [B, L, limit]
        # queries of one group side by side, so that its prompt is read once: grid [groups, most slots of a group]
        groups = cache.group_of_slot[slots]
        order = torch.argsort(groups, stable=True)
        counts = torch.bincount(groups, minlength=len(cache.prompts.lengths))
        within = torch.arange(len(slots), device=device) - (counts.cumsum(0) - counts)[groups[order]]
        self.grid = torch.zeros(len(counts), int(counts.max()), dtype=torch.long, device=device)
        self.grid[groups[order], within] = order
        self.place = torch.empty_like(order)
        self.place[order] = groups[order] * self.grid.shape[1] + within
        prompt_tokens = cache.prompts.keys[0].shape[2]
        seen = torch.arange(prompt_tokens, device=device) < cache.prompts.lengths[groups][:, None]
        self.own_mask, self.prompt_mask = ~own, ~seen

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See ``Attend``; the batch is the slots that take part."""
        cache, slots = self.cache, self.slots
        for stored, new in ((cache.keys[layer], key), (cache.values[layer], value)):
            stored[slots[:, None], :, self.columns] = new.transpose(1, 2)
        own_keys, own_values = cache.keys[layer][:, :, : self.limit], cache.values[layer][:, :, : self.limit]
        if not self.all_slots:
            own_keys, own_values = own_keys[slots], own_values[slots]
        folded = fold_heads(query, key.shape[1]) * scaling  # [B, key_value_heads, repeats * L, d]
        repeats = query.shape[1] // key.shape[1]
        own = folded @ own_keys.transpose(2, 3)
        own = own.masked_fill(self.own_mask.repeat(1, repeats, 1)[:, None], float("-inf"))
        prompt = self._by_group(folded, cache.prompts.keys[layer].transpose(2, 3))
        prompt = prompt.masked_fill(self.prompt_mask[:, None, None], float("-inf"))
        weights = torch.cat([prompt, own], dim=3).softmax(3, dtype=torch.float32).to(query.dtype)
        from_prompt, from_own = weights.tensor_split([prompt.shape[3]], dim=3)
        attended = from_own @ own_values + self._by_group(from_prompt, cache.prompts.values[layer])
        return attended.view_as(query)

    def _by_group(self, left: Tensor, right: Tensor) -> Tensor:
        """``left [B, heads, M, K] @ right [groups, heads, K, W]``, each slot with its group, without a copy a slot."""
        groups, most = self.grid.shape
        _, heads, rows, _ = left.shape
        gathered = left[self.grid].transpose(1, 2).reshape(groups, heads, most * rows, -1)
        product = (gathered @ right).view(groups, heads, most, rows, -1).transpose(1, 2)
        return product.flatten(0, 1)[self.place]
