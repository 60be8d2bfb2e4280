"""A scripted data set, and conversions of it that are killed at every moment: run as a program with a folder.

What makes a moment: a row is asked for, the disk is waited for, a file is renamed, removed or cut. For each of them a
process is forked that converts and kills itself there (SIGKILL), and then one that converts to the end. What the second
one leaves must be what a conversion without a kill leaves, file by file.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from killed_forks import Moment, in_a_fork, tree
from PIL import Image

from infogap.data.convert.convert import ConvertConfig, convert
from infogap.data.convert.source import Dropped, Source
from infogap.data.images import HighResImage
from infogap.data.sample import Sample
from infogap.geometry import Box

CONFIG = ConvertConfig(shard_bytes=20_480, samples_per_shard=3)


class ScriptedSource(Source):
    """Rows from a list.

    Args:
        root: a file that must exist.
        rows: the rows.
    """

    name: ClassVar[str] = "scripted"
    licence: ClassVar[str] = "CC0"
    origin: ClassVar[str] = "example.org"

    def __init__(self, root: Path, rows: Sequence[Sample | Dropped]) -> None:
        self.root = root
        self.all = list(rows)
        self.asked: list[int] = []

    def inputs(self) -> Sequence[Path]:
        return [self.root]

    def rows(self, start: int = 0) -> Iterator[Sample | Dropped]:
        self.asked.append(start)
        yield from self.all[start:]


def picture(key: str, size: tuple[int, int] = (40, 30), kind: str = "JPEG") -> HighResImage:
    buffer = io.BytesIO()
    Image.frombytes("RGB", size, random.Random(key).randbytes(3 * size[0] * size[1])).save(buffer, kind)
    return HighResImage(buffer.getvalue(), name=key)


def some_rows() -> list[Sample | Dropped]:
    """Shards that end by count, by size, before and after rows that make no sample; the last rows make none."""
    rows: list[Sample | Dropped] = []
    for number in range(12):
        key = f"s{number}"
        size = (120, 90) if number in (4, 5, 6) else (40, 30)
        box = ((Box(1, 2, 11, 12), Box(0, 0, 20, 20)),) if number == 2 else ()
        rows.append(Sample(key, picture(key, size), "What?", str(number), evidence=box, source="scripted"))
        if number in (2, 5, 11):
            rows.append(Dropped(f"row {number}", "two images", f"Row {number} has two images: \u00fc."))
    return rows


def convert_in_a_fork(source: ScriptedSource, out: Path, kill_at: int | None) -> tuple[int, int]:
    """Convert in a process of its own; returns its exit status and the number of moments."""

    def work(moment: Moment) -> None:
        rows = source.rows
        source.rows = lambda start=0: map(moment(lambda row: row), rows(start))  # type: ignore[method-assign]
        os.fsync = moment(lambda _: None)  # the machine does not fail here, only the process
        for name in ("replace", "unlink", "rmdir", "truncate", "mkdir"):
            setattr(os, name, moment(getattr(os, name)))
        convert(source, out, CONFIG)

    return in_a_fork(work, kill_at)


def main(folder: Path) -> None:
    root = folder / "rows"
    root.touch()
    source = ScriptedSource(root, some_rows())
    status, moments = convert_in_a_fork(source, folder / "whole", None)
    assert status == 0
    whole = tree(folder / "whole")
    different: list[int] = []
    for kill_at in range(1, moments + 1):
        out = folder / "killed"
        killed, _ = convert_in_a_fork(source, out, kill_at)
        assert os.WTERMSIG(killed) == signal.SIGKILL
        is_early = (out / "shards.json").exists() and not {*whole} <= {*tree(out)}
        if (out / "shards.json").exists() and not (out / ".converting" / "journal.jsonl").exists():
            ended = 0  # it was all there
            shutil.rmtree(out / ".converting", ignore_errors=True)
        else:
            ended, _ = convert_in_a_fork(source, out, None)
        different += [kill_at] if is_early or ended != 0 or tree(out) != whole else []
        shutil.rmtree(out)
    print(json.dumps({"moments": moments, "different": different, "files": sorted(whole)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
