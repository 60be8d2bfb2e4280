"""The ids of the tokens that mean something to the code: images, ends of a turn, and what may never be sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
"""A policy that writes one of these breaks the next forward ("image features and image tokens do not match")."""


class PolicyError(ValueError):
    """A model folder that cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Vocabulary:
    """The ids that the code needs to know.

    Attributes:
        image: id of ``<|image_pad|>``.
        stop: id of ``<|im_end|>``, which closes a turn and is not shown in its text.
        turn_end: ids that end a turn and belong to its text, such as ``</tool_call>``.
        banned: ids that the policy may never sample.
    """

    image: int
    stop: int
    turn_end: frozenset[int]
    banned: tuple[int, ...] = field(default=())


def read_vocabulary(tokenizer: PreTrainedTokenizerBase, size: int, turn_end_texts: Sequence[str]) -> Vocabulary:
    """The ids of a tokenizer that the code needs to know.

    Args:
        tokenizer: the policy's tokenizer.
        size: number of rows of the language-model head.
        turn_end_texts: texts that end a turn; each must be one token.

    Raises:
        PolicyError: if the tokenizer lacks a token of the chat format, or a turn end is not one token.
    """
    known: dict[str, int] = tokenizer.get_vocab()
    for text in ("<|image_pad|>", "<|im_end|>", "<|im_start|>"):
        if text not in known:
            raise PolicyError(f"The tokenizer has no token {text}: it is not Qwen2.5-VL's.")
    for text in turn_end_texts:
        if text not in known:
            raise PolicyError(
                f"The turn end {text!r} is not one token of the tokenizer: remove it from turn_end_texts."
            )
    # one token closes a turn: after another one the next observation would not be in the chat format
    banned = {known[text] for text in (*VISION_TOKENS, "<|im_start|>", "<|endoftext|>") if text in known}
    banned |= set(range(len(tokenizer), size))  # the rows that pad the embedding to a round number
    turn_ends = frozenset(known[text] for text in turn_end_texts)
    return Vocabulary(known["<|image_pad|>"], known["<|im_end|>"], turn_ends, tuple(sorted(banned)))
