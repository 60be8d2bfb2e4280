"""``infogap data check SHARDS``: every sample is looked at, what is wrong is listed, and some are shown."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import rich.box
from PIL import Image
from rich.table import Table
from rich.text import Text

from infogap.arguments import CommandParser
from infogap.data.contact_sheet import CELLS, draw_cell, make_sheet
from infogap.data.images import ImageError
from infogap.data.index import INDEX_NAME, ShardIndex
from infogap.data.index_check import check_entry, check_files, check_manifest, read_index
from infogap.data.inspection import KeyCheck, SampleCheck, choose, spread
from infogap.data.manifest import MANIFEST_NAME
from infogap.data.problems import Problem, ProblemLog, Severity
from infogap.data.sample import Sample
from infogap.data.shard_scan import FoundRecord, ShardScan, scan
from infogap.data.shards import find_shards
from infogap.data_commands.console import make_console, say, watched
from infogap.geometry import Size


class CheckError(ValueError):
    """What was found cannot be shown; the message says why."""


@dataclass(frozen=True)
class CheckConfig:
    """How shards are checked.

    Attributes:
        sample: samples that are looked at; None: all.
        seed: which samples are drawn, and which are shown.
        checksums: compute the SHA-256 of every shard, which reads all of it.
        decode: decode every image that is looked at.
        limit: lines of the table of problems. Ours.
    """

    sample: int | None = None
    seed: int = 0
    checksums: bool = True
    decode: bool = True
    limit: int = 50


@dataclass
class CheckReport:
    """What was found.

    Attributes:
        problems: what is wrong.
        shards: number of shards.
        bytes: their size together.
        samples: number of records in them.
        checked: records that were looked at.
        seen: samples that were looked at and are no errors.
        with_boxes: of the seen ones, those with evidence.
        with_options: likewise, those with options.
        sources: likewise, by their source.
        smallest: size of the image with the fewest pixels; None before the first.
        largest: size of the image with the most pixels.
        cells: pictures of some samples for the contact sheet.
    """

    problems: ProblemLog
    shards: int = 0
    bytes: int = 0
    samples: int = 0
    checked: int = 0
    seen: int = 0
    with_boxes: int = 0
    with_options: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    smallest: Size | None = None
    largest: Size | None = None
    cells: list[Image.Image] = field(default_factory=list)

    def count(self, sample: Sample) -> None:
        """Count a sound sample."""
        self.seen += 1
        self.with_boxes += bool(sample.evidence)
        self.with_options += bool(sample.options)
        self.sources[sample.source or "no source"] += 1
        sizes = [size for size in (self.smallest, self.largest, sample.image.size) if size is not None]
        self.smallest = min(sizes, key=lambda size: size.width * size.height)
        self.largest = max(sizes, key=lambda size: size.width * size.height)

    def summary(self) -> str:
        """The counts in a few sentences."""
        errors, warnings = (self.problems.total(severity) for severity in (Severity.ERROR, Severity.WARNING))
        text = f"{self.samples:,} samples in {self.shards:,} shards of {self.bytes / 1e6:,.1f} MB; "
        text += f"{self.checked:,} were looked at: {errors:,} errors, {warnings:,} warnings."
        if self.smallest is None or self.largest is None:
            return text
        sizes = " to ".join(f"{size.width}x{size.height}" for size in (self.smallest, self.largest))
        sources = ", ".join(f"{name} {count:,}" for name, count in self.sources.most_common(10))
        more = f" and {len(self.sources) - 10} more" if len(self.sources) > 10 else ""
        return (
            f"{text}\nOf {self.seen:,} sound ones {self.with_boxes:,} have boxes and {self.with_options:,} options; "
            f"images of {sizes} pixels. Sources: {sources}{more}."
        )


def check(where: str, config: CheckConfig) -> CheckReport:
    """Check shards. One image is in memory at a time; of all samples their keys are.

    Args:
        where: a folder of shards, a shard, or a glob pattern.
        config: how.

    Raises:
        FileNotFoundError: if there are no shards.
        ValueError: if `where` is a URL or a command, or a setting is out of range.
    """
    report = CheckReport(ProblemLog(config.limit))
    folder, paths = _locate(where)
    index, problems = read_index(folder)
    report.problems.add(problems)
    if index is not None and folder == Path(where):
        report.problems.add(check_files(folder, index, {path.name for path in paths}))
    scans = [scan(path) for path in watched(paths, "shards")]
    keys = KeyCheck()
    for found in scans:
        report.problems.add((*found.problems, *keys.see(found)))
    _check_index(report, folder, index, scans, config)
    manifest = folder / (MANIFEST_NAME if index is None else index.resolution)
    if manifest.is_file() and folder == Path(where):
        report.problems.add(check_manifest(manifest, keys.shards))
    report.shards, report.bytes = len(paths), sum(path.stat().st_size for path in paths)
    report.samples = sum(len(found.records) for found in scans)
    _check_samples(report, SampleCheck(index, decode=config.decode), choose(scans, config.sample, config.seed), config)
    return report


def main(words: Sequence[str]) -> None:
    """Run ``infogap data check``.

    Args:
        words: those after the word ``check``.

    Raises:
        CheckError: if the contact sheet cannot be written.
        ValueError: see `check`.
        OSError: likewise.
        SystemExit: with status 1, if there are errors.
    """
    chosen = _make_parser().parse_args(words)
    checksums = chosen.sample is None if chosen.checksums is None else chosen.checksums
    report = check(
        chosen.shards, CheckConfig(chosen.sample, chosen.seed, checksums, chosen.decode, chosen.limit_problems)
    )
    console = make_console()
    if report.problems.counts:
        console.print(_table(report.problems))
    say(console, report.summary())
    say(console, _write_sheet(report, chosen.shards, chosen.sheet))
    if report.problems.total(Severity.ERROR):
        sys.exit(1)


def _make_parser() -> CommandParser:
    parser = CommandParser(
        prog="infogap data check",
        description="Check every sample of some shards, and what lies beside them. The exit status is 1 if there are "
        "errors, 0 if there are warnings only.",
    )
    parser.add_argument("shards", metavar="SHARDS", help="a folder of shards, a shard, or a glob pattern")
    parser.add_argument("--sample", type=int, metavar="N", help="look at N samples from all shards; default: all")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="which samples are drawn or shown; default: 0")
    boolean = argparse.BooleanOptionalAction
    parser.add_argument("--checksums", action=boolean, help="compute SHA-256 of the shards; default: without --sample")
    parser.add_argument("--decode", action=boolean, default=True, help="decode the images; default: yes")
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE.png", help="where the contact sheet goes; default: SHARDS/contact_sheet.png"
    )
    parser.add_argument(
        "--limit-problems", type=int, default=50, metavar="N", help="lines of the table of problems; default: 50"
    )
    return parser


def _locate(where: str) -> tuple[Path, list[Path]]:
    """The folder that an index would be in, and the shards, whatever an index says of them."""
    folder = Path(where)
    if folder.is_dir() and (folder / INDEX_NAME).is_file():  # where files may be missing that `find_shards` asks for
        return folder, sorted(path for path in folder.glob("*.tar") if path.is_file())
    paths = find_shards(where)
    return paths[0].parent, paths


def _check_index(
    report: CheckReport, folder: Path, index: ShardIndex | None, scans: Sequence[ShardScan], config: CheckConfig
) -> None:
    entries = {} if index is None else {entry.name: entry for entry in index.shards}
    known = [found for found in scans if found.path.name in entries and found.path.parent == folder]
    for found in watched(known, "index"):
        report.problems.add(check_entry(entries[found.path.name], found, checksum=config.checksums))


def _check_samples(
    report: CheckReport, check: SampleCheck, chosen: Sequence[tuple[ShardScan, FoundRecord]], config: CheckConfig
) -> None:
    shown = set(spread(range(len(chosen)), CELLS, config.seed))
    for number, (found, record) in enumerate(watched(chosen, "samples")):
        sample, problems = check.see(found, record)
        report.problems.add(problems)
        report.checked += 1
        if sample is None:
            continue
        report.count(sample)
        if number in shown:
            try:
                report.cells.append(draw_cell(sample))
            except ImageError as error:  # images were not decoded, or not at this scale
                fault, name = str(error).rpartition(": ")[0], found.path.name
                report.problems.add([Problem(Severity.ERROR, "bad image", name, record.key, fault, "write it again")])


def _table(problems: ProblemLog) -> Table:
    """What is wrong, by kind. Cells are text, whatever they hold."""
    table = Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1))
    for heading in ("Severity", "Shard", "Key", "Problem", "What to do"):
        table.add_column(heading, overflow="fold")
    for shown, more in problems.groups():
        for problem in shown:
            cells = (problem.severity, problem.shard, problem.key, problem.fault, problem.remedy)
            table.add_row(*(Text(_printable(cell)) for cell in cells))
        if more:
            table.add_row("", "", "", Text(f"and {more:,} more of this kind ({shown[0].kind})"), "")
    return table


def _printable(text: str) -> str:
    """Text without what could steer a terminal, cut where a table would be lost in it."""
    plain = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return plain if len(plain) <= 300 else plain[:296] + " ..."


def _write_sheet(report: CheckReport, where: str, sheet: Path | None) -> str:
    """Write the contact sheet; says where it is, or why there is none."""
    if not report.cells:
        return "There is no contact sheet, since no sample could be shown."
    folder = Path(where) if Path(where).is_dir() else Path(where).parent
    path = sheet or folder / "contact_sheet.png"
    if sheet is None and not os.access(folder, os.W_OK):
        return f"There is no contact sheet, since {folder} cannot be written to: name a file with --sheet."
    try:
        make_sheet(report.cells).save(path, "PNG")
    except OSError as error:
        msg = f"The contact sheet {path} cannot be written ({error.strerror}): name another file with --sheet."
        raise CheckError(msg) from error
    return f"{path} shows {len(report.cells)} samples with their boxes."
