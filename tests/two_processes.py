"""Two real processes of one run, on gloo, that fail in chosen ways: run as a program, and steered through `Run`.

To import Lightning takes seconds, and every run needs it twice. So the program imports it once, and forks a process for
every order that it reads from stdin; each of those is a program of its own from there on, to its normal exit.
"""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

STEPS = 3
FAILING_STEP = 1
FOREVER_S = 3600.0


class Server:
    """The program that forks, as tests see it."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK"):
            environment.pop(name, None)
        command = [sys.executable, __file__, "serve"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )

    def order(self, **order: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


class Run:
    """The processes of one run.

    Args:
        server: forks them.
        folder: where they write.
    """

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.pids: list[int] = []

    def start(self, name: str, plan: dict[str, Any], environment: dict[str, str]) -> int:
        """Start a process that writes what it says to ``name.txt``; its pid."""
        said = str(self.folder / f"{name}.txt")
        pid = int(self.server.order(plan={"folder": str(self.folder)} | plan, environment=environment, said=said))
        self.pids.append(pid)
        return pid

    def start_both(self, does: tuple[str, str], watch: Any, ends: tuple[float, float] = (0.0, 0.0)) -> None:
        """Start each rank alone, as torchrun and SLURM do: nothing but the watch knows both."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        shared = {"WORLD_SIZE": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        for rank in (0, 1):
            plan = {"does": does, "ends": ends, "watch": watch}
            self.start(f"rank_{rank}", plan, shared | {"LOCAL_RANK": str(rank)})

    def statuses(self, seconds: float) -> list[int | None]:
        return [self.status(pid, seconds) for pid in self.pids]

    def sentences(self, name: str) -> list[str]:
        """What the watch said."""
        return re.findall(r"^rank \d ends because .*$", (self.folder / f"{name}.txt").read_text(), re.MULTILINE)

    def status(self, pid: int, seconds: float) -> int | None:
        """Exit status of a process once it has ended, negative for a signal; None if it still runs after so long."""
        end = time.monotonic() + seconds
        while (status := self.server.order(status=pid)) is None and time.monotonic() < end:
            time.sleep(0.05)
        return None if status is None else os.waitstatus_to_exitcode(status)

    def pid_in_step(self, rank: int, seconds: float = 40.0) -> int:
        """Pid of a rank, once it is in the step in which something happens."""
        path, end = self.folder / f"in_step_{rank}", time.monotonic() + seconds
        while not path.exists():
            assert time.monotonic() < end, f"rank {rank} does not come to its step"
            time.sleep(0.05)
        time.sleep(0.2)  # from the file on into the call in which it waits
        return int(path.read_text())

    def left_over(self) -> list[int]:
        """Processes that still run and were started here, or by those that were."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (OSError, NotADirectoryError):
                continue
            if entry.name.isdigit() and int(fields[3]) in self.pids and fields[0] not in "ZX":
                found.append(int(entry.name))
        return found

    def close(self) -> None:
        """End what is left."""
        for pid in self.left_over():
            os.kill(pid, signal.SIGKILL)


def serve() -> dict[str, Any]:
    """Fork a process for every order, and return its plan in it."""
    gc.collect()
    gc.freeze()  # what is imported is not looked through again by every process, which would copy it
    for line in sys.stdin:
        order = json.loads(line)
        if "status" in order:
            pid, status = os.waitpid(order["status"], os.WNOHANG)
            print(json.dumps(status if pid else None), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.environ.update(order["environment"])
            # from here on as if it had been started alone; Lightning's launcher starts the others with these words
            sys.argv = [__file__, "run", json.dumps(order["plan"])]
            said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(said, 1)
            os.dup2(said, 2)
            return dict(order["plan"])
        print(json.dumps(pid), flush=True)
    os._exit(0)


def run(plan: dict[str, Any]) -> None:
    """Fit a tiny module as a plan says.

    Its keys: ``does``, what each rank does in its step; ``ends``, how each ends; ``watch``, the arguments of the watch,
    None for no watch.
    """
    watch = [] if plan["watch"] is None else [RankWatch(**plan["watch"])]
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_steps=STEPS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*watch, Ending(plan)],
    )
    trainer.fit(Tiny(plan), DataLoader(torch.zeros(100, 1)))


if __name__ == "__main__":
    import torch
    from lightning.pytorch import Callback, LightningModule, Trainer
    from torch.utils.data import DataLoader

    from infogap.callbacks.rank_watch import RankWatch

    class Tiny(LightningModule):
        def __init__(self, plan: dict[str, Any]) -> None:
            super().__init__()
            self.plan = plan
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            if batch_idx == FAILING_STEP:
                path = Path(self.plan["folder"]) / f"in_step_{self.global_rank}"
                path.with_suffix(".new").write_text(str(os.getpid()))
                path.with_suffix(".new").rename(path)
                getattr(self, self.plan["does"][self.global_rank])()
            return self.layer(batch).sum()

        def nothing(self) -> None:
            pass

        def fail(self) -> None:
            raise RuntimeError("bad\nbatch")

        def collect(self) -> None:
            """A collective of gloo, which notices a peer that has ended, but none that does not come."""
            torch.distributed.all_reduce(torch.zeros(1))

        def block(self) -> None:
            """In C++ without the GIL, for ever: as a collective of NCCL whose peer is gone."""
            store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            store.wait(["never"], timedelta(seconds=FOREVER_S))

        def roll_out(self) -> None:
            """In Python, without any collective."""
            end = time.monotonic() + FOREVER_S
            while time.monotonic() < end:
                sum(range(1000))

        def pause(self) -> None:
            time.sleep(1.0)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    class Ending(Callback):
        def __init__(self, plan: dict[str, Any]) -> None:
            self.seconds = plan.get("ends", [0.0, 0.0])
            self.folder = Path(plan["folder"])

        def _end(self, trainer: Trainer) -> None:
            time.sleep(self.seconds[trainer.global_rank])
            (self.folder / f"ended_{trainer.global_rank}").touch()

        def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self._end(trainer)

        def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
            self._end(trainer)

    run(serve() if sys.argv[1] == "serve" else json.loads(sys.argv[2]))
