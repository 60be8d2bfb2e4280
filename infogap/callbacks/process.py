"""A process as others of its machine find it: whether it still runs, and its end."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """A process of some machine, told from a later one that is given the same pid.

    Attributes:
        machine: equal for processes that see each other's pids.
        pid: its number there.
        started: when it started, as its machine counts.
    """

    machine: str
    pid: int
    started: str

    @classmethod
    def this(cls) -> Process:
        """The process that asks."""
        pid = os.getpid()
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text()
            # in another container the same pid is another process
            return cls(boot.strip() + os.readlink("/proc/self/ns/pid"), pid, _stat(pid)[1])
        except (OSError, IndexError):  # not Linux: nobody can look at it
            return cls(f"{socket.gethostname()} {pid}", pid, "")

    def is_gone(self, machine: str) -> bool:
        """Whether it has ended, if it runs on that machine, which is this one; elsewhere it is not known to be gone."""
        if self.machine != machine:
            return False
        try:
            state, started = _stat(self.pid)
        except (OSError, IndexError):
            return True
        return state in "ZX" or started != self.started

    def kill(self, machine: str) -> None:
        """End it, if it runs on that machine, which is this one, even if it is stopped."""
        if self.machine == machine and not self.is_gone(machine):
            os.kill(self.pid, signal.SIGKILL)


def _stat(pid: int) -> tuple[str, str]:
    """State of a process and when it started, as Linux has them."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # its name may have spaces
    return fields[0], fields[19]
