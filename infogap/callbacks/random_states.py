"""The states of all random number generators of a process, as plain values that a checkpoint may hold."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

RandomStates = dict[str, Any]


def random_states(device: torch.device) -> RandomStates:
    """States of the generators of Python, numpy, torch, and the device if it is a GPU."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        # loading weights only admits no arrays
        "numpy": (str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_states(states: RandomStates, device: torch.device) -> None:
    """Set all generators to what they were; the GPU's only where there was and is one."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


def gather_random_states(device: torch.device) -> list[RandomStates]:
    """The states of every rank, in order; all ranks must ask."""
    own = random_states(device)
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [own]
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, own)
    return gathered
