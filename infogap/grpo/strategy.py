"""Lightning strategies for several processes: the policy whole on every one, or sharded over all."""

from __future__ import annotations

from datetime import timedelta

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch.distributed.constants import default_pg_timeout


class ReplicatedStrategy(DDPStrategy):
    """Lightning's processes and process group without its ``DistributedDataParallel``.

    DDP averages in every backward pass, so that ranks with other numbers of rows would wait for each other for ever.
    ``GRPOModule`` averages the sums of all rows, once an update: the same gradients, and ranks are free in between.
    """

    def configure_ddp(self) -> None:
        """Leave the module as it is, with the weights of rank 0."""
        assert self.model is not None
        for tensor in [*self.model.parameters(), *self.model.buffers()]:
            torch.distributed.broadcast(tensor.detach(), src=0)


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all processes; its ``auto`` would mean tensor parallelism inside a node.

    Args:
        save_distributed_checkpoint: every rank writes its shard into a folder; False gathers a single file on rank 0.
        process_group_backend: "nccl" or "gloo"; null chooses by the device.
        timeout: after which a collective that some rank never joins is an error.
    """

    def __init__(
        self,
        save_distributed_checkpoint: bool = True,
        process_group_backend: str | None = None,
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        super().__init__(
            data_parallel_size=1,  # known when processes are
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )

    def setup_environment(self) -> None:
        """Shard over as many processes as there are."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


def check_strategy(strategy: Strategy, world_size: int) -> None:
    """Refuse strategies that make ranks wait for each other in every backward pass.

    Raises:
        ValueError: for several processes under another strategy than the two that this package trains with.
    """
    if world_size > 1 and not isinstance(strategy, ReplicatedStrategy | ShardedStrategy):
        raise ValueError(
            f"trainer.strategy is {type(strategy).__name__} with {world_size} processes: add --config "
            "configs/strategy/ddp.yaml (the whole policy on every GPU) or configs/strategy/fsdp.yaml (sharded)."
        )


def check_precision(strategy: Strategy, precision: str, compute_dtype: str | None) -> None:
    """Refuse two ways of computing in bfloat16 at once.

    Args:
        strategy: the trainer's strategy.
        precision: the trainer's precision.
        compute_dtype: the type that sharded weights are gathered in; None for their own.

    Raises:
        ValueError: for autocast over weights that are gathered in a type of their own.
    """
    if isinstance(strategy, ShardedStrategy) and compute_dtype is not None and "mixed" in precision:
        raise ValueError(
            f"trainer.precision is {precision} and model.sharding.compute_dtype {compute_dtype}: set trainer.precision "
            "to 32-true, or give configs/strategy/fsdp.yaml after the model's overlay."
        )
