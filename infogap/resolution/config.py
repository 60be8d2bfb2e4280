"""How views are selected."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from infogap.data.images import HighResImage
from infogap.data.manifest import TEXT, ManifestEntry
from infogap.geometry import visual_tokens
from infogap.resolution.orders import OrderName


@dataclass
class ResolutionConfig:
    """How views are selected.

    Args:
        ladder: budgets of visual tokens to try, largest first. Not published; default: halved from 16384 to 128. For a
            sample, levels are left out that are not below its own size and ``original_tokens``.
        original_tokens: budget of the "original": the largest view that the policy can be shown. Not published;
            default: 16384, the largest that LFPC section 6 evaluates.
        samples: answers a level. Not published; default 1, the greedy one; of several the majority counts, and among
            equals the one that came first.
        temperature: of sampling, where there are several answers. Not published; default as in training.
        batch_size: samples that are in memory and answered together. Ours.
        require_correct: mark samples that are answered wrong on the original instead of selecting a view. Samples that
            are not answered at all are always marked.
        seed: seed of sampling.
        order: which levels are asked. "descend": from the top down to the first that diverges. "together": all levels
            beside the original, with the same results; its answers fill in every level, for difficulty filters.
            "bisect": about log2 of the levels, which is right if all levels below one that diverges diverge as well.
            Default by measurement, see docs/resolution.md.
        keep_answers: write the answers into the manifest, and which of them are right.
        ask_without_image: also ask with the text alone, so that samples can be filtered that need no image.

    Raises:
        ValueError: if a value is out of its range.
    """

    ladder: tuple[int, ...] = (16384, 8192, 4096, 2048, 1024, 512, 256, 128)
    original_tokens: int = 16384
    samples: int = 1
    temperature: float = 1.0
    batch_size: int = 16
    require_correct: bool = True
    seed: int = 0
    order: OrderName = "descend"
    keep_answers: bool = True
    ask_without_image: bool = False

    def __post_init__(self) -> None:
        """Refuse a ladder that does not go down, and settings that mean nothing."""
        falling = all(upper > lower for upper, lower in itertools.pairwise(self.ladder))
        if not self.ladder or self.ladder[-1] < 1 or not falling:
            raise ValueError(
                f"resolution.ladder is {self.ladder}: give positive budgets, each smaller than the one before."
            )
        for name in ("original_tokens", "samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"resolution.{name} is {getattr(self, name)}: give at least 1.")
        if self.samples > 1 and not self.temperature > 0:
            raise ValueError(
                f"resolution.temperature is {self.temperature}, at which all of the {self.samples} samples would be "
                "the same: give a positive temperature, or 1 sample."
            )
        if self.ask_without_image and not self.keep_answers:
            raise ValueError(
                "resolution.ask_without_image is true and resolution.keep_answers false, so that the answers would be "
                "lost: give both as true, or none."
            )

    def levels(self, image: HighResImage, min_tokens: int) -> list[int]:
        """Levels of the ladder for one image, each with a view of its own, all below that of the original."""
        limit = min(visual_tokens(image.view_size(None, min_tokens)), self.original_tokens)
        levels: dict[tuple[int, int], int] = {}
        for level in self.ladder:
            if level < limit:
                levels.setdefault(image.view_size(level, min_tokens), level)
        levels.pop(image.view_size(self.original_tokens, min_tokens), None)
        return list(levels.values())

    def is_answered(self, entry: ManifestEntry | None) -> bool:
        """Whether a sample's result, if there is one, holds all that is asked for."""
        return entry is not None and (not self.ask_without_image or TEXT in entry.answers)
