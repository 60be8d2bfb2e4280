"""What a machine can do, and what a process has used: the rates and peaks that a benchmark is held against."""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
import time
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PROCESS = Path("/proc/self")


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def matmul_rate(dtype: str, device: str, repeat: int = 5) -> float:
    """Most operations a second of a square matrix product, the best of some runs."""
    side = 8192 if device == "cuda" else 2048
    left, right = (torch.randn(side, side, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    return 2.0 * side**3 / _fastest(lambda: left @ right, device, repeat)


def copy_rate(device: str, repeat: int = 5) -> float:
    """Most bytes a second that are read and written by a copy, the best of some runs."""
    count = 1 << (30 if device == "cuda" else 28)
    source = torch.ones(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2.0 * count / _fastest(lambda: target.copy_(source), device, repeat)


def _fastest(run: Callable[[], Any], device: str, repeat: int) -> float:
    run()
    seconds = []
    for _ in range(repeat):
        synchronize(device)
        started = time.perf_counter()
        run()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


class PeakMemory:
    """Most memory in use since ``start``: on a GPU what torch has allocated, else how far the process has grown."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.before = 0

    def start(self) -> None:
        """Begin to look for the peak."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            return
        if (PROCESS / "clear_refs").exists():
            (PROCESS / "clear_refs").write_text("5")  # forget the highest resident size so far
        self.before = _resident("VmRSS")

    def bytes(self) -> int:
        """The peak: everything on a GPU, growth since ``start`` elsewhere."""
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated()
        return max(0, _resident("VmHWM") - self.before)


def _resident(field: str) -> int:
    """Resident bytes now ("VmRSS") or at most ("VmHWM"); where the system does not tell, at most in both cases."""
    status = PROCESS / "status"
    if status.exists() and (found := re.search(rf"^{field}:\s+(\d+) kB", status.read_text(), re.MULTILINE)):
        return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine(device: str) -> dict[str, Any]:
    """What was measured on."""
    found = {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count() or 0}
    return found | {
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if device == "cuda" else None,
        "load": round(os.getloadavg()[0], 2),  # above the threads in use, others took part
    }


def versions(names: Iterable[str]) -> dict[str, str | None]:
    """Installed versions; None of what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


class StepClock:
    """Seconds of every step of a loop, from one step's end to the next one's.

    Processor seconds, summed over threads, are noted too: on a machine with other work they say more.

    Args:
        device: "cpu" or "cuda", whose work is waited for.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: list[float] = []
        self.processor_seconds: list[float] = []
        self._started = self._processor_started = 0.0

    def begin(self) -> None:
        """The loop begins."""
        self._started, self._processor_started = time.perf_counter(), time.process_time()

    def step(self) -> None:
        """A step has ended."""
        synchronize(self.device)
        self.seconds.append(time.perf_counter() - self._started)
        self.processor_seconds.append(time.process_time() - self._processor_started)
        self.begin()
