"""The processes of a run while they select views: each works on its own, and an error of one ends the work of all."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from torch import distributed
from torch.distributed import ProcessGroup

from infogap.resolution.shares import Share

LONGEST_WAIT = timedelta(days=7)
"""How long a process that is finished waits for the others. The patience of a default group is minutes."""

Result = TypeVar("Result")


class SelectionError(ValueError):
    """What ended the selection in another process."""


class _StoppedError(SelectionError):
    """What ends the work of this process because another one has failed."""


class Ranks:
    """The processes of a run, in a group of their own.

    Args:
        manifest: the manifest, on a disk that all of them see. A file beside it tells of a failure: the processes go at
            their own pace, so that nothing else would reach one that works for another hour.
    """

    def __init__(self, manifest: Path) -> None:
        self._group: ProcessGroup = distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
        self.share = Share(distributed.get_rank() + 1, distributed.get_world_size())
        self._failure = manifest.with_name(f"{manifest.name}.failed")
        self._clear()  # what a run before has left; nobody fails before the first has come to the first exchange

    def first_only(self, work: Callable[[], Result]) -> Result:
        """What a piece of work returns that the first process does for all; raises as in `together`."""
        results = self.together(lambda: work() if self.share.number == 1 else None)
        return results[0]  # type: ignore[return-value]  # of the first process

    def together(self, work: Callable[[], Result]) -> list[Result]:
        """Do a piece of work in every process, and wait for all.

        Returns:
            What it returned in each of them.

        Raises:
            Exception: what the work raised in this process.
            SelectionError: if it failed in another one; says how.
        """
        own: Exception | None = None
        outcome: dict[str, Any] = {}
        try:
            outcome["result"] = work()
        except Exception as error:  # raised below, when all know of it
            own = error
            self._failure.touch()
            stopped = isinstance(error, _StoppedError)
            outcome["stopped" if stopped else "failed"] = f"{type(error).__name__}: {error}"
        outcomes: list[dict[str, Any]] = [{} for _ in range(self.share.count)]
        distributed.all_gather_object(outcomes, outcome, group=self._group)
        failed = [(number, one["failed"]) for number, one in enumerate(outcomes) if "failed" in one]
        if own is not None and not isinstance(own, _StoppedError):
            raise own
        if failed:
            number, what = failed[0]
            raise SelectionError(f"Resolution selection ended in process {number} of {self.share.count}: {what}")
        return [one["result"] for one in outcomes]

    def check(self) -> None:
        """End the work of this process if another one has failed; to be called now and then within `together`."""
        if self._failure.exists():
            raise _StoppedError("Another process has failed.")

    def leave(self) -> None:
        """Dissolve the group, when all have done the same work."""
        self._clear()
        distributed.destroy_process_group(self._group)

    def _clear(self) -> None:
        if self.share.number == 1:
            self._failure.unlink(missing_ok=True)
