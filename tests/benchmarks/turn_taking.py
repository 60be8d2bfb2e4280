"""Lets two training loops run in one process, one step at a time each, so that whatever disturbs one disturbs both."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence


class Baton:
    """Whoever holds it runs; the others wait.

    Args:
        names: all runners, in the order in which they take turns.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._order = list(names)
        self._changed = threading.Condition()

    def wait(self, name: str) -> None:
        """Wait for one's turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._order[0] == name)

    def pass_on(self, name: str) -> None:
        """End one's turn and wait for the next one."""
        with self._changed:
            self._order.append(self._order.pop(0))
            self._changed.notify_all()
        self.wait(name)

    def leave(self, name: str) -> None:
        """Take part no longer."""
        with self._changed:
            self._order.remove(name)
            self._changed.notify_all()


class StepClock:
    """Seconds of every step of a loop, from one step's end to the next one's, without the time that others had.

    Processor seconds, summed over threads, are noted too: on a machine with other work they say more.

    Args:
        name: who runs the loop.
        baton: handed on after every step; None to run alone.
        synchronize: waits until the device has done what it was given.
    """

    def __init__(self, name: str, baton: Baton | None, synchronize: Callable[[], None]) -> None:
        self.name, self.baton, self.synchronize = name, baton, synchronize
        self.seconds: list[float] = []
        self.processor_seconds: list[float] = []
        self._started = self._processor_started = 0.0

    def begin(self) -> None:
        """The loop begins, or goes on."""
        self._started, self._processor_started = time.perf_counter(), time.process_time()

    def step(self) -> None:
        """A step has ended."""
        self.synchronize()
        self.seconds.append(time.perf_counter() - self._started)
        self.processor_seconds.append(time.process_time() - self._processor_started)
        if self.baton is not None:
            self.baton.pass_on(self.name)
        self.begin()


def run_in_turns(runs: dict[str, Callable[[], None]], baton: Baton) -> None:
    """Run several loops, the first one in this thread and each other one in its own.

    Raises:
        Exception: what a loop raised.
    """
    errors: list[BaseException] = []

    def guarded(name: str) -> None:
        try:
            baton.wait(name)
            runs[name]()
        except BaseException as error:
            errors.append(error)
        finally:
            baton.leave(name)

    first, *others = runs
    threads = [threading.Thread(target=guarded, args=(name,), name=name) for name in others]
    for thread in threads:
        thread.start()
    guarded(first)
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
