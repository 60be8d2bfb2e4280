"""How a policy is played: as its run says, as the shipped one was taught, or by defaults; a flag wins over all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from jsonargparse import ArgumentParser, get_loader

from infogap.data.images import HighResImage
from infogap.episode.environment import EpisodeLimits
from infogap.episode.protocol import ProtocolConfig
from infogap.geometry import Frame, visual_tokens
from infogap.rollout import CropConfig, RolloutConfig, ViewConfig

CONFIG_NAME: Final = "config.yaml"
"""What ``infogap fit`` calls the configuration in a run's folder."""

MOST_VIEW_TOKENS: Final = 1024
"""LFPC section 6: the smaller of the two views that policies are evaluated at."""

MOST_TOKENS: Final = 300_000
"""Ours: an image of the 200 million pixels that `HighResImage` allows has some 255,000."""

VIEW_SHARE: Final = 4
"""The image's own visual tokens over the view's: half of each side. Ours. For needle scenes of 448 pixels a side that
is a view of 64 tokens, where the views that resolution selection found have 68 in the mean (README)."""


class SettingsError(ValueError):
    """A configuration that says nothing of how to play; the message names the file."""


@dataclass(frozen=True)
class Settings:
    """How to play.

    Attributes:
        protocol: the texts.
        rollout: views, crops, limits and sampling.
        origin: where both come from, in words.
    """

    protocol: ProtocolConfig
    rollout: RolloutConfig
    origin: str


def default_settings() -> Settings:
    """Those of a run that sets nothing."""
    return Settings(ProtocolConfig(), RolloutConfig(), "defaults, for want of a run's config.yaml")


def needle_settings() -> Settings:
    """Those that the shipped policy was taught with: ``configs/protocol/needle.yaml`` and ``configs/stage1.yaml``."""
    protocol = ProtocolConfig(
        tool_system_prompt="Zoom with image_zoom_in_tool (box 0-1000) or answer.",
        direct_system_prompt="Answer.",
        question_template="{question}{image}",
        option_template="",
        tool_reminder="",
        frame=Frame.RELATIVE_1000,
        coordinate_step=20,
        crop_text="",
        error_text="Bad call.",
    )
    rollout = RolloutConfig(
        crop=CropConfig(max_tokens=25, min_tokens=4),
        limits=EpisodeLimits(max_turns=2, max_crops=1, max_turn_tokens=24, max_episode_tokens=40),
    )
    return Settings(protocol, rollout, "as the shipped policy was taught")


def settings_beside(checkpoint: Path) -> Settings | None:
    """Those of the run that a checkpoint is of; None if its configuration is not there."""
    for folder in (checkpoint.parent, checkpoint.parent.parent):  # the latter if it is in a folder `checkpoints`
        if (folder / CONFIG_NAME).is_file():
            return read_settings(folder / CONFIG_NAME)
    return None


def read_settings(path: Path) -> Settings:
    """Those of a configuration for ``infogap fit``.

    Args:
        path: a YAML file with ``model.protocol`` and ``model.rollout``; what it leaves out has its default.

    Raises:
        SettingsError: if it cannot be read, or says what there is not.
    """
    model = _read_yaml(path).get("model")
    if not isinstance(model, dict):
        raise SettingsError(f"{path} has no part 'model': give the config.yaml of a run of `infogap fit`.")
    given = {name: model[name] for name in ("protocol", "rollout") if model.get(name) is not None}
    if isinstance(given.get("protocol"), str):  # a file beside the configuration, as in configs/stage1.yaml
        given["protocol"] = _read_yaml(path.parent / given["protocol"])
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--protocol", type=ProtocolConfig, default=ProtocolConfig())
    parser.add_argument("--rollout", type=RolloutConfig, default=RolloutConfig())
    try:
        # jsonargparse 4.49 has a new name for it
        instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
        found = instantiate(parser.parse_object(given))
    except Exception as error:  # jsonargparse's own, or a ValueError of the classes
        from infogap.parser.messages import explain  # imports Lightning

        raise SettingsError(f"{path} cannot be used, {explain(str(error))}") from error
    return Settings(found.protocol, found.rollout, f"as in {path}")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = get_loader("yaml")(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise SettingsError(f"{path} cannot be read ({reason}): give the config.yaml of a run.") from error
    except Exception as error:  # of PyYAML, which is no dependency of ours
        raise SettingsError(f"{path} is no YAML ({' '.join(str(error).split()):.200}): correct it.") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{path} holds no settings: give the config.yaml of a run of `infogap fit`.")
    return content


def adjusted(
    rollout: RolloutConfig,
    view_tokens: int | None = None,
    crop_tokens: int | None = None,
    limits: Mapping[str, int] = MappingProxyType({}),
    temperature: float = 0.0,
) -> RolloutConfig:
    """One episode, with what the command line says.

    Args:
        rollout: of the settings.
        view_tokens: budget of the view in visual tokens; None leaves it.
        crop_tokens: most visual tokens of a crop; None leaves them.
        limits: fields of `EpisodeLimits` and their values.
        temperature: of sampling; 0 is greedy.

    Raises:
        SettingsError: if a value of a flag is out of range.
        ValueError: if a limit is out of range, or contradicts another one.
    """
    for flag, tokens in (("--view-tokens", view_tokens), ("--crop-tokens", crop_tokens)):
        if tokens is not None and tokens < 1:
            raise SettingsError(f"{flag} is {tokens}: give at least 1.")
        if tokens is not None and tokens > MOST_TOKENS:
            raise SettingsError(f"{flag} is {tokens}: give at most {MOST_TOKENS}, which no image has.")
    if not math.isfinite(temperature):
        raise SettingsError(f"--temperature is {temperature}: give 0 (greedy) or a positive number.")
    view, crop = rollout.view, rollout.crop
    if view_tokens is not None:
        view = ViewConfig("budget", view_tokens, min(view.min_tokens, view_tokens))
    if crop_tokens is not None:
        crop = CropConfig(crop_tokens, min(crop.min_tokens, crop_tokens))
    sampling = replace(rollout.sampling, temperature=temperature)
    limited = replace(rollout.limits, **dict[str, Any](limits))
    return replace(rollout, group_size=1, view=view, crop=crop, limits=limited, sampling=sampling)


def gap_tokens(image: HighResImage, least: int) -> int:
    """Budget of the view where it would be selected, which a lone image has no manifest for: a part of its own tokens.

    Args:
        image: the original.
        least: fewest visual tokens of a view.
    """
    return max(least, min(MOST_VIEW_TOKENS, visual_tokens(image.view_size(None)) // VIEW_SHARE))
