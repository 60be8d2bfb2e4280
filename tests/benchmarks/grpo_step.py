"""Seconds of a GRPO step: ours alone, or against TRL's in the same run.

    python tests/benchmarks/grpo_step.py --against trl --json OUT
    python tests/benchmarks/grpo_step.py --shape 3b --dtype bfloat16 --lora --device cuda --json OUT

Both sides are run as their users run them: ours as ``GRPOModule`` under a Lightning Trainer, the other one as TRL's
``GRPOTrainer`` with generation by transformers. A step is one rollout of ``prompts * group_size`` episodes and one
update on them: no KL term, temperature 1, AdamW, gradients clipped. Both have the same random weights, the same prompts
and images, and episodes of the same length (see ``step_settings``), which is checked in every run. The medians of
``--steps`` steps count. Our side is measured before and after the other one, and the slower of both counts. (Taking
turns step by step was tried and made both slower: as two threads they shared the cores between two teams of OpenMP
threads, and as two processes the memory of the one that waited was taken away on the machine at hand.)

TRL is given the settings with which it is fastest on this machine: several sizes of its passes and several attention
implementations are tried first, two steps each, and the best are used (see ``grpo_step_trl``). ``--trl-batch-size``
skips that and sets the episodes of a pass, with TRL's default cache.

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


def measure_against_trl(settings: Settings, batch_size: int | None) -> dict[str, Any]:
    """Our side, then TRL's, then ours again: the slower one of ours counts."""
    from grpo_step_trl import TrlRun, TrlSettings, choose

    before = OurRun(settings, settings.batches())
    before.module.configure_model()
    assert before.module.policy is not None
    weights = weights_of(before.module.policy)
    before.run()
    best, tried = choose(settings, weights) if batch_size is None else (TrlSettings(batch_size), [])
    trl = TrlRun(settings, best, settings.batches(), weights)
    trl.run()
    after = OurRun(settings, settings.batches())
    after.run()
    for ours in (before, after):
        check_same_work(ours, trl)
    ours = max((before, after), key=OurRun.seconds)
    clocks, measured = {"before": before.clock, "trl": trl.clock, "after": after.clock}, slice(settings.warmup, None)
    return {
        "ours_seconds": ours.seconds(),
        "trl_seconds": trl.seconds(),
        "ratio": trl.seconds() / ours.seconds(),
        "ours_phases": phases_of(ours),
        "trl_phases": trl.phases(),
        "steps": {name: clock.seconds[measured] for name, clock in clocks.items()},
        "processor_steps": {name: clock.processor_seconds[measured] for name, clock in clocks.items()},
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
    parser.add_argument("--trl-batch-size", type=int, default=None)
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
    against, path, batch_size = (values.pop(name) for name in ("against", "json", "trl_batch_size"))
    settings = replace(Settings(), **values)
    report = measure_alone(settings) if against is None else measure_against_trl(settings, batch_size)
    text = json.dumps(report, indent=2)
    print(text)
    if path is not None:
        path.write_text(text + "\n")
    return report


if __name__ == "__main__":
    main()
