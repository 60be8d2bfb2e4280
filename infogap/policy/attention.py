"""Attention of packed rows, plugged into transformers under one name.

The model's attention layers call whatever ``attend`` object the forward was given, so that training, prefill and
decoding differ in that object and in nothing else. All of them compute the same rule (see ``visible``).
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


def visible(group: Tensor, branch: Tensor) -> Tensor:
    """The rule itself, as a matrix: whether query i sees key j.

    Args:
        group: group of every token, ``[N]``.
        branch: branch of every token, -1 in a prompt, ``[N]``.

    Returns:
        Bool ``[N, N]``.
    """
    order = torch.arange(len(group), device=group.device)
    same_group = group[:, None] == group[None, :]
    same_branch = (branch[None, :] == PROMPT_BRANCH) | (branch[:, None] == branch[None, :])
    return same_group & same_branch & (order[:, None] >= order[None, :])


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


class PackedAttention:
    """One row as two small batches: the prompts among themselves, and each episode over its prompt and itself.

    Exactly ``visible``, without the entries that are never visible: work grows with episodes * (prompt + episode),
    where the dense mask grows with the square of the whole row.

    Args:
        group: group of every token, ``[N]``.
        branch: branch of every token, ``[N]``.
    """

    def __init__(self, group: Tensor, branch: Tensor) -> None:
        device = group.device
        groups = sorted(set(group.tolist()))
        found = set(zip(group.tolist(), branch.tolist(), strict=True))
        pairs = sorted(pair for pair in found if pair[1] != PROMPT_BRANCH)
        prompt_at = [((group == g) & (branch == PROMPT_BRANCH)).nonzero()[:, 0] for g in groups]
        episode_at = [((group == g) & (branch == b)).nonzero()[:, 0] for g, b in pairs]
        self.prompt_index, prompt_valid = _pad(prompt_at, device)  # [groups, P]
        self.episode_index, episode_valid = _pad(episode_at, device)  # [episodes, L]
        numbers = {g: number for number, g in enumerate(groups)}
        self.parent = torch.tensor([numbers[g] for g, _ in pairs], dtype=torch.long, device=device)
        # where each token of the row stands in the two batches laid flat
        flat = torch.cat([self.prompt_index[prompt_valid], self.episode_index[episode_valid]])
        place = torch.cat([prompt_valid.flatten(), episode_valid.flatten()]).nonzero()[:, 0]
        self.inverse = torch.empty_like(flat)
        self.inverse[flat] = place
        length = self.episode_index.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        seen_prompt = prompt_valid[self.parent][:, None, :].expand(-1, length, -1)
        self.mask = torch.cat([seen_prompt, causal.expand(len(pairs), -1, -1)], dim=2)  # [episodes, L, P + L]

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See ``Attend``; the batch is one row."""
        heads, width = query.shape[1], query.shape[3]
        prompt_query, prompt_key, prompt_value = (
            t[0][:, self.prompt_index].transpose(0, 1) for t in (query, key, value)
        )
        self.keep_prompt(layer, prompt_key, prompt_value)
        attended = functional.scaled_dot_product_attention(
            prompt_query, prompt_key, prompt_value, is_causal=True, scale=scaling, enable_gqa=heads != key.shape[1]
        )
        flat = attended.transpose(1, 2).reshape(-1, heads, width)
        if len(self.parent):
            own_query, own_key, own_value = (t[0][:, self.episode_index].transpose(0, 1) for t in (query, key, value))
            keys = torch.cat([prompt_key[self.parent], own_key], dim=2)
            values = torch.cat([prompt_value[self.parent], own_value], dim=2)
            folded = fold_heads(own_query, keys.shape[1])
            mask = self.mask.repeat(1, heads // keys.shape[1], 1)[:, None]
            attended = functional.scaled_dot_product_attention(folded, keys, values, attn_mask=mask, scale=scaling)
            flat = torch.cat([flat, attended.view_as(own_query).transpose(1, 2).reshape(-1, heads, width)])
        return flat[self.inverse].transpose(0, 1)[None]

    def keep_prompt(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Called with every layer's keys and values of the prompts, ``[groups, heads, P, d]``; a prefill keeps them."""


def _pad(indices: list[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Index lists as one ``[lists, longest]`` tensor, padded with 0, and which entries are real."""
    lengths = torch.tensor([len(index) for index in indices], dtype=torch.long, device=device)
    if not indices:
        return torch.zeros(0, 0, dtype=torch.long, device=device), torch.zeros(0, 0, dtype=torch.bool, device=device)
    padded = nn.utils.rnn.pad_sequence(indices, batch_first=True)
    return padded, torch.arange(padded.shape[1], device=device) < lengths[:, None]
