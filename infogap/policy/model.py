"""The policy: a Qwen2.5-VL with its tokenizer, loaded from a Hugging Face folder, over packed rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration

from infogap.policy.attention import IMPLEMENTATION, Attend, PackedAttention
from infogap.policy.logprobs import token_scores
from infogap.policy.packing import Chunk, Row
from infogap.policy.patches import Patches, Patchifier
from infogap.policy.vision import batch_vision_tower, encode_images
from infogap.policy.vocabulary import PolicyError, read_vocabulary

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


class Policy(nn.Module):
    """A Qwen2.5-VL over packed rows.

    Args:
        model: the model, its attention set to ``infogap_packed``.
        tokenizer: its tokenizer.
        patchifier: cuts images as the model expects them.
        turn_end_texts: texts that end a turn beside the stop token; each must be one token.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        patchifier: Patchifier,
        turn_end_texts: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.patchifier = patchifier
        self.vocabulary = read_vocabulary(tokenizer, self.parts.lm_head.weight.shape[0], turn_end_texts)

    @property
    def parts(self) -> Qwen2_5_VLForConditionalGeneration:
        """The Qwen2.5-VL itself, inside its adapters if there are any."""
        model = cast(Any, self.model)  # a PeftModel, or the Qwen2.5-VL
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        return cast(Qwen2_5_VLForConditionalGeneration, inner)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def banned(self) -> Tensor:
        """Ids that are never sampled, on the policy's device."""
        return torch.tensor(self.vocabulary.banned, dtype=torch.long, device=self.device)

    def chunk(self, text: str, images: Sequence[Patches] = ()) -> Chunk:
        """Tokenize a prompt or an observation, every ``<|image_pad|>`` expanded to its image's number of tokens.

        Raises:
            ValueError: if the text does not hold one placeholder an image.
        """
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids.count(self.vocabulary.image) != len(images):
            raise ValueError(f"A text holds {ids.count(self.vocabulary.image)} images and {len(images)} were given.")
        expanded: list[int] = []
        remaining = iter(images)
        for token in ids:
            expanded += [token] * (next(remaining).tokens if token == self.vocabulary.image else 1)
        return Chunk(tuple(expanded), tuple(images))

    def embed(self, token_ids: Tensor, images: Sequence[Patches]) -> Tensor:
        """Embed tokens, image tokens by the vision tower.

        Args:
            token_ids: ``[..., L]``, image tokens in the order of ``images``.
            images: the images.

        Returns:
            ``[..., L, width]``.
        """
        embeds: Tensor = self.parts.get_input_embeddings()(token_ids)
        if not images:
            return embeds
        values = torch.cat([image.values for image in images]).to(self.device)
        tower = self.parts.model.visual
        # transformers makes all inputs differentiable when it checkpoints, and a frozen tower would work for nothing
        trained = any(weight.requires_grad for weight in tower.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            features = encode_images(tower, values, [image.grid for image in images])
        return embeds.masked_scatter((token_ids == self.vocabulary.image)[..., None], features.to(embeds.dtype))

    def hidden(self, embeds: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Run the language model.

        Args:
            embeds: ``[B, L, width]``.
            positions: M-RoPE positions ``[3, B, L]``.
            attend: the attention of this pass.

        Returns:
            Last hidden states ``[B, L, width]``.
        """
        output: Tensor = self.parts.model.language_model(
            inputs_embeds=embeds,
            position_ids=positions,
            # a dictionary keeps transformers from building a mask of its own
            attention_mask=dict.fromkeys(("full_attention", "sliding_attention")),
            use_cache=False,
            attend=attend,
        ).last_hidden_state
        return output

    def row_hidden(self, row: Row, attend: Attend | None = None) -> Tensor:
        """Last hidden states of a packed row, ``[N, width]``."""
        row = row.to(self.device)
        attend = attend or PackedAttention(row.group, row.branch)
        return self.hidden(self.embed(row.token_ids, row.images)[None], row.positions[:, None], attend)[0]

    def score(self, row: Row, temperature: float) -> RowScores:
        """Log-probabilities of a row's sampled tokens, with their entropy, and of its taught tokens."""
        row, head = row.to(self.device), self.parts.lm_head
        hidden = self.row_hidden(row)
        sampled = token_scores(head, hidden[row.predictor], row.target, self.banned, temperature)
        taught = token_scores(head, hidden[row.taught_predictor], row.taught_target, self.banned, 1.0)
        return RowScores(sampled.logprobs, sampled.entropy, taught.logprobs)


class RowScores(NamedTuple):
    """Of a row, float32: log-probability and entropy of its sampled tokens ``[T]``, and of its taught ones ``[K]``."""

    logprobs: Tensor
    entropy: Tensor
    taught_logprobs: Tensor


def load_policy(config: PolicyConfig, turn_end_texts: Sequence[str] = ()) -> Policy:
    """Load a policy from its folder, ready to train.

    Raises:
        PolicyError: if the folder is missing or holds no Qwen2.5-VL.
    """
    folder = config.folder
    _check_folder(folder)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder,
        dtype=getattr(torch, config.dtype),
        attn_implementation={"text_config": IMPLEMENTATION, "vision_config": "sdpa"},
        local_files_only=True,
    )
    batch_vision_tower(model)
    policy = Policy(
        model, AutoTokenizer.from_pretrained(folder, local_files_only=True), read_patchifier(folder), turn_end_texts
    )
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
        state = Qwen2_5_VLForConditionalGeneration.from_pretrained(source, local_files_only=True).state_dict()
        own = policy.parts.state_dict()
        wanted = {name.replace(".base_layer.", "."): value for name, value in own.items() if ".lora_" not in name}
    else:
        stored = torch.load(source, map_location="cpu", weights_only=True).get("state_dict", {})
        state = {name.removeprefix("policy."): value for name, value in stored.items() if name.startswith("policy.")}
        wanted = policy.state_dict()
    wrong = sorted(set(state) ^ set(wanted)) or [n for n, value in state.items() if value.shape != wanted[n].shape]
    if wrong:
        raise PolicyError(f"{source} does not fit the policy, first at {wrong[0]!r}: give weights of the same model.")
    for name, value in state.items():
        wanted[name].copy_(value)


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
    values: dict[str, Any] = json.loads(path.read_text())
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
    kind = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
    if kind != "qwen2_5_vl":
        raise PolicyError(f"{folder} holds a model of type {kind!r}: only 'qwen2_5_vl' (Qwen2.5-VL) can be trained.")
