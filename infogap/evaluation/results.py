"""The numbers of one evaluation, and ``results.json``, the file that holds them.

The file is strict JSON::

    {"schema": 1, "benchmark": NAME, "protocol": {...}, "counts": {...},
     "views": {VIEW: {"arms": {ARM: {METRIC: NUMBER}}, "categories": {CATEGORY: {ARM: NUMBER}},
                      "evidence_size": {BIN: {ARM: NUMBER}}, "scores": {ARM: {SCORE: NUMBER}},
                      "probes": {PROBE: NUMBER}}}}

with a NUMBER ``{"value": x, "low": x, "high": x, "count": rows}``: the ends of its 95 % interval, and the rows that it
rests on. What is not defined is null.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from infogap.evaluation.benchmarks.base import Benchmark
from infogap.evaluation.bootstrap import Bootstrap, Estimate
from infogap.evaluation.judge import UNCLEAR
from infogap.evaluation.metrics import accuracy_by_category, accuracy_by_evidence_size, measure
from infogap.evaluation.prediction import Prediction
from infogap.evaluation.probes import probe
from infogap.evaluation.question import UNANSWERED, UNMATCHED
from infogap.evaluation.sheet import UNREADABLE, Sheet, Unreadable, build_sheets, countable

SCHEMA: Final = 1
"""Version of the file's format."""

SHOWN_REASONS: Final = 20
"""How many unreadable rows the results name, with their reasons."""


class ResultsError(ValueError):
    """Results that cannot be made, read or compared; the message names the file."""


@dataclass(frozen=True)
class Number:
    """A number as results hold it; NaN where it is not defined.

    Attributes:
        value: the number.
        low: lower end of its 95 % interval.
        high: upper end.
        count: rows that it rests on.
    """

    value: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, estimate: Estimate) -> Number:
        """Value and interval of an estimate."""
        return cls(estimate.value, *estimate.interval, estimate.count)


Numbers = Mapping[str, Number]
"""Numbers by name."""


@dataclass(frozen=True)
class ViewResults:
    """The numbers of one view.

    Attributes:
        arms: metrics by arm, see `infogap.evaluation.metrics.measure`.
        categories: accuracy by category, then arm.
        evidence_size: accuracy by bin of evidence size, then arm.
        scores: the benchmark's own scores by arm; only arms that have any.
        probes: see `infogap.evaluation.probes.probe`.
    """

    arms: Mapping[str, Numbers]
    categories: Mapping[str, Numbers]
    evidence_size: Mapping[str, Numbers]
    scores: Mapping[str, Numbers]
    probes: Numbers


@dataclass(frozen=True)
class Results:
    """The numbers of one evaluation.

    Attributes:
        benchmark: its name.
        protocol: how it was run, as JSON values. ``unreadable`` says what rows are that could not be read: "wrong"
            (the default) or "excluded".
        counts: ``rows``, ``clusters``; ``episodes`` that were played, ``unanswered``, ``unmatched`` and
            ``judge_unclear`` ones among them; ``unreadable`` rows, and ``unreadable_reasons`` of the first ones: a list
            of their key and reason.
        views: numbers by view.
    """

    benchmark: str
    protocol: Mapping[str, Any]
    counts: Mapping[str, Any]
    views: Mapping[str, ViewResults]

    @classmethod
    def of(cls, predictions: Sequence[Prediction], benchmark: Benchmark, protocol: Mapping[str, Any]) -> Results:
        """Compute all numbers.

        Args:
            predictions: of any arms and views, in any order.
            benchmark: the benchmark, for its name and its own scores.
            protocol: JSON values, recorded with the numbers; ``unreadable`` in it counts as said above.

        Raises:
            ResultsError: if there is no prediction, or ``unreadable`` is something else.
            ValueError: if an episode is there twice.
        """
        if not predictions:
            msg = f"There is no prediction of {benchmark.name} to make results of: run the evaluation first."
            raise ResultsError(msg)
        unreadable = unreadable_rule(protocol)
        counted = countable(predictions, unreadable)
        sheets = build_sheets(counted, Bootstrap([prediction.cluster for prediction in counted]))
        return cls(
            benchmark=benchmark.name,
            protocol={**protocol, "unreadable": unreadable},
            counts=_counts(predictions),
            views={view: _view_results(arms, benchmark.scores) for view, arms in sheets.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """What the file holds, with None for what is not defined."""
        plain: dict[str, Any] = _without_nan({"schema": SCHEMA, **asdict(self)})
        return plain

    def write(self, path: Path) -> None:
        """Write the file at once: it never holds half of the results.

        Raises:
            ResultsError: if the protocol holds something that is no JSON value.
        """
        try:
            text = json.dumps(self.to_json(), indent=1, allow_nan=False, ensure_ascii=False)
        except (TypeError, ValueError) as error:
            msg = f"The protocol for {path} holds what JSON cannot ({error}): give it plain values."
            raise ResultsError(msg) from error
        write_at_once(path, text + "\n")


def unreadable_rule(protocol: Mapping[str, Any]) -> Unreadable:
    """What a protocol says of rows that could not be read.

    Raises:
        ResultsError: if it is neither "wrong" nor "excluded".
    """
    match protocol.get("unreadable", "wrong"):
        case "wrong":
            return "wrong"
        case "excluded":
            return "excluded"
        case other:
            msg = f"The protocol says that unreadable rows are {other!r}: say 'wrong' or 'excluded'."
            raise ResultsError(msg)


def write_at_once(path: Path, text: str) -> None:
    """Write a text file beside its place, then move it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def load_results(path: Path) -> Results:
    """Read a results file.

    Raises:
        ResultsError: if it is missing, damaged, or of another version.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text, parse_constant=_refuse_constant)
        if content["schema"] != SCHEMA:
            msg = f"The results {path} have schema {content['schema']!r}, not {SCHEMA}: run the evaluation again."
            raise ResultsError(msg)
        protocol, counts = content["protocol"], content["counts"]
        if not (isinstance(protocol, dict) and isinstance(counts, dict) and isinstance(content["benchmark"], str)):
            raise TypeError("protocol, counts or benchmark")
        views = {name: _read_view(view) for name, view in content["views"].items()}
        return Results(content["benchmark"], protocol, counts, views)
    except FileNotFoundError as error:
        msg = f"There are no results at {path}: give the results.json of an evaluation, or its folder."
        raise ResultsError(msg) from error
    except ResultsError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        msg = f"The results {path} are damaged ({type(error).__name__}: {error}): run the evaluation again."
        raise ResultsError(msg) from error


def _view_results(sheets: Mapping[str, Sheet], scores: Callable[[Sheet], Mapping[str, Estimate]]) -> ViewResults:
    own_scores = {arm: scores(sheet) for arm, sheet in sheets.items()}
    return ViewResults(
        arms={arm: _numbers(measure(sheet)) for arm, sheet in sheets.items()},
        categories=_by_name({arm: _numbers(accuracy_by_category(sheet)) for arm, sheet in sheets.items()}),
        evidence_size=_by_name({arm: _numbers(accuracy_by_evidence_size(sheet)) for arm, sheet in sheets.items()}),
        scores={arm: _numbers(of_arm) for arm, of_arm in own_scores.items() if of_arm},
        probes=_numbers(probe(sheets)),
    )


def _numbers(estimates: Mapping[str, Estimate]) -> dict[str, Number]:
    return {name: Number.of(estimate) for name, estimate in estimates.items()}


def _by_name(by_arm: Mapping[str, Numbers]) -> dict[str, Numbers]:
    """Name, then arm, instead of arm, then name."""
    names = dict.fromkeys(name for numbers in by_arm.values() for name in numbers)
    return {name: {arm: numbers[name] for arm, numbers in by_arm.items() if name in numbers} for name in names}


def _counts(predictions: Iterable[Prediction]) -> dict[str, Any]:
    listed = list(predictions)
    reasons: dict[str, str] = {}
    for prediction in listed:
        if prediction.method == UNREADABLE:
            reasons.setdefault(prediction.key, prediction.reason)
    methods = [prediction.method for prediction in listed]
    return {
        "rows": len({prediction.key for prediction in listed}),
        "clusters": len({prediction.cluster for prediction in listed}),
        "episodes": len(listed) - methods.count(UNREADABLE),
        "unanswered": methods.count(UNANSWERED.method),
        "unmatched": methods.count(UNMATCHED.method),
        "judge_unclear": methods.count(UNCLEAR.method),
        "unreadable": len(reasons),
        "unreadable_reasons": [{"key": key, "reason": reason} for key, reason in list(reasons.items())[:SHOWN_REASONS]],
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_view(view: Mapping[str, Any]) -> ViewResults:
    def group(name: str) -> dict[str, Numbers]:
        return {inner: _read_numbers(numbers) for inner, numbers in view[name].items()}

    return ViewResults(
        group("arms"), group("categories"), group("evidence_size"), group("scores"), _read_numbers(view["probes"])
    )


def _read_numbers(numbers: Mapping[str, Mapping[str, Any]]) -> dict[str, Number]:
    return {
        name: Number(
            _read_float(number["value"]), _read_float(number["low"]), _read_float(number["high"]), int(number["count"])
        )
        for name, number in numbers.items()
    }


def _read_float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _refuse_constant(name: str) -> float:
    msg = f"{name} is no JSON value"
    raise ValueError(msg)
