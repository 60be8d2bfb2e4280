"""What TRL is given to do as our side does: texts through a chat template, images, and an environment that crops."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from datasets import Dataset
from model_shapes import read_tokenizer
from step_settings import BOX, Settings, right_and_wrong
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from infogap.data.sample import Sample
from infogap.episode.protocol import IMAGE_PLACEHOLDER, TOOL_NAME, Protocol
from infogap.episode.tool import OwnCrop
from infogap.geometry import Box, Size
from infogap.policy.loading import NEEDLE_POLICY

CALL = {"type": "function", "function": {"name": TOOL_NAME, "arguments": {"bbox_2d": [BOX.x1, BOX.y1, BOX.x2, BOX.y2]}}}


class ImageProcessor(Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor without its video part, which torchvision would be needed for."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        """What it is made of."""
        return ["image_processor", "tokenizer"]


def chat_template(protocol: Protocol) -> str:
    """A template that renders a conversation as our protocol does.

    The text after a call begins with the stop token, which a forced turn lacks. TRL cuts the text of the call itself
    off behind the stop token there, so that a second one remains.
    """
    before, after = protocol.observation("", with_image=True, closed=False).split(IMAGE_PLACEHOLDER)
    assistant = "<|im_start|>assistant\n"
    after = after.removesuffix(assistant)
    parts = (
        "{% if m['content'] is string %}{{ m['content'] }}{% elif m['content'] %}{% for p in m['content'] %}"
        "{% if p['type'] == 'image' %}"
        + IMAGE_PLACEHOLDER
        + "{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}"
    )
    return (
        "{% for m in messages %}{% if m['role'] == 'tool' %}{{ "
        + f"{json.dumps(before)} }}}}{parts}{{{{ {json.dumps(after)}"
        + " }}{% elif m['tool_calls'] %}{{ "
        + f"{json.dumps(assistant)} }}}}{parts}{{{{ m['tool_calls'] | tojson }}}}<|im_end|>"
        + "{% else %}<|im_start|>{{ m['role'] + '\n' }}"
        + parts
        + "{{ '<|im_end|>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ "
        + json.dumps(assistant)
        + " }}{% endif %}"
    )


def build_processor(protocol: Protocol) -> ImageProcessor:
    """Tokenizer and image processor with our chat template."""
    tokenizer = read_tokenizer()
    tokenizer.response_template = {}  # there is one, so TRL looks for none; its parser is replaced in any case
    images = Qwen2VLImageProcessorPil.from_pretrained(NEEDLE_POLICY, local_files_only=True)
    return ImageProcessor(images, tokenizer, chat_template=chat_template(protocol))


def build_rows(protocol: Protocol, batches: Sequence[Sequence[Sample]], settings: Settings) -> Dataset:
    """The samples as TRL reads them: messages, the view, and a key for the environment.

    Views are handed over decoded. TRL reads a row once for every episode and every pass, and would decode it each time.
    """
    rows, views = [], {}
    for sample in (sample for batch in batches for sample in batch):
        text = protocol.prompt(sample.question, sample.options, tool=True)
        messages = [
            {"role": role, "content": list(_parts(content))}
            for role, content in re.findall(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", text, re.DOTALL)
        ]
        views[sample.key] = sample.image.view(settings.view_tokens)
        rows.append({"prompt": messages, "key": sample.key})
    return Dataset.from_list(rows).with_transform(lambda found: found | {"image": [views[k] for k in found["key"]]})


def _parts(content: str) -> Iterator[dict[str, str]]:
    for text in re.split(f"({re.escape(IMAGE_PLACEHOLDER)})", content):
        if text:
            yield {"type": "image", "text": ""} if text == IMAGE_PLACEHOLDER else {"type": "text", "text": text}


def environment_of(samples: Mapping[str, Sample], settings: Settings) -> Callable[[], Any]:
    """An environment with the one tool that crops."""
    tool = OwnCrop(settings.crop_tokens, settings.crop_tokens)

    class CropEnvironment:
        def reset(self, key: str, **_: Any) -> None:
            self.sample = samples[key]

        def image_zoom_in_tool(self, bbox_2d: list[float]) -> list:
            """Zoom in.

            Args:
                bbox_2d: the region, in thousandths of the sides.
            """
            size: Size = self.sample.image.size
            x1, y1, x2, y2 = (value / 1000 * side for value, side in zip(bbox_2d, (*size, *size), strict=True))
            return [{"type": "image", "image": tool.look(self.sample, Box(x1, y1, x2, y2))}]

    return CropEnvironment


def half_are_right(completions: Sequence[Any], **_: Any) -> list[float]:
    """Rewards as different within a group as on our side."""
    right = right_and_wrong()
    return [float(next(right)) for _ in completions]
