"""Qwen2.5-VL in the sizes that a step is measured at, with random weights, and the arithmetic of its update."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from infogap.doctor.shapes import SHAPES, published_config
from infogap.policy.loading import NEEDLE_POLICY
from infogap.policy.packing import Group
from infogap.policy.patches import Patches

NAMES = ("needle", *SHAPES)


def read_tokenizer() -> PreTrainedTokenizerBase:
    """The small policy's tokenizer, for every shape: only the number of tokens counts."""
    return AutoTokenizer.from_pretrained(NEEDLE_POLICY, local_files_only=True)


def build_config(shape: str, tokenizer: PreTrainedTokenizerBase) -> Qwen2_5_VLConfig:
    """Configuration of a shape, with the special tokens of the small policy's tokenizer."""
    if shape == "needle":
        return Qwen2_5_VLConfig.from_pretrained(NEEDLE_POLICY, local_files_only=True)
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("endoftext", "im_end", "image_pad")}
    ids |= {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("video_pad", "vision_start")}
    config = published_config(shape)
    config.image_token_id, config.video_token_id = ids["image_pad"], ids["video_pad"]
    config.vision_start_token_id = ids["vision_start"]
    config.vision_end_token_id = tokenizer.convert_tokens_to_ids("<|vision_end|>")
    text = config.text_config
    text.bos_token_id, text.eos_token_id, text.pad_token_id = ids["endoftext"], ids["im_end"], ids["endoftext"]
    return config


def build_model(
    config: Qwen2_5_VLConfig, dtype: str, device: str, attention: str | dict[str, str], seed: int
) -> Qwen2_5_VLForConditionalGeneration:
    """A model with random weights, the same ones for a seed, created where and as they stay."""
    torch.manual_seed(seed)
    with torch.device(device):
        return Qwen2_5_VLForConditionalGeneration._from_config(
            config, dtype=getattr(torch, dtype), attn_implementation=attention
        )


@dataclass(frozen=True)
class Costs:
    """Multiplications and additions of an update: twice the multiplications of its forward, times its passes.

    A forward is one pass; the gradient of what a layer is given is another, and that of its weights a third. Work that
    is done twice to save memory counts once.

    Attributes:
        language: layers of the language model without attention.
        attention: attention of the language model.
        head: the language-model head, over sampled tokens only.
        vision: the vision tower.
    """

    language: float
    attention: float
    head: float
    vision: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.language + self.attention + self.head + self.vision


def update_costs(config: Qwen2_5_VLConfig, groups: Sequence[Group], *, lora: bool) -> Costs:
    """Cost of one update on some groups, every prompt counted once, as it is packed."""
    text, vision = config.text_config, config.vision_config
    width, heads = text.hidden_size, text.num_attention_heads
    side = width // heads
    layer = width * side * 2 * (heads + text.num_key_value_heads) + 3 * width * text.intermediate_size
    passes = 2 if lora else 3
    tokens = sum(group.tokens for group in groups)
    sampled = sum(len(c.token_ids) for g in groups for episode in g.episodes for c in episode if c.sampled)
    pairs = sum(map(_visible_pairs, groups))
    images = [image for group in groups for image in _images(group)]
    # with adapters the tower is frozen, and the rollout has encoded the images already
    tower = 0.0 if lora else sum(_tower_cost(vision, image) for image in images)
    return Costs(
        language=2.0 * passes * text.num_hidden_layers * layer * tokens,
        attention=2.0 * 3 * text.num_hidden_layers * 2 * heads * side * pairs,
        head=2.0 * passes * width * text.vocab_size * sampled,
        vision=2.0 * 3 * tower,
    )


def _images(group: Group) -> Iterable[Patches]:
    yield from group.prompt.images
    for episode in group.episodes:
        for chunk in episode:
            yield from chunk.images


def _visible_pairs(group: Group) -> int:
    """Pairs of a query and a key that it sees."""
    prompt = len(group.prompt.token_ids)
    lengths = [sum(len(chunk.token_ids) for chunk in episode) for episode in group.episodes]
    return prompt * (prompt + 1) // 2 + sum(own * prompt + own * (own + 1) // 2 for own in lengths)


def _tower_cost(vision: Any, image: Patches) -> float:
    """Multiplications of one image's forward through the tower."""
    patches, width = image.grid[0] * image.grid[1], vision.hidden_size
    window = (vision.window_size // vision.patch_size) ** 2
    full = len(vision.fullatt_block_indexes)
    seen = full * patches + (vision.depth - full) * min(window, patches)
    merged = 4 * width
    ends = patches * 1176 * width + image.tokens * merged * (merged + vision.out_hidden_size)
    return ends + patches * (vision.depth * (4 * width**2 + 3 * width * vision.intermediate_size) + 2 * width * seen)
