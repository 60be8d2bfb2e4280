"""The images that training must not see, from a benchmark's files, a folder of images, or shards, as hashes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from infogap.data.images import HighResImage, ImageError
from infogap.data.index import has_shards
from infogap.data.near_duplicates import ImageHash
from infogap.data.records import IMAGE_SUFFIXES
from infogap.data.shards import find_shards, read_samples
from infogap.data.skips import SkipLog
from infogap.data_commands.console import watched
from infogap.evaluation.benchmarks.registry import BENCHMARKS, find_benchmark
from infogap.evaluation.question import UnreadableRow


class ReferencesError(ValueError):
    """What to compare with cannot be used; the message names it."""


@dataclass(frozen=True)
class References:
    """Images to compare with.

    Attributes:
        name: what the user called them.
        hashes: of the different files among them.
        unread: why images could not be read, one sentence each: nothing is compared with these.
    """

    name: str
    hashes: tuple[ImageHash, ...]
    unread: tuple[str, ...]


def load_references(name: str) -> References:
    """Hash images, one in memory at a time.

    Args:
        name: `BENCHMARK=PATH`, with the name and the files of a benchmark that `infogap test` reads; or a folder of
            shards, a shard, a glob pattern; or a folder with images in it, at any depth.

    Raises:
        ReferencesError: if it is none of these, or no image in it can be read.
        BenchmarkError: if there is no such benchmark, or a file of it is missing.
        ValueError: if `name` is a URL or a command.
    """
    hashes: dict[bytes, ImageHash] = {}
    unread: list[str] = []
    for image in watched(_images(name), f"images of {name}"):
        if isinstance(image, str):
            unread.append(image)
            continue
        digest = sha256(image.data).digest()
        if digest not in hashes:  # rows of a benchmark share images
            try:
                hashes[digest] = ImageHash.of(image)
            except ImageError as error:
                unread.append(str(error))
    if not hashes:
        first = f": {unread[0]}" if unread else ", give files that hold some."
        raise ReferencesError(f"There is no image to compare with in {name!r}{first}")
    return References(name, tuple(hashes.values()), tuple(unread))


def _images(name: str) -> Iterable[HighResImage | str]:
    """Images, or why one cannot be read."""
    benchmark, equals, root = name.partition("=")
    if equals and (benchmark in BENCHMARKS or not Path(name).exists()):
        return _benchmark_images(benchmark, Path(root))
    folder = Path(name)
    if folder.is_dir() and not has_shards(folder):
        return _folder_images(folder)
    return _shard_images(name)


def _benchmark_images(benchmark: str, root: Path) -> Iterator[HighResImage | str]:
    for row in find_benchmark(benchmark).rows(root):
        yield row.reason if isinstance(row, UnreadableRow) else row.sample.image


def _folder_images(folder: Path) -> Iterator[HighResImage | str]:
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower().removeprefix(".") in IMAGE_SUFFIXES and file.is_file():
            try:
                yield HighResImage(file.read_bytes(), name=str(file))
            except ImageError as error:
                yield str(error)


def _shard_images(name: str) -> Iterator[HighResImage | str]:
    skips = SkipLog()
    for sample in read_samples(find_shards(name), skips):
        yield sample.image
    if skips.counts:
        yield f"Of the shards {name} were left out: {skips.summary()}."
