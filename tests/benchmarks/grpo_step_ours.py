"""Our side of the benchmark of a GRPO step: ``GRPOModule`` under a Lightning Trainer, its episodes forced."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean, median
from typing import Any
from unittest.mock import patch

import rates
import step_settings
import torch
from lightning.pytorch import Callback, Trainer
from model_shapes import Costs, build_config, build_model, read_tokenizer, update_costs
from step_settings import BOX, Settings, needle_protocol
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

import infogap.policy.model
import infogap.rollout
from infogap.data.sample import Sample
from infogap.episode.environment import Environment
from infogap.grpo.config import AlgorithmConfig
from infogap.grpo.module import GRPOModule
from infogap.policy.attention import IMPLEMENTATION
from infogap.policy.loading import NEEDLE_POLICY, prepare_training, read_patchifier
from infogap.policy.model import Policy
from infogap.policy.packing import Chunk, Group
from infogap.policy.sampler import SampledTurn
from infogap.policy.vision import batch_vision_tower
from infogap.policy.vocabulary import Vocabulary, read_vocabulary
from infogap.rollout import GroupRollout, play_turn
from infogap.types import Episode

PHASES = ("rollout", "reward", "pack", "update")


def build_policy(settings: Settings) -> Policy:
    """A policy with random weights whose turns never end by themselves."""
    tokenizer = read_tokenizer()
    attention = {"text_config": IMPLEMENTATION, "vision_config": "sdpa"}
    config = build_config(settings.shape, tokenizer)
    model = build_model(config, settings.dtype, settings.device, attention, settings.seed)
    batch_vision_tower(model)
    with patch.object(infogap.policy.model, "read_vocabulary", endless_vocabulary):
        policy = Policy(model, tokenizer, read_patchifier(NEEDLE_POLICY))
    prepare_training(policy, settings.policy())
    return policy


class DecodingClock:
    """Seconds from one decoding step, of one token each, to the next one. Drawing tokens waits for the device.

    Args:
        policy: its language model is watched.
    """

    def __init__(self, policy: Policy) -> None:
        self.seconds: list[float] = []
        self._before: float | None = None
        policy.parts.model.language_model.register_forward_pre_hook(self._forward, with_kwargs=True)

    def _forward(self, _: Any, __: Any, named: Mapping[str, Any]) -> None:
        if named["inputs_embeds"].shape[1] > 1:  # a prompt, an observation or a row; what took time before it, too
            self._before = None
            return
        now = time.perf_counter()
        if self._before is not None:
            self.seconds.append(now - self._before)
        self._before = now


class ForcedModule(GRPOModule):
    """Plays forced episodes; everything else is the module's own.

    Args:
        settings: the sizes.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            policy=settings.policy(),
            protocol=needle_protocol().config,
            rollout=settings.rollout(),
            algorithm=AlgorithmConfig(row_tokens=settings.row_tokens),
            seed=settings.seed,
        )
        self.settings = settings
        self.decoding: DecodingClock | None = None

    def configure_model(self) -> None:
        """Make a policy with random weights."""
        if self.policy is None:
            self.policy = build_policy(self.settings)
            self.decoding = DecodingClock(self.policy)

    def transfer_batch_to_device(self, batch: list[Sample], device: torch.device, dataloader_idx: int) -> list[Sample]:
        """Samples hold no tensors, as the package's own data module knows."""
        return batch

    def _play(self, samples: list[Sample]) -> list[GroupRollout]:
        right = step_settings.right_and_wrong()

        def forced(policy: Policy, environment: Environment, turn: SampledTurn) -> Chunk | None:
            if len(environment.episode.turns) + 1 < self.settings.turns:
                text = self.protocol.call_text(BOX)
            else:
                text = self.protocol.answer_text(environment._sample.answer if next(right) else "none")
            return play_turn(policy, environment, replace(turn, text=text, closed=False, truncated=False))

        with patch.object(infogap.rollout, "play_turn", forced):
            return super()._play(samples)


def endless_vocabulary(tokenizer: PreTrainedTokenizerBase, size: int, turn_end_texts: Sequence[str]) -> Vocabulary:
    """A vocabulary in which nothing that is sampled ends a turn."""
    words = read_vocabulary(tokenizer, size, ())
    # rows of the head without a token stay allowed: the real tokenizer has some hundred of them, this one 150,000
    banned = (*(token for token in words.banned if token < len(tokenizer)), words.stop)
    return replace(words, banned=tuple(sorted(banned)))


@dataclass
class Step:
    """What one step did.

    Attributes:
        seconds: of its phases.
        groups: its episodes as tokens.
        episodes: the same ones as text and boxes.
    """

    seconds: Mapping[str, float]
    groups: tuple[Group, ...]
    episodes: tuple[Episode, ...]


@dataclass
class OurRun(Callback):
    """Runs the steps, and keeps what they did.

    Attributes:
        settings: the sizes.
        batches: samples of every step.
    """

    settings: Settings
    batches: Sequence[list[Sample]]
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.module = ForcedModule(self.settings)
        self.clock = rates.StepClock(self.settings.device)
        self.memory = rates.PeakMemory(self.settings.device)

    def run(self) -> None:
        """Run all steps."""
        trainer = Trainer(
            accelerator="gpu" if self.settings.device == "cuda" else "cpu",
            devices=1,
            precision=self.settings.precision,
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[self],
        )
        loader = DataLoader(self.batches, batch_size=None, collate_fn=list)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice about workers and validation
            trainer.fit(self.module, loader)

    def on_train_start(self, *_: Any) -> None:
        """Begin to measure."""
        self.memory.start()
        self.clock.begin()

    def on_train_batch_end(self, *_: Any) -> None:
        """Note a step."""
        batch, times = self.module.last_batch, self.module._times
        assert batch is not None
        assert not batch.zero_variance_p.any()  # such a group would be left out of the update
        assert sum(map(sum, (r.policy_tokens for r in batch.rollouts))) == self.settings.sampled_tokens
        groups = tuple(rollout.group for rollout in batch.rollouts)
        episodes = tuple(episode for rollout in batch.rollouts for episode in rollout.episodes)
        self.steps.append(Step({name: times[name] for name in PHASES}, groups, episodes))
        self.clock.step()

    @property
    def measured(self) -> list[Step]:
        """The steps after the warm-up."""
        return self.steps[self.settings.warmup :]

    def seconds(self, phase: str | None = None) -> float:
        """Median of a step or of a phase of it."""
        if phase is None:
            return median(self.clock.seconds[self.settings.warmup :])
        return median(step.seconds[phase] for step in self.measured)

    def counts(self) -> dict[str, int]:
        """Tokens of the last step."""
        groups = self.steps[-1].groups
        chunks = [chunk for group in groups for episode in group.episodes for chunk in episode]
        return {
            "episodes": sum(len(group.episodes) for group in groups),
            "prompt_tokens": sum(len(group.prompt.token_ids) for group in groups),
            "view_tokens": sum(image.tokens for group in groups for image in group.prompt.images),
            "crop_tokens": sum(image.tokens for chunk in chunks for image in chunk.images),
            "sampled_tokens": sum(len(chunk.token_ids) for chunk in chunks if chunk.sampled),
            "packed_tokens": sum(group.tokens for group in groups),
        }

    def costs(self) -> Costs:
        """Arithmetic of the last step's update."""
        policy = self.module.policy
        assert policy is not None
        return update_costs(policy.parts.config, self.steps[-1].groups, lora=self.settings.lora)

    def decode_rate(self) -> float | None:
        """Bytes of weights, keys and values a second that decoding reads; None where no step could be timed."""
        policy, clock = self.module.policy, self.module.decoding
        if policy is None or clock is None or not clock.seconds:
            return None
        language, text = policy.parts.model.language_model, policy.parts.config.text_config
        read = [weight for name, weight in language.named_parameters() if "embed_tokens" not in name]
        weights = sum(weight.nbytes for weight in (*read, policy.parts.lm_head.weight))
        side, size = text.hidden_size // text.num_attention_heads, policy.parts.lm_head.weight.itemsize
        a_token = 2 * text.num_hidden_layers * text.num_key_value_heads * side * size
        return (weights + self._cached_tokens() * a_token) / median(clock.seconds)

    def _cached_tokens(self) -> float:
        """Tokens whose keys and values a decoding step reads on average: prompts once a group, episodes their own."""
        lengths, own = [], 0
        for chunk in self.steps[-1].groups[0].episodes[0]:
            if chunk.sampled:  # its first token is drawn without a step, its last one is not encoded in one
                lengths += range(own + 1, own + len(chunk.token_ids))
            own += len(chunk.token_ids)
        prompts = sum(len(group.prompt.token_ids) for group in self.steps[-1].groups)
        return prompts + self.settings.episodes * mean(lengths)


def weights_of(policy: Policy) -> dict[str, torch.Tensor]:
    """A copy of the weights of the model without its adapters, under the names that transformers gives them."""
    state = policy.parts.state_dict()
    return {n.replace(".base_layer", ""): value.clone() for n, value in state.items() if ".lora_" not in n}
