"""One policy over several processes: fully sharded (FSDP2), or a copy on each with averaged gradients.

Sharded, every process keeps its part of each weight, gradient and optimiser state. An update gathers a layer when it
comes to it. A rollout does not: it takes hundreds of passes over weights that do not change, of a number that differs
from process to process, so the whole policy is gathered once, in the type that is computed in, and played from a plain
copy of the modules without a collective (``resident``).

A frozen vision tower is not sharded but kept whole everywhere (0.67 of the 8.3 billion parameters of the 7B): processes
encode different numbers of images, and would otherwise wait for each other.

Source: FSDP2's own documentation (``torch.distributed.fsdp.fully_shard``); shard by layer, embedding and head with the
root, as torchtitan does.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from infogap.policy.model import Policy
from infogap.policy.packing import Chunk, Group, Row, pack

_WHOLE: WeakKeyDictionary[Policy, Policy] = WeakKeyDictionary()
"""The plain modules that a sharded policy is played from; hollow while nobody plays."""


@dataclass
class ShardingConfig:
    """How a policy is sharded; nothing of this matters to a run without FSDP.

    Args:
        compute_dtype: type that layers are gathered and computed in; null is that of the weights. Gradients are
            reduced in float32. With float32 weights, "bfloat16" needs no autocast and gathers half the bytes.
        reshard_after_forward: free a layer after its forward pass and gather it again in the backward pass. False
            saves the second gathering and keeps the whole policy in memory during an update.
    """

    compute_dtype: Literal["float32", "bfloat16"] | None = None
    reshard_after_forward: bool = True


def shard(policy: Policy, mesh: DeviceMesh, config: ShardingConfig) -> None:
    """Shard a policy in place and move it to the mesh's device. From then on only ``policy(row, ...)`` may run it.

    Args:
        policy: the whole policy, with the same weights on every rank. Adapters, which are drawn at random, take those
            of rank 0.
        mesh: the data-parallel ranks, one dimension.
        config: how.
    """
    whole = _hollow(policy)
    _spread_adapters(policy, mesh)
    compute = None if config.compute_dtype is None else getattr(torch, config.compute_dtype)
    reduce = None if compute is None else torch.float32
    precision = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=reduce)
    # the tower's blocks are given rotations in float32, which coarser numbers would turn by whole patches
    in_tower = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=reduce, cast_forward_inputs=False)
    language, tower = cast(Any, policy.parts.model.language_model), cast(Any, policy.parts.model.visual)
    trained_tower = any(parameter.requires_grad for parameter in tower.parameters())
    if not trained_tower and compute is not None:
        for parameter in tower.parameters():  # its buffers are frequencies, which stay exact
            parameter.data = parameter.data.to(compute)
    layers = [(layer, precision) for layer in language.layers]
    layers += [(block, in_tower) for block in tower.blocks] if trained_tower else []
    for layer, own_precision in layers:
        fully_shard(layer, mesh=mesh, mp_policy=own_precision, reshard_after_forward=config.reshard_after_forward)
    ignored = set() if trained_tower else set(tower.parameters())
    fully_shard(policy, mesh=mesh, mp_policy=precision, ignored_params=ignored)
    policy.to(mesh.device_type)  # buffers, and a tower that is not sharded
    policy.always_encodes = trained_tower
    _WHOLE[policy] = whole
    with torch.no_grad():  # FSDP2 takes the module that runs first for the root
        policy(idle_row(policy), 1.0)
    reshard(policy)


def reshard(policy: Policy) -> None:
    """Give back gathered weights, so that the policy's parameters are its shards; nothing if it is not sharded."""
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def is_sharded(policy: Policy) -> bool:
    """Whether ``shard`` was called on it."""
    return policy in _WHOLE


@contextmanager
def resident(policy: Policy) -> Iterator[Policy]:
    """The policy to play with: itself, or for a sharded one plain modules over all of its weights, gathered.

    All ranks enter and leave together. In between none waits for another, and nothing is trained.
    """
    if not is_sharded(policy):
        yield policy
        return
    whole = _WHOLE[policy]
    units = [module for module in policy.modules() if isinstance(module, FSDPModule)]
    try:
        for unit in units:
            unit.unshard()
        _fill(whole, policy)
        yield whole
    finally:
        _fill(whole, None)
        reshard(policy)


def idle_row(policy: Policy) -> Row:
    """The shortest row with a sampled token: what a rank runs, without loss, when others have more rows than it."""
    stop = (policy.vocabulary.stop,)
    return pack([Group(Chunk(stop), ((Chunk(stop, sampled=True),),))], policy.vocabulary.image)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients of replicas over all ranks, once an update; those of a sharded policy are averaged already.

    A rank on which nothing gave a parameter a gradient counts as zero there.
    """
    replicated = [p for p in parameters if p.requires_grad and not isinstance(p, DTensor)]
    for bucket in _buckets(replicated):
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in bucket])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for parameter, average in zip(bucket, flat.split_with_sizes([p.numel() for p in bucket]), strict=True):
            parameter.grad = average.view_as(parameter)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale gradients down to a norm over all parameters and shards; returns the norm before."""
    norm = nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], max_norm)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters of one type in a row, some 100 million numbers at a time: one collective each."""
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        if bucket and (parameter.dtype != bucket[0].dtype or sum(p.numel() for p in bucket) > 100_000_000):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket


def _hollow(policy: Policy) -> Policy:
    """A copy of the modules without weights; tokenizer and encoded images are shared."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in policy.parameters()
    }
    memo |= {id(shared): shared for shared in (policy.tokenizer, policy.encoded)}
    return copy.deepcopy(policy, memo)


def _fill(whole: Policy, source: Policy | None) -> None:
    """Give the plain modules the weights and buffers of the gathered ones, or take them away."""
    sources: Iterable[nn.Module | None] = source.modules() if source else itertools.repeat(None)
    for module, other in zip(whole.modules(), sources, strict=False):
        for name, own in list(module.named_parameters(recurse=False)):
            value = torch.empty_like(own, device="meta") if other is None else other.get_parameter(name).detach()
            setattr(module, name, nn.Parameter(value, requires_grad=own.requires_grad))
        if other is not None:
            for name, _ in list(module.named_buffers(recurse=False)):
                setattr(module, name, other.get_buffer(name))


def _spread_adapters(policy: Policy, mesh: DeviceMesh) -> None:
    """Give every rank the adapters of rank 0."""
    for name, parameter in policy.named_parameters():
        if ".lora_" in name:
            value = parameter.detach().to(mesh.device_type)  # collectives want it there
            dist.broadcast(value, group=mesh.get_group(), group_src=0)
            parameter.data.copy_(value)
