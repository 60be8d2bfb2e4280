"""From what was configured to the numbers of the arithmetic: devices, and what a step is assumed to play."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Final

from infogap.data.manifest import load_manifest, manifest_path
from infogap.data.reader import is_remote
from infogap.doctor.budget import Recipe, Workload
from infogap.doctor.reading import Run

CHARACTERS_A_TOKEN: Final = 4
"""Of English text under Qwen's tokenizer, roughly."""

QUESTION_TOKENS: Final = 40
WRITTEN: Final = 300
"""Tokens of an episode in the mean, and ``LONGEST`` of the longest of a wave: what the recipes are planned with; half
of the limit if that is less."""

LONGEST: Final = 1024
CROP: Final = 600
"""Visual tokens of a crop in the mean, unless the limit is lower."""

TOKEN_PIXELS: Final = 28 * 28
WORDS_OF_OBSERVATION: Final = 64


@dataclass(frozen=True)
class Plan:
    """What the arithmetic is done with.

    Attributes:
        recipe: how the weights are held.
        work: what a step plays.
        assumed: what was assumed of it, in a sentence.
    """

    recipe: Recipe
    work: Workload
    assumed: str


def device_count(run: Run, there: int) -> int:
    """Devices over all machines.

    Args:
        run: what was configured.
        there: devices of this machine, all of which are taken if no number was given.
    """
    mine = there if run.devices is None else len(run.devices) if isinstance(run.devices, list) else run.devices
    return mine * run.machines


def make_plan(run: Run, number: int) -> Plan:
    """The plan of a run.

    Args:
        run: what was configured.
        number: devices over all machines.
    """
    view, reason = _view_tokens(run)
    rollout, limits = run.rollout, run.rollout.limits
    text = len(run.protocol.tool_system_prompt) // CHARACTERS_A_TOKEN + QUESTION_TOKENS
    calls = min(limits.max_crops, limits.max_turns - 1)
    written = min(WRITTEN, limits.max_episode_tokens / 2)
    longest = min(LONGEST, limits.max_episode_tokens)
    crops, crop = min(1, calls), min(CROP, rollout.crop.max_tokens)
    around = len(run.protocol.tool_response_template) // CHARACTERS_A_TOKEN + WORDS_OF_OBSERVATION
    work = Workload(
        prompts=run.prompts_per_step,
        group=rollout.group_size,
        prompt=view + text,
        view=view,
        written=written,
        longest=longest,
        crops=crops,
        crop=crop,
        slot=limits.max_episode_tokens + calls * rollout.crop.max_tokens + (limits.max_turns - 1) * around,
        row=run.algorithm.row_tokens,
        updates=run.algorithm.updates_per_rollout,
    )
    assumed = f"a view of {view:,.0f} visual tokens ({reason}), {text} tokens of text, episodes of {written:,.0f} "
    assumed += f"tokens (the longest {longest:,}) with {crops} crop of {crop:,} visual tokens"
    return Plan(_recipe(run, number), work, assumed)


def _recipe(run: Run, number: int) -> Recipe:
    """How the weights are held on so many devices."""
    half = run.policy.dtype == "bfloat16"
    gathered_half = run.sharded and run.sharding.compute_dtype == "bfloat16"
    computed = half or "16" in run.precision or gathered_half
    # rotations are float32 under autocast, and keys with them: the rule of infogap.policy.memory.token_bytes
    wide_keys = "mixed" in run.precision and not half and not gathered_half
    return Recipe(
        devices=number,
        sharded=run.sharded,
        lora=run.policy.lora is not None,
        tower=run.policy.vision_tower,
        weight_bytes=2 if half else 4,
        frozen_bytes=2 if half else 4,
        compute_bytes=2 if computed else 4,
        key_bytes=2 if computed and not wide_keys else 4,
        checkpointing=run.policy.gradient_checkpointing,
        reference=run.algorithm.loss.kl_coef > 0 and run.policy.lora is None,
    )


def _view_tokens(run: Run) -> tuple[float, str]:
    """Visual tokens of a view, and where the number is from."""
    config = run.rollout.view
    if config.mode == "none":
        return 0, "none is shown"
    most = _largest_view(run)
    if config.mode == "budget":
        return min(config.budget, most), "the budget" if config.budget <= most else "the scenes' size"
    found = [tokens for tokens in map(_selected, run.sources) if tokens is not None]
    if found:
        return fmean(found), "the mean of the manifest"
    ladder = run.resolution.ladder
    return min(ladder[len(ladder) // 2], most), "the middle of the ladder, for there is no manifest yet"


def _largest_view(run: Run) -> float:
    """Visual tokens of the largest scene, where scenes are drawn."""
    return float("inf") if run.needle is None else max(run.needle.scenes.sides) ** 2 / TOKEN_PIXELS


def _selected(source: object) -> float | None:
    """Mean of the views that were selected for a source; None without a manifest."""
    values: Mapping[str, object] = vars(source)
    root, given = str(values["root"]), values["manifest"]
    if is_remote(root):
        return None
    try:
        manifest = load_manifest(manifest_path(root) if given is None else Path(str(given)))
    except (OSError, ValueError):  # said by the line about the shards
        return None
    tokens = [entry.view_tokens for entry in manifest.values() if entry.view_tokens is not None]
    return fmean(tokens) if tokens else None
