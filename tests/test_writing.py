"""Writing shards: plain tar files, an index that leads to every member, and nothing half done."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from infogap.data import writing
from infogap.data.index import load_index
from infogap.data.records import encode_sample
from infogap.data.sample import Sample
from infogap.data.writing import WRITE_BYTES, ShardWriter, index_bytes, pack_members, write_shards
from infogap.geometry import Box

MakeSample = Callable[..., Sample]


def members_of(sample: Sample) -> dict[str, bytes]:
    return {f"{sample.key}.{suffix}": data for suffix, data in encode_sample(sample).items()}


def as_tarfile_writes_them(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def test_a_shard_is_the_tar_file_that_the_standard_library_writes(make_sample: MakeSample, tmp_path: Path) -> None:
    """Headers of long names and of others than ASCII, members of a whole block, images beyond one call."""
    keys = ["a", "b" * 95, "c" * 96, "d" * 150, "größe", "日本"]
    samples = [make_sample(key) for key in keys] + [make_sample("large", size=(600, 400), kind="PNG")]
    assert len(samples[-1].image.data) > WRITE_BYTES
    for sample in [*samples]:  # a JSON of exactly one block, and one byte more
        short = len(encode_sample(sample)["json"])
        texts = (sample.question + "x" * (512 - short), sample.question + "x" * (513 - short))
        samples += [make_sample(f"{sample.key[:9]}{len(text)}", question=text) for text in texts]
    (shard,) = write_shards(samples, tmp_path, len(samples))
    expected: dict[str, bytes] = {}
    for sample in samples:
        expected |= members_of(sample)
    assert any(len(data) == 512 for data in expected.values())
    assert shard.read_bytes() == as_tarfile_writes_them(expected)


@pytest.mark.parametrize("count", range(1, 12))
def test_every_shard_ends_with_a_whole_record(make_sample: MakeSample, tmp_path: Path, count: int) -> None:
    """Two empty blocks may just fit, or need a record of their own."""
    samples = [make_sample(f"s{number}", question="x" * 1200) for number in range(count)]
    (shard,) = write_shards(samples, tmp_path, count)
    members = [members_of(sample) for sample in samples]
    assert shard.read_bytes() == as_tarfile_writes_them({name: data for part in members for name, data in part.items()})


def test_the_index_leads_to_every_member(make_sample: MakeSample, tmp_path: Path) -> None:
    chains = ((Box(1, 1, 9, 9),), (Box(2, 2, 9, 9), Box(0, 0, 20, 20)))
    samples = [make_sample("a"), make_sample("b" * 120, evidence=chains), make_sample("c", kind="PNG")]
    shards = write_shards(samples, tmp_path, 2)
    index = load_index(tmp_path)
    assert index is not None
    assert [entry.name for entry in index.shards] == [path.name for path in shards]
    places = []
    for path, entry in zip(shards, index.shards, strict=True):
        data = path.read_bytes()
        assert entry.bytes == len(data)
        assert entry.sha256 == hashlib.sha256(data).hexdigest()
        assert entry.members is not None
        places += [(place, data) for place in entry.members]
    for sample, (place, data) in zip(samples, places, strict=True):
        assert place.key == sample.key
        assert place.chains == len(sample.evidence)
        image = data[place.image_offset : place.image_offset + place.image_bytes]
        text = data[place.json_offset : place.json_offset + place.json_bytes]
        assert [image, text] == list(encode_sample(sample).values())


def test_the_index_can_be_read_by_people(make_sample: MakeSample, tmp_path: Path) -> None:
    """One line for each shard; what the samples follow from is indented."""
    write_shards([make_sample(key) for key in "abc"], tmp_path, 2, made_from={"seed": 7})
    lines = (tmp_path / "shards.json").read_text().splitlines()
    assert [line for line in lines if "shard-" in line] == lines[-4:-2]
    assert ' "resolution": "resolution.jsonl",' in lines
    assert '  "seed": 7' in lines
    content = json.loads("\n".join(lines))
    assert list(content) == ["schema", "samples", "made_from", "resolution", "shards"]
    assert content["samples"] == 3
    about = {"source": "s", "licence": "CC0", "origin": "example.org"}
    assert list(json.loads(index_bytes([], about)))[2:5] == list(about)


def test_bytes_with_a_sample_are_those_of_the_finished_shard(make_sample: MakeSample, tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "x.tar") as shard:
        for number in range(9):
            sample = make_sample(f"s{number}", size=(40 + 30 * number, 30))
            packed = pack_members(sample.key, encode_sample(sample), 0)
            expected = shard.bytes_with(packed)
            shard.add(packed)
        entry = shard.finish()
    assert entry.bytes == (tmp_path / "x.tar").stat().st_size == expected


def test_hashing_lags_behind_by_one_sample_and_no_more(
    make_sample: MakeSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples that wait for a slow thread would fill the memory."""
    hashed: list[bytes] = []
    hash_now = ShardWriter._hash

    def slow(self: ShardWriter, pieces: tuple[bytes, ...]) -> None:
        time.sleep(0.01)
        hash_now(self, pieces)
        hashed.append(pieces[0])

    monkeypatch.setattr(ShardWriter, "_hash", slow)
    with ShardWriter(tmp_path / "x.tar") as shard:
        for key in "abcd":
            shard.add(pack_members(key, encode_sample(make_sample(key)), 0))
            assert len(hashed) >= len(shard.members) - 1
        entry = shard.finish()
    assert entry.sha256 == hashlib.sha256((tmp_path / "x.tar").read_bytes()).hexdigest()


def test_a_shard_has_its_name_only_when_it_is_on_the_disk(
    make_sample: MakeSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.tar"
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(path.exists()))
    sample = make_sample("a")
    packed = pack_members("a", encode_sample(sample), 0)
    with ShardWriter(path) as shard:
        shard.add(packed)
        assert not path.exists()
        shard.finish()
    assert synced == [False, True]  # the file, then the folder
    path.unlink()
    with ShardWriter(path) as shard:
        shard.add(packed)  # and not finished
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system has no such call")
def test_the_disk_is_set_to_work_while_a_shard_grows(
    make_sample: MakeSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges: list[tuple[int, int]] = []
    monkeypatch.setattr(writing, "WRITEBACK_BYTES", 9000)

    def note(descriptor: int, start: int, count: int, _: int) -> None:
        assert os.fstat(descriptor).st_size == start + count, "nothing waits in a buffer"
        ranges.append((start, count))

    monkeypatch.setattr(os, "posix_fadvise", note)
    write_shards([make_sample(f"s{number}") for number in range(9)], tmp_path, 9)
    assert len(ranges) > 1
    assert all(count >= 9000 for _, count in ranges)
    assert [start for start, _ in ranges] == [0, *accumulate(count for _, count in ranges)][:-1]


def test_images_are_not_copied(tmp_path: Path) -> None:
    data = random.Random(0).randbytes(1000)
    assert pack_members("k", {"jpg": data, "json": b"{}"}, 0).pieces[1] is data


def test_two_writers_do_not_mix_their_shards(make_sample: MakeSample, tmp_path: Path) -> None:
    """The second one begins while the first has one shard of three."""

    def samples() -> Any:
        yield make_sample("a")
        with pytest.raises(ValueError, match="Another process is writing"):
            write_shards([make_sample("x")], tmp_path, 1)
        yield from (make_sample(key) for key in "bc")

    write_shards(samples(), tmp_path, 1)
    index = load_index(tmp_path)
    assert index is not None
    assert [place.key for entry in index.shards for place in entry.members or ()] == ["a", "b", "c"]
    with pytest.raises(FileExistsError, match="holds shards already"):
        write_shards([make_sample("x")], tmp_path, 1)
    assert {path.name for path in tmp_path.iterdir()} == {*(entry.name for entry in index.shards), "shards.json"}


def test_a_disk_without_locks_is_written_with_a_warning(
    make_sample: MakeSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    write_shards([make_sample("a")], tmp_path, 1)
    assert "cannot lock files" in caplog.text
    assert {path.name for path in tmp_path.iterdir()} == {"shard-000000.tar", "shards.json"}


def test_what_lies_beside_the_shards_is_there_before_the_index(
    make_sample: MakeSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[str] = []
    replace = os.replace

    def note(source: Path, target: Path) -> None:
        moved.extend([target.name] if target.parent == tmp_path else [])
        replace(source, target)

    monkeypatch.setattr(os, "replace", note)
    write_shards([make_sample("a")], tmp_path, 1, beside=lambda folder: (folder / "x.jsonl").touch())
    assert moved == ["shard-000000.tar", "x.jsonl", "shards.json"]


def test_shards_of_others_are_no_leftovers(make_sample: MakeSample, tmp_path: Path) -> None:
    """A killed writer had moved its shard into place; a shard of the same name and size was put there since."""
    (shard,) = write_shards([make_sample("a")], tmp_path, 1)
    (tmp_path / ".writing").mkdir()
    (tmp_path / "shards.json").rename(tmp_path / ".writing" / "shards.json")
    whole = shard.read_bytes()
    shard.write_bytes(bytes(len(whole)))
    with pytest.raises(FileExistsError, match="holds shards already"):
        write_shards([make_sample("a")], tmp_path, 1)
    assert shard.read_bytes() == bytes(len(whole))


def test_converting_needs_neither_torch_nor_lightning() -> None:
    """They take seconds and hundreds of megabytes, of the one gigabyte that a conversion may use."""
    code = "import sys, infogap.data.convert.command; print({'torch', 'lightning', 'webdataset'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
