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
from infogap.doctor.settings import look_at_settings
from infogap.doctor.shapes import published_config, shape_named
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
    found += look_at_settings(run, here[0] if planned is None else None)
    found += look_at_processes(run, number, there)
    if planned is None:
        found += _slow(run, here[0])
    shape = shape_named(run.policy.folder)
    if sizes is None and shape is not None and not (run.policy.folder / "config.json").exists():
        text = f"those of Qwen2.5-VL-{shape.upper()}, which the folder's name says: its published shape is used."
        found.append(Finding("costs", text))
        sizes = count(published_config(shape), run.policy.lora)
    if sizes is None:
        return [*found, warning("costs", "are not estimated: the model's config.json is enough for it, copy it there.")]
    # processes on a processor share its memory, too
    sharing = number // run.machines if planned is None and here[0].kind == "cpu" else 0
    on = planned or _rates(here[0], run, sizes, sharing or 1)
    host = None if planned is not None else here[0].free if sharing else total_memory() or None
    return found + look_at_costs(run, make_plan(run, number), sizes, on, host, sharing)


def _sizes(run: Run) -> Sizes | None:
    """Sizes of the model by its config.json; None if there is none to be read, which is said of the folder."""
    try:
        check_folder(run.policy.folder)  # transformers would take its defaults for an empty one
        config = Qwen2_5_VLConfig.from_pretrained(run.policy.folder, local_files_only=True)
        return count(config, run.policy.lora)
    except Exception:  # whatever transformers raises for a folder that is missing, damaged or of another model
        return None


def _rates(device: Device, run: Run, sizes: Sizes, processes: int) -> Hardware:
    """A process's part of the device, by its data sheet, else by measurement."""
    known = find_hardware(device.name) if device.kind == "cuda" else None
    if known is not None:
        return Hardware(known.name, device.memory, known.matmul, known.copy)
    return measure(device.kind, device.free / processes, sizes, run.algorithm.row_tokens)


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
