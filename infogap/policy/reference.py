"""The reference policy of the KL term: the adapters as they were, or a frozen copy. Made only if a KL weight asks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from infogap.policy.model import Policy
from infogap.policy.packing import Row


class Reference:
    """The policy as it was when this object was made.

    With LoRA it costs no copy of the base weights: its adapters as they were are put in place for a forward pass, and
    those that are trained put back. Else it is a frozen copy, which this object and no module holds, so that it is
    neither trained nor written to checkpoints.

    Args:
        policy: the policy at the start of training.
    """

    def __init__(self, policy: Policy) -> None:
        adapters = {name: value for name, value in policy.named_parameters() if ".lora_" in name}
        self._adapters = {name: value.detach().clone() for name, value in adapters.items()}
        self._policy = policy if adapters else copy.deepcopy(policy).requires_grad_(False)

    @torch.no_grad()
    def logprobs(self, row: Row, temperature: float) -> Tensor:
        """Log-probabilities of a row's sampled tokens under the reference, ``[T]``."""
        with self._as_it_was():
            return self._policy.score(row, temperature).logprobs

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        trained = {name: value for name, value in self._policy.named_parameters() if name in self._adapters}
        current = {name: value.detach().clone() for name, value in trained.items()}
        try:
            for name, value in trained.items():
                value.copy_(self._adapters[name])
            yield
        finally:
            for name, value in trained.items():
                value.copy_(current[name])
