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
        even: whether all are equally long, so that nothing of the padding need be masked.
    """

    keys: list[Tensor]
    values: list[Tensor]
    lengths: Tensor
    even: bool

    @classmethod
    def join(cls, parts: Sequence[PrefillAttention]) -> Prompts:
        """Those of several prefills, one after the other; a layer at a time, so that nothing is held twice for long."""
        lengths = torch.cat([part.lengths for part in parts])
        even = len(set(lengths.tolist())) == 1
        if len(parts) == 1:
            return cls(parts[0].keys, parts[0].values, lengths, even)
        most = int(lengths.max())
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for layer in range(len(parts[0].keys)):
            for joined, pieces in ((keys, [part.keys for part in parts]), (values, [part.values for part in parts])):
                padded = [functional.pad(piece[layer], (0, 0, 0, most - piece[layer].shape[2])) for piece in pieces]
                joined.append(torch.cat(padded))
                for piece in pieces:
                    piece[layer] = padded[0].new_empty(0)
        return cls(keys, values, lengths, even)


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
        self._seated: tuple[list[int], Seats] | None = None  # the last ones: decoding steps come with the same slots
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
        self.group_of_slot, self._seated = [self.group_of_slot[slot] for slot in slots], None
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
        starts, padded = [self.lengths[slot] for slot in slots], max(new)
        limit = max(starts) + padded
        self.reserve(limit)
        for slot, count in zip(slots, new, strict=True):
            self.lengths[slot] += count
        level = padded == 1 and min(starts) == limit - 1
        columns = torch.tensor(starts)[:, None] + torch.arange(padded)
        return SlotAttention(self, self.seats(slots), columns.to(self.keys[0].device), limit, level=level)

    def seats(self, slots: Sequence[int]) -> Seats:
        """Where slots sit among those of their group."""
        if self._seated is None or self._seated[0] != list(slots):
            self._seated = (list(slots), self._seat(slots))
        return self._seated[1]

    def _seat(self, slots: Sequence[int]) -> Seats:
        own = torch.tensor([self.group_of_slot[slot] for slot in slots])
        present, groups = torch.unique(own, return_inverse=True)
        counts = torch.bincount(groups)
        order = torch.argsort(groups, stable=True)
        within = torch.arange(len(slots)) - (counts.cumsum(0) - counts)[groups[order]]
        grid = torch.zeros(len(counts), int(counts.max()), dtype=torch.long)
        grid[groups[order], within] = order
        place = torch.empty_like(order)
        place[order] = groups[order] * grid.shape[1] + within
        regular = grid.numel() == len(slots) and bool((order == torch.arange(len(slots))).all())
        parts = (torch.tensor(slots), present, present[groups], grid, place)
        index, present, groups, grid, place = (part.to(self.keys[0].device) for part in parts)
        everyone, all_groups = list(slots) == list(range(self.slots)), len(present) == len(self.prompts.lengths)
        return Seats(index, None if all_groups else present, groups, grid, place, everyone, regular)


@dataclass(frozen=True)
class Seats:
    """Queries of one group side by side, so that its prompt is read once.

    Attributes:
        slots: the slots that take part, ``[B]``.
        present: the groups that they are of, in order, ``[groups]``; None for all.
        groups: the group of each, ``[B]``.
        grid: the slots of every group that is present, ``[groups, most slots of a group]``, filled up with 0.
        place: where each slot stands in the grid laid flat, ``[B]``.
        everyone: whether these are all slots of the cache, in order: then none is copied.
        regular: whether the grid is full and in order: then it need not be made.
    """

    slots: Tensor
    present: Tensor | None
    groups: Tensor
    grid: Tensor
    place: Tensor
    everyone: bool
    regular: bool


class SlotAttention:
    """Attention of new tokens over their slot and their group's prompt. Nothing in it waits for a GPU.

    Args:
        cache: keys and values.
        seats: the slots that take part, ``B`` of them.
        columns: where in its slot each new token is written, ``[B, L]``.
        limit: tokens of a slot that are looked at.
        level: whether each slot gets one token, and all are full to ``limit`` with it: then nothing is masked.
    """

    def __init__(self, cache: SlotCache, seats: Seats, columns: Tensor, limit: int, *, level: bool) -> None:
        self.cache, self.seats, self.columns, self.limit, self.level = cache, seats, columns, limit, level
        self.prompt_mask: Tensor | None = None  # [B, P]
        self.own_mask: Tensor | None = None  # [B, L, limit]
        if not cache.prompts.even:
            in_prompt = torch.arange(cache.prompts.keys[0].shape[2], device=columns.device)
            self.prompt_mask = in_prompt >= cache.prompts.lengths[seats.groups][:, None]
        if not level:
            self.own_mask = torch.arange(limit, device=columns.device) > columns[:, :, None]

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See ``Attend``; the batch is the slots that take part."""
        cache, slots = self.cache, self.seats.slots
        for stored, new in ((cache.keys[layer], key), (cache.values[layer], value)):
            if self.level and self.seats.everyone:
                stored[:, :, self.limit - 1] = new[:, :, 0]
            else:
                stored[slots[:, None], :, self.columns] = new.transpose(1, 2)
        own_keys, own_values = cache.keys[layer][:, :, : self.limit], cache.values[layer][:, :, : self.limit]
        if not self.seats.everyone:
            own_keys, own_values = own_keys[slots], own_values[slots]
        folded = fold_heads(query, key.shape[1]) * scaling  # [B, key_value_heads, repeats * L, d]
        repeats = query.shape[1] // key.shape[1]
        own = folded @ own_keys.transpose(2, 3)
        if self.own_mask is not None:
            own = own.masked_fill(self.own_mask.repeat(1, repeats, 1)[:, None], float("-inf"))
        prompt = self._by_group(folded, cache.prompts.keys[layer].transpose(2, 3))
        if self.prompt_mask is not None:
            prompt = prompt.masked_fill(self.prompt_mask[:, None, None], float("-inf"))
        weights = torch.cat([prompt, own], dim=3).softmax(3, dtype=torch.float32).to(query.dtype)
        from_prompt, from_own = weights.tensor_split([prompt.shape[3]], dim=3)
        attended = from_own @ own_values + self._by_group(from_prompt, cache.prompts.values[layer])
        return attended.view_as(query)

    def _by_group(self, left: Tensor, right: Tensor) -> Tensor:
        """``left [B, heads, M, K] @ right [groups, heads, K, W]``, each slot with its group, without a copy a slot."""
        right = right if self.seats.present is None else right[self.seats.present]
        groups, most = self.seats.grid.shape
        _, heads, rows, _ = left.shape
        seated = left.view(groups, most, heads, rows, -1) if self.seats.regular else left[self.seats.grid]
        gathered = seated.transpose(1, 2).reshape(groups, heads, most * rows, -1)
        product = (gathered @ right).view(groups, heads, most, rows, -1).transpose(1, 2).flatten(0, 1)
        return product if self.seats.regular else product[self.seats.place]
