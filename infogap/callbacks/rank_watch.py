"""The watch over the processes of a run: one that fails ends the others, wherever they wait.

A process that waits for a dead one in a collective waits for the timeout of the process group, half an hour or longer,
and no exception reaches it there. So every process has a thread that beats in a store of its own, apart from the
process group, and that ends its process from outside of the main thread.
"""

from __future__ import annotations

import atexit
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import torch.distributed
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from infogap.callbacks.process import Process

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore  # the public name has no type
else:
    from torch.distributed import TCPStore

EXIT_STATUS: Final = 75
"""Exit status of a process that ends because of another one; that one has its own, so a log tells who began."""

PATIENCE_OF_THE_STOPPED: Final = 15
"""How many timeouts a process that was asked to stop still has for itself: 10 minutes by default.

It writes its checkpoint then, which takes minutes with the state of an optimizer, and whoever asked ends it in the end.
"""

NEWS: Final = "news"
"""Key of the store under which everything worth knowing is appended, a line each."""


class RankWatch(Callback):
    """Ends every process of a run, hard and with one sentence on stderr, soon after one of them has failed.

    Noticed are: an exception (by the next beat), a process of the same machine that is killed or crashes (by the next
    beat), a process that makes no beat for `timeout_s` (it is stopped, its machine or the network is gone, or it holds
    the GIL), and rank 0 with the store itself. A silent process of the same machine is killed, so that none is left. A
    process that was asked to stop, and saves, is left alone. A run of a single process is not watched.

    The watch begins in `setup`, before the weights are loaded. A process that fails earlier ends the others through
    what has started them: Lightning's launcher, the agent of torchrun, or ``srun --kill-on-bad-exit=1``.

    Args:
        interval_s: seconds from one beat to the next. A beat is a few small messages to rank 0, so one a second is
            cheap, and news spread as fast.
        timeout_s: seconds without a beat after which a process is taken for dead. The thread beats through kernels,
            collectives, reading and writing, which let go of the GIL, and through Python code, compilation included,
            which shares it. What holds it throughout is a collection of garbage, the start of CUDA or a fork, a few
            seconds each. So 40 s is no false alarm, and ends a run within a minute.

    Raises:
        ValueError: if `interval_s` is not positive, or `timeout_s` not at least five intervals.
    """

    def __init__(self, interval_s: float = 1.0, timeout_s: float = 40.0) -> None:
        if not interval_s > 0.0:
            raise ValueError(f"RankWatch.interval_s is {interval_s}: give a positive number of seconds.")
        if not timeout_s >= 5.0 * interval_s:
            raise ValueError(
                f"RankWatch.timeout_s is {timeout_s}: give at least five intervals of {interval_s} s: one may be late."
            )
        self.interval_s, self.timeout_s = interval_s, timeout_s
        self._watch: _Watch | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin to watch: the first hook that comes after the process group."""
        if trainer.world_size == 1:
            return
        store, processes = _meet(trainer.global_rank, trainer.world_size, self.timeout_s)
        times = (self.interval_s, self.timeout_s)
        self._watch = _Watch(trainer.global_rank, store, processes, times, lambda: trainer.received_sigterm)
        self._watch.start()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Tell the others, unless this is an orderly stop."""
        if self._watch is None:
            return
        if isinstance(exception, SIGTERMException | KeyboardInterrupt):
            self._watch.stopping = True
        else:
            self._watch.fail(exception)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Sign off; rank 0, which has the store, when all the others have."""
        if self._watch is not None:
            self._watch.leave()
            self._watch = None


def _meet(rank: int, world_size: int, timeout_s: float) -> tuple[TCPStore, list[Process]]:
    """Open the store on rank 0, and tell all where it is and who they are."""
    # the name under which all have found rank 0 for the process group; Lightning sets it if nobody else has
    host, timeout = os.environ["MASTER_ADDR"], timedelta(seconds=timeout_s)
    store: TCPStore | None = None
    if rank == 0:
        store = TCPStore(host, 0, is_master=True, timeout=timeout, wait_for_workers=False)
        store.set(NEWS, "\n")
        for other in range(world_size):
            store.set(f"beat/{other}", "-1")  # a key that is missing is waited for
    entries: list[tuple[int, Process]] = [(0, Process.this())] * world_size
    torch.distributed.all_gather_object(entries, (0 if store is None else store.port, Process.this()))
    if store is None:
        store = TCPStore(host, entries[0][0], is_master=False, timeout=timeout)
    return store, [process for _, process in entries]


class _Event(NamedTuple):
    """What a rank has done or suffered: `left` after its work, `stopped` since it was asked to, and so on."""

    rank: int
    kind: Literal["left", "stopped", "failed", "lost"]
    reason: str = ""


class _Watch:
    """The watch of one process in one run: a thread that beats and judges, and one that watches the first."""

    def __init__(
        self,
        rank: int,
        store: TCPStore,
        processes: Sequence[Process],
        times: tuple[float, float],
        asked_to_stop: Callable[[], bool],
    ) -> None:
        self.stopping = False
        self._rank, self._store, self._processes = rank, store, processes
        self._machine = processes[rank].machine
        self._interval_s, self._timeout_s = times
        self._asked_to_stop = asked_to_stop
        self._failing = self._leaving = self._store_lost = self._said = False
        self._departed: set[int] = set()
        self._verdict: _Event | None = None
        self._waited_s = 0.0
        self._rounds = 0
        self._heard = dict.fromkeys(range(len(processes)), (b"", 0))  # the last beat, and rounds since it came
        self._talk = threading.Lock()
        self._wake, self._closed = threading.Event(), threading.Event()

    def start(self) -> None:
        """Start the threads, which do not keep a process from ending."""
        self._thread = threading.Thread(target=self._run, name="rank-watch", daemon=True)
        self._thread.start()
        threading.Thread(target=self._guard, name="rank-watch-guard", daemon=True).start()
        atexit.register(self._at_exit)

    def fail(self, exception: BaseException) -> None:
        """Tell the others of an exception, and give them the time to hear it.

        If another process was lost a moment ago, the exception follows from that, and only the first cause is told. The
        threads run on: should the process hang on its way out, they end it.
        """
        self._failing = True
        time.sleep(1.5 * self._interval_s)  # the round in which the loss of another is noticed
        if self._verdict is None:
            words = " ".join(f"{type(exception).__name__}: {exception}".split())
            self._post(_Event(self._rank, "failed", f"failed with {words[:300]}"))
        time.sleep(2.0 * self._interval_s)

    def leave(self) -> None:
        """Sign off after the work is done, and on rank 0 wait for the others: without the store they would be blind."""
        atexit.unregister(self._at_exit)
        self._post(_Event(self._rank, "left"))
        self._leaving = True
        self._wake.set()
        self._thread.join()

    def _at_exit(self) -> None:
        """Sign off a process that was asked to stop; one that fails has told already, and is only timed from here on.

        Neither talks to the store any more: a thread that returns from C++ to a closed interpreter aborts the process.
        """
        if self._failing:
            self._talk.acquire(timeout=self._interval_s)  # and keep it
            self._store_lost = True
            return
        self._post(_Event(self._rank, "stopped", "was asked to stop and has left"))
        if self._rank == 0:
            time.sleep(2.0 * self._interval_s)  # the store goes with this process: let all hear why
        self._closed.set()
        self._wake.set()
        self._thread.join(self._interval_s)

    def _run(self) -> None:
        while not (self._closed.is_set() or self._may_close()):
            self._try_round()
            self._rounds += 1
            if self._verdict is not None:
                self._act(self._verdict)
            self._wake.wait(self._interval_s)
            self._wake.clear()
        self._closed.set()

    def _may_close(self) -> bool:
        if not self._leaving or (self._verdict is not None and self._verdict.kind != "stopped"):
            return False
        return self._rank != 0 or len(self._departed) == len(self._processes)

    def _try_round(self) -> None:
        if not self._store_lost and self._talk.acquire(blocking=False):
            try:
                self._round()
            except RuntimeError:  # what torch raises for every trouble with a store
                self._lose_store()
            finally:
                self._talk.release()

    def _round(self) -> None:
        """Beat, hear the news, and judge."""
        others = [rank for rank in range(len(self._processes)) if rank != self._rank]
        # looked at before the news is heard: a process signs off first and ends then
        gone = [rank for rank in others if self._processes[rank].is_gone(self._machine)]
        self._store.set(f"beat/{self._rank}", str(self._rounds))
        for line in self._store.get(NEWS).decode().split("\n")[1:-1]:
            self._hear(_Event(*json.loads(line)))
        # rank 0 watches all, and all watch rank 0: its store may answer while its Python is stuck
        watched = [rank for rank in (others if self._rank == 0 else [0]) if rank not in self._departed]
        for rank in [rank for rank in gone if rank not in self._departed]:
            self._accuse(rank, f"has ended without a word: process {self._processes[rank].pid} was killed or crashed")
        beats = self._store.multi_get([f"beat/{rank}" for rank in watched]) if watched else []
        for rank, beat in zip(watched, beats, strict=True):
            last, rounds = self._heard[rank]
            # counted in rounds of this process, so that a pause of the whole job is nobody's silence
            self._heard[rank] = (beat, rounds + 1 if beat == last else 0)
            if self._heard[rank][1] * self._interval_s >= self._timeout_s:
                self._accuse(rank, f"was not heard for {self._timeout_s:g} s: it hangs, or its machine is gone")

    def _hear(self, event: _Event) -> None:
        if event.kind in ("left", "stopped"):
            self._departed.add(event.rank)
        if event.kind != "left" and (event.rank, event.kind) != (self._rank, "stopped"):
            self._verdict = self._verdict or event

    def _accuse(self, rank: int, reason: str) -> None:
        if self._verdict is None:
            self._verdict = _Event(rank, "lost", reason)
            self._post(self._verdict)

    def _post(self, event: _Event) -> None:
        try:
            self._store.append(NEWS, json.dumps(event) + "\n")  # type: ignore[attr-defined]  # the stub lacks it
        except RuntimeError:
            self._lose_store()

    def _lose_store(self) -> None:
        self._store_lost = True
        self._verdict = self._verdict or _Event(0, "lost", "has ended without a word: its store is closed")

    @property
    def _saving(self) -> bool:
        return (self.stopping or self._asked_to_stop()) and not self._leaving

    def _patience_s(self, event: _Event) -> float:
        """Seconds that this process still has after such an event."""
        if self._saving:
            return PATIENCE_OF_THE_STOPPED * self._timeout_s
        if self._failing or event.kind == "stopped":  # to say why; to be asked to stop too
            return self._timeout_s
        # who fails prints its traceback first: a launcher that sees the first end kills the rest
        return self._timeout_s / 8.0 if event.kind == "failed" else 0.0

    def _act(self, event: _Event) -> None:
        if event.rank != self._rank and event.kind != "stopped" and not self._saving:
            self._say(event)
        if self._waited_s >= self._patience_s(event):
            self._end(event)
        self._waited_s += self._interval_s

    def _guard(self) -> None:
        """End this process if a call of the store hangs, as it does when rank 0 is stopped or its machine is gone."""
        rounds, stalled_s = -1, 0.0
        while not self._closed.wait(self._interval_s):
            stalled_s = stalled_s + self._interval_s if self._rounds == rounds else 0.0
            rounds = self._rounds
            if stalled_s >= self._timeout_s * (PATIENCE_OF_THE_STOPPED if self._saving else 1):
                reason = f"does not answer for {self._timeout_s:g} s: it hangs, or its machine is gone"
                self._end(self._verdict or _Event(0, "lost", reason))

    def _say(self, event: _Event) -> None:
        if not self._said:
            self._said = True
            # past sys.stderr, whose lock the main thread may hold for ever
            os.write(2, f"rank {self._rank} ends because rank {event.rank} {event.reason}.\n".encode())

    def _end(self, event: _Event) -> None:
        self._say(event)
        if event.kind == "lost" and event.rank != self._rank:
            self._processes[event.rank].kill(self._machine)
        os._exit(EXIT_STATUS)  # the main thread may be in C++, where no exception reaches it
