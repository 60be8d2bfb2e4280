"""What a device can do: from data sheets, or measured for about a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from infogap.doctor.sizes import Sizes

MATMUL_SHARE: Final = 0.4
"""Of the peak of a data sheet, in matrix products: what the project aims at; no GPU has measured it yet."""

COPY_SHARE: Final = 0.6
"""Of the peak of a data sheet, in reading memory: likewise."""

NARROW: Final = 85
"""What is no matrix product (attention, norms, copies) grows with the width, and products with its square: measured
rates are multiplied by ``width / (width + NARROW)``. Of 1.5 processor seconds of a step of configs/stage1.yaml the
products that are counted come to 0.93 at a width of 128 (one core of x86_64, torch 2.13.0+cpu; the mean of 8 steps)."""


@dataclass(frozen=True)
class Hardware:
    """A device.

    Attributes:
        name: what it is called.
        memory: its bytes.
        matmul: floating-point operations a second that matrix products of the model reach.
        copy: bytes a second that are read.
        operation_s: seconds that one operation costs however small it is; 0 where operations are recorded and replayed,
            as decoding on a GPU is (CUDA graphs).
        measured: whether the rates were measured on this machine.
    """

    name: str
    memory: float
    matmul: float
    copy: float
    operation_s: float = 0.0
    measured: bool = False


def _sheet(name: str, gigabytes: float, teraflops: float, terabytes: float) -> Hardware:
    return Hardware(name, gigabytes * 1e9, MATMUL_SHARE * teraflops * 1e12, COPY_SHARE * terabytes * 1e12)


TABLE: Final = {
    hardware.name: hardware
    for hardware in (
        # memory, dense bfloat16 and memory rate of NVIDIA's data sheets
        _sheet("h100", 80, 989, 3.35),  # SXM5
        _sheet("h200", 141, 989, 4.8),
        _sheet("h100-pcie", 80, 756, 2.0),
        _sheet("a100", 80, 312, 2.039),  # 80 GB, SXM4
        _sheet("a100-40gb", 40, 312, 1.555),
        _sheet("l40s", 48, 362, 0.864),
        _sheet("a10", 24, 125, 0.6),
        _sheet("rtx4090", 24, 165, 1.008),  # with accumulation in float32
        _sheet("rtx3090", 24, 71, 0.936),
    )
}


def find_hardware(name: str) -> Hardware | None:
    """The device of the table whose name is in what CUDA calls a device, such as "NVIDIA H100 80GB HBM3"."""
    plain = name.lower().replace(" ", "").replace("geforce", "").replace("nvidia", "")
    pcie = [each for each in TABLE if each.endswith("-pcie") and "pcie" in plain and each.split("-")[0] in plain]
    small = [each for each in TABLE if each.endswith("-40gb") and "40gb" in plain and each.split("-")[0] in plain]
    found = pcie or small or [each for each in TABLE if plain.startswith(each)]
    return TABLE[found[0]] if found else None


def measure(kind: str, memory: float, sizes: Sizes | None = None, rows: int = 1024, seconds: float = 0.3) -> Hardware:
    """A device, measured: a matrix product, a copy and a small operation, each for ``seconds``.

    Args:
        kind: "cpu", "cuda" or "mps"; CUDA multiplies in bfloat16, the others in float32.
        memory: bytes that are free.
        sizes: the model whose matrix products are measured, the narrower the slower; None takes a width of 1,024.
        rows: tokens that are multiplied at once.
        seconds: how long each rate is measured.
    """
    import torch

    width, inner = (1024, 4096) if sizes is None else (sizes.width, sizes.inner)
    rows, dtype = min(rows, 4096), torch.bfloat16 if kind == "cuda" else torch.float32
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(kind, lambda: None)
    left, right = torch.randn(rows, width).to(kind, dtype), torch.randn(width, inner).to(kind, dtype)
    source = torch.ones(1 << 26, dtype=torch.uint8, device=kind)
    target, small = torch.empty_like(source), torch.ones(8, device=kind)
    matmul = 2.0 * rows * width * inner / _each(lambda: left @ right, wait, seconds)
    copy = 2.0 * len(source) / _each(lambda: target.copy_(source), wait, seconds)
    # decoding is recorded on CUDA, and replayed without a cost for each operation
    operation = 0.0 if kind == "cuda" else _each(lambda: small + small, wait, seconds / 3)
    return Hardware(f"this {kind}", memory, matmul * width / (width + NARROW), copy, operation, measured=True)


def _each(run: Callable[[], object], wait: Callable[[], object], seconds: float) -> float:
    """Seconds of one run, the mean over the time given: other work on the machine is part of what it can do now."""
    run()
    wait()
    started, runs, passed = time.perf_counter(), 0, 0.0
    while passed < seconds:
        run()
        wait()
        runs, passed = runs + 1, time.perf_counter() - started
    return passed / runs
