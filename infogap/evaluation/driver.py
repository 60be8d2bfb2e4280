"""Between sampler and environments: who takes part in a turn, and which originals stay decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from infogap.data.images import HighResImage
from infogap.episode.environment import Environment
from infogap.policy.model import Policy
from infogap.policy.packing import Chunk
from infogap.policy.sampler import SampledTurn
from infogap.rollout import play_turn

MOST_DECODED_PIXELS = 400_000_000
"""Originals that stay decoded between crops: some 1.2 GB, or twelve images of 8K."""


class Driver:
    """Takes turns to environments. A follower takes its leader's turns until the first crop, and parts there.

    Args:
        policy: turns observations into tokens.
        environments: by the number of the episode.
        images: the original of every episode, likewise.
        leaders: the episode that each follower follows.
    """

    def __init__(
        self,
        policy: Policy,
        environments: Sequence[Environment],
        images: Sequence[HighResImage],
        leaders: Mapping[int, int],
    ) -> None:
        self.policy, self.environments, self.images = policy, environments, images
        self.decoded: dict[HighResImage, None] = {}  # in the order of their last crop
        self.followers: dict[int, list[int]] = {}
        for follower, leader in leaders.items():
            self.followers.setdefault(leader, []).append(follower)

    def __call__(self, number: int, turn: SampledTurn) -> dict[int, Chunk]:
        """See ``OnTurn``."""
        followers = self.followers.get(number, [])
        chunks = {each: play_turn(self.policy, self.environments[each], turn) for each in (number, *followers)}
        episode = self.environments[number].episode
        parts = bool(episode.crops)
        if parts:
            self.followers.pop(number, None)
            self._bound_memory(self.images[number])
        return {each: chunk for each, chunk in chunks.items() if chunk is not None and (parts or each == number)}

    def _bound_memory(self, image: HighResImage) -> None:
        """Keep an original that was just cut decoded, and drop those cut longest ago if they are too many."""
        self.decoded.pop(image, None)
        self.decoded[image] = None
        while sum(i.size.width * i.size.height for i in self.decoded) > MOST_DECODED_PIXELS and len(self.decoded) > 1:
            oldest = next(iter(self.decoded))
            oldest.release()
            del self.decoded[oldest]
