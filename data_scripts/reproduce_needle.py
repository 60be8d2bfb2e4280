"""The method at work on needle scenes: stage 1, its control and stage 2, on scenes that training never saw.

    python data_scripts/reproduce_needle.py                  # three seeds into docs/results/
    python data_scripts/reproduce_needle.py --quick          # one seed and a few steps: does it run?
    python data_scripts/reproduce_needle.py --scenes-seed 7  # other held-out scenes

Every stage is trained by its shipped config (configs/stage1.yaml, control.yaml, stage2.yaml) and evaluated by
configs/eval/needle.yaml, with all arms and probes, at the view of each scene that the shipped policy selects and at
fixed budgets of tokens. What a question costs is measured apart, one question at a time, at the end, when nothing else
runs. What is already in the output folder is neither trained nor played again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from needle_report import headline, page, put_into, read_costs, read_report, tables, write_plots

from infogap import cli

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("stage1", "control", "stage2")
VIEWS = ("selected", "16", "32", "64", "128", "1024")


def train(stage: str, seed: int, folder: Path, *, quick: bool) -> Path:
    """Train a stage by its config, on scenes of the seed's own; returns its checkpoint. Its seconds lie beside it."""
    out = folder / stage
    checkpoint = out / "checkpoints" / "last.ckpt"
    if checkpoint.exists():
        return checkpoint
    arguments = ["fit", f"--config={ROOT}/configs/{stage}.yaml", f"--seed_everything={seed}"]
    arguments += [f"--data.root={folder}/train", f"--data.val_root={folder}/val"]
    arguments += [f"--data.needle.seed={2 * seed}", f"--trainer.logger.init_args.save_dir={folder}"]
    if stage == "stage2":
        arguments += [f"--model.init_from={folder}/stage1/checkpoints/last.ckpt"]
    if quick:
        arguments += ["--trainer.limit_train_batches=4", "--trainer.limit_val_batches=0", "--data.needle.count=48"]
        arguments += ["--data.limit=16"] if stage == "stage2" else []
    started = time.perf_counter()
    cli.main(arguments)
    (out / "seconds.json").write_text(json.dumps(time.perf_counter() - started))
    return checkpoint


def evaluate(checkpoint: Path | None, output: Path, args: argparse.Namespace, *more: str) -> None:
    """Play every arm at every view on the held-out scenes; without a checkpoint the shipped policy itself."""
    if (output / "results.json").exists():
        return
    views = VIEWS[:2] if args.quick else VIEWS
    arguments = ["test", f"--config={ROOT}/configs/eval/needle.yaml", f"--model.output={output}"]
    arguments += [f"--data.root={held_out(args)}", f"--data.needle.count={args.scenes}"]
    arguments += [f"--data.needle.seed={args.scenes_seed}", f"--model.play.views=[{','.join(views)}]"]
    arguments += [] if checkpoint is None else [f"--model.init_from={checkpoint}"]
    cli.main([*arguments, *more])


def measure_costs(seed: int, args: argparse.Namespace) -> dict[str, Path]:
    """Play one arm of the first seed's policies, a question at a time; returns where the results are."""
    found = {}
    for name, arm in (("shipped", "no_tool"), ("control", "own"), ("stage1", "own"), ("stage2", "own")):
        checkpoint = None if name == "shipped" else args.out / f"seed{seed}" / name / "checkpoints" / "last.ckpt"
        found[name] = args.out / f"cost_{name}_{args.scenes_seed}_{args.scenes}"
        alone = ["--data.batch_size=1", f"--model.play.arms=[{arm}]", "--model.play.information_gain=false"]
        evaluate(checkpoint, found[name], args, *alone)
    return found


def held_out(args: argparse.Namespace) -> Path:
    """Folder of the scenes that training never sees."""
    folder: Path = args.out / f"heldout{args.scenes_seed}_{args.scenes}"
    return folder


def results_of(args: argparse.Namespace, name: str, seed: int | None = None) -> Path:
    """Folder of one policy's predictions and results."""
    place: Path = args.out if seed is None else args.out / f"seed{seed}" / name
    return place / f"eval_{name}_{args.scenes_seed}_{args.scenes}"


def run_seed(seed: int, args: argparse.Namespace) -> None:
    """Train and evaluate every stage of one seed."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // args.jobs))
    for stage in STAGES:
        checkpoint = train(stage, seed, args.out / f"seed{seed}", quick=args.quick)
        evaluate(checkpoint, results_of(args, stage, seed), args)


def reproduce(args: argparse.Namespace) -> dict[str, object]:
    """Train and evaluate everything, ``args.jobs`` seeds at a time in processes of their own; returns the report."""
    seeds = args.seeds[:1] if args.quick else args.seeds
    evaluate(None, results_of(args, "shipped"), args)
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as processes:
        list(processes.map(run_seed, seeds, [args] * len(seeds)))
    policies = {"shipped": [results_of(args, "shipped")]}
    policies |= {stage: [results_of(args, stage, seed) for seed in seeds] for stage in STAGES}
    seconds = {
        stage: [json.loads((args.out / f"seed{seed}" / stage / "seconds.json").read_text()) for seed in seeds]
        for stage in STAGES
    }
    report = {
        "scenes_seed": args.scenes_seed,
        "scenes": args.scenes,
        "seeds": seeds,
        "machine": f"{os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}",
        "seconds_of_training": seconds,
        **read_report(policies),
        "costs": read_costs(measure_costs(seeds[0], args)),
    }
    args.results.mkdir(parents=True, exist_ok=True)
    (args.results / "needle.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    (args.results / "needle.md").write_text(page(report))
    write_plots(policies, args.results)
    return report


def main(words: Sequence[str] | None = None) -> None:
    """Run the script.

    Args:
        words: those of the command line; None takes those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of scenes and training")
    parser.add_argument("--jobs", type=int, default=1, help="seeds that run side by side, sharing the cores")
    parser.add_argument("--scenes", type=int, default=256, help="held-out scenes")
    parser.add_argument(
        "--scenes-seed", type=int, default=3001, help="series of the held-out scenes; training uses 0 to 2 * seed + 1"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/needle"), help="folder for shards, checkpoints and logs")
    parser.add_argument("--results", type=Path, default=ROOT / "docs/results", help="folder for the report and plots")
    parser.add_argument("--readme", type=Path, default=None, help="page whose table is replaced as well")
    parser.add_argument("--quick", action="store_true", help="the first seed, a few steps a stage and two views")
    arguments = parser.parse_args(words)
    made = reproduce(arguments)
    print(tables(made))
    if arguments.readme is not None:
        arguments.readme.write_text(put_into(arguments.readme.read_text(), headline(made)))


if __name__ == "__main__":
    main()
