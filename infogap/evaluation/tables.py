"""Results as tables of text, which the terminal and the Markdown report both show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from infogap.evaluation.probes import DIFFERENCES, FACTORS
from infogap.evaluation.results import Number, Numbers, Results, ViewResults

UNDEFINED: Final = "\N{EN DASH}"
"""Stands for a number that is not defined."""


@dataclass(frozen=True)
class Style:
    """How a kind of number is written.

    Attributes:
        unit: what follows the number's name in a table.
        scale: what the number is multiplied by.
        digits: after the decimal point.
        signed: whether a positive number has a plus sign, as differences do.
    """

    unit: str
    scale: float
    digits: int
    signed: bool = False


PERCENT: Final = Style("%", 100, 1)
POINTS: Final = Style("points", 100, 1, signed=True)
NATS: Final = Style("nats", 1, 3, signed=True)
COUNT: Final = Style("", 1, 2)
TOKENS: Final = Style("tokens", 1, 0)
SECONDS: Final = Style("s", 1, 2)

STYLES: Final[Mapping[str, Style]] = {
    **dict.fromkeys(("crops", "turns", "bad_calls"), COUNT),
    **dict.fromkeys(("view_tokens", "crop_tokens", "visual_tokens", "policy_tokens"), TOKENS),
    **dict.fromkeys(("seconds_median", "seconds_p90"), SECONDS),
    **dict.fromkeys((*DIFFERENCES, "leakage"), POINTS),
    **dict.fromkeys(("information_gain", "placebo_gain", "information_gain_over_placebo"), NATS),
}
"""Styles of the metrics and probes that are not plain shares."""

OVERVIEW: Final[Mapping[str, str]] = {
    "tool_rate": "Tool\nrate %",
    "crops": "Crops",
    "coverage_above_tau": "Covers\n>0.9 %",
    "iou": "IoU %",
    "area_ratio": "Crop\narea %",
    "visual_tokens": "Visual\ntokens",
    "seconds_median": "Time\ns",
}
"""Metrics of the terminal's table beside the accuracy, and their headings there: what fits into 100 columns."""


@dataclass(frozen=True)
class Table:
    """A table of text. The first column holds names, the others numbers.

    Attributes:
        title: what it shows, units included.
        header: headings of the columns.
        rows: cells, row by row.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def format_number(number: Number | None, style: Style = PERCENT, interval: bool = True) -> str:
    """Write a number, with its 95 % interval if it has one, such as ``78.0 [72.3, 83.5]``.

    Args:
        number: None or NaN is written as `UNDEFINED`.
        style: scale, digits and sign.
        interval: whether to write the interval.
    """
    if number is None or math.isnan(number.value):
        return UNDEFINED

    def write(value: float) -> str:
        rounded = round(style.scale * value, style.digits) + 0.0  # a rounded -0.0 becomes 0.0
        return f"{rounded:{'+' if style.signed and rounded else ''}.{style.digits}f}"

    if not interval or math.isnan(number.low):
        return write(number.value)
    return f"{write(number.value)} [{write(number.low)}, {write(number.high)}]"


def style_of(name: str) -> Style:
    """How a metric or probe is written: a share in percent unless `STYLES` says otherwise."""
    return STYLES.get(name, PERCENT)


def overview(view: str, numbers: ViewResults) -> Table:
    """Accuracy of every arm of a view with its interval, and what it took; at most 100 columns wide.

    A metric that is defined for no arm, such as the time of arms that were played together, has no column.
    """
    shown = [name for name in OVERVIEW if any(_is_defined(metrics.get(name)) for metrics in numbers.arms.values())]
    rows = [
        (
            arm,
            str(metrics["accuracy"].count),
            format_number(metrics["accuracy"]),
            *(format_number(metrics.get(name), style_of(name), interval=False) for name in shown),
        )
        for arm, metrics in numbers.arms.items()
    ]
    return Table(f"View {view}", ("Arm", "Rows", "Accuracy %", *(OVERVIEW[name] for name in shown)), tuple(rows))


def probes(views: Mapping[str, ViewResults]) -> Table:
    """All probes but the factors of MED's terms, a column for every view."""
    return _side_by_side("Probes by view", _probes_of(views, factors=False))


def factors(views: Mapping[str, ViewResults]) -> Table:
    """The factors of MED's terms, a column for every view."""
    return _side_by_side("Factors of the gains and harms by view", _probes_of(views, factors=True))


def metrics(view: str, numbers: ViewResults) -> Table:
    """All metrics of a view with their intervals, a column for every arm."""
    return _side_by_side(f"All metrics at view {view}", numbers.arms)


def scores(view: str, numbers: ViewResults) -> Table:
    """The benchmark's own scores at a view; a row for every arm or for every score, whichever are more."""
    title = f"The benchmark's own scores at view {view}, %"
    names = list(dict.fromkeys(name for of_arm in numbers.scores.values() for name in of_arm))
    if len(names) > len(numbers.scores):
        return _side_by_side(title, numbers.scores)
    rows = [(arm, *(format_number(of_arm.get(name)) for name in names)) for arm, of_arm in numbers.scores.items()]
    return Table(title, ("Arm", *names), tuple(rows))


def accuracies(title: str, groups: Mapping[str, Numbers]) -> Table:
    """Accuracy by category or bin, a column for every arm; groups without a row are left out.

    Args:
        title: what the groups are.
        groups: accuracies by group, then arm.
    """
    held = {name: numbers for name, numbers in groups.items() if any(number.count for number in numbers.values())}
    arms = list(dict.fromkeys(arm for numbers in held.values() for arm in numbers))
    rows = [
        (name or "(none)", _most_rows(numbers), *(format_number(numbers.get(arm)) for arm in arms))
        for name, numbers in held.items()
    ]
    return Table(title, ("", "Rows", *arms), tuple(rows))


def counts(counted: Mapping[str, Any]) -> str:
    """One line that says how many rows there are, and what became of them."""
    return (
        f"{counted['rows']} rows in {counted['clusters']} clusters, {counted['unreadable']} of them unreadable; "
        f"{counted['episodes']} episodes, {counted['unanswered']} unanswered and {counted['unmatched']} unmatched."
    )


def unreadable_rule_line(results: Results) -> str:
    """One line that says what unreadable rows count as; "" if there is none."""
    if not results.counts["unreadable"]:
        return ""
    rule = "are left out" if results.protocol["unreadable"] == "excluded" else "count as wrong"
    return f"Unreadable rows {rule}."


def split_columns(table: Table, width: int) -> list[Table]:
    """Cut a table that is too wide into several that are not, each with the first column.

    Args:
        table: the table.
        width: the most characters that a line may have; a table of two columns is never cut.
    """
    widths = [
        max(len(line) for cell in column for line in cell.split("\n")) + 2
        for column in zip(table.header, *table.rows, strict=True)
    ]
    parts: list[list[int]] = [[]]
    used = widths[0] + 2
    for place in range(1, len(widths)):
        if parts[-1] and used + widths[place] > width:
            parts.append([])
            used = widths[0] + 2
        parts[-1].append(place)
        used += widths[place]

    def cells(row: Sequence[str], places: list[int]) -> tuple[str, ...]:
        return (row[0], *(row[place] for place in places))

    return [
        Table(table.title, cells(table.header, part), tuple(cells(row, part) for row in table.rows)) for part in parts
    ]


def _side_by_side(title: str, columns: Mapping[str, Numbers]) -> Table:
    names = dict.fromkeys(name for numbers in columns.values() for name in numbers)
    rows = [
        (
            f"{name}, {style_of(name).unit}" if style_of(name).unit else name,
            *(format_number(numbers.get(name), style_of(name)) for numbers in columns.values()),
        )
        for name in names
    ]
    return Table(title, ("", *columns), tuple(rows))


def _probes_of(views: Mapping[str, ViewResults], factors: bool) -> dict[str, Numbers]:
    chosen = {
        view: {name: number for name, number in numbers.probes.items() if (name in FACTORS) is factors}
        for view, numbers in views.items()
    }
    return {view: numbers for view, numbers in chosen.items() if numbers}


def _is_defined(number: Number | None) -> bool:
    return number is not None and not math.isnan(number.value)


def _most_rows(numbers: Numbers) -> str:
    return str(max(number.count for number in numbers.values()))
