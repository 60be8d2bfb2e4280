"""Between sampler and environments: who takes part in a turn, and which originals stay decoded."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from infogap.data.images import HighResImage
from infogap.episode.environment import Environment
from infogap.policy.model import Policy
from infogap.policy.packing import Chunk
from infogap.policy.sampler import SampledTurn
from infogap.rollout import play_turn

MOST_DECODED_PIXELS = 400_000_000
"""Originals that stay decoded between crops: some 1.2 GB, or twelve images of 8K."""


class DecodedImages:
    """Originals that were decoded for a crop, in the order of their last use."""

    def __init__(self) -> None:
        self._images: dict[HighResImage, None] = {}

    def touch(self, *images: HighResImage) -> None:
        """Note that originals were used, and drop those used longest ago if there are too many pixels."""
        for image in images:
            self._images.pop(image, None)
            self._images[image] = None
        while sum(i.size.width * i.size.height for i in self._images) > MOST_DECODED_PIXELS and len(self._images) > 1:
            oldest = next(iter(self._images))
            oldest.release()
            del self._images[oldest]

    def first_that_fit(self, images: Sequence[HighResImage]) -> list[HighResImage]:
        """The first images that can be decoded together."""
        sizes = itertools.accumulate(image.size.width * image.size.height for image in images)
        return [image for image, size in zip(images, sizes, strict=True) if size <= MOST_DECODED_PIXELS]

    def release(self) -> None:
        """Drop all of them."""
        for image in self._images:
            image.release()
        self._images.clear()


class Driver:
    """Takes turns to environments. A follower takes its leader's turns until the first crop, and parts there.

    Args:
        policy: turns observations into tokens.
        environments: by the number of the episode.
        sources: the originals that an episode's crops are cut from, likewise.
        leaders: the episode that each follower follows.
        decoded: originals that are decoded.
    """

    def __init__(
        self,
        policy: Policy,
        environments: Sequence[Environment],
        sources: Sequence[Sequence[HighResImage]],
        leaders: Mapping[int, int],
        decoded: DecodedImages,
    ) -> None:
        self.policy, self.environments, self.sources, self.decoded = policy, environments, sources, decoded
        self.followers: dict[int, list[int]] = {}
        for follower, leader in leaders.items():
            self.followers.setdefault(leader, []).append(follower)

    def __call__(self, number: int, turn: SampledTurn) -> dict[int, Chunk]:
        """See ``OnTurn``."""
        together = (number, *self.followers.get(number, []))
        chunks = {each: play_turn(self.policy, self.environments[each], turn) for each in together}
        parts = bool(self.environments[number].episode.crops)
        if parts:
            self.followers.pop(number, None)
            for each in together:
                self.decoded.touch(*self.sources[each])
        return {each: chunk for each, chunk in chunks.items() if chunk is not None and (parts or each == number)}
