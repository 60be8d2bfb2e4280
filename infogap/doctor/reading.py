"""The words of `fit`, read by the same parser, and nothing built from them but small plain objects."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import get_loader

from infogap.arguments import CommandError
from infogap.callbacks import RunCheckpoint
from infogap.data.datamodule import ShardDataModule, ShardSource
from infogap.data.needle_shards import NeedleShardConfig
from infogap.episode.protocol import ProtocolConfig
from infogap.episode.rewards import RewardConfig
from infogap.grpo.config import AlgorithmConfig
from infogap.grpo.module import GRPOModule
from infogap.grpo.strategy import ReplicatedStrategy, ShardedStrategy
from infogap.lightning_cli import InfogapParser, TrainingCLI, quieten
from infogap.parser.files import check_files
from infogap.policy.checkpoint_folder import FOLDER
from infogap.policy.loading import PolicyConfig
from infogap.policy.sharding import ShardingConfig
from infogap.resolution import ResolutionConfig
from infogap.rollout import RolloutConfig


@dataclass(frozen=True)
class Run:
    """What a run was configured to be.

    Attributes:
        policy: which model.
        protocol: its texts.
        rollout: how episodes are played.
        algorithm: how they become gradients.
        sharding: how the policy is sharded.
        resolution: how views are selected.
        rewards: what episodes are paid for.
        init_from: weights to start from.
        resumed: checkpoint that the run goes on from.
        sources: shards for training.
        needle: scenes that are drawn where there are no shards.
        needs_views: whether samples without a selected view are left out.
        prompts_per_step: samples of a step.
        strategy: Lightning's strategy or its name.
        precision: Lightning's precision.
        devices: devices of a machine: a number, None for all, or which ones.
        accelerator: kind of the devices, as it was given.
        machines: how many.
        steps: rollout steps of the run; None if it has no end.
        folder: where its checkpoints go.
        kept: checkpoints that are held at a time; 0 if none is written.
    """

    policy: PolicyConfig
    protocol: ProtocolConfig
    rollout: RolloutConfig
    algorithm: AlgorithmConfig
    sharding: ShardingConfig
    resolution: ResolutionConfig
    rewards: RewardConfig
    init_from: str | None
    resumed: str | None
    sources: tuple[ShardSource, ...]
    needle: NeedleShardConfig | None
    needs_views: bool
    prompts_per_step: int
    strategy: object
    precision: str
    devices: int | list[int] | None
    accelerator: object
    machines: int
    steps: int | None
    folder: Path
    kept: int

    @property
    def sharded(self) -> bool:
        """Whether weights are shared out over the devices."""
        return isinstance(self.strategy, ShardedStrategy)

    @property
    def for_several(self) -> bool:
        """Whether the strategy is one that several processes train under."""
        return isinstance(self.strategy, ShardedStrategy | ReplicatedStrategy)


class Reader(TrainingCLI):
    """``fit`` up to the point where its classes would be made."""

    def _set_seed(self) -> None:
        """Nothing here is random."""

    def instantiate_classes(self) -> None:
        """Make the parts of the configuration, and leave the module, the data and the trainer unmade."""
        parser: Any = self.parser
        make = getattr(parser, "instantiate", None) or parser.instantiate_classes  # jsonargparse 4.49 has a new name
        self.read = make(self.config, instantiate_groups=False)["fit"]

    def _run_subcommand(self, subcommand: str) -> None:
        """Read only."""


def read_run(words: Sequence[str]) -> Run:
    """Read the words of `infogap fit`.

    Args:
        words: configuration files and options; without a word, the defaults.

    Raises:
        CommandError: for a file of `infogap test`, and for numbers of devices, machines or prompts that mean nothing.
        SystemExit: with status 2, for what the parser refuses; it has printed why.
    """
    quieten()
    _refuse_evaluation(words)
    chosen: Any = Reader(
        GRPOModule,
        ShardDataModule,
        args=["fit", *words],
        seed_everything_default=0,
        auto_configure_optimizers=False,
        save_config_callback=None,
        parser_class=InfogapParser,
    ).read
    model, data, trainer = chosen["model"], chosen["data"], chosen["trainer"]
    given = trainer["callbacks"] or []
    saved = [each for each in (given if isinstance(given, list) else [given]) if isinstance(each, RunCheckpoint)]
    own = [] if data["root"] is None else [ShardSource(data["root"], manifest=data["manifest"])]
    return Run(
        policy=model["policy"] or PolicyConfig(),
        protocol=model["protocol"] or ProtocolConfig(),
        rollout=model["rollout"] or RolloutConfig(),
        algorithm=model["algorithm"] or AlgorithmConfig(),
        sharding=model["sharding"] or ShardingConfig(),
        resolution=ResolutionConfig(**vars(chosen["resolution"])),
        rewards=model["rewards"] or RewardConfig(),
        init_from=model["init_from"],
        resumed=None if chosen["ckpt_path"] is None else str(chosen["ckpt_path"]),
        sources=(*(data["sources"] or []), *own),
        needle=data["needle"],
        needs_views=data["require_view_tokens"],
        prompts_per_step=_positive("data.prompts_per_step", data["prompts_per_step"]),
        strategy=trainer["strategy"],
        precision=str(trainer["precision"] or "32-true"),
        devices=_devices(trainer["devices"]),
        accelerator=trainer["accelerator"],
        machines=_positive("trainer.num_nodes", trainer["num_nodes"]),
        steps=_steps(trainer),
        folder=_folder(trainer),
        kept=saved[0].keep + 1 if saved else 0,
    )


def _refuse_evaluation(words: Sequence[str]) -> None:
    """See that no configuration file is one of `infogap test`, whose fields are others."""
    check_files(words)
    load: Any = get_loader("yaml")
    named = [after for word, after in itertools.pairwise(words) if word in ("--config", "-c")]
    named += [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    for path in map(Path, named):
        content = load(path.read_text()) if path.is_file() else {}
        for part, field in (("model", "play"), ("data", "benchmark")):
            inside = content.get(part)
            if isinstance(inside, dict) and field in inside:
                raise CommandError(
                    f"{path} is a file of `infogap test` (it sets {part}.{field}): give one of `infogap fit`, such as "
                    "configs/stage1.yaml."
                )


def _positive(name: str, value: int) -> int:
    """The value, if it is at least 1."""
    if value < 1:
        raise CommandError(f"{name} is {value}: give at least 1.")
    return value


def _devices(given: object) -> int | list[int] | None:
    """What Lightning would make of `trainer.devices`: a number, a list or its text, or all."""
    text = ",".join(map(str, given)) if isinstance(given, list) else str(given)
    if text in ("auto", "-1"):
        return None
    names = [part.strip() for part in text.split(",")]
    listed = isinstance(given, list) or len(names) > 1
    names = names[:-1] if len(names) > 1 and not names[-1] else names
    if not all(name.isdecimal() for name in names) or (not listed and int(text) < 1) or len(set(names)) < len(names):
        raise CommandError(
            f"trainer.devices is {text or 'an empty list'}: give a number of at least 1, different numbers of devices "
            "such as 0,1, or auto for all."
        )
    return [int(name) for name in names] if listed else int(text)


def _steps(trainer: Any) -> int | None:
    """Rollout steps: batches of all epochs, or the steps that are set, whichever come first."""
    batches, epochs, most = trainer["limit_train_batches"], trainer["max_epochs"], trainer["max_steps"]
    if 0 in (batches, epochs, most):
        return 0
    # a whole number above 1 may come as a float: which of the two the parser tries first is not settled
    counted = isinstance(batches, int) or (batches is not None and batches > 1)
    limits = [int(batches) * (epochs or 1)] if counted and (epochs or 1) > 0 else []
    limits += [most] if most is not None and most > 0 else []
    return min(limits, default=None)


def _folder(trainer: Any) -> Path:
    """Where checkpoints go: beside the log, whose folder the logger says, else the trainer."""
    logger = trainer["logger"]
    logger = logger[0] if isinstance(logger, list) and logger else logger
    where = getattr(logger, "log_dir", None) or trainer["default_root_dir"] or "."
    return Path(str(where)) / FOLDER
