"""``predictions.jsonl``: one line an episode, appended batch by batch, so that a killed evaluation goes on.

The first line is a header that says how everything was played; lines of another header do not belong into the file.
Lines are only ever appended. A last line without its line end was torn by a kill and is dropped; a row of which lines
are missing is played again, and of two lines for one episode the last counts.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast, get_type_hints

from infogap.evaluation.prediction import Prediction
from infogap.evaluation.question import BenchmarkError
from infogap.evaluation.sheet import UNREADABLE

SCHEMA = 1
FILE_NAME = "predictions.jsonl"

Place = tuple[str, str, str, int]
"""Row, view, arm and attempt: what one line is about."""

_TYPES = get_type_hints(Prediction)


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        protocol: its header: how everything was played.
        predictions: its lines, by what they are about.
    """

    protocol: Mapping[str, Any]
    predictions: Mapping[Place, Prediction]


def place_of(prediction: Prediction) -> Place:
    """What a prediction is about."""
    return prediction.key, prediction.view, prediction.arm, prediction.attempt


class PredictionFile:
    """Appends predictions. Use it as a context manager; one process writes one file.

    Args:
        path: the file; made with its folder if it does not exist.
        protocol: how everything is played, as JSON values.

    Attributes:
        predictions: what the file holds, by what it is about.

    Raises:
        BenchmarkError: if the file was made under another protocol, or a line of it is damaged.
    """

    def __init__(self, path: Path, protocol: Mapping[str, Any]) -> None:
        self.path = path
        self.predictions: dict[Place, Prediction] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        try:
            self._begin(protocol)
        except BaseException:
            self.close()
            raise

    def _begin(self, protocol: Mapping[str, Any]) -> None:
        _lock(cast(BinaryIO, self._file), self.path)
        whole = _whole_lines(self.path)
        if whole:
            found = _parse(whole, self.path)
            _check_protocol(found.protocol, json.loads(json.dumps(dict(protocol))), self.path)
            self.predictions.update(found.predictions)
        os.truncate(self.path, len(whole))  # otherwise the next line would be appended to a torn one
        if not whole:
            self._write([{"schema": SCHEMA, "protocol": dict(protocol)}])

    def append(self, predictions: Sequence[Prediction]) -> None:
        """Write the predictions of a batch; they are on disk when this returns."""
        self._write(dataclasses.asdict(prediction) for prediction in predictions)
        self.predictions.update({place_of(prediction): prediction for prediction in predictions})

    def holds(self, places: Iterable[Place]) -> bool:
        """Whether all of these are done; a row that was unreadable may have been mended."""
        found = [self.predictions.get(place) for place in places]
        return all(prediction is not None and prediction.method != UNREADABLE for prediction in found)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, lines: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
        self._file.write(text.encode(errors="replace"))  # a byte-level policy can write half a character
        os.fsync(self._file.fileno())


def load_predictions(path: Path) -> list[Prediction]:
    """Read the predictions of a file.

    Raises:
        BenchmarkError: if there is no such file, it is no predictions file, or a line of it is damaged.
    """
    return list(load_contents(path).predictions.values())


def load_contents(path: Path) -> Contents:
    """Read a file with its header; errors as in ``load_predictions``."""
    if not path.is_file():
        raise BenchmarkError(f"There is no predictions file {path}: run the evaluation first, or correct the path.")
    whole = _whole_lines(path)
    if not whole:
        raise BenchmarkError(f"The predictions file {path} is empty: remove it and run the evaluation again.")
    return _parse(whole, path)


def _whole_lines(path: Path) -> bytes:
    """The file without a torn last line; nothing if there is none."""
    data = path.read_bytes() if path.exists() else b""
    return data[: data.rfind(b"\n") + 1]


def _parse(data: bytes, path: Path) -> Contents:
    lines = data.split(b"\n")[:-1]
    try:
        header = json.loads(lines[0])
        if header["schema"] != SCHEMA:
            raise ValueError(f"its schema is {header['schema']!r}, but this version reads {SCHEMA}")
        protocol = dict(header["protocol"])
    except (ValueError, TypeError, KeyError) as error:
        raise BenchmarkError(
            f"{path} is no predictions file ({type(error).__name__}: {error}): name another folder for the results."
        ) from error
    predictions: dict[Place, Prediction] = {}
    for number, line in enumerate(lines[1:], 2):
        try:
            prediction = _read(json.loads(line))
        except (ValueError, TypeError, KeyError) as error:
            raise BenchmarkError(
                f"Line {number} of {path} is damaged ({type(error).__name__}: {error}): remove the line, and its row "
                "is played again."
            ) from error
        predictions[place_of(prediction)] = prediction
    return Contents(protocol, predictions)


def _read(line: Any) -> Prediction:
    """One line. Tuples were written as lists."""
    if not isinstance(line, dict):
        raise TypeError("it is no object")
    for name, value in line.items():
        if name not in _TYPES:
            raise ValueError(f"the field {name!r} is unknown")
        needed = _TYPES[name]
        if needed in (str, int, bool, float) and not isinstance(value, (int, float) if needed is float else needed):
            raise TypeError(f"the field {name!r} is {value!r}")
    line["turns"] = tuple(line.get("turns", ()))
    line["crops"] = tuple(tuple(crop) for crop in line.get("crops", ()))
    return Prediction(**line)


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise BenchmarkError(
            f"{path} is being written by another run: wait for it, or give model.output another folder."
        ) from error


def _check_protocol(found: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    changed = [
        f"{name} {found.get(name)!r:.60} instead of {wanted.get(name)!r:.60}"
        for name in sorted({*found, *wanted})
        if found.get(name) != wanted.get(name)
    ]
    if changed:
        raise BenchmarkError(
            f"{path} was made with {'; '.join(changed)}: give model.output another folder, or remove this file."
        )
