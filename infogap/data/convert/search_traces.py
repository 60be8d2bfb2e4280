"""Boxes around the evidence of VisualProbe's questions, drawn by people who searched for it."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from infogap.data.convert.boxes import read_box
from infogap.data.convert.faults import DropError
from infogap.data.convert.texts import IMAGE_MARK
from infogap.data.tables import Record, find_parts, read_tables
from infogap.geometry import Box

logger = logging.getLogger(__name__)

NAME: Final = "Human-Search-Traces"
PATTERNS: Final = ("*.parquet", "*/*.parquet", "*.jsonl", "*/*.jsonl", "*.json", "*/*.json")


class Ambiguous(StrEnum):
    """What becomes of sessions whose task is called ambiguous."""

    LEFT_OUT = "left_out"
    KEPT = "kept"


class JoinKey(NamedTuple):
    """What a session and a row of VisualProbe must have in common.

    Attributes:
        image: name of the image's file, without folders.
        question: the question, in lower case, with single spaces and without the image's mark.
    """

    image: str
    question: str


@dataclass(frozen=True)
class Session:
    """One search of one person.

    Attributes:
        id: of the session.
        boxes: the final ones, in pixels of the original.
        is_ambiguous: whether the task is called ambiguous.
        confidence: of the evaluation of the task, from 0 to 1; 0 if it is not known.
    """

    id: str
    boxes: tuple[Box, ...]
    is_ambiguous: bool
    confidence: float


@dataclass(frozen=True)
class JoinCounts:
    """What became of the sessions; each is counted once.

    Attributes:
        joined: gave a sample its boxes.
        repeated: are of a sample that got its boxes from another one.
        unmatched: fit no row by image and question.
        without_boxes: end without a box.
        ambiguous: were left out, since their task is called ambiguous.
        unreadable: lack an image, a question or four numbers of a box.
    """

    joined: int = 0
    repeated: int = 0
    unmatched: int = 0
    without_boxes: int = 0
    ambiguous: int = 0
    unreadable: int = 0


class SearchTraces:
    """Human-Search-Traces (Hugging Face YXNiu/Human-Search-Traces, CC BY-NC 4.0), 1144 sessions.

    Format: parquet or JSON lines with ``id``, ``sample_id``, ``image`` (file name), ``question``, ``answer``,
    ``final_bboxes_pixels`` (none to two boxes [x1, y1, x2, y2] in pixels of the original), ``events`` (not read) and
    ``task_evaluation`` (``is_ambiguous``, ``confidence_score``, ...).

    Of several sessions of one sample one is taken: one whose task is not called ambiguous before one whose task is,
    then the highest confidence, then the first id in the order of texts.

    Args:
        root: a file, or the folder that holds the files.
        ambiguous: what becomes of sessions whose task is called ambiguous.

    Attributes:
        counts: what became of the sessions; None before `join`.
    """

    def __init__(self, root: Path, ambiguous: Ambiguous) -> None:
        self.root = root
        self.ambiguous = ambiguous
        self.counts: JoinCounts | None = None

    def tables(self) -> list[Path]:
        """The files that hold the sessions.

        Raises:
            TableError: if there are none.
        """
        return find_parts(self.root, PATTERNS, NAME)

    def join(self, rows: Collection[JoinKey]) -> dict[JoinKey, Session]:
        """The session of each row that has one; the counts are logged.

        Raises:
            TableError: if a file cannot be read or lacks a column.
        """
        counts: Counter[str] = Counter()
        found: dict[JoinKey, Session] = {}
        needed, wanted = ("image", "question", "final_bboxes_pixels"), ("id", "task_evaluation")
        for record in read_tables(self.tables(), needed, wanted):
            key, session = join_key(record.fields.get("image"), record.fields.get("question")), _session(record)
            if fault := self._fault(key, session, rows):
                counts[fault] += 1
            elif session is not None:
                counts["repeated" if key in found else "joined"] += 1
                found[key] = min(found.get(key, session), session, key=_rank)
        self.counts = JoinCounts(**counts)
        told = ", ".join(f"{count} {name}" for name, count in vars(self.counts).items())
        logger.log(logging.WARNING if self.counts.unmatched else logging.INFO, "Sessions of %s: %s.", self.root, told)
        return found

    def _fault(self, key: JoinKey, session: Session | None, rows: Collection[JoinKey]) -> str | None:
        """What keeps a session from giving boxes, as `JoinCounts` calls it."""
        if session is None or not all(key):
            return "unreadable"
        if key not in rows:
            return "unmatched"
        if not session.boxes:
            return "without_boxes"
        return "ambiguous" if session.is_ambiguous and self.ambiguous is Ambiguous.LEFT_OUT else None


def join_key(image: Any, question: Any) -> JoinKey:
    """The key of a row, with "" for what is no text.

    Args:
        image: path or name of the image's file.
        question: the question.
    """
    text = question.replace(IMAGE_MARK, " ") if isinstance(question, str) else ""
    return JoinKey(PurePosixPath(image).name if isinstance(image, str) else "", " ".join(text.split()).casefold())


def _session(record: Record) -> Session | None:
    """The session of a row; None if it cannot be read."""
    boxes = record.fields.get("final_bboxes_pixels")
    evaluation = record.fields.get("task_evaluation")
    evaluation = evaluation if isinstance(evaluation, Mapping) else {}
    confidence = evaluation.get("confidence_score")
    if not isinstance(confidence, int | float) or not math.isfinite(confidence):
        confidence = 0.0
    try:
        read = tuple(read_box(box) for box in boxes or ()) if isinstance(boxes, list | None) else None
    except DropError:
        return None
    name = record.fields.get("id")
    name = name if isinstance(name, str) else record.place
    return None if read is None else Session(name, read, bool(evaluation.get("is_ambiguous")), float(confidence))


def _rank(session: Session) -> tuple[bool, float, str]:
    return session.is_ambiguous, -session.confidence, session.id
