"""Numbers of weights of a model, from its config.json alone: it is built without memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLConfig

    from infogap.policy.loading import LoraConfig


@dataclass(frozen=True)
class Sizes:
    """Numbers of weights, and the widths that the arithmetic needs.

    Attributes:
        language: weights of the language model with its head.
        tower: weights of the vision tower and its merger.
        layer: weights of one layer of the language model.
        ends: weights of embeddings and head.
        adapters: weights of the language model's adapters.
        tower_adapters: weights of the tower's adapters.
        layers: layers of the language model.
        width: its hidden width.
        inner: width inside its multilayer perceptrons.
        vocabulary: tokens that there are.
        key_width: entries of the keys of one token in one layer.
    """

    language: int
    tower: int
    layer: int
    ends: int
    adapters: int
    tower_adapters: int
    layers: int
    width: int
    inner: int
    vocabulary: int
    key_width: int


def count(config: Qwen2_5_VLConfig, lora: LoraConfig | None = None) -> Sizes:
    """Count them.

    Args:
        config: the model's configuration.
        lora: adapters of the language model; None counts those of the default rank on all linear layers.
    """
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    from infogap.policy.loading import LoraConfig

    adapters = lora or LoraConfig()
    with torch.device("meta"):
        model: Any = Qwen2_5_VLForConditionalGeneration(config)
    layers = model.model.language_model.layers
    wanted = [m for name, m in layers[0].named_modules() if name.rpartition(".")[2] in adapters.target_modules]
    tower_linear = [m for m in model.model.visual.modules() if isinstance(m, torch.nn.Linear)]
    one, tower = _numel(layers[0]), _numel(model.model.visual)
    language = _numel(model) - tower
    text = cast(Any, config).text_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Sizes(
        language=language,
        tower=tower,
        layer=one,
        ends=language - len(layers) * one,
        adapters=adapters.rank * _ends(wanted) * len(layers),
        tower_adapters=adapters.rank * _ends(tower_linear),
        layers=len(layers),
        width=text.hidden_size,
        inner=text.intermediate_size,
        vocabulary=text.vocab_size,
        key_width=text.num_key_value_heads * head,
    )


def _numel(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _ends(linear: list[Any]) -> int:
    """Rows and columns of some layers: the numbers of an adapter of rank 1."""
    return sum(each.in_features + each.out_features for each in linear)
