"""``infogap fit --config configs/stage1.yaml``: the command line."""

from __future__ import annotations

import logging
import sys

from lightning.pytorch.cli import ArgsType, LightningCLI

import infogap.callbacks  # noqa: F401  # so that the YAML can name them by their class name alone
from infogap.data.datamodule import ShardDataModule
from infogap.grpo.module import GRPOModule

logger = logging.getLogger(__name__)


class InfogapCLI(LightningCLI):
    """The command line of one module class and one datamodule class."""

    def before_fit(self) -> None:
        """Make what training needs and does not have yet: the shards, and the resolution manifest of each set."""
        self.datamodule.prepare_data()
        if self.model.rollout_config.view.mode != "selected":
            return
        from infogap.resolution import ensure_manifest

        for root in filter(None, (self.datamodule.root, self.datamodule.val_root)):
            ensure_manifest(root, self.model.policy_config, self.model.protocol, self.model.rollout_config)


def main(args: ArgsType = None) -> None:
    """Run the command line.

    Args:
        args: arguments instead of those of the process, for use from Python.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=False)
    InfogapCLI(
        GRPOModule,
        ShardDataModule,
        args=args,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"description": "Teach a vision-language model to look closely."},
    )


if __name__ == "__main__":
    main(sys.argv[1:])
