"""The lines about one run: what it names, and what it takes on which devices."""

from __future__ import annotations

from transformers import Qwen2_5_VLConfig

from infogap.doctor.costs import look_at_costs
from infogap.doctor.findings import Finding, warning
from infogap.doctor.hardware import Hardware, find_hardware, measure
from infogap.doctor.machine import Device, cores, total_memory
from infogap.doctor.named import look_at_model, look_at_processes, look_at_shards
from infogap.doctor.plan import device_count, make_plan
from infogap.doctor.reading import Run
from infogap.doctor.sizes import Sizes, count
from infogap.policy.loading import check_folder


def look_at_run(run: Run, here: list[Device], planned: Hardware | None) -> list[Finding]:
    """Everything about a run.

    Args:
        run: what was configured.
        here: devices of this machine.
        planned: devices to plan for; None for those of this machine.
    """
    number = device_count(run, len(here) if planned is None else 1)
    # processes on a processor share its cores
    there = None if planned is not None else len(here) if here[0].kind == "cuda" else cores()
    sizes = _sizes(run)
    expected = None if sizes is None else sizes.language + sizes.tower
    found = look_at_model(run, expected) + look_at_shards(run)
    found += look_at_processes(run, number, there)
    if planned is None:
        found += _slow(run, here[0])
    if sizes is None:
        return [*found, warning("costs", "are not estimated: the model's config.json is enough for it, copy it there.")]
    on = planned or _rates(here[0], run, sizes)
    host = None if planned is not None else total_memory() or None
    return found + look_at_costs(run, make_plan(run, number), sizes, on, host)


def _sizes(run: Run) -> Sizes | None:
    """Sizes of the model by its config.json; None if there is none to be read, which is said of the folder."""
    try:
        check_folder(run.policy.folder)  # transformers would take its defaults for an empty one
        config = Qwen2_5_VLConfig.from_pretrained(run.policy.folder, local_files_only=True)
        return count(config, run.policy.lora)
    except Exception:  # whatever transformers raises for a folder that is missing, damaged or of another model
        return None


def _rates(device: Device, run: Run, sizes: Sizes) -> Hardware:
    """The device by its data sheet, else by measurement."""
    known = find_hardware(device.name) if device.kind == "cuda" else None
    if known is not None:
        return Hardware(known.name, device.memory, known.matmul, known.copy)
    return measure(device.kind, device.free, sizes, run.algorithm.row_tokens)


def _slow(run: Run, device: Device) -> list[Finding]:
    """Warnings about types that a device computes in slowly."""
    half = "16" in run.precision or run.policy.dtype == "bfloat16" or run.sharding.compute_dtype == "bfloat16"
    if half and not device.bfloat16:
        text = f"the {device.kind} here emulates bfloat16: set it to 32-true and model.policy.dtype to float32."
        return [warning("trainer.precision", text)]
    if not half and device.flash:
        text = "all is computed in float32, which CUDA's flash kernels do not take: set it to bf16-mixed."
        return [warning("trainer.precision", text)]
    return []
