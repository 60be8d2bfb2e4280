"""``infogap data filter SHARDS OUT``: shards without the samples that should not train, and a list of those."""

from __future__ import annotations

import argparse
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import rich.box
from rich.table import Table
from rich.text import Text

from infogap.arguments import CommandParser
from infogap.data.difficulty import SolvedByText, SolvedInView
from infogap.data.filters import MIN_SIDE, BoxSanity, Filter, FilterChain, SmallImages, Unanswerable
from infogap.data.index import load_index
from infogap.data.manifest import (
    MANIFEST_NAME,
    ManifestEntry,
    ManifestHeader,
    load_header,
    load_manifest,
    manifest_path,
    write_manifest,
)
from infogap.data.near_duplicates import DISTANCE, NearDuplicates
from infogap.data.records import RecordError, decode_sample
from infogap.data.sample import Sample
from infogap.data.shards import find_shards, read_records
from infogap.data.skips import SkipLog, SkipReason
from infogap.data.writing import write_durably, write_shards
from infogap.data_commands.console import make_console, say, watched
from infogap.data_commands.references import References, load_references
from infogap.episode.matching import match_answer

DROPPED_NAME: Final = "dropped.jsonl"
"""File beside the new index with a line for every sample that was dropped: its key, and the step that dropped it."""

DUPLICATE_KEY: Final = "duplicate key"

SAMPLES_PER_SHARD: Final = 256
"""As in the shards of needle scenes: hundreds of megabytes of 8K images."""


class FilterError(ValueError):
    """Shards that cannot be filtered as asked; the message says why."""


class ShardFilter:
    """Writes the samples of some shards that all steps keep.

    Faulty samples are dropped too, and counted by their fault.

    Args:
        shards: the shards, all of one folder: what is known of the new ones comes from its index.
        steps: the steps in order.
        manifest: the resolution manifest of the shards; it need not exist.

    Attributes:
        counts: samples by what dropped them, in the order of the steps.
        kept: keys of the others.
        skips: faults of shards and samples.
    """

    def __init__(self, shards: Sequence[Path], steps: Sequence[Filter], manifest: Path) -> None:
        self._shards, self._manifest = shards, manifest
        self._dropped: list[tuple[str, str]] = []
        self._chain = FilterChain(steps)
        self.counts: Counter[str] = Counter(self._chain.dropped)
        self.kept: set[str] = set()
        self.skips = SkipLog()

    def write(self, out: Path, samples_per_shard: int, origin: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Write shards, what was dropped, and the results of resolution selection for what was kept.

        Args:
            out: the folder; must hold no shards.
            samples_per_shard: samples in each shard but the last.
            origin: what the samples come from, for the index; the counts are added to it.
            about: source, licence and origin of the data, for the index.

        Raises:
            FilterError: if no sample is left.
            FileExistsError: if `out` holds shards.
            ValueError: if the manifest is damaged.
            BusyError: if another process writes to `out`.
        """
        results = self._load_results()
        made_from = dict(origin)
        samples = self._samples(made_from)
        first = next(samples, None)
        if first is None:
            raise FilterError(f"No sample of {self._shards[0].parent} is left ({self._summary()}): ask for less.")

        def write_beside(folder: Path) -> None:
            lines = (json.dumps({"key": key, "step": step}) + "\n" for key, step in self._dropped)
            write_durably(folder / DROPPED_NAME, "".join(lines).encode())
            if results is not None:
                header, entries = results
                kept = (entry for key, entry in entries.items() if key in self.kept)
                write_manifest(folder / MANIFEST_NAME, header, kept)

        kept = itertools.chain([first], samples)
        write_shards(kept, out, samples_per_shard, made_from=made_from, about=about, beside=write_beside)

    def table(self) -> Table:
        """Samples by what became of them."""
        table = Table("Step", "Dropped", box=rich.box.SIMPLE_HEAD, padding=(0, 1))
        table.columns[1].justify = "right"
        for name, count in self.counts.items():
            table.add_row(Text(name), f"{count:,}")
        table.add_row("kept", f"{len(self.kept):,}")
        return table

    def _samples(self, made_from: dict[str, Any]) -> Iterator[Sample]:
        """The kept samples; when they are through, the counts are added to what the index will say."""
        for shard in watched(self._shards, "shards"):
            for record in read_records(shard, self.skips):
                sample, step = self._judge(record)
                if step is None:
                    assert sample is not None  # a faulty record has a step
                    self.kept.add(sample.key)
                    yield sample
                else:
                    self.counts[step] += 1
                    self._dropped.append((record["__key__"], step))
        made_from["counts"] = {**self.counts, "kept": len(self.kept)}

    def _judge(self, record: Mapping[str, Any]) -> tuple[Sample | None, str | None]:
        """The sample of a record, and what drops it."""
        try:
            sample = decode_sample(record)
        except RecordError as error:
            self.skips.fault(error.reason, error)
            return None, f"faulty: {error.reason}"
        if sample.key in self.kept:
            return sample, DUPLICATE_KEY
        return sample, self._chain.dropping_step(sample)

    def _load_results(self) -> tuple[ManifestHeader, dict[str, ManifestEntry]] | None:
        """The manifest, None if there is none. It is read before anything is written, in case it is damaged."""
        return (load_header(self._manifest), load_manifest(self._manifest)) if self._manifest.is_file() else None

    def _summary(self) -> str:
        return ", ".join(f"{count:,} {name}" for name, count in self.counts.items() if count) or "there are none"


def main(words: Sequence[str]) -> None:
    """Run ``infogap data filter``.

    Args:
        words: those after the word ``filter``.

    Raises:
        FilterError: if the options contradict each other, the shards lie in several folders, or no sample is left.
        ValueError: if shards, manifest or images to compare with cannot be used.
        OSError: likewise.
    """
    chosen = _make_parser().parse_args(words)
    if chosen.distance is not None and not chosen.against:
        raise FilterError("--distance is of the comparison with other images: name them with --against.")
    shards = _find_in_one_folder(chosen.shards)  # a slip in the path is noticed before all else
    manifest = chosen.manifest or manifest_path(chosen.shards)
    solved = chosen.drop_solved_by_text or chosen.drop_solved_in_view is not None
    if (solved or chosen.manifest is not None) and not manifest.is_file():
        raise FilterError(f"There is no manifest {manifest}: run data_scripts/select_resolution.py first.")
    console = make_console()
    references = [load_references(name) for name in chosen.against]
    for known in references:
        say(console, f"{known.name}: {len(known.hashes):,} different images.")
        if known.unread:
            say(console, f"{len(known.unread):,} cannot be read, and are compared with nothing. {known.unread[0]}")
    work = ShardFilter(shards, list(_make_steps(chosen, manifest, references)), manifest)
    index = load_index(shards[0].parent)
    before = None if index is None else index.made_from
    origin = {"from": {"shards": chosen.shards, "made_from": before}, "steps": _settings(chosen)}
    work.write(chosen.out, chosen.samples_per_shard, origin, {} if index is None else index.about)
    console.print(work.table())
    broken = work.skips.counts[SkipReason.BROKEN_SHARD]
    if broken:
        say(console, f"{broken:,} shards are damaged, and what stands behind the damage is lost: infogap data check")
    say(console, f"{chosen.out} holds what was kept, {chosen.out / DROPPED_NAME} names the others.")


def _find_in_one_folder(where: str) -> list[Path]:
    """Shards whose origin and resolution manifest are the same."""
    shards = find_shards(where)
    folders = sorted({str(shard.parent) for shard in shards})
    if len(folders) > 1:
        raise FilterError(
            f"The shards {where} lie in {len(folders)} folders, each with an origin and a manifest of its own (first: "
            f"{folders[0]}, {folders[1]}): filter one folder at a time."
        )
    return shards


def _make_parser() -> CommandParser:
    parser = CommandParser(
        prog="infogap data filter",
        description="Write shards anew without the samples that should not train. Images keep their bytes. Faulty "
        "samples, and the second one with a key, are always dropped.",
    )
    add = parser.add_argument
    add("shards", metavar="SHARDS", help="a folder of shards, a shard, or a glob pattern")
    add("out", type=Path, metavar="OUT", help="the folder to write; must hold no shards")
    add("--min-side", type=int, default=MIN_SIDE, metavar="N", help=f"shortest side of an image; default: {MIN_SIDE}")
    add("--drop-unanswerable", action="store_true", help="drop sentences, formulas and lists of numbers as answers")
    add("--box-sanity", action="store_true", help="drop boxes that are tiny, over half of the image, or all of it")
    add(
        "--against",
        nargs="+",
        default=[],
        metavar="IMAGES",
        help="drop samples with these images, in any file: BENCHMARK=PATH, a folder of images, or shards",
    )
    add("--distance", type=int, metavar="D", help=f"bits of 255 by which one picture may differ; default: {DISTANCE}")
    add("--drop-solved-by-text", action="store_true", help="drop what the policy answers right without the image")
    add(
        "--drop-solved-in-view",
        nargs="*",
        type=int,
        metavar="TOKENS",
        help="drop what the policy answers right in one of these views; without a number: in the selected view",
    )
    add("--manifest", type=Path, help="resolution manifest with the policy's answers; default: the one beside SHARDS")
    add(
        "--samples-per-shard",
        type=int,
        default=SAMPLES_PER_SHARD,
        metavar="N",
        help=f"most samples of a shard; default: {SAMPLES_PER_SHARD}",
    )
    return parser


def _make_steps(chosen: argparse.Namespace, manifest: Path, references: Sequence[References]) -> Iterator[Filter]:
    """The steps that were asked for, those that decode images last."""
    yield SmallImages(chosen.min_side)
    if chosen.drop_unanswerable:
        yield Unanswerable()
    if chosen.box_sanity:
        yield BoxSanity()
    if chosen.drop_solved_by_text or chosen.drop_solved_in_view is not None:
        entries = load_manifest(manifest)
        if chosen.drop_solved_by_text:
            yield SolvedByText(entries, match_answer)
        if chosen.drop_solved_in_view is not None:
            yield SolvedInView(entries, chosen.drop_solved_in_view, match_answer)
    if references:
        hashes = itertools.chain.from_iterable(known.hashes for known in references)
        yield NearDuplicates(hashes, DISTANCE if chosen.distance is None else chosen.distance)


def _settings(chosen: argparse.Namespace) -> dict[str, Any]:
    """The options of the steps that were asked for, as JSON values."""
    options = ("min_side", "drop_unanswerable", "box_sanity", "against", "drop_solved_by_text", "drop_solved_in_view")
    settings = {name: getattr(chosen, name) for name in options}
    if chosen.against:
        settings["distance"] = DISTANCE if chosen.distance is None else chosen.distance
    return {name: value for name, value in settings.items() if value not in (None, False, [])} | (
        {} if chosen.drop_solved_in_view != [] else {"drop_solved_in_view": "selected"}
    )
