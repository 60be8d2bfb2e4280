"""The commands that Lightning runs: ``fit``, ``validate`` and ``test``, each with the classes that it needs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

import transformers
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.core import LightningDataModule, LightningModule

# imported, a callback or a strategy can be named in YAML by its class name alone
from infogap.callbacks import (
    CropDependence,
    EpisodeLogger,
    GroundingStage,
    RankWatch,
    RewardProgressBar,
    RunCheckpoint,
)
from infogap.callbacks.checkpoint_files import requeued_checkpoint
from infogap.data.datamodule import ShardDataModule, ShardSource
from infogap.data.reader import is_remote, load_manifest_beside
from infogap.evaluation.datamodule import BenchmarkDataModule
from infogap.evaluation.module import EvaluationModule
from infogap.grpo.module import GRPOModule
from infogap.grpo.strategy import ReplicatedStrategy, ShardedStrategy, check_strategy
from infogap.parser import ShortParser
from infogap.parser.fields import first_sentence
from infogap.parser.files import ConfigError, check_files
from infogap.policy.checkpoint_folder import FOLDER, is_complete, newest_checkpoint
from infogap.resolution import ResolutionConfig, ensure_manifest
from infogap.rollout import RolloutConfig, ViewConfig

QUIET = (
    # messages about other packages' code or products, which a user of this one cannot act on
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*LightningCLI's args parameter is intended to run from within Python.*",
    r".*does not have many workers.*",
    r"Total length of `list` across ranks is zero.*",  # data.val_root is null
    r".*is not supported on this platform.*",
    r".*is_gradient_checkpointing.*deprecated.*",  # peft reads it
    r".*It is recommended to use `self.log\(.*sync_dist=True.*",  # the numbers are those of all ranks already
)

LARGEST_SEED: Final = 2**32 - 1  # of numpy's generators, which are set too

COMMENTED: Final = "--print_config=comments"

DESCRIPTIONS: Final = {
    "fit": "Train a policy to crop; the newest configuration file wins, and options win over files.\n"
    "  infogap fit --config configs/stage1.yaml --model.optim.lr 1e-4 --trainer.limit_train_batches 100",
    "validate": "Play greedy episodes on the validation shards with a checkpoint of a run.\n"
    "  infogap validate --config configs/stage1.yaml --ckpt_path runs/stage1/checkpoints",
    "test": "Evaluate a policy on a benchmark, with probes of whether it uses what its crops show.\n"
    "  infogap test --config configs/eval/vstar.yaml --model.init_from runs/stage1/checkpoints --data.root PATH",
}
"""What each command does, and an example."""

CALLBACKS: Final = (EpisodeLogger, CropDependence, GroundingStage, RewardProgressBar, RunCheckpoint, RankWatch)


class InfogapParser(ShortParser, LightningArgumentParser):
    """Lightning's parser with short errors and a help page of our own."""


class InfogapCLI(LightningCLI):
    """The command line of one module class and one datamodule class."""

    seeds: tuple[str, ...] = ()
    """Fields that ``seed_everything`` sets."""

    classes: Mapping[str, tuple[type, ...]] = MappingProxyType({})
    """Classes of ours that a field may hold, by its name."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser that knows which classes there are."""
        parser = super().init_parser(**kwargs)
        if isinstance(parser, InfogapParser):
            parser.classes = self.classes
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, or raise ConfigError; comments printed are ours, since jsonargparse's need another package."""
        check_files(args if isinstance(args, list) else [])
        if isinstance(args, list) and COMMENTED in args:
            for each in self._subcommand_parsers.values():
                cast(InfogapParser, each).comment_dumps()
            args = ["--print_config" if word == COMMENTED else word for word in args]
        super().parse_arguments(parser, args)
        command = self.config.get("subcommand")
        seed = (self.config[command] if command else self.config)["seed_everything"]
        if not 0 <= int(seed) <= LARGEST_SEED:
            raise ConfigError(f"seed_everything is {seed}: give a number from 0 to {LARGEST_SEED}.")

    def add_arguments_to_parser(self, parser: object) -> None:
        """The ladder of resolution selection, which belongs to neither class, and one seed for everything random."""
        parser.add_class_arguments(ResolutionConfig, "resolution")  # type: ignore[attr-defined]
        for seed in self.seeds:
            parser.link_arguments("seed_everything", seed, compute_fn=int)  # type: ignore[attr-defined]

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer; a recipe's bar gives way to ``trainer.enable_progress_bar``, instead of an error.

        Raises:
            ConfigError: for what Lightning refuses, such as a strategy that does not exist.
        """
        chosen = self._get(self.config_init, "trainer")
        if chosen["enable_progress_bar"] is False and isinstance(chosen["callbacks"], list):
            chosen["callbacks"] = [each for each in chosen["callbacks"] if not isinstance(each, RewardProgressBar)]
        try:
            return super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError, MisconfigurationException) as error:
            reason = first_sentence(" ".join(str(error).split()))
            raise ConfigError(f"trainer: {reason} See `infogap {self.subcommand} --trainer.help`.") from error

    @property
    def _resolution(self) -> ResolutionConfig:
        chosen = self.config_init[self.subcommand]["resolution"]
        return chosen if isinstance(chosen, ResolutionConfig) else ResolutionConfig(**vars(chosen))


class TrainingCLI(InfogapCLI):
    """``fit`` and ``validate``."""

    seeds = ("model.seed", "data.seed")
    classes = MappingProxyType(
        {
            "trainer.callbacks": CALLBACKS,
            "trainer.strategy": (ReplicatedStrategy, ShardedStrategy),
        }
    )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The commands, and which of their arguments are not options."""
        commands = LightningCLI.subcommands()
        return {name: commands[name] for name in ("fit", "validate")}

    def before_fit(self) -> None:
        """Find the checkpoint, and have views selected once the processes know each other."""
        self._find_checkpoint()
        selection = ViewSelection(self._resolution, int(self._chosen["seed_everything"]))
        self.trainer.callbacks.append(selection)  # type: ignore[attr-defined]  # set by one of its connectors

    def before_validate(self) -> None:
        """Find the checkpoint.

        Raises:
            ConfigError: if there are no validation shards.
        """
        if self._chosen["data"].val_root is None:
            raise ConfigError("data.val_root is null, and validate plays on the validation shards: give their folder.")
        self._find_checkpoint()

    @property
    def _chosen(self) -> Any:
        return self.config_init[self.subcommand]

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration as it is: no checkpoint of ours holds hyperparameters, and looking reads it all."""

    def _find_checkpoint(self) -> None:
        """For a folder of checkpoints take the newest; a requeued SLURM job goes on from its own."""
        if self._chosen["ckpt_path"] is None:
            found = requeued_checkpoint(Path(self.trainer.log_dir or self.trainer.default_root_dir) / FOLDER)
        else:
            path = Path(self._chosen["ckpt_path"])
            found = newest_checkpoint(path) if path.is_dir() and not is_complete(path) else path
        # the trainer knows it from the start, where an argument of fit is known only when everything is loaded
        self._chosen["ckpt_path"], self.trainer.ckpt_path = None, None if found is None else str(found)


class ViewSelection(Callback):
    """Makes or finishes the resolution manifest beside each set of shards; all processes take part.

    Args:
        config: how views are selected.
        seed: what the global generators are set to afterwards: selection has drawn from them, and adapters will be.
    """

    def __init__(self, config: ResolutionConfig, seed: int) -> None:
        self.config, self.seed = config, seed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Needs the shards, which have been prepared, and the process group."""
        check_strategy(trainer.strategy, trainer.world_size)  # the module would say so after hours of selection
        model, data = cast(GRPOModule, pl_module), cast(ShardDataModule, trainer.datamodule)  # type: ignore[attr-defined]
        if model.rollout_config.view.mode == "selected" or data.require_view_tokens:
            init_from = None if model.init_from is None else Path(model.init_from)
            validation = [] if data.val_root is None else [ShardSource(data.val_root)]
            for source in (*data.sources, *validation):
                if is_remote(source.root):  # views are selected before shards are uploaded
                    _check_remote_views(source, data)
                    continue
                ensure_manifest(
                    source.root,
                    model.policy_config,
                    model.protocol,
                    model.rollout_config,
                    self.config,
                    None if source.manifest is None else Path(source.manifest),
                    init_from,
                    strict=data.strict,
                )
        seed_everything(self.seed, workers=True, verbose=False)


def _check_remote_views(source: ShardSource, data: ShardDataModule) -> None:
    if source.manifest is None and load_manifest_beside(source.root, data.cache) is None:
        raise ValueError(
            f"There is no resolution manifest beside {source.root}: run data_scripts/select_resolution.py on a copy of "
            "the shards and upload resolution.jsonl with them, or set model.rollout.view.mode to budget."
        )


class EvaluationCLI(InfogapCLI):
    """``test``."""

    seeds = ("model.seed",)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The command, and which of its arguments are not options."""
        return {"test": LightningCLI.subcommands()["test"]}

    def before_test(self) -> None:
        """Make the scenes that are asked for, and the views of our own shards, as the policy before training sees them.

        The weights in ``model.init_from`` play no part in this: what stage 1 learned is measured at the views that were
        selected before it.
        """
        model, data = self.model, self.datamodule
        model.check_weights()  # before hours of selection
        data.prepare_data()
        needed = "selected" in model.play.views or data.require_view_tokens
        if data.benchmark.name != "shards" or not needed:
            return
        play = model.play
        view = ViewConfig(min_tokens=play.min_view_tokens)
        rollout = RolloutConfig(view=view, crop=play.crop, limits=play.limits)
        ensure_manifest(data.root, model.first_policy, model.protocol, rollout, self._resolution, strict=data.strict)

    def after_test(self) -> None:
        """Keep the configuration beside the results: an evaluation has no log folder."""
        path = self.model.output / "config.yaml"
        self._parser(self.subcommand).save(self.config[self.subcommand], path, overwrite=True, multifile=False)


def run(args: ArgsType) -> None:
    """Run ``fit``, ``validate`` or ``test``.

    Args:
        args: the words of the command line, or what stands for them in Python; the first is the command.
    """
    quieten()
    if isinstance(args, list) and args[:1] == ["test"]:
        _start(EvaluationCLI, EvaluationModule, BenchmarkDataModule, args, None)
    else:
        _start(TrainingCLI, GRPOModule, ShardDataModule, args, SaveConfigCallback)


def quieten() -> None:
    """Leave out what other packages say of themselves, and what would be said twice."""
    if logging.root.hasHandlers():  # which Lightning's messages reach as well as its own handler
        logging.getLogger("lightning").handlers.clear()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_no_advertisement)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    for message in QUIET:
        warnings.filterwarnings("ignore", message=message)


def _start(
    cli: type[InfogapCLI],
    module: type[LightningModule],
    data: type[LightningDataModule],
    args: ArgsType,
    save: type[SaveConfigCallback] | None,
) -> None:
    cli(
        module,
        data,
        args=args,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        save_config_callback=save,
        save_config_kwargs={"overwrite": True},
        parser_class=InfogapParser,
        parser_kwargs={"prog": "infogap"} | {name: {"description": DESCRIPTIONS[name]} for name in cli.subcommands()},
    )


def _no_advertisement(record: logging.LogRecord) -> bool:
    return not any(product in record.getMessage() for product in ("litlogger", "litmodels"))
