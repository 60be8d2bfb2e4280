"""Keep trained policies for notebooks/02_crop_dependence.ipynb: the weights that training changed, in bfloat16.

    python data_scripts/reproduce_needle.py --seeds 0
    python data_scripts/make_notebook_policies.py runs/needle/seed0

The vision tower is frozen in these runs and ships with the small policy, so a file holds the language model alone, 1.6
MB. Rounding to bfloat16 must not change what a policy does: policies are played before and after it on held-out scenes,
and the accuracies printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from measure_needle_policy import CROP, LIMITS, accuracy
from needle_model import needle_protocol
from safetensors.torch import save_file
from torch import Tensor

from infogap.data.needle import NeedleConfig, make_samples
from infogap.policy.loading import PolicyConfig, load_policy
from infogap.policy.model import Policy
from infogap.policy.weights import load_weights
from infogap.rollout import Rollout, RolloutConfig, ViewConfig

ROOT = Path(__file__).resolve().parents[1]
VIEW_TOKENS = {"control": 1024, "stage1": 64, "stage2": 64}
"""The stages, and the views at which rounding is tried: the control's own, and one where digits cannot be read."""


def changed_weights(policy: Policy, checkpoint: Path) -> dict[str, Tensor]:
    """Load a checkpoint into the small policy; returns the weights that are not what they were, in bfloat16."""
    before = {name: value.clone() for name, value in policy.parts.state_dict().items()}
    load_weights(policy, checkpoint)
    after = policy.parts.state_dict()
    return {name: after[name].bfloat16() for name in after if not torch.equal(after[name], before[name])}


def make(runs: Path, out: Path, scenes: int) -> None:
    """Write a file for each stage."""
    protocol = needle_protocol()
    samples = list(make_samples(NeedleConfig(), seed=3001, count=scenes))
    out.mkdir(parents=True, exist_ok=True)
    for stage, budget in VIEW_TOKENS.items():
        policy = load_policy(PolicyConfig("needle", vision_tower="frozen"), protocol.config.turn_end_texts)
        weights = changed_weights(policy, runs / stage / "checkpoints" / "last.ckpt")
        config = RolloutConfig(view=ViewConfig("budget", budget), crop=CROP, limits=LIMITS).greedy()
        rollout = Rollout(policy, protocol, config)
        trained = accuracy(rollout, samples)
        policy.parts.load_state_dict(weights, strict=False)
        rounded = accuracy(rollout, samples)
        path = out / f"{stage}.safetensors"
        save_file(weights, path)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB; accuracy {trained:.3f}, rounded {rounded:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of one seed, with control, stage1 and stage2 in it")
    parser.add_argument("--out", type=Path, default=ROOT / "notebooks/policies", help="folder for the files")
    parser.add_argument("--scenes", type=int, default=128, help="scenes on which rounding is tried")
    args = parser.parse_args()
    make(args.runs, args.out, args.scenes)
