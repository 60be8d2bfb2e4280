"""What keys and values cost, what is free, and how many groups are played at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

from infogap.policy.model import Policy

GIB = 1 << 30
SHARE = 0.7
"""Of the free memory, for keys and values; the rest is for activations, attention scores and logits. Our choice."""


class MemoryShortageError(ValueError):
    """What is asked for does not fit; the message has the numbers."""


def free_bytes(device: torch.device) -> int | None:
    """Memory that can be had: of a GPU with what torch's allocator holds unused, of a machine by Linux's own estimate.

    None where it is not known: then nothing is limited.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    table = Path("/proc/meminfo")
    lines = table.read_text().splitlines() if table.exists() else []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)


def token_bytes(policy: Policy) -> int:
    """Bytes of the keys and values of one token in all layers: 57,344 for the 7B in bf16."""
    text = cast(Any, policy.parts.config).text_config
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    dtype = next(policy.parts.model.language_model.parameters()).dtype
    kind = policy.device.type
    if torch.is_autocast_enabled(kind) and dtype == torch.float32:
        # rotations follow the type of the embeddings, so keys are float32, and values have autocast's type
        return int(text.num_hidden_layers * text.num_key_value_heads * width) * (
            torch.float32.itemsize + torch.get_autocast_dtype(kind).itemsize
        )
    return int(2 * text.num_hidden_layers * text.num_key_value_heads * width * dtype.itemsize)


def plan_waves(
    prompt_tokens: Sequence[int], group_size: int, slot_tokens: int, bytes_a_token: int, allowed: int | None
) -> list[range]:
    """Cut groups into waves whose keys and values fit, in order, as few as can be.

    Args:
        prompt_tokens: tokens of every group's prompt; those of a wave are padded to its longest.
        group_size: episodes of a group.
        slot_tokens: most tokens of an episode after its prompt.
        bytes_a_token: see ``token_bytes``.
        allowed: bytes for keys and values; None for any number.

    Raises:
        MemoryShortageError: if one group alone does not fit.
    """
    waves: list[range] = []
    longest = 0
    for number, prompt in enumerate(prompt_tokens):
        longest = max(longest, prompt)
        start = waves[-1].start if waves else 0
        needed = (number - start + 1) * (longest + group_size * slot_tokens) * bytes_a_token
        if waves and (allowed is None or needed <= allowed):
            waves[-1] = range(start, number + 1)
            continue
        longest = prompt
        alone = (prompt + group_size * slot_tokens) * bytes_a_token
        if allowed is not None and alone > allowed:
            raise MemoryShortageError(
                f"The keys and values of one group take {alone / GIB:.2f} GiB (a prompt of {prompt:,} tokens and "
                f"{group_size} episodes of up to {slot_tokens:,}, {bytes_a_token:,} bytes a token), and "
                f"{allowed / GIB:.2f} GiB may be used: lower rollout.group_size, rollout.limits, "
                "rollout.crop.max_tokens or the view's budget, or raise rollout.cache_gib."
            )
        waves.append(range(number, number + 1))
    return waves


def allowed_bytes(device: torch.device, gib: float | None) -> int | None:
    """Bytes that keys and values may take: what was set, else a share of what is free."""
    if gib is not None:
        return int(gib * GIB)
    free = free_bytes(device)
    return None if free is None else int(SHARE * free)
