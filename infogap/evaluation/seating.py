"""From rows to what is played: views, prompts, and an environment for every arm."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from PIL import Image

from infogap.data.images import HighResImage, ImageError
from infogap.episode.environment import Environment
from infogap.episode.protocol import Protocol
from infogap.episode.tool import OwnCrop
from infogap.evaluation.arms import CROP_ARMS, DIRECT_ARMS, ArmName, Case, PlayConfig
from infogap.evaluation.driver import DecodedImages
from infogap.evaluation.question import UnreadableRow, View
from infogap.geometry import Size
from infogap.policy.model import Policy
from infogap.policy.packing import Chunk
from infogap.policy.patches import Patches


@dataclass(frozen=True)
class Seat:
    """One episode that is played.

    Attributes:
        arm: its arm.
        attempt: number of the attempt.
        environment: what it is played against.
        sources: the originals that its crops are cut from.
        follows: place at its table of the episode that it follows to the first crop; None if it follows none.
    """

    arm: ArmName
    attempt: int
    environment: Environment
    sources: tuple[HighResImage, ...] = ()
    follows: int | None = None


@dataclass(frozen=True)
class Table:
    """The episodes of one prompt.

    Attributes:
        case: the row.
        prompt: the prompt.
        seats: the episodes.
    """

    case: Case
    prompt: Chunk
    seats: Sequence[Seat]


class Seating:
    """Prepares rows for play.

    Args:
        policy: cuts images and tokenizes texts.
        protocol: its texts.
        config: arms and views.
        seed: of noise and of random crops.

    Attributes:
        decoded: originals that are decoded.
    """

    def __init__(self, policy: Policy, protocol: Protocol, config: PlayConfig, seed: int) -> None:
        self.policy, self.protocol, self.config, self.seed = policy, protocol, config, seed
        self.decoded = DecodedImages()
        self._views: dict[tuple[HighResImage, int], Patches] = {}
        self._is_sound: WeakKeyDictionary[HighResImage, bool] = WeakKeyDictionary()

    def read_views(self, cases: Sequence[Case], view: View) -> tuple[list[Case], list[UnreadableRow]]:
        """Decode the views.

        Returns:
            The rows whose image can be decoded, without the other image where that one cannot, and the other rows.
        """
        one_each = {case.question.sample.image: case for case in cases}
        # nearly every episode with the tool crops: better now, side by side, than one by one while the model waits
        ahead = self.decoded.first_that_fit(list(one_each)) if self.config.crop_arms else []
        self.decoded.touch(*ahead)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes and scales without the interpreter's lock
            found = list(pool.map(lambda case: self._decoded(case, view, ahead), one_each.values()))
        faults: dict[HighResImage, str | None] = {}
        for case, decoded in zip(one_each.values(), found, strict=True):
            image = case.question.sample.image
            faults[image] = str(decoded) if isinstance(decoded, ImageError) else None
            self._is_sound[image] = faults[image] is None
            if not isinstance(decoded, ImageError):
                self._views[image, case.question.view_tokens(view)] = self.policy.patchifier(decoded)
        readable, unreadable = [], []
        for case in cases:
            fault = faults[case.question.sample.image]
            if fault is not None:
                unreadable.append(case.question.unreadable(fault))
            elif "other" in self.config.arms and not self._is_sound_image(case.other):
                readable.append(replace(case, other=None))
            else:
                readable.append(case)
        return readable, unreadable

    def crop_tables(self, cases: Sequence[Case], view: View) -> list[Table]:
        """A table for each row: for every attempt the arm "own" and those that follow it."""
        arms, tables = self.config.crop_arms, []
        tools = {arm: CROP_ARMS[arm](self.config, cases, self.seed) for arm in arms}
        for case in cases if arms else ():
            image, size = self._view(case, view)
            sample, seats = case.question.sample, list[Seat]()
            for attempt in range(self.config.attempts):
                leader = len(seats)
                for arm in filter(case.can_play, arms):
                    source = case.other if arm == "other" and case.other is not None else sample.image
                    play = Environment(sample, size, self.protocol, tools[arm], self.config.limits)
                    seats.append(Seat(arm, attempt, play, (source,), None if arm == "own" else leader))
            tables.append(Table(case, self._prompt(case, image, tool=True), seats))
        return tables

    def direct_tables(self, cases: Sequence[Case], view: View, arms: Sequence[ArmName]) -> list[Table]:
        """A table for each row and arm: one turn, under the prompt that does not speak of the tool.

        Args:
            cases: the rows.
            view: budget of their views.
            arms: arms without the tool.
        """
        limits, tool = replace(self.config.limits, max_turns=1, max_crops=0), OwnCrop(1, 1)  # that never cuts
        tables = []
        for case in cases:
            for arm in filter(case.can_play, arms):
                show = DIRECT_ARMS[arm]
                image, size = self._view(case, view) if show is None else self._patched(case, show(self.config, case))
                seats = [
                    Seat(arm, attempt, Environment(case.question.sample, size, self.protocol, tool, limits))
                    for attempt in range(self.config.attempts)
                ]
                tables.append(Table(case, self._prompt(case, image, tool=False), seats))
        return tables

    def forget_views(self) -> None:
        """Drop the views, which are large."""
        self._views.clear()

    def _decoded(self, case: Case, view: View, ahead: Sequence[HighResImage]) -> Image.Image | ImageError:
        """A row's view, its original decoded if that is among ``ahead``, or why that fails. Threads call it."""
        image = case.question.sample.image
        try:
            shown = image.view(case.question.view_tokens(view), self.config.min_view_tokens)
            if image in ahead:
                image.decode()
        except ImageError as error:
            return error
        return shown

    def _is_sound_image(self, image: HighResImage | None) -> bool:
        """Whether there is another row's image that can be decoded; it is only tried if it was not before."""
        if image is None:
            return False
        if image not in self._is_sound:
            try:
                image.view(1, 1)
            except ImageError:
                self._is_sound[image] = False
            else:
                self._is_sound[image] = True
        return self._is_sound[image]

    def _view(self, case: Case, view: View) -> tuple[Patches, Size]:
        """The view, cut into patches once for all rows and arms that show it."""
        image, tokens = case.question.sample.image, case.question.view_tokens(view)
        if (image, tokens) not in self._views:
            self._views[image, tokens] = self.policy.patchifier(image.view(tokens, self.config.min_view_tokens))
        return self._views[image, tokens], image.view_size(tokens, self.config.min_view_tokens)

    def _patched(self, case: Case, shown: Image.Image | None) -> tuple[Patches | None, Size]:
        """What an arm shows that has no view; without an image the size is that of the original."""
        original = case.question.sample.image
        if shown is None:
            return None, original.size
        self.decoded.touch(original)
        return self.policy.patchifier(shown), Size(*shown.size)

    def _prompt(self, case: Case, image: Patches | None, *, tool: bool) -> Chunk:
        question, shows = case.question, image is not None
        if self.config.prompt == "protocol":
            sample = question.sample
            text = self.protocol.prompt(sample.question, sample.options, tool=tool, image=shows)
        elif tool:
            text = self.protocol.prompt(question.official_prompt, (), tool=True, image=shows)
        else:
            text = self.protocol.plain_prompt(question.official_prompt, image=shows)
        return self.policy.chunk(text, [] if image is None else [image])
