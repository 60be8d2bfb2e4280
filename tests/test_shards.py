"""Shards: what is written is read back, what is broken is named, nothing is run."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from infogap.data.records import MAX_JSON_BYTES, RecordError, decode_sample, encode_sample
from infogap.data.sample import Sample, SampleError
from infogap.data.shards import ShardError, find_shards, read_records, read_samples
from infogap.data.skips import SkipLog, SkipReason
from infogap.data.writing import write_shards
from infogap.geometry import Box

MakeSample = Callable[..., Sample]


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    """A tar file with these members, which write_shards might refuse."""
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def record_of(sample: Sample, **changes: Any) -> dict[str, Any]:
    """The record of a sample, with fields of its JSON changed; a change to None removes the field."""
    members = encode_sample(sample)
    fields = json.loads(members["json"]) | changes
    fields = {name: value for name, value in fields.items() if value is not None}
    return {**members, "json": json.dumps(fields).encode(), "__key__": sample.key, "__url__": "shard-7.tar"}


@pytest.mark.parametrize(("kind", "suffix"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")])
def test_a_sample_comes_back_with_its_image_untouched(make_sample: MakeSample, kind: str, suffix: str) -> None:
    evidence = ((Box(4, 3, 10.5, 9), Box(2, 2, 20, 20)), (Box(30, 1, 40, 11),))
    sample = make_sample(
        "a-1",
        kind=kind,
        question="Größer?",
        answer="B",
        options=("yes", "no"),
        evidence=evidence,
        source="test",
        metadata={"nested": [1, {"x": None}]},
    )
    members = encode_sample(sample)
    assert set(members) == {suffix, "json"}
    back = decode_sample({**members, "__key__": "a-1", "__url__": "x.tar"})
    assert back.image.data == sample.image.data
    assert back.image.size == (56, 28)
    for name in ("key", "question", "answer", "options", "evidence", "source", "view_tokens", "metadata"):
        assert getattr(back, name) == getattr(sample, name), name


def test_the_json_says_only_what_is_there(make_sample: MakeSample) -> None:
    fields = json.loads(encode_sample(make_sample("k"))["json"])
    assert fields == {"schema": 1, "question": "What is k?", "answer": "3"}


def test_the_example_of_the_documentation_is_a_sample() -> None:
    page = (Path(__file__).parent.parent / "docs" / "shard_format.md").read_text()
    example = page[page.index('    {\n      "schema": 1,\n      "question"') :].split("\n\n")[0]
    buffer = io.BytesIO()
    Image.new("L", (4000, 2000)).save(buffer, "JPEG")
    sample = decode_sample({"jpg": buffer.getvalue(), "json": example.encode(), "__key__": "k", "__url__": "x.tar"})
    assert sample.answer == "B"
    assert sample.evidence == ((Box(3120, 1040, 3188, 1061), Box(3090, 1002, 3240, 1090)),)


@pytest.mark.parametrize("key", ["a.b", "a/b", "a\nb", "a\0b", "__meta__"])
def test_a_key_that_cannot_name_a_member_is_refused(make_sample: MakeSample, key: str) -> None:
    with pytest.raises(SampleError, match="cannot name a tar member"):
        encode_sample(make_sample(key))


@pytest.mark.parametrize("metadata", [{"x": {1, 2}}, {"x": float("nan")}])
def test_metadata_must_be_json(make_sample: MakeSample, metadata: dict[str, Any]) -> None:
    with pytest.raises(SampleError, match="metadata of the sample 'k' are not JSON"):
        encode_sample(make_sample("k", metadata=metadata))


def test_metadata_that_could_not_be_read_back_are_not_written(make_sample: MakeSample) -> None:
    with pytest.raises(SampleError, match="shorten its metadata"):
        encode_sample(make_sample("k", metadata={"x": "y" * MAX_JSON_BYTES}))


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"schema": 2}, SkipReason.BAD_SCHEMA, "its schema is 2: this version reads 1"),
        ({"schema": None}, SkipReason.BAD_SCHEMA, "its schema is None"),
        ({"schema": True}, SkipReason.BAD_FIELD, "the field 'schema' is a bool"),
        ({"answer": None}, SkipReason.MISSING_FIELD, "the field 'answer' is missing: add it"),
        ({"question": None}, SkipReason.MISSING_FIELD, "the field 'question' is missing"),
        ({"answer": 3}, SkipReason.BAD_FIELD, "the field 'answer' is a int: write a str"),
        ({"answer": " "}, SkipReason.BAD_FIELD, "empty answer"),
        ({"box": []}, SkipReason.BAD_FIELD, "the field 'box' is unknown: use .*boxes"),
        ({"options": "yes"}, SkipReason.BAD_FIELD, "the field 'options' is a str: write a list"),
        ({"options": ["3", 4]}, SkipReason.BAD_FIELD, "the option 4 is not text"),
        ({"metadata": []}, SkipReason.BAD_FIELD, "the field 'metadata' is a list: write a dict"),
        ({"boxes": [1]}, SkipReason.BAD_FIELD, "the entry 1 of boxes is no chain"),
        ({"boxes": [[1, 2, 3, 4]]}, SkipReason.BAD_FIELD, "is no chain"),
        ({"boxes": [[[1, 2, 3]]]}, SkipReason.BAD_FIELD, "is no chain"),
        ({"boxes": [[[1, 2, 3, "4"]]]}, SkipReason.BAD_FIELD, "not a number"),
        ({"boxes": [[[1, 2, 3, True]]]}, SkipReason.BAD_FIELD, "not a number"),
        ({"boxes": [[[1, 2, 1, 4]]]}, SkipReason.BAD_FIELD, "is empty"),
        ({"boxes": [[[1, 2, 10**400, 4]]]}, SkipReason.BAD_FIELD, "too large"),
        ({"boxes": [[[1, 2, 9, 9], [3, 3, 5, 5]]]}, SkipReason.BAD_FIELD, "not inside box 1"),
        ({"boxes": [[[1, 2, 900, 9]]]}, SkipReason.BAD_FIELD, "outside its image of 56x28"),
    ],
)
def test_a_faulty_field_is_named_with_shard_and_key(
    make_sample: MakeSample, changes: dict[str, Any], reason: SkipReason, words: str
) -> None:
    with pytest.raises(RecordError, match=f"^Sample 'k' of the shard shard-7.tar: .*{words}") as caught:
        decode_sample(record_of(make_sample("k"), **changes))
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"schema": NaN}',
        b'{"schema": 1}' + b" " * MAX_JSON_BYTES,
    ],
)
def test_json_that_is_no_object_is_refused(make_sample: MakeSample, text: bytes) -> None:
    with pytest.raises(RecordError, match=r"its JSON (is a|cannot be read|has .* bytes)") as caught:
        decode_sample({**record_of(make_sample("k")), "json": text})
    assert caught.value.reason is SkipReason.BAD_JSON


def test_members_that_are_missing_or_too_many_are_named(make_sample: MakeSample) -> None:
    whole = record_of(make_sample("k"))
    for missing, reason, words in (
        ("jpg", SkipReason.NO_IMAGE, "it has no image"),
        ("json", SkipReason.NO_JSON, "it has no JSON"),
    ):
        with pytest.raises(RecordError, match=words) as caught:
            decode_sample({name: value for name, value in whole.items() if name != missing})
        assert caught.value.reason is reason
    with pytest.raises(RecordError, match=r"it has the images \['jpg', 'png'\]"):
        decode_sample({**whole, "png": whole["jpg"]})


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_cut_off_anywhere_is_refused(make_sample: MakeSample, kind: str) -> None:
    sample = make_sample("k", kind=kind, size=(90, 70))
    (suffix, data), _ = encode_sample(sample).items()
    for share in (0.0, 0.01, 0.1, 0.5, 0.9, 0.99):
        with pytest.raises(RecordError) as caught:
            decode_sample({**record_of(sample), suffix: data[: int(len(data) * share)]})
        assert caught.value.reason is SkipReason.BAD_IMAGE, share


def test_the_end_mark_of_a_thumbnail_does_not_end_the_image(make_sample: MakeSample) -> None:
    sample = make_sample("k")
    data = sample.image.data
    with_thumbnail = data[:2] + b"\xff\xe1" + (len(data) + 2).to_bytes(2, "big") + data + data[2:]
    whole = decode_sample({**record_of(sample), "jpg": with_thumbnail})
    assert whole.image.size == (56, 28)
    assert decode_sample({**record_of(sample), "jpg": with_thumbnail + b"\0\0 appended by a phone"})
    with pytest.raises(RecordError, match="cut off"):
        decode_sample({**record_of(sample), "jpg": with_thumbnail[:-20]})


def test_an_image_of_500_megapixels_is_refused_from_its_header(make_sample: MakeSample) -> None:
    buffer = io.BytesIO()
    Image.new("1", (25_000, 20_000)).save(buffer, "PNG")
    with pytest.raises(RecordError, match="25000x20000") as caught:
        decode_sample({**record_of(make_sample("k", kind="PNG")), "png": buffer.getvalue()})
    assert caught.value.reason is SkipReason.BAD_IMAGE


@given(data=st.binary(max_size=60), text=st.binary(max_size=60))
def test_no_bytes_raise_anything_else(data: bytes, text: bytes) -> None:
    with pytest.raises(RecordError):
        decode_sample({"jpg": data, "json": text, "__key__": "k", "__url__": "x.tar"})


def test_shards_are_written_with_an_index_and_read_in_order(make_sample: MakeSample, tmp_path: Path) -> None:
    samples = [make_sample(f"s{number}") for number in range(5)]
    folder = tmp_path / "new" / "folder"
    shards = write_shards(iter(samples), folder, 2, prefix="train")
    assert [path.name for path in shards] == ["train-000000.tar", "train-000001.tar", "train-000002.tar"]
    assert sorted(path.name for path in folder.iterdir()) == ["shards.json", *(path.name for path in shards)]
    index = json.loads((folder / "shards.json").read_text())
    assert index["schema"] == 1
    assert index["samples"] == 5
    assert [entry["samples"] for entry in index["shards"]] == [2, 2, 1]
    for path, entry in zip(shards, index["shards"], strict=True):
        assert entry["name"] == path.name
        assert entry["bytes"] == path.stat().st_size
        assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert find_shards(folder) == find_shards(str(folder)) == shards
    back = list(read_samples(shards, SkipLog(strict=True)))
    assert [sample.key for sample in back] == ["s0", "s1", "s2", "s3", "s4"]
    assert [sample.image.data for sample in back] == [sample.image.data for sample in samples]


def test_equal_samples_give_equal_bytes(make_sample: MakeSample, tmp_path: Path) -> None:
    first, second = (write_shards([make_sample("a")], tmp_path / name, 1)[0] for name in "xy")
    assert first.read_bytes() == second.read_bytes()


def test_writing_is_all_or_nothing(make_sample: MakeSample, tmp_path: Path) -> None:
    def failing() -> Any:
        yield from (make_sample(key) for key in "abc")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        write_shards(failing(), tmp_path, 1)
    with pytest.raises(SampleError, match="The key 'a' occurs twice"):
        write_shards([make_sample("a"), make_sample("b"), make_sample("a")], tmp_path, 1)
    with pytest.raises(ValueError, match="no samples"):
        write_shards([], tmp_path, 1)
    with pytest.raises(ValueError, match="samples_per_shard is 0"):
        write_shards([make_sample("a")], tmp_path, 0)
    assert list(tmp_path.iterdir()) == []
    write_shards([make_sample("a")], tmp_path, 1)
    with pytest.raises(FileExistsError, match="holds shards already"):
        write_shards([make_sample("b")], tmp_path, 1)


@pytest.mark.parametrize(
    "where", ["pipe:cat x.tar", "/data/pipe:x", "http://host/x.tar", "s3://b/x", "gs://b/x", "file:/x", "hf:x"]
)
def test_commands_and_urls_are_refused(where: str) -> None:
    with pytest.raises(ValueError, match="are not local files"):
        find_shards(where)


def test_missing_shards_are_named_in_one_sentence(make_sample: MakeSample, tmp_path: Path) -> None:
    for where, words in (
        (tmp_path, "holds no"),
        (tmp_path / "none", "matches no file"),
        (tmp_path / "x-*.tar", "matches no file"),
    ):
        with pytest.raises(FileNotFoundError, match=words) as caught:
            find_shards(where)
        assert str(where) in str(caught.value)
    shards = write_shards([make_sample(key) for key in "abc"], tmp_path, 1)
    shards[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"lists 3 shards, of which 1 are missing .*shard-000001\.tar"):
        find_shards(tmp_path)
    (tmp_path / "shards.json").unlink()
    assert find_shards(tmp_path) == find_shards(tmp_path / "*-0*.tar") == [shards[0], shards[2]]
    assert find_shards(shards[2]) == [shards[2]]
    with_brackets = tmp_path.rename(tmp_path.parent / "taken[1]")
    assert find_shards(with_brackets) == sorted(with_brackets.glob("*.tar"))


@pytest.mark.parametrize(
    ("index", "words"),
    [("{", "is damaged"), ("[]", "is damaged"), ('{"schema": 1, "shards": [{}]}', "is damaged"),
     ('{"schema": 9, "shards": []}', "schema 9"), ('{"schema": 1, "shards": []}', "lists 0 shards")],
)  # fmt: skip
def test_a_damaged_index_is_named(tmp_path: Path, index: str, words: str) -> None:
    (tmp_path / "shards.json").write_text(index)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        find_shards(tmp_path)


def test_names_in_the_index_stay_in_its_folder(make_sample: MakeSample, tmp_path: Path) -> None:
    write_shards([make_sample("a")], tmp_path / "other", 1)
    (tmp_path / "here").mkdir()
    entry = {"name": "../other/shard-000000.tar", "samples": 1, "bytes": 1, "sha256": ""}
    index = {"schema": 1, "shards": [entry]}
    (tmp_path / "here" / "shards.json").write_text(json.dumps(index))
    with pytest.raises(FileNotFoundError, match="1 are missing"):
        find_shards(tmp_path / "here")


class Bomb:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_members_of_other_kinds_are_not_touched(make_sample: MakeSample, tmp_path: Path) -> None:
    members = encode_sample(make_sample("a"))
    trap = pickle.dumps(Bomb(tmp_path / "exploded"))
    names = ("a.pyd", "a.pickle", "a.pth", "a.npy", "a.cls", "a.seg.jpg", "README", "__meta__")
    shard = write_tar(
        tmp_path / "x.tar",
        {"./a.jpg": members["jpg"], **dict.fromkeys(names, trap), "./a.JSON": members["json"]},
    )
    (record,) = read_records(shard, SkipLog(strict=True))
    assert set(record) == {"__key__", "__url__", "jpg", "json"}
    assert decode_sample(record).key == "a"
    assert not (tmp_path / "exploded").exists()


def test_a_truncated_shard_gives_the_samples_before_the_cut(make_sample: MakeSample, tmp_path: Path) -> None:
    shard = write_shards([make_sample(f"s{number}") for number in range(3)], tmp_path, 3)[0]
    whole = shard.read_bytes()
    with tarfile.open(shard) as archive:
        ends = [member.offset_data + member.size for member in archive if member.name.endswith("json")]
    assert len(ends) == 3
    for cut in range(0, len(whole), 256):
        shard.write_bytes(whole[:cut])
        skips = SkipLog()
        keys = [sample.key for sample in read_samples([shard], skips)]
        readable = sum(end <= cut for end in ends)
        assert keys == ["s0", "s1", "s2"][:readable], cut
        assert readable == 3 or skips.counts[SkipReason.BROKEN_SHARD] == 1, cut
        if skips.counts[SkipReason.BROKEN_SHARD]:
            with pytest.raises(ShardError, match="is truncated or damaged"):
                list(read_records(shard, SkipLog(strict=True)))


def test_a_member_that_is_cut_off_is_laid_to_its_shard(make_sample: MakeSample, tmp_path: Path) -> None:
    """The cut is what is wrong, and not that the sample before it has no JSON."""
    (shard,) = write_shards([make_sample("a")], tmp_path, 1)
    with tarfile.open(shard) as archive:
        cut = archive.getmember("a.json").offset_data + 5
    shard.write_bytes(shard.read_bytes()[:cut])
    with pytest.raises(ShardError, match="is truncated or damaged"):
        list(read_samples([shard], SkipLog(strict=True)))


def test_a_damaged_header_in_the_middle_is_noticed(make_sample: MakeSample, tmp_path: Path) -> None:
    shard = write_shards([make_sample(f"s{number}") for number in range(3)], tmp_path, 3)[0]
    data = bytearray(shard.read_bytes())
    with tarfile.open(shard) as archive:
        at = archive.getmember("s1.jpg").offset
    data[at : at + 20] = b"x" * 20
    shard.write_bytes(data)
    skips = SkipLog()
    assert [sample.key for sample in read_samples([shard], skips)] == ["s0"]
    assert skips.counts == {SkipReason.BROKEN_SHARD: 1}


def test_faulty_samples_are_skipped_counted_and_raised_if_strict(make_sample: MakeSample, tmp_path: Path) -> None:
    good = encode_sample(make_sample("g"))
    shard = write_tar(
        tmp_path / "x.tar",
        {
            "a.jpg": good["jpg"],
            "a.json": b"{",
            "b.jpg": b"not a jpeg",
            "b.json": good["json"],
            "c.json": good["json"],
            "d.jpg": good["jpg"],
            "d.JPG": good["jpg"],
            "d.json": good["json"],
        },
    )
    skips = SkipLog()
    assert [sample.key for sample in read_samples([shard], skips)] == ["d"]
    assert skips.counts == {
        SkipReason.BAD_JSON: 1,
        SkipReason.BAD_IMAGE: 1,
        SkipReason.NO_IMAGE: 1,
        SkipReason.DUPLICATE_MEMBER: 1,
    }
    with pytest.raises(SampleError, match=f"Sample 'a' of the shard {shard}: its JSON cannot be read"):
        list(read_samples([shard], SkipLog(strict=True)))


def test_a_shard_that_vanishes_is_one_fault(tmp_path: Path) -> None:
    skips = SkipLog()
    assert list(read_samples([tmp_path / "gone.tar"], skips)) == []
    assert skips.counts == {SkipReason.BROKEN_SHARD: 1}


def test_the_log_names_a_fault_at_most_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    skips = SkipLog(clock=lambda: now)
    with caplog.at_level(logging.WARNING):
        for second in range(0, 125, 5):
            now = 100.0 + second
            skips.fault(SkipReason.BAD_JSON, ValueError(f"fault at {second}."))
        skips.drop(SkipReason.NO_EVIDENCE)
    assert caplog.messages == [
        "fault at 0. Left out so far: 1 bad_json.",
        "fault at 60. Left out so far: 13 bad_json.",
        "fault at 120. Left out so far: 25 bad_json.",
    ]
    assert skips.summary() == "25 bad_json, 1 no_evidence"


def test_dropping_what_was_not_asked_for_is_no_fault() -> None:
    skips = SkipLog(strict=True)
    skips.drop(SkipReason.NO_EVIDENCE)
    assert skips.counts == {SkipReason.NO_EVIDENCE: 1}
