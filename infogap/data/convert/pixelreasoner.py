"""Pixel Reasoner: questions about details of pictures and videos."""

from __future__ import annotations

from typing import ClassVar

from infogap.data.convert.faults import DropError, DropReason
from infogap.data.convert.published import Content, PublishedSource, metadata_of
from infogap.data.convert.texts import answer_text, question_text, with_options
from infogap.data.tables import Record


class PixelReasoner(PublishedSource):
    r"""PixelReasoner-RL-Data (Su et al. 2025, arXiv 2505.15966; Hugging Face TIGER-Lab/PixelReasoner-RL-Data).

    Format: ``release.parquet`` with ``question``, ``answer`` (a list with one ``\boxed{...}``), ``image`` (a list of
    paths), ``is_video`` (True, False, or None for some pictures) and ``qid``; pictures in ``images.zip``. Rows of
    videos and of several pictures make no samples, so that ``videos.zip`` is not needed.
    """

    name: ClassVar[str] = "pixelreasoner"
    licence: ClassVar[str] = "not declared"
    origin: ClassVar[str] = "huggingface.co/datasets/TIGER-Lab/PixelReasoner-RL-Data"
    patterns: ClassVar[tuple[str, ...]] = ("release.parquet", "*.parquet")
    needed: ClassVar[tuple[str, ...]] = ("question", "answer", "image")
    wanted: ClassVar[tuple[str, ...]] = ("is_video", "qid")
    archive_patterns: ClassVar[tuple[str, ...]] = ("images*.zip",)
    prefix: ClassVar[str] = "images"

    def content(self, record: Record) -> Content:
        """The row's question, answer and image."""
        fields = record.fields
        if fields.get("is_video"):
            raise DropError(DropReason.VIDEO, "it shows a video, which cannot be trained on, remove the row")
        question, answer, options = with_options(
            question_text(fields.get("question")), answer_text(fields.get("answer"))
        )
        return Content(fields.get("image"), question, answer, options, metadata=metadata_of(fields, ("qid",)))
