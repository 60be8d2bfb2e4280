"""A tiny random Qwen2.5-VL with a byte-level tokenizer, in an ordinary Hugging Face folder."""

from __future__ import annotations

import functools
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from infogap.policy.loading import PolicyConfig, load_policy
from infogap.policy.model import Policy
from infogap.policy.packing import Chunk, Group
from infogap.policy.patches import PATCH, Patches

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<answer>", "</answer>")
HEAD_ROWS = 272  # 256 bytes, 7 special tokens, 6 tags, and 3 rows of padding
IMAGE_TEXT = "<|vision_start|><|image_pad|><|vision_end|>"
MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


def build_tokenizer(special: Sequence[str] = SPECIAL, tags: Sequence[str] = TAGS) -> PreTrainedTokenizerFast:
    """One token a byte, and one for every special token and tag."""
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: number for number, byte in enumerate(bytes_)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in tags])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def build_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    ends = {"bos_token_id": None, "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}
    text: dict[str, Any] = {
        "vocab_size": HEAD_ROWS,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 3, 3]},
        "tie_word_embeddings": False,
        **ends,
    }
    vision: dict[str, Any] = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "window_size": 112,
        "fullatt_block_indexes": [1],
        "out_hidden_size": 64,
        "hidden_act": "silu",
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Weights at which attention, biases and norms all matter: nothing may be wrong and unseen."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.dim() == 1:
            weight.data = 0.3 * noise + (1.0 if "norm" in name or "ln_q" in name else 0.0)
        else:
            weight.data = noise * (1.0 if "embed_tokens" in name else 1.5 / math.sqrt(weight[0].numel()))


@functools.cache
def tiny_folder() -> Path:
    """The folder, written once a session. Not to be changed: see ``tiny_copy``."""
    holder = tempfile.TemporaryDirectory(prefix="infogap_tiny_")
    _KEPT.append(holder)
    folder, tokenizer = Path(holder.name), build_tokenizer()
    model = Qwen2_5_VLForConditionalGeneration(build_config(tokenizer))
    randomise(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    return folder


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def tiny_copy(folder: Path) -> Path:
    """A copy of the folder that a test may spoil."""
    return Path(shutil.copytree(tiny_folder(), folder))


def tiny_policy(**config: Any) -> Policy:
    return load_policy(PolicyConfig(str(tiny_folder()), **config), ("</tool_call>",))


def tiny_image(tokens_wide: int, tokens_high: int, seed: int = 0) -> Patches:
    """An image of noise."""
    grid = (2 * tokens_high, 2 * tokens_wide)
    generator = torch.Generator().manual_seed(seed)
    return Patches(torch.randn(grid[0] * grid[1], 3 * 2 * PATCH**2, generator=generator), grid)


def turn(policy: Policy, text: str, logprobs: Sequence[float] = ()) -> Chunk:
    """A turn that the policy might have sampled."""
    return Chunk(policy.chunk(text).token_ids, sampled=True, logprobs=tuple(logprobs))


def observation(policy: Policy, *images: Patches) -> Chunk:
    """What comes back after a call: a few words and the images."""
    return policy.chunk(f"\nuser{IMAGE_TEXT * len(images)}:", images)


class Separate:
    """The same weights through transformers alone: one sequence at a time, its own attention and positions."""

    def __init__(self) -> None:
        self.model = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_folder(), attn_implementation="sdpa")
        self.model.eval()

    def logits(self, chunks: Sequence[Chunk]) -> Tensor:
        """Logits ``[tokens, vocabulary]`` of chunks one after the other."""
        ids = torch.tensor([[token for chunk in chunks for token in chunk.token_ids]])
        arguments: dict[str, Tensor] = {"input_ids": ids, "mm_token_type_ids": self.kinds(ids)}
        images = [image for chunk in chunks for image in chunk.images]
        if images:
            arguments["pixel_values"] = torch.cat([image.values for image in images])
            arguments["image_grid_thw"] = torch.tensor([(1, *image.grid) for image in images])
        return self.model(**arguments, use_cache=False).logits[0]

    def kinds(self, ids: Tensor) -> Tensor:
        """What transformers calls token types: 1 for an image token."""
        return (ids == self.model.config.image_token_id).int()


def sequences(group: Group) -> Iterator[list[Chunk]]:
    """Every episode of a group with a prompt of its own."""
    for chunks in group.episodes:
        yield [group.prompt, *chunks]


class Script:
    """Makes the policy write given tokens: every episode the same, one token a draw."""

    def __init__(self, policy: Policy, token_ids: Sequence[int]) -> None:
        self.token_ids = list(token_ids)
        self.handle = policy.parts.lm_head.register_forward_hook(self._say)

    def _say(self, _: nn.Module, __: Any, logits: Tensor) -> Tensor:
        forced = torch.zeros_like(logits)
        forced[..., self.token_ids.pop(0)] = 50.0
        return forced
