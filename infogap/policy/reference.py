"""The reference policy of the KL term: the adapters as they were, or a frozen copy. Made only if a KL weight asks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from infogap.policy.model import Policy, RowScores
from infogap.policy.packing import Row
from infogap.policy.sharding import reshard


def reference_policy(policy: Policy) -> Policy:
    """The policy that a reference plays: with adapters the same, else a frozen copy. To be called before sharding."""
    if any(".lora_" in name for name, _ in policy.named_parameters()):
        return policy
    return copy.deepcopy(policy).requires_grad_(False)


class Reference:
    """The policy as it was when this object was made.

    With LoRA it costs no copy of the base weights: what is trained, as it was, is put in place for a forward pass, and
    the present weights put back. Else it is a frozen copy, which this object and no module holds, so that it is neither
    trained nor written to checkpoints.

    Args:
        policy: what ``reference_policy`` returned, sharded or not.
    """

    def __init__(self, policy: Policy) -> None:
        # beside adapters a vision tower may be trained in full; a frozen copy trains nothing
        trained = {name: value for name, value in policy.named_parameters() if value.requires_grad}
        self._before = {name: value.detach().clone() for name, value in trained.items()}
        self._policy = policy

    @torch.no_grad()
    def logprobs(self, row: Row, temperature: float) -> Tensor:
        """Log-probabilities of a row's sampled tokens under the reference, ``[T]``."""
        with self._as_it_was():
            scores: RowScores = self._policy(row, temperature)
            return scores.logprobs

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        reshard(self._policy)  # what is changed are the shards, not what a pass before has gathered
        trained = {name: value for name, value in self._policy.named_parameters() if name in self._before}
        current = {name: value.detach().clone() for name, value in trained.items()}
        try:
            for name, value in trained.items():
                value.copy_(self._before[name])
            yield
        finally:
            reshard(self._policy)
            for name, value in trained.items():
                value.copy_(current[name])
