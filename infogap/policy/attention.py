"""Attention of packed rows, plugged into transformers under one name.

The model's attention layers call whatever ``attend`` object the forward was given, so that training, prefill and
decoding differ in that object and in nothing else. All of them compute the same rule (see ``sees``).

What was run: everything here, on the CPU. On a GPU nothing was, for want of one; ``tests/test_attention.py`` compares
``PackedAttention`` with the dense mask where there is a GPU, in single and half precision.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from infogap.policy.packing import PROMPT_BRANCH

IMPLEMENTATION = "infogap_packed"


class Attend(Protocol):
    """Attention of one forward pass."""

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Attend.

        Args:
            layer: number of the layer.
            query: ``[batch, heads, length, head_dim]``, rotated.
            key: ``[batch, key_value_heads, length, head_dim]``, rotated.
            value: like ``key``.
            scaling: factor of the scores.

        Returns:
            ``[batch, heads, length, head_dim]``.
        """
        ...


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    attend: Attend | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The function that transformers' attention layers call."""
    if attend is None:
        raise ValueError("This model attends packed rows only: pass attend=..., or load it with transformers alone.")
    layer = module.layer_idx
    assert isinstance(layer, int)
    return attend(layer, query, key, value, scaling).transpose(1, 2), None


AttentionInterface.register(IMPLEMENTATION, _attention)


def related(group: Tensor, branch: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """The rule without the order: whether a query may see a key, provided that the key is not after it.

    Args:
        group: group of every token, ``[N]``. Instead of tokens these may be distinct pairs of group and branch.
        branch: branch of every token, -1 in a prompt, ``[N]``.
        query: indices of queries, of any shape.
        key: indices of keys, of any shape that broadcasts with that of ``query``.

    Returns:
        Bool, of the broadcast shape.
    """
    return (group[query] == group[key]) & ((branch[key] == PROMPT_BRANCH) | (branch[query] == branch[key]))


def sees(group: Tensor, branch: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """The rule itself: whether query sees key. Arguments and result as in ``related``; tokens only."""
    return related(group, branch, query, key) & (query >= key)


def visible(group: Tensor, branch: Tensor) -> Tensor:
    """The rule as a matrix: whether query i sees key j, ``[N, N]``."""
    order = torch.arange(len(group), device=group.device)
    return sees(group, branch, order[:, None], order[None, :])


def fold_heads(query: Tensor, key_value_heads: int) -> Tensor:
    """Query heads that share a key head, laid one after the other in its length: no key is repeated.

    ``[batch, heads, length, d]`` to ``[batch, key_value_heads, heads / key_value_heads * length, d]``.
    """
    batch, heads, length, width = query.shape
    return query.reshape(batch, key_value_heads, heads // key_value_heads * length, width)


class DenseAttention:
    """One row under the full ``[N, N]`` mask: short, obviously right, quadratic in the row. The reference in tests."""

    def __init__(self, group: Tensor, branch: Tensor) -> None:
        self.mask = visible(group, branch)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See ``Attend``."""
        folded = fold_heads(query, key.shape[1])
        mask = self.mask.repeat(folded.shape[2] // len(self.mask), 1)
        attended = functional.scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=scaling)
        return attended.view_as(query)


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """The type that attention computes in: autocast's where it is on, because rotated queries are float32 there.

    Args:
        tensor: queries, keys or values, of any shape.
    """
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


def flash_takes(tensor: Tensor) -> bool:
    """Whether CUDA's flash kernels take a tensor of any shape: half precision, on an Ampere GPU or a newer one."""
    if not tensor.is_cuda or compute_dtype(tensor) not in (torch.float16, torch.bfloat16):
        return False
    return torch.version.hip is None and torch.cuda.get_device_capability(tensor.device) >= (8, 0)


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Causal attention of sequences that are padded at their ends, which no earlier token sees. Arguments: ``Attend``.

    No mask is made. Keys are repeated for their query heads only on a GPU without a flash kernel: there, nothing else
    takes fewer key heads than query heads but the kernel that keeps all scores.
    """
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1 and query.is_cuda and not flash_takes(query):
        key, value = (each.repeat_interleave(repeats, dim=1) for each in (key, value))
    grouped = query.shape[1] != key.shape[1]
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=grouped)


MOST_MASK = 1 << 24
"""Entries of a mask of ``PackedAttention``. Repeated for seven query heads a key head, and once more as numbers of the
scores' type, this is 350 MB in half precision."""


class PackedAttention:
    """One row as two small batches: the prompts among themselves, and each episode over its prompt and itself.

    Exactly ``visible``, without most entries that are never visible: work grows with the episodes and the square of
    the longest, where the dense mask grows with the square of the whole row. The episodes are attended in one of two
    ways, whichever is cheaper (see ``mask``):

    * *masked*: an episode's own queries over its prompt and itself, under an explicit mask, ``L * (P + L)`` scores.
    * *whole*: prompt and episode as one causal sequence, ``(P + L)^2 / 2`` scores, of which the prompt's are thrown
      away. No mask is made, so that memory grows with the tokens alone. Chosen if episodes are at least as long as
      prompts, or if masks would have more than ``MOST_MASK`` entries: 16 episodes of 6,000 tokens after a prompt of
      1,000 would have masks of 0.7 billion, repeated for every query head of a key head.

    Args:
        group: group of every token, ``[N]``.
        branch: branch of every token, ``[N]``.

    Attributes:
        mask: ``[episodes, L, P + L]`` if the episodes are masked, None if they are whole.
        scores: scores that are computed for each query head.
    """

    def __init__(self, group: Tensor, branch: Tensor) -> None:
        device = group.device
        group, branch = group.cpu(), branch.cpu()  # one wait for the device, and none for every episode
        groups = sorted(set(group.tolist()))
        found = set(zip(group.tolist(), branch.tolist(), strict=True))
        pairs = sorted(pair for pair in found if pair[1] != PROMPT_BRANCH)
        numbers = {g: number for number, g in enumerate(groups)}
        prompt_at = [((group == g) & (branch == PROMPT_BRANCH)).nonzero()[:, 0] for g in groups]
        episode_at = [((group == g) & (branch == b)).nonzero()[:, 0] for g, b in pairs]
        parent = torch.tensor([numbers[g] for g, _ in pairs], dtype=torch.long)
        prompt_index, prompt_valid = _pad(prompt_at)  # [groups, P]
        episode_index, episode_valid = _pad(episode_at)  # [episodes, L]
        self.scores = len(groups) * prompt_index.shape[1] ** 2 // 2
        self.mask: Tensor | None = None
        self._added: Tensor | None = None  # the mask as numbers, for all query heads of a key head; one for all layers
        masked = len(pairs) * episode_index.shape[1] * (prompt_index.shape[1] + episode_index.shape[1])
        if episode_index.shape[1] >= prompt_index.shape[1] or masked > MOST_MASK:
            whole = [torch.cat([prompt_at[number], at]) for number, at in zip(parent, episode_at, strict=True)]
            episode_index, in_whole = _pad(whole)
            own = torch.tensor([len(prompt_at[number]) for number in parent], dtype=torch.long)
            episode_valid = in_whole & (torch.arange(in_whole.shape[1]) >= own[:, None])
            self.scores += len(pairs) * episode_index.shape[1] ** 2 // 2
        else:
            self.scores += masked
            self.mask = _mask(prompt_valid[parent], episode_index.shape[1]).to(device)
        # where each token of the row stands in the two batches laid flat
        flat = torch.cat([prompt_index[prompt_valid], episode_index[episode_valid]])
        inverse = torch.empty_like(flat)
        inverse[flat] = torch.cat([prompt_valid.flatten(), episode_valid.flatten()]).nonzero()[:, 0]
        self.prompt_index, self.episode_index, self.parent, self.inverse = (
            each.to(device) for each in (prompt_index, episode_index, parent, inverse)
        )

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See ``Attend``; the batch is one row."""
        heads, width = query.shape[1], query.shape[3]
        prompts = self._batch(self.prompt_index, query, key, value)
        self.keep_prompt(layer, prompts[1], prompts[2])
        batches = [causal_attention(*prompts, scaling)]
        if len(self.parent):
            own = self._batch(self.episode_index, query, key, value)
            whole = self.mask is None
            batches.append(causal_attention(*own, scaling) if whole else self._masked(prompts, own, scaling))
        flat = torch.cat([each.transpose(1, 2).reshape(-1, heads, width) for each in batches])
        return flat.index_select(0, self.inverse).transpose(0, 1)[None]

    def _batch(self, index: Tensor, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens ``index [B, L]`` of the row, each ``[B, heads, L, d]``."""
        # the backward pass of index_select adds; that of an index in brackets sorts first, in one thread of a CPU
        query, key, value = (
            each[0].index_select(1, index.flatten()).view(each.shape[1], *index.shape, -1).transpose(0, 1)
            for each in (query, key, value)
        )
        return query, key, value

    def _masked(
        self, prompts: tuple[Tensor, Tensor, Tensor], own: tuple[Tensor, Tensor, Tensor], scaling: float
    ) -> Tensor:
        """Queries, keys and values of episodes, ``[episodes, heads, L, d]``, over themselves and their prompts."""
        assert self.mask is not None
        query = own[0]
        key, value = (
            torch.cat([p.index_select(0, self.parent), o], dim=2) for p, o in zip(prompts[1:], own[1:], strict=True)
        )
        folded = fold_heads(query, key.shape[1])
        if self._added is None or self._added.dtype != compute_dtype(query):
            mask = self.mask.repeat(1, query.shape[1] // key.shape[1], 1)[:, None]
            self._added = torch.zeros(mask.shape, dtype=compute_dtype(query), device=mask.device)
            self._added.masked_fill_(~mask, float("-inf"))
        attended = functional.scaled_dot_product_attention(folded, key, value, attn_mask=self._added, scale=scaling)
        return attended.view_as(query)

    def keep_prompt(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Called with every layer's keys and values of the prompts, ``[groups, heads, P, d]``; a prefill keeps them.

        Args:
            layer: number of the layer.
            key: rotated keys, ``[groups, heads, P, d]``.
            value: values, like ``key``.
        """


def _pad(indices: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Index lists as one ``[lists, longest]`` tensor, padded with 0, and which entries are real."""
    if not indices:
        return torch.zeros(0, 0, dtype=torch.long), torch.zeros(0, 0, dtype=torch.bool)
    lengths = torch.tensor([len(index) for index in indices])
    padded = nn.utils.rnn.pad_sequence(indices, batch_first=True)
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]


def _mask(prompt_valid: Tensor, length: int) -> Tensor:
    """What episodes of ``length`` tokens see of their prompts ``[episodes, P]`` and of themselves."""
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    seen_prompt = prompt_valid[:, None, :].expand(-1, length, -1)
    return torch.cat([seen_prompt, causal.expand(len(prompt_valid), -1, -1)], dim=2)
