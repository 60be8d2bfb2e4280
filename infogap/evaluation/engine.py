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

import torch

from infogap.episode.protocol import Protocol
from infogap.evaluation.arms import DIRECT_ARMS, ArmName, Case, PlayConfig
from infogap.evaluation.driver import Driver
from infogap.evaluation.information import InformationGain, Look, answer_text, information_gains
from infogap.evaluation.question import UnreadableRow, View
from infogap.evaluation.seating import Seat, Seating, Table
from infogap.policy.model import Policy
from infogap.policy.packing import Group
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
        seconds: wall time of its batch over the rows and attempts in it; None if several arms were played, which share
            the work, so that none of them has a time of its own.
        answer: the answer; under the benchmark's official prompt, which asks for no tags, the text itself.
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
    seconds: float | None
    answer: str | None
    gain: InformationGain | None = None


class Played(NamedTuple):
    """What came of some rows.

    Attributes:
        outcomes: for each row and view one for every attempt of every arm that the row has what it needs for.
        unreadable: rows whose image cannot be decoded; they have no outcomes.
    """

    outcomes: list[Outcome]
    unreadable: list[UnreadableRow]


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
        self._seating = Seating(policy, protocol, config, seed)

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
        without_view: list[Outcome] = []
        seating = self._seating
        for number, view in enumerate(self.config.views):
            started = time.perf_counter()
            readable, faulty = seating.read_views(readable, view)
            unreadable += faulty
            found = self._play(seating.crop_tables(readable, view), view, started)
            if "no_tool" in self.config.arms:
                found += self._play(seating.direct_tables(readable, view, ("no_tool",)), view, started)
            if number == 0:  # what these arms show does not depend on the view, so they are played once
                arms = [arm for arm in self.config.arms if DIRECT_ARMS.get(arm) is not None]
                without_view = self._play(seating.direct_tables(readable, view, arms), view, started)
            outcomes += found + [replace(outcome, view=view) for outcome in without_view]
            seating.forget_views()
        seating.decoded.release()
        played = {case.question.key for case in readable}
        wanted = [o for o in outcomes if o.arm in self.config.arms and o.case.question.key in played]
        return Played(wanted, unreadable)

    def _play(self, tables: Sequence[Table], view: View, started: float) -> list[Outcome]:
        if not tables:
            return []
        groups = self._sample(tables)
        seconds = None
        if len(self.config.arms) == 1:
            seconds = (time.perf_counter() - started) / (len(tables) * self.config.attempts)
        gains = self._gains(tables, groups) if self.config.information_gain else {}
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
                answer=self._answer(seat),
                gain=gains.get(table.case.question.key) if seat.arm == "own" and seat.attempt == 0 else None,
            )
            for table, group in zip(tables, groups, strict=True)
            for seat, chunks in zip(table.seats, group.episodes, strict=True)
        ]

    def _answer(self, seat: Seat) -> str | None:
        episode = seat.environment.episode
        plain = self.config.prompt == "official" and seat.arm in DIRECT_ARMS
        if episode.answer is None and plain and not episode.truncated:
            return episode.turns[-1].text.rpartition("</think>")[2].strip()
        return episode.answer

    def _sample(self, tables: Sequence[Table]) -> list[Group]:
        """Play the tables to their end."""
        seats = [seat for table in tables for seat in table.seats]
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
        environments, sources = [seat.environment for seat in seats], [seat.sources for seat in seats]
        driver = Driver(self.policy, environments, sources, leaders, self._seating.decoded)
        sampler = Sampler(self.policy, self.config.sampling, limits)
        return sampler.run([table.prompt for table in tables], generators, driver, leaders)

    def _gains(self, tables: Sequence[Table], groups: Sequence[Group]) -> dict[str, InformationGain]:
        """What the first crop of the arm "own" told, by row, with that of the arm "other" as the placebo."""
        looks = []
        for table, group in zip(tables, groups, strict=True):
            chunks = {seat.arm: c for seat, c in zip(table.seats, group.episodes, strict=True) if seat.attempt == 0}
            if "own" in chunks:
                answer = answer_text(table.case.question, self.protocol, official=self.config.prompt == "official")
                looks.append(Look(table.case.question.key, group.prompt, answer, chunks["own"], chunks.get("other")))
        return information_gains(self.policy, self.protocol, looks)


def _generator(*seed: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(*seed))
