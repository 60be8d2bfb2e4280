"""Seconds of a GRPO step: ours alone, or against TRL's in the same process.

    python tests/benchmarks/grpo_step.py --against trl --json OUT
    python tests/benchmarks/grpo_step.py --shape 3b --dtype bfloat16 --lora --device cuda --json OUT

Both sides are run as their users run them: ours as ``GRPOModule`` under a Lightning Trainer, the other one as TRL's
``GRPOTrainer`` with generation by transformers. A step is one rollout of ``prompts * group_size`` episodes and one
update on them: no KL term, temperature 1, AdamW, gradients clipped. Both have the same random weights, the same prompts
and images, and episodes of the same length (see ``step_settings``), which is checked in every run. The sides take
turns, one step each, so that a disturbance hits both; the medians of ``--steps`` steps count.

TRL is given the settings with which it is fastest on this machine: several sizes of its passes and several attention
implementations are tried first, two steps each, and the best are used (see ``grpo_step_trl``).

Without ``--against`` the rates of our own side are reported: tokens a second of rollout and update, the update's share
of the machine's measured matrix product rate, decoding's share of its measured copy rate, and the peak of memory.

``--turns 2`` adds a crop to every episode: a call is carried out after the first turn whatever was sampled, by our
environment on one side and by an environment of TRL's tool loop on the other.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, fields, replace
from datetime import date
from pathlib import Path
from typing import Any

import rates
from grpo_step_ours import PHASES, OurRun, weights_of
from model_shapes import NAMES
from step_settings import Settings
from turn_taking import Baton, run_in_turns

PACKAGES = ("infogap", "torch", "transformers", "lightning", "peft", "trl", "accelerate")


def description(settings: Settings) -> dict[str, Any]:
    """What was measured, on what, and when."""
    return {
        "settings": asdict(settings),
        "versions": rates.versions(PACKAGES),
        "machine": rates.machine(settings.device),
        "date": date.today().isoformat(),
    }


def phases_of(ours: OurRun) -> dict[str, float]:
    """Seconds of our phases, and of what is not among them: Lightning's loop, metrics and logging."""
    phases = {name: ours.seconds(name) for name in PHASES}
    return phases | {"other": ours.seconds() - sum(phases.values())}


def measure_alone(settings: Settings) -> dict[str, Any]:
    """Rates of our own side."""
    matmul, copy = rates.matmul_rate(computed_in(settings), settings.device), rates.copy_rate(settings.device)
    ours = OurRun(settings, settings.batches())
    ours.run()
    counts, costs, decoding = ours.counts(), ours.costs(), ours.decode_rate()
    rollout, update = ours.seconds("rollout"), ours.seconds("update")
    return {
        "ours_seconds": ours.seconds(),
        "ours_phases": phases_of(ours),
        "tokens": counts,
        "rollout_sampled_tokens_per_second": counts["sampled_tokens"] / rollout,
        "rollout_tokens_per_second": counts["packed_tokens"] / rollout,
        "update_tokens_per_second": counts["packed_tokens"] / update,
        "peak_memory_bytes": ours.memory.bytes(),
        "update_flops": asdict(costs) | {"total": costs.total},
        "matmul_flops_per_second": matmul,
        "update_flop_utilisation": costs.total / update / matmul,
        "copy_bytes_per_second": copy,
        "decode_bytes_per_second": decoding,
        "decode_bandwidth_utilisation": None if decoding is None else decoding / copy,
        **description(settings),
    }


def computed_in(settings: Settings) -> str:
    """Type of the numbers that are multiplied."""
    return "bfloat16" if settings.precision == "bf16-mixed" else settings.dtype


def measure_against_trl(settings: Settings) -> dict[str, Any]:
    """Both sides, in turns."""
    from grpo_step_trl import TrlRun, choose

    ours = OurRun(settings, settings.batches(), baton := Baton(("ours", "trl")))
    ours.module.configure_model()
    assert ours.module.policy is not None
    weights = weights_of(ours.module.policy)
    best, tried = choose(settings, weights)
    trl = TrlRun(settings, best, settings.batches(), weights, baton)
    run_in_turns({"ours": ours.run, "trl": trl.run}, baton)
    ours_seconds, trl_seconds = ours.seconds(), trl.seconds()
    check_same_work(ours, trl)
    return {
        "ours_seconds": ours_seconds,
        "trl_seconds": trl_seconds,
        "ratio": trl_seconds / ours_seconds,
        "ours_phases": phases_of(ours),
        "trl_phases": trl.phases(),
        **{f"{run.clock.name}_steps": run.clock.seconds[settings.warmup :] for run in (ours, trl)},
        **{f"{run.clock.name}_processor_steps": run.clock.processor_seconds[settings.warmup :] for run in (ours, trl)},
        "tokens": ours.counts(),
        "trl_tokens": trl.counts(),
        "trl_settings": asdict(best),
        "trl_tried": tried,
        **description(settings),
    }


def check_same_work(ours: OurRun, trl: Any) -> None:
    """Both sides have seen the same prompts and images, and sampled as many tokens into episodes of the same length."""
    per_episode = ours.settings.view_tokens + (ours.settings.turns - 1) * ours.settings.crop_tokens
    for our_step, trl_step in zip(ours.steps, trl.steps, strict=True):
        prompts = [group.prompt.token_ids for group in our_step.groups for _ in group.episodes]
        assert prompts == [tuple(ids) for ids in trl_step.prompts]
        lengths = [sum(len(c.token_ids) for c in episode) for g in our_step.groups for episode in g.episodes]
        assert lengths == trl_step.completion_lengths
        sampled = sum(len(c.token_ids) for g in our_step.groups for e in g.episodes for c in e if c.sampled)
        assert trl_step.image_tokens == per_episode * ours.settings.episodes
        assert sampled == trl_step.sampled == ours.settings.sampled_tokens


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; every field of ``Settings`` is an option."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", choices=["trl"], default=None)
    parser.add_argument("--json", type=Path, default=None)
    choices = {"shape": NAMES, "dtype": ("float32", "bfloat16"), "precision": ("32-true", "bf16-mixed")}
    for each in fields(Settings):
        name, default = f"--{each.name.replace('_', '-')}", each.default
        if isinstance(default, bool):
            parser.add_argument(name, action="store_true")
        else:
            parser.add_argument(name, type=type(default), default=default, choices=choices.get(each.name))
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    values = vars(parse(arguments))
    against, path = values.pop("against"), values.pop("json")
    settings = replace(Settings(), **values)
    report = measure_alone(settings) if against is None else measure_against_trl(settings)
    text = json.dumps(report, indent=2)
    print(text)
    if path is not None:
        path.write_text(text + "\n")
    return report


if __name__ == "__main__":
    main()
