"""One episode of a policy on one image, played as training and evaluation play theirs."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace

import torch

from infogap.ask.asked import AskError
from infogap.ask.policies import FoundPolicy
from infogap.ask.settings import gap_tokens
from infogap.data.sample import Sample
from infogap.episode.matching import match_answer
from infogap.episode.protocol import Protocol
from infogap.pictures.record import EpisodeRecord, records_of
from infogap.pictures.record_file import json_line, record_line
from infogap.policy.memory import MemoryShortageError
from infogap.policy.model import Policy
from infogap.rollout import GroupRollout, Rollout, RolloutConfig


@dataclass(frozen=True)
class Played:
    """An episode, and what it took.

    Attributes:
        policy: what to call the policy.
        settings: where texts and limits come from, in words.
        record: the episode.
        load_seconds: wall time of loading the policy.
        play_seconds: wall time of the episode, from the compressed image to the answer.
    """

    policy: str
    settings: str
    record: EpisodeRecord
    load_seconds: float
    play_seconds: float

    @property
    def right(self) -> bool | None:
        """Whether the answer is right, by the rules of training; None if the right one is not known."""
        record = self.record
        if record.expected_answer is None:
            return None
        return match_answer(record.answer, record.expected_answer, record.options)

    @property
    def line(self) -> str:
        """A line of JSON: that of a run's episode, and what is only known here."""
        values = json.loads(record_line(self.record)) | {"policy": self.policy, "settings": self.settings}
        seconds = {"load_seconds": self.load_seconds, "play_seconds": self.play_seconds}
        return json_line(values | {"right": self.right} | seconds)


def ask(
    found: FoundPolicy,
    rollout: RolloutConfig,
    sample: Sample,
    device: torch.device,
    *,
    direct: bool = False,
    expected: bool = True,
    seed: int = 0,
    number: int = 0,
) -> Played:
    """Load a policy and play one episode.

    Args:
        found: the policy.
        rollout: how to play, with groups of one episode.
        sample: the image and the question.
        device: where to play.
        direct: without the tool.
        expected: whether the sample's answer is the right one; otherwise nobody knows it.
        seed: of sampling.
        number: of the episode among those of one question.

    Raises:
        AskError: if the episode may need more memory than there is.
        ValueError: if the policy cannot be loaded, or the image cannot be decoded.
    """
    started = time.perf_counter()
    policy = found.load(device)
    loaded = time.perf_counter()
    try:
        group = play(policy, Protocol(found.settings.protocol), rollout, sample, direct=direct, seed=seed)
    except MemoryShortageError as error:  # which speaks of a configuration
        raise AskError(
            f"{str(error).partition(':')[0]}: lower --crop-tokens, --view-tokens, --max-turns, --max-crops or "
            "--max-episode-tokens."
        ) from error
    finished = time.perf_counter()
    record = records_of(group, [{}], [None])[0]
    record = replace(record, episode=number, expected_answer=record.expected_answer if expected else None)
    return Played(found.name, found.settings.origin, record, loaded - started, finished - loaded)


def find_device(name: str | None) -> torch.device:
    """The device of that name; None: the GPU if there is one.

    Raises:
        AskError: if there is none.
    """
    chosen = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(chosen)
        torch.zeros(1, device=device).cpu()  # the device `meta` holds no values
    except (RuntimeError, AssertionError) as error:  # the latter from a torch that was built without it
        reason = str(error).splitlines()[0].strip(" .")
        raise AskError(f"--device {chosen!r} cannot be used here ({reason:.120}): give cpu, or cuda.") from error
    return device


def play(
    policy: Policy, protocol: Protocol, rollout: RolloutConfig, sample: Sample, *, direct: bool, seed: int
) -> GroupRollout:
    """Play one episode by `Rollout`; a view that would be selected gets the budget of `gap_tokens`.

    Args:
        policy: the policy, on its device.
        protocol: the texts.
        rollout: how to play, with groups of one episode.
        sample: the image and the question.
        direct: without the tool.
        seed: of sampling.
    """
    if rollout.view.mode == "selected":
        sample = replace(sample, view_tokens=gap_tokens(sample.image, rollout.view.min_tokens))
    return Rollout(policy, protocol, rollout, direct=direct).run([sample], (seed,))[0]
