"""Results for people: tables in the terminal, and ``report.md`` with everything."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import rich.box
import rich.table
from rich.console import Console
from rich.text import Text

from infogap.evaluation import tables
from infogap.evaluation.results import Results, write_at_once
from infogap.evaluation.tables import Table

WIDTH: Final = 100
"""Characters a line of the terminal's tables has at most."""

INTERVALS: Final = (
    "Numbers in brackets are 95 % bootstrap intervals over clusters of rows (rows about one image are one cluster); "
    "differences between arms are paired, over the rows that both have."
)


def make_console() -> Console:
    """Standard output. A file or a pipe has no width, for which rich would take 80 columns: it gets `WIDTH`."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def print_report(results: Results, console: Console | None = None) -> None:
    """Show the main numbers: every arm's accuracy and cost, the benchmark's own scores, the probes, the counts.

    Args:
        results: the numbers.
        console: where to show them; default: standard output.
    """
    console = console or make_console()
    console.print(
        f"{results.benchmark}: {tables.counts(results.counts)}", highlight=False, markup=False, soft_wrap=True
    )
    for table in _main_tables(results):
        for part in tables.split_columns(table, WIDTH):
            console.print(to_rich(part))
    for line in _notes(results):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def to_rich(table: Table) -> rich.table.Table:
    """A table for the terminal. Its cells are text, whatever they hold."""
    shown = rich.table.Table(title=Text(table.title), box=rich.box.SIMPLE_HEAD, title_justify="left", padding=(0, 1))
    for place, heading in enumerate(table.header):
        shown.add_column(Text(heading), justify="right" if place else "left")
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))
    return shown


def to_markdown(table: Table) -> str:
    """A table in Markdown, under a heading of the third level."""
    lines = [table.header, ("---", *("---:" for _ in table.header[1:])), *table.rows]
    return "\n".join([f"### {table.title}", "", *("| " + " | ".join(map(_in_markdown, line)) + " |" for line in lines)])


def write_report(results: Results, path: Path, plots: Sequence[Path] = ()) -> None:
    """Write the report as Markdown.

    Args:
        results: the numbers.
        path: the file.
        plots: images that it shows, linked relative to it.
    """
    write_at_once(path, "\n\n".join(_parts(results, path.parent, plots)) + "\n")


def _parts(results: Results, folder: Path, plots: Sequence[Path]) -> Iterator[str]:
    yield f"# {results.benchmark}"
    yield tables.counts(results.counts)
    yield from _notes(results)
    yield "## Main numbers"
    yield from map(to_markdown, _main_tables(results))
    for plot in plots:
        yield f"![{plot.stem.replace('_', ' ')}](<{Path(os.path.relpath(plot, folder)).as_posix()}>)"
    yield "## By category and size of the evidence"
    for view, numbers in results.views.items():
        for title, groups in (
            ("category", numbers.categories),
            ("evidence area over image area", numbers.evidence_size),
        ):
            table = tables.accuracies(f"Accuracy % by {title} at view {view}", groups)
            if table.rows:
                yield to_markdown(table)
    yield "## All metrics"
    factors = tables.factors(results.views)
    if factors.rows:
        yield to_markdown(factors)
    yield from (to_markdown(tables.metrics(view, numbers)) for view, numbers in results.views.items())
    if results.counts["unreadable_reasons"]:
        yield "## Unreadable rows"
        yield "\n".join(f"- {_in_markdown(row['reason'])}" for row in results.counts["unreadable_reasons"])
    yield "## Protocol"
    yield f"```json\n{json.dumps(results.protocol, indent=2, ensure_ascii=False)}\n```"


def _main_tables(results: Results) -> Iterator[Table]:
    for view, numbers in results.views.items():
        yield tables.overview(view, numbers)
        if numbers.scores:
            yield tables.scores(view, numbers)
    table = tables.probes(results.views)
    if table.rows:
        yield table


def _notes(results: Results) -> Iterator[str]:
    yield INTERVALS
    if rule := tables.unreadable_rule_line(results):
        yield rule


def _in_markdown(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
