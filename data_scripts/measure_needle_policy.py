"""Measure the skills of the small policy's model card, in episodes on scenes that it was not taught with.

python data_scripts/measure_needle_policy.py [--policy FOLDER] [--scenes 400]
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import yaml
from needle_model import needle_protocol

from infogap.data.images import HighResImage
from infogap.data.manifest import SelectionStatus, load_manifest
from infogap.data.needle import NeedleConfig, make_samples
from infogap.data.sample import Sample
from infogap.data.shards import find_shards
from infogap.data.writing import write_shards
from infogap.episode.matching import match_answer
from infogap.geometry import Box, iou
from infogap.policy.loading import NEEDLE_POLICY, PolicyConfig, load_policy
from infogap.resolution import ResolutionConfig, ensure_manifest
from infogap.rollout import CropConfig, EpisodeLimits, GroupRollout, Rollout, RolloutConfig, ViewConfig

STAGE1 = yaml.safe_load((Path(__file__).resolve().parents[1] / "configs/stage1.yaml").read_text())
CROP = CropConfig(**STAGE1["model"]["rollout"]["crop"])
LIMITS = EpisodeLimits(**STAGE1["model"]["rollout"]["limits"])
LADDER = tuple(STAGE1["resolution"]["ladder"])
SELECTED, FULL = ViewConfig("selected"), ViewConfig("budget", 1024)


def tight_crop(sample: Sample) -> Sample:
    """The asked sign alone, as an image of its own (lossless, so that it is compressed once)."""
    buffer = io.BytesIO()
    box = sample.evidence[0][1].expand_to(56, sample.image.size)
    sample.image.crop(box, CROP.max_tokens, CROP.min_tokens).save(buffer, "PNG")
    return replace(sample, image=HighResImage(buffer.getvalue(), name=sample.key), evidence=())


def measure(folder: Path, count: int, seed: int) -> dict[str, float]:
    """All skills of the model card."""
    protocol, source = needle_protocol(), PolicyConfig(path=str(folder))
    policy = load_policy(source, protocol.config.turn_end_texts)
    samples = list(make_samples(NeedleConfig(), seed, count))
    config = RolloutConfig(view=FULL, crop=CROP, limits=LIMITS)
    with tempfile.TemporaryDirectory() as place:
        write_shards(samples, Path(place), 256)
        ensure_manifest(place, source, protocol, config, ResolutionConfig(ladder=LADDER))
        entries = load_manifest(find_shards(place)[0].parent / "resolution.jsonl")
    selected = [
        replace(s, view_tokens=entries[s.key].view_tokens)
        for s in samples
        if entries[s.key].status is SelectionStatus.SELECTED
    ]
    small = replace(config, view=SELECTED)
    sampled = Rollout(policy, protocol, replace(small, group_size=8))
    half = min(128, len(selected) // 2)
    episodes = [e for g in sampled.run(selected[:half], ("skills",)) for e in g.episodes]

    def direct(config: RolloutConfig, chosen: list[Sample]) -> float:
        return accuracy(Rollout(policy, protocol, config, direct=True), chosen)

    calls = [r for g in sampled.run(selected[half : 2 * half], ("boxes",)) for r in _boxes(g)]
    statuses = [entry.status.value for entry in entries.values()]
    return {
        "glyph_in_tight_crop": direct(config.greedy(), [tight_crop(s) for s in samples]),
        "box_on_asked_sign": fmean(calls),
        "answer_at_full_view": direct(config.greedy(), samples),
        "direct_answer_at_selected_view": direct(small.greedy(), selected),
        # the greedy answer is wrong there by the view's definition; a sampled one need not be
        "direct_answer_at_selected_view_sampled": direct(replace(small, group_size=1), selected),
        "tool_call_rate": fmean(bool(e.crops) for e in episodes),
        **{f"scenes_{status}": statuses.count(status) / len(statuses) for status in sorted(set(statuses))},
    }


def accuracy(rollout: Rollout, samples: list[Sample], batch_size: int = 32) -> float:
    """Share of samples that are answered right, one episode each."""
    groups = [
        group
        for start in range(0, len(samples), batch_size)
        for group in rollout.run(samples[start : start + batch_size], ("arm", 0, start))
    ]
    return fmean(match_answer(g.episodes[0].answer, g.sample.answer, g.sample.options) for g in groups)


def _boxes(group: GroupRollout) -> list[bool]:
    """Of every crop of a group: does it hold the asked sign's middle and overlap it more than any other sign?"""
    sign = group.sample.evidence[0][1]
    x, y = (sign.x1 + sign.x2) / 2, (sign.y1 + sign.y2) / 2
    others = [Box(*other["box"]) for other in group.sample.metadata["signs"]]
    return [
        crop.x1 <= x <= crop.x2 and crop.y1 <= y <= crop.y2 and iou(crop, sign) >= max(iou(crop, o) for o in others)
        for episode in group.episodes
        for crop in episode.crops
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, default=NEEDLE_POLICY, help="model folder")
    parser.add_argument("--scenes", type=int, default=400, help="number of scenes")
    parser.add_argument("--seed", type=int, default=2001, help="series of the scenes")
    args = parser.parse_args()
    print(json.dumps(measure(args.policy, args.scenes, args.seed), indent=2))
