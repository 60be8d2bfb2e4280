"""Log-probabilities and entropy of sampled tokens, a slice of tokens at a time.

The logits of a row would be ``[tokens, vocabulary]``: for 32,000 tokens and Qwen's vocabulary 20 GB in float32. Each
slice is computed, reduced and dropped, and computed again in the backward pass. A slice has as many tokens as make a
fixed number of logits, so that its memory does not depend on the vocabulary: some four copies of it are alive at once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

SLICE_LOGITS = 1 << 26
"""Logits of a slice: 441 tokens of Qwen's vocabulary, 256 MiB in float32."""


class TokenScores(NamedTuple):
    """Of every sampled token, float32 ``[T]``: its log-probability (with gradient) and the entropy (without)."""

    logprobs: Tensor
    entropy: Tensor


def scaled_logits(logits: Tensor, banned: Tensor, temperature: float) -> Tensor:
    """Logits of the distribution that is sampled from (before top-p), float32.

    Args:
        logits: ``[..., vocabulary]``.
        banned: ids that can never be sampled, ``[banned]``.
        temperature: above 0.
    """
    return (logits.float() / temperature).index_fill(-1, banned, float("-inf"))


def token_scores(
    head: nn.Linear, hidden: Tensor, target: Tensor, banned: Tensor, temperature: float, chunk: int | None = None
) -> TokenScores:
    """Score the sampled tokens.

    Args:
        head: the language-model head.
        hidden: the state that predicts each token, ``[T, width]``.
        target: the tokens, ``[T]``.
        banned: ids that the sampler never draws, ``[banned]``.
        temperature: the sampler's temperature, so that these are the probabilities that the tokens were drawn with.
        chunk: tokens a slice; None for as many as make ``SLICE_LOGITS``.
    """
    chunk = chunk or max(1, SLICE_LOGITS // head.out_features)

    def score(states: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        logprobs = scaled_logits(head(states), banned, temperature).log_softmax(-1)
        with torch.no_grad():
            entropy = -(logprobs.exp() * logprobs.clamp_min(-1e4)).sum(-1)
        return logprobs.gather(-1, wanted[:, None])[:, 0], entropy

    # torch.split of nothing is one empty piece, so there is always something to join
    pieces: list[tuple[Tensor, Tensor]] = []
    for states, wanted in zip(torch.split(hidden, chunk), torch.split(target, chunk), strict=True):
        single = len(target) <= chunk or not torch.is_grad_enabled()
        pieces.append(score(states, wanted) if single else checkpoint(score, states, wanted, use_reentrant=False))
    return TokenScores(torch.cat([logprobs for logprobs, _ in pieces]), torch.cat([entropy for _, entropy in pieces]))
