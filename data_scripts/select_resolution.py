"""Select the view of each training sample that is just too small to answer from (LFPC section 3).

    python data_scripts/select_resolution.py data/train \
        --policy.path models/Qwen2.5-VL-7B-Instruct --policy.dtype bfloat16

    python data_scripts/select_resolution.py data/needle --protocol configs/protocol/needle.yaml \
        --resolution.ladder '[128, 64, 32, 16]'

Results are gathered in resolution.jsonl beside the shards. After a kill the same command goes on where it stopped.

Several processes share the work, on any machines that see the same disk: the eight GPUs of one machine with

    torchrun --nproc-per-node 8 data_scripts/select_resolution.py data/train ...

and an array of jobs, each on its own, at any time and in any order, with

    python data_scripts/select_resolution.py data/train --share $SLURM_ARRAY_TASK_ID/8 ...    # sbatch --array=1-8

The last one to finish writes resolution.jsonl. After a kill any number of processes may go on.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from jsonargparse import auto_cli

from infogap.cli import short_errors
from infogap.episode.protocol import Protocol, ProtocolConfig
from infogap.policy.loading import PolicyConfig
from infogap.resolution import ResolutionConfig, Share, select_with_policy
from infogap.rollout import RolloutConfig


def select_resolution(
    root: str,
    policy: PolicyConfig,
    protocol: ProtocolConfig,
    rollout: RolloutConfig,
    resolution: ResolutionConfig,
    manifest: Path | None = None,
    share: str | None = None,
) -> None:
    """Select the view of each training sample that is just too small to answer from.

    Args:
        root: the samples: a folder of shards, a glob pattern or a file.
        policy: the policy that will be trained.
        protocol: its texts; a file such as configs/protocol/needle.yaml, single fields, or both.
        rollout: least view (view.min_tokens) and token limits (limits) of the answers.
        resolution: how views are selected.
        manifest: where results go; default: resolution.jsonl beside the shards, or what their index names.
        share: which share of the samples, such as 3/8 for the third of eight; default: what torchrun says, or all.
    """
    chosen = Share.of_environment() if share is None else Share.parse(share)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    report = select_with_policy(root, policy, Protocol(protocol), rollout, resolution, manifest, share=chosen)
    print(f"Share {chosen} is finished, others are not yet." if report is None else report.render())


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with short_errors():
        auto_cli(select_resolution)
