"""What is kept of an episode: plain data, without tensors or pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infogap.episode.protocol import IMAGE_PLACEHOLDER, TURN_END
from infogap.geometry import Box, NestedBoxes, Size, visual_tokens
from infogap.types import StopReason

if TYPE_CHECKING:
    from infogap.rollout import GroupRollout


@dataclass(frozen=True)
class TurnRecord:
    """One turn of an episode.

    Attributes:
        text: what the policy wrote, without the stop token.
        observation: the text that came back, or None if the episode ended here.
        crop: the region that was cut, in pixels of the original, or None.
        error: why the call failed, or None.
        shown: size in pixels at which the policy was shown the crop; None if it was shown none, because there was no
            crop or no tokens were left to go on. Lines of version 0.1.0 and predictions of an evaluation do not say it.
    """

    text: str
    observation: str | None = None
    crop: Box | None = None
    error: str | None = None
    shown: Size | None = None

    @property
    def came_back(self) -> str | None:
        """The observation for people: without the chat markup around it, and with words in the place of the crop."""
        if self.observation is None:
            return None
        text = self.observation.removeprefix(TURN_END).removesuffix("<|im_start|>assistant\n")
        text = text.strip().removeprefix("<|im_start|>user\n").removesuffix(TURN_END)
        return text.replace(IMAGE_PLACEHOLDER, "[the crop]")


@dataclass(frozen=True)
class EpisodeRecord:
    """One episode with what it was asked and what it earned.

    Attributes:
        rollout_step: step of the run that played it, from 0.
        group: number of its group in the step; on several ranks every rank counts its own.
        episode: its number in the group.
        sample: key of the sample.
        question: text of the question, without the options.
        options: texts of the options.
        expected_answer: the right answer; None if nobody knows it.
        evidence: chains of nested boxes in pixels of the original, the innermost first.
        view_size: size of the view in pixels; None if the policy was shown none.
        original_size: size of the original in pixels.
        turns: the turns in order.
        answer: what the policy answered, or None.
        stop_reason: why the episode ended; None while it runs.
        policy_tokens: sampled tokens.
        visual_tokens: visual tokens of the view and all crops that were shown.
        rewards: unweighted rewards by name; None for one that is not a finite number.
        total: their weighted sum; None if it is unknown or not finite.
        advantage: of the episode in its group; None likewise.
    """

    rollout_step: int
    group: int
    episode: int
    sample: str
    question: str
    options: tuple[str, ...]
    expected_answer: str | None
    evidence: tuple[NestedBoxes, ...]
    view_size: Size | None
    original_size: Size
    turns: tuple[TurnRecord, ...]
    answer: str | None
    stop_reason: StopReason | None
    policy_tokens: int
    visual_tokens: int
    rewards: Mapping[str, float | None]
    total: float | None
    advantage: float | None

    @property
    def crops(self) -> list[Box]:
        """Regions that were cut, in order, in pixels of the original."""
        return [turn.crop for turn in self.turns if turn.crop is not None]

    @property
    def says_what_was_shown(self) -> bool:
        """Whether the sizes of the view and of the crops account for all visual tokens; see `TurnRecord.shown`."""
        sizes = [self.view_size, *(turn.shown for turn in self.turns)]
        return sum(visual_tokens(size) for size in sizes if size is not None) == self.visual_tokens


def records_of(
    rollout: GroupRollout,
    rewards: Sequence[Mapping[str, float | None]],
    totals: Sequence[float | None],
    advantages: Sequence[float | None] | None = None,
    *,
    rollout_step: int = 0,
    group: int = 0,
) -> list[EpisodeRecord]:
    """What is kept of the episodes of a group.

    Args:
        rollout: the group.
        rewards: the unweighted rewards of each episode, by name; empty mappings where nothing was scored.
        totals: the weighted sum of each.
        advantages: the advantage of each; None where nothing is trained.
        rollout_step: step of the run, from 0.
        group: number of the group in the step.

    Raises:
        ValueError: if there is not one value for every episode.
    """
    sample, policy_tokens, visual = rollout.sample, rollout.policy_tokens, rollout.visual_tokens
    earned = zip(rewards, totals, advantages or [None] * len(totals), strict=True)
    return [
        EpisodeRecord(
            rollout_step=rollout_step,
            group=group,
            episode=number,
            sample=sample.key,
            question=sample.question,
            options=sample.options,
            expected_answer=sample.answer,
            evidence=sample.evidence,
            view_size=rollout.view if rollout.group.prompt.images else None,
            original_size=sample.image.size,
            turns=_turns(rollout, number),
            answer=episode.answer,
            stop_reason=episode.stop_reason,
            policy_tokens=policy_tokens[number],
            visual_tokens=visual[number],
            rewards=scores,
            total=total,
            advantage=advantage,
        )
        for number, (episode, (scores, total, advantage)) in enumerate(zip(rollout.episodes, earned, strict=True))
    ]


def _turns(rollout: GroupRollout, number: int) -> tuple[TurnRecord, ...]:
    """The turns of an episode, with the size at which each crop was shown.

    A crop is not shown if it left no tokens to go on: then the episode has no chunk for it, and it is the last one.
    """
    from infogap.policy.patches import PATCH  # brings torch along, which reading records needs not

    grids = (image.grid for chunk in rollout.group.episodes[number] for image in chunk.images)
    turns = []
    for turn in rollout.episodes[number].turns:
        rows, columns = next(grids, (0, 0)) if turn.crop is not None else (0, 0)
        shown = Size(columns * PATCH, rows * PATCH) if rows else None
        turns.append(TurnRecord(turn.text, turn.observation, turn.crop, turn.error, shown))
    return tuple(turns)
