"""A group is one sequence: the prompt once, then every episode as a branch of it.

    tokens    [ prompt ][ episode 0 ][ episode 1 ] ...
    branch       -1           0            1
    position   0 .. p-1     p ..         p ..

Key k is visible to query q if they are of one group, k's branch is the prompt or q's own, and k is not after q. This
module lays groups out as rows of flat tensors; it says which hidden state predicts which sampled token, and nothing
else. The last token of the prompt predicts the first token of *every* episode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from infogap.policy.patches import Patches, rope_positions

PROMPT_BRANCH = -1


@dataclass(frozen=True)
class Chunk:
    """A piece of a group that is encoded or generated at once: the prompt, an observation, or a turn of the policy.

    Attributes:
        token_ids: the ids; every image is already expanded to its number of image tokens.
        images: the images in it, in order.
        sampled: whether the policy wrote it. Only these tokens carry loss, the stop token among them.
        logprobs: log-probability of every token when it was sampled; empty if not sampled.
        taught: places in the chunk of tokens that are taught by cross-entropy, such as the coordinates of a
            ground-truth call; the policy did not sample them.
    """

    token_ids: tuple[int, ...]
    images: tuple[Patches, ...] = ()
    sampled: bool = False
    logprobs: tuple[float, ...] = ()
    taught: tuple[int, ...] = ()


@dataclass(frozen=True)
class Group:
    """One prompt and its episodes, each a list of chunks.

    Attributes:
        prompt: the prompt.
        episodes: the episodes' chunks, in order.
    """

    prompt: Chunk
    episodes: tuple[tuple[Chunk, ...], ...]

    @property
    def tokens(self) -> int:
        """Tokens of the group when packed."""
        return len(self.prompt.token_ids) + sum(len(c.token_ids) for episode in self.episodes for c in episode)


@dataclass(frozen=True)
class Row:
    """Some groups, packed. ``N`` tokens, of which ``T`` were sampled.

    Attributes:
        token_ids: ``[N]``.
        positions: M-RoPE positions ``[3, N]``.
        group: number of the group of every token, ``[N]``.
        branch: -1 in a prompt, else the episode's number in its group, ``[N]``.
        images: all images, in the order of their tokens.
        predictor: index of the hidden state that predicts each sampled token, ``[T]``.
        target: the sampled tokens, ``[T]``.
        episode: number of the episode in the row that a sampled token belongs to, ``[T]``.
        rollout_logprobs: log-probabilities at sampling time, ``[T]``; NaN where the chunk has none.
        episodes: number of branches in the row, those that only hold taught tokens included.
        taught_predictor: index of the hidden state that predicts each taught token, ``[K]``.
        taught_target: the taught tokens, ``[K]``.
    """

    token_ids: Tensor
    positions: Tensor
    group: Tensor
    branch: Tensor
    images: tuple[Patches, ...]
    predictor: Tensor
    target: Tensor
    episode: Tensor
    rollout_logprobs: Tensor
    episodes: int
    taught_predictor: Tensor
    taught_target: Tensor

    def to(self, device: torch.device) -> Row:
        """The row with its index tensors on ``device``; images stay where they are until they are encoded."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Row(**{**vars(self), **moved})


class _RowBuilder:
    """Collects the flat lists of a row."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.positions: list[Tensor] = []
        self.group: list[int] = []
        self.branch: list[int] = []
        self.images: list[Patches] = []
        self.predictor: list[int] = []
        self.target: list[int] = []
        self.episode: list[int] = []
        self.logprobs: list[float] = []
        self.taught_predictor: list[int] = []
        self.taught_target: list[int] = []

    def add(self, chunk: Chunk, start: int, group: int, branch: int, image_token_id: int) -> int:
        """Append a chunk whose first token stands at position ``start``; returns the position that follows."""
        positions, after = rope_positions(chunk.token_ids, [i.grid for i in chunk.images], image_token_id, start)
        self.token_ids += chunk.token_ids
        self.positions.append(positions)
        self.group += [group] * len(chunk.token_ids)
        self.branch += [branch] * len(chunk.token_ids)
        self.images += chunk.images
        return after

    def add_targets(self, chunk: Chunk, before: int, episode: int) -> None:
        """Note the sampled and taught tokens of a chunk that was just added; ``before`` predicts its first token."""
        first = len(self.token_ids) - len(chunk.token_ids)
        predictor = [before, *range(first, len(self.token_ids) - 1)]
        self.taught_predictor += [predictor[place] for place in chunk.taught]
        self.taught_target += [chunk.token_ids[place] for place in chunk.taught]
        if not chunk.sampled:
            return
        self.predictor += predictor
        self.target += chunk.token_ids
        self.episode += [episode] * len(chunk.token_ids)
        self.logprobs += chunk.logprobs or [float("nan")] * len(chunk.token_ids)

    def build(self, episodes: int) -> Row:
        """The row of what was added, of so many episodes."""
        return Row(
            token_ids=torch.tensor(self.token_ids),
            positions=torch.cat(self.positions, dim=1),
            group=torch.tensor(self.group),
            branch=torch.tensor(self.branch),
            images=tuple(self.images),
            predictor=torch.tensor(self.predictor, dtype=torch.long),
            target=torch.tensor(self.target, dtype=torch.long),
            episode=torch.tensor(self.episode, dtype=torch.long),
            rollout_logprobs=torch.tensor(self.logprobs, dtype=torch.float32),
            episodes=episodes,
            taught_predictor=torch.tensor(self.taught_predictor, dtype=torch.long),
            taught_target=torch.tensor(self.taught_target, dtype=torch.long),
        )


def pack(groups: Sequence[Group], image_token_id: int) -> Row:
    """Pack groups into one row.

    Args:
        groups: at least one group.
        image_token_id: id of ``<|image_pad|>``.
    """
    builder, episode = _RowBuilder(), 0
    for number, group in enumerate(groups):
        after_prompt = builder.add(group.prompt, 0, number, PROMPT_BRANCH, image_token_id)
        last_of_prompt = len(builder.token_ids) - 1
        for branch, chunks in enumerate(group.episodes):
            position, last = after_prompt, last_of_prompt
            for chunk in chunks:
                if not chunk.token_ids:
                    continue
                position = builder.add(chunk, position, number, branch, image_token_id)
                builder.add_targets(chunk, last, episode)
                last = len(builder.token_ids) - 1
            episode += 1
    return builder.build(episode)


class Part(NamedTuple):
    """Some episodes of a group with its prompt.

    Attributes:
        group: a group of these episodes.
        number: which group they are of, in the order that was given.
        first: the first of them, by its number in its group.
    """

    group: Group
    number: int
    first: int


def split_by_budget(groups: Sequence[Group], max_tokens: int) -> list[list[Part]]:
    """Cut a batch of groups into rows of at most ``max_tokens`` tokens, in order.

    A group that is larger is cut into parts of whole episodes, each with the prompt; an episode that is too large even
    with nothing but its prompt is a row of its own, however long.
    """
    rows: list[list[Part]] = []
    filled = max_tokens + 1
    for number, group in enumerate(groups):
        for part in _parts(group, number, max_tokens):
            if filled + part.group.tokens > max_tokens:
                rows.append([])
                filled = 0
            rows[-1].append(part)
            filled += part.group.tokens
    return rows


def _parts(group: Group, number: int, max_tokens: int) -> Iterator[Part]:
    """A group as one part if it fits, else as several."""
    if group.tokens <= max_tokens:
        yield Part(group, number, 0)
        return
    first, prompt = 0, len(group.prompt.token_ids)
    filled = prompt
    for place, episode in enumerate(group.episodes):
        tokens = sum(len(chunk.token_ids) for chunk in episode)
        if place > first and filled + tokens > max_tokens:
            yield Part(Group(group.prompt, group.episodes[first:place]), number, first)
            first, filled = place, prompt
        filled += tokens
    yield Part(Group(group.prompt, group.episodes[first:]), number, first)
