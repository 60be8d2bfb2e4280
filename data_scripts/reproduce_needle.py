"""The method at work on needle scenes: stage 1, its control and stage 2, on scenes that training never saw.

    python data_scripts/reproduce_needle.py                  # three seeds into docs/results/needle.json
    python data_scripts/reproduce_needle.py --quick          # one seed and a few steps: does it run?
    python data_scripts/reproduce_needle.py --scenes-seed 7  # other held-out scenes

Every stage is trained by its shipped config (configs/stage1.yaml, control.yaml, stage2.yaml) and measured with greedy
episodes: the shipped policy, stage 1 and stage 2 at the selected view of each scene, the control at the full view that
it was trained with. Arms replace what a crop call shows: the region asked for, the annotated sign, or noise. What is
already in the output folder is neither trained nor measured again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import yaml
from needle_model import needle_protocol

from infogap.cli import main
from infogap.data.manifest import MANIFEST_NAME, SelectionStatus, load_manifest
from infogap.data.needle import NeedleConfig, write_needle_shards
from infogap.data.sample import Sample
from infogap.data.shards import find_shards, has_shards, read_samples
from infogap.data.skips import SkipLog
from infogap.episode.protocol import Protocol
from infogap.episode.tool import CropTool, GroundTruthCrop, NoiseCrop, OwnCrop
from infogap.evaluation.arms import run_arm, summarise
from infogap.policy.loading import PolicyConfig, load_policy, load_weights
from infogap.policy.model import Policy
from infogap.resolution import ResolutionConfig, ensure_manifest
from infogap.rollout import CropConfig, EpisodeLimits, Rollout, RolloutConfig, ViewConfig

ROOT = Path(__file__).resolve().parents[1]
STAGE1: dict[str, Any] = yaml.safe_load((ROOT / "configs/stage1.yaml").read_text())
CROP = CropConfig(**STAGE1["model"]["rollout"]["crop"])
LIMITS = EpisodeLimits(**STAGE1["model"]["rollout"]["limits"])
LADDER = tuple(STAGE1["resolution"]["ladder"])
SELECTED, FULL = ViewConfig("selected"), ViewConfig("budget", 1024)
STAGES = ("stage1", "control", "stage2")


def held_out(folder: Path, seed: int, count: int, protocol: Protocol) -> list[Sample]:
    """Scenes of a series that training never sees, with the view that the shipped policy selects."""
    if not has_shards(folder):
        write_needle_shards(NeedleConfig(), folder, count=count, seed=seed)
    ensure_manifest(str(folder), PolicyConfig(), protocol, RolloutConfig(crop=CROP), ResolutionConfig(ladder=LADDER))
    entries = load_manifest(folder / MANIFEST_NAME)
    samples = read_samples(find_shards(folder), SkipLog(strict=True))
    return [
        replace(sample, view_tokens=entries[sample.key].view_tokens)
        for sample in samples
        if entries[sample.key].status is SelectionStatus.SELECTED
    ]


def measure(policy: Policy, protocol: Protocol, samples: list[Sample], view: ViewConfig) -> dict[str, float]:
    """All numbers of one policy, its arms at ``view``."""
    sizes = (CROP.max_tokens, CROP.min_tokens)

    def play(shown: ViewConfig, tool: CropTool | None = None, *, direct: bool = False) -> dict[str, float]:
        config = RolloutConfig(view=shown, crop=CROP, limits=LIMITS).greedy()
        return summarise(run_arm(Rollout(policy, protocol, config, tool, direct=direct), samples))

    # for the policy that selected the views, a greedy direct answer is wrong by their definition; a sampled one is not
    drawn = RolloutConfig(group_size=1, view=SELECTED, crop=CROP, limits=LIMITS)
    sampled = summarise(run_arm(Rollout(policy, protocol, drawn, direct=True), samples))
    own, full = play(view, OwnCrop(*sizes)), play(FULL)
    noise, truth = play(view, NoiseCrop(*sizes)), play(view, GroundTruthCrop(*sizes))
    return {
        "accuracy_selected_view": play(SELECTED)["accuracy"] if view is not SELECTED else own["accuracy"],
        "accuracy_direct_selected_view": play(SELECTED, direct=True)["accuracy"],
        "accuracy_direct_sampled_selected_view": sampled["accuracy"],
        "accuracy_full_view": full["accuracy"],
        "accuracy_direct_full_view": play(FULL, direct=True)["accuracy"],
        "tool_rate": own["tool_rate"],
        "accuracy_own_crop": own["accuracy"],
        "accuracy_gt_crop": truth["accuracy"],
        "accuracy_noise_crop": noise["accuracy"],
        "crop_dependence": own["accuracy"] - noise["accuracy"],
        "crop_area_ratio": own["crop_area_ratio"],
        "mean_iou": own["mean_iou"],
        "coverage_above_tau": own["coverage_above_tau"],
        "on_target": own["on_target"],
        "visual_tokens": own["visual_tokens"],
    }


def train(stage: str, seed: int, folder: Path, *, quick: bool) -> tuple[Path, float]:
    """Train a stage by its config, on scenes of the seed's own; returns its checkpoint and the seconds that it took."""
    out = folder / stage
    checkpoint = out / "checkpoints" / "last.ckpt"
    if checkpoint.exists():
        return checkpoint, json.loads((out / "seconds.json").read_text())
    arguments = ["fit", f"--config={ROOT}/configs/{stage}.yaml", f"--seed_everything={seed}"]
    arguments += [f"--data.root={folder}/train", f"--data.val_root={folder}/val"]
    arguments += [f"--data.needle.seed={2 * seed}", f"--trainer.logger.init_args.save_dir={folder}"]
    if stage == "stage2":
        arguments += [f"--model.init_from={folder}/stage1/checkpoints/last.ckpt"]
    if quick:
        arguments += ["--trainer.limit_train_batches=4", "--trainer.limit_val_batches=0", "--data.needle.count=48"]
        arguments += ["--data.limit=16"] if stage == "stage2" else []
    started = time.perf_counter()
    main(arguments)
    seconds = time.perf_counter() - started
    (out / "seconds.json").write_text(json.dumps(seconds))
    return checkpoint, seconds


def run_seed(seed: int, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The numbers of every stage of one seed. What its folder already holds is not done again."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // args.jobs))
    folder = args.out / f"seed{seed}"
    protocol = needle_protocol()
    samples = held_out(args.out / f"heldout{args.scenes_seed}_{args.scenes}", args.scenes_seed, args.scenes, protocol)
    policy = load_policy(PolicyConfig(), protocol.config.turn_end_texts)
    results: dict[str, dict[str, float]] = {}
    for stage in STAGES:
        checkpoint, seconds = train(stage, seed, folder, quick=args.quick)
        measured = folder / stage / f"measured_{args.scenes_seed}_{args.scenes}.json"
        if not measured.exists():
            load_weights(policy, checkpoint)
            numbers = measure(policy, protocol, samples, FULL if stage == "control" else SELECTED)
            measured.write_text(json.dumps({**numbers, "seconds": seconds}, indent=2) + "\n")
        results[stage] = json.loads(measured.read_text())
        shown = " ".join(f"{name} {value:.3f}" for name, value in results[stage].items())
        print(f"seed {seed} {stage}: {shown}", flush=True)
    return results


def reproduce(args: argparse.Namespace) -> dict[str, Any]:
    """Train and measure everything, ``args.jobs`` seeds at a time, each in a process of its own."""
    protocol = needle_protocol()
    samples = held_out(args.out / f"heldout{args.scenes_seed}_{args.scenes}", args.scenes_seed, args.scenes, protocol)
    policy = load_policy(PolicyConfig(), protocol.config.turn_end_texts)
    report: dict[str, Any] = {
        "scenes_seed": args.scenes_seed,
        "scenes": args.scenes,
        "scenes_with_a_selected_view": len(samples),
        "machine": f"{os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}",
        "seeds_at_a_time": args.jobs,
        "shipped": measure(policy, protocol, samples, SELECTED),
    }
    seeds = args.seeds[:1] if args.quick else args.seeds
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as processes:
        results = list(processes.map(run_seed, seeds, [args] * len(seeds)))
    report["seeds"] = {str(seed): result for seed, result in zip(seeds, results, strict=True)}
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(report, indent=2) + "\n")
    return report


ROWS = {
    "accuracy_selected_view": "accuracy at the selected view",
    "accuracy_direct_selected_view": "the same, answering directly",
    "accuracy_full_view": "accuracy at the full view",
    "tool_rate": "tool-call rate",
    "accuracy_own_crop": "accuracy with its own crop",
    "accuracy_gt_crop": "with the ground-truth crop",
    "accuracy_noise_crop": "with a noise crop",
    "crop_dependence": "crop dependence (own minus noise)",
    "crop_area_ratio": "crop area over image area",
    "mean_iou": "mean best IoU",
    "coverage_above_tau": "coverage of B_1 above 0.9",
    "visual_tokens": "visual tokens a question",
    "seconds": "seconds of training",
}
MARKS = ("<!-- made by data_scripts/reproduce_needle.py -->\n", "<!-- end of what it made -->\n")


def table(report: dict[str, Any]) -> str:
    """Mean and range over seeds, as a Markdown table."""

    def shown(name: str, value: float) -> str:
        if name in ("visual_tokens", "seconds"):
            return f"{value:.0f}"
        return f"{value:.3f}" if name == "mean_iou" else f"{100 * value:.1f}"

    def cell(stage: str, name: str) -> str:
        if stage == "shipped":
            return shown(name, report["shipped"][name]) if name in report["shipped"] else ""
        values = [seed[stage][name] for seed in report["seeds"].values()]
        return f"{shown(name, fmean(values))} ({shown(name, min(values))} to {shown(name, max(values))})"

    lines = ["| | shipped policy | stage 1 | control | stage 2 |", "|---|---|---|---|---|"]
    for name, label in ROWS.items():
        unit = "" if name in ("visual_tokens", "seconds", "mean_iou") else ", %"
        lines.append(f"| {label}{unit} | " + " | ".join(cell(stage, name) for stage in ("shipped", *STAGES)) + " |")
    return "\n".join(lines)


def put_into(page: str, text: str) -> str:
    """A page with the text between the marks replaced."""
    before, _, rest = page.partition(MARKS[0])
    return f"{before}{MARKS[0]}{text}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of scenes and training")
    parser.add_argument("--jobs", type=int, default=1, help="seeds that run side by side, sharing the cores")
    parser.add_argument("--scenes", type=int, default=256, help="held-out scenes")
    parser.add_argument(
        "--scenes-seed", type=int, default=3001, help="series of the held-out scenes; training uses 0 to 2 * seed + 1"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/needle"), help="folder for shards, checkpoints and logs")
    parser.add_argument("--json", type=Path, default=ROOT / "docs/results/needle.json", help="where the numbers go")
    parser.add_argument("--readme", type=Path, default=None, help="page whose table is replaced as well")
    parser.add_argument("--quick", action="store_true", help="the first seed and four steps a stage")
    arguments = parser.parse_args()
    made = table(reproduce(arguments))
    print(made)
    if arguments.readme is not None:
        arguments.readme.write_text(put_into(arguments.readme.read_text(), made))
