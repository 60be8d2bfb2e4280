"""Drawing a token from logits: temperature, top-p, and a uniform number that somebody else drew."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from infogap.policy.logprobs import scaled_logits


@dataclass
class SamplingConfig:
    """How tokens are drawn.

    Args:
        temperature: divides the logits; 0 takes the most likely token. LFPC: not published, 1.0 as DeepEyes.
        top_p: draw from the smallest set of tokens with this probability; 1.0 draws from all. Log-probabilities are
            those before top-p, as in TRL.

    Raises:
        ValueError: if a value is out of its range.
    """

    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if self.temperature < 0:
            raise ValueError(f"sampling.temperature is {self.temperature}: give 0 (greedy) or a positive number.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"sampling.top_p is {self.top_p}: give a number above 0 and up to 1.")

    @property
    def scoring_temperature(self) -> float:
        """Temperature at which log-probabilities are given: that of sampling, 1 for greedy decoding."""
        return self.temperature or 1.0


def draw(logits: Tensor, uniform: Tensor, banned: Tensor, config: SamplingConfig) -> tuple[Tensor, Tensor]:
    """Draw one token from every row of logits. Nothing in it waits for a GPU.

    Args:
        logits: ``[B, vocabulary]``.
        uniform: a number in [0, 1) for each row, ``[B]``.
        banned: ids that are never drawn, ``[ids]``.
        config: temperature and top-p.

    Returns:
        Tokens ``[B]`` and their log-probabilities ``[B]``.
    """
    logprobs = scaled_logits(logits, banned, config.scoring_temperature).log_softmax(-1)
    if config.temperature == 0:
        tokens = logprobs.argmax(-1)
    elif config.top_p == 1:
        tokens = _point(logprobs.exp(), uniform)
    else:
        ordered, order = logprobs.exp().sort(dim=-1, descending=True)
        # a token is kept if those before it do not fill top_p
        kept = ordered.cumsum(-1) - ordered < config.top_p
        tokens = order.gather(-1, _point(ordered * kept, uniform)[:, None])[:, 0]
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]


def _point(mass: Tensor, uniform: Tensor) -> Tensor:
    """Where a point that is uniform over the mass of a row falls, ``[B]``: the inverse of the distribution function."""
    cumulative = mass.cumsum(-1)
    place = torch.searchsorted(cumulative, uniform.to(mass)[:, None] * cumulative[:, -1:], right=True)[:, 0]
    # rounding may leave the point behind everything: the last token that has mass
    last = mass.shape[-1] - 1 - (mass > 0).flip(-1).int().argmax(-1)
    return torch.minimum(place, last)
