"""A published training set becomes a folder of shards: read row by row, counted, and resumed after a kill."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import infogap
from infogap.data.convert.faults import DropReason
from infogap.data.convert.progress import ConvertProgress
from infogap.data.convert.scaling import scale_down
from infogap.data.convert.source import Dropped, Source
from infogap.data.convert.summary import ConvertReport
from infogap.data.convert.writer import SUMMARY_NAME, ConvertError, Journal, SetWriter
from infogap.data.images import ImageError
from infogap.data.index import INDEX_NAME
from infogap.data.records import encode_sample
from infogap.data.sample import Sample, SampleError
from infogap.data.writing import index_bytes, pack_members

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
            samples, gives 32 shards: one for each of 4 readers on 8 GPUs. Larger sets have hundreds. Ours.
        max_side: scale images down whose longer side has more pixels, and store them as JPEG. A JPEG is decoded at the
            smallest of the scales 1, 1/2, 1/4, 1/8 that will do, other images whole, at 4 bytes a pixel of what is
            decoded and of the result. Measured with 196 million pixels: to 4096 the process takes 0.33 GB for a JPEG,
            0.83 GB for a progressive one (colours at half resolution), and 1.04 GB for a PNG with transparency; to
            13000 a JPEG, which is decoded whole, takes 1.6 GB. WEBP was not measured. Default: none, all images are
            copied byte for byte.
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


def convert(source: Source, out: Path, config: ConvertConfig | None = None) -> ConvertReport:
    """Write the samples of a data set as shards with an index, `summary.json` and `dropped.jsonl` beside them.

    After a kill the same call goes on behind the last shard that was finished, and gives the same bytes as if nothing
    had happened. In memory are two images as they are stored, the one that is read and the one that is written, and the
    keys and the counts of what was written; `ConvertConfig.max_side` needs more.

    Args:
        source: the data set.
        out: folder of the shards; made if it does not exist.
        config: see there.

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
    with Journal(out, _inputs(source, config)) as journal:
        if not journal.finished:
            _write_rows(source, journal, config)
        journal.publish()
        return ConvertReport.of(source.name, journal.entries, journal.tally)


def _write_rows(source: Source, journal: Journal, config: ConvertConfig) -> None:
    """Write the shards that are missing, and what lies beside them."""
    done = journal.tally.rows
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
                place = f"row {number} of {source.name}, counted over all its files, sample {row.key}"
                _write_sample(row, place, writer, config.max_side)
            progress.show(number, writer.kept, writer.image_bytes)
        rest = writer.finish()
    if not journal.entries:
        journal.discard()
        found = "; ".join(f"{reason} ({count}): {rest.examples[reason][0]}" for reason, count in rest.dropped.items())
        found = found or "the table has no rows."
        raise ConvertError(f"No sample came of {source.name}, and nothing was written to {journal.out}: {found}")
    about = {"source": source.name, "licence": source.licence, "origin": source.origin}
    summary = ConvertReport.of(source.name, journal.entries, journal.tally, rest).to_json()
    files = {INDEX_NAME: index_bytes(journal.entries, about)}
    files[SUMMARY_NAME] = (json.dumps(summary, indent=1, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
    journal.finish(rest, files)


def _write_sample(sample: Sample, place: str, writer: SetWriter, max_side: int | None) -> None:
    """Write one sample, or note why not."""
    try:
        smaller = sample if max_side is None else scale_down(sample, max_side)
        packed = pack_members(sample.key, encode_sample(smaller), len(smaller.evidence))
    except ImageError as error:
        writer.drop(Dropped(place, DropReason.UNREADABLE_IMAGE, str(error)))
    except SampleError as error:
        writer.drop(Dropped(place, UNSTORABLE, str(error)))
    else:
        writer.keep(smaller, packed, scaled=smaller is not sample)


def _inputs(source: Source, config: ConvertConfig) -> dict[str, Any]:
    """Everything that the result follows from, as JSON values; the folder that the command is given in is no part."""
    files = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in source.inputs()]
    return {
        "files": hashlib.sha256(json.dumps(files).encode()).hexdigest(),  # some sets have thousands
        "source": [source.name, _plain_attributes(source)],
        "settings": asdict(config),
        "version": infogap.__version__,
    }


def _plain_attributes(thing: object) -> dict[str, Any]:
    """Settings among the attributes of an object of ours: what is written in one way only."""
    plain = (str, int, float, Path, tuple, type(None))
    found: dict[str, Any] = {}
    for name, value in sorted(getattr(thing, "__dict__", {}).items()):
        if isinstance(value, plain):
            found[name] = str(value.resolve() if isinstance(value, Path) else value)
        elif type(value).__module__.startswith("infogap."):
            found[name] = _plain_attributes(value)
    return found
