"""Callbacks: checkpoints, the switch to stage 2, the log of episodes, the probe of crop dependence, the progress bar.

All are imported here, so that a YAML can name them by their class name alone.
"""

from __future__ import annotations

from infogap.callbacks.crop_dependence import CropDependence
from infogap.callbacks.episode_logger import EpisodeLogger
from infogap.callbacks.grounding_stage import GroundingStage
from infogap.callbacks.progress import RewardProgressBar
from infogap.callbacks.rank_watch import RankWatch
from infogap.callbacks.run_checkpoint import RunCheckpoint

__all__ = ["CropDependence", "EpisodeLogger", "GroundingStage", "RankWatch", "RewardProgressBar", "RunCheckpoint"]
