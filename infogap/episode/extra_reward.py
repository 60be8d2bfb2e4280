"""A reward of one's own: a class, and a line of the configuration that names it.

``docs/contributing/reward.md`` writes one step by step.
"""

from __future__ import annotations

import math
import re
import traceback
from abc import ABC, abstractmethod
from numbers import Real
from typing import Any, Final, Protocol

from infogap.data.sample import Sample
from infogap.types import Episode

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")

_TAKEN: Final = ("total", "grounding_loss")
"""Names of ``reward/`` and ``weight/`` that are no reward's."""


class Reward(Protocol):
    """One column of the reward."""

    @property
    def name(self) -> str:
        """Name of the column, as in metrics and config."""
        ...

    def __call__(self, episode: Episode, sample: Sample) -> float:
        """Score a finished episode of a sample, without the weight."""
        ...


class ExtraReward(ABC):
    """A further column of the reward, which ``RewardConfig.extra`` names by its ``class_path``.

    A subclass sets ``name`` and defines ``__call__``. It sees text, boxes and the sample, never a tensor. Arguments of
    its constructor are ``init_args`` of the configuration; one that has its own takes ``weight`` and hands it on. Let a
    penalty be a negative score, as that of the format is, and leave the weight positive.

    Args:
        weight: what the score is multiplied by in the total; 0 logs the column and pays nothing. Default 1.0, ours.

    Attributes:
        name: name of the column: letters, digits and underscores.
        weight: as above.
    """

    name: str
    weight: float = 1.0

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    @abstractmethod
    def __call__(self, episode: Episode, sample: Sample) -> float:
        """Score a finished episode of a sample, without the weight.

        Args:
            episode: what the policy wrote and which crops it was given, in pixels of the original.
            sample: the question, with the original (``sample.image.size`` is read without decoding it), the answer and
                the evidence.

        Returns:
            A finite number. The same episode must always get the same one, or a resumed run is another run.
        """


def check_name(reward: Reward) -> str:
    """The name of a reward.

    Args:
        reward: the reward.

    Raises:
        ValueError: if it has none, or one that is no part of a metric's key, or is another metric's.
    """
    name: Any = getattr(reward, "name", None)
    if name is None:
        raise ValueError(f"The reward class {_class_of(reward)} has no name: set its attribute `name`.")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"The reward class {_class_of(reward)} has the name {name!r}, which cannot be part of a metric's key: use "
            "letters, digits and underscores, and begin with a letter."
        )
    if name in _TAKEN or name.endswith("_std"):
        raise ValueError(
            f"The reward class {_class_of(reward)} has the name {name!r}, which another metric has: choose another one."
        )
    return name


def check_weight(name: str, weight: float) -> float:
    """The weight of a reward.

    Args:
        name: the reward's name.
        weight: the weight.

    Raises:
        ValueError: if the weight is not finite.
    """
    if not math.isfinite(weight):
        raise ValueError(f"The weight of the reward {name} is {weight}, but must be a finite number.")
    return weight


def checked_score(reward: Reward, episode: Episode, sample: Sample) -> float:
    """Score an episode: a score that is no number would spoil the whole group, and later the weights.

    Args:
        reward: the reward.
        episode: the finished episode.
        sample: its sample.

    Raises:
        ValueError: if the score is not a finite number, or a reward of one's own raises an error, which is named with
            its place; the run ends at once. An error of this package's own rewards comes as it is.
    """
    try:
        score: Any = reward(episode, sample)
    except Exception as error:
        if not isinstance(reward, ExtraReward):
            raise
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"The reward {reward.name} of the sample {sample.key!r} raised {said}{_place_of(error)}: mend "
            f"{_class_of(reward)}."
        ) from error
    if not isinstance(score, Real) or not math.isfinite(score):
        raise ValueError(
            f"The reward {reward.name} of the sample {sample.key!r} is {score!r}, but must be a finite number: mend "
            f"{_class_of(reward)}."
        )
    return float(score)


def _place_of(error: Exception) -> str:
    """The last line of the reward's file that ran, as the end of a clause; empty if none did."""
    called = traceback.extract_tb(error.__traceback__)[1:]
    own = [frame for frame in called if frame.filename == called[0].filename]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


def _class_of(reward: object) -> str:
    return f"{type(reward).__module__}.{type(reward).__qualname__}"
