"""Loading a policy from a Hugging Face folder, and weights from a checkpoint; what of it is trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from infogap.policy.attention import IMPLEMENTATION
from infogap.policy.model import Policy
from infogap.policy.patches import Patchifier
from infogap.policy.vision import batch_vision_tower
from infogap.policy.vocabulary import PolicyError

NEEDLE_POLICY = Path(__file__).resolve().parents[1] / "assets" / "needle_policy"
"""The small policy that ships with the package."""


@dataclass
class LoraConfig:
    """Low-rank adapters instead of full training (``peft``).

    Args:
        rank: rank of the adapters.
        alpha: scale of the adapters; the update is multiplied by ``alpha / rank``.
        dropout: dropout before the adapters; 0 keeps sampled and trained log-probabilities equal.
        target_modules: names of the linear layers that get an adapter.
    """

    rank: int = 64
    alpha: int = 128
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass
class PolicyConfig:
    """Which model is trained, and which of its parts.

    Args:
        path: Hugging Face folder of a Qwen2.5-VL, or "needle" for the small policy that ships with the package.
        dtype: type of the weights. float32 masters train best with small learning rates; bfloat16 halves memory.
        vision_tower: train the vision tower or leave it as it is.
        lora: train adapters of the language model only, whatever ``vision_tower`` says; null trains the weights
            themselves.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them.
    """

    path: str = "needle"
    dtype: Literal["float32", "bfloat16"] = "float32"
    vision_tower: Literal["full", "frozen"] = "full"
    lora: LoraConfig | None = None
    gradient_checkpointing: bool = False

    @property
    def folder(self) -> Path:
        """The folder that ``path`` names."""
        return NEEDLE_POLICY if self.path == "needle" else Path(self.path)


def load_policy(config: PolicyConfig, turn_end_texts: Sequence[str] = ()) -> Policy:
    """Load a policy from its folder, ready to train.

    Raises:
        PolicyError: if the folder is missing or holds no Qwen2.5-VL.
    """
    folder = config.folder
    _check_folder(folder)
    patchifier = read_patchifier(folder)
    with _loading(folder):
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder,
            dtype=getattr(torch, config.dtype),
            attn_implementation={"text_config": IMPLEMENTATION, "vision_config": "sdpa"},
            local_files_only=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    batch_vision_tower(model)
    policy = Policy(model, tokenizer, patchifier, turn_end_texts)
    prepare_training(policy, config)
    return policy


def load_weights(policy: Policy, source: Path) -> None:
    """Take over the weights of a checkpoint of ours or of a model folder, and nothing else.

    Adapters stay as they are if the weights come from a folder, which has none.

    Raises:
        PolicyError: if the weights are not those of this model.
    """
    if source.is_dir():
        _check_folder(source)
        with _loading(source):
            state = Qwen2_5_VLForConditionalGeneration.from_pretrained(source, local_files_only=True).state_dict()
        own = policy.parts.state_dict()
        wanted = {name.replace(".base_layer.", "."): value for name, value in own.items() if ".lora_" not in name}
    else:
        with _loading(source):
            checkpoint = torch.load(source, map_location="cpu", weights_only=True)
            stored = checkpoint.get("state_dict", {})
        _check_adapters(policy, checkpoint.get("infogap", {}).get("lora"), source)
        state = {name.removeprefix("policy."): value for name, value in stored.items() if name.startswith("policy.")}
        wanted = policy.state_dict()
    wrong = sorted(set(state) ^ set(wanted)) or [n for n, value in state.items() if value.shape != wanted[n].shape]
    if wrong:
        raise PolicyError(f"{source} does not fit the policy, first at {wrong[0]!r}: give weights of the same model.")
    for name, value in state.items():
        wanted[name].copy_(value)
    policy.forget_images()


def lora_scale(policy: Policy) -> dict[str, int] | None:
    """Rank and alpha of a policy's adapters; None without adapters. The weights alone do not tell alpha."""
    adapters = getattr(policy.model, "peft_config", None)
    return None if adapters is None else {"rank": adapters["default"].r, "alpha": adapters["default"].lora_alpha}


def _check_adapters(policy: Policy, stored: dict[str, int] | None, source: Path) -> None:
    own = lora_scale(policy)
    if stored is not None and stored != own:
        raise PolicyError(
            f"{source} holds adapters with {stored}, and the policy has {own or 'none'}: set policy.lora to the same."
        )


def prepare_training(policy: Policy, config: PolicyConfig) -> None:
    """Freeze what is not trained, add adapters, switch on checkpointing."""
    if config.gradient_checkpointing:
        parts = cast(Any, policy.parts)  # later releases of transformers 5 have a new name for it
        enable = getattr(parts, "activation_checkpointing_enable", None) or parts.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if config.vision_tower == "frozen":
        policy.parts.model.visual.requires_grad_(False)
    if config.lora is not None:
        from peft import LoraConfig as PeftLoraConfig
        from peft import get_peft_model

        adapters = PeftLoraConfig(
            r=config.lora.rank,
            lora_alpha=config.lora.alpha,
            lora_dropout=config.lora.dropout,
            # the vision tower's layers share some names with the language model's
            target_modules=rf".*language_model.*\.({'|'.join(config.lora.target_modules)})",
        )
        policy.model = cast(nn.Module, get_peft_model(policy.parts, adapters))
    policy.train()


def fingerprint(source: Path) -> str:
    """Name of a policy's weights: SHA-256 over its files, names and bytes.

    Args:
        source: a model folder, of which ``config.json`` and the ``*.safetensors`` files count, or a checkpoint.

    Raises:
        FileNotFoundError: if the folder lacks one of them.
    """
    if source.is_file():
        return _digest([source])
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


def read_patchifier(folder: Path) -> Patchifier:
    """The image statistics of a model folder.

    Raises:
        PolicyError: if they are missing, or for patches of other sides than 14 x 2.
    """
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        raise PolicyError(
            f"{folder} has no preprocessor_config.json: copy it from the model that this one was made from."
        )
    values = _read_json(path)
    for name in ("image_mean", "image_std"):
        if name not in values:
            raise PolicyError(f"{path} lacks {name!r}: copy the file from the model that this one was made from.")
    sides = (values.get("patch_size", 14), values.get("merge_size", 2), values.get("temporal_patch_size", 2))
    if sides != (14, 2, 2):
        raise PolicyError(
            f"{path} has patch, merge and temporal sizes {sides}: only Qwen2.5-VL's (14, 2, 2) are known."
        )
    mean, std = (cast("tuple[float, float, float]", tuple(values[name])) for name in ("image_mean", "image_std"))
    return Patchifier(mean, std)


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise PolicyError(
            f"{str(folder)!r} is no model folder: give one with a config.json, or 'needle' as the policy's path."
        )
    kind = _read_json(folder / "config.json").get("model_type")
    if kind != "qwen2_5_vl":
        raise PolicyError(f"{folder} holds a model of type {kind!r}: only 'qwen2_5_vl' (Qwen2.5-VL) can be trained.")


def _read_json(path: Path) -> dict[str, Any]:
    with _loading(path):
        values: dict[str, Any] = json.loads(path.read_text())
        values.keys()  # an object, not a list or a number
    return values


@contextmanager
def _loading(source: Path) -> Iterator[None]:
    """Turn whatever the loaders of torch, transformers and safetensors raise into one sentence that names the source.

    Raises:
        PolicyError: for any error of theirs; they let many kinds through when a file is missing or damaged.
    """
    try:
        yield
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "it is empty"
        raise PolicyError(
            f"{source} cannot be loaded ({type(error).__name__}: {reason:.200}): copy it again, or give another one."
        ) from error
