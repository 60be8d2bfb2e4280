"""Peak memory of an update by the tokens of its row and the size of the vocabulary.

    python tests/benchmarks/update_memory.py --tokens 2048 4096 8192 --vocabulary 32768 151936 --json OUT

A row is scored and differentiated by a narrow model with random weights. The peak should grow with the tokens of the
row by what their activations need, and with the vocabulary by the head's weights, their gradient and one slice of
logits (see ``infogap.policy.logprobs``), but not with tokens times vocabulary.

Counted is what live tensors occupy, exactly and beyond what was there before the update. On a GPU it is what torch has
allocated. On a CPU every tensor that an operation returns is noted with its storage until that is freed, in the
backward pass too; what an operation allocates and frees within itself is not seen.
"""

from __future__ import annotations

import argparse
import json
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rates
import torch
from model_shapes import build_model, read_tokenizer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen2_5_VLConfig

from infogap.policy.attention import IMPLEMENTATION
from infogap.policy.loading import NEEDLE_POLICY, read_patchifier
from infogap.policy.model import Policy
from infogap.policy.packing import Chunk, Group, Row, pack

GROUPS, EPISODES, PROMPT = 4, 8, 32


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operations have created and nothing has freed.

    Attributes:
        now: bytes at the moment.
        peak: most bytes so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, Any] = {}

    def known(self, tensors: Sequence[Tensor]) -> None:
        """Leave out what was there before."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._known[storage._cdata] = storage

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def freed(_: Any) -> None:
            self.now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)


def narrow_policy(vocabulary: int, width: int, layers: int, device: str, dtype: str) -> Policy:
    """A policy of which the head is nearly everything."""
    config = Qwen2_5_VLConfig.from_pretrained(NEEDLE_POLICY, local_files_only=True)
    text = config.text_config
    text.vocab_size, text.hidden_size, text.intermediate_size = vocabulary, width, 2 * width
    text.num_hidden_layers, text.num_attention_heads = layers, width // 32
    text.layer_types = text.layer_types[:1] * layers
    config.vision_config.out_hidden_size = width
    attention = {"text_config": IMPLEMENTATION, "vision_config": "sdpa"}
    tokenizer = read_tokenizer()
    return Policy(build_model(config, dtype, device, attention, 0), tokenizer, read_patchifier(NEEDLE_POLICY))


def row_of(tokens: int, image_token_id: int) -> Row:
    """A row of so many tokens, nearly all of them sampled."""
    length = (tokens // GROUPS - PROMPT) // EPISODES
    prompt = Chunk(tuple(range(20, 20 + PROMPT)))
    episode = Chunk(tuple(20 + place % 200 for place in range(length)), sampled=True, logprobs=(0.0,) * length)
    return pack([Group(prompt, ((episode,),) * EPISODES)] * GROUPS, image_token_id)


def update(policy: Policy, row: Row) -> None:
    """Forward and backward of a row, as in an update with one row."""
    policy.train()
    policy(row, 1.0).logprobs.mean().backward()


def peak_of(policy: Policy, row: Row, device: str) -> int:
    """Most bytes that an update needs beside the weights."""
    policy.zero_grad(set_to_none=True)
    if device == "cuda":
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        update(policy, row)
        return torch.cuda.max_memory_allocated() - before
    counter = LiveBytes()
    counter.known([*policy.parameters(), *policy.buffers()])
    with counter:
        update(policy, row)
    return counter.peak


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The peak for every number of tokens and every vocabulary."""
    peaks = []
    for vocabulary in args.vocabulary:
        policy = narrow_policy(vocabulary, args.width, args.layers, args.device, args.dtype)
        for tokens in args.tokens:
            row = row_of(tokens, policy.vocabulary.image)
            peak = peak_of(policy, row, args.device)
            sizes = {"tokens": len(row.token_ids), "sampled": len(row.target), "vocabulary": vocabulary}
            peaks.append(sizes | {"peak_bytes": peak})
            print(f"{sizes}: {peak / 2**20:.0f} MiB", flush=True)
    return {
        "peaks": peaks,
        "width": args.width,
        "layers": args.layers,
        "dtype": args.dtype,
        "versions": rates.versions(("infogap", "torch", "transformers")),
        "machine": rates.machine(args.device),
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 4096, 8192])
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[32768, 151936])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, default=None)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    args = parse(arguments)
    report = measure(args)
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return report


if __name__ == "__main__":
    main()
