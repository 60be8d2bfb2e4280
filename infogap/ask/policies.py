"""Which policy is asked: the shipped one, a model folder, or a checkpoint on the model that it was trained from."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import torch

from infogap.ask.settings import Settings, default_settings, needle_settings, read_settings, settings_beside
from infogap.policy.checkpoint import Checkpoint, is_directory_checkpoint, read_run_checkpoint
from infogap.policy.checkpoint_folder import FOLDER, has_checkpoint, newest_checkpoint
from infogap.policy.loading import NEEDLE_POLICY, PolicyConfig, check_folder, load_policy
from infogap.policy.model import Policy
from infogap.policy.vocabulary import PolicyError
from infogap.policy.weights import check_base, load_checkpoint, read_config

Dtype = Literal["bfloat16", "float32"]

SHIPPED: Final = ("shipped", "needle")
"""Words for the small policy that comes with the package."""


@dataclass(frozen=True)
class FoundPolicy:
    """A policy that is there and not loaded yet.

    Attributes:
        name: what to call it.
        config: what it is made of.
        settings: how it is played.
        source: the checkpoint whose weights it has; None: those of its folder.
        checkpoint: the same, opened.
    """

    name: str
    config: PolicyConfig
    settings: Settings
    source: Path | None = None
    checkpoint: Checkpoint | None = None

    def load(self, device: torch.device) -> Policy:
        """Load it, to be played and not trained.

        Raises:
            PolicyError: if a file is damaged or missing, or the checkpoint is of another model.
        """
        config = replace(self.config, gradient_checkpointing=False)
        policy = load_policy(config, self.settings.protocol.turn_end_texts)
        if self.checkpoint is not None and self.source is not None:
            check_base(policy, self.checkpoint, self.source, config.folder)
            load_checkpoint(policy, self.checkpoint, self.source)
        return policy.requires_grad_(False).to(device)


def find_policy(word: str, base: Path | None, dtype: Dtype | None, settings: Path | None) -> FoundPolicy:
    """Find what was named.

    Args:
        word: "shipped", a model folder, a checkpoint, or the folder of a run, which stands for its newest checkpoint.
        base: the model folder that a checkpoint was trained from; None: the one that it names.
        dtype: type of the weights; None: that of the run, or that in which a model folder stores them.
        settings: a configuration to play by; None: see `infogap.ask.settings`.

    Raises:
        ValueError: if there is no such policy, or its settings cannot be read.
    """
    chosen = None if settings is None else read_settings(settings)
    path = Path(word)
    if word in SHIPPED:
        config = PolicyConfig(dtype=dtype or "float32")
        return FoundPolicy("the shipped needle policy", config, chosen or needle_settings())
    if (path / "config.json").is_file():
        check_folder(path)
        config = PolicyConfig(word, dtype or _stored_dtype(path))
        return FoundPolicy(word, config, chosen or _settings_of(path))
    source = _newest(path) if path.is_dir() and not is_directory_checkpoint(path) else path
    checkpoint = read_run_checkpoint(source)
    config = read_config(checkpoint, source, base)
    name = f"{source}, rollout step {checkpoint.metadata.get('rollout_step', 'unknown')}"
    played = chosen or settings_beside(source) or _settings_of(config.folder)
    return FoundPolicy(name, replace(config, dtype=dtype or config.dtype), played, source, checkpoint)


def _newest(folder: Path) -> Path:
    """The newest checkpoint of a run."""
    for place in (folder / FOLDER, folder):
        if has_checkpoint(place):
            return newest_checkpoint(place)
    raise PolicyError(
        f"The folder {str(folder)!r} holds neither a model nor a complete checkpoint: give a model folder, a "
        "checkpoint of `infogap fit`, or the folder of its run."
    )


def _settings_of(folder: Path) -> Settings:
    """Without a run's configuration, what a model of a folder is played with."""
    return needle_settings() if folder.resolve() == NEEDLE_POLICY else default_settings()


def _stored_dtype(folder: Path) -> Dtype:
    """Type that a model folder names for its weights; nothing is lost in it, and half of the memory may be saved."""
    config = json.loads((folder / "config.json").read_text())
    return "bfloat16" if "bfloat16" in (config.get("dtype"), config.get("torch_dtype")) else "float32"
