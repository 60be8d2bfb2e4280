"""Weights of a policy apart from the policy: taking them over from a checkpoint or a model folder, and naming them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import AutoTokenizer, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from infogap.policy.checkpoint import LIST_NAME, REST_NAME, Checkpoint, is_directory_checkpoint, read_checkpoint
from infogap.policy.checkpoint_folder import FOLDER, has_checkpoint, newest_checkpoint
from infogap.policy.loading import LoraConfig, PolicyConfig, check_folder, loading, prepare_training, read_patchifier
from infogap.policy.model import Policy
from infogap.policy.vocabulary import PolicyError


def find_weights(source: Path) -> Path:
    """What a path stands for: the folder of a run, or its folder ``checkpoints``, for the newest checkpoint in it.

    Args:
        source: any path; all others stand for themselves.
    """
    if source.is_dir() and not is_directory_checkpoint(source) and not (source / "config.json").is_file():
        for folder in (source / FOLDER, source):
            if has_checkpoint(folder):
                return newest_checkpoint(folder)
    return source


def load_weights(policy: Policy, source: Path) -> None:
    """Take over the weights of a checkpoint of ours or of a model folder, and nothing else.

    Adapters stay as they are if the weights come from a folder, which has none.

    Args:
        policy: whose weights are replaced, before it is sharded.
        source: a checkpoint, file or directory, a run or its folder of checkpoints, or a model folder.

    Raises:
        PolicyError: if the weights are not those of this model.
    """
    source = find_weights(source)
    if source.is_dir() and not is_directory_checkpoint(source):
        check_folder(source)
        with loading(source):
            state = Qwen2_5_VLForConditionalGeneration.from_pretrained(source, local_files_only=True).state_dict()
        own = policy.parts.state_dict()
        wanted = {name.replace(".base_layer.", "."): value for name, value in own.items() if ".lora_" not in name}
        _copy(state, {name: value.shape for name, value in state.items()}, wanted, source)
    else:
        load_checkpoint(policy, read_checkpoint(source), source)
    policy.forget_images()


def load_checkpoint(policy: Policy, checkpoint: Checkpoint, source: Path) -> None:
    """As ``load_weights``, from a checkpoint that is open already.

    Args:
        policy: whose weights are replaced.
        checkpoint: the weights.
        source: what to call the checkpoint in an error.

    Raises:
        PolicyError: if the weights are not those of this model.
    """
    _check_adapters(policy, checkpoint, source)
    _copy(checkpoint.weights, checkpoint.shapes, policy.state_dict(), source)
    policy.forget_images()


def check_weights(config: PolicyConfig, source: Path) -> None:
    """See that a checkpoint is whole and of a policy's kind, before anything large is loaded.

    Args:
        config: the policy.
        source: the checkpoint.

    Raises:
        PolicyError: if it cannot be read, or ``load_weights`` would refuse it.
    """
    checkpoint = read_checkpoint(source)
    policy = _outline(config)
    _check_adapters(policy, checkpoint, source)
    _check_shapes(checkpoint.shapes, policy.state_dict(), source)


def _outline(config: PolicyConfig) -> Policy:
    """A policy whose weights have names and shapes and no values."""
    check_folder(config.folder)
    patchifier = read_patchifier(config.folder)
    with loading(config.folder):
        tokenizer = AutoTokenizer.from_pretrained(config.folder, local_files_only=True)
        with torch.device("meta"):
            model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_pretrained(config.folder))
    policy = Policy(model, tokenizer, patchifier)
    with torch.device("meta"):
        prepare_training(policy, config)
    return policy


def _check_adapters(policy: Policy, checkpoint: Checkpoint, source: Path) -> None:
    stored, own = checkpoint.metadata.get("lora"), lora_scale(policy)
    if stored is not None and stored != own:
        raise PolicyError(
            f"{source} holds adapters with {stored}, and the policy has {own or 'none'}: set policy.lora to the same."
        )


def _check_shapes(shapes: Mapping[str, torch.Size], wanted: Mapping[str, Tensor], source: Path) -> None:
    wrong = first_misfit(shapes, wanted)
    if wrong is not None:
        raise PolicyError(f"{source} does not fit the policy, first at {wrong!r}: give weights of the same model.")


def _copy(
    state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], wanted: Mapping[str, Tensor], source: Path
) -> None:
    """Copy weight by weight, so that no second copy of the policy is in memory; none if one of them does not fit."""
    _check_shapes(shapes, wanted, source)
    for name in shapes:
        wanted[name].copy_(state[name])


def read_config(checkpoint: Checkpoint, source: Path, base: Path | None) -> PolicyConfig:
    """What the policy in a checkpoint is made of.

    Checkpoints of earlier versions do not say it. Their adapters are known by the names of their weights, and their
    vision tower has none.

    Args:
        checkpoint: the checkpoint.
        source: what to call it in an error.
        base: folder of the model that it was trained from, instead of the one that it names.

    Raises:
        PolicyError: if the base folder is not known, is not there, or the policy is one of a later version.
    """
    saved = checkpoint.metadata.get("policy")
    if saved is None and base is None:
        raise PolicyError(f"{source} does not name the model that it was trained from: give its folder with --base.")
    if saved is None:
        scale = checkpoint.metadata.get("lora")
        names = {name.partition(".lora_A.")[0].rpartition(".")[2] for name in checkpoint.shapes if ".lora_A." in name}
        lora = None if scale is None else LoraConfig(**scale, target_modules=tuple(sorted(names)))
        config = PolicyConfig(dtype=_stored_dtype(checkpoint), vision_tower="frozen" if lora else "full", lora=lora)
    else:
        later = set(saved) - {field.name for field in fields(PolicyConfig)}
        if later:
            raise PolicyError(
                f"{source} has a policy with {sorted(later)}, unknown here: use the version that wrote it."
            )
        lora = None if saved["lora"] is None else LoraConfig(**saved["lora"])
        config = PolicyConfig(**(saved | {"lora": lora}))
    if base is not None:
        config = replace(config, path=str(base))
    if not config.folder.is_dir():
        given = "which it was trained from" if base is None else "which was given as --base"
        raise PolicyError(f"{source} needs {config.path!r}, {given}, and it is not there: give its folder with --base.")
    return config


def check_base(policy: Policy, checkpoint: Checkpoint, source: Path, base: Path) -> None:
    """See that a checkpoint is of a base folder's model.

    Args:
        policy: what the base folder holds.
        checkpoint: the checkpoint.
        source: what to call it in an error.
        base: the base folder.

    Raises:
        PolicyError: if it is of another model.
    """
    wrong = first_misfit(checkpoint.shapes, policy.state_dict())
    if wrong is not None:
        raise PolicyError(
            f"{base} is not the model that {source} was trained from, they differ first at {wrong!r}: give its folder "
            "with --base."
        )


def _stored_dtype(checkpoint: Checkpoint) -> Literal["bfloat16", "float32"]:
    head = next(name for name in checkpoint.shapes if "lm_head" in name)
    return "bfloat16" if checkpoint.weights[head].dtype == torch.bfloat16 else "float32"


def first_misfit(shapes: Mapping[str, torch.Size], wanted: Mapping[str, Tensor]) -> str | None:
    """The first weight that one of the two lacks, or that has different shapes; None if they fit."""
    wrong = sorted(set(shapes) ^ set(wanted)) or [name for name in shapes if shapes[name] != wanted[name].shape]
    return wrong[0] if wrong else None


def lora_scale(policy: Policy) -> dict[str, int] | None:
    """Rank and alpha of a policy's adapters; None without adapters. The weights alone do not tell alpha."""
    adapters = getattr(policy.model, "peft_config", None)
    return None if adapters is None else {"rank": adapters["default"].r, "alpha": adapters["default"].lora_alpha}


def fingerprint(source: Path) -> str:
    """Name of a policy's weights: SHA-256 over its files, names and bytes.

    Args:
        source: a model folder, of which ``config.json`` and the ``*.safetensors`` files count, or a checkpoint, all
            of which counts; a run or its folder of checkpoints stands for the newest.

    Raises:
        FileNotFoundError: if the folder lacks one of them.
    """
    source = find_weights(source)
    if source.is_file():
        return _digest([source])
    if is_directory_checkpoint(source):
        return _digest([source / LIST_NAME, source / REST_NAME, *sorted(source.glob("*.distcp"))])
    config, weights = source / "config.json", sorted(source.glob("*.safetensors"))
    if not config.is_file() or not weights:
        raise FileNotFoundError(
            f"The folder {str(source)!r} has no config.json or no *.safetensors: give the folder of a saved policy."
        )
    return _digest([config, *weights])


def _digest(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return f"sha256:{digest.hexdigest()}"
