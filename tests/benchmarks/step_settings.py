"""What both sides of the benchmark of a GRPO step play: the sizes, the samples, and what is forced on an episode.

An episode is forced in three ways, so that all episodes are of one length: a turn never ends by itself, a call is
carried out after every turn but the last, whatever was sampled, and half of a group's last turns count as right
answers, since a group that earned the same everywhere would be left out of the update.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from infogap.data.needle import NeedleConfig, make_sample
from infogap.data.sample import Sample
from infogap.episode.environment import EpisodeLimits
from infogap.episode.protocol import Protocol, ProtocolConfig
from infogap.geometry import Frame, FramedBox
from infogap.policy.loading import LoraConfig, PolicyConfig
from infogap.rollout import CropConfig, RolloutConfig, ViewConfig

ROOT = Path(__file__).resolve().parents[2]
TOKEN_SIDE = 28
BOX = FramedBox(240, 240, 760, 760, Frame.RELATIVE_1000)
"""What every forced call asks for: the middle of the image."""


@dataclass(frozen=True)
class Settings:
    """Sizes of a step.

    Attributes:
        shape: which model, see ``model_shapes``.
        prompts: groups of a step.
        group_size: episodes of a group.
        view_tokens: visual tokens of a view; a square number, since views are square.
        new_tokens: tokens that are sampled in every turn.
        turns: turns of an episode; after all but the last a crop comes back.
        crop_tokens: visual tokens of a crop; a square number.
        lora: train adapters of the language model instead of all weights.
        dtype: type of the weights.
        precision: Lightning's precision: "32-true" computes in the type of the weights, "bf16-mixed" in bfloat16.
        checkpointing: compute activations again in the backward pass.
        row_tokens: most tokens of a packed row.
        device: "cpu" or "cuda".
        steps: steps that are measured.
        warmup: steps before them.
        seed: of weights, scenes and sampling.
    """

    shape: str = "needle"
    prompts: int = 8
    group_size: int = 16
    view_tokens: int = 256
    new_tokens: int = 64
    turns: int = 1
    crop_tokens: int = 64
    lora: bool = False
    dtype: str = "float32"
    precision: str = "32-true"
    checkpointing: bool = False
    row_tokens: int = 16384
    device: str = "cpu"
    steps: int = 5
    warmup: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be forced."""
        for name in ("view_tokens", "crop_tokens"):
            if math.isqrt(getattr(self, name)) ** 2 != getattr(self, name):
                raise ValueError(f"{name} is {getattr(self, name)}: give a square number, such as 64 or 256.")
        if self.group_size < 2 or min(self.prompts, self.new_tokens, self.turns, self.steps) < 1 or self.warmup < 0:
            raise ValueError("Give a group of at least 2, and at least 1 prompt, token, turn and step.")

    @property
    def episodes(self) -> int:
        """Episodes of a step."""
        return self.prompts * self.group_size

    @property
    def sampled_tokens(self) -> int:
        """Tokens that are sampled in a step."""
        return self.episodes * self.turns * self.new_tokens

    @property
    def total_steps(self) -> int:
        """Steps that are run, those of the warm-up included."""
        return self.warmup + self.steps

    def policy(self) -> PolicyConfig:
        """What is trained: everything, or adapters of the language model under a frozen tower."""
        return PolicyConfig(
            dtype=cast(Any, self.dtype),
            vision_tower="frozen" if self.lora else "full",
            lora=LoraConfig() if self.lora else None,
            gradient_checkpointing=self.checkpointing,
        )

    def rollout(self) -> RolloutConfig:
        """The package's own description of such episodes."""
        limits = EpisodeLimits(
            max_turns=self.turns,
            max_crops=self.turns - 1,
            max_turn_tokens=self.new_tokens,
            max_episode_tokens=self.new_tokens * self.turns,
        )
        return RolloutConfig(
            group_size=self.group_size,
            view=ViewConfig(mode="budget", budget=self.view_tokens),
            crop=CropConfig(self.crop_tokens, self.crop_tokens),
            limits=limits,
        )

    def batches(self) -> list[list[Sample]]:
        """Samples of every step. An original has twice the side of its view, so that view and crop are both scaled."""
        side = max(224, 2 * TOKEN_SIDE * math.isqrt(self.view_tokens))
        scenes = NeedleConfig(sides=(side,), signs=(2, 3))
        starts = range(0, self.total_steps * self.prompts, self.prompts)
        return [[make_sample(scenes, self.seed, start + place) for place in range(self.prompts)] for start in starts]


def needle_protocol() -> Protocol:
    """The short texts that the small policy's tokenizer was trained on."""
    values = yaml.safe_load((ROOT / "configs/protocol/needle.yaml").read_text())
    return Protocol(ProtocolConfig(**{**values, "frame": Frame[values["frame"]]}))


def right_and_wrong() -> Iterator[bool]:
    """Whether each episode is right, in the order in which they end: every other one, so that each group has both."""
    return itertools.cycle((True, False))
