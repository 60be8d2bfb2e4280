"""A published training set becomes a folder of shards: read row by row, filtered, counted, and resumed after a kill."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

from PIL import Image

import infogap
from infogap.data.convert.faults import DropReason
from infogap.data.convert.progress import ConvertProgress
from infogap.data.convert.source import Dropped, Source
from infogap.data.convert.summary import ConvertReport
from infogap.data.convert.writer import SUMMARY_NAME, ConvertError, Journal, SetWriter
from infogap.data.filters import Filter, FilterChain
from infogap.data.images import HighResImage, ImageError
from infogap.data.index import INDEX_NAME
from infogap.data.records import RecordError, decode_sample, encode_sample
from infogap.data.sample import Sample, SampleError
from infogap.data.skips import SkipReason
from infogap.data.writing import PackedSample, index_bytes, pack_members
from infogap.geometry import Box, Size

JPEG_QUALITY: Final = 95
"""Of images that are scaled down: the highest that Pillow's documentation recommends. Colours keep their resolution
(4:4:4), for questions ask for the colour of small things."""

UNSTORABLE: Final = "cannot be stored"
"""What rows are counted under whose sample no shard can hold, such as one with a mebibyte of metadata."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConvertConfig:
    """How a set of shards is cut, and what becomes of its images.

    Attributes:
        shard_bytes: largest size of a shard. Default: 512 MiB, 128 images of 4 MB, which is a JPEG of 8K: a kill costs
            the seconds that such a shard takes, and a reader over a network that opens one shard waits for no more.
        samples_per_shard: most samples of a shard. Default: 128, so that the smallest of the published sets, of 4,000
            samples, gives 32 shards: one for each of 4 readers on 8 GPUs. Larger sets have hundreds.
        max_side: scale images down whose longer side has more pixels, and store them as JPEG. Such an image is decoded
            whole, at 4 bytes a pixel. Default: none, all images are copied byte for byte.
        limit: read only so many rows, for a first look. Default: all.

    Raises:
        ValueError: if a number is below 1.
    """

    shard_bytes: int = 512 << 20
    samples_per_shard: int = 128
    max_side: int | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        """Refuse what would write nothing."""
        for name, value in asdict(self).items():
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: give at least 1.")


def convert(
    source: Source, out: Path, config: ConvertConfig | None = None, filters: Sequence[Filter] = ()
) -> ConvertReport:
    """Write the samples of a data set as shards with an index, `summary.json` and `dropped.jsonl` beside them.

    After a kill the same call goes on behind the last shard that was finished, and gives the same bytes as if nothing
    had happened. In memory are two images, and the keys and the counts of what was written.

    Args:
        source: the data set.
        out: folder of the shards; made if it does not exist.
        config: see there.
        filters: steps that every sample has to pass, in order; the first that does not keep it counts.

    Returns:
        The counts.

    Raises:
        FileExistsError: if `out` holds shards.
        ConvertError: if another process converts into `out`, an interrupted conversion into it was begun from other
            inputs, or no row became a sample.
        SampleError: if a key occurs twice.
        TableError: if a file cannot be read.
    """
    config = config or ConvertConfig()
    with Journal(out, _inputs(source, config, filters)) as journal:
        if not journal.finished:
            _write_rows(source, journal, config, filters)
        journal.publish()
        return ConvertReport.of(source.name, journal.entries, journal.tally)


def _write_rows(source: Source, journal: Journal, config: ConvertConfig, filters: Sequence[Filter]) -> None:
    """Write the shards that are missing, and what lies beside them."""
    done, chain = journal.tally.rows, FilterChain(filters)
    if done:
        logger.info("Going on in %s after %d rows and %d shards.", journal.out, done, len(journal.entries))
    rows = islice(source.rows(done), None if config.limit is None else config.limit - done)
    with (
        SetWriter(journal, config.shard_bytes, config.samples_per_shard) as writer,
        ConvertProgress(source.name, config.limit, done) as progress,
    ):
        for number, row in enumerate(rows, done + 1):
            if isinstance(row, Dropped):
                writer.drop(row)
            else:
                _write_sample(row, f"row {number}, sample {row.key}", writer, chain, config.max_side)
            progress.show(number, writer.kept, writer.image_bytes)
        rest = writer.finish()
    if not journal.entries:
        journal.discard()
        found = "; ".join(f"{reason} ({count}): {rest.examples[reason][0]}" for reason, count in rest.dropped.items())
        found = found or f"the filters kept none of {rest.rows} rows"
        raise ConvertError(f"No sample came of {source.name}, and nothing was written to {journal.out}: {found}")
    about = {"source": source.name, "licence": source.licence, "origin": source.origin}
    summary = ConvertReport.of(source.name, journal.entries, journal.tally, rest).to_json()
    files = {INDEX_NAME: index_bytes(journal.entries, about)}
    files[SUMMARY_NAME] = (json.dumps(summary, indent=1, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
    journal.finish(rest, files)


def _write_sample(sample: Sample, place: str, writer: SetWriter, chain: FilterChain, max_side: int | None) -> None:
    """Write one sample, or note why not."""
    try:
        filter_name = chain.dropping_step(sample)
        if filter_name is not None:
            message = f"The filter {filter_name!r} does not keep the sample {sample.key!r}."
            writer.drop(Dropped(place, f"filter: {filter_name}", message), by_filter=filter_name)
            return
        smaller = sample if max_side is None else scale_down(sample, max_side)
        packed = _pack(smaller)
    except ImageError as error:
        writer.drop(Dropped(place, DropReason.UNREADABLE_IMAGE, str(error)))
    except SampleError as error:
        writer.drop(Dropped(place, UNSTORABLE, str(error)))
    else:
        writer.keep(smaller, packed, scaled=smaller is not sample)
    finally:
        sample.image.release()


def _pack(sample: Sample) -> PackedSample:
    """Members of a sample that a reader of the shards will accept.

    Raises:
        ImageError: if the end of its image is missing.
        SampleError: if it cannot be stored.
    """
    members = encode_sample(sample)
    try:
        decode_sample({**members, "__key__": sample.key, "__url__": ""})
    except RecordError as error:
        fault = f"The sample {sample.key!r} would not be read: {error.__cause__}"
        raise (ImageError if error.reason is SkipReason.BAD_IMAGE else SampleError)(fault) from error
    return pack_members(sample.key, members, len(sample.evidence))


def scale_down(sample: Sample, max_side: int) -> Sample:
    """The sample with its image, if that has a longer side, scaled to ``max_side`` pixels, and its boxes alike.

    Raises:
        ImageError: if the image is corrupt.
        SampleError: if a box lies outside the image.
    """
    old = sample.image.size
    if max(old) <= max_side:
        return sample
    new = Size(*(max(round(side * max_side / max(old)), 1) for side in old))
    buffer = io.BytesIO()
    small = Image.fromarray(sample.image.decode()).resize(new, Image.Resampling.LANCZOS)
    small.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    wide, high = new.width / old.width, new.height / old.height
    try:
        evidence = tuple(
            tuple(Box(box.x1 * wide, box.y1 * high, box.x2 * wide, box.y2 * high).clamp(new) for box in chain)
            for chain in sample.evidence
        )
    except ValueError as error:
        raise SampleError(f"The sample {sample.key!r} has a box that cannot be scaled: {error}") from error
    return replace(sample, image=HighResImage(buffer.getvalue(), name=sample.image.name), evidence=evidence)


def _inputs(source: Source, config: ConvertConfig, filters: Sequence[Filter]) -> dict[str, Any]:
    """Everything that the result follows from, as JSON values."""
    files = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in source.inputs()]
    return {
        "files": hashlib.sha256(json.dumps(files).encode()).hexdigest(),  # some sets have thousands
        "source": [source.name, _plain_attributes(source)],
        "settings": asdict(config),
        "filters": [[step.name, _plain_attributes(step)] for step in filters],
        "version": infogap.__version__,
    }


def _plain_attributes(thing: object) -> dict[str, Any]:
    """Settings among the attributes of an object of ours: what is written in one way only."""
    plain = (str, int, float, Path, tuple, type(None))
    found: dict[str, Any] = {}
    for name, value in sorted(getattr(thing, "__dict__", {}).items()):
        if isinstance(value, plain):
            found[name] = str(value)
        elif type(value).__module__.startswith("infogap."):
            found[name] = _plain_attributes(value)
    return found
