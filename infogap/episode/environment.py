"""One episode, turn by turn: the policy's text goes in, an observation or the end comes out. No tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from PIL import Image

from infogap.data.sample import Sample
from infogap.episode import texts
from infogap.episode.protocol import Answer, BadCall, CropCall, Protocol
from infogap.episode.tool import CropTool
from infogap.geometry import Box, FramedBox, Size
from infogap.types import Episode, StopReason, Turn

_ROUNDING: Final = 1e-6  # pixels


@dataclass
class EpisodeLimits:
    """How long an episode may be, and how small a crop.

    Attributes:
        max_turns: the most turns; a call in the last one ends the episode. Not published; default 3, two crops and an
            answer.
        max_crops: the most crops; a call after them ends the episode. 0 forbids the tool. Not published.
        max_turn_tokens: the most tokens of one turn, read by the sampler. Not published; enough for a call, not for
            reasoning: raise it for a policy that thinks.
        max_episode_tokens: the most policy tokens of an episode, read by the sampler (LFPC section 5: 2048 for the 7B).
        min_crop_side: least side of a crop in pixels of the original. Default 28, one visual token. Not published.
        small_crop: what happens to a smaller box: it is expanded to that side, or it is an error. Not published.
    """

    max_turns: int = 3
    max_crops: int = 2
    max_turn_tokens: int = 64
    max_episode_tokens: int = 256
    min_crop_side: int = 28
    small_crop: Literal["expand", "error"] = "expand"

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: naming the limit that is out of range.
        """
        for name in ("max_turns", "max_turn_tokens", "max_episode_tokens", "min_crop_side"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if self.max_crops < 0:
            raise ValueError(f"max_crops is {self.max_crops}, but must be at least 0.")
        if self.max_turn_tokens > self.max_episode_tokens:
            raise ValueError(
                f"max_turn_tokens is {self.max_turn_tokens}, more than max_episode_tokens, {self.max_episode_tokens}: "
                "lower the first or raise the second."
            )


@dataclass(frozen=True)
class Observation:
    """What comes back to the policy.

    Attributes:
        text: text to append after the policy's turn; it holds one ``IMAGE_PLACEHOLDER`` if there is an image.
        image: the crop, RGB, sides multiples of 28; None after a failed call.
    """

    text: str
    image: Image.Image | None


class Environment:
    """Plays one episode of one sample.

    Args:
        sample: what the episode is about.
        view: size in pixels of the view that the policy is shown.
        protocol: reads the policy's text and writes the observations.
        tool: makes the crops.
        limits: when to stop, and how small a crop may be.

    Attributes:
        episode: what has happened; ``episode.stop_reason`` is set once it has ended.
    """

    def __init__(self, sample: Sample, view: Size, protocol: Protocol, tool: CropTool, limits: EpisodeLimits) -> None:
        self.episode = Episode(sample.key)
        self._sample = sample
        self._view = view
        self._protocol = protocol
        self._tool = tool
        self._limits = limits

    def step(self, text: str, *, closed: bool, truncated: bool, spent: bool = False) -> Observation | None:
        """Play one turn.

        A failed call brings a text back and costs a turn, not a crop. A truncated turn is not read, even if it holds a
        complete answer: the policy had not finished, and what it would have written next is unknown.

        Args:
            text: what the policy wrote in this turn, without the stop token.
            closed: whether the turn ended in the stop token (not in an end text such as ``</tool_call>``).
            truncated: whether a token limit cut the turn off.
            spent: whether the episode has no tokens left. A call is then not carried out: nobody would see its crop.

        Returns:
            What the policy sees next; None if the episode has ended.

        Raises:
            RuntimeError: if the episode had ended before.
        """
        if self.episode.stop_reason is not None:
            key, reason = self.episode.sample_key, self.episode.stop_reason
            raise RuntimeError(f"The episode of sample {key} has ended ({reason}): take no more steps.")
        action = None if truncated else self._protocol.parse(text)
        if isinstance(action, CropCall | BadCall):
            limit = StopReason.MAX_TOKENS if spent else self._reached_limit()
            if limit is None:
                return self._answer_call(text, action, closed=closed)
            reason = limit
        elif isinstance(action, Answer):
            self.episode.answer = action.text
            reason = StopReason.ANSWERED
        else:
            reason = StopReason.MAX_TOKENS if truncated else StopReason.NO_ACTION
        error = action.error if isinstance(action, BadCall) else None
        self.episode.turns.append(Turn(text, error=error))
        self.episode.stop_reason = reason
        return None

    def _reached_limit(self) -> StopReason | None:
        """The limit that forbids a call in this turn, if one does."""
        if len(self.episode.turns) + 1 >= self._limits.max_turns:
            return StopReason.MAX_TURNS
        return StopReason.MAX_CROPS if len(self.episode.crops) >= self._limits.max_crops else None

    def _answer_call(self, text: str, call: CropCall | BadCall, *, closed: bool) -> Observation:
        found = call.error if isinstance(call, BadCall) else self._find_region(call.box)
        if isinstance(found, str):
            body = self._protocol.error_body(found, self._view)
            observation = Observation(self._protocol.observation(body, with_image=False, closed=closed), None)
            self.episode.turns.append(Turn(text, observation.text, error=found))
            return observation
        image = self._tool.look(self._sample, found)
        body = self._protocol.crop_body(self._framed(found))
        observation = Observation(self._protocol.observation(body, with_image=True, closed=closed), image)
        self.episode.turns.append(Turn(text, observation.text, crop=found))
        return observation

    def _find_region(self, asked: FramedBox) -> Box | str:
        """Region of the original to cut, or what is wrong with the box, in one sentence for the policy."""
        if not (asked.x1 < asked.x2 and asked.y1 < asked.y2):
            return "The box is empty: x1 must be less than x2, and y1 less than y2."
        size = self._sample.image.size
        try:
            box = asked.to_original(self._view, size).clamp(size)
        except ValueError:  # its message speaks of pixels of the original, which the policy never sees
            return "The box lies outside the image."
        if self._limits.small_crop == "expand":
            return box.expand_to(self._limits.min_crop_side, size)
        return self._too_small(box, size) or box

    def _too_small(self, box: Box, size: Size) -> str | None:
        # An image that is smaller than the least side can be asked for whole; rounding must not make a box too small.
        width, height = (min(self._limits.min_crop_side, side) for side in size)
        if box.width >= width - _ROUNDING and box.height >= height - _ROUNDING:
            return None
        _, _, wide, high = texts.written(self._framed(Box(0.0, 0.0, float(width), float(height))))
        return f"The box is too small: it must be at least {wide} wide and {high} high."

    def _framed(self, box: Box) -> FramedBox:
        return FramedBox.from_original(box, self._protocol.config.frame, self._view, self._sample.image.size)
