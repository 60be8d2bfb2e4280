"""Keys and values of running groups, and attention over them: nothing is ever encoded twice.

Each group's prompt is kept once; each running episode has a slot with its own tokens. A decoding step gives every slot
one token; an observation gives some slots several. Both are written in place, into tensors that have their full size
from the start where it is known, and grow in steps where it is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Prompts:
    """The keys and values of all prompts.

    Attributes:
        keys: by layer, ``[groups, key_value_heads, P, head_dim]``.
        values: like ``keys``.
        lengths: tokens of every prompt, ``[groups]``.
    """

    keys: list[Tensor]
    values: list[Tensor]
    lengths: Tensor

    @classmethod
    def join(cls, parts: Sequence[PrefillAttention]) -> Prompts:
        """Those of several prefills, one after the other; a layer at a time, so that nothing is held twice for long."""
        lengths = torch.cat([part.lengths for part in parts])
        if len(parts) == 1:
            return cls(parts[0].keys, parts[0].values, lengths)
        most = int(lengths.max())
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for layer in range(len(parts[0].keys)):
            for joined, pieces in ((keys, [part.keys for part in parts]), (values, [part.values for part in parts])):
                padded = [functional.pad(piece[layer], (0, 0, 0, most - piece[layer].shape[2])) for piece in pieces]
                joined.append(torch.cat(padded))
                for piece in pieces:
                    piece[layer] = padded[0].new_empty(0)
        return cls(keys, values, lengths)


class SlotCache:
    """The episodes' keys and values beside their prompts'.

    How full each slot is, and whose, is kept on the host: nothing here waits for a GPU.

    Args:
        prompts: the finished prefill.
        group_of_slot: the group that each slot belongs to.
        capacity: tokens of a slot that there is room for from the start.

    Attributes:
        lengths: tokens in every slot.
    """

    def __init__(self, prompts: Prompts, group_of_slot: Sequence[int], capacity: int = 0) -> None:
        self.prompts = prompts
        self.group_of_slot = list(group_of_slot)
        self.lengths = [0] * len(self.group_of_slot)
        slots, (_, heads, _, width) = len(self.group_of_slot), prompts.keys[0].shape
        # under autocast the rotated keys are float32 and the values are not
        self.keys = [key.new_zeros(slots, heads, capacity, width) for key in prompts.keys]
        self.values = [value.new_zeros(slots, heads, capacity, width) for value in prompts.values]

    @property
    def slots(self) -> int:
        """Number of slots."""
        return len(self.group_of_slot)

    @property
    def capacity(self) -> int:
        """Tokens of a slot that there is room for."""
        return self.keys[0].shape[2]

    def reserve(self, length: int) -> None:
        """Make room for ``length`` tokens in every slot."""
        missing = length - self.capacity
        if missing > 0:
            grow = -(-missing // GROWTH) * GROWTH
            self.keys = [functional.pad(key, (0, 0, 0, grow)) for key in self.keys]
            self.values = [functional.pad(value, (0, 0, 0, grow)) for value in self.values]

    def keep(self, slots: Sequence[int]) -> None:
        """Drop every slot but these, in this order."""
        self.group_of_slot = [self.group_of_slot[slot] for slot in slots]
        self.lengths = [self.lengths[slot] for slot in slots]
        index = torch.tensor(slots, device=self.keys[0].device)
        for layer, (key, value) in enumerate(zip(self.keys, self.values, strict=True)):
            self.keys[layer], self.values[layer] = key[index], value[index]

    def parts(self, lengths: Mapping[int, int], heads: int) -> list[list[int]]:
        """Cut a forward into several whose attention scores, ``[B, heads, L, keys]``, are at most ``MOST_SCORES``.

        Args:
            lengths: new tokens by slot or other name, in order.
            heads: query heads.

        Returns:
            The names, in order; a name of which the scores are more stands alone.
        """
        prompt = self.prompts.keys[0].shape[2] + max(self.lengths)
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

    def attend(self, slots: Sequence[int], new: Sequence[int]) -> SlotAttention:
        """Attention of a forward that appends ``new[i]`` tokens to slot ``slots[i]``; the slots grow by that much.

        Args:
            slots: slots that take part, each once, ``B`` of them.
            new: new tokens of each.
        """
        starts, padded = torch.tensor([self.lengths[slot] for slot in slots]), max(new)
        limit = int(starts.max()) + padded
        self.reserve(limit)
        for slot, count in zip(slots, new, strict=True):
            self.lengths[slot] += count
        columns = starts[:, None] + torch.arange(padded)
        device = self.keys[0].device
        everyone = list(slots) == list(range(self.slots))
        index = torch.tensor(slots).to(device)
        return SlotAttention(self, index, columns.to(device), limit, self.seats(slots), everyone=everyone)

    def seats(self, slots: Sequence[int]) -> Seats:
        """Where slots sit among those of their group."""
        groups = torch.tensor([self.group_of_slot[slot] for slot in slots])
        counts = torch.bincount(groups, minlength=len(self.prompts.lengths))
        order = torch.argsort(groups, stable=True)
        within = torch.arange(len(slots)) - (counts.cumsum(0) - counts)[groups[order]]
        grid = torch.zeros(len(counts), int(counts.max()), dtype=torch.long)
        grid[groups[order], within] = order
        place = torch.empty_like(order)
        place[order] = groups[order] * grid.shape[1] + within
        device = self.keys[0].device
        return Seats(groups.to(device), grid.to(device), place.to(device))


@dataclass(frozen=True)
class Seats:
    """Queries of one group side by side, so that its prompt is read once.

    Attributes:
        groups: group of every slot that takes part, ``[B]``.
        grid: the slots of every group, ``[groups, most slots of a group]``, filled up with 0.
        place: where each slot stands in the grid laid flat, ``[B]``.
    """

    groups: Tensor
    grid: Tensor
    place: Tensor


class SlotAttention:
    """Attention of new tokens over their slot and their group's prompt. Nothing in it waits for a GPU.

    Args:
        cache: keys and values.
        slots: the slots that take part, ``[B]``.
        columns: where in its slot each new token is written, ``[B, L]``.
        limit: tokens of a slot that are looked at.
        seats: of these slots.
        everyone: whether these are all slots of the cache, in order: then none is copied.
    """

    def __init__(
        self, cache: SlotCache, slots: Tensor, columns: Tensor, limit: int, seats: Seats, *, everyone: bool
    ) -> None:
        self.cache, self.slots, self.columns, self.limit, self.seats = cache, slots, columns, limit, seats
        self.everyone = everyone
        prompt_tokens = cache.prompts.keys[0].shape[2]
        in_prompt = torch.arange(prompt_tokens, device=slots.device)
        self.prompt_mask = in_prompt >= cache.prompts.lengths[seats.groups][:, None]
        self.own_mask = torch.arange(limit, device=slots.device) > columns[:, :, None]  # [B, L, limit]

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See ``Attend``; the batch is the slots that take part."""
        cache, slots = self.cache, self.slots
        for stored, new in ((cache.keys[layer], key), (cache.values[layer], value)):
            stored[slots[:, None], :, self.columns] = new.transpose(1, 2)
        own_keys, own_values = cache.keys[layer][:, :, : self.limit], cache.values[layer][:, :, : self.limit]
        if not self.everyone:
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
        groups, most = self.seats.grid.shape
        _, heads, rows, _ = left.shape
        gathered = left[self.seats.grid].transpose(1, 2).reshape(groups, heads, most * rows, -1)
        product = (gathered @ right).view(groups, heads, most, rows, -1).transpose(1, 2)
        return product.flatten(0, 1)[self.seats.place]
