"""Memory and time that the recipes in configs/ are expected to take, by arithmetic: nothing is run.

    python tests/benchmarks/recipe_budget.py

prints the table of the README. What is counted, a GPU (bytes a number in brackets):

* weights: trained ones in float32 [4] with gradients [4] and the moments of AdamW [8], over the GPUs if sharded. Frozen
  ones [2].
* playing: sharded, all weights gathered in bfloat16 [2], and given back before the update. Visual tokens of all images
  of the step, kept for the update [2], since the tower is frozen. Keys and values of as many groups as fit into 70 % of
  the rest, which makes the waves. A token has ``2 * layers * key heads * 128`` numbers [2].
* update: the input of every layer of a row [2], and inside one layer some ``10 * hidden + 6 * intermediate`` numbers a
  token [2] while it is computed again; three float32 copies of a slice of logits. Sharded, the gathered embeddings and
  head [2] and two gathered layers.
* a checkpoint: weights and moments of what is trained [12], and the frozen weights as they are [2].
* memory of the machine: every process loads the whole policy in the type of its weights before it is sharded, and holds
  the patches of the step's images, 18,816 bytes a visual token.

Time of a step: the update computes ``8 * weights * tokens`` (forward 2, backward 4, forward again 2; adapters need no
gradient of the weights below them: 6), at 40 % of 989 Tflop/s. Playing reads weights and the cache once for each token
of a wave's longest episode, at 60 % of 3.35 TB/s, and encodes prompts and crops at 40 %. What is assumed of the
episodes stands below. Peak rates are those of an H100 SXM by NVIDIA's data sheet; the shares are what the project aims
at, and no GPU has measured them yet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from model_shapes import SHAPES, build_config, read_tokenizer
from transformers import Qwen2_5_VLForConditionalGeneration

from infogap.policy.logprobs import SLICE_LOGITS

GIB = 1 << 30
MATMUL, COPY = 0.4 * 989e12, 0.6 * 3.35e12
PROMPT, EPISODE_TEXT, CROPS, CROP = 1100, 300, 1.0, 600
"""A prompt of 1,100 tokens, and episodes of 300 policy tokens and one crop of 600."""
LONGEST, SLOT = 1024, 2048 + 4 * (1024 + 64)
"""The longest episode of a wave writes 1,024 tokens; there is room for as many as the limits allow."""
PROMPTS, GROUP, ROW = 256, 16, 16384


@dataclass(frozen=True)
class Recipe:
    """One way to train a model."""

    name: str
    shape: str
    gpus: int
    sharded: bool
    lora: bool
    prompt: int = PROMPT
    row: int = ROW


RECIPES = (
    Recipe("3b + fsdp", "3b", 1, sharded=True, lora=False),
    Recipe("3b + lora", "3b", 1, sharded=False, lora=True),
    Recipe("3b + fsdp", "3b", 8, sharded=True, lora=False),
    Recipe("7b + lora", "7b", 1, sharded=False, lora=True),
    Recipe("7b + lora + ddp", "7b", 8, sharded=False, lora=True),
    Recipe("7b + lora + fsdp", "7b", 8, sharded=True, lora=True),
    Recipe("7b + fsdp", "7b", 8, sharded=True, lora=False),
    Recipe("7b + fsdp, paper/control", "7b", 8, sharded=True, lora=False, prompt=16460, row=32768),
    Recipe("7b + fsdp, 4 machines", "7b", 32, sharded=True, lora=False),
)


@dataclass(frozen=True)
class Sizes:
    """Numbers of weights: language model with its head, tower, one layer, embeddings and head, adapters of rank 64."""

    language: int
    tower: int
    layer: int
    ends: int
    adapters: int


def sizes_of(shape: str) -> Sizes:
    """Count them on a model without memory."""
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(build_config(shape, read_tokenizer()))
    layer = model.model.language_model.layers[0]
    linear = [m for m in layer.modules() if isinstance(m, torch.nn.Linear)]
    tower = sum(p.numel() for p in model.model.visual.parameters())
    language = sum(p.numel() for p in model.parameters()) - tower
    layers = len(model.model.language_model.layers)
    one = sum(p.numel() for p in layer.parameters())
    adapters = 64 * sum(m.in_features + m.out_features for m in linear) * layers
    return Sizes(language, tower, one, language - layers * one, adapters)


def memory(recipe: Recipe, sizes: Sizes) -> dict[str, float]:
    """Bytes a GPU, by what for; of a checkpoint; and of a machine with at most eight GPUs."""
    text = SHAPES[recipe.shape]
    share = recipe.gpus if recipe.sharded else 1
    trained = sizes.adapters if recipe.lora else sizes.language
    frozen = 2 * sizes.tower + (2 * sizes.language / share if recipe.lora else 0)
    states = 16 * trained / share + frozen
    gathered = 2 * sizes.language if recipe.sharded else 0
    width, inner = text["hidden_size"], text["intermediate_size"]
    images = PROMPTS / recipe.gpus * (recipe.prompt + GROUP * CROPS * CROP)
    update = 2 * recipe.row * (text["num_hidden_layers"] * width + 10 * width + 6 * inner) + 3 * 4 * SLICE_LOGITS
    update += 2 * (sizes.ends + 2 * sizes.layer) if recipe.sharded else 0
    cache = 0.7 * (80e9 - states - gathered - 2 * width * images)
    stored = 2 if recipe.lora else 4
    on_machine = min(recipe.gpus, 8) * (stored * (sizes.language + sizes.tower) + 18816 * images)
    checkpoint = 12 * trained + 2 * sizes.tower + (2 * sizes.language if recipe.lora else 0)
    return {
        "states": states,
        "gathered": gathered,
        "images": 2 * width * images,
        "cache": cache,
        "update": update,
        "checkpoint": checkpoint,
        "machine": on_machine,
    }


def step_time(recipe: Recipe, sizes: Sizes, cache: float) -> dict[str, float]:
    """Seconds of a step, and the waves of a GPU."""
    text = SHAPES[recipe.shape]
    token = 2 * 2 * text["num_hidden_layers"] * text["num_key_value_heads"] * 128
    groups = PROMPTS / recipe.gpus
    in_wave = min(groups, max(1, cache // (token * (recipe.prompt + GROUP * SLOT))))
    waves = math.ceil(groups / in_wave)
    tokens = PROMPTS * (recipe.prompt + GROUP * (EPISODE_TEXT + CROPS * CROP)) / recipe.gpus
    multiplied = sizes.language - sizes.ends
    update = (6 if recipe.lora else 8) * multiplied * tokens / MATMUL
    held = in_wave * (recipe.prompt + GROUP * (EPISODE_TEXT / 2 + CROPS * CROP)) * token
    # slots are given up as their episodes end, so that the tail reads little but the weights
    decode = (EPISODE_TEXT * (2 * sizes.language + held) + (LONGEST - EPISODE_TEXT) * 2 * sizes.language) / COPY
    encode = 2 * multiplied * PROMPTS * (recipe.prompt + GROUP * CROPS * CROP) / recipe.gpus / MATMUL
    return {"waves": waves, "rollout": waves * decode + encode, "update": update}


def main() -> None:
    """Print the table."""
    print(
        "| recipe | GPUs | weights, states | playing: gathered, images, cache | update | waves | rollout | update | "
        "a step | a checkpoint | a machine's memory |"
    )
    print("|---" * 11 + "|")
    for recipe in RECIPES:
        sizes = sizes_of(recipe.shape)
        held = {name: value / GIB for name, value in memory(recipe, sizes).items()}
        seconds = step_time(recipe, sizes, held["cache"] * GIB)
        cells = [recipe.name, f"{recipe.gpus}", f"{held['states']:.0f} GiB"]
        cells += [
            f"{held['gathered']:.0f} + {held['images']:.0f} + {held['cache']:.0f} GiB",
            f"{held['update']:.0f} GiB",
        ]
        cells += [f"{seconds['waves']:.0f}", f"{seconds['rollout']:.0f} s", f"{seconds['update']:.0f} s"]
        cells += [f"{(seconds['rollout'] + seconds['update']) / 60:.1f} min"]
        print(f"| {' | '.join([*cells, *(f'{held[name]:.0f} GiB' for name in ('checkpoint', 'machine'))])} |")


if __name__ == "__main__":
    main()
