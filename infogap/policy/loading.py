"""Loading a policy from a Hugging Face folder, and what of it is trained."""

from __future__ import annotations

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
        rank: rank of the adapters. Not published; ours.
        alpha: scale of the adapters; the update is multiplied by ``alpha / rank``. Not published; ours.
        dropout: dropout before the adapters; 0 keeps sampled and trained log-probabilities equal.
        target_modules: names of the language model's linear layers that get an adapter. In the vision tower it is all
            of them or none, see ``PolicyConfig.vision_tower``.

    Raises:
        ValueError: if a value is out of its range.
    """

    rank: int = 64
    alpha: int = 128
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1:
            raise ValueError(
                f"policy.lora has rank {self.rank} and alpha {self.alpha}: give whole numbers of at least 1."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"policy.lora.dropout is {self.dropout}: give a share of at least 0 and below 1.")
        if not self.target_modules:
            raise ValueError("policy.lora.target_modules is empty: name the linear layers that get an adapter.")


@dataclass
class PolicyConfig:
    """Which model is trained, and which of its parts.

    Args:
        path: Hugging Face folder of a Qwen2.5-VL, or "needle" for the small policy that ships with the package.
        dtype: type of the weights. float32 masters train best with small learning rates; bfloat16 halves memory.
        vision_tower: what happens to the vision tower and its merger, with ``lora`` or without: "full" trains the
            weights, "frozen" leaves them as they are, "lora" trains adapters of all their linear layers.
        lora: train adapters of the language model; null trains its weights themselves.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them.

    Raises:
        ValueError: if ``vision_tower`` is "lora" and ``lora`` is null.
    """

    path: str = "needle"
    dtype: Literal["float32", "bfloat16"] = "float32"
    vision_tower: Literal["full", "frozen", "lora"] = "full"
    lora: LoraConfig | None = None
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.vision_tower == "lora" and self.lora is None:
            raise ValueError(
                "policy.vision_tower is 'lora' and policy.lora is not set: set policy.lora.rank and alpha, or make it "
                "'full' or 'frozen'."
            )

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
    check_folder(folder)
    patchifier = read_patchifier(folder)
    with loading(folder):
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


def prepare_training(policy: Policy, config: PolicyConfig) -> None:
    """Freeze what is not trained, add adapters, switch on checkpointing.

    Raises:
        PolicyError: if ``config.lora`` names layers that the language model does not have.
    """
    if config.gradient_checkpointing:
        parts = cast(Any, policy.parts)  # later releases of transformers 5 have a new name for it
        enable = getattr(parts, "activation_checkpointing_enable", None) or parts.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if config.lora is not None:
        _add_adapters(policy, config.lora, config.vision_tower == "lora")
    if config.vision_tower != "lora":
        # with adapters in the language model peft has frozen the tower, which may be trained all the same
        policy.parts.model.visual.requires_grad_(config.vision_tower == "full")
    policy.train()


TOWER_LINEAR = r"visual\.(blocks\.\d+\..+\.(qkv|proj|gate_proj|up_proj|down_proj)|merger\.mlp\.[02])"
"""Names of all linear layers of the vision tower. The merger is one of them as it is part of what "full" trains and of
what "frozen" freezes: "lora" is then the same choice with fewer parameters."""


def _add_adapters(policy: Policy, config: LoraConfig, tower: bool) -> None:
    """Put adapters on the language model and maybe the tower, and freeze everything else."""
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model

    modules = policy.parts.model.language_model.named_modules()
    known = {name.rpartition(".")[2] for name, module in modules if isinstance(module, nn.Linear)}
    # peft complains only where none of the names matches, and would leave out a misspelt one without a word
    unknown = sorted(set(config.target_modules) - known)
    if unknown:
        raise PolicyError(
            f"policy.lora.target_modules names {unknown}, which the language model does not have: choose from "
            f"{sorted(known)}."
        )
    # the vision tower's layers share some names with the language model's
    wanted = rf"language_model\..+\.({'|'.join(config.target_modules)})"
    adapters = PeftLoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=rf"(.+\.)?({wanted}{'|' + TOWER_LINEAR if tower else ''})",
    )
    policy.model = cast(nn.Module, get_peft_model(policy.parts, adapters))


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


def check_folder(folder: Path) -> None:
    """See that a folder holds a Qwen2.5-VL.

    Raises:
        PolicyError: if it does not.
    """
    if not (folder / "config.json").is_file():
        raise PolicyError(
            f"{str(folder)!r} is no model folder: give one with a config.json, or 'needle' as the policy's path."
        )
    kind = _read_json(folder / "config.json").get("model_type")
    if kind != "qwen2_5_vl":
        raise PolicyError(f"{folder} holds a model of type {kind!r}: only 'qwen2_5_vl' (Qwen2.5-VL) can be trained.")


def _read_json(path: Path) -> dict[str, Any]:
    with loading(path):
        values: dict[str, Any] = json.loads(path.read_text())
        values.keys()  # an object, not a list or a number
    return values


@contextmanager
def loading(source: Path) -> Iterator[None]:
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
