"""``infogap export CHECKPOINT OUT``: a trained policy as an ordinary Hugging Face folder, proved to be the same policy.

What is written is loaded again by transformers alone, with its own attention and positions, and must give the logits
of the policy in the checkpoint. Both are computed in float32, whatever type the weights are stored in. Rounding weights
to bfloat16 changes a policy, so that there are two links to prove instead of one: the folder must agree tightly with
the policy after rounding, and what rounding itself does to the policy must be small.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, cast

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from infogap.arguments import CommandParser
from infogap.policy.checkpoint import Checkpoint, read_run_checkpoint
from infogap.policy.loading import PolicyConfig, load_policy
from infogap.policy.model import Policy
from infogap.policy.packing import Chunk, Group, pack
from infogap.policy.patches import PATCH, Patches
from infogap.policy.weights import check_base, find_weights, load_checkpoint, read_config

TOLERANCE: Final = 1e-4
"""Largest difference of a logit between the policy and the folder, as a share of the largest logit. Two orders of
summation differ by some 1e-6; one weight left out, or an adapter not merged, by far more."""

ROUNDING_TOLERANCE: Final = 0.2
"""The same for what rounding weights to bfloat16's 8 binary digits does: a few hundredths at the worst logit of models
with random weights. Mistakes are for the tolerance above to find; this one is for a policy that bears no rounding."""

COPIED: Final = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "chat_template.*",
    "tokenizer*",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""Files that the new folder takes from the base folder as they are: training changes weights and nothing else."""

PROMPT: Final = (
    "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What is written on the sign?<|im_end|>\n"
    "<|im_start|>assistant\n"
)

Dtype = Literal["bfloat16", "float32"]


class ExportError(ValueError):
    """An export that cannot be made, or that did not prove to be the policy; the message says why and what to do."""


def export(
    source: Path, out: Path, base: Path | None = None, *, adapter: bool = False, dtype: Dtype | None = None
) -> str:
    """Write a folder and prove it. Nothing is left of a folder that is not finished.

    Args:
        source: a checkpoint of ours, a file or a directory; a run or its folder of checkpoints stands for the newest.
        out: the folder to write; must not exist.
        base: the model folder that the run was trained from; default: the one that the checkpoint names.
        adapter: write the adapters alone, to be used with the base folder, instead of merging them.
        dtype: type of the written weights; default: that of the policy, and float32 for adapters.

    Returns:
        A sentence on what was written and how closely it agrees.

    Raises:
        ExportError: if ``out`` exists, the adapters cannot be written alone, or the written folder is not the policy.
        PolicyError: if the checkpoint or the base folder will not do.
    """
    if os.path.lexists(out):
        raise ExportError(f"{out} exists: give the path of a new folder.")
    source = find_weights(source)
    checkpoint = read_run_checkpoint(source)
    config = read_config(checkpoint, source, base)
    if adapter:
        _check_adapter(config, source)
    stored: Dtype = dtype or ("float32" if adapter else config.dtype)  # in float32 peft keeps them, on any weights
    policy = load_policy(replace(config, dtype="float32", gradient_checkpointing=False)).eval()
    check_base(policy, checkpoint, source, config.folder)
    if adapter:
        _check_same_base(policy, checkpoint, source, config.folder)
    load_checkpoint(policy, checkpoint, source)
    prompt = make_prompt(policy)
    expected = _logits(policy, prompt)
    with _unfinished(out) as folder:
        if not adapter:
            _merge(policy, prompt, expected, source)
        written = _write(policy, folder, config, prompt, stored)
        del policy  # what was written is loaded in its place, not beside it
        gc.collect()
        found = _reload(folder, config if adapter else None, prompt)
        _prove(found, written, TOLERANCE, f"What was written of {source} is not what was in memory")
        allowed = TOLERANCE if stored == "float32" else ROUNDING_TOLERANCE
        change = _prove(found, expected, allowed, f"In {stored} the policy in {source} is another one")
    return (
        f"{out} holds the {'adapters' if adapter else 'policy'} in {stored}. Loaded by transformers alone it gives the "
        f"policy's logits: the largest difference is {change:.1e} of the largest logit ({allowed:.0e} is allowed)."
    )


def main(arguments: Sequence[str]) -> None:
    """Run ``infogap export``.

    Args:
        arguments: those after the word ``export``.

    Raises:
        ValueError: see `export`.
    """
    parser = CommandParser(
        prog="infogap export", description="Write a trained policy as a Hugging Face folder, and prove that it is one."
    )
    parser.add_argument("checkpoint", type=Path, help="a checkpoint, or a run for its newest one")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write; must not exist")
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="the model folder that the run was trained from")
    parser.add_argument("--adapter", action="store_true", help="write the adapters alone instead of merging them")
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        help="type of the weights; default: as the policy, adapters in float32",
    )
    chosen = parser.parse_args(arguments)
    print(export(chosen.checkpoint, chosen.out, chosen.base, adapter=chosen.adapter, dtype=chosen.dtype))


def _check_adapter(config: PolicyConfig, source: Path) -> None:
    if config.lora is None:
        raise ExportError(f"{source} has no adapters, its weights themselves were trained: leave --adapter out.")
    if config.vision_tower == "full":
        raise ExportError(
            f"{source} has a vision tower that was trained in full, which adapters cannot hold: leave --adapter out."
        )


def _check_same_base(policy: Policy, checkpoint: Checkpoint, source: Path, base: Path) -> None:
    """See that adapters lie on the very weights of the base folder."""
    for name, own in policy.state_dict().items():
        stored = checkpoint.weights[name]
        # a run may keep less digits than the folder
        if ".lora_" not in name and not torch.equal(own.to(stored.dtype), stored):
            raise ExportError(
                f"The adapters in {source} were trained on other weights than those of {base}, first at {name!r}: give "
                "the folder of those weights with --base, or leave --adapter out."
            )


@contextmanager
def _unfinished(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its name if all goes well, and is gone otherwise."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent / f".{out.name}.{os.getpid()}.unfinished"
    folder.mkdir()
    try:
        yield folder
        if os.path.lexists(out):
            raise ExportError(f"{out} has come to exist in the meantime: give the path of a new folder.")
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _merge(policy: Policy, prompt: Chunk, expected: Tensor, source: Path) -> None:
    """Add adapters to the weights below them, in float32."""
    model = cast(Any, policy.model)
    if not hasattr(model, "merge_and_unload"):
        return
    policy.model = model.merge_and_unload()
    _prove(_logits(policy, prompt), expected, TOLERANCE, f"The adapters in {source} did not merge into the weights")


def _write(policy: Policy, folder: Path, config: PolicyConfig, prompt: Chunk, dtype: Dtype) -> Tensor:
    """Write what is left of the policy, adapters alone if there are any, and return its logits after rounding."""
    model = cast(Any, policy.model)
    adapters = hasattr(model, "peft_config")
    changed = [value for name, value in model.named_parameters() if ".lora_" in name or not adapters]
    for value in changed:
        value.data = value.data.to(getattr(torch, dtype))
    if adapters:
        model.peft_config["default"].base_model_name_or_path = str(config.folder)
        model.save_pretrained(folder)
    else:
        model.save_pretrained(folder)
        for file in (file for pattern in COPIED for file in config.folder.glob(pattern)):
            shutil.copyfile(file, folder / file.name)
        _name_dtype(folder / "config.json", dtype)
    for value in changed:
        value.data = value.data.float()
    return _logits(policy, prompt)


def _name_dtype(path: Path, dtype: Dtype) -> None:
    """Name the type of the weights in a configuration and its parts, under the key that it has there."""
    config: dict[str, Any] = json.loads(path.read_text())
    config.setdefault("dtype" if "torch_dtype" not in config else "torch_dtype", dtype)
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        part.update({key: dtype for key in ("dtype", "torch_dtype") if key in part})
    path.write_text(json.dumps(config, indent=2) + "\n")


def make_prompt(policy: Policy) -> Chunk:
    """A fixed text with a fixed image of several attention windows."""
    grid = (12, 20)
    noise = torch.randn(grid[0] * grid[1], 3 * 2 * PATCH**2, generator=torch.Generator().manual_seed(0))
    return policy.chunk(PROMPT, [Patches(noise, grid)])


@torch.no_grad()
def _logits(policy: Policy, prompt: Chunk) -> Tensor:
    policy.forget_images()  # of a frozen tower before its weights were rounded
    hidden = policy.row_hidden(pack([Group(prompt, ())], policy.vocabulary.image))
    logits: Tensor = policy.parts.lm_head(hidden)
    return logits


@torch.no_grad()
def _reload(folder: Path, base: PolicyConfig | None, prompt: Chunk) -> Tensor:
    """The prompt's logits by transformers and the written folder, or the adapters in it on the model of ``base``."""
    whole = folder if base is None else base.folder
    dtype = "auto" if base is None else getattr(torch, base.dtype)
    model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(whole, dtype=dtype, local_files_only=True)
    model = model.float()
    if base is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder)
    ids = torch.tensor([prompt.token_ids])
    output = model.eval()(
        input_ids=ids,
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
        pixel_values=torch.cat([image.values for image in prompt.images]),
        image_grid_thw=torch.tensor([(1, *image.grid) for image in prompt.images]),
        use_cache=False,
    )
    logits: Tensor = output.logits[0]
    return logits


def _prove(found: Tensor, expected: Tensor, allowed: float, failure: str) -> float:
    """The largest difference as a share of the largest logit.

    Raises:
        ExportError: if it is more than what is allowed, or no number.
    """
    share = float((found - expected).abs().max() / expected.abs().max())
    if not share <= allowed:
        raise ExportError(
            f"{failure}, logits differ by {share:.1e} of the largest where {allowed:.0e} is allowed, and nothing was "
            "exported: try --dtype float32, and report it if that does not help."
        )
    return share
