"""Select the view of each training sample that is just too small to answer from (LFPC section 3).

    python data_scripts/select_resolution.py data/train \
        --policy.path models/Qwen2.5-VL-7B-Instruct --policy.dtype bfloat16

    python data_scripts/select_resolution.py data/needle --protocol configs/protocol/needle.yaml \
        --resolution.ladder '[128, 64, 32, 16]'

Results are appended to resolution.jsonl beside the shards. After a kill the same command goes on where it stopped.
"""

from __future__ import annotations

import logging
from pathlib import Path

from jsonargparse import auto_cli

from infogap.cli import short_errors
from infogap.episode.protocol import Protocol, ProtocolConfig
from infogap.policy.loading import PolicyConfig
from infogap.resolution import ResolutionConfig, select_with_policy
from infogap.rollout import RolloutConfig


def select_resolution(
    root: str,
    policy: PolicyConfig,
    protocol: ProtocolConfig,
    rollout: RolloutConfig,
    resolution: ResolutionConfig,
    manifest: Path | None = None,
) -> None:
    """Select the view of each training sample that is just too small to answer from.

    Args:
        root: the samples: a folder of shards, a glob pattern or a file.
        policy: the policy that will be trained.
        protocol: its texts; a file such as configs/protocol/needle.yaml, single fields, or both.
        rollout: least view (view.min_tokens) and token limits (limits) of the answers.
        resolution: how views are selected.
        manifest: where results go; default: resolution.jsonl beside the shards.
    """
    report = select_with_policy(root, policy, Protocol(protocol), rollout, resolution, manifest)
    print(report.render())


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with short_errors():
        auto_cli(select_resolution)
