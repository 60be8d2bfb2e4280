"""One rank of a training run over fixed samples. test_ranks.py starts it for every rank, and alone to compare with.

python ranks.py FOLDER OUT RANK WORLD_SIZE PORT SCENARIO ...
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import Strategy
from tiny import IMAGE_TEXT, tiny_image
from tiny_policy import SCENES, tiny_protocol, tiny_rollout
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from infogap.callbacks.run_checkpoint import RunCheckpoint
from infogap.data.datamodule import ShardDataModule
from infogap.data.needle import make_samples
from infogap.data.sample import Sample
from infogap.data.skips import SkipLog
from infogap.data.stream import SampleBatch
from infogap.grpo.batch import ScoredBatch
from infogap.grpo.config import AlgorithmConfig, OptimConfig
from infogap.grpo.losses import LossConfig
from infogap.grpo.module import GRPOModule
from infogap.grpo.strategy import ReplicatedStrategy, ShardedStrategy
from infogap.policy.loading import LoraConfig, PolicyConfig, load_policy
from infogap.policy.packing import Chunk, Group, pack
from infogap.policy.sharding import ShardingConfig, resident, shard
from infogap.rollout import GroupRollout, Rollout

STEPS = 5
SIZES = (4, 3, 4, 1, 2)  # samples of every step, all ranks together: uneven, and one for which rank 1 has none


@dataclass(frozen=True)
class Scenario:
    """One training run; ``strategy`` is what several ranks use."""

    strategy: str
    policy: dict[str, Any] = field(default_factory=dict)
    algorithm: dict[str, Any] = field(default_factory=dict)
    sharding: ShardingConfig | None = None


LORA = {"lora": LoraConfig(rank=4, alpha=8), "vision_tower": "frozen"}
KL = {"loss": LossConfig(kl_coef=0.1)}
SCENARIOS = {
    "replicated": Scenario("replicated"),
    "replicated_lora": Scenario("replicated", LORA, {**KL, "updates_per_rollout": 2}),
    "sharded": Scenario("fsdp", {"gradient_checkpointing": True}, {**KL, "row_tokens": 1}),
    "sharded_frozen_tower": Scenario("fsdp", {"vision_tower": "frozen"}, {**KL, "updates_per_rollout": 2}),
    "sharded_lora": Scenario("fsdp", LORA, KL, ShardingConfig(reshard_after_forward=False)),
}


class FixedData(ShardDataModule):
    """The same samples whatever the number of ranks, dealt out in turn."""

    def __init__(self, samples: list[Sample]) -> None:
        super().__init__("nowhere")
        self.samples = samples

    def train_dataloader(self) -> Any:
        rank, world_size = self._rank_and_world_size()
        ends = torch.tensor(SIZES).cumsum(0).tolist()
        dealt = [self.samples[end - size : end][rank::world_size] for size, end in zip(SIZES, ends, strict=True)]
        return DataLoader([SampleBatch(samples, SkipLog()) for samples in dealt], batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        return []


class Collectives(TorchDispatchMode):
    """Counts them."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "c10d" in func.namespace
        return func(*args, **(kwargs or {}))


class Taught(GRPOModule):
    """Advantages that depend on the place of a sample and of an episode alone; samples at odd places teach nothing.

    With two ranks that is every sample of rank 1.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.collectives_while_playing = 0

    def _play(self, samples: list[Sample]) -> list[GroupRollout]:
        played = Rollout.run

        def counted(*args: Any, **options: Any) -> list[GroupRollout]:
            with Collectives() as counter:
                found = played(*args, **options)
            self.collectives_while_playing += counter.count
            return found

        with mock.patch.object(Rollout, "run", counted):
            return super()._play(samples)

    def _score(self, rollouts: list[GroupRollout]) -> ScoredBatch:
        batch = super()._score(rollouts)
        places = torch.tensor(self._ranks.places(len(rollouts)), dtype=torch.long)
        episodes = torch.arange(self.rollout_config.group_size)
        advantages = torch.sin(1.0 + 3 * places[:, None] + 7 * episodes) * (places[:, None] % 2 == 0)
        return replace(batch, advantages_pg=advantages, zero_variance_p=places % 2 == 1)


class Recorder(Callback):
    """Keeps what every step logs."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
        self.steps.append({name: value for name, value in logged.items() if not name.startswith("time/")})


def in_bfloat16(folder: Path, tower: Literal["frozen", "full"]) -> list[str]:
    """What of shards that are computed in bfloat16 is not exact any more and should be: buffers, and rotations."""
    policy = load_policy(PolicyConfig(str(folder / "policy"), vision_tower=tower))
    exact = {name: value.clone() for name, value in policy.named_buffers()}
    shard(policy, init_device_mesh("cpu", (2,)), ShardingConfig(compute_dtype="bfloat16"))
    with resident(policy) as playing:
        found = [*policy.named_buffers(), *playing.named_buffers()]
        assert playing.parts.lm_head.weight.dtype == torch.bfloat16
    rotations: list[torch.dtype] = []
    policy.parts.model.visual.blocks[0].attn.register_forward_pre_hook(
        lambda _, __, named: rotations.append(named["position_embeddings"][0].dtype), with_kwargs=True
    )
    prompt = policy.chunk(IMAGE_TEXT, [tiny_image(1, 1)])
    policy(pack([Group(prompt, ((Chunk((1,), sampled=True),),))], policy.vocabulary.image), 1.0)
    wrong = [name for name, value in found if not torch.equal(value, exact[name])]
    return wrong + [f"rotations in {dtype}" for dtype in rotations if dtype != torch.float32]


def strategy_of(scenario: Scenario, world_size: int) -> Strategy | str:
    if world_size == 1:
        return "auto"
    if scenario.strategy == "replicated":
        return ReplicatedStrategy(process_group_backend="gloo")
    return ShardedStrategy(save_distributed_checkpoint=False, process_group_backend="gloo")


def train(folder: Path, scenario: Scenario, world_size: int) -> dict[str, Any]:
    """Train and return what was logged and the final weights, which every rank must call for."""
    torch.manual_seed(0)
    model = Taught(
        PolicyConfig(str(folder / "policy"), **scenario.policy),
        tiny_protocol(),
        tiny_rollout(),
        algorithm=AlgorithmConfig(**scenario.algorithm),
        optim=OptimConfig(lr=1e-3, weight_decay=0.1),
        sharding=scenario.sharding,
    )
    recorder = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        devices=world_size,
        strategy=strategy_of(scenario, world_size),
        plugins=[LightningEnvironment()] if world_size > 1 else None,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        log_every_n_steps=1,
        callbacks=[recorder],
    )
    trainer.fit(model, FixedData(list(make_samples(SCENES, 0, sum(SIZES)))))
    trained = [p for p in model.parameters() if p.requires_grad]
    held = [
        *trained,
        *(value for state in trainer.optimizers[0].state.values() for value in state.values() if value.ndim),
    ]
    assert len(held) == 3 * len(trained), [len(held), len(trained)]
    return {
        "steps": recorder.steps,
        "weights": trainer.strategy.lightning_module_state_dict(),
        "numbers": sum(value.numel() for value in held),
        "numbers_here": sum((v.to_local() if isinstance(v, DTensor) else v).numel() for v in held),
        "collectives_while_playing": model.collectives_while_playing,
    }


def local(value: Tensor) -> Tensor:
    """This rank's part of a tensor."""
    return value.to_local() if isinstance(value, DTensor) else value


def resumed(folder: Path, world_size: int) -> dict[str, bool]:
    """In what a sharded run that goes on from its folder of shards equals one that was never stopped."""

    def fit(name: str, epochs: int, ckpt_path: str | None = None) -> tuple[Trainer, GRPOModule]:
        torch.manual_seed(0)
        model = GRPOModule(
            PolicyConfig(str(folder / "policy"), **LORA), tiny_protocol(), tiny_rollout(), optim=OptimConfig(lr=1e-2)
        )
        trainer = Trainer(
            accelerator="cpu",
            devices=world_size,
            strategy=ShardedStrategy(process_group_backend="gloo"),
            plugins=[LightningEnvironment()],
            max_epochs=epochs,
            limit_train_batches=2,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[RunCheckpoint(every_n_rollouts=1)],
            default_root_dir=folder / name,
        )
        trainer.fit(
            model, ShardDataModule(str(folder / "train"), prompts_per_step=4, shuffle_buffer=8), ckpt_path=ckpt_path
        )
        return trainer, model

    whole, before = fit("whole", 2)
    fit("parts", 1)
    parts, after = fit("parts", 2, str(folder / "parts" / "checkpoints" / "last.ckpt"))
    weights = [(local(a), local(b)) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    states = [trainer.optimizers[0].state.values() for trainer in (whole, parts)]
    moments = [(local(a["exp_avg"]), local(b["exp_avg"])) for a, b in zip(*states, strict=True)]
    return {
        "clocks": (before.rollout_step, before.update_step) == (after.rollout_step, after.update_step) == (4, 4),
        "weights": all(torch.equal(a, b) for a, b in weights),
        "moments": all(torch.equal(a, b) for a, b in moments) and len(moments) > 0,
        "trained": any(bool(local(p).any()) for name, p in after.named_parameters() if "lora_B" in name),
    }


def main(folder: str, out: str, rank: str, world_size: str, port: str, *names: str) -> None:
    torch.set_num_threads(1)
    if int(world_size) > 1:
        os.environ |= {"LOCAL_RANK": rank, "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    results: dict[str, Any] = {name: train(Path(folder), SCENARIOS[name], int(world_size)) for name in names}
    if int(world_size) > 1:
        results["resumed"] = resumed(Path(folder), int(world_size))
        results["in_bfloat16"] = [in_bfloat16(Path(folder), tower) for tower in ("frozen", "full")]
    if rank == "0":
        torch.save(results, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
