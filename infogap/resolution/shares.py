"""The work of resolution selection dealt out to processes that need not know of each other, and put together again.

Every process, or share, appends its results to a part of its own beside the manifest. A share that has been through all
of its samples leaves a note; who finds the notes of all shares joins the parts to the manifest. Everything that is read
at the start counts, whoever wrote it, so any number of processes may go on with what is there.

No lock is needed. Notes are written before they are looked for, so at least the last one finds them all. If two
processes join the parts at the same time, they write the same manifest: parts are read before it, and removed after it
was written, so that what is not in the parts any more is in the manifest.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import os
import re
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from infogap.data.manifest import ManifestEntry, ManifestHeader, load_results, write_manifest
from infogap.data.records import Record
from infogap.data.shards import read_records
from infogap.data.skips import SkipLog, SkipReason

NOTE_SUFFIX = ".done"


@dataclass(frozen=True)
class Share:
    """One of several shares of the samples.

    Attributes:
        number: which one, from 1.
        count: of how many.

    Raises:
        ValueError: if there is no such share.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        """Refuse a share that is not among them."""
        if not 1 <= self.number <= self.count:
            raise ValueError(f"The share is {self}: give one from 1/{self.count} to {self.count}/{self.count}.")

    def __str__(self) -> str:
        """As it is written on a command line, such as 3/8."""
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read a share such as "3/8".

        Raises:
            ValueError: if it is none.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None:
            raise ValueError(f"The share is {text!r}: give the third of eight as 3/8.")
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def of_environment(cls) -> Share:
        """The share of a process that torchrun has started (its RANK and WORLD_SIZE); the whole for any other."""
        return cls(int(os.environ.get("RANK", "0")) + 1, int(os.environ.get("WORLD_SIZE", "1")))

    def shards(self, shards: Sequence[Path]) -> list[tuple[int, Path]]:
        """The shards that hold samples of this share, with their numbers: its own, or all if there are too few."""
        numbered = list(enumerate(shards))
        return numbered[self.number - 1 :: self.count] if self._deals_shards(shards) else numbered

    def size(self, samples: int, shards: Sequence[Path]) -> int:
        """How many of the samples in `self.shards` are of this share."""
        return samples if self._deals_shards(shards) else len(range(self.number - 1, samples, self.count))

    def records(self, shards: Sequence[Path], skips: SkipLog) -> Iterator[tuple[tuple[int, int], Record]]:
        """The records of this share in order, each with the numbers of its shard and of the record in it."""
        dealt = self._deals_shards(shards)
        # where every share reads every shard, one of them counts what is wrong with the shards
        faults = skips if dealt or self.number == 1 else SkipLog(strict=skips.strict)
        turns = itertools.count()
        for number, shard in self.shards(shards):
            for place, record in enumerate(read_records(shard, faults)):
                if dealt or next(turns) % self.count == self.number - 1:
                    yield (number, place), record

    def _deals_shards(self, shards: Sequence[Path]) -> bool:
        """Whether whole shards are dealt out; with fewer shards than shares the records are."""
        return len(shards) >= self.count


@dataclass(frozen=True)
class Note:
    """What a share leaves when it is finished.

    Attributes:
        task: what all shares of one selection have in common, see `task_name`.
        share: the share.
        keys: all its samples, sound or not, by key: the numbers of their shard and of their place in it.
        skipped: faults by reason.
    """

    task: str
    share: Share
    keys: Mapping[str, tuple[int, int]]
    skipped: Mapping[SkipReason, int] = field(default_factory=dict)


def part_path(manifest: Path, share: Share) -> Path:
    """Where a share writes its results."""
    return manifest.with_name(f"{manifest.name}.part-{share.number}-of-{share.count}")


def task_name(shards: Sequence[Path], header: ManifestHeader, *, ask_without_image: bool) -> str:
    """A name that shares have in common if they are of the same samples and ask the same.

    Args:
        shards: the shards.
        header: what results depend on.
        ask_without_image: whether questions are asked without an image too.
    """
    said = [[shard.name for shard in shards], header.policy, header.ladder, dict(header.details), ask_without_image]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def found_results(manifest: Path, header: ManifestHeader) -> dict[str, ManifestEntry]:
    """All results that are there, in the manifest and in its parts; those of the manifest come first.

    Raises:
        ValueError: if some were made with another header.
    """
    # parts first: what is taken away meanwhile is in the manifest by then
    parts = [load_results(path, header) for path in _parts(manifest)]
    results = load_results(manifest, header)
    for key, entry in itertools.chain.from_iterable(part.items() for part in parts):
        results[key] = results[key].joined(entry) if key in results else entry
    return results


def write_note(manifest: Path, note: Note) -> None:
    """Say that a share is finished. To be called before `join_parts`."""
    path = _note_path(manifest, note.share)
    partial = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}")
    content = {"task": note.task, "keys": note.keys, "skipped": note.skipped}
    partial.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, path)


def is_finished(manifest: Path, share: Share, task: str) -> bool:
    """Whether a share has left its note before.

    Args:
        manifest: the manifest that the shares will make up.
        share: the share.
        task: name of what is asked, see `task_name`.
    """
    note = _read_note(_note_path(manifest, share), share)
    return note is not None and note.task == task and part_path(manifest, share).exists()


def join_parts(
    manifest: Path, header: ManifestHeader, task: str
) -> tuple[list[ManifestEntry], Counter[SkipReason]] | None:
    """Write the manifest if all shares of a task are finished, in the order of the shards.

    Results of other samples, which the manifest or a part holds, stand before them.

    Args:
        manifest: the manifest to write.
        header: its header.
        task: name of what is asked, see `task_name`.

    Returns:
        The results and the faults; None if a share is not finished.
    """
    notes = _finished(manifest, task)
    if notes is None:
        return None
    results = found_results(manifest, header)
    placed = sorted((place, key) for note in notes for key, place in note.keys.items())
    ordered = dict.fromkeys(key for _, key in placed if key in results)
    entries = [entry for key, entry in results.items() if key not in ordered]
    entries += [results[key] for key in ordered]
    write_manifest(manifest, header, entries)
    return entries, sum((Counter(note.skipped) for note in notes), Counter())


def remove_parts(manifest: Path, header: ManifestHeader) -> None:
    """Remove the parts whose results are in the manifest, and the notes beside them."""
    results = load_results(manifest, header)
    for path in _parts(manifest):
        part = load_results(path, header)
        if all(key in results and results[key].joined(entry) == results[key] for key, entry in part.items()):
            # in this order: a note without its part would pass for a finished share
            path.with_name(path.name + NOTE_SUFFIX).unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def _parts(manifest: Path) -> list[Path]:
    found = manifest.parent.glob(glob.escape(manifest.name) + ".part-*-of-*")
    return sorted(path for path in found if not path.name.endswith(NOTE_SUFFIX))


def _note_path(manifest: Path, share: Share) -> Path:
    path = part_path(manifest, share)
    return path.with_name(path.name + NOTE_SUFFIX)


def _finished(manifest: Path, task: str) -> list[Note] | None:
    """The notes of all shares of a task, None if one is missing; however many shares there are."""
    notes: dict[int, list[Note]] = {}
    for path in manifest.parent.glob(f"{glob.escape(manifest.name)}.part-*-of-*{NOTE_SUFFIX}"):
        share = Share(*map(int, re.findall(r"\d+", path.name.removeprefix(manifest.name))))
        note = _read_note(path, share)
        if note is not None and note.task == task and part_path(manifest, share).exists():
            notes.setdefault(share.count, []).append(note)
    return next((found for count, found in sorted(notes.items()) if len(found) == count), None)


def _read_note(path: Path, share: Share) -> Note | None:
    """A note; None if it was taken away since it was found."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    keys = {key: (shard, place) for key, (shard, place) in content["keys"].items()}
    skipped = {SkipReason(reason): count for reason, count in content["skipped"].items()}
    return Note(content["task"], share, keys, skipped)
