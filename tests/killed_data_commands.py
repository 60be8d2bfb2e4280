"""`infogap data filter` and `unpack`, killed at every moment: run as a program with a folder.

What makes a moment: the disk is waited for, a file or folder is made, renamed or removed. For each of them a process is
forked that runs the command and kills itself there (SIGKILL), and then one that runs it to the end. What the second one
leaves must be what a run without a kill leaves, file by file, hidden ones included.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from killed_forks import Moment, in_a_fork, tree
from PIL import Image

from infogap.data.convert import unpack
from infogap.data.images import HighResImage
from infogap.data.manifest import ManifestEntry, ManifestHeader, SelectionStatus, write_manifest
from infogap.data.sample import Sample
from infogap.data.writing import write_shards
from infogap.data_commands import filter_shards
from infogap.data_commands import main as run

LOADED = (filter_shards, unpack)
"""Modules of the commands, which would else be imported by every fork."""

MOMENTS = ("fsync", "mkdir", "rename", "replace", "unlink", "rmdir")


def write_inputs(folder: Path) -> None:
    """Five samples, of which one is too small, with results of resolution selection."""
    samples = []
    for number in range(5):
        buffer = io.BytesIO()
        Image.new("RGB", (40, 12 if number == 1 else 40), (9 * number, 0, 0)).save(buffer, "PNG")
        samples.append(Sample(f"s{number}", HighResImage(buffer.getvalue()), "What?", str(number)))
    write_shards(samples, folder, 5)
    entries = [ManifestEntry(sample.key, SelectionStatus.SELECTED, 64) for sample in samples]
    write_manifest(folder / "resolution.jsonl", ManifestHeader("p", (64,)), entries)


def run_in_a_fork(words: Sequence[str], kill_at: int | None) -> tuple[int, int]:
    """Run a command in a process of its own; returns its exit status and the number of moments."""

    def work(moment: Moment) -> None:
        for name in MOMENTS:
            setattr(os, name, moment(getattr(os, name)))
        sys.stdout = io.StringIO()
        run(words)

    return in_a_fork(work, kill_at)


def kill_everywhere(words: Sequence[str], out: Path, last: str) -> dict[str, Any]:
    """What became of a command's files; `last` is the one that says that all others are there."""
    status, moments = run_in_a_fork(words, None)
    assert status == 0
    whole = tree(out.parent)
    shutil.rmtree(out)
    different = []
    for kill_at in range(1, moments + 1):
        killed, _ = run_in_a_fork(words, kill_at)
        assert os.WTERMSIG(killed) == signal.SIGKILL
        if (out / last).exists():
            left = {name: data for name, data in tree(out.parent).items() if ".lock" not in name}
            ended = 0
        else:
            ended, _ = run_in_a_fork(words, None)
            left = tree(out.parent)
        different += [kill_at] if ended != 0 or left != whole else []
        shutil.rmtree(out)
        for path in out.parent.glob(".*.lock"):
            path.unlink()
    return {"moments": moments, "different": different, "files": sorted(whole)}


def main(folder: Path) -> None:
    write_inputs(folder / "in")
    found = {}
    for command, last in (("filter", "shards.json"), ("unpack", "samples.jsonl")):
        out = folder / command / "out"
        out.parent.mkdir()
        words = [command, str(folder / "in"), str(out)]
        words += ["--samples-per-shard", "2"] if command == "filter" else []
        found[command] = kill_everywhere(words, out, last)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
