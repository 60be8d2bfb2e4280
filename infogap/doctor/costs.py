"""What a run is expected to take on a device, and which field to change where it does not fit."""

from __future__ import annotations

import math

from infogap.doctor.budget import Memory, Seconds, cache_bytes, memory, step_time, trained_weights
from infogap.doctor.findings import Finding, problem, warning
from infogap.doctor.hardware import Hardware
from infogap.doctor.machine import free_disk
from infogap.doctor.plan import Plan
from infogap.doctor.reading import Run
from infogap.doctor.sizes import Sizes
from infogap.policy.memory import GIB


def look_at_costs(
    run: Run, plan: Plan, sizes: Sizes, on: Hardware, host: float | None, sharing: int = 0
) -> list[Finding]:
    """Lines about memory and time.

    Args:
        run: what was configured.
        plan: what the arithmetic is done with.
        sizes: the model.
        on: the device.
        host: memory of this machine, free memory if the device is its processor; None if another one is planned for.
        sharing: processes whose device is the processor, so that what they hold is memory of the machine; 0 for GPUs.
    """
    held = memory(plan.recipe, plan.work, sizes, on.memory)
    allowed = held.cache if run.rollout.cache_gib is None else run.rollout.cache_gib * GIB
    seconds = step_time(plan.recipe, plan.work, sizes, allowed, on)
    how = "measured just now, with what else runs here" if on.measured else "a share of the data sheet"
    rates = f"{on.matmul / 1e12:.3g} Tflop/s and {on.copy / 1e9:,.0f} GB/s ({how})"
    trained, all_weights = trained_weights(plan.recipe, sizes) / 1e6, (sizes.language + sizes.tower) / 1e6
    fits = held.states <= on.memory
    groups = math.ceil(plan.work.prompts / plan.recipe.devices / seconds.waves)
    running = held.states + held.gathered + held.images + min(allowed, groups * held.group_cache) + held.update
    return [
        Finding("planned for", f"{plan.recipe.devices} x {on.name}: {on.memory / GIB:.1f} GiB, {rates}"),
        Finding("assumed", plan.assumed),
        Finding("trained", f"{trained:,.2f} million weights; the model has {all_weights:,.2f} million"),
        _states(held, on),
        # no setting of a step makes room for states that do not fit
        *([_playing(held, plan, sizes, allowed, seconds, on), _update(held, on)] if fits else []),
        _host(held.machine + sharing * running, host, sharing),
        _checkpoints(run, held, here=host is not None),
        *(_time(run, seconds) if fits else []),
    ]


def _states(held: Memory, on: Hardware) -> Finding:
    text = f"{_gib(held.states)} a device: weights, gradients and optimiser"
    if held.states <= on.memory:
        return Finding("states", text)
    remedy = "give --config configs/strategy/fsdp.yaml and more devices, or --config configs/model/lora.yaml."
    return problem("states", f"{text}, more than it has: {remedy}")


def _playing(held: Memory, plan: Plan, sizes: Sizes, allowed: float, seconds: Seconds, on: Hardware) -> Finding:
    episode = cache_bytes(plan.recipe, sizes) * plan.work.slot
    text = f"{_gib(held.gathered)} of gathered weights, " if held.gathered else ""
    text += f"{_gib(held.images)} of visual tokens, {_gib(allowed)} for keys and values, of which an episode takes up "
    text += f"to {_gib(episode)} and a group {_gib(held.group_cache)}"
    room = on.memory - held.states - held.gathered - held.images
    if allowed > max(room, 0.0):
        less = f"lower model.rollout.cache_gib below {room / GIB:.1f}, or set it to null"
        remedy = less if room > held.group_cache else "lower data.prompts_per_step or take a larger device"
        return problem("playing", f"{text}; {_gib(max(room, 0.0))} are free beside states and images: {remedy}.")
    if held.group_cache <= allowed:
        return Finding("playing", f"{text}: {seconds.waves} wave(s) a step")
    remedy = "lower model.rollout.group_size, model.rollout.limits or model.rollout.crop.max_tokens, or take a larger "
    return problem("playing", f"{text}: not one group fits: {remedy}device or model.rollout.cache_gib.")


def _update(held: Memory, on: Hardware) -> Finding:
    text = f"{_gib(held.update)} for activations and logits of one row"
    if held.states + held.images + held.update <= on.memory:
        return Finding("update", text)
    text += f" do not fit beside {_gib(held.states + held.images)} of states and images: lower "
    return problem("update", f"{text}model.algorithm.row_tokens, or set model.policy.gradient_checkpointing.")


def _host(needed: float, host: float | None, sharing: int) -> Finding:
    text = f"{_gib(needed)} a machine: weights while they load, patches of the images"
    text += f", states, keys, values and rows of {sharing} process(es)" if sharing else ""
    if host is None or needed <= host:
        return Finding("host memory", text)
    text += f", and this one has {_gib(host)}{' free' if sharing else ''}: lower data.prompts_per_step, or use fewer "
    text += "devices on more machines."
    return problem("host memory", text)


def _checkpoints(run: Run, held: Memory, *, here: bool) -> Finding:
    if not run.kept:
        return warning("checkpoints", "none are written: add the callback RunCheckpoint to trainer.callbacks.")
    there, free = free_disk(run.folder)
    text = f"{_gib(held.checkpoint)} each, {run.kept} at a time in {run.folder}"
    if not here or run.kept * held.checkpoint <= free:
        return Finding("checkpoints", text)
    remedy = "make room, lower the argument keep of RunCheckpoint, or set another save_dir of the logger."
    return problem("checkpoints", f"{text}, and {there} has {_gib(free)} free: {remedy}")


def _time(run: Run, seconds: Seconds) -> list[Finding]:
    parts = f"playing {_duration(seconds.rollout)}, vision tower {_duration(seconds.vision)}, "
    parts += f"update {_duration(seconds.update)}"
    found = [Finding("a step", f"about {_duration(seconds.step)} ({parts})")]
    if run.steps is None:
        return [*found, warning("the run", "has no end: set trainer.limit_train_batches to a whole number.")]
    text = f"about {_duration(run.steps * seconds.step)} for {run.steps:,} steps"
    return [*found, Finding("the run", f"{text}; validation and the selection of views come on top")]


def _gib(count: float) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB / 2 else f"{count / (1 << 20):.1f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
