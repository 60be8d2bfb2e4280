"""The LightningModule of ``infogap test``: plays batches of rows, writes predictions as it goes, results at the end."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torchmetrics.aggregation import MeanMetric

import infogap
from infogap.episode.protocol import Protocol, ProtocolConfig
from infogap.evaluation.arms import NEEDS_BOXES, ArmName, Case, PlayConfig
from infogap.evaluation.datamodule import BenchmarkDataModule, RowBatch
from infogap.evaluation.engine import ArmPlayer, Outcome
from infogap.evaluation.judge import Judge, JudgeConfig
from infogap.evaluation.measure import to_prediction, unreadable_predictions
from infogap.evaluation.plots import write_plots
from infogap.evaluation.prediction import Prediction
from infogap.evaluation.prediction_file import FILE_NAME, Place, PredictionFile, place_of
from infogap.evaluation.question import BenchmarkError
from infogap.evaluation.report import print_report, write_report
from infogap.evaluation.results import Results, ResultsError
from infogap.evaluation.scoring import Scorer
from infogap.policy.checkpoint import is_directory_checkpoint
from infogap.policy.loading import PolicyConfig, check_folder, load_policy
from infogap.policy.model import Policy
from infogap.policy.weights import check_weights, find_weights, fingerprint, load_weights

logger = logging.getLogger(__name__)


@dataclass
class ScoringConfig:
    """What counts as right.

    Args:
        mode: "strict": our rules, which read an answer in one way or not at all. "official": the benchmark's own rule,
            for comparison with published numbers, faults included.
        judge: a language model that is asked about answers that the rules cannot read; null: they are wrong.
        unreadable: whether a row that could not be read counts as wrong, or not at all.
    """

    mode: Literal["strict", "official"] = "strict"
    judge: JudgeConfig | None = None
    unreadable: Literal["wrong", "excluded"] = "wrong"


class EvaluationModule(LightningModule):
    """Evaluates a policy on a benchmark.

    Args:
        policy: the policy, or what ``init_from`` was trained from.
        protocol: the texts that policy and environment exchange.
        play: arms, views, and how episodes are played.
        scoring: what counts as right.
        init_from: what to evaluate: a checkpoint of ours, or a run for its newest, whose weights replace those of
            ``policy.path``, or a local Hugging Face folder, which then is the policy. None evaluates ``policy.path``.
        output: folder for predictions, results, report and plots. A second run goes on where the first stopped.
        seed: of sampling, noise and random crops.

    Raises:
        ValueError: if ``init_from`` does not exist, or is a folder of neither a model nor a checkpoint.
    """

    def __init__(
        self,
        policy: PolicyConfig | None = None,
        protocol: ProtocolConfig | None = None,
        play: PlayConfig | None = None,
        scoring: ScoringConfig | None = None,
        init_from: str | None = None,
        output: str = "runs/eval",
        seed: int = 0,
    ) -> None:
        super().__init__()
        source = None if init_from is None else Path(init_from)
        if source is not None and not source.exists():
            raise ValueError(f"model.init_from {init_from!r} does not exist: give a checkpoint or a model folder.")
        self.policy_config = self.first_policy = policy or PolicyConfig()
        self.weights = source = None if source is None else find_weights(source)
        if source is not None and source.is_dir() and not is_directory_checkpoint(source):
            check_folder(source)
            self.weights = None
            self.policy_config = replace(self.policy_config, path=str(source), lora=None)
        self.protocol = Protocol(protocol or ProtocolConfig())
        self.play, self.scoring = play or PlayConfig(), scoring or ScoringConfig()
        self.output, self.seed = Path(output), seed
        self.policy: Policy | None = None
        self._accuracy_so_far = {arm: MeanMetric() for arm in self.play.arms}
        self._left_out = 0
        self._opened = ExitStack()

    def check_weights(self) -> None:
        """See that the checkpoint in ``init_from`` can be read and is of the policy's kind.

        Raises:
            PolicyError: if not.
        """
        if self.weights is not None:
            check_weights(self.policy_config, self.weights)

    def configure_callbacks(self) -> list[Callback]:
        """What closes the predictions if the evaluation stops."""
        return [_ClosePredictions()]

    def close(self) -> None:
        """Close the predictions, if they are open."""
        self._opened.close()

    def setup(self, stage: str) -> None:
        """Open the predictions, and refuse what would fail after hours.

        Raises:
            ValueError: if an arm needs boxes that the benchmark does not have, there are several processes, or the
                predictions in ``output`` were made otherwise.
        """
        if self.trainer.world_size > 1:
            raise ValueError(
                f"The evaluation was started on {self.trainer.world_size} processes, which this version cannot do: set "
                "trainer.devices and trainer.num_nodes to 1."
            )
        benchmark, arms = self._data.benchmark, [arm for arm in self.play.arms if arm in NEEDS_BOXES]
        if arms and not benchmark.has_boxes:
            raise ValueError(
                f"The arms {', '.join(arms)} show annotated evidence, which {benchmark.name} does not have: leave them "
                "out of model.play.arms."
            )
        self.trainer.test_loop.verbose = False  # the report says more than Lightning's table
        judge = None if self.scoring.judge is None else Judge(self.scoring.judge)
        self._scorer = Scorer(self.scoring.mode, benchmark, judge)
        self._how = self._protocol()
        self._file = self._opened.enter_context(PredictionFile(self.output / FILE_NAME, self._how))
        self._met: dict[Place, None] = {}  # in this pass over the data, in their order

    def configure_model(self) -> None:
        """Load the policy; nothing of it is trained."""
        if self.policy is None:
            self.policy = load_policy(self.policy_config, self.protocol.config.turn_end_texts)
            if self.weights is not None:
                load_weights(self.policy, self.weights)
            self.policy.requires_grad_(False)
            self._player = ArmPlayer(self.policy, self.protocol, self.play, self.seed)

    def test_step(self, batch: RowBatch, batch_idx: int) -> None:
        """Play the rows that are not in the predictions yet, and append what came of them."""
        self._left_out += batch.left_out
        pending = [case for case in batch.cases if not self._holds(case)]
        played = self._player.play(pending) if pending else None
        predictions = self._score(played.outcomes) if played else []
        for row in (*(played.unreadable if played else ()), *batch.unreadable):
            logger.warning("%s Its row %s counts as unreadable.", row.reason, row.key)
            predictions += unreadable_predictions(row, self.play)
        if predictions:
            self._file.append(predictions)
            self._met |= dict.fromkeys(map(place_of, predictions))
            self._show_progress(predictions)

    def on_test_end(self) -> None:
        """Write and print the numbers.

        Raises:
            BenchmarkError: if no row was played.
        """
        predictions = [self._file.predictions[place] for place in self._met]
        self.close()
        if not predictions:
            raise BenchmarkError(
                f"No row of {self._data.root} was played: {self._left_out} were left out, since resolution selection "
                "found no view for them."
            )
        results = Results.of(predictions, self._data.benchmark, self._how | self._versions())
        results.write(self.output / "results.json")
        print_report(results)
        try:
            plots = write_plots(results, predictions, self.output)
        except ResultsError as error:  # matplotlib is missing: no reason to lose the report
            logger.warning("%s", error)
            plots = []
        write_report(results, self.output / "report.md", plots)
        logger.info("Predictions, results and report are in %s.", self.output)

    @property
    def _data(self) -> BenchmarkDataModule:
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set by one of its connectors
        if not isinstance(data, BenchmarkDataModule):
            raise TypeError(f"The rows come from a {type(data).__name__}: give the trainer a BenchmarkDataModule.")
        return data

    def _score(self, outcomes: Sequence[Outcome]) -> list[Prediction]:
        readings = self._scorer.read_many([(o.case.question, o.answer) for o in outcomes])
        return [to_prediction(outcome, reading) for outcome, reading in zip(outcomes, readings, strict=True)]

    def _show_progress(self, predictions: Sequence[Prediction]) -> None:
        """Accuracies over what this run has played; the results, with their intervals, are made at the end."""
        for prediction in predictions:
            self._accuracy_so_far[cast(ArmName, prediction.arm)].update(float(prediction.correct))
        for arm, metric in self._accuracy_so_far.items():
            if metric.update_called:
                self.log(f"test/{arm}", metric.compute(), prog_bar=arm in ("no_tool", "own"), batch_size=1)

    def _holds(self, case: Case) -> bool:
        """Whether a row was played before.

        Raises:
            BenchmarkError: if it was played with another right answer.
        """
        places = self._places(case)
        if not self._file.holds(places):
            return False
        gold, before = case.question.gold, self._file.predictions[places[0]].gold
        if gold != before:
            raise BenchmarkError(
                f"The row {case.question.key} was played when its right answer was {before!r}, and now it is {gold!r}: "
                f"give model.output another folder, or remove {self._file.path}."
            )
        self._met |= dict.fromkeys(places)
        return True

    def _places(self, case: Case) -> list[Place]:
        """The episodes of a row."""
        return [
            (case.question.key, str(view), arm, attempt)
            for view in self.play.views
            for arm in self.play.arms
            if case.can_play(arm)
            for attempt in range(self.play.attempts)
        ]

    def _protocol(self) -> dict[str, Any]:
        """Everything that the predictions depend on, as JSON values."""
        judge = self.scoring.judge
        texts = json.dumps(asdict(self.protocol.config), sort_keys=True, default=str)
        how = {
            "benchmark": self._data.benchmark.name,
            "data": self._data.root,
            "files": self._data.digest(with_views="selected" in self.play.views),
            "limit": self._data.limit,
            "policy": str(self.weights or self.policy_config.path),
            "weights": fingerprint(self.weights or self.policy_config.folder),
            "lora": None if self.policy_config.lora is None else asdict(self.policy_config.lora),
            "dtype": self.policy_config.dtype,
            "precision": str(self.trainer.precision),
            "play": asdict(self.play),
            "texts": hashlib.sha256(texts.encode()).hexdigest()[:16],
            "matching": self.scoring.mode,
            "judge": None if judge is None else {n: getattr(judge, n) for n in ("model", "base_url", "max_tokens")},
            "seed": self.seed,
        }
        plain: dict[str, Any] = json.loads(json.dumps(how))
        return plain

    def _versions(self) -> dict[str, Any]:
        """What the numbers were made with, and what does not change an episode."""
        packages = ("torch", "transformers", "lightning", "pillow")
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
        return {
            "unreadable": self.scoring.unreadable,
            "rows_left_out": self._left_out,
            "batch_size": self._data.batch_size,
            "infogap": infogap.__version__,
            "commit": _commit(),
            "versions": {name: version(name) for name in packages},
            "device": device,
        }


class _ClosePredictions(Callback):
    """Lightning tells callbacks of an error, and not the module."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        cast(EvaluationModule, pl_module).close()


def _commit() -> str | None:
    """Commit of the checkout that this package is run from; None outside one."""
    folder = Path(infogap.__file__).resolve().parents[1]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
