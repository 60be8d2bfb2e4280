"""Our own shards as a benchmark, such as needle scenes that were held back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from infogap.data.manifest import ManifestEntry, load_manifest, manifest_path
from infogap.data.records import Record as ShardRecord
from infogap.data.records import RecordError, decode_sample
from infogap.data.sample import Sample
from infogap.data.shards import ShardError, find_shards, read_records
from infogap.data.skips import SkipLog
from infogap.evaluation.benchmarks.base import Benchmark
from infogap.evaluation.benchmarks.images import ImagePool
from infogap.evaluation.benchmarks.options import generic_prompt
from infogap.evaluation.question import BenchmarkError, Question, Row, UnreadableRow


class Shards(Benchmark):
    """Samples in our own format (docs/shard_format.md).

    Format: a folder of tar files, one of them, or a glob pattern; ``resolution.jsonl`` beside them, if there is one,
    holds the selected views, and samples that it does not select have none. The category is the ``category`` of the
    metadata, else the source; the evidence is the sample's.

    Option order: as in the sample. An answer that is an option's text becomes its letter.

    Prompt: that of VLMEvalKit for any question with options.

    Score: accuracy, in all and by category.
    """

    name: ClassVar[str] = "shards"
    has_boxes: ClassVar[bool] = True

    def rows(self, root: Path) -> Iterator[Row]:
        """Stream the samples; see ``Benchmark``. A sample with a fault is an unreadable row."""
        pool, views = ImagePool(root if root.is_dir() else root.parent), _selected_views(root)
        places: dict[str, str] = {}
        for record in _read(root):
            key, place = record["__key__"], record["__url__"]
            if key in places:
                raise BenchmarkError(
                    f"The key {key!r} occurs twice, in the shards {places[key]} and {place}: remove one of the two."
                )
            places[key] = place
            try:
                sample = decode_sample(record)
            except RecordError as error:
                yield UnreadableRow(key, str(error))
                continue
            yield _question(sample, pool, views)


def _read(root: Path) -> Iterator[ShardRecord]:
    try:
        for shard in find_shards(root):
            yield from read_records(shard, SkipLog(strict=True))
    except (ShardError, RecordError) as error:  # not one sample's fault: others may be lost
        raise BenchmarkError(str(error)) from error
    except (ValueError, FileNotFoundError) as error:
        raise BenchmarkError(str(error)) from error


def _question(sample: Sample, pool: ImagePool, views: Mapping[str, ManifestEntry]) -> Question:
    picture = pool.share(sample.image)
    answer = sample.answer
    if answer in sample.options:  # before letters: an option may be called "B"
        answer = sample.option_letters[sample.options.index(answer)]
    entry = views.get(sample.key)
    tokens = None if entry is None else entry.view_tokens
    category = sample.metadata.get("category")
    return Question(
        sample=replace(sample, image=picture.image, answer=answer, view_tokens=tokens),
        category=category if isinstance(category, str) and category else sample.source,
        cluster=picture.digest,
        official_prompt=generic_prompt(sample.question, sample.options),
    )


def _selected_views(root: Path) -> Mapping[str, ManifestEntry]:
    try:
        manifest = manifest_path(root)
        return load_manifest(manifest) if manifest.is_file() else {}
    except (ValueError, FileNotFoundError) as error:
        raise BenchmarkError(str(error)) from error
