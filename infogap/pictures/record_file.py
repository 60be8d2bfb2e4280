"""Records as lines of JSON: what `EpisodeLogger` writes beside a run, and what the viewer reads."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from infogap.geometry import Box, NestedBoxes, Size
from infogap.pictures.record import EpisodeRecord, TurnRecord
from infogap.types import StopReason

logger = logging.getLogger(__name__)

EPISODE_FOLDER: Final = "episodes"
"""Folder of a run in which every rank writes its episodes, into `rank_<rank>.jsonl`."""


class EpisodeFileError(ValueError):
    """A file of episodes that cannot be read; the message names the file and the line."""


def record_line(record: EpisodeRecord) -> str:
    """A record as a line of JSON in plain ASCII.

    Boxes are [x1, y1, x2, y2] in pixels of the original, sizes [width, height] in pixels; numbers that JSON cannot
    write become null. The first key is `rollout_step`, by which a resumed run finds the lines that it plays again.
    """
    values: dict[str, Any] = {
        "rollout_step": record.rollout_step,
        "group": record.group,
        "episode": record.episode,
        "sample": record.sample,
        "question": record.question,
        "options": list(record.options),
        "expected_answer": record.expected_answer,
        "evidence": [[list(box.as_tuple()) for box in chain] for chain in record.evidence],
        "view_size": record.view_size and list(record.view_size),
        "original_size": list(record.original_size),
        "turns": [_turn_values(turn) for turn in record.turns],
        "answer": record.answer,
        "stop_reason": record.stop_reason and record.stop_reason.value,
        "policy_tokens": record.policy_tokens,
        "visual_tokens": record.visual_tokens,
        "rewards": dict(record.rewards),
        "total": record.total,
        "advantage": record.advantage,
    }
    return json_line(values)


def json_line(values: Mapping[str, Any]) -> str:
    """A line of JSON in plain ASCII; numbers that JSON cannot write become null."""
    return json.dumps(_finite(dict(values)), allow_nan=False) + "\n"


def read_records(path: Path) -> list[EpisodeRecord]:
    """Read a file of records, in their order.

    A last line that has no line end is being written by a running run, or was torn when it was killed: it is left out,
    and a log message says so. Lines of version 0.1.0, which say nothing of the size at which a crop was shown, are
    read.

    Raises:
        EpisodeFileError: if there is no such file, or a line of it is no record.
    """
    if not path.is_file():
        raise EpisodeFileError(f"There is no file of episodes {path}: correct the path.")
    records = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                logger.warning("The last line of %s is incomplete and left out: it is still being written.", path)
                break
            try:
                records.append(parse_record(json.loads(line)))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                raise EpisodeFileError(
                    f"Line {number} of {path} is no episode ({_reason(error)}): remove the line, or name another file."
                ) from error
    return records


def parse_record(values: Mapping[str, Any]) -> EpisodeRecord:
    """The record of a line's JSON value.

    Raises:
        ValueError: if a value is missing, or of the wrong kind.
    """
    if not isinstance(values, dict):
        raise ValueError(f"it is a {type(values).__name__} and no object")
    ending = values["stop_reason"]
    return EpisodeRecord(
        rollout_step=_number(values, "rollout_step"),
        group=_number(values, "group"),
        episode=_number(values, "episode"),
        sample=_text(values, "sample"),
        question=_text(values, "question"),
        options=tuple(map(str, values["options"])),
        expected_answer=_text_or_none(values, "expected_answer"),
        evidence=tuple(_chain(chain) for chain in values["evidence"]),
        view_size=None if values["view_size"] is None else _size(values["view_size"]),
        original_size=_size(values["original_size"]),
        turns=tuple(_turn(turn) for turn in values["turns"]),
        answer=_text_or_none(values, "answer"),
        stop_reason=None if ending is None else StopReason(ending),
        policy_tokens=_number(values, "policy_tokens"),
        visual_tokens=_number(values, "visual_tokens"),
        rewards={str(name): _score(value) for name, value in values["rewards"].items()},
        total=_score(values["total"]),
        advantage=_score(values["advantage"]),
    )


def _turn_values(turn: TurnRecord) -> dict[str, Any]:
    return {
        "text": turn.text,
        "observation": turn.observation,
        "crop": turn.crop and list(turn.crop.as_tuple()),
        "error": turn.error,
        "shown": turn.shown and list(turn.shown),
    }


def _turn(values: Mapping[str, Any]) -> TurnRecord:
    crop, shown = values["crop"], values.get("shown")
    return TurnRecord(
        text=_text(values, "text"),
        observation=_text_or_none(values, "observation"),
        crop=None if crop is None else _box(crop),
        error=_text_or_none(values, "error"),
        shown=None if shown is None else _size(shown),
    )


def _chain(boxes: list[list[float]]) -> NestedBoxes:
    if not boxes:
        raise ValueError("a chain of its evidence has no box")
    return tuple(map(_box, boxes))


def _box(corners: list[float]) -> Box:
    return Box(*map(_float, corners))


def _size(sides: list[int]) -> Size:
    width, height = sides
    if type(width) is not int or type(height) is not int or min(width, height) < 1:
        raise ValueError(f"{sides!r:.40} is no size")
    return Size(width, height)


def _text(values: Mapping[str, Any], name: str) -> str:
    if not isinstance(values[name], str):
        raise ValueError(f"{name} is {values[name]!r:.40} and no text")
    return str(values[name])


def _text_or_none(values: Mapping[str, Any], name: str) -> str | None:
    return None if values[name] is None else _text(values, name)


def _number(values: Mapping[str, Any], name: str) -> int:
    if type(values[name]) is not int:
        raise ValueError(f"{name} is {values[name]!r:.40} and no whole number")
    if values[name] < 0:
        raise ValueError(f"{name} is {values[name]!r:.40} and below 0")
    return int(values[name])


def _score(value: float | None) -> float | None:
    """A number; None for one that is not finite, which JSON has no word for though some programs write it."""
    score = None if value is None else _float(value)
    return None if score is None or not math.isfinite(score) else score


def _float(value: float) -> float:
    """A number of JSON, where a whole one has no limit."""
    if type(value) not in (int, float):
        raise ValueError(f"{value!r:.40} is no number")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _reason(error: Exception) -> str:
    return f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error).rstrip(".")


def _finite(value: Any) -> Any:
    """The same JSON value with None for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
