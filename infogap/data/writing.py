"""Samples written as shards: tar files that do not differ from one machine to the next, and their index.

The bytes of an image are handed to the file as they are. The checksum is computed by a second thread meanwhile:
hashing needs as long as everything else together.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from infogap.data.index import DEFAULT_MANIFEST, INDEX_NAME, Place, ShardEntry, has_shards
from infogap.data.records import SCHEMA, encode_sample
from infogap.data.sample import Sample, SampleError
from infogap.data.unfinished import unfinished_folder

BUFFER_BYTES: Final = 1 << 16
"""Small pieces are gathered to so many bytes; larger ones go to the system without a copy."""

WRITE_BYTES: Final = 1 << 19
"""Most bytes of one call to the system. Measured with Linux 6.18 and ext4: calls of 10 MB need three to five times the
processor time of calls of 0.25 to 1 MB, since the system looks for as much memory in one piece."""

WRITEBACK_BYTES: Final = 32 << 20
"""Bytes after which the disk is set to work, so that it does so while further samples are read, and the wait for it at
the end of a shard is short: 16 times in a shard of 512 MiB."""

PARTIAL_FOLDER: Final = ".writing"
"""Hidden folder, inside the new set's, where a set is until all of it is complete."""


@dataclass(frozen=True)
class PackedSample:
    """A sample as the bytes that it will have in a tar file.

    Attributes:
        place: where its members would lie if it were the first of the shard.
        pieces: what is written, one after the other; the image's bytes are not copied.
        size: their bytes.
    """

    place: Place
    pieces: tuple[bytes, ...]
    size: int


def pack_members(key: str, members: Mapping[str, bytes], chains: int) -> PackedSample:
    """Members of one sample, side by side, without anything that differs from one machine to the next.

    Args:
        key: of the sample.
        members: what `encode_sample` gives: the image and the JSON, by suffix.
        chains: pieces of evidence that the JSON holds.
    """
    pieces: list[bytes] = []
    spans = []
    size = 0
    for suffix, data in members.items():
        member = tarfile.TarInfo(f"{key}.{suffix}")
        member.size = len(data)
        # of a short key in ASCII the header is plain USTAR; of others an extension of it comes before
        header = member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        spans.append((size + len(header), len(data)))
        padding = bytes(-len(data) % tarfile.BLOCKSIZE)
        pieces += [header, data, padding]
        size += len(header) + len(data) + len(padding)
    image, text = spans
    return PackedSample(Place(key, *image, *text, chains), tuple(pieces), size)


class ShardWriter:
    """Writes one shard, which takes its name when it is complete and on the disk.

    Use it as a context manager: what is not finished at its end is removed.

    Args:
        path: the shard.

    Attributes:
        members: where the samples lie that were added.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members: list[Place] = []
        self._partial = path.with_name(path.name + ".partial")
        self._file = self._partial.open("wb", buffering=BUFFER_BYTES)
        self._size = 0
        self._handed_over = 0
        self._digest = hashlib.sha256()
        self._hasher = ThreadPoolExecutor(1, "sha256")
        self._hashing: Future[None] | None = None

    def bytes_with(self, packed: PackedSample) -> int:
        """Bytes that the finished shard would have if this sample were the last."""
        size = self._size + packed.size
        return size + len(_end_of_archive(size))

    def add(self, packed: PackedSample) -> None:
        """Write a sample. Its bytes are kept until they are hashed, at the latest at the next call."""
        key, image, image_bytes, text, text_bytes, chains = packed.place
        self.members.append(Place(key, self._size + image, image_bytes, self._size + text, text_bytes, chains))
        self._write(packed.pieces)

    def finish(self) -> ShardEntry:
        """Write the end and wait for the disk; then the shard is there under its name.

        Returns:
            Its entry in the index.
        """
        self._write((_end_of_archive(self._size),))
        self._wait()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._close()
        os.replace(self._partial, self.path)
        sync_folder(self.path.parent)
        members = tuple(self.members)
        return ShardEntry(self.path.name, len(members), self._size, self._digest.hexdigest(), members)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        self._partial.unlink(missing_ok=True)

    def _write(self, pieces: tuple[bytes, ...]) -> None:
        self._wait()  # so that one image waits for the hash, and not many
        self._hashing = self._hasher.submit(self._hash, pieces)
        for piece in pieces:
            view = memoryview(piece)
            for start in range(0, len(piece), WRITE_BYTES):
                self._file.write(view[start : start + WRITE_BYTES])
            self._size += len(piece)
        if self._size - self._handed_over >= WRITEBACK_BYTES:
            self._hand_over()

    def _hand_over(self) -> None:
        """Have the disk begin with what was written, without waiting for it."""
        self._file.flush()
        if hasattr(os, "posix_fadvise"):  # macOS has none
            count = self._size - self._handed_over
            os.posix_fadvise(self._file.fileno(), self._handed_over, count, os.POSIX_FADV_DONTNEED)
        self._handed_over = self._size

    def _hash(self, pieces: tuple[bytes, ...]) -> None:
        for piece in pieces:
            self._digest.update(piece)

    def _wait(self) -> None:
        """Let go of what was hashed."""
        if self._hashing is not None:
            self._hashing.result()
            self._hashing = None

    def _close(self) -> None:
        self._hasher.shutdown()
        self._file.close()


def write_shards(
    samples: Iterable[Sample],
    folder: Path,
    samples_per_shard: int,
    prefix: str = "shard",
    made_from: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    beside: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Write samples as shards `PREFIX-000000.tar`, ... and then their index.

    All of it, or nothing: files are written in a hidden folder and moved into place when all are complete, the index
    last. What a process that was killed has left is removed first. Equal samples give equal bytes.

    Args:
        samples: what to write, one at a time in memory.
        folder: where to; made if it does not exist.
        samples_per_shard: samples in each shard but the last.
        prefix: how the shards' names begin.
        made_from: what the samples follow from, for the index, as JSON values; read when the last sample is written.
        about: source, licence and origin of the data, for the index.
        beside: writes what is to lie beside the shards into the folder that it is given, when the last is written.

    Returns:
        Paths of the shards.

    Raises:
        FileExistsError: if the folder holds shards.
        SampleError: if a sample cannot be encoded or a key occurs twice.
        ValueError: if there are no samples, or `samples_per_shard` is below 1.
        BusyError: if another process writes to the folder.
    """
    if samples_per_shard < 1:
        raise ValueError(f"samples_per_shard is {samples_per_shard}: give at least 1.")
    folder.mkdir(parents=True, exist_ok=True)
    with unfinished_folder(folder / PARTIAL_FOLDER, folder) as partial:
        if has_shards(folder):
            raise FileExistsError(f"The folder {folder} holds shards already: empty it or name another.")
        entries = list(_write_all(iter(samples), partial, samples_per_shard, prefix))
        if not entries:
            raise ValueError(f"There are no samples to write to {folder}: give at least one.")
        if beside is not None:
            beside(partial)
        others = sorted(path.name for path in partial.iterdir())  # shards, and what lies beside them
        index = index_bytes(entries, {**(about or {}), **({} if made_from is None else {"made_from": made_from})})
        write_durably(partial / "index", index)
        os.replace(partial / "index", partial / INDEX_NAME)  # there it says that all files are complete
        for name in [*others, INDEX_NAME]:
            os.replace(partial / name, folder / name)
    return [folder / entry.name for entry in entries]


def _write_all(samples: Iterator[Sample], folder: Path, samples_per_shard: int, prefix: str) -> Iterator[ShardEntry]:
    """Write every shard; yields their entries in the index."""
    keys: set[str] = set()
    for number in itertools.count():
        chunk = itertools.islice(samples, samples_per_shard)
        first = next(chunk, None)
        if first is None:
            return
        with ShardWriter(folder / f"{prefix}-{number:06d}.tar") as shard:
            for sample in itertools.chain([first], chunk):
                check_new_key(sample.key, keys)
                keys.add(sample.key)
                shard.add(pack_members(sample.key, encode_sample(sample), len(sample.evidence)))
            entry = shard.finish()
        yield entry


def check_new_key(key: str, keys: set[str]) -> None:
    """Raise `SampleError` if a sample's key is among those that were written."""
    if key in keys:
        raise SampleError(f"The key {key!r} occurs twice: give every sample a key of its own.")


def index_bytes(entries: Sequence[ShardEntry], about: Mapping[str, Any], resolution: str = DEFAULT_MANIFEST) -> bytes:
    """Content of an index: indented for people, but with each shard on one line, since its members are many.

    Args:
        entries: the shards in the order of training.
        about: further fields, as JSON values: `source`, `licence`, `origin`, `made_from`.
        resolution: name of the resolution manifest beside the index. Default: `DEFAULT_MANIFEST`.
    """
    fields = {"schema": SCHEMA, "samples": sum(entry.samples for entry in entries)}
    head = json.dumps({**fields, **about, "resolution": resolution}, indent=1, allow_nan=False)
    shards = ",\n".join(f"  {json.dumps(entry_fields(entry))}" for entry in entries)
    text = head.removesuffix("\n}") + ',\n "shards": [\n' + shards + "\n ]\n}\n"
    return text.encode()


def entry_fields(entry: ShardEntry) -> dict[str, Any]:
    """An entry as the index holds it, as JSON values."""
    fields: dict[str, Any] = {"name": entry.name, "samples": entry.samples, "bytes": entry.bytes}
    return fields | {"sha256": entry.sha256, "members": [list(place) for place in entry.members or ()]}


def write_durably(path: Path, data: bytes) -> None:
    """Write a file and wait for the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _end_of_archive(size: int) -> bytes:
    """What closes an archive of so many bytes: two empty blocks, and more of them to the end of a record."""
    end = 2 * tarfile.BLOCKSIZE
    return bytes(end + -(size + end) % tarfile.RECORDSIZE)
