"""Questions per second of the evaluation, against ``generate`` of transformers, one row at a time.

    python tests/benchmarks/evaluation_speed.py --rows 64 --json OUT

Both sides play the same two-turn greedy episodes with the small policy on needle scenes: view, call, crop, answer. The
baseline does what an evaluation script without an engine does: it calls ``generate`` for each turn, with a key-value
cache within the turn and the whole conversation, images included, as the prompt of the next one. It plays the arms of
a row one after the other. Each side's best of ``--repeat`` runs counts; the answers of both must be the same.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from transformers import Qwen2_5_VLForConditionalGeneration

from infogap.data.needle import NeedleConfig, make_samples
from infogap.episode.environment import Environment, EpisodeLimits
from infogap.episode.protocol import Protocol, ProtocolConfig
from infogap.evaluation.arms import CROP_ARMS, ArmName, Case, PlayConfig
from infogap.evaluation.engine import ArmPlayer
from infogap.evaluation.question import Question
from infogap.geometry import Frame, Size
from infogap.policy.loading import NEEDLE_POLICY, PolicyConfig, load_policy
from infogap.policy.packing import Chunk
from infogap.policy.sampler import SampledTurn
from infogap.rollout import CropConfig, play_turn

ROOT = Path(__file__).resolve().parents[2]
LIMITS = EpisodeLimits(max_turns=2, max_crops=1, max_turn_tokens=24, max_episode_tokens=48)
VIEW = 64
ALL_ARMS: tuple[ArmName, ...] = ("own", "gt", "noise", "random", "other")

Answers = dict[tuple[str, str], str | None]
"""Answers by row and arm."""


def needle_protocol() -> Protocol:
    values = yaml.safe_load((ROOT / "configs/protocol/needle.yaml").read_text())
    return Protocol(ProtocolConfig(**{**values, "frame": Frame[values["frame"]]}))


class OneAtATime:
    """Plays episodes through ``generate``."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        # tokenizer, patches and vocabulary are the same on both sides; the model is transformers' own
        self.policy = load_policy(PolicyConfig(), protocol.config.turn_end_texts)
        self.model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            NEEDLE_POLICY, dtype=torch.float32, attn_implementation="sdpa"
        )
        self.model.eval().requires_grad_(False)
        self.ends = [self.policy.vocabulary.stop, *self.policy.vocabulary.turn_end]

    def play(self, config: PlayConfig, cases: Sequence[Case]) -> Answers:
        tools = {arm: CROP_ARMS[arm](config, cases, 0) for arm in config.arms}
        return {
            (case.question.key, arm): self._episode(Environment(*self._start(case), self.protocol, tools[arm], LIMITS))
            for case in cases
            for arm in config.arms
        }

    def _start(self, case: Case) -> tuple[Any, Size]:
        sample = case.question.sample
        return sample, sample.image.view_size(VIEW)

    def _episode(self, environment: Environment) -> str | None:
        sample = environment._sample
        view = self.policy.patchifier(sample.image.view(VIEW))
        text = self.protocol.prompt(sample.question, sample.options, tool=True)
        chunks = [self.policy.chunk(text, [view])]
        while True:
            turn = self._generate(chunks)
            back = play_turn(self.policy, environment, turn)
            if back is None:
                return environment.episode.answer
            chunks += [Chunk(turn.token_ids, sampled=True), back]

    def _generate(self, chunks: Sequence[Chunk]) -> SampledTurn:
        ids = torch.tensor([[token for chunk in chunks for token in chunk.token_ids]])
        images = [image for chunk in chunks for image in chunk.images]
        new = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == self.policy.vocabulary.image).long(),
            pixel_values=torch.cat([image.values for image in images]),
            image_grid_thw=torch.tensor([(1, *image.grid) for image in images]),
            do_sample=False,
            max_new_tokens=LIMITS.max_turn_tokens,
            eos_token_id=self.ends,
            suppress_tokens=list(self.policy.vocabulary.banned),
        )[0, ids.shape[1] :].tolist()
        closed = new[-1] == self.policy.vocabulary.stop
        text = self.policy.tokenizer.decode(new[:-1] if closed else new, skip_special_tokens=False)
        return SampledTurn(tuple(new), str(text), closed, new[-1] not in self.ends)


class Engine:
    """Plays them through the packed engine."""

    def __init__(self, protocol: Protocol, batch_size: int) -> None:
        self.protocol, self.batch_size = protocol, batch_size
        self.policy = load_policy(PolicyConfig(), protocol.config.turn_end_texts)
        self.policy.requires_grad_(False)

    def play(self, config: PlayConfig, cases: Sequence[Case]) -> Answers:
        player = ArmPlayer(self.policy, self.protocol, config)
        batches = (cases[start : start + self.batch_size] for start in range(0, len(cases), self.batch_size))
        outcomes = [outcome for batch in batches for outcome in player.play(batch).outcomes]
        return {(outcome.case.question.key, outcome.arm): outcome.episode.answer for outcome in outcomes}


def timed(play: Callable[[], Answers], repeat: int) -> tuple[float, Answers]:
    """Fewest seconds of some runs, and the answers."""
    best = float("inf")
    for _ in range(repeat):
        started = time.perf_counter()
        answers = play()
        best = min(best, time.perf_counter() - started)
    return best, answers


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Both sides, the arm "own" alone and all crop arms."""
    protocol = needle_protocol()
    samples = list(make_samples(NeedleConfig(), 4001, args.rows))
    cases = [
        Case(Question(sample, "", sample.key, sample.question), samples[number - 1].image)
        for number, sample in enumerate(samples)
    ]
    engine, baseline = Engine(protocol, args.batch_size), OneAtATime(protocol)
    report: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores ({platform.machine()}), {torch.get_num_threads()} threads",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "rows": args.rows,
        "batch_size": args.batch_size,
    }
    for name, arms in (("own", ("own",)), ("all_crop_arms", ALL_ARMS)):
        config = PlayConfig(arms=arms, views=(VIEW,), crop=CropConfig(25, 4), limits=LIMITS)
        engine.play(config, cases[: args.batch_size])  # warm up
        baseline.play(config, cases[:2])
        ours, answers = timed(lambda c=config: engine.play(c, cases), args.repeat)
        theirs, expected = timed(lambda c=config: baseline.play(c, cases), args.repeat)
        same = sum(answers[place] == expected[place] for place in expected) / len(expected)
        report[name] = {
            "ours_questions_per_second": args.rows / ours,
            "generate_questions_per_second": args.rows / theirs,
            "ratio": theirs / ours,
            "same_answers": same,
        }
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path, default=None)
    parsed = parser.parse_args()
    result = json.dumps(compare(parsed), indent=2)
    print(result)
    if parsed.json is not None:
        parsed.json.write_text(result + "\n")
