"""``infogap compare RESULT [RESULT ...]``: several evaluations of one benchmark, and what differs between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from infogap.arguments import CommandParser
from infogap.evaluation.bootstrap import Bootstrap, Estimate
from infogap.evaluation.prediction import Prediction
from infogap.evaluation.prediction_file import FILE_NAME, load_predictions
from infogap.evaluation.probes import difference
from infogap.evaluation.report import WIDTH, make_console, to_markdown, to_rich
from infogap.evaluation.results import Number, Results, ResultsError, load_results, unreadable_rule, write_at_once
from infogap.evaluation.sheet import Sheet, arm_place, build_sheets, countable, view_place
from infogap.evaluation.tables import POINTS, UNDEFINED, Table, format_number, split_columns

RESULTS_NAME: Final = "results.json"

COMPARED: Final = frozenset({"policy", "weights"})
"""Fields of the protocol that results are compared for; all others should be the same."""


@dataclass(frozen=True)
class Compared:
    """What one result says of one arm at one view.

    Attributes:
        view: the view.
        arm: the arm.
        name: of the result.
        accuracy: over all its rows.
        difference: its accuracy minus the first result's, over the rows that both have; None for the first, and where
            they share none.
    """

    view: str
    arm: str
    name: str
    accuracy: Number
    difference: Number | None


@dataclass(frozen=True)
class Comparison:
    """Several results side by side.

    Attributes:
        benchmark: of all of them.
        lines: by view, arm and result.
        remarks: sentences on what makes the results less comparable.
    """

    benchmark: str
    lines: tuple[Compared, ...]
    remarks: tuple[str, ...]

    def table(self) -> Table:
        """The lines as a table that fits a terminal."""
        rows = [
            (
                line.name,
                line.view,
                line.arm,
                str(line.accuracy.count),
                format_number(line.accuracy),
                UNDEFINED if line.difference is None else format_number(line.difference, POINTS),
                UNDEFINED if line.difference is None else str(line.difference.count),
            )
            for line in self.lines
        ]
        header = ("Result", "View", "Arm", "Rows", "Accuracy %", "Minus the first, points", "Shared rows")
        return Table(f"{self.benchmark}: accuracy, and paired differences", header, tuple(rows))


def compare(paths: Sequence[Path], names: Sequence[str] = ()) -> Comparison:
    """Compare results with the first of them.

    Args:
        paths: results files, or folders that hold a ``results.json``; beside each lies its ``predictions.jsonl``.
        names: what to call them; default: their folders' names, or the paths where two would be called the same.

    Raises:
        ResultsError: if there is no path, the names are not one for each or not different, a file is missing or
            damaged, the benchmarks differ, or a result shares no row of one arm and view with the first.
        ValueError: if predictions are damaged.
    """
    if not paths:
        msg = "There is nothing to compare: give at least one results.json or its folder."
        raise ResultsError(msg)
    files = [path / RESULTS_NAME if path.is_dir() else path for path in paths]
    called = _names(files, names)
    results = [load_results(file) for file in files]
    for file, result in zip(files, results, strict=True):
        if result.benchmark != results[0].benchmark:
            msg = (
                f"{file} is about {result.benchmark}, {files[0]} about {results[0].benchmark}: "
                "compare results of one benchmark."
            )
            raise ResultsError(msg)
    predictions = [_predictions_beside(file) for file in files]
    counted = [
        countable(rows, unreadable_rule(result.protocol)) for rows, result in zip(predictions, results, strict=True)
    ]
    bootstrap = Bootstrap([prediction.cluster for rows in counted for prediction in rows])
    sheets = [build_sheets(rows, bootstrap) for rows in counted]
    _check_shared(sheets, files)
    remarks = (*_protocol_remarks(called, results), *_gold_remarks(called, counted))
    return Comparison(results[0].benchmark, tuple(_lines(called, sheets)), remarks)


def main(args: Sequence[str]) -> None:
    """Run ``infogap compare``.

    Args:
        args: arguments after the word ``compare``.

    Raises:
        ResultsError: see `compare`.
    """
    parser = CommandParser(
        prog="infogap compare", description="Accuracies of several evaluations, and paired differences from the first."
    )
    parser.add_argument(
        "results", nargs="+", type=Path, metavar="RESULT", help=f"a {RESULTS_NAME}, or the folder that holds it"
    )
    parser.add_argument("--names", nargs="+", default=[], metavar="NAME", help="what to call the results, one for each")
    parser.add_argument("--markdown", type=Path, metavar="OUT", help="also write the table to this file")
    chosen = parser.parse_args(args)
    comparison = compare(chosen.results, chosen.names)
    console = make_console()
    for part in split_columns(comparison.table(), WIDTH):
        console.print(to_rich(part))
    for remark in comparison.remarks:
        console.print(remark, highlight=False, markup=False, soft_wrap=True)
    if chosen.markdown is not None:
        write_at_once(chosen.markdown, "\n\n".join([to_markdown(comparison.table()), *comparison.remarks]) + "\n")


def _names(files: Sequence[Path], names: Sequence[str]) -> list[str]:
    if not names:
        folders = [file.resolve().parent.name for file in files]
        return folders if len(set(folders)) == len(folders) else [str(file) for file in files]
    if len(names) != len(files) or len(set(names)) != len(names):
        msg = f"There are {len(files)} results and the names {list(names)}: give one for each, all different."
        raise ResultsError(msg)
    return list(names)


def _predictions_beside(file: Path) -> list[Prediction]:
    beside = file.with_name(FILE_NAME)
    if not beside.is_file():
        msg = f"There is no {FILE_NAME} beside {file}, which differences are made of: copy it there."
        raise ResultsError(msg)
    return load_predictions(beside)


def _check_shared(sheets: Sequence[Mapping[str, Mapping[str, Sheet]]], files: Sequence[Path]) -> None:
    keys = [
        {(view, arm, key) for view, arms in of_result.items() for arm, sheet in arms.items() for key in sheet.keys}
        for of_result in sheets
    ]
    for file, held in zip(files[1:], keys[1:], strict=True):
        if not held & keys[0]:
            msg = f"{file} and {files[0]} have no row of one arm and view in common: compare runs on the same rows."
            raise ResultsError(msg)


def _lines(names: Sequence[str], sheets: Sequence[Mapping[str, Mapping[str, Sheet]]]) -> Iterator[Compared]:
    views = sorted({view for of_result in sheets for view in of_result}, key=view_place)
    for view in views:
        of_view = [of_result.get(view, {}) for of_result in sheets]
        for arm in sorted({arm for arms in of_view for arm in arms}, key=arm_place):
            first = of_view[0].get(arm)
            for place, (name, arms) in enumerate(zip(names, of_view, strict=True)):
                if arm in arms:
                    gap = difference(arms[arm], first) if place and first else None
                    yield Compared(view, arm, name, Number.of(arms[arm].accuracy), _number_of_rows(gap))


def _number_of_rows(gap: Estimate | None) -> Number | None:
    return Number.of(gap) if gap is not None and gap.count else None


def _protocol_remarks(names: Sequence[str], results: Sequence[Results]) -> Iterator[str]:
    first = dict(_fields(results[0].protocol))
    for name, result in zip(names[1:], results[1:], strict=True):
        fields = dict(_fields(result.protocol))
        differing = [
            field
            for field in dict.fromkeys((*first, *fields))
            if first.get(field) != fields.get(field) and field not in COMPARED
        ]
        if differing:
            listed = "; ".join(f"{f} ({first.get(f)!r}, here {fields.get(f)!r})" for f in differing)
            yield f"The protocol of {name} differs from that of {names[0]} in: {listed}."


def _fields(protocol: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Fields of nested mappings by their dotted names."""
    for name, value in protocol.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _gold_remarks(names: Sequence[str], predictions: Sequence[Sequence[Prediction]]) -> Iterator[str]:
    first = {prediction.key: prediction.gold for prediction in predictions[0]}
    for name, rows in zip(names[1:], predictions[1:], strict=True):
        changed = {p.key for p in rows if first.get(p.key, p.gold) != p.gold}
        if changed:
            yield (
                f"{len(changed)} rows have another right answer in {name} than in {names[0]}, such as "
                f"{min(changed)!r}: their options or files differ."
            )
