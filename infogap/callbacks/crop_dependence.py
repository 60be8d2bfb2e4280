"""The crop-dependence probe during training: does the policy use what it crops?"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from infogap.data.reader import is_remote
from infogap.episode.matching import match_answer
from infogap.evaluation.arms import ArmName, Case, PlayConfig
from infogap.evaluation.benchmarks.shards import Shards
from infogap.evaluation.datamodule import with_other_images
from infogap.evaluation.engine import ArmPlayer, Outcome
from infogap.evaluation.question import BenchmarkError, View
from infogap.policy.sharding import resident

if TYPE_CHECKING:
    from infogap.grpo.module import GRPOModule

logger = logging.getLogger(__name__)

ARMS: Final[tuple[ArmName, ...]] = ("no_tool", "own", "gt", "noise")


class CropDependence(Callback):
    """Plays the same few rows under several arms, greedily, and logs accuracies and their differences.

    Logged after a validation: ``eval/own_crop``, ``eval/noise_crop``, ``eval/gt_crop``, ``eval/no_tool`` (accuracies),
    ``eval/crop_dependence`` (own minus noise, LFPC section 1) and ``eval/crop_gain`` (own minus no tool). The rows are
    the first of the validation shards, with the view of training. They are read apart from the training stream and no
    global random number is drawn, so that training goes on as it would without the probe.

    Args:
        rows: how many rows; those without boxes are left out of ``gt``, those without a selected view of all if
            training shows selected views.
        every_n_validations: validations from one probe to the next; the first has one.
        root: shards of the rows, on a disk; None for the datamodule's ``val_root``. Without either there is no probe.
        batch_size: rows that are played side by side.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self, rows: int = 32, every_n_validations: int = 1, root: str | None = None, batch_size: int = 16
    ) -> None:
        for name, value in (("rows", rows), ("every_n_validations", every_n_validations), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"CropDependence.{name} is {value}: give at least 1.")
        self.rows, self.every_n_validations, self.root, self.batch_size = rows, every_n_validations, root, batch_size
        self._validations = 0
        self._cases: list[Case] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the rows, so that a mistake in them is found before training.

        Raises:
            BenchmarkError: if there are none.
        """
        module = cast("GRPOModule", pl_module)
        root = self.root or trainer.datamodule.val_root  # type: ignore[attr-defined]  # set by one of its connectors
        if root is None or is_remote(root):
            logger.info("CropDependence does not run: neither its root nor data.val_root names shards on a disk.")
            return
        selected = module.rollout_config.view.mode == "selected"
        self._cases = list(itertools.islice(_cases(root, selected=selected), self.rows))
        if not self._cases:
            raise BenchmarkError(
                f"CropDependence finds no usable row in {root}: select views for its shards, or give another root."
            )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Play and log."""
        if trainer.sanity_checking or not self._cases:
            return
        due = self._validations % self.every_n_validations == 0
        self._validations += 1
        if due:
            with trainer.precision_plugin.forward_context():  # as in a validation step, which this hook comes after
                numbers = self._probe(cast("GRPOModule", pl_module))
            pl_module.log_dict(numbers)

    def state_dict(self) -> dict[str, int]:
        """The number of validations, so that a resumed run probes when the whole one would have."""
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore it."""
        self._validations = state_dict["validations"]

    def _probe(self, module: GRPOModule) -> dict[str, float]:
        rollout = module.rollout_config
        view: View = "selected" if rollout.view.mode == "selected" else rollout.view.budget
        config = PlayConfig(
            arms=ARMS,
            views=(view,),
            min_view_tokens=rollout.view.min_tokens,
            crop=rollout.crop,
            limits=rollout.limits,
        )
        assert module.policy is not None  # validation has used it
        outcomes: list[Outcome] = []
        with resident(module.policy) as playing:
            player = ArmPlayer(playing, module.protocol, config, module.seed)
            for start in range(0, len(self._cases), self.batch_size):
                outcomes += player.play(self._cases[start : start + self.batch_size]).outcomes
        accuracy = {arm: _accuracy([outcome for outcome in outcomes if outcome.arm == arm]) for arm in ARMS}
        return {
            "eval/own_crop": accuracy["own"],
            "eval/noise_crop": accuracy["noise"],
            "eval/gt_crop": accuracy["gt"],
            "eval/no_tool": accuracy["no_tool"],
            "eval/crop_dependence": accuracy["own"] - accuracy["noise"],
            "eval/crop_gain": accuracy["own"] - accuracy["no_tool"],
        }


def _cases(root: str, *, selected: bool) -> Iterator[Case]:
    """Rows of some shards that can be asked."""
    for row in with_other_images(Shards().rows(Path(root))):
        if isinstance(row, Case) and not (selected and row.question.sample.view_tokens is None):
            yield row


def _accuracy(outcomes: list[Outcome]) -> float:
    """Share of right answers; 0 without an episode, so that the set of keys is fixed."""
    right = []
    for outcome in outcomes:
        sample = outcome.case.question.sample
        right.append(match_answer(outcome.episode.answer, sample.answer, sample.options))
    return sum(right) / len(right) if right else 0.0
