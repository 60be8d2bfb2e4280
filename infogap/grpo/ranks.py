"""All processes of a run, as the algorithm sees them: sums over them, and the largest of a count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """The processes of a run.

    Attributes:
        strategy: Lightning's, which moves the numbers.
        rank: this process.
        world_size: number of processes; with one, nothing is moved.
    """

    strategy: Strategy
    rank: int
    world_size: int

    def sum(self, local: Tensor) -> Tensor:
        """The sum of a tensor of any shape over ranks, wherever it lives; all ranks call."""
        if self.world_size == 1:
            return local
        # a copy, since gloo sums in place
        moved = local.to(self.strategy.root_device, copy=True)
        return torch.as_tensor(self.strategy.reduce(moved, reduce_op="sum")).to(local.device)

    def most(self, count: int) -> int:
        """The largest of a count over ranks; all ranks call."""
        if self.world_size == 1:
            return count
        return int(self.strategy.reduce(torch.tensor(count, device=self.strategy.root_device), reduce_op="max"))

    def places(self, count: int) -> list[int]:
        """Places of this rank's samples among those of all ranks, which take them in turn."""
        return [number * self.world_size + self.rank for number in range(count)]
