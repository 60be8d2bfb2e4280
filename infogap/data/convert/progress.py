"""How far a conversion is: a bar if someone watches, else a line in the log now and then."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich import progress
from rich.console import Console

logger = logging.getLogger(__name__)


class ConvertProgress:
    """Shows rows, samples and bytes a second. Use it as a context manager.

    Args:
        name: of the data set.
        total: rows in all, None if that is not known: the files of most sets do not say it without being read.
        rows: rows that an interrupted conversion has done.
        console: where the bar is drawn; default: standard error. No bar if that is no terminal.
        interval: seconds between two lines of the log, where there is no bar.
        clock: seconds since any fixed moment.
    """

    def __init__(
        self,
        name: str,
        total: int | None,
        rows: int = 0,
        console: Console | None = None,
        interval: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        console = console or Console(stderr=True)
        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TextColumn("{task.completed:,} rows, {task.fields[state]}"),
            progress.TimeElapsedColumn(),
        )
        self._name, self._interval, self._clock = name, interval, clock
        self._bar = progress.Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._task = self._bar.add_task(name, total=total, completed=rows, state="0 samples")
        self._start = self._last_line = clock()
        self._first_bytes: int | None = None

    def show(self, rows: int, kept: int, image_bytes: int) -> None:
        """Note how much is done.

        Args:
            rows: of the source.
            kept: samples that were made of them.
            image_bytes: bytes of their images.
        """
        now = self._clock()
        if self._first_bytes is None:
            self._first_bytes = image_bytes
        rate = (image_bytes - self._first_bytes) / 1e6 / max(now - self._start, 1e-9)
        state = f"{kept:,} samples, {rate:,.0f} MB/s"
        if not self._bar.disable:
            self._bar.update(self._task, completed=rows, state=state)
        elif now - self._last_line >= self._interval:
            self._last_line = now
            logger.info("%s: %s rows, %s.", self._name, f"{rows:,}", state)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
