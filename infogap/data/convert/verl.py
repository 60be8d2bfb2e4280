"""Parquet files for reinforcement learning with verl, and the data sets that are published as such."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from infogap.data.convert.faults import DropError, DropReason
from infogap.data.convert.published import Content, PublishedSource, metadata_of
from infogap.data.convert.texts import answer_text, question_text, with_options
from infogap.data.tables import Record


class Verl(PublishedSource):
    """Any data set in verl's format (github.com/volcengine/verl, ``verl/utils/dataset/rl_dataset.py``).

    Format: parquet files with ``prompt`` (a list of messages with ``role`` and ``content``), ``images`` (structs of
    ``bytes`` and ``path``, or of ``image``, or paths below the folder), ``reward_model`` (``ground_truth``), and often
    ``extra_info`` (``question``, ``answer``, ``id``, ``index``), ``data_source``, ``ability``.

    Question: ``extra_info.question``; where it has no options and the prompt has, or where there is none, what the last
    message of the user says. Answer: ``reward_model.ground_truth``, else ``extra_info.answer``.
    """

    name: ClassVar[str] = "verl"
    licence: ClassVar[str] = "not declared"
    origin: ClassVar[str] = "local files"
    patterns: ClassVar[tuple[str, ...]] = ("*.parquet", "*/*.parquet")
    needed: ClassVar[tuple[str, ...]] = ("images", "reward_model")
    wanted: ClassVar[tuple[str, ...]] = (
        "prompt",
        "extra_info",
        "data_source",
        "ability",
        "env_name",
        "agent_name",
        "groundtruth_complete",
        "videos",
    )

    def content(self, record: Record) -> Content:
        """The row's question, answer and image."""
        fields = record.fields
        if fields.get("videos"):
            raise DropError(DropReason.VIDEO, "it has videos, which cannot be trained on, remove the row")
        extra, truth = _struct(fields, "extra_info"), _struct(fields, "reward_model").get("ground_truth")
        answer = answer_text(extra.get("answer") if truth is None or truth == "" else truth)
        question, answer, options = _asked(extra.get("question"), fields.get("prompt"), answer)
        names = ("data_source", "ability", "env_name", "agent_name", "groundtruth_complete")
        metadata = metadata_of(extra, ("id", "index", "split")) | metadata_of(fields, names)
        return Content(fields.get("images"), question, answer, options, metadata=metadata)


class DeepEyes(Verl):
    """DeepEyes-Datasets-47k (Zheng et al. 2025, arXiv 2505.14362; Hugging Face ChenShawn/DeepEyes-Datasets-47k).

    Format: three parquet files in verl's format, with embedded images: ``data_0.1.2_visual_toolbox_v2`` (22,362 rows,
    photographs of V*'s training set), ``data_v0.8_visual_toolbox_v2`` (13,659, charts) and
    ``data_thinklite_reasoning_acc`` (11,031). Question: ``extra_info.question``; where it has no options and the prompt
    has, or where there is none, what the last message of the user says. Answer: ``reward_model.ground_truth``, else
    ``extra_info.answer``. Many answers are sentences, which rules can hardly score.
    """

    name: ClassVar[str] = "deepeyes"
    licence: ClassVar[str] = "Apache-2.0 (according to a consumer's script)"
    origin: ClassVar[str] = "huggingface.co/datasets/ChenShawn/DeepEyes-Datasets-47k"


class ChainOfFocus(Verl):
    """CoF-RL-Data (Zhang et al. 2025, arXiv 2505.15436; Hugging Face xintongzhang/CoF-RL-Data).

    Format: ``train.parquet`` in verl's format, images as ``{"image": "./images/NAME"}`` with the files in
    ``images.zip``. The prompt ends in a request that begins with "Think in the mind first", which is left out. Answer:
    ``reward_model.ground_truth``.
    """

    name: ClassVar[str] = "cof"
    origin: ClassVar[str] = "huggingface.co/datasets/xintongzhang/CoF-RL-Data"
    patterns: ClassVar[tuple[str, ...]] = ("train.parquet", "*.parquet", "*/*.parquet")
    archive_patterns: ClassVar[tuple[str, ...]] = ("images*.zip",)
    prefix: ClassVar[str] = "images"


def _asked(short: Any, prompt: Any, answer: str) -> tuple[str, str, tuple[str, ...]]:
    """Question, answer and options, from the question alone or from the prompt that holds it."""
    prompted = _last_user_message(prompt)
    if not isinstance(short, str) or not short.strip():
        return with_options(question_text(prompted), answer)
    asked = with_options(question_text(short), answer)
    if asked[2] or prompted is None:
        return asked
    from_prompt = with_options(question_text(prompted), answer)
    return from_prompt if from_prompt[2] else asked


def _last_user_message(prompt: Any) -> str | None:
    """What the last message of the user says, without what is no text; None if there is none."""
    if isinstance(prompt, str):
        return prompt
    messages = prompt if isinstance(prompt, list) else []
    contents = [m.get("content") for m in messages if isinstance(m, Mapping) and m.get("role") == "user"]
    content = contents[-1] if contents else None
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        content = "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else None


def _struct(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = fields.get(name)
    return value if isinstance(value, Mapping) else {}
