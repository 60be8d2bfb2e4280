"""Writing a set of shards so that a kill at any moment costs at most the shard that was being written.

Everything is written in a hidden folder inside the new set's folder, with a journal: one line for each shard that is on
the disk, with the counts of the rows that it was made from. When the last shard is there, all of it is moved into
place, the index last. Only one process writes at a time.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from infogap.data.convert.source import Dropped
from infogap.data.convert.summary import Tally
from infogap.data.index import INDEX_NAME, Place, ShardEntry, has_shards
from infogap.data.sample import Sample
from infogap.data.writing import (
    PackedSample,
    ShardWriter,
    check_new_key,
    entry_fields,
    sync_folder,
    write_durably,
)

FOLDER: Final = ".converting"
JOURNAL_NAME: Final = "journal.jsonl"
DROPPED_NAME: Final = "dropped.jsonl"
SUMMARY_NAME: Final = "summary.json"


class ConvertError(ValueError):
    """A conversion that cannot begin or go on; the message says why and what to do."""


class Journal:
    """What a conversion has done so far. Use it as a context manager.

    Args:
        out: folder of the new set; made if it does not exist.
        inputs: everything that the result follows from, as JSON values: a conversion goes on only if it is the same.

    Attributes:
        folder: where files are until all are complete.
        entries: shards that are on the disk.
        tally: counts of the rows that these were made from.
        finished: whether all files are complete, and only have to be moved.

    Raises:
        FileExistsError: if `out` holds shards.
        ConvertError: if another process converts into it, or a shard is on the disk that was made from other inputs.
    """

    def __init__(self, out: Path, inputs: Mapping[str, Any]) -> None:
        self.out, self.folder = out, out / FOLDER
        self.entries: list[ShardEntry] = []
        self.tally = Tally()
        self.finished = False
        path = self.folder / JOURNAL_NAME
        if not path.exists():
            self._check_free()
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as opened:
            self._file = opened.enter_context(path.open("a+b", buffering=0))
            self._lock()
            dropped_bytes = self._read(inputs)
            if not self.finished:
                self._check_free()
                self._remove_leftovers()
                self._dropped = opened.enter_context((self.folder / DROPPED_NAME).open("ab"))
                self._dropped.truncate(dropped_bytes)
            self._opened = opened.pop_all()

    def drop(self, row: Dropped) -> None:
        """Keep the place and the message of a row that became no sample."""
        self._dropped.write((json.dumps(vars(row), ensure_ascii=False) + "\n").encode(errors="backslashreplace"))

    def append(self, entry: ShardEntry, tally: Tally) -> None:
        """Note that a shard is on the disk, with the counts of the rows since the one before."""
        self._add({"shard": entry_fields(entry)}, tally)
        self.entries.append(entry)

    def finish(self, tally: Tally, files: Mapping[str, bytes]) -> None:
        """Write what lies beside the shards, and note that all files are complete.

        Args:
            tally: counts of the rows since the last shard, in which there was no sample.
            files: content by name.
        """
        for name, content in files.items():
            write_durably(self.folder / name, content)
        sync_folder(self.folder)
        self._add({"finished": True}, tally)
        self.finished = True

    def publish(self) -> None:
        """Move all files into place, the index last, and remove the hidden folder."""
        for name in (*(entry.name for entry in self.entries), DROPPED_NAME, SUMMARY_NAME, INDEX_NAME):
            if (self.folder / name).exists():  # else a process that was killed has moved it
                os.replace(self.folder / name, self.out / name)
        sync_folder(self.out)
        shutil.rmtree(self.folder)

    def discard(self) -> None:
        """Remove the hidden folder with all that was done."""
        shutil.rmtree(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def _check_free(self) -> None:
        if has_shards(self.out):
            raise FileExistsError(f"The folder {self.out} holds shards already: empty it or name another.")

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConvertError(
                f"Another process is converting into {self.out}: wait until it is done, or give another folder."
            ) from error

    def _read(self, inputs: Mapping[str, Any]) -> int:
        """Take up what is in the file; returns the bytes of the file of dropped rows at the last shard."""
        self._file.seek(0)
        data = self._file.read()
        whole = data[: data.rfind(b"\n") + 1]  # a last line without its end was torn by a kill
        self._file.truncate(len(whole))
        if not whole:
            self._write({"inputs": inputs})
            return 0
        dropped_bytes = 0
        try:
            header, *lines = [json.loads(line) for line in whole.splitlines()]
            begun = header["inputs"]
            for line in lines:
                self.entries += [_entry(line["shard"])] if "shard" in line else []
                self.tally.add(Tally.from_json(line["tally"]))
                self.finished = "finished" in line
                dropped_bytes = line["dropped_bytes"]
        except (ValueError, TypeError, KeyError) as error:
            raise ConvertError(f"The file {self._file.name} is damaged: remove {self.folder} to begin anew.") from error
        changed = [name for name, value in json.loads(json.dumps(inputs)).items() if begun.get(name) != value]
        if changed and not self.entries:  # a first try that got nowhere is in nobody's way
            self._file.truncate(0)
            self._write({"inputs": inputs})
            return 0
        if changed:
            raise ConvertError(
                f"The conversion into {self.out} was begun with other {' and '.join(changed)}: give those, or remove "
                f"{self.folder} to begin anew."
            )
        return dropped_bytes

    def _remove_leftovers(self) -> None:
        """Remove what was written after the last line, and see that the shards before it are there."""
        sizes = {entry.name: entry.bytes for entry in self.entries}
        for path in self.folder.iterdir():
            if sizes.pop(path.name, None) == path.stat().st_size or path.name in (JOURNAL_NAME, DROPPED_NAME):
                continue
            path.unlink()
        if sizes:
            raise ConvertError(f"{min(sizes)} is missing in {self.folder}: remove that folder to begin anew.")

    def _add(self, line: dict[str, Any], tally: Tally) -> None:
        self._dropped.flush()
        os.fsync(self._dropped.fileno())
        self._write(line | {"dropped_bytes": self._dropped.tell(), "tally": tally.to_json()})
        self.tally.add(tally)

    def _write(self, line: Mapping[str, Any]) -> None:
        """One line in one call, so that a kill tears at most this line."""
        self._file.write((json.dumps(line) + "\n").encode())
        os.fsync(self._file.fileno())


class SetWriter:
    """Deals samples out to shards, and rows to counts. Use it as a context manager.

    A shard is closed when it has its number of samples, or when the next one would make it too large.

    Args:
        journal: where finished shards are noted.
        shard_bytes: largest size of a shard; only one that holds a single sample is larger.
        samples_per_shard: most samples of a shard.
    """

    def __init__(self, journal: Journal, shard_bytes: int, samples_per_shard: int) -> None:
        self._journal = journal
        self._shard_bytes, self._samples_per_shard = shard_bytes, samples_per_shard
        self._keys = {place.key for entry in journal.entries for place in entry.members or ()}
        self._tally = Tally()
        self._shard: ShardWriter | None = None

    @property
    def kept(self) -> int:
        """Samples so far."""
        return self._journal.tally.kept + self._tally.kept

    @property
    def image_bytes(self) -> int:
        """Bytes of their images."""
        return self._journal.tally.image_bytes + self._tally.image_bytes

    def keep(self, sample: Sample, packed: PackedSample, scaled: bool) -> None:
        """Write the sample of the next row.

        Args:
            sample: the sample.
            packed: the same as bytes.
            scaled: whether its image was made smaller.

        Raises:
            SampleError: if its key has occurred before.
        """
        check_new_key(sample.key, self._keys)
        if self._shard is not None and self._shard.bytes_with(packed) > self._shard_bytes:
            self._close_shard(self._shard)  # before the row is counted, which does not belong to it
        if self._shard is None:
            number = len(self._journal.entries)
            self._shard = ShardWriter(self._journal.folder / f"shard-{number:06d}.tar")
        self._shard.add(packed)
        self._keys.add(sample.key)
        self._tally.keep(sample, scaled)
        if len(self._shard.members) == self._samples_per_shard:
            self._close_shard(self._shard)

    def drop(self, row: Dropped) -> None:
        """Note that the next row becomes no sample."""
        self._journal.drop(row)
        self._tally.drop(row)

    def finish(self) -> Tally:
        """Close the last shard; returns the counts of the rows after it."""
        if self._shard is not None:
            self._close_shard(self._shard)
        return self._tally

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shard is not None:
            self._shard.__exit__(kind, error, trace)

    def _close_shard(self, shard: ShardWriter) -> None:
        with shard:
            entry = shard.finish()
        self._shard = None
        self._journal.append(entry, self._tally)
        self._tally = Tally()


def _entry(fields: Mapping[str, Any]) -> ShardEntry:
    """What `entry_fields` was given."""
    return ShardEntry(**{**fields, "members": tuple(Place(*place) for place in fields["members"])})
