"""Callbacks: the switch to stage 2, the log of episodes in pictures and text, the progress bar.

All are imported here, so that a YAML can name them by their class name alone.
"""

from __future__ import annotations

from infogap.callbacks.episode_logger import EpisodeLogger
from infogap.callbacks.grounding_stage import GroundingStage
from infogap.callbacks.progress import RewardProgressBar

__all__ = ["EpisodeLogger", "GroundingStage", "RewardProgressBar"]
