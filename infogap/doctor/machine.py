"""What this machine has: devices, cores, memory, disk, kernels of attention, and ways for processes to talk."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from infogap.doctor.findings import Finding, warning
from infogap.policy.flex import FLEX_TOKENS
from infogap.policy.memory import GIB, free_bytes

AMPERE = (8, 0)
"""The first compute capability with flash kernels and bfloat16, see ``infogap.policy.attention.flash_takes``."""


@dataclass(frozen=True)
class Device:
    """A device that policies run on.

    Attributes:
        kind: "cuda", "mps" or "cpu".
        name: what the system calls it.
        memory: its bytes.
        free: bytes that can be had now.
        capability: compute capability of CUDA, else None.
        bfloat16: whether it computes in bfloat16 itself.
    """

    kind: str
    name: str
    memory: float
    free: float
    capability: tuple[int, int] | None = None
    bfloat16: bool = False

    @property
    def flash(self) -> bool:
        """Whether CUDA's flash kernels run on it, in half precision."""
        return self.capability is not None and self.capability >= AMPERE and torch.version.hip is None


def devices(accelerator: str = "auto") -> list[Device]:
    """The devices that training would take.

    Args:
        accelerator: as `trainer.accelerator`; "auto" takes GPUs if there are any, else the processor.
    """
    if accelerator != "cpu" and torch.cuda.is_available():
        return [_cuda(number) for number in range(torch.cuda.device_count())]
    free = float(free_bytes(torch.device("cpu")) or 0)
    if accelerator != "cpu" and torch.backends.mps.is_available():
        return [Device("mps", "Apple GPU", float(torch.mps.recommended_max_memory()), free, bfloat16=True)]
    return [Device("cpu", "processor", total_memory() or free, free, bfloat16=_cpu_bfloat16())]


def total_memory() -> float:
    """Bytes of the machine's memory; 0 where it is not known."""
    names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
    if "SC_PHYS_PAGES" not in names:
        return 0.0
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_disk(folder: Path) -> tuple[Path, int]:
    """The nearest folder above that exists, and the bytes that are free there."""
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())
    return there, shutil.disk_usage(there).free


def look_at_machine(found: list[Device], runs: Path) -> list[Finding]:
    """Lines about devices, memory, disk, attention and processes.

    Args:
        found: see ``devices``.
        runs: where runs are written.
    """
    lines = [_device_line(number, device) for number, device in enumerate(found)]
    free = free_bytes(torch.device("cpu"))
    memory = f"{total_memory() / GIB:.1f} GiB" + ("" if free is None else f", {free / GIB:.1f} GiB free")
    there, disk = free_disk(runs)
    lines += [
        Finding("cores", f"{cores()}, and torch uses {torch.get_num_threads()} threads"),
        Finding("memory", memory),
        Finding("disk", f"{disk / GIB:.1f} GiB free in {there}"),
        *_precision(found[0]),
        *look_at_attention(found[0]),
    ]
    return [*lines, _processes(found)]


def look_at_attention(device: Device) -> list[Finding]:
    """Which kernels attend on a device, and why."""
    packed = "PackedAttention over torch's scaled_dot_product_attention"
    if device.kind != "cuda":
        reason = "FlexAttention and flash kernels are for CUDA"
        return [Finding("attention", f"rows: {packed}; vision tower: stacked calls of the same ({reason})")]
    rows = f"rows below {FLEX_TOKENS:,} tokens: {packed}; longer ones: FlexAttention where it computes fewer scores"
    if device.flash:
        return [
            Finding("attention", f"{rows}, compiled once a process"),
            Finding("vision tower", "varlen_attn, one flash call for all images, if in half precision"),
        ]
    why = "ROCm has no such kernels here" if torch.version.hip else f"compute capability {_number(device)} is below 8.0"
    return [
        warning(
            "attention",
            f"{rows}. No flash kernels ({why}): keys are repeated for every query head, and the vision tower works in "
            "stacked calls: expect more memory and time, or use an Ampere GPU or a newer one.",
        )
    ]


def _cuda(number: int) -> Device:
    properties = torch.cuda.get_device_properties(number)
    free, total = torch.cuda.mem_get_info(number)
    capability = torch.cuda.get_device_capability(number)
    return Device("cuda", properties.name, float(total), float(free), capability, capability >= AMPERE)


def _cpu_bfloat16() -> bool:
    """Whether the processor has instructions for products in bfloat16; Linux says so."""
    table = Path("/proc/cpuinfo")
    flags = table.read_text() if table.is_file() else ""
    return any(f" {flag}" in flags for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def _device_line(number: int, device: Device) -> Finding:
    if device.kind != "cuda":
        return Finding("device", f"{device.kind}: {device.name}; torch {torch.__version__} sees no CUDA device")
    said = f"{device.name}, {device.memory / GIB:.1f} GiB, {device.free / GIB:.1f} GiB free, "
    said += f"compute capability {_number(device)}"
    if device.free < 0.9 * device.memory:
        said += ": other processes hold the rest, end them for a run that needs it."
        return warning(f"cuda:{number}", said)
    return Finding(f"cuda:{number}", said)


def _precision(device: Device) -> list[Finding]:
    if device.bfloat16:
        return [Finding("bfloat16", f"computed by the {device.kind} itself")]
    if device.kind == "cpu":
        return [Finding("bfloat16", "emulated by this processor, so slow: leave trainer.precision at 32-true")]
    why = f"emulated at compute capability {_number(device)}"
    return [warning("bfloat16", f"{why}: leave trainer.precision at 32-true.")]


def _processes(found: list[Device]) -> Finding:
    if not torch.distributed.is_available():
        return warning("processes", "this torch is built without torch.distributed: run on one device.")
    backends = [("nccl", torch.distributed.is_nccl_available()), ("gloo", torch.distributed.is_gloo_available())]
    has = ", ".join(f"{name} {'is there' if there else 'is not'}" for name, there in backends)
    if len(found) > 1 and not backends[0][1]:
        return warning("processes", f"{has}: GPUs would talk through gloo, slowly; install torch's CUDA build.")
    return Finding("processes", has)


def _number(device: Device) -> str:
    return ".".join(map(str, device.capability or ()))
