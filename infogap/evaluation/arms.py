"""The arms: what a question is shown in the place of a view, and what a crop call shows in the place of the crop.

Each arm answers one question of its own about the same policy and the same row (LFPC section 1; the four-way set of
CodeV, arXiv 2511.19661; the views of MMStar's leakage metrics, arXiv 2403.20330, taken to crops).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from PIL import Image

from infogap.data.images import HighResImage
from infogap.episode.environment import EpisodeLimits
from infogap.episode.tool import CropTool, GroundTruthCrop, NoiseCrop, OtherImageCrop, OwnCrop, RandomCrop, evidence_box
from infogap.evaluation.question import Question, View
from infogap.geometry import Box
from infogap.policy.draw import SamplingConfig
from infogap.rollout import CropConfig

ArmName = Literal["no_tool", "own", "gt", "noise", "random", "other", "gt_only", "no_image"]


@dataclass
class PlayConfig:
    """How the rows are played.

    Args:
        arms: arms to play, all on the same rows. "no_tool": answer directly from the view. "own": with the tool.
            The other crop arms are the same episode up to its first crop, and show something else for every crop:
            "gt" the annotated evidence, "noise" random pixels, "random" a region of the same size elsewhere, "other"
            a region of another image. "gt_only": answer directly from the evidence without a view. "no_image": answer
            from the text. "gt" and "gt_only" are played on rows with boxes.
        views: budgets of the first view, in visual tokens, each played on all rows; "selected" is the view that
            resolution selection found for a row (our own shards). LFPC section 6: 1024 and 16384.
        attempts: episodes of each arm (Avg@k); several need a temperature above 0.
        prompt: "protocol": our texts around question and options. "official": the benchmark's own text, options and
            instruction included: for arms without the tool nothing else, and what is written is the answer, with or
            without tags; for the others in the place of the question.
        information_gain: also measure log P(right answer) with and without the first own crop; needs "own".
        min_view_tokens: fewest visual tokens of a view; smaller images are enlarged. Ours.
        crop: how large crops are shown.
        limits: where an episode ends.
        sampling: how tokens are drawn; greedy by default.

    Raises:
        ValueError: if nothing is to be played, an arm or view is named twice, or the numbers contradict each other.
    """

    arms: tuple[ArmName, ...] = ("no_tool", "own")
    views: tuple[View, ...] = (1024,)
    attempts: int = 1
    prompt: Literal["protocol", "official"] = "protocol"
    information_gain: bool = False
    min_view_tokens: int = 4
    crop: CropConfig = field(default_factory=CropConfig)
    limits: EpisodeLimits = field(default_factory=EpisodeLimits)
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.0))

    def __post_init__(self) -> None:
        """Check the fields against each other."""
        for name, values in (("arms", self.arms), ("views", self.views)):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"play.{name} is {list(values)}: name at least one, and none twice.")
        for view in self.views:
            if view != "selected" and view < self.min_view_tokens:
                raise ValueError(f"play.views holds {view}: give at least min_view_tokens, {self.min_view_tokens}.")
        if self.attempts < 1 or (self.attempts > 1 and self.sampling.temperature == 0):
            raise ValueError(
                f"play.attempts is {self.attempts} at temperature {self.sampling.temperature}: give at least 1, and "
                "above 1 a positive sampling.temperature, since greedy attempts are all the same."
            )
        if self.information_gain and "own" not in self.arms:
            raise ValueError(f"play.information_gain needs the arm own, but arms is {list(self.arms)}: add it.")

    @property
    def crop_arms(self) -> tuple[ArmName, ...]:
        """The arms that are told of the tool, "own" first: the others follow it, so it is played even if not asked."""
        return ("own", *(arm for arm in CROP_ARMS if arm != "own" and arm in self.arms)) if self._crops else ()

    @property
    def _crops(self) -> bool:
        return any(arm in CROP_ARMS for arm in self.arms)


@dataclass(frozen=True)
class Case:
    """A row as it is played.

    Attributes:
        question: the row.
        other: another row's image, for the arm "other"; None if all rows are about one image.
    """

    question: Question
    other: HighResImage | None = None

    def can_play(self, arm: ArmName) -> bool:
        """Whether the row has what the arm shows."""
        if arm in NEEDS_BOXES:
            return bool(self.question.sample.evidence)
        return arm != "other" or self.other is not None


NEEDS_BOXES: Final[tuple[ArmName, ...]] = ("gt", "gt_only")

ToolMaker = Callable[[PlayConfig, Sequence[Case], int], CropTool]
"""Makes the crop tool of an arm for some rows and a seed."""


def _others(cases: Sequence[Case]) -> dict[str, HighResImage]:
    return {case.question.key: case.other for case in cases if case.other is not None}


CROP_ARMS: Final[Mapping[ArmName, ToolMaker]] = {
    "own": lambda c, _, __: OwnCrop(c.crop.max_tokens, c.crop.min_tokens),
    "gt": lambda c, _, __: GroundTruthCrop(c.crop.max_tokens, c.crop.min_tokens, c.limits.min_crop_side),
    "noise": lambda c, _, seed: NoiseCrop(c.crop.max_tokens, c.crop.min_tokens, seed),
    "random": lambda c, _, seed: RandomCrop(c.crop.max_tokens, c.crop.min_tokens, seed),
    "other": lambda c, cases, _: OtherImageCrop(_others(cases), c.crop.max_tokens, c.crop.min_tokens),
}


def _show_evidence(config: PlayConfig, case: Case) -> Image.Image:
    """The least region that holds all pieces of evidence, as the tool would show it."""
    sample = case.question.sample
    boxes = [evidence_box(chain) for chain in sample.evidence]
    region = Box(
        min(box.x1 for box in boxes),
        min(box.y1 for box in boxes),
        max(box.x2 for box in boxes),
        max(box.y2 for box in boxes),
    )
    shown = region.expand_to(config.limits.min_crop_side, sample.image.size)
    return sample.image.crop(shown, config.crop.max_tokens, config.crop.min_tokens)


DIRECT_ARMS: Final[Mapping[ArmName, Callable[[PlayConfig, Case], Image.Image | None] | None]] = {
    "no_tool": None,
    "gt_only": _show_evidence,
    "no_image": lambda config, case: None,
}
"""What an arm shows that is not told of the tool; None for the one that shows the view."""

assert {*CROP_ARMS, *DIRECT_ARMS} == set(get_args(ArmName))
