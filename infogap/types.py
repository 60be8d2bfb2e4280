"""Plain data that every room speaks: why an episode ended, what happened in it.

Nothing here imports another module of the package, holds a tensor or draws a random number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infogap.geometry import Box


class StopReason(StrEnum):
    """Why an episode ended.

    ``ANSWERED`` is the only good ending. ``NO_ACTION`` is a turn with neither an answer nor a call.
    ``MAX_TURNS`` and ``MAX_CROPS`` are a call that a limit forbids. ``MAX_TOKENS`` is a turn or an episode
    that ran out of tokens before its stop token: only this one is *truncated*.
    """

    ANSWERED = "answered"
    NO_ACTION = "no_action"
    MAX_TURNS = "max_turns"
    MAX_CROPS = "max_crops"
    MAX_TOKENS = "max_tokens"


@dataclass(frozen=True)
class Turn:
    """One generation of the policy and what came back.

    Attributes:
        text: what the policy wrote, without the stop token.
        observation: the text that came back, or None if the episode ended here.
        crop: the region that was cut, in pixels of the original, after clamping and expanding.
        error: why the call failed, or None. A turn has a crop, or an error, or neither; never both.
    """

    text: str
    observation: str | None = None
    crop: Box | None = None
    error: str | None = None


@dataclass
class Episode:
    """One rollout of one sample, in text and boxes.

    Attributes:
        sample_key: key of the sample.
        turns: the turns in order.
        stop_reason: why it ended; None while it runs.
        answer: text between the answer tags of the last turn, or None.
    """

    sample_key: str
    turns: list[Turn] = field(default_factory=list)
    stop_reason: StopReason | None = None
    answer: str | None = None

    @property
    def crops(self) -> list[Box]:
        """Regions that were cut, in order, in pixels of the original."""
        return [turn.crop for turn in self.turns if turn.crop is not None]

    @property
    def bad_calls(self) -> int:
        """Calls that came back with an error."""
        return sum(turn.error is not None for turn in self.turns)

    @property
    def truncated(self) -> bool:
        """Whether a token limit cut the episode off."""
        return self.stop_reason is StopReason.MAX_TOKENS
