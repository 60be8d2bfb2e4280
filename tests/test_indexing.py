"""The index that is made for shards of other tools: it says what a writer of ours would have said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from infogap.data.index import INDEX_NAME, load_index
from infogap.data.indexing import index_shards
from infogap.data.sample import Sample
from infogap.data.shards import ShardError
from infogap.data.writing import write_shards
from infogap.geometry import Box

MakeSample = Callable[..., Sample]


def test_an_index_that_is_made_equals_the_one_that_was_written(make_sample: MakeSample, tmp_path: Path) -> None:
    evidence = ((Box(1, 1, 9, 9),),)
    samples = [make_sample(key, evidence=evidence if key == "c" else ()) for key in "abcde"]
    write_shards(samples, tmp_path, 2, made_from={"seed": 3})
    written = (tmp_path / INDEX_NAME).read_bytes()
    index_shards(tmp_path)
    assert (tmp_path / INDEX_NAME).read_bytes() == written
    (tmp_path / INDEX_NAME).unlink()
    index_shards(tmp_path)
    made, before = json.loads((tmp_path / INDEX_NAME).read_bytes()), json.loads(written)
    assert before.pop("made_from") == {"seed": 3}
    assert made == before
    index = load_index(tmp_path)
    assert index is not None
    assert [place.chains for entry in index.shards for place in entry.members or ()] == [0, 0, 1, 0, 0]


def test_the_name_of_the_manifest_is_kept(make_sample: MakeSample, tmp_path: Path) -> None:
    write_shards([make_sample("a")], tmp_path, 1)
    content = json.loads((tmp_path / INDEX_NAME).read_bytes()) | {"resolution": "small.jsonl"}
    (tmp_path / INDEX_NAME).write_text(json.dumps(content))
    index_shards(tmp_path)
    index = load_index(tmp_path)
    assert index is not None
    assert index.resolution == "small.jsonl"


def test_what_is_broken_gets_no_index(make_sample: MakeSample, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no"):
        index_shards(tmp_path)
    (shard,) = write_shards([make_sample("a")], tmp_path, 1)
    (tmp_path / INDEX_NAME).unlink()
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(ShardError, match="truncated or damaged"):
        index_shards(tmp_path)
    assert not (tmp_path / INDEX_NAME).exists()
