"""Is a run that is killed, and gone on with, the run that it would have been?

    python tests/benchmarks/kill_resume.py --kills 10 --json OUT

Stage 1 with the small policy (adapters with dropout, so that the random states matter) is trained for 30 steps once
without an interruption. Then it is trained anew for every kill: kill -9 at a random moment of a random step, and on
from the newest checkpoint to the end. The final weights, the state of the optimiser, both clocks, the random states,
the position in the data, the metrics of all steps and validations (but times), the steps of the pictures, and all
episodes in their order must be equal bit for bit. The exit status is 1 if they are not.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from resume_runs import Run, differences, kill, outcome, wait_for

from infogap.policy.checkpoint_folder import has_checkpoint, newest_checkpoint


def trial(whole: dict[str, Any], run: Run, kill_step: int, share: float, step_seconds: float) -> dict[str, Any]:
    """Kill a run in a step, at that share of its time, and see what it comes to."""
    started = time.perf_counter()
    process = run.start()
    wait_for(lambda: run.played >= kill_step, process)
    time.sleep(share * step_seconds)
    kill(process)
    played = run.played
    partial = sorted(path.name for path in run.checkpoints.glob("*.partial"))
    resumed = newest_checkpoint(run.checkpoints).name if has_checkpoint(run.checkpoints) else "the start"
    status = run.finish()
    different = differences(whole, outcome(run)) if status == 0 else [f"it ended with {status}: see {run.log}"]
    return {
        "kill_step": kill_step,
        "share_of_step": round(share, 3),
        "steps_on_disk": played,
        "cut_writes": partial,
        "resumed_from": resumed,
        "different": different,
        "seconds": round(time.perf_counter() - started, 1),
    }


def measure(root: Path, *, kills: int, steps: int, every: int, seed: int) -> dict[str, Any]:
    """All trials."""
    started = time.perf_counter()
    Run(root, "prepare", steps=1).finish()  # scenes and views, which all runs share
    begun = time.perf_counter()
    run = Run(root, "whole", steps, every)
    assert run.finish() == 0, run.log.read_text()
    step_seconds = (time.perf_counter() - begun) / steps
    whole = outcome(run)
    draw = random.Random(seed)
    trials = []
    for number in range(kills):
        run = Run(root, f"killed_{number}", steps, every)
        found = trial(whole, run, draw.randrange(1, steps), draw.random(), step_seconds)
        show(found)
        trials.append(found)
    return {
        "command": " ".join(["python", *sys.argv]),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {platform.system()}",
        "steps": steps,
        "checkpoint_every": every,
        "seed": seed,
        "compared": {name: len(value) for name, value in whole.items()},
        "trials": trials,
        "equal": sum(not found["different"] for found in trials),
        "seconds": round(time.perf_counter() - started, 1),
    }


def show(found: dict[str, Any]) -> None:
    """A row of the table."""
    verdict = "equal" if not found["different"] else f"DIFFERENT: {', '.join(found['different'][:3])}"
    cut = ", a write was cut" if found["cut_writes"] else ""
    moment = f"{found['kill_step']:>4} + {found['share_of_step']:.2f}"
    print(f"{moment}   {found['resumed_from']:<20} {found['seconds']:>6} s   {verdict}{cut}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None)
    parsed = parser.parse_args()
    print("killed in     resumed from             took   result")
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), kills=parsed.kills, steps=parsed.steps, every=parsed.every, seed=parsed.seed)
    print(
        f"{result['equal']} of {parsed.kills} equal to the uninterrupted run bit for bit, {result['seconds']} s in all"
    )
    if parsed.json is not None:
        parsed.json.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(result["equal"] != parsed.kills)
