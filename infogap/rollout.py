"""Episodes: the protocol and the environment on one side, the sampler on the other.

A rollout shows every sample's view once, samples its group of episodes together, cuts the crops that they ask for, and
returns what happened twice over: as text and boxes for the rewards, as token chunks for the loss.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from PIL import Image

from infogap.data.sample import Sample
from infogap.episode.environment import Environment, EpisodeLimits
from infogap.episode.protocol import Protocol
from infogap.episode.tool import CropTool, OwnCrop
from infogap.geometry import Size
from infogap.policy.draw import SamplingConfig
from infogap.policy.memory import allowed_bytes, plan_waves, token_bytes
from infogap.policy.model import Policy
from infogap.policy.packing import Chunk, Group
from infogap.policy.sampler import SampledTurn, Sampler, TokenLimits
from infogap.types import Episode


@dataclass
class ViewConfig:
    """Which view of the original the policy is shown.

    Args:
        mode: "selected": the budget that resolution selection found for the sample (LFPC section 3); "budget": the same
            budget for all; "none": no image, which measures what text alone gives away.
        budget: most visual tokens of a view in mode "budget"; views are never enlarged. LFPC section 6 evaluates at
            1024.
        min_tokens: fewest visual tokens of a view. Ours.

    Raises:
        ValueError: if not 1 <= min_tokens <= budget.
    """

    mode: Literal["selected", "budget", "none"] = "selected"
    budget: int = 1024
    min_tokens: int = 4

    def __post_init__(self) -> None:
        """Refuse empty views."""
        if not 1 <= self.min_tokens <= self.budget:
            raise ValueError(
                f"view.min_tokens {self.min_tokens} and view.budget {self.budget}: give 1 <= min <= budget."
            )

    def tokens(self, sample: Sample) -> int:
        """Budget of the sample's view in visual tokens.

        Raises:
            ValueError: in mode "selected", if the sample has no selected view.
        """
        if self.mode != "selected":
            return self.budget
        if sample.view_tokens is None:
            raise ValueError(
                f"Sample {sample.key} has no selected view: run data_scripts/select_resolution.py on its shards, or "
                "set view.mode to 'budget'."
            )
        return sample.view_tokens


@dataclass
class CropConfig:
    """How large a crop is shown.

    Args:
        max_tokens: most visual tokens of a crop. LFPC: not published.
        min_tokens: fewest; smaller regions are enlarged. Ours.

    Raises:
        ValueError: if not 1 <= min_tokens <= max_tokens.
    """

    max_tokens: int = 1024
    min_tokens: int = 16

    def __post_init__(self) -> None:
        """Refuse empty crops."""
        if not 1 <= self.min_tokens <= self.max_tokens:
            raise ValueError(
                f"crop.min_tokens {self.min_tokens}, crop.max_tokens {self.max_tokens}: give 1 <= min <= max."
            )


@dataclass
class RolloutConfig:
    """How episodes are played.

    Args:
        group_size: episodes of one sample. LFPC section 5: 16.
        view: what the policy is shown first.
        crop: how large its crops are.
        limits: where an episode ends.
        sampling: how tokens are drawn.
        cache_gib: GiB for the keys and values of the episodes that are played together; null takes 70 % of what is
            free. Groups that do not fit are played in further waves: the episodes are the same, in a longer time.

    Raises:
        ValueError: if a group is empty, or there is no memory.
    """

    group_size: int = 16
    view: ViewConfig = field(default_factory=ViewConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    limits: EpisodeLimits = field(default_factory=EpisodeLimits)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    cache_gib: float | None = None

    def __post_init__(self) -> None:
        """Refuse empty groups, and no memory."""
        if self.cache_gib is not None and not self.cache_gib > 0:
            raise ValueError(f"rollout.cache_gib is {self.cache_gib}: give a positive number, or null.")
        if self.group_size < 1:
            raise ValueError(f"rollout.group_size is {self.group_size}: give at least 1 (GRPO needs at least 2).")

    def direct(self) -> RolloutConfig:
        """The same without the tool: one turn, no crop."""
        return replace(self, limits=replace(self.limits, max_turns=1, max_crops=0))

    def greedy(self) -> RolloutConfig:
        """One episode a sample, always the most likely token."""
        return replace(self, group_size=1, sampling=SamplingConfig(temperature=0.0))


@dataclass(frozen=True)
class GroupRollout:
    """Everything about one group.

    Attributes:
        sample: the sample.
        view: size of the view in pixels.
        group: its prompt and episodes as token chunks.
        episodes: the same episodes as text and boxes.
    """

    sample: Sample
    view: Size
    group: Group
    episodes: tuple[Episode, ...]

    @property
    def visual_tokens(self) -> list[int]:
        """Visual tokens of each episode: its view and its crops."""
        view = sum(image.tokens for image in self.group.prompt.images)
        return [view + sum(i.tokens for chunk in chunks for i in chunk.images) for chunks in self.group.episodes]

    @property
    def policy_tokens(self) -> list[int]:
        """Sampled tokens of each episode."""
        return [sum(len(c.token_ids) for c in chunks if c.sampled) for chunks in self.group.episodes]


_BODY_TOKENS = 64
"""Room for the words of an observation; longer ones are held as well, at the price of a copy of the cache."""


def derive_seed(*parts: int | str) -> int:
    """A seed that depends on all parts and on nothing else: the first eight bytes of their SHA-256."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Rollout:
    """Plays episodes.

    Args:
        policy: the policy.
        protocol: its texts.
        config: how to play.
        tool: what a crop call shows; the default is the region that was asked for.
        direct: ask without the tool: one turn, under the protocol's direct prompt.
    """

    def __init__(
        self,
        policy: Policy,
        protocol: Protocol,
        config: RolloutConfig,
        tool: CropTool | None = None,
        *,
        direct: bool = False,
    ) -> None:
        self.policy, self.protocol, self.direct = policy, protocol, direct
        self.config = config.direct() if direct else config
        self.tool = tool or OwnCrop(config.crop.max_tokens, config.crop.min_tokens)

    def run(
        self, samples: Sequence[Sample], seed: Sequence[int | str], places: Sequence[int] | None = None
    ) -> list[GroupRollout]:
        """Play a group of episodes for every sample.

        Args:
            samples: the samples.
            seed: what the random numbers depend on beside the place of the group and of the episode, such as the run's
                seed and the rollout step.
            places: the place of every group; None counts from 0.
        """
        if not samples:  # a rank that has none in this step
            return []
        self.policy.eval()
        places = range(len(samples)) if places is None else places
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes and scales without the interpreter's lock
            shown = list(pool.map(self._shown, samples))
        views = [self._view(sample, image) for sample, image in zip(samples, shown, strict=True)]
        allowed = allowed_bytes(self.policy.device, self.config.cache_gib)
        prompt_tokens = [len(prompt.token_ids) for prompt, _ in views]
        size, capacity = self.config.group_size, self.capacity
        rollouts: list[GroupRollout] = []
        for wave in plan_waves(prompt_tokens, size, capacity, token_bytes(self.policy), allowed):
            generators = [[_generator(*seed, places[number], episode) for episode in range(size)] for number in wave]
            rollouts += self._play([samples[n] for n in wave], [views[n] for n in wave], generators)
        return rollouts

    @property
    def capacity(self) -> int:
        """Most tokens of an episode after its prompt: policy tokens, crops, and the text around each observation."""
        limits, protocol = self.config.limits, self.protocol
        text = len(self.policy.tokenizer(protocol.observation("", with_image=True, closed=False))["input_ids"])
        observations = limits.max_turns - 1
        crops = min(limits.max_crops, observations) * self.config.crop.max_tokens
        return limits.max_episode_tokens + crops + observations * (text + _BODY_TOKENS)

    def _play(
        self,
        samples: Sequence[Sample],
        views: Sequence[tuple[Chunk, Size]],
        generators: Sequence[Sequence[torch.Generator]],
    ) -> list[GroupRollout]:
        """Play groups side by side."""
        size = self.config.group_size
        environments = [
            Environment(sample, view, self.protocol, self.tool, self.config.limits)
            for sample, (_, view) in zip(samples, views, strict=True)
            for _ in range(size)
        ]

        def on_turn(number: int, turn: SampledTurn) -> dict[int, Chunk]:
            chunk = play_turn(self.policy, environments[number], turn)
            return {} if chunk is None else {number: chunk}

        limits = TokenLimits(self.config.limits.max_turn_tokens, self.config.limits.max_episode_tokens)
        sampler = Sampler(self.policy, self.config.sampling, limits, capacity=self.capacity)
        groups = sampler.run([prompt for prompt, _ in views], generators, on_turn)
        episodes = [environment.episode for environment in environments]
        for sample in samples:
            sample.image.release()
        return [
            GroupRollout(sample, view, group, tuple(episodes[number * size : (number + 1) * size]))
            for number, (sample, (_, view), group) in enumerate(zip(samples, views, groups, strict=True))
        ]

    def _shown(self, sample: Sample) -> Image.Image | None:
        """The view of a sample, None if it is shown none."""
        config = self.config.view
        return None if config.mode == "none" else sample.image.view(config.tokens(sample), config.min_tokens)

    def _view(self, sample: Sample, shown: Image.Image | None) -> tuple[Chunk, Size]:
        """The sample's prompt, and the size of the view that it shows."""
        text = self.protocol.prompt(sample.question, sample.options, tool=not self.direct, image=shown is not None)
        if shown is None:
            return self.policy.chunk(text), sample.image.size
        return self.policy.chunk(text, [self.policy.patchifier(shown)]), Size(*shown.size)


def play_turn(policy: Policy, environment: Environment, turn: SampledTurn) -> Chunk | None:
    """Take a sampled turn to its environment; returns the observation as tokens, None if the episode has ended.

    Args:
        policy: makes tokens of the observation.
        environment: the episode's.
        turn: what was sampled.
    """
    observation = environment.step(turn.text, closed=turn.closed, truncated=turn.truncated, spent=turn.spent)
    if observation is None:
        return None
    images = [] if observation.image is None else [policy.patchifier(observation.image)]
    return policy.chunk(observation.text, images)


def _generator(*seed: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(*seed))
