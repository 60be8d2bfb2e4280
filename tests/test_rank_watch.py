"""A process that fails ends the others: real processes, real signals, gloo."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from two_processes import Run, Server

from infogap.callbacks.process import Process
from infogap.callbacks.rank_watch import EXIT_STATUS, RankWatch

TIMEOUT_S = 3.0
WATCH = {"interval_s": 0.2, "timeout_s": TIMEOUT_S}
WITHIN_S = 25.0  # far more than the timeout, for busy machines; without the watch it is half an hour

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def run(server: Server, tmp_path: Path) -> Iterator[Run]:
    with closing(Run(server, tmp_path)) as run:
        yield run


@pytest.fixture(scope="module", autouse=True)
def slow(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """Runs that take their time, while others are tested."""
    with ExitStack() as stack:
        names = ("launched", "unwatched", "first", "last", "hangs")
        runs = {name: stack.enter_context(closing(Run(server, tmp_path_factory.mktemp(name)))) for name in names}
        runs["launched"].start("both", {"does": ("block", "block"), "watch": WATCH}, {})
        runs["unwatched"].start_both(("collect", "block"), None)
        runs["first"].start_both(("nothing", "nothing"), WATCH, ends=(0.0, TIMEOUT_S + 1.0))
        runs["last"].start_both(("nothing", "nothing"), WATCH, ends=(TIMEOUT_S + 1.0, 0.0))
        runs["hangs"].start_both(("fail", "block"), WATCH, ends=(3600.0, 0.0))
        runs["unwatched"].pid_in_step(0)
        os.kill(runs["unwatched"].pid_in_step(1), signal.SIGSTOP)
        yield runs


@pytest.mark.parametrize("meanwhile", ["block", "roll_out"])
def test_an_exception_ends_the_other_rank(meanwhile: str, run: Run) -> None:
    run.start_both((meanwhile, "fail"), WATCH)
    assert run.statuses(WITHIN_S) == [EXIT_STATUS, 1]
    assert run.sentences("rank_0") == ["rank 0 ends because rank 1 failed with RuntimeError: bad batch."]
    assert run.sentences("rank_1") == []
    assert "Traceback" in (run.folder / "rank_1.txt").read_text()


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_rank_ends_the_other(killed: int, run: Run) -> None:
    run.start_both(("block", "block"), WATCH)
    other = 1 - killed
    run.pid_in_step(other)
    os.kill(run.pid_in_step(killed), signal.SIGKILL)
    assert run.status(run.pids[other], WITHIN_S) == EXIT_STATUS
    (sentence,) = run.sentences(f"rank_{other}")
    assert sentence.startswith(f"rank {other} ends because rank {killed} has ended without a word: ")


def test_the_exception_of_a_collective_is_not_taken_for_the_cause(run: Run) -> None:
    """Gloo raises in the other rank when a peer is gone, and does not say which."""
    run.start_both(("block", "collect"), WATCH)
    run.pid_in_step(1)
    os.kill(run.pid_in_step(0), signal.SIGKILL)
    assert run.status(run.pids[1], WITHIN_S) in (1, EXIT_STATUS)
    (sentence,) = run.sentences("rank_1")
    assert sentence.startswith("rank 1 ends because rank 0 has ended without a word: ")


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_rank_ends_the_other_and_is_killed(stopped: int, run: Run) -> None:
    run.start_both(("collect", "block") if stopped == 1 else ("block", "collect"), WATCH)
    other = 1 - stopped
    run.pid_in_step(other)
    os.kill(run.pid_in_step(stopped), signal.SIGSTOP)
    assert run.status(run.pids[other], WITHIN_S) == EXIT_STATUS
    assert run.status(run.pids[stopped], WITHIN_S) == -signal.SIGKILL
    (sentence,) = run.sentences(f"rank_{other}")
    assert re.match(rf"rank {other} ends because rank {stopped} (was not heard|does not answer) for 3 s: ", sentence)


def test_ranks_that_were_asked_to_stop_may_save_in_peace(server: Server, tmp_path: Path) -> None:
    """The other one leaves meanwhile, be it rank 0 with the store or not."""
    with ExitStack() as stack:
        runs = []
        for slow in (0, 1):
            (tmp_path / str(slow)).mkdir()
            runs.append(stack.enter_context(closing(Run(server, tmp_path / str(slow)))))
            saves = (TIMEOUT_S + 1.5, 0.0) if slow == 0 else (0.0, TIMEOUT_S + 1.5)
            runs[slow].start_both(("pause", "pause"), WATCH, ends=saves)
        for run in runs:
            for rank in (0, 1):
                os.kill(run.pid_in_step(rank), signal.SIGTERM)
        for run in runs:
            assert run.statuses(WITHIN_S) == [0, 0]
            assert (run.folder / "ended_0").exists()
            assert (run.folder / "ended_1").exists()
            assert run.sentences("rank_0") + run.sentences("rank_1") == []


@pytest.mark.parametrize("name", ["first", "last"])
def test_ranks_that_finish_apart_finish_well(name: str, slow: dict[str, Run]) -> None:
    """Rank 0 is the first or the last."""
    run = slow[name]
    assert run.statuses(WITHIN_S) == [0, 0]
    assert run.sentences("rank_0") + run.sentences("rank_1") == []


def test_a_rank_that_fails_and_then_hangs_ends_too(slow: dict[str, Run]) -> None:
    run = slow["hangs"]
    assert run.statuses(WITHIN_S) == [EXIT_STATUS, EXIT_STATUS]
    assert run.sentences("rank_1") == ["rank 1 ends because rank 0 failed with RuntimeError: bad batch."]


def test_nothing_is_left_of_a_run_that_lightning_started_and_whose_first_process_is_killed(
    slow: dict[str, Run],
) -> None:
    """Lightning's own observer is a thread of that process, and goes with it."""
    run = slow["launched"]
    run.pid_in_step(1)
    os.kill(run.pid_in_step(0), signal.SIGKILL)
    assert run.statuses(WITHIN_S) == [-signal.SIGKILL]
    pause = threading.Event()
    assert any(not run.left_over() or pause.wait(0.1) for _ in range(int(WITHIN_S / 0.1)))
    (sentence,) = run.sentences("both")
    assert sentence.startswith("rank 1 ends because rank 0 has ended without a word: ")


def test_without_the_watch_a_stopped_rank_is_waited_for(slow: dict[str, Run]) -> None:
    """The other tests could fail: this run has had far more time than they need."""
    run = slow["unwatched"]
    assert run.status(run.pids[0], 0.0) is None
    assert sorted(run.left_over()) == sorted(run.pids)


def test_a_single_process_is_not_watched() -> None:
    watch, threads = RankWatch(), threading.active_count()
    trainer: Any = SimpleNamespace(world_size=1)
    module: Any = None
    watch.setup(trainer, module, "fit")
    watch.on_exception(trainer, module, RuntimeError())
    watch.teardown(trainer, module, "fit")
    assert threading.active_count() == threads


@pytest.mark.parametrize("number", [0.0, -1.0, float("nan")])
def test_an_interval_out_of_range_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match=f"interval_s is {number}: give a positive"):
        RankWatch(interval_s=number)


def test_a_timeout_of_few_beats_is_refused() -> None:
    with pytest.raises(ValueError, match=r"timeout_s is 4\.0: give at least five intervals of 1\.0 s"):
        RankWatch(timeout_s=4.0)


def test_a_process_is_known_until_it_ends() -> None:
    machine = Process.this().machine
    child = subprocess.Popen(["sleep", "60"])
    stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    process = Process(machine, child.pid, stat[19])
    assert not process.is_gone(machine)
    assert process._replace(started="0").is_gone(machine)  # its pid was given away
    assert not process._replace(machine="other", started="0").is_gone(machine)  # nobody can know
    process.kill("other")
    assert not process.is_gone(machine)
    process.kill(machine)
    assert child.wait(10.0) == -signal.SIGKILL
    assert process.is_gone(machine)
    process.kill(machine)
