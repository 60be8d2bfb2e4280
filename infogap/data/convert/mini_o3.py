"""The training sets of Mini-o3: open questions about small things in large photographs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from infogap.data.convert.boxes import clamped
from infogap.data.convert.published import Content, PublishedSource, metadata_of
from infogap.data.convert.search_traces import Ambiguous, JoinKey, SearchTraces, Session, join_key
from infogap.data.convert.texts import answer_text, question_text, with_options
from infogap.data.tables import Record
from infogap.geometry import NestedBoxes, Size


class DeepEyes4K(PublishedSource):
    """DeepEyes_train_4K (Lai et al. 2025, arXiv 2509.07969; Hugging Face Mini-o3/DeepEyes_train_4K).

    Format: ``train.json``, a list of ``images`` (one path), ``doc_id``, ``problem`` ("<image>" and the question),
    ``solution`` and ``data_source``; the images lie in ``data/``, and their paths begin with the name of the data set.
    The answers are sentences, which rules can hardly score.
    """

    name: ClassVar[str] = "deepeyes_4k"
    licence: ClassVar[str] = "CC BY-NC 4.0"
    origin: ClassVar[str] = "huggingface.co/datasets/Mini-o3/DeepEyes_train_4K"
    patterns: ClassVar[tuple[str, ...]] = ("train.json", "*/train.json")
    needed: ClassVar[tuple[str, ...]] = ("images", "problem", "solution")
    wanted: ClassVar[tuple[str, ...]] = ("doc_id", "data_source")
    prefix: ClassVar[str] = "DeepEyes_train_4K"

    def content(self, record: Record) -> Content:
        """The row's question, answer and image."""
        fields = record.fields
        question, answer, options = with_options(
            question_text(fields.get("problem")), answer_text(fields.get("solution"))
        )
        metadata = {"id": fields.get("doc_id"), "data_source": fields.get("data_source")}
        return Content(
            fields.get("images"), question, answer, options, metadata=metadata_of(metadata, ("id", "data_source"))
        )


class VisualProbe(DeepEyes4K):
    """VisualProbe_train (Lai et al. 2025, arXiv 2509.07969; Hugging Face Mini-o3/VisualProbe_train).

    Format: ``train.json``, a list of ``images`` (one path), ``doc_id``, ``problem`` ("<image>" and the question),
    ``solution`` and ``data_source``; the images lie in ``data/``, and their paths begin with the name of the data set.
    The answers are short.

    Boxes can be joined from Human-Search-Traces (Hugging Face YXNiu/Human-Search-Traces), by the image's file name and
    the question. They are clamped to the image, each is evidence of its own, and the session that they are from is
    noted in the metadata as ``search_session``.

    Args:
        root: ``train.json``, or the folder that holds it.
        boxes: file or folder of Human-Search-Traces. Default: no boxes.
        ambiguous: what becomes of search sessions whose task is called ambiguous, ``kept`` or ``left_out``. Default:
            they are left out, since their boxes need not show the evidence.
    """

    name: ClassVar[str] = "visualprobe"
    origin: ClassVar[str] = "huggingface.co/datasets/Mini-o3/VisualProbe_train"
    prefix: ClassVar[str] = "VisualProbe_train"

    def __init__(self, root: Path, boxes: Path | None = None, ambiguous: Ambiguous = Ambiguous.LEFT_OUT) -> None:
        super().__init__(root)
        self.traces = None if boxes is None else SearchTraces(boxes, ambiguous)

    def inputs(self) -> Sequence[Path]:
        """The table, and the files of the boxes.

        Raises:
            TableError: if there is no table, or boxes are asked for and there are none.
        """
        return [*super().inputs(), *(self.traces.tables() if self.traces else ())]

    def content(self, record: Record) -> Content:
        """The row's question, answer and image, and its boxes."""
        content = super().content(record)
        session = self._sessions.get(_key_of(record))
        if session is None:
            return content
        metadata = {**content.metadata, "search_session": session.id}
        boxes = tuple((box,) for box in session.boxes)
        return Content(content.image, content.question, content.answer, content.options, boxes, metadata)

    def evidence(self, boxes: tuple[NestedBoxes, ...], size: Size) -> tuple[NestedBoxes, ...]:
        """The boxes, clamped to the image: they were drawn by hand."""
        return clamped(boxes, size)

    @cached_property
    def _sessions(self) -> dict[JoinKey, Session]:
        """The sessions of the rows, found in a pass of their own that reads no image."""
        if self.traces is None:
            return {}
        return self.traces.join({_key_of(record) for record in self.records(self.tables(), 0)})


def _key_of(record: Record) -> JoinKey:
    images = record.fields.get("images")
    return join_key(images[0] if isinstance(images, list) and images else images, record.fields.get("problem"))
