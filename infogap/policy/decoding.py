"""Decoding steps of fixed shape, which a GPU records once and replays: a step is then one launch and not thousands.

Every slot of the cache takes part. One that does not write this time computes something that nobody reads, and writes
its keys and values where its next token will overwrite them.

Not run on a GPU yet: none was at hand when this was written. Without recording, which is all that a GPU adds, the same
steps are compared with ordinary decoding in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from infogap.policy.cache import SlotAttention, SlotCache
from infogap.policy.draw import SamplingConfig, draw
from infogap.policy.model import Policy

BUCKET = 256
"""Slots are looked at up to a multiple of this many tokens; each multiple is recorded once."""


class StaticDecoder:
    """Encodes one token for each of some slots and draws the next.

    Args:
        policy: the policy.
        cache: keys and values; a decoder is made anew when slots are dropped or grow.
        config: how tokens are drawn.
    """

    def __init__(self, policy: Policy, cache: SlotCache, config: SamplingConfig) -> None:
        self.policy, self.cache, self.config = policy, cache, config
        device, slots = policy.device, cache.slots
        self.token_ids = torch.zeros(slots, 1, dtype=torch.long, device=device)
        self.positions = torch.zeros(3, slots, 1, dtype=torch.long, device=device)
        self.starts = torch.zeros(slots, dtype=torch.long, device=device)
        self.uniform = torch.zeros(slots, device=device)
        self._seats = cache.seats(range(slots))
        self._storage = cache.keys[0].data_ptr()
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._recorded: dict[int, tuple[torch.cuda.CUDAGraph, tuple[Tensor, Tensor]]] = {}

    def fits(self, cache: SlotCache) -> bool:
        """Whether the cache is still the one, of the same slots and at the same place."""
        return cache is self.cache and cache.slots == len(self.starts) and cache.keys[0].data_ptr() == self._storage

    def step(
        self, slots: Sequence[int], token_ids: Sequence[int], positions: Sequence[int], uniform: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Encode a token in each of some slots, which grow by it, and draw what follows.

        Args:
            slots: the slots.
            token_ids: their tokens.
            positions: the tokens' positions, the same on all three axes of M-RoPE.
            uniform: a number in [0, 1) for each, ``[B]``, on the host.

        Returns:
            Tokens and log-probabilities, ``[B]``.
        """
        device = self.policy.device
        index = torch.tensor(slots).to(device)
        self.token_ids[index, 0] = torch.tensor(token_ids).to(device)
        self.positions[:, index, 0] = torch.tensor(positions).to(device)
        self.uniform[index] = uniform.to(device)
        # a full slot that does not write must not write behind its end
        most = self.cache.capacity - 1
        self.starts.copy_(torch.tensor([min(length, most) for length in self.cache.lengths]))
        longest = max(self.cache.lengths[slot] for slot in slots) + 1
        limit = min(-(-longest // BUCKET) * BUCKET, self.cache.capacity)
        tokens, logprobs = self._replay(limit) if device.type == "cuda" else self._forward(limit)
        for slot in slots:
            self.cache.lengths[slot] += 1
        return tokens[index], logprobs[index]

    def _forward(self, limit: int) -> tuple[Tensor, Tensor]:
        """A step of all slots from what lies in the inputs."""
        attend = SlotAttention(self.cache, self._seats, self.starts[:, None], limit, level=False)
        hidden = self.policy.hidden(self.policy.embed(self.token_ids, ()), self.positions, attend)[:, 0]
        return draw(self.policy.parts.lm_head(hidden), self.uniform, self.policy.banned, self.config)

    def _replay(self, limit: int) -> tuple[Tensor, Tensor]:
        """The same, recorded the first time."""
        if limit not in self._recorded:
            kind = self.policy.device.type
            # weights that autocast has cast and kept would lie outside the recording
            cast = torch.autocast(
                kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind), cache_enabled=False
            )
            with cast:
                side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
                side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(side):  # lazy initialisation of libraries must not be recorded
                    self._forward(limit)
                torch.cuda.current_stream().wait_stream(side)
                graph = torch.cuda.CUDAGraph()
                # one pool for all: what a replay gives back is read before the next one begins
                with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                    outputs = self._forward(limit)
            self._recorded[limit] = (graph, outputs)
        graph, outputs = self._recorded[limit]
        graph.replay()
        return outputs
