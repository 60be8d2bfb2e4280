"""Plays rows under all arms at once: a prompt is encoded once a row and view, and what arms share is sampled once.

All crop arms of a row are branches of one group. They follow the arm "own" to its first crop, token for token, and part
there; so an arm replaces pixels and leaves the text before them alone, greedy or sampled. Every attempt draws from the
same random numbers under each arm and view (common random numbers), which narrows the differences between arms.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple
from weakref import WeakSet

import torch
from PIL import Image

from infogap.data.images import HighResImage, ImageError
from infogap.episode.environment import Environment
from infogap.episode.protocol import Protocol
from infogap.episode.tool import OwnCrop
from infogap.evaluation.arms import CROP_ARMS, DIRECT_ARMS, ArmName, Case, PlayConfig
from infogap.evaluation.driver import Driver
from infogap.evaluation.information import InformationGain, Look, answer_text, information_gains
from infogap.evaluation.question import UnreadableRow, View
from infogap.geometry import Size
from infogap.policy.model import Policy
from infogap.policy.packing import Chunk, Group
from infogap.policy.patches import Patches
from infogap.policy.sampler import Sampler, TokenLimits
from infogap.rollout import derive_seed
from infogap.types import Episode


@dataclass(frozen=True)
class Outcome:
    """One episode of one row.

    Attributes:
        case: the row.
        view: budget of its view.
        arm: the arm.
        attempt: number of the attempt.
        episode: what happened.
        view_tokens: visual tokens of the view.
        crop_tokens: visual tokens of all crops.
        policy_tokens: sampled tokens, those that it shares with the arm that it followed among them.
        seconds: wall time of its batch, over the rows in it; arms with and without the tool are timed apart.
        gain: what the first own crop told; None where it was not measured.
    """

    case: Case
    view: View
    arm: ArmName
    attempt: int
    episode: Episode
    view_tokens: int
    crop_tokens: int
    policy_tokens: int
    seconds: float
    gain: InformationGain | None = None


class Played(NamedTuple):
    """What came of some rows.

    Attributes:
        outcomes: for each row and view one for every attempt of every arm that the row has what it needs for.
        unreadable: rows whose image cannot be decoded; they have no outcomes.
    """

    outcomes: list[Outcome]
    unreadable: list[UnreadableRow]


@dataclass(frozen=True)
class _Seat:
    """One episode that is being played; ``follows`` is the place in its group of the one that it follows."""

    arm: ArmName
    attempt: int
    environment: Environment
    follows: int | None = None


@dataclass(frozen=True)
class _Table:
    """The episodes of one prompt."""

    case: Case
    prompt: Chunk
    seats: Sequence[_Seat]


class ArmPlayer:
    """Plays rows.

    Args:
        policy: the policy; its weights are not changed.
        protocol: its texts.
        config: arms, views, and how episodes are played.
        seed: of sampling, of noise and of random crops. What is drawn depends on it, on the row and on the attempt.
    """

    def __init__(self, policy: Policy, protocol: Protocol, config: PlayConfig, seed: int = 0) -> None:
        self.policy, self.protocol, self.config, self.seed = policy, protocol, config, seed
        self._views: dict[tuple[HighResImage, int], Patches] = {}
        self._broken: WeakSet[HighResImage] = WeakSet()

    @torch.no_grad()
    def play(self, cases: Sequence[Case]) -> Played:
        """Play some rows side by side under every arm and view.

        Raises:
            ValueError: if a view is "selected" and a row has none.
        """
        self.policy.eval()
        outcomes: list[Outcome] = []
        unreadable: list[UnreadableRow] = []
        readable: Sequence[Case] = cases
        for view in self.config.views:
            started = time.perf_counter()
            readable = self._read_views(readable, view, unreadable)
            for tables in (self._crop_tables, self._direct_tables):
                outcomes += self._play_tables(tables(readable, view), view, started)
                started = time.perf_counter()
            self._views.clear()
        for case in cases:
            case.release()
        return Played([outcome for outcome in outcomes if outcome.arm in self.config.arms], unreadable)

    def _read_views(self, cases: Sequence[Case], view: View, unreadable: list[UnreadableRow]) -> list[Case]:
        """The rows whose image can be decoded, without the other image where that one cannot; notes why not."""
        readable = []
        for case in cases:
            try:
                self._view(case, view)
            except ImageError as error:
                unreadable.append(case.question.unreadable(str(error)))
                self._broken.add(case.question.sample.image)
            else:
                readable.append(case)
        return [replace(case, other=None) if case.other in self._broken else case for case in readable]

    def _crop_tables(self, cases: Sequence[Case], view: View) -> list[_Table]:
        """A table for each row: for every attempt the arm "own" and those that follow it."""
        arms, tables = self.config.crop_arms, []
        tools = {arm: CROP_ARMS[arm](self.config, cases, self.seed) for arm in arms}
        for case in cases if arms else ():
            image, size = self._view(case, view)
            seats: list[_Seat] = []
            for attempt in range(self.config.attempts):
                leader = len(seats)
                for arm in filter(case.can_play, arms):
                    play = Environment(case.question.sample, size, self.protocol, tools[arm], self.config.limits)
                    seats.append(_Seat(arm, attempt, play, None if arm == "own" else leader))
            tables.append(_Table(case, self._prompt(case, image, tool=True), seats))
        return tables

    def _direct_tables(self, cases: Sequence[Case], view: View) -> list[_Table]:
        """A table for each row and arm: one turn, under the prompt that does not speak of the tool."""
        limits, tool = replace(self.config.limits, max_turns=1, max_crops=0), OwnCrop(1, 1)  # that never cuts
        tables = []
        for case in cases:
            for arm in filter(case.can_play, self.config.direct_arms):
                show = DIRECT_ARMS[arm]
                image, size = self._view(case, view) if show is None else self._patched(case, show(self.config, case))
                seats = [
                    _Seat(arm, attempt, Environment(case.question.sample, size, self.protocol, tool, limits))
                    for attempt in range(self.config.attempts)
                ]
                tables.append(_Table(case, self._prompt(case, image, tool=False), seats))
        return tables

    def _play_tables(self, tables: Sequence[_Table], view: View, started: float) -> list[Outcome]:
        if not tables:
            return []
        groups = self._sample(tables)
        gains = self._gains(tables, groups) if self.config.information_gain else {}
        questions = len({table.case.question.key for table in tables})
        seconds = (time.perf_counter() - started) / questions
        return [
            Outcome(
                case=table.case,
                view=view,
                arm=seat.arm,
                attempt=seat.attempt,
                episode=seat.environment.episode,
                view_tokens=sum(image.tokens for image in group.prompt.images),
                crop_tokens=sum(image.tokens for chunk in chunks for image in chunk.images),
                policy_tokens=sum(len(chunk.token_ids) for chunk in chunks if chunk.sampled),
                seconds=seconds,
                gain=gains.get(table.case.question.key) if seat.arm == "own" and seat.attempt == 0 else None,
            )
            for table, group in zip(tables, groups, strict=True)
            for seat, chunks in zip(table.seats, group.episodes, strict=True)
        ]

    def _sample(self, tables: Sequence[_Table]) -> list[Group]:
        """Play the tables to their end."""
        seats = [seat for table in tables for seat in table.seats]
        images = [table.case.question.sample.image for table in tables for _ in table.seats]
        starts = itertools.accumulate((len(table.seats) for table in tables), initial=0)
        leaders = {
            start + place: start + seat.follows
            for start, table in zip(starts, tables, strict=False)
            for place, seat in enumerate(table.seats)
            if seat.follows is not None
        }
        limits = TokenLimits(self.config.limits.max_turn_tokens, self.config.limits.max_episode_tokens)
        generators = [
            [_generator(self.seed, table.case.question.key, seat.attempt) for seat in table.seats] for table in tables
        ]
        driver = Driver(self.policy, [seat.environment for seat in seats], images, leaders)
        sampler = Sampler(self.policy, self.config.sampling, limits)
        return sampler.run([table.prompt for table in tables], generators, driver, leaders)

    def _gains(self, tables: Sequence[_Table], groups: Sequence[Group]) -> dict[str, InformationGain]:
        """What the first crop of the arm "own" told, by row, with that of the arm "other" as the placebo."""
        looks = []
        for table, group in zip(tables, groups, strict=True):
            chunks = {seat.arm: c for seat, c in zip(table.seats, group.episodes, strict=True) if seat.attempt == 0}
            if "own" in chunks:
                answer = answer_text(table.case.question, self.protocol, official=self.config.prompt == "official")
                looks.append(Look(table.case.question.key, group.prompt, answer, chunks["own"], chunks.get("other")))
        return information_gains(self.policy, self.protocol, looks)

    def _view(self, case: Case, view: View) -> tuple[Patches, Size]:
        """The view, cut into patches once for all rows and arms that show it."""
        image, tokens = case.question.sample.image, case.question.view_tokens(view)
        if (image, tokens) not in self._views:
            self._views[image, tokens] = self.policy.patchifier(image.view(tokens, self.config.min_view_tokens))
        return self._views[image, tokens], image.view_size(tokens, self.config.min_view_tokens)

    def _patched(self, case: Case, shown: Image.Image | None) -> tuple[Patches | None, Size]:
        """What an arm shows that has no view; without an image the size is that of the original."""
        if shown is None:
            return None, case.question.sample.image.size
        return self.policy.patchifier(shown), Size(*shown.size)

    def _prompt(self, case: Case, image: Patches | None, *, tool: bool) -> Chunk:
        question, official = case.question, self.config.prompt == "official"
        asked = (question.official_prompt, ()) if official else (question.sample.question, question.sample.options)
        text = self.protocol.prompt(*asked, tool=tool, image=image is not None)
        return self.policy.chunk(text, [] if image is None else [image])


def _generator(*seed: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(*seed))
