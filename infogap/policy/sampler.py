"""Sampling many episodes of many groups at once, turn by turn.

The sampler knows tokens and slots. What a turn means, and what comes back, is the driver's business: at the end of
every turn it calls ``on_turn`` and either gets the next observation to encode, or nothing, and the episode is over.

Every episode draws from its own stream of uniform numbers, so what it samples depends on its seed and its logits alone,
not on which other episodes run beside it.

An episode may follow another one of its group: it is that episode, token for token, until the driver gives it an
observation of its own. So what differs between the two comes from the observation and from nothing before it, and what
they share is sampled once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from infogap.policy.cache import PrefillAttention, Prompts, SlotCache
from infogap.policy.decoding import StaticDecoder
from infogap.policy.draw import SamplingConfig, draw
from infogap.policy.model import Policy
from infogap.policy.packing import Chunk, Group, pack, split_by_budget
from infogap.policy.patches import rope_positions


@dataclass(frozen=True)
class SampledTurn:
    """One finished turn of an episode.

    Attributes:
        token_ids: what was sampled, the stop token included.
        text: the same as text, without the stop token.
        closed: whether it ended in the chat format's stop token.
        truncated: whether it was cut off because no more tokens were allowed.
        spent: whether the episode has no tokens left, so that nothing can follow this turn, however it ended.
    """

    token_ids: tuple[int, ...]
    text: str
    closed: bool
    truncated: bool
    spent: bool = False


OnTurn = Callable[[int, SampledTurn], Mapping[int, Chunk]]
"""Called with the number of the episode and its finished turn; returns the observations to go on with, by episode: its
own, unless it has ended, and those of followers that part from it here."""


@dataclass(frozen=True)
class TokenLimits:
    """Most tokens that may be sampled in one turn, and in one episode over all turns."""

    turn: int
    episode: int


@dataclass
class _Slot:
    """One running episode."""

    position: int  # of the next token to be encoded
    chunks: list[Chunk] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    drawn: int = 0
    parted: bool = False  # from its leader, and none of its chunks is encoded yet

    def close_turn(self) -> None:
        """Make a chunk of what was sampled since the last observation."""
        self.chunks.append(Chunk(tuple(self.ids), sampled=True, logprobs=tuple(self.logprobs)))
        self.ids, self.logprobs = [], []


PREFILL_TOKENS = 16384
"""Tokens of prompts that are encoded at once, which bounds the activations; a longer prompt stands alone."""


class Sampler:
    """Runs episodes of several groups to their end.

    Args:
        policy: the policy.
        config: how tokens are drawn.
        limits: most tokens of a turn and of an episode.
        capacity: tokens of an episode after its prompt, observations included, that there is room for from the start.
        static: whether decoding steps have a fixed shape; None decides: on a GPU.
    """

    def __init__(
        self,
        policy: Policy,
        config: SamplingConfig,
        limits: TokenLimits,
        *,
        capacity: int = 0,
        static: bool | None = None,
    ) -> None:
        self.policy, self.config, self.limits, self.capacity = policy, config, limits, capacity
        self.static = policy.device.type == "cuda" if static is None else static
        self._decoder: StaticDecoder | None = None

    @torch.no_grad()
    def run(
        self,
        prompts: Sequence[Chunk],
        generators: Sequence[Sequence[torch.Generator]],
        on_turn: OnTurn,
        leaders: Mapping[int, int] | None = None,
    ) -> list[Group]:
        """Sample episodes.

        Args:
            prompts: the groups' prompts.
            generators: for every group one generator an episode; its length is the size of the group.
            on_turn: the driver. Episodes are numbered through the groups.
            leaders: the episode that a follower follows, of the same group and itself no follower, by the follower's
                number. A follower that should draw as its leader would has a generator with the leader's seed.

        Returns:
            The groups, their episodes in order.
        """
        groups = [number for number, members in enumerate(generators) for _ in members]
        uniforms = [torch.rand(self.limits.episode, generator=g) for members in generators for g in members]
        filled, hidden, after = self._prefill(prompts)
        self._uniforms = torch.stack(uniforms)  # [episodes, episode limit]
        self._slots = [_Slot(after[group]) for group in groups]
        self._cache = SlotCache(filled, groups, self.capacity)
        self._physical = list(range(len(groups)))  # the episode in every slot of the cache
        self._on_turn, self._leaders = on_turn, dict(leaders or {})
        first = [episode for episode in self._physical if episode not in self._leaders]
        self._loop(first, hidden[torch.tensor(groups, device=hidden.device)[first]])
        for follower, leader in self._leaders.items():  # those that never parted
            self._slots[follower].chunks = self._slots[leader].chunks
        sizes = [len(members) for members in generators]
        episodes = iter(tuple(slot.chunks) for slot in self._slots)
        return [Group(p, tuple(next(episodes) for _ in range(size))) for p, size in zip(prompts, sizes, strict=True)]

    def _prefill(self, prompts: Sequence[Chunk]) -> tuple[Prompts, Tensor, list[int]]:
        """Encode prompts; also the hidden state of each one's last token, and the position that follows it."""
        parts: list[PrefillAttention] = []
        states, after = [], []
        for members in split_by_budget([Group(prompt, ()) for prompt in prompts], PREFILL_TOKENS):
            row = pack([part.group for part in members], self.policy.vocabulary.image)
            parts.append(PrefillAttention(row.group.to(self.policy.device)))
            hidden = self.policy.row_hidden(row, parts[-1])
            states.append(hidden[(torch.bincount(row.group).cumsum(0) - 1).to(hidden.device)])
            after += [int(row.positions[:, row.group == number].max()) + 1 for number in range(len(members))]
        return Prompts.join(parts), torch.cat(states), after

    def _loop(self, episodes: list[int], hidden: Tensor) -> None:
        running, waiting = self._advance(episodes, *self._draw(episodes, hidden))
        while running or waiting:
            # observations are encoded together, once the episodes that still write are the fewer
            if waiting and len(waiting) >= len(running):
                now, waiting = waiting, {}
                for part in self._parts(now):
                    hidden = self._encode(part, [now[episode] for episode in part])
                    started, more = self._advance(part, *self._draw(part, hidden))
                    running = sorted(running + started)
                    waiting |= more
                continue
            running, more = self._advance(running, *self._decode(running))
            waiting |= more
            self._compact(running, waiting)

    def _draw(self, episodes: list[int], hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a token for each of ``episodes`` from its last hidden state ``[B, width]``."""
        logits = self.policy.parts.lm_head(hidden)
        return draw(logits, self._uniform(episodes).to(hidden.device), self.policy.banned, self.config)

    def _uniform(self, episodes: list[int]) -> Tensor:
        """The next uniform number of each episode's stream, ``[B]``."""
        return self._uniforms[episodes, [self._slots[episode].drawn for episode in episodes]]

    def _decode(self, episodes: list[int]) -> tuple[Tensor, Tensor]:
        """Encode the last token of each of ``episodes`` and draw the next."""
        last = [self._slots[episode].ids[-1] for episode in episodes]
        if not self.static:
            return self._draw(episodes, self._encode(episodes, [Chunk((token,)) for token in last]))
        slots = self._places(episodes)
        self._cache.reserve(max(self._cache.lengths) + 1)  # also of slots that wait: every slot takes part
        if self._decoder is None or not self._decoder.fits(self._cache):
            self._decoder = StaticDecoder(self.policy, self._cache, self.config)
        positions = [self._slots[episode].position for episode in episodes]
        for episode in episodes:
            self._slots[episode].position += 1
        return self._decoder.step(slots, last, positions, self._uniform(episodes))

    def _feed(self, episode: int, observation: Chunk) -> Chunk:
        """What was not encoded yet, the last sampled token or all chunks, and the observation after it."""
        slot = self._slots[episode]
        unseen = slot.chunks if slot.parted else [Chunk(slot.chunks[-1].token_ids[-1:])]
        slot.chunks, slot.parted = [*slot.chunks, observation], False
        joined = [*unseen, observation]
        return Chunk(
            tuple(token for chunk in joined for token in chunk.token_ids),
            tuple(image for chunk in joined for image in chunk.images),
        )

    def _advance(self, episodes: list[int], tokens: Tensor, logprobs: Tensor) -> tuple[list[int], dict[int, Chunk]]:
        """Take a drawn token for each of ``episodes``; returns those that go on and the observations that wait."""
        going: list[int] = []
        waiting: dict[int, Chunk] = {}
        for episode, token, logprob in zip(episodes, tokens.tolist(), logprobs.tolist(), strict=True):
            slot = self._slots[episode]
            slot.ids.append(token)
            slot.logprobs.append(logprob)
            slot.drawn += 1
            turn = self._finished(slot)
            if turn is None:
                going.append(episode)
                continue
            slot.close_turn()
            observations = self._on_turn(episode, turn)
            if slot.drawn < self.limits.episode:
                for number in observations:  # all of them before the leader's chunks grow
                    self._part(number)
                waiting |= {number: self._feed(number, chunk) for number, chunk in observations.items()}
        return going, waiting

    def _parts(self, waiting: dict[int, Chunk]) -> list[list[int]]:
        """Episodes that are encoded together: as many at a time as their attention scores leave room for."""
        lengths = {episode: len(chunk.token_ids) for episode, chunk in waiting.items()}
        return self._cache.parts(lengths, cast(Any, self.policy.parts.config).text_config.num_attention_heads)

    def _part(self, follower: int) -> None:
        """From here on an episode that follows another goes its own way."""
        leader = self._leaders.pop(follower, None)
        if leader is not None:
            slot, before = self._slots[follower], self._slots[leader]
            slot.chunks, slot.drawn, slot.parted = list(before.chunks), before.drawn, True

    def _finished(self, slot: _Slot) -> SampledTurn | None:
        words = self.policy.vocabulary
        closed, ended = slot.ids[-1] == words.stop, slot.ids[-1] in words.turn_end
        spent = slot.drawn >= self.limits.episode
        full = spent or len(slot.ids) >= self.limits.turn
        if not (closed or ended or full):
            return None
        shown = slot.ids[:-1] if closed else slot.ids
        text = self.policy.tokenizer.decode(shown, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return SampledTurn(tuple(slot.ids), str(text), closed, full and not (closed or ended), spent)

    def _encode(self, episodes: list[int], chunks: list[Chunk]) -> Tensor:
        """Append chunks to their episodes; returns the hidden state of each one's last token, ``[B, width]``."""
        device = self.policy.device
        token_ids, positions = (tensor.to(device) for tensor in self._pad(episodes, chunks))
        lengths = [len(chunk.token_ids) for chunk in chunks]
        attend = self._cache.attend(self._places(episodes), lengths)
        embeds = self.policy.embed(token_ids, [image for chunk in chunks for image in chunk.images])
        hidden = self.policy.hidden(embeds, positions, attend)
        return hidden[torch.arange(len(chunks)), torch.tensor(lengths) - 1]

    def _places(self, episodes: Sequence[int]) -> list[int]:
        """The slots of the cache that episodes are in."""
        place = {episode: number for number, episode in enumerate(self._physical)}
        return [place[episode] for episode in episodes]

    def _pad(self, episodes: list[int], chunks: list[Chunk]) -> tuple[Tensor, Tensor]:
        """Ids ``[B, L]`` and M-RoPE positions ``[3, B, L]`` of chunks; their episodes move on."""
        slots = [self._slots[episode] for episode in episodes]
        longest = max(len(chunk.token_ids) for chunk in chunks)
        if longest == 1:  # a decoding step: one text token each, on all three axes at the episode's position
            token_ids = torch.tensor([chunk.token_ids for chunk in chunks])
            positions = torch.tensor([slot.position for slot in slots]).view(1, -1, 1).expand(3, -1, -1)
            for slot in slots:
                slot.position += 1
            return token_ids, positions
        token_ids = torch.zeros(len(chunks), longest, dtype=torch.long)
        positions = torch.zeros(3, len(chunks), longest, dtype=torch.long)
        for number, (slot, chunk) in enumerate(zip(slots, chunks, strict=True)):
            size, grids = len(chunk.token_ids), [image.grid for image in chunk.images]
            rope, slot.position = rope_positions(chunk.token_ids, grids, self.policy.vocabulary.image, slot.position)
            token_ids[number, :size] = torch.tensor(chunk.token_ids)
            positions[:, number, :size] = rope
        return token_ids, positions

    def _compact(self, running: list[int], waiting: dict[int, Chunk]) -> None:
        """Drop the slots of finished episodes once they are half of all."""
        playing = {*running, *waiting}
        alive = sorted(playing | {follower for follower, leader in self._leaders.items() if leader in playing})
        if alive and len(alive) <= len(self._physical) // 2:
            self._cache.keep(self._places(alive))
            self._physical = alive
