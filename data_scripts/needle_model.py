"""The small policy's tokenizer, configuration and first weights: a real Qwen2.5-VL of 1.4 million parameters."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
import yaml
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from infogap.data.needle import COLOURS, attribute_question, relation_question
from infogap.episode.protocol import Protocol, ProtocolConfig
from infogap.geometry import Frame, FramedBox

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
TAGS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]
TAGS += ["<answer>", "</answer>"]
NUMBERS = [str(number) for number in range(20, 1001, 20)]
# the same rendering as Protocol.prompt, for those who drive the policy through transformers alone
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def needle_protocol() -> Protocol:
    """The protocol that the small policy is taught, from configs/protocol/needle.yaml."""
    values = yaml.safe_load((Path(__file__).resolve().parents[1] / "configs/protocol/needle.yaml").read_text())
    return Protocol(ProtocolConfig(**{**values, "frame": Frame[values["frame"]]}))


def build_tokenizer(protocol: Protocol, vocabulary: int = 512) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the protocol's own texts.

    Words are not split off before merging, so a text that never varies, such as the opening of a call or a whole
    question, becomes one token. The coordinates 0, 20, ..., 1000 are tokens too: four decisions a box instead of
    twelve. Any other text still encodes, byte by byte.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(TAGS) - len(NUMBERS),
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = _corpus(protocol)
    for mark in [*SPECIAL, *TAGS, *sorted(NUMBERS, key=len, reverse=True)]:
        corpus = [piece for text in corpus for piece in text.split(mark) if piece]
    tokenizer.train_from_iterator(sorted(corpus), trainer)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in (*TAGS, *NUMBERS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
    )


def _corpus(protocol: Protocol) -> list[str]:
    box = FramedBox(120, 340, 560, 780, Frame.RELATIVE_1000)
    texts: list[str] = []
    for first in COLOURS:
        for tool in (True, False):
            texts.append(protocol.prompt(attribute_question(first), (), tool=tool))
        for second in COLOURS:
            texts.append(protocol.prompt(relation_question(first, second), (), tool=True))
        texts += [protocol.call_text(box), protocol.observation("", with_image=True, closed=False)]
        texts += [protocol.answer_text(digit) for digit in "0123456789"]
    return texts


def build_config(tokenizer: PreTrainedTokenizerFast, width: int, layers: int) -> Qwen2_5_VLConfig:
    """A Qwen2.5-VL configuration of about 1.4 million parameters.

    ``rope_theta`` is 1,000: with a base as small as 20 every pair of a head's dimensions rotates over a few dozen
    tokens, so that nothing can be found by its content at a distance that varies, such as the question from behind a
    crop.
    """
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    text = {
        "vocab_size": 512,
        "hidden_size": width,
        "intermediate_size": width * 8 // 3 // 32 * 32,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [4, 6, 6]},
        "tie_word_embeddings": False,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    vision = {
        "depth": 3,
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_heads": 3,
        "window_size": 112,
        "fullatt_block_indexes": [1],
        "out_hidden_size": width,
        "hidden_act": "silu",
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )


def build_model(config: Qwen2_5_VLConfig) -> Qwen2_5_VLForConditionalGeneration:
    """First weights: fan-in scale, since a fixed 0.02 does not train at this width; small residual branches."""
    model = Qwen2_5_VLForConditionalGeneration(config)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv3d):
            scale = 0.2 if name.endswith(("o_proj", "down_proj", "attn.proj")) else 1.0
            nn.init.normal_(module.weight, std=scale / math.sqrt(module.weight[0].numel()))
    nn.init.normal_(model.get_input_embeddings().weight, std=1.0)
    nn.init.normal_(model.lm_head.weight, std=0.02)
    return model


def save_policy(model: Qwen2_5_VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write an ordinary Hugging Face folder with bf16 weights."""
    copy = Qwen2_5_VLForConditionalGeneration(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    preprocessor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "patch_size": 14,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "min_pixels": 4 * 28 * 28,
        "max_pixels": 1024 * 28 * 28,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")
