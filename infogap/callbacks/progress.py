"""A progress bar that says how training goes, in words short enough for one line."""

from __future__ import annotations

from typing import Final

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

SHORT_NAMES: Final = {
    "reward/total": "reward",
    "reward/accuracy": "accuracy",
    "episode/tool_rate": "tools",
    "time/episodes_per_second": "episodes/s",
}
"""What the bar calls a metric."""


class RewardProgressBar(TQDMProgressBar):
    """Lightning's tqdm bar with short names for the metrics, and without the version number of the logger.

    Shown is every metric that the module logs for the progress bar.

    Args:
        refresh_rate: batches between two updates; 0 shows no bar.
        leave: keep the finished bar of every epoch.
    """

    def __init__(self, refresh_rate: int = 1, leave: bool = False) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=leave)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the bars' lines, so that what went wrong stands in a line of its own."""
        super().on_exception(trainer, pl_module, exception)
        for bar in (self._val_progress_bar, self._train_progress_bar):  # the lower one first
            if bar is not None:
                bar.close()

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Metrics to show, by the name to show."""
        metrics = super().get_metrics(trainer, pl_module)
        return {SHORT_NAMES.get(name, name): value for name, value in metrics.items() if name != "v_num"}
