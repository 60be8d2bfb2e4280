"""What the orders of resolution selection cost: tokens that are asked, calls, and seconds, with the small policy.

    python tests/benchmarks/selection_speed.py --scenes 128 --repeat 3 --json OUT

Needle scenes of 256 visual tokens go down the ladder of `configs/stage1.yaml`. Every order selects the views of the
same shards; its best of ``--repeat`` runs counts, and the runs take turns. Also told is which share of the tokens a
common prefix of a sample's prompts would save: the text before the image, which is the only thing that levels share.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from infogap.data.manifest import ManifestHeader, load_manifest
from infogap.data.needle import NeedleConfig, make_samples
from infogap.data.sample import Sample
from infogap.data.writing import write_shards
from infogap.episode.environment import EpisodeLimits
from infogap.episode.protocol import Protocol, ProtocolConfig
from infogap.geometry import Frame, visual_tokens
from infogap.policy.loading import PolicyConfig, load_policy
from infogap.resolution import PolicyAnswerer, ResolutionConfig, select_resolutions
from infogap.resolution.orders import ORDERS
from infogap.resolution.questions import Budget
from infogap.rollout import RolloutConfig

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "<|vision_start|>"
CHARACTERS_A_TOKEN = 4.0
"""Of English text in Qwen2.5's vocabulary, roughly."""


def needle_protocol() -> Protocol:
    values = yaml.safe_load((ROOT / "configs/protocol/needle.yaml").read_text())
    return Protocol(ProtocolConfig(**{**values, "frame": Frame[values["frame"]]}))


class CountingAnswerer:
    """Passes questions on to the policy, and counts them."""

    def __init__(self, answerer: PolicyAnswerer, protocol: Protocol) -> None:
        self._answerer, self._protocol = answerer, protocol
        self._tokenizer = answerer._with_image.policy.tokenizer
        self.clear()

    def clear(self) -> None:
        self.calls = self.visual = self.text = 0
        self.questions: Counter[str] = Counter()
        self.prefixes: dict[str, int] = {}

    @property
    def min_tokens(self) -> int:
        return self._answerer.min_tokens

    def answer(self, samples: Sequence[Sample], budgets: Sequence[Budget]) -> list[list[str | None]]:
        self.calls += 1
        for sample, budget in zip(samples, budgets, strict=True):
            before, after = self._protocol.prompt(sample.question, sample.options, tool=False).split(IMAGE)
            self.prefixes[sample.key] = self._length(before)
            self.text += self.prefixes[sample.key] + self._length(IMAGE + after)
            self.visual += visual_tokens(sample.image.view_size(budget, self.min_tokens))
            self.questions[sample.key] += 1
        return self._answerer.answer(samples, budgets)

    def counts(self) -> dict[str, Any]:
        shared = sum((self.questions[key] - 1) * prefix for key, prefix in self.prefixes.items())
        tokens = self.visual + self.text
        return {
            "calls": self.calls,
            "questions": self.questions.total(),
            "visual_tokens": self.visual,
            "text_tokens": self.text,
            "share_that_a_common_prefix_saves": round(shared / tokens, 4),
        }

    def _length(self, text: str) -> int:
        return len(self._tokenizer(text)["input_ids"])


def prefix_share_of_the_recipe() -> float:
    """The same share for the default texts and ladder with an image of 16384 tokens, all levels asked: an estimate."""
    config, protocol = ResolutionConfig(), Protocol(ProtocolConfig())
    before, after = protocol.prompt("Which number is on the sign?", ("12", "34"), tool=False).split(IMAGE)
    prefix, rest = len(before) / CHARACTERS_A_TOKEN, len(after) / CHARACTERS_A_TOKEN
    views = [config.original_tokens, *(level for level in config.ladder if level < config.original_tokens)]
    return prefix * (len(views) - 1) / (sum(views) + len(views) * (prefix + rest))


def measure(scenes: int, repeat: int, batch_size: int) -> dict[str, Any]:
    stage = yaml.safe_load((ROOT / "configs/stage1.yaml").read_text())
    config = ResolutionConfig(ladder=tuple(stage["resolution"]["ladder"]), batch_size=batch_size)
    protocol = needle_protocol()
    policy = load_policy(PolicyConfig(), protocol.config.turn_end_texts)
    limits = EpisodeLimits(max_turn_tokens=24, max_episode_tokens=24)
    answerer = PolicyAnswerer(policy, protocol, RolloutConfig(limits=limits), config)
    counting, header = CountingAnswerer(answerer, protocol), ManifestHeader("small", config.ladder)
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        shards = write_shards(make_samples(NeedleConfig(sides=(448,)), 7, scenes), Path(place) / "shards", 64)
        answers: dict[str, dict[str, int | None]] = {}
        for repetition in range(repeat + 1):
            for name in ORDERS:
                path = Path(place) / f"{name}-{repetition}.jsonl"
                counting.clear()
                # once to warm up and to count; counting takes time of its own
                chosen, whom = replace(config, order=name), answerer if repetition else counting
                started = time.perf_counter()
                select_resolutions(shards, whom, chosen, path, header)
                seconds = time.perf_counter() - started
                if repetition == 0:
                    answers[name] = {key: entry.view_tokens for key, entry in load_manifest(path).items()}
                    found[name] = {**counting.counts(), "seconds": float("inf")}
                else:
                    found[name]["seconds"] = round(min(found[name]["seconds"], seconds), 3)
    for name in ORDERS:
        same = sum(answers[name][key] == level for key, level in answers["descend"].items())
        found[name]["same_as_descend"] = round(same / scenes, 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    options = parser.parse_args()
    result = {
        "settings": {**vars(options), "json": None},
        "machine": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        },
        "orders": measure(options.scenes, options.repeat, options.batch_size),
        "share_that_a_common_prefix_saves_at_16384": round(prefix_share_of_the_recipe(), 4),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
