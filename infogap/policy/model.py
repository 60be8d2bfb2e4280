"""The policy: a Qwen2.5-VL with its tokenizer over packed rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration

from infogap.policy.attention import Attend
from infogap.policy.flex import row_attention
from infogap.policy.logprobs import token_scores
from infogap.policy.packing import Chunk, Row
from infogap.policy.patches import Patches, Patchifier
from infogap.policy.vision import encode_images
from infogap.policy.vocabulary import read_vocabulary

BLANK = Patches(torch.zeros(4, 1176), (2, 2))
"""The smallest image there is."""


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
        self.banned: Tensor  # ids that are never sampled, where the weights are
        self.register_buffer("banned", torch.tensor(self.vocabulary.banned, dtype=torch.long), persistent=False)
        # visual tokens of images that are still in use, under a frozen tower
        self.encoded: WeakKeyDictionary[Patches, Tensor] = WeakKeyDictionary()
        # a sharded tower runs once in every forward, with images or without, so that no rank waits for another
        self.always_encodes = False

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
            return embeds + 0 * self._encode([BLANK]).sum() if self.always_encodes else embeds
        trained = any(weight.requires_grad for weight in self.parts.model.visual.parameters())
        features = self._encode(images) if trained else self._encode_once(images)
        return embeds.masked_scatter((token_ids == self.vocabulary.image)[..., None], features.to(embeds.dtype))

    def forget_images(self) -> None:
        """To be called when a frozen tower's weights are replaced."""
        self.encoded.clear()

    def _encode(self, images: Sequence[Patches]) -> Tensor:
        values = torch.cat([image.values for image in images]).to(self.device)
        return encode_images(self.parts.model.visual, values, [image.grid for image in images])

    def _encode_once(self, images: Sequence[Patches]) -> Tensor:
        """As ``_encode`` by a tower that is not trained: what the rollout has encoded, the update need not."""
        new = [image for image in dict.fromkeys(images) if image not in self.encoded]
        if new:
            # without gradients: transformers makes all inputs differentiable when it checkpoints
            with torch.no_grad():
                pieces = self._encode(new).split_with_sizes([image.tokens for image in new])
            self.encoded.update(zip(new, pieces, strict=True))
        return torch.cat([self.encoded[image] for image in images])

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
        attend = attend or row_attention(row.group, row.branch)
        return self.hidden(self.embed(row.token_ids, row.images)[None], row.positions[:, None], attend)[0]

    def forward(self, row: Row, temperature: float) -> RowScores:
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
