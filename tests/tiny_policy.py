"""The tiny policy, changed so that its random episodes hold calls and answers, so that there is something to learn.

Whole calls and whole answers are single tokens, and the head favours them: without that a random policy writes noise,
every episode earns the same, and no gradient flows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny
from transformers import Qwen2_5_VLForConditionalGeneration

from infogap.data.needle import NeedleConfig
from infogap.episode.environment import EpisodeLimits
from infogap.episode.protocol import Protocol, ProtocolConfig
from infogap.geometry import Frame, FramedBox
from infogap.rollout import CropConfig, RolloutConfig, ViewConfig

BOXES = ((0, 0, 500, 500), (400, 400, 900, 900), (100, 0, 1000, 1000))
ANSWERS = tuple(f"<answer>{digit}</answer>" for digit in "0123456789")
SCENES = NeedleConfig(sides=(224,), signs=(2, 2), clutter=0)
TEXTS = {
    "tool_system_prompt": "Zoom.",
    "direct_system_prompt": "Answer.",
    "option_template": "",
    "tool_reminder": "",
    "crop_text": "",
    "error_text": "Bad.",
    "frame": Frame.RELATIVE_1000,
}
PLAIN = Protocol(ProtocolConfig(**TEXTS))
CALLS = tuple(PLAIN.call_text(FramedBox(*box, Frame.RELATIVE_1000)) for box in BOXES)
TURN_ENDS = (*CALLS, *ANSWERS)


def tiny_protocol() -> ProtocolConfig:
    """Short texts; every call and every answer ends the turn."""
    return ProtocolConfig(**TEXTS, turn_end_texts=TURN_ENDS)


def tiny_rollout(**changes: Any) -> RolloutConfig:
    """Views and crops of 4 tokens, and at most 10 policy tokens."""
    defaults: dict[str, Any] = {
        "group_size": 4,
        "view": ViewConfig(mode="budget", budget=4),
        "crop": CropConfig(max_tokens=4, min_tokens=4),
        "limits": EpisodeLimits(max_turns=3, max_crops=1, max_turn_tokens=4, max_episode_tokens=10),
    }
    return RolloutConfig(**(defaults | changes))


def write_tiny_policy(folder: Path, seed: int = 0) -> Path:
    """Write the policy as an ordinary Hugging Face folder."""
    tokenizer = tiny.build_tokenizer(tags=(*TURN_ENDS, *tiny.TAGS))
    config = tiny.build_config(tokenizer)
    config.text_config.vocab_size = len(tokenizer)
    model = Qwen2_5_VLForConditionalGeneration(config)
    tiny.randomise(model, seed)
    favoured = tokenizer.convert_tokens_to_ids(list(TURN_ENDS))
    model.lm_head.weight.data *= 0.3
    model.lm_head.weight.data[favoured] *= 6.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": tiny.MEAN, "image_std": tiny.STD}))
    return folder
