"""Shards that are broken in every way: each fault is counted under its name or refused in one sentence, none is run."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infogap.data.datamodule import ShardDataModule
from infogap.data.reader import RecordReader, open_set
from infogap.data.remote import Cache, CacheConfig
from infogap.data.sample import Sample
from infogap.data.sample_set import SampleSet, Selection
from infogap.data.skips import SkipLog, SkipReason
from infogap.data.writing import write_shards

MakeSample = Callable[..., Sample]
CACHE = Cache(CacheConfig())


class Bomb:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def read_all(where: str) -> tuple[list[str], SkipLog]:
    """Keys of what can be used, and what was left out."""
    skips = SkipLog()
    samples = SampleSet(open_set(where, CACHE, skips), Selection(), skips)
    with RecordReader(CACHE) as reader:
        read = [samples.read(number, reader, skips) for number in range(len(samples))]
    return [sample.key for sample in read if sample is not None], skips


def members_of(sample: Sample) -> dict[str, bytes]:
    text = {"schema": 1, "question": sample.question, "answer": sample.answer}
    return {f"{sample.key}.jpg": sample.image.data, f"{sample.key}.json": json.dumps(text).encode()}


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def png_header(width: int, height: int) -> bytes:
    header = (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    )
    return header + b"\0\0\0\0" + struct.pack(">I", 0) + b"IEND\xaeB`\x82"


FAULTS: dict[str, tuple[Callable[[dict[str, bytes]], Any], SkipReason]] = {
    "truncated JPEG": (lambda m: m.update({"b.jpg": m["b.jpg"][:-200]}), SkipReason.BAD_IMAGE),
    "no JPEG at all": (lambda m: m.update({"b.jpg": b"GIF89a"}), SkipReason.BAD_IMAGE),
    "wrong JSON": (lambda m: m.update({"b.json": b"{"}), SkipReason.BAD_JSON),
    "deep JSON": (lambda m: m.update({"b.json": b"[" * 100_000}), SkipReason.BAD_JSON),
    "missing image": (lambda m: m.pop("b.jpg"), SkipReason.NO_IMAGE),
    "missing JSON": (lambda m: m.pop("b.json"), SkipReason.NO_JSON),
    "two images": (lambda m: m.update({"b.png": png_header(8, 8)}), SkipReason.NO_IMAGE),
    "absurd box": (
        lambda m: m.update({"b.json": m["b.json"][:-1] + b', "boxes": [[[5, 5, 1e300, -1e300]]]}'}),
        SkipReason.BAD_FIELD,
    ),
    "box of NaN": (
        lambda m: m.update({"b.json": m["b.json"][:-1] + b', "boxes": [[[0, 0, NaN, 5]]]}'}),
        SkipReason.BAD_JSON,
    ),
    "500 megapixels": (lambda m: m.update({"b.jpg": png_header(25_000, 20_000)}), SkipReason.BAD_IMAGE),
    "other schema": (lambda m: m.update({"b.json": b'{"schema": 7}'}), SkipReason.BAD_SCHEMA),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_costs_its_sample_and_is_counted_by_name(make_sample: MakeSample, tmp_path: Path, fault: str) -> None:
    members: dict[str, bytes] = {}
    for key in "abc":
        members |= members_of(make_sample(key))
    spoil, reason = FAULTS[fault]
    spoil(members)
    ordered = sorted(members.items())
    write_tar(tmp_path / "x.tar", ordered)
    keys, skips = read_all(str(tmp_path))
    assert keys == ["a", "c"]
    assert skips.counts == {reason: 1}
    with pytest.raises(ValueError, match="'b'"):
        next(iter(ShardDataModule(str(tmp_path), strict=True, prompts_per_step=3).train_dataloader()))


def test_a_member_that_occurs_twice_counts_once(make_sample: MakeSample, tmp_path: Path) -> None:
    members = [*members_of(make_sample("a")).items()]
    write_tar(tmp_path / "x.tar", [*members, members[1]])
    keys, skips = read_all(str(tmp_path))
    assert (keys, skips.counts) == (["a"], {SkipReason.DUPLICATE_MEMBER: 1})


def test_nothing_is_unpickled_and_links_are_not_followed(make_sample: MakeSample, tmp_path: Path) -> None:
    members = members_of(make_sample("a"))
    members |= {f"a.{kind}": pickle.dumps(Bomb(tmp_path / kind)) for kind in ("pkl", "pickle", "pth", "npz")}
    write_tar(tmp_path / "x.tar", [*members.items()])
    with tarfile.open(tmp_path / "x.tar", "a") as archive:
        for name, target in (("b.json", "/etc/passwd"), ("b.jpg", "../secret.jpg")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
    keys, skips = read_all(str(tmp_path))
    assert (keys, skips.counts) == (["a"], {})
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


@pytest.mark.parametrize(
    "where",
    ["pipe:touch x", "pipe:curl http://host/x.tar", "file:///etc/x.tar", "gs://bucket/x.tar", "ftp://host/x.tar"],
)
def test_commands_and_other_addresses_are_refused(where: str) -> None:
    with pytest.raises(ValueError, match="are not local files"):
        ShardDataModule(where)
    with pytest.raises(ValueError, match="are not local files"):
        open_set(where, CACHE, SkipLog())


def test_a_shard_that_vanishes_while_it_is_used_costs_its_samples(make_sample: MakeSample, tmp_path: Path) -> None:
    shards = write_shards((make_sample(key) for key in "abcd"), tmp_path, 2)
    skips = SkipLog()
    samples = SampleSet(open_set(str(tmp_path), CACHE, skips), Selection(), skips)
    shards[0].unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:1000])
    with RecordReader(CACHE) as reader:
        assert [samples.read(number, reader, skips) for number in range(4)] == [None] * 4
    assert skips.counts == {SkipReason.BROKEN_SHARD: 4}


def test_an_index_that_lies_about_a_shard_is_not_believed(make_sample: MakeSample, tmp_path: Path) -> None:
    """Another shard of the same name, as when half of a folder was copied anew."""
    write_shards((make_sample(key) for key in "ab"), tmp_path / "old", 2)
    write_shards((make_sample(key) for key in "wxyz"), tmp_path / "new", 4)
    (tmp_path / "old" / "shard-000000.tar").write_bytes((tmp_path / "new" / "shard-000000.tar").read_bytes())
    assert read_all(str(tmp_path / "old"))[0] == ["w", "x", "y", "z"]


mutation = st.tuples(st.integers(0, 1 << 20), st.binary(max_size=8))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tar=st.lists(mutation, max_size=4),
    index=st.lists(mutation, max_size=3),
    cut=st.none() | st.integers(0, 1 << 14),
    with_index=st.booleans(),
)
def test_no_mutation_of_a_shard_or_its_index_does_anything_but_cost_samples(
    make_sample: MakeSample, tmp_path: Path, tar: list[Any], index: list[Any], cut: int | None, with_index: bool
) -> None:
    folder = tmp_path / "shards"
    if not folder.exists():
        write_shards((make_sample(key) for key in "abc"), folder, 2)
        for path in folder.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    for path in folder.iterdir():
        path.unlink()
    names = ["shard-000000.tar", "shard-000001.tar", *(["shards.json"] if with_index else [])]
    for name in names:
        data = bytearray((tmp_path / name).read_bytes())
        changes = index if name == "shards.json" else tar if name == "shard-000000.tar" else []
        for place, content in changes:
            start = place % len(data)
            data[start : start + len(content)] = content
        (folder / name).write_bytes(data[:cut] if name == "shard-000000.tar" else data)
    before = sorted(path.name for path in folder.iterdir())
    try:
        keys, _ = read_all(str(folder))
    except (ValueError, FileNotFoundError) as error:
        assert with_index and "index" in str(error), error  # noqa: PT017, PT018
    else:
        assert len(keys) <= 4
        assert with_index or "c" in keys  # the other shard is whole
    assert sorted(path.name for path in folder.iterdir()) == before
