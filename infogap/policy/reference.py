"""The reference policy of the KL term: the adapter switched off, or a frozen copy. Made only if a KL weight asks."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor

from infogap.policy.model import Policy
from infogap.policy.packing import Row


class Reference:
    """The policy as it was when this object was made.

    With LoRA it costs nothing: the base weights are the reference. Else it is a frozen copy, which this object and no
    module holds, so that it is neither trained nor written to checkpoints.

    Args:
        policy: the policy at the start of training.
    """

    def __init__(self, policy: Policy) -> None:
        self._adapted = hasattr(policy.model, "disable_adapter")
        self._policy = policy if self._adapted else copy.deepcopy(policy).requires_grad_(False)

    @torch.no_grad()
    def logprobs(self, row: Row, temperature: float) -> Tensor:
        """Log-probabilities of a row's sampled tokens under the reference, ``[T]``."""
        model = cast(Any, self._policy.model)  # a PeftModel if it is adapted
        with model.disable_adapter() if self._adapted else nullcontext():
            return self._policy.score(row, temperature).logprobs
