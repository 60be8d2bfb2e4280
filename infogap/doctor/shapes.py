"""Published shapes of Qwen2.5-VL, for costs before a model has been downloaded.

From the config.json of Qwen/Qwen2.5-VL-3B-Instruct and Qwen/Qwen2.5-VL-7B-Instruct, without what transformers has as
its default.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLConfig

VISION: Final[dict[str, Any]] = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "hidden_act": "silu",
}
SHAPES: Final[dict[str, dict[str, Any]]] = {
    "3b": {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "7b": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
}


def shape_named(folder: Path) -> str | None:
    """The shape that a folder's path names, such as models/Qwen2.5-VL-7B-Instruct; None if it names none."""
    found = re.search(r"qwen2[._-]?5[._-]?vl[._-]?(\d+b)(?![a-z0-9])", str(folder).lower())
    return found[1] if found and found[1] in SHAPES else None


def published_config(shape: str) -> Qwen2_5_VLConfig:
    """Configuration of a shape, without the numbers of special tokens.

    Args:
        shape: "3b" or "7b".
    """
    from transformers import Qwen2_5_VLConfig

    text = SHAPES[shape] | {
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 128000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=VISION | {"out_hidden_size": text["hidden_size"]},
        tie_word_embeddings=text["tie_word_embeddings"],
    )
