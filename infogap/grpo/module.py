"""The LightningModule: one rollout step is one ``training_step``, and its phases are named there in order."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule

from infogap.data.sample import Sample
from infogap.episode.protocol import Protocol, ProtocolConfig
from infogap.episode.rewards import RewardConfig, RewardSet
from infogap.grpo.batch import ScoredBatch, score_batch, score_greedy
from infogap.grpo.config import AlgorithmConfig, OptimConfig
from infogap.grpo.learner import Learner
from infogap.grpo.metrics import Sums, add_batch_metrics, add_update_keys, validation_keys
from infogap.grpo.ranks import Ranks
from infogap.grpo.run_state import check_resume, check_validation
from infogap.grpo.strategy import ShardedStrategy, check_precision, check_strategy
from infogap.grpo.update import TrainingRow, ground_truth_call, training_rows
from infogap.policy.loading import PolicyConfig, load_policy
from infogap.policy.model import Policy
from infogap.policy.reference import Reference, reference_policy
from infogap.policy.sharding import ShardingConfig, clip_gradients, resident, shard
from infogap.policy.weights import find_weights, load_weights, lora_scale
from infogap.rollout import GroupRollout, Rollout, RolloutConfig

logger = logging.getLogger(__name__)


class GRPOModule(LightningModule):
    """Teaches a policy to crop, by group-relative policy optimisation.

    Two clocks run: ``rollout_step`` counts batches of episodes, ``update_step`` counts optimiser steps.

    Args:
        policy: which model is trained and which of its parts.
        protocol: the texts that policy and environment exchange.
        rollout: how episodes are played.
        rewards: the reward columns and their weights.
        algorithm: how episodes become gradients.
        optim: the optimiser.
        sharding: how the policy is sharded under ``configs/strategy/fsdp.yaml``; otherwise not looked at.
        init_from: weights to start from instead of those of ``policy.path``: a checkpoint of ours, for whose newest a
            run or its folder ``checkpoints`` stands, or a model folder. Only weights are taken; to go on with an
            interrupted run use ``--ckpt_path``.
        seed: of the episodes. Sampling depends on (seed, rollout step, the sample's place in the step, episode) and
            nothing else. Place ``number * ranks + rank`` is sample ``number`` of a rank: however many ranks share the
            same samples in turn, they play the same episodes.

    Raises:
        ValueError: if a group has fewer than two episodes, ``init_from`` does not exist, or two rewards have one name.
    """

    def __init__(
        self,
        policy: PolicyConfig | None = None,
        protocol: ProtocolConfig | None = None,
        rollout: RolloutConfig | None = None,
        rewards: RewardConfig | None = None,
        algorithm: AlgorithmConfig | None = None,
        optim: OptimConfig | None = None,
        sharding: ShardingConfig | None = None,
        init_from: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.policy_config = policy or PolicyConfig()
        self.protocol = Protocol(protocol or ProtocolConfig())
        self.rollout_config = rollout or RolloutConfig()
        self.reward_config = rewards or RewardConfig()
        self.algorithm = algorithm or AlgorithmConfig()
        self.optim_config = optim or OptimConfig()
        self.sharding = sharding or ShardingConfig()
        self.seed = seed
        if self.rollout_config.group_size < 2:
            raise ValueError(
                f"rollout.group_size is {self.rollout_config.group_size}: GRPO compares the episodes of one sample, so "
                "give at least 2."
            )
        if init_from is not None and not Path(init_from).exists():
            raise ValueError(f"model.init_from {init_from!r} does not exist: give a checkpoint or a model folder.")
        self.init_from = None if init_from is None else str(find_weights(Path(init_from)))
        _warn_of_rounding(self.policy_config)
        self.rewards = RewardSet.from_config(self.reward_config, self.protocol)
        self.grounding_loss_weight = 0.0
        self.rollout_step = 0
        self.update_step = 0
        self.last_batch: ScoredBatch | None = None
        self.policy: Policy | None = None
        self._reference: Reference | None = None
        self._times: dict[str, float] = {}
        self._validation = Sums()

    def setup(self, stage: str) -> None:
        """Refuse what would fail after hours: see ``check_strategy`` and ``check_resume``."""
        check_strategy(self.trainer.strategy, self.trainer.world_size)
        check_precision(self.trainer.strategy, str(self.trainer.precision), self.sharding.compute_dtype)
        if self.trainer.ckpt_path is None:
            return
        path, policy = Path(self.trainer.ckpt_path), asdict(self.policy_config)
        sharded = isinstance(self.trainer.strategy, ShardedStrategy)
        if stage == "fit":
            check_resume(path, policy=policy, init_from=self.init_from, rewards=self.rewards.names, sharded=sharded)
        else:
            check_validation(path, policy=policy, sharded=sharded)

    def configure_model(self) -> None:
        """Load the policy once, and the reference if the KL term needs one; shard both under FSDP."""
        if self.policy is not None:
            return
        self.policy = load_policy(self.policy_config, self.protocol.config.turn_end_texts)
        if self.init_from is not None:
            load_weights(self.policy, Path(self.init_from))
        reference = reference_policy(self.policy) if self.algorithm.loss.kl_coef > 0 else None
        if self.device_mesh is not None:
            for policy in dict.fromkeys((self.policy, reference or self.policy)):  # in one order on all ranks
                shard(policy, self.device_mesh["data_parallel"], self.sharding)
        if reference is not None:
            self._reference = Reference(reference)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over everything that is trained, the vision tower at its own rate."""
        config = self.optim_config
        named = [(name, p) for name, p in self._policy.named_parameters() if p.requires_grad]
        tower = [p for name, p in named if ".visual." in name]
        rest = [p for name, p in named if ".visual." not in name]
        groups = [{"params": rest, "lr": config.lr}, {"params": tower, "lr": config.vision_lr or config.lr}]
        groups = [group for group in groups if group["params"]]
        for group in groups:
            group["initial_lr"] = group["lr"]
        # fused, AdamW needs no copies of the size of all weights
        fused = self.device.type == "cuda" or None
        return torch.optim.AdamW(
            groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=fused
        )

    def training_step(self, samples: list[Sample], batch_idx: int) -> None:
        """One rollout step: play, score, pack, update, log."""
        started = time.perf_counter()
        self.last_batch = None  # its images are large
        self._times = {}
        with self._timed("rollout"):
            rollouts = self._play(samples)
        with self._timed("reward"):
            batch = self._score(rollouts)
        sums = Sums()
        add_batch_metrics(sums, batch, self.reward_config.grounding_details)
        add_update_keys(sums)
        with self._timed("pack"):
            rows = self._pack(batch)
        with self._timed("update"):
            self._update(rows, batch, sums)
        self.last_batch = batch
        self._log(batch, sums, time.perf_counter() - started)
        self.rollout_step += 1

    def on_validation_epoch_start(self) -> None:
        """Begin the sums of a validation."""
        self._validation = Sums()

    def validation_step(self, samples: list[Sample], batch_idx: int) -> None:
        """Greedy episodes with the tool; never touches the training stream or its random numbers."""
        if self.rollout_config.view.mode == "selected":
            samples = [sample for sample in samples if sample.view_tokens is not None]
        with resident(self._policy) as playing:
            rollout = Rollout(playing, self.protocol, self.rollout_config.greedy())
            groups = rollout.run(samples, (self.seed, "validation", batch_idx), self._ranks.places(len(samples)))
        add_batch_metrics(self._validation, score_greedy(groups, self.rewards), self.reward_config.grounding_details)

    def on_validation_epoch_end(self) -> None:
        """Log the means over all samples and ranks, whether or not this rank had samples."""
        keys = validation_keys(reward.name for reward in self.reward_config.extra)
        values = self._validation.means(self._ranks.sum, list(keys))
        self.log_dict({keys[name]: value for name, value in values.items()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Both clocks are part of the state; the rest lets an export and a resume know what the run was made of."""
        checkpoint["infogap"] = {"rollout_step": self.rollout_step, "update_step": self.update_step}
        checkpoint["infogap"]["policy"] = asdict(self.policy_config)
        checkpoint["infogap"]["init_from"] = self.init_from
        checkpoint["infogap"]["rewards"] = list(self.rewards.names)
        if (scale := lora_scale(self._policy)) is not None:
            checkpoint["infogap"]["lora"] = scale

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore both clocks."""
        self.rollout_step = checkpoint["infogap"]["rollout_step"]
        self.update_step = checkpoint["infogap"]["update_step"]

    @property
    def _policy(self) -> Policy:
        if self.policy is None:
            raise RuntimeError("The policy is loaded by configure_model, which has not run yet.")
        return self.policy

    @property
    def _ranks(self) -> Ranks:
        return Ranks(self.trainer.strategy, self.global_rank, self.trainer.world_size)

    @property
    def _total_updates(self) -> float:
        """Updates of the whole run; infinite without a limit. Lightning's own estimate knows one update a batch."""
        trainer = self.trainer
        epochs = math.inf if trainer.max_epochs in (None, -1) else float(trainer.max_epochs or 0)
        updates = trainer.num_training_batches * epochs * self.algorithm.updates_per_rollout
        return updates if trainer.max_steps == -1 else min(updates, trainer.max_steps)

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._times[phase] = time.perf_counter() - started

    def _play(self, samples: list[Sample]) -> list[GroupRollout]:
        with resident(self._policy) as playing:
            rollout = Rollout(playing, self.protocol, self.rollout_config)
            return rollout.run(samples, (self.seed, self.rollout_step), self._ranks.places(len(samples)))

    def _score(self, rollouts: list[GroupRollout]) -> ScoredBatch:
        return score_batch(
            rollouts,
            self.rewards,
            scale_rewards=self.algorithm.scale_rewards,
            aggregation=self.algorithm.aggregation,
            all_reduce=self._ranks.sum,
        )

    def _pack(self, batch: ScoredBatch) -> list[TrainingRow]:
        taught = self.grounding_loss_weight > 0
        extra = [ground_truth_call(self._policy, self.protocol, r) if taught else [] for r in batch.rollouts]
        return training_rows(batch, extra, self.algorithm, self._policy.vocabulary.image)

    def _update(self, rows: list[TrainingRow], batch: ScoredBatch, sums: Sums) -> None:
        temperature = self.rollout_config.sampling.scoring_temperature
        learner = Learner(self._policy, self._reference, self.algorithm, temperature, self._ranks, self.manual_backward)
        learner.learn(rows, batch, self.grounding_loss_weight, sums, lambda: self._step(sums))
        self._policy.forget_images()  # no later step will ask for them

    def _step(self, sums: Sums) -> None:
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        config = self.optim_config
        factor = config.factor(self.update_step, self._total_updates)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        sums.add("optim/grad_norm", [clip_gradients(self._policy.parameters(), config.max_grad_norm)])
        sums.add("optim/lr", [optimizer.param_groups[0]["lr"]])
        optimizer.step()
        optimizer.zero_grad()
        self.update_step += 1

    def _log(self, batch: ScoredBatch, sums: Sums, seconds: float) -> None:
        """One record of the fixed set of keys; the clocks and the weights that callbacks move are part of it."""
        for name in ("rollout", "reward", "pack", "update"):
            sums.add(f"time/{name}", [self._times[name]])
        sums.add("time/step", [seconds])
        tokens = sum(rollout.group.tokens for rollout in batch.rollouts)
        share = seconds / self.trainer.world_size  # ranks work at the same time
        sums.add_ratio("time/tokens_per_second", tokens, share)
        sums.add_ratio("time/episodes_per_second", batch.totals_pg.numel(), share)
        values = sums.means(self._ranks.sum)
        values |= {f"weight/{n}": w for n, w in zip(self.rewards.names, self.rewards.weights, strict=True)}
        values |= {"weight/grounding_loss": self.grounding_loss_weight}
        values |= {"clock/rollout_step": float(self.rollout_step), "clock/update_step": float(self.update_step)}
        shown = {name: values.pop(name) for name in _ON_THE_BAR}
        for part, on_the_bar in ((shown, True), (values, False)):
            self.log_dict(part, prog_bar=on_the_bar, batch_size=len(batch.rollouts), on_step=True, on_epoch=False)


def _warn_of_rounding(policy: PolicyConfig) -> None:
    """Full training in bfloat16 is possible, and seldom what was meant: adapters are always float32."""
    if policy.dtype == "bfloat16" and (policy.lora is None or policy.vision_tower == "full"):
        logger.warning("Weights of type bfloat16 are trained themselves: a step of 1e-6 is lost in their rounding.")


_ON_THE_BAR = ("reward/total", "reward/accuracy", "episode/tool_rate", "time/episodes_per_second")
