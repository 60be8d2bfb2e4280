"""The command ``infogap view``."""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from infogap.arguments import CommandError, CommandParser, check_output
from infogap.viewer.entries import Entry, in_steps, thin_out
from infogap.viewer.originals import Originals, open_configured, open_places
from infogap.viewer.page import page_values, write_page
from infogap.viewer.pictures import Finder, Wanted, make_pictures
from infogap.viewer.run import CONFIG_NAME, episode_files, read_config, read_run, run_folder, shard_places

DEFAULT_LIMIT: Final = 2000
"""Episodes of a page: for needle scenes some 20 MB with pictures, of which a browser shows the list within a second."""

PAGE_NAME: Final = "episodes.html"

PREDICTIONS_NAME: Final = "predictions.jsonl"
"""As in ``infogap.evaluation.prediction_file``, whose import brings torch along."""

AHEAD: Final = 4
"""Samples of which pictures are made ahead, for each processor, while one is written."""


@dataclass(frozen=True)
class Gathered:
    """What can be shown.

    Attributes:
        entries: the episodes, those of a group in a row.
        folder: of the run; the page is written there.
        config: the run's configuration, as plain data.
        find: finds originals; None if they are in shards.
    """

    entries: list[Entry]
    folder: Path
    config: dict[str, Any]
    find: Finder | None = None


def run(words: Sequence[str]) -> None:
    """Make the page, and say what is in it.

    Raises:
        CommandError: if the words mean nothing, or there are no episodes.
    """
    start = time.perf_counter()
    chosen = _parser().parse_args(words)
    if chosen.limit < 0:
        raise CommandError(f"--limit is {chosen.limit}: give the most episodes of the page, or 0 for all.")
    steps = _steps(chosen.steps)
    files, folder = _files(Path(chosen.run))
    out = _output(chosen.out, folder, files)
    gathered = _gather(files, folder, chosen.data)
    found = in_steps(gathered.entries, *steps)
    if not found:
        raise CommandError(_nothing(chosen.run, gathered.entries, chosen.steps))
    entries = thin_out(found, chosen.limit)
    with ExitStack() as stack:
        find, notice = gathered.find, ""
        if find is None:
            originals, notice = _originals(gathered, entries, chosen.data)
            find = stack.enter_context(originals).find
        pictured, samples = _write(out, entries, gathered.folder.resolve().name, notice, find)
    left_out = f" of {len(found)} (--limit 0 shows all)" if len(entries) < len(found) else ""
    size, seconds = out.stat().st_size / 1e6, time.perf_counter() - start
    pictures = "pictures" if pictured == samples else f"pictures of {pictured} of {samples} samples"
    print(f"{out}: {len(entries)} episodes{left_out}, {pictures}, {size:.1f} MB, made in {seconds:.1f} s")
    if notice:
        print(notice)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="infogap view",
        description="The episodes of a run, or of an evaluation, as one HTML page that needs no server and no network.",
    )
    parser.add_argument("run", metavar="RUN", help="folder of a run or of an evaluation, or a file of episodes")
    parser.add_argument(
        "--data",
        action="append",
        metavar="SHARDS",
        help="where the images are: a folder of shards, one shard, or a glob pattern; may be given several times. "
        "Default: the shards that RUN/config.yaml names",
    )
    parser.add_argument("--out", metavar="FILE", help=f"the page; default: RUN/{PAGE_NAME}")
    parser.add_argument("--steps", metavar="FIRST:LAST", help="only these rollout steps, such as 0:9, 200: or 57")
    parser.add_argument(
        "--limit",
        type=int,
        default=DEFAULT_LIMIT,
        metavar="N",
        help="the most episodes: whole groups, spread evenly over the steps; 0 shows all. Default: %(default)s",
    )
    return parser


def _steps(text: str | None) -> tuple[int | None, int | None]:
    """First and last step of FIRST:LAST, both included."""
    if text is None:
        return None, None
    found = re.fullmatch(r"(\d{0,18})(:?)(\d{0,18})", text)  # Python reads no number of thousands of digits
    if found is None or not (found[1] or found[3]):
        raise CommandError(f"--steps is {text!r:.60}: give FIRST:LAST, such as 0:9, 200: or 57.")
    first = int(found[1]) if found[1] else None
    if not found[2]:
        return first, first
    last = int(found[3]) if found[3] else None
    if first is not None and last is not None and first > last:
        raise CommandError(f"--steps is {text!r}, whose first step is above its last: give {last}:{first}.")
    return first, last


def _files(path: Path) -> tuple[list[Path], Path]:
    """The files that hold the episodes, one of predictions or those of all ranks, and the folder of the run."""
    predictions = path if path.name == PREDICTIONS_NAME else path / PREDICTIONS_NAME
    if predictions.is_file():
        return [predictions], predictions.parent
    files = episode_files(path)
    return files, run_folder(files)


def _output(name: str | None, folder: Path, files: Sequence[Path]) -> Path:
    """Where the page goes, checked before any work: it must not replace what it is made from."""
    out = folder / PAGE_NAME if name is None else Path(name)
    if out.suffix.lower() not in (".html", ".htm"):
        raise CommandError(f"--out {str(out)!r} is no page: give a path that ends in .html.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritten(out, error) from error
    check_output(
        "--out", out, [("the configuration", folder / CONFIG_NAME), *(("a file of episodes", f) for f in files)]
    )
    return out


def _unwritten(out: Path, error: OSError) -> CommandError:
    """What an error of writing says of the page, not of the name that it bears until it is whole."""
    return CommandError(f"--out {str(out)!r} cannot be written ({error.strerror or error}): give another path.")


def _gather(files: list[Path], folder: Path, data: Sequence[str] | None) -> Gathered:
    if files[0].name != PREDICTIONS_NAME:
        return Gathered(read_run(files), folder, {} if data else read_config(folder))
    from infogap.viewer.predictions import Evaluation

    if data and len(data) > 1:
        raise CommandError("--data is given twice, but an evaluation has one benchmark: give its files once.")
    config = read_config(folder)
    evaluation = Evaluation(files[0], config, data[0] if data else None)
    return Gathered(evaluation.entries, folder, config, evaluation.find)


def _nothing(run: str, entries: Sequence[Entry], steps: str | None) -> str:
    if not entries:
        return f"{run} holds no episode yet: wait for the first step of the run, or name another one."
    first, last = entries[0].record.rollout_step, entries[-1].record.rollout_step
    return f"{run} holds no episode of --steps {steps}: its steps are {first} to {last}."


def _originals(gathered: Gathered, entries: Sequence[Entry], data: Sequence[str] | None) -> tuple[Originals, str]:
    """Where the images are looked for, and a sentence on those that will not be found."""
    keys, missing, useless = {entry.record.sample for entry in entries}, list[str](), list[str]()
    if data:
        opened = {place: open_places([place]) for place in data}
        shards = [shard for found in opened.values() for shard in found]
        useless = [place for place, found in opened.items() if not Originals(found, keys).known]
    else:
        shards, missing = open_configured(shard_places(gathered.config, gathered.folder), gathered.folder)
    originals = Originals(shards, keys)
    lacking = len(keys) - originals.known
    if not lacking:
        return originals, ""
    where = f"the shards {', '.join(missing)} are not here" if missing else "the shards do not hold them"
    if not data and not missing and not shards:
        where = "no configuration beside the run names its shards"
    if useless:
        where = f"{' and '.join(useless)} of --data {'holds' if len(useless) == 1 else 'hold'} none of the samples"
    advice = "name the shards that the run has played" if useless else "give the shards as --data SHARDS"
    of_which = (
        "Without pictures" if lacking == len(keys) else f"Without the pictures of {lacking} of {len(keys)} samples"
    )
    return originals, f"{of_which}: {where}; {advice}."


def _write(out: Path, entries: Sequence[Entry], title: str, notice: str, find: Finder) -> tuple[int, int]:
    """Write the page under another name first, so that a page is whole; returns samples with pictures, and in all."""
    values, wanted = page_values(entries, title, notice)
    pictured = 0

    def counted() -> Iterator[dict[str, Any] | None]:
        nonlocal pictured
        for found in _made(wanted, find):
            pictured += found is not None
            yield found

    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            write_page(file, values, counted())
        unfinished.replace(out)
    except OSError as error:
        if error.filename not in (None, str(unfinished)):  # that of a shard
            raise
        raise _unwritten(out, error) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return pictured, len(wanted)


def _made(wanted: Sequence[Wanted], find: Finder) -> Iterator[dict[str, Any] | None]:
    """The pictures of every sample in order, some made ahead: Pillow works without the interpreter's lock."""
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[dict[str, Any] | None]] = deque()
        for needed in wanted:
            waiting.append(pool.submit(make_pictures, needed, find))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
