"""TRL's side of the benchmark of a GRPO step: its ``GRPOTrainer`` with transformers' generation, its episodes forced.

It does what ``grpo_step_ours`` does: the same texts, through a chat template that renders them token for token, the
same images, views that are ready in the data set (ours are cut from the original in every step), and crops that an
environment of TRL's tool loop returns as images. That loop is told by its parser of turns that a call was made, and it
is allowed one call; so nothing that was sampled has to be parsed, which is in TRL's favour.

The settings that are tried, one after the other, each with the best of those before it:

* episodes of a forward and backward pass: all of the step, a half, a quarter, an eighth, a sixteenth;
* attention: PyTorch's fused function, or transformers' plain one;
* the key-value cache of generation: growing, or of fixed size.

Always: no gradient checkpointing, no KL term and so no reference pass, one update a rollout, so that TRL needs no pass
for the old log-probabilities either, PyTorch's fused AdamW, no logging, saving or evaluation.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any
from unittest.mock import patch

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # it warns that environments are new

import rates
import trl.trainer.grpo_trainer as trl_trainer
from model_shapes import build_config, build_model
from step_settings import Settings, needle_protocol
from torch import Tensor
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl_inputs import CALL, ImageProcessor, build_processor, build_rows, environment_of, half_are_right

from infogap.data.sample import Sample
from infogap.policy.patches import MERGE

NEVER_SAMPLED = ("endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")


@dataclass(frozen=True)
class TrlSettings:
    """What a user of TRL would choose by trying.

    Attributes:
        batch_size: episodes of a forward and backward pass.
        attention: transformers' name of the attention function.
        cache: transformers' name of the key-value cache; None is its default.
    """

    batch_size: int
    attention: str = "sdpa"
    cache: str | None = None


@dataclass
class TrlStep:
    """What one step did.

    Attributes:
        prompts: the prompts' tokens, one list an episode.
        completion_lengths: tokens behind the prompt of every episode, those of its tool response included.
        sampled: how many of those were sampled.
        image_tokens: visual tokens that the update has encoded.
        seconds: of its phases.
    """

    prompts: list[list[int]]
    completion_lengths: list[int]
    sampled: int
    image_tokens: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


class TrlRun(TrainerCallback):
    """Runs the steps, and keeps what they did.

    Args:
        settings: the sizes.
        chosen: TRL's own settings.
        batches: samples of every step.
        weights: weights of the model.
    """

    def __init__(
        self,
        settings: Settings,
        chosen: TrlSettings,
        batches: Sequence[Sequence[Sample]],
        weights: Mapping[str, Tensor],
    ) -> None:
        self.settings, self.chosen, self.batches = settings, chosen, batches
        self.protocol = needle_protocol()
        self.steps: list[TrlStep] = []
        self.clock = rates.StepClock(settings.device)
        self._seconds: dict[str, float] = defaultdict(float)
        self._folder = tempfile.TemporaryDirectory(prefix="infogap_benchmark_")
        self.trainer = self._build(weights)
        self._watch()

    def run(self) -> None:
        """Run all steps."""
        with patch.object(trl_trainer, "parse_response", self._parse):
            self.trainer.train()
        self._folder.cleanup()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Begin to measure."""
        self.clock.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note a step."""
        self.steps[-1].seconds = dict(self._seconds)
        self._seconds.clear()
        self.clock.step()

    def seconds(self) -> float:
        """Median of a step."""
        return median(self.clock.seconds[self.settings.warmup :])

    def phases(self) -> dict[str, float]:
        """Median seconds of the phases, and of what is not among them: loading data, scheduling, bookkeeping."""
        steps = self.steps[self.settings.warmup :]
        phases = {name: median(step.seconds[name] for step in steps) for name in steps[0].seconds}
        phases["prepare"] = phases.pop("rollout") - phases["generation"]  # templates, images, tools, rewards
        return phases | {"other": self.seconds() - sum(phases.values())}

    def counts(self) -> dict[str, int]:
        """Tokens of the last step."""
        step = self.steps[-1]
        prompts, completions = sum(map(len, step.prompts)), sum(step.completion_lengths)
        return {
            "episodes": len(step.prompts),
            "image_tokens": step.image_tokens,
            "sampled_tokens": step.sampled,
            "processed_tokens": prompts + completions,  # every prompt as often as it has episodes
        }

    def _parse(self, tokenizer: Any, ids: list[int], **_: Any) -> dict[str, Any]:
        calls = {"tool_calls": [CALL]} if self.settings.turns > 1 else {}
        return {"role": "assistant", "content": ""} | calls

    def _build(self, weights: Mapping[str, Tensor]) -> GRPOTrainer:
        processor = build_processor(self.protocol)
        config = build_config(self.settings.shape, processor.tokenizer)
        model = build_model(config, self.settings.dtype, self.settings.device, self.chosen.attention, 0)
        model.load_state_dict(weights)
        samples = {sample.key: sample for batch in self.batches for sample in batch}
        several = self.settings.turns > 1
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=half_are_right,
            args=self._arguments(processor),
            train_dataset=build_rows(self.protocol, self.batches, self.settings),
            processing_class=processor,
            callbacks=[self],
            peft_config=self._adapters(),
            environment_factory=environment_of(samples, self.settings) if several else None,
        )
        # all images come in the size at which they are shown; the trainer has tried a tiny one until here
        processor.image_processor.do_resize = False
        return trainer

    def _adapters(self) -> Any:
        lora = self.settings.policy().lora
        if lora is None:
            return None
        from peft import LoraConfig

        names = "|".join(lora.target_modules)
        return LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=rf".*language_model.*\.({names})"
        )

    def _arguments(self, processor: ImageProcessor) -> GRPOConfig:
        settings, batch_size = self.settings, self.chosen.batch_size
        ids = [processor.tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in NEVER_SAMPLED]
        return GRPOConfig(
            output_dir=self._folder.name,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=settings.episodes // batch_size,
            num_generations=settings.group_size,
            num_iterations=1,
            max_steps=settings.total_steps,
            # over all turns and what comes between them; the limit of a turn is generation's own
            max_completion_length=settings.turns * (settings.new_tokens + settings.crop_tokens + 64),
            max_tool_calling_iterations=settings.turns - 1,
            generation_kwargs={"max_new_tokens": settings.new_tokens, "suppress_tokens": ids},
            cache_implementation=self.chosen.cache,
            temperature=1.0,
            beta=0.0,
            learning_rate=1e-6,
            lr_scheduler_type="constant",
            max_grad_norm=1.0,
            bf16=settings.precision == "bf16-mixed",
            use_cpu=settings.device == "cpu",
            gradient_checkpointing=settings.checkpointing,
            shuffle_dataset=False,
            dataloader_pin_memory=False,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            seed=settings.seed,
        )

    def _watch(self) -> None:
        """Time the trainer's methods from outside."""
        trainer = self.trainer
        for name, phase in (
            ("_generate_and_score_completions", "rollout"),
            ("_generate_single_turn", "generation"),
            ("_get_per_token_logps_and_entropies", "forward"),
        ):
            setattr(trainer, name, self._timed(phase, getattr(trainer, name)))
        trainer.accelerator.backward = self._timed("backward", trainer.accelerator.backward)
        trainer.accelerator.clip_grad_norm_ = self._timed("optimizer", trainer.accelerator.clip_grad_norm_)
        create = trainer.create_optimizer

        def created(*arguments: Any, **named: Any) -> Any:
            optimizer = create(*arguments, **named)
            optimizer.step = self._timed("optimizer", optimizer.step)
            return optimizer

        trainer.create_optimizer = created
        trainer._generate = self._noted(trainer._generate)
        score = trainer._get_per_token_logps_and_entropies

        def scored(*arguments: Any, **named: Any) -> Any:
            self.steps[-1].image_tokens += len(named["pixel_values"]) // MERGE**2
            return score(*arguments, **named)

        trainer._get_per_token_logps_and_entropies = scored

    def _timed(self, phase: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            with self._phase(phase):
                return method(*arguments, **named)

        return timed

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        rates.synchronize(self.settings.device)
        started = time.perf_counter()
        yield
        rates.synchronize(self.settings.device)
        self._seconds[name] += time.perf_counter() - started

    def _noted(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            found = generate(*arguments)
            prompts, completions, masks = found[:3]
            lengths = [len(ids) for ids in completions]
            self.steps.append(TrlStep(prompts, lengths, sum(map(sum, masks)) if masks else sum(lengths)))
            return found

        return noted


def choose(settings: Settings, weights: Mapping[str, Tensor]) -> tuple[TrlSettings, list[dict[str, Any]]]:
    """The fastest settings, and everything that was tried with its seconds a step."""
    short = replace(settings, warmup=1, steps=2)
    batches = short.batches()
    tried: dict[TrlSettings, float] = {}

    def fastest(candidates: Sequence[TrlSettings]) -> TrlSettings:
        for candidate in candidates:
            if candidate not in tried:
                run = TrlRun(short, candidate, batches, weights)
                run.run()
                tried[candidate] = min(run.clock.seconds[1:])
        return min(candidates, key=lambda candidate: tried[candidate])

    sizes = [settings.episodes // parts for parts in (1, 2, 4, 8, 16) if settings.episodes % parts == 0]
    best = fastest([TrlSettings(size) for size in sizes if size >= 1])
    best = fastest([best, replace(best, attention="eager")])
    best = fastest([best, replace(best, cache="static")])
    return best, [asdict(candidate) | {"seconds": seconds} for candidate, seconds in tried.items()]
