"""Signals that end a run: noted when they come, acted upon when a rollout step is complete."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from types import FrameType
from typing import Final

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer

logger = logging.getLogger(__name__)

TERMINATED: Final = 128 + signal.SIGTERM
"""Exit status of a process that was told to end, as shells give it."""


class StopSignals:
    """Notes SIGTERM, and on SLURM the signal before a time limit, after which the job is to be queued again.

    Lightning's handlers are replaced: that of SIGTERM talks to other ranks in the middle of whatever this one does, and
    that of SLURM saves in the middle of a step. Lightning gives all signals back when the fit ends.

    A second SIGTERM ends the process at once.
    """

    def __init__(self) -> None:
        self.received = False
        self.requeue = False
        self._terminated = False
        self._process = os.getpid()

    def install(self, trainer: Trainer) -> None:
        """Take over from Lightning; a SIGTERM that it noted counts. Other threads than the main one cannot."""
        self.received |= trainer.received_sigterm
        trainer._signal_connector.received_sigterm = False  # or its loop would end before the step is in the log
        if threading.current_thread() is not threading.main_thread():
            return
        signal.signal(signal.SIGTERM, self._terminate)
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            assert environment.requeue_signal is not None  # on Windows only, where there is no SLURM
            signal.signal(environment.requeue_signal, self._announce)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a worker of a DataLoader, which has inherited this and ends with its run
        if self._terminated:
            os._exit(TERMINATED)
        self.received = self._terminated = True

    def _announce(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._process and not self.received:
            self.received = self.requeue = True


def requeue_job() -> None:
    """Ask SLURM to start this job again; if it cannot, say so, for the run is saved all the same."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        logger.warning("SLURM did not queue job %s again (%s): submit it once more.", job, error)
    else:
        logger.info("SLURM has queued job %s again.", job)
