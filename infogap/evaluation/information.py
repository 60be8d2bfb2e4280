"""What a crop tells about the right answer: its log-probability with the crop, minus that without.

The gain of IGPO (arXiv 2510.14967): r = log P(y* | h with the crop) - log P(y* | h before it), teacher-forced. Any
image may move the answer's probability, so the same is measured with an irrelevant crop as a placebo (Vision-RL2,
arXiv 2609.19745), here another image's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from infogap.episode.protocol import Protocol
from infogap.evaluation.question import Question
from infogap.policy.model import Policy
from infogap.policy.packing import Chunk, Group, pack, split_by_budget

ROW_TOKENS = 8192
"""Most tokens that are scored in one pass."""


@dataclass(frozen=True)
class InformationGain:
    """Mean over the right answer's tokens of what a crop adds to their log-probability, in nats.

    Attributes:
        own: by the first own crop.
        placebo: by another image's crop in its place; None if it was not played.
    """

    own: float
    placebo: float | None


@dataclass(frozen=True)
class Look:
    """An episode whose first crop is measured.

    Attributes:
        key: the row.
        prompt: its prompt.
        answer: the right answer as the policy should write it, without tags.
        own: chunks of the episode.
        placebo: chunks of the same episode with another image's crop; None if there is none.
    """

    key: str
    prompt: Chunk
    answer: str
    own: tuple[Chunk, ...]
    placebo: tuple[Chunk, ...] | None


def answer_text(question: Question, protocol: Protocol, *, official: bool) -> str:
    """The right answer as the policy should write it: a letter where the prompt lists options, else a text.

    Args:
        question: the row.
        protocol: says whether the prompt lists options.
        official: whether the prompt is that of the benchmark's own harness.
    """
    options, sample = question.sample.options, question.sample
    if not options or question.letters or official or protocol.config.option_template:
        return question.gold
    letters = sample.option_letters
    return options[letters.index(sample.answer)] if sample.answer in letters else sample.answer


def information_gains(policy: Policy, protocol: Protocol, looks: Sequence[Look]) -> dict[str, InformationGain]:
    """Measure the first crops of some episodes; an episode without a crop is left out.

    Args:
        policy: whose gains they are.
        protocol: writes the answer that is scored.
        looks: the episodes.

    Returns:
        The gains by row.
    """
    measured = [look for look in looks if _up_to_first_image(look.own)]
    groups = []
    for look in measured:
        answer = _taught(policy, protocol, look.answer)
        seen = [(), _up_to_first_image(look.own), _up_to_first_image(look.placebo or ())]
        groups.append(Group(look.prompt, tuple((*chunks, answer) for chunks in seen[: 2 + bool(look.placebo)])))
    scores: list[float] = []
    for parts in split_by_budget(groups, ROW_TOKENS):
        members = [part.group for part in parts]
        with torch.no_grad():
            logprobs = policy(pack(members, policy.vocabulary.image), 1.0).taught_logprobs
        lengths = [len(branch[-1].taught) for group in members for branch in group.episodes]
        scores += [float(piece.mean()) for piece in logprobs.split_with_sizes(lengths)]
    remaining = iter(scores)
    gains = {}
    for look, group in zip(measured, groups, strict=True):
        before, *after = (next(remaining) for _ in group.episodes)
        gains[look.key] = InformationGain(after[0] - before, after[1] - before if len(after) > 1 else None)
    return gains


def _up_to_first_image(chunks: Sequence[Chunk]) -> tuple[Chunk, ...]:
    """Chunks up to the first crop; nothing if there is none."""
    for place, chunk in enumerate(chunks):
        if chunk.images:
            return tuple(chunks[: place + 1])
    return ()


def _taught(policy: Policy, protocol: Protocol, answer: str) -> Chunk:
    """An answer of which the tokens between the tags are scored."""
    text = protocol.answer_text(answer)
    first = text.index(answer)
    encoded = policy.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    places = [
        place
        for place, (start, end) in enumerate(encoded["offset_mapping"])
        if start < first + len(answer) and end > first
    ]
    return Chunk(tuple(encoded["input_ids"]), taught=tuple(places))
