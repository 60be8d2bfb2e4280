"""Runs for tests of the viewer: needle shards, a configuration that names them, and episodes made up from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from infogap.data.needle import NeedleConfig, make_samples
from infogap.data.sample import Sample
from infogap.data.writing import write_shards
from infogap.episode.rewards import GroundingConfig, grounding_score
from infogap.geometry import Box, visual_tokens
from infogap.pictures.record import EpisodeRecord, TurnRecord
from infogap.pictures.record_file import record_line
from infogap.types import StopReason

VIEW_TOKENS, CROP_TOKENS, CROP_LEAST = 25, 64, 16
CALL = '<think>The sign is small.</think><tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2]}}'
OBSERVATION = "<|im_end|>\n<|im_start|>user\n<tool_response><|image_pad|></tool_response><|im_end|>\n"


def write_run(folder: Path, *, scenes: int = 6, group_size: int = 4, groups_per_step: int = 2, seed: int = 0) -> Path:
    """Write shards, a configuration and the episodes of one rank; returns the folder of the run."""
    samples = list(make_samples(NeedleConfig(), seed, scenes))
    write_shards(samples, folder / "train", 64)
    run = folder / "run"
    (run / "episodes").mkdir(parents=True)
    (run / "config.yaml").write_text(f"data:\n  root: {folder / 'train'}\n  val_root: null\n")
    records = play(samples, group_size, groups_per_step, random.Random(seed))
    (run / "episodes" / "rank_0.jsonl").write_text("".join(map(record_line, records)))
    return run


def play(
    samples: list[Sample], group_size: int, groups_per_step: int, generator: random.Random
) -> Iterator[EpisodeRecord]:
    """A group of episodes of every sample, with one or two crops each, some of which hit."""
    for place, sample in enumerate(samples):
        for number in range(group_size):
            crops = [_region(sample, generator) for _ in range(generator.randint(1, 2))]
            yield make_record(sample, crops, str(generator.randrange(10)), *divmod(place, groups_per_step), number)


def make_record(
    sample: Sample, crops: list[Box], answer: str, step: int = 0, group: int = 0, number: int = 0
) -> EpisodeRecord:
    """An episode that cuts these crops and then answers."""
    image = sample.image
    sizes = [image.crop_size(crop, CROP_TOKENS, CROP_LEAST) for crop in crops]
    turns = [TurnRecord(CALL, OBSERVATION, crop, None, size) for crop, size in zip(crops, sizes, strict=True)]
    score = grounding_score(crops, sample.evidence, image.size, GroundingConfig())
    view = image.view_size(VIEW_TOKENS)
    right = float(answer == sample.answer)
    rewards = {"accuracy": right, "format": 0.0, "tool": right, "grounding": score.reward if score else 0.0}
    return EpisodeRecord(
        rollout_step=step,
        group=group,
        episode=number,
        sample=sample.key,
        question=sample.question,
        options=sample.options,
        expected_answer=sample.answer,
        evidence=sample.evidence,
        view_size=view,
        original_size=image.size,
        turns=(*turns, TurnRecord(f"<answer>{answer}</answer>")),
        answer=answer,
        stop_reason=StopReason.ANSWERED,
        policy_tokens=15 * (len(crops) + 1),
        visual_tokens=visual_tokens(view) + sum(map(visual_tokens, sizes)),
        rewards=rewards,
        total=0.8 * right + 1.2 * right + rewards["grounding"],
        advantage=right - 0.5,
    )


def _region(sample: Sample, generator: random.Random) -> Box:
    """A region that is around the evidence in half of the cases."""
    width, height = generator.uniform(60, 200), generator.uniform(60, 200)
    if generator.random() < 0.5:
        target = sample.evidence[0][0]
        x, y = (target.x1 + target.x2 - width) / 2, (target.y1 + target.y2 - height) / 2
    else:
        x, y = generator.uniform(0, 300), generator.uniform(0, 300)
    return Box(x, y, x + width, y + height).clamp(sample.image.size)
