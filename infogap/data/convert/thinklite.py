"""ThinkLite-VL: questions of many kinds that are hard to reason about."""

from __future__ import annotations

from typing import ClassVar

from infogap.data.convert.faults import DropError, DropReason
from infogap.data.convert.published import Content, PublishedSource, metadata_of
from infogap.data.convert.texts import answer_text, listed_options, question_text, right_option, with_options
from infogap.data.options import split_options
from infogap.data.tables import Record


class ThinkLite(PublishedSource):
    """ThinkLite-VL (Wang et al. 2025, arXiv 2504.07934; Hugging Face russwang/ThinkLite-VL-hard-11k and -70k).

    Format: parquet files with ``image`` (bytes, or a struct with them), ``problem``, ``answer``, ``id`` and in some
    versions ``choices``. Options stand in ``choices`` or in the problem. Some images are smaller than one visual token;
    they are kept here, and a filter leaves them out.
    """

    name: ClassVar[str] = "thinklite"
    licence: ClassVar[str] = "MIT"
    origin: ClassVar[str] = "huggingface.co/datasets/russwang/ThinkLite-VL-hard-11k"
    patterns: ClassVar[tuple[str, ...]] = ("*.parquet", "*/*.parquet")
    needed: ClassVar[tuple[str, ...]] = ("image", "problem", "answer")
    wanted: ClassVar[tuple[str, ...]] = ("id", "choices")

    def content(self, record: Record) -> Content:
        """The row's question, answer and image."""
        fields = record.fields
        question, answer = question_text(fields.get("problem")), answer_text(fields.get("answer"))
        if options := listed_options(fields.get("choices")):
            right = right_option(answer, options)
            if right is None:
                fault = f"the answer {answer!r:.80} is not plainly one of its {len(options)} options, correct it"
                raise DropError(DropReason.BAD_OPTIONS, fault)
            asked = split_options(question)
            question = asked.question if asked is not None and asked.options == options else question
            answer = right
        else:
            question, answer, options = with_options(question, answer)
        return Content(fields.get("image"), question, answer, options, metadata=metadata_of(fields, ("id",)))
