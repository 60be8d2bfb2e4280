"""`infogap data check`: planted faults are found with shard and key, a clean set is shown, nothing makes it crash."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shard_files import members_of, spoilt_png, write_tar

from infogap.data.contact_sheet import CHAIN_COLOURS, INNERMOST_WIDTH, THUMBNAIL_SIDE, draw_cell, make_sheet
from infogap.data.images import HighResImage
from infogap.data.index_check import DIFFERS
from infogap.data.inspection import spread
from infogap.data.manifest import ManifestEntry, ManifestHeader, ManifestWriter, SelectionStatus
from infogap.data.problems import Problem, ProblemLog, Severity
from infogap.data.records import encode_sample
from infogap.data.sample import Sample
from infogap.data.shard_scan import read_record, scan
from infogap.data.shards import read_records, scan_shard
from infogap.data.skips import SkipLog, SkipReason
from infogap.data.writing import write_shards
from infogap.data_commands import check as command
from infogap.data_commands import main
from infogap.data_commands.check import CheckConfig, CheckReport, check
from infogap.geometry import Box

MakeSample = Callable[..., Sample]


def found(report: CheckReport) -> set[tuple[str, str, str, str]]:
    """Severity, kind, shard and key of all problems that were kept."""
    groups = [shown for shown, _ in report.problems.groups()]
    return {(p.severity.value, p.kind, p.shard, p.key) for shown in groups for p in shown}


def huge_png() -> bytes:
    """The header of an image of 500 megapixels, and no pixels."""
    header = struct.pack(">IIBBBBB", 25_000, 20_000, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


BOXES: dict[str, Any] = {
    "negative": [[[-9, 2, 10, 10]]],
    "inverted": [[[20, 2, 10, 10]]],
    "outside": [[[20, 2, 99, 10]]],
    "unnested": [[[2, 2, 20, 20], [4, 4, 10, 10]]],
}


@pytest.mark.parametrize("boxes", BOXES.values(), ids=BOXES)
def test_an_absurd_box_is_an_error(tmp_path: Path, make_sample: MakeSample, boxes: Any) -> None:
    write_tar(tmp_path / "a.tar", members_of(make_sample("k"), boxes=boxes) | members_of(make_sample("good")))
    report = check(str(tmp_path), CheckConfig())
    assert ("error", "bad field", "a.tar", "k") in found(report)
    assert (report.samples, report.checked, report.seen) == (2, 2, 1)


def test_every_fault_of_a_sample_is_found_with_shard_and_key(tmp_path: Path, make_sample: MakeSample) -> None:
    sample = make_sample("x")
    jpeg, text = sample.image.data, encode_sample(sample)["json"]
    png = make_sample("y", kind="PNG", size=(90, 90)).image.data
    first = {
        **members_of(sample, "good"),
        "no-json.jpg": jpeg,
        "no-image.json": text,
        "wrong-json.jpg": jpeg,
        "wrong-json.json": b"{",
        "nan.jpg": jpeg,
        "nan.json": text[:-1] + b', "boxes": [[[NaN, 1, 2, 3]]]}',
        "list.jpg": jpeg,
        "list.json": b"[]",
        **members_of(sample, "old", schema=0),
        **members_of(sample, "slip", box=[1]),
        **members_of(sample, "unasked", question=None),
        **members_of(sample, "markup", question="<|im_end|>"),
    }
    second = {
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "cut.json": text,
        "huge.png": huge_png(),
        "huge.json": text,
        "spoilt.png": spoilt_png(png),
        "spoilt.json": text,
        "long.jpg": jpeg,
        "long.json": text + b" " * (1 << 20),
        "pickled.pkl": pickle.dumps(print),
        "weights.pth": b"x",
        **members_of(sample, "good"),
    }
    write_tar(tmp_path / "a.tar", first)
    write_tar(tmp_path / "b.tar", second)
    report = check(str(tmp_path), CheckConfig(limit=1000))
    expected = {
        ("error", "no json", "a.tar", "no-json"),
        ("error", "no image", "a.tar", "no-image"),
        ("error", "bad json", "a.tar", "wrong-json"),
        ("error", "bad json", "a.tar", "nan"),
        ("error", "bad json", "a.tar", "list"),
        ("error", "bad schema", "a.tar", "old"),
        ("error", "bad field", "a.tar", "slip"),
        ("error", "missing field", "a.tar", "unasked"),
        ("error", "bad field", "a.tar", "markup"),
        ("error", "bad image", "b.tar", "cut"),
        ("error", "bad image", "b.tar", "huge"),
        ("error", "bad image", "b.tar", "spoilt"),
        ("error", "bad json", "b.tar", "long"),
        ("error", "duplicate key", "b.tar", "good"),
        ("warning", "member not read", "b.tar", ""),
        ("warning", "no index", "shards.json", ""),
    }
    assert found(report) == expected
    assert report.problems.counts[Severity.WARNING, "member not read"] == 2
    faults = [problem for shown, _ in report.problems.groups() for problem in shown]
    assert all(problem.fault and problem.remedy for problem in faults)
    assert any("500000000" in p.fault or "25000x20000" in p.fault for p in faults if p.key == "huge")
    assert any("nothing is ever unpickled" in p.fault for p in faults)
    remedies = {problem.key: problem.remedy for problem in faults}
    assert remedies["wrong-json"].startswith("write one JSON object")
    assert remedies["unasked"] == "add it"


def test_without_decoding_only_headers_and_ends_are_looked_at(tmp_path: Path, make_sample: MakeSample) -> None:
    png = make_sample("y", kind="PNG", size=(90, 90)).image.data
    spoilt = {"k.png": spoilt_png(png), "k.json": encode_sample(make_sample("k"))["json"]}
    write_tar(tmp_path / "a.tar", spoilt | members_of(make_sample("other")))
    assert check(str(tmp_path), CheckConfig()).problems.total(Severity.ERROR) == 1
    kept = [f"s{number}" for number in range(60)]  # the sheet would show the spoilt one among few
    write_tar(tmp_path / "a.tar", {n: d for k in kept for n, d in members_of(make_sample(k)).items()} | spoilt)
    seeds = [seed for seed in range(20) if 60 not in spread(range(61), 24, seed)]
    assert check(str(tmp_path), CheckConfig(seed=seeds[0], decode=False)).problems.total(Severity.ERROR) == 0
    assert check(str(tmp_path), CheckConfig(seed=seeds[0])).problems.total(Severity.ERROR) == 1


def test_what_trains_hardly_well_is_a_warning(tmp_path: Path, make_sample: MakeSample) -> None:
    big = make_sample("big", size=(448, 448))
    answer = "The dog is sitting on the red chair."
    members = {
        **members_of(make_sample("thin", size=(56, 20))),
        **members_of(make_sample("dot", size=(448, 448)), boxes=[[[5, 5, 6, 6]]]),
        **members_of(make_sample("half", size=(448, 448)), boxes=[[[0, 0, 440, 440]]]),
        **members_of(make_sample("whole", size=(448, 448)), boxes=[[[9, 9, 40, 40], [0, 0, 448, 448]]]),
        **members_of(make_sample("sentence"), answer=answer),
        **members_of(make_sample("chosen"), answer=answer, options=[answer, "no"]),
        **members_of(make_sample("tag"), question="<image>\nWhat is it?"),
        **members_of(big, "first"),
        **members_of(big, "second"),
        **members_of(big, "other", question="And this?"),
    }
    write_tar(tmp_path / "a.tar", members)
    report = check(str(tmp_path), CheckConfig())
    assert report.problems.total(Severity.ERROR) == 0
    assert found(report) == {
        ("warning", "no index", "shards.json", ""),
        ("warning", "small image", "a.tar", "thin"),
        ("warning", "box size", "a.tar", "dot"),
        ("warning", "box size", "a.tar", "half"),
        ("warning", "box size", "a.tar", "whole"),
        ("warning", "unanswerable", "a.tar", "sentence"),
        ("warning", "markup", "a.tar", "tag"),
        ("warning", "question repeated", "a.tar", "second"),
    }


def clean_set(folder: Path, make_sample: MakeSample, count: int = 6, per_shard: int = 3) -> Path:
    boxes = ((Box(20, 30, 40, 60), Box(10, 20, 80, 90)), (Box(120, 40, 150, 80),))
    samples = [make_sample(f"s{n}", size=(224, 168), evidence=boxes, source="test") for n in range(count)]
    write_shards(samples, folder, per_shard)
    return folder


def test_a_clean_set_costs_no_exit_status_and_gets_a_sheet(
    tmp_path: Path, make_sample: MakeSample, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = clean_set(tmp_path / "set", make_sample)
    main(["check", str(folder)])
    out = capsys.readouterr().out
    assert "6 samples in 2 shards" in out
    assert "6 were looked at: 0 errors, 0 warnings." in out
    assert "Of 6 sound ones 6 have boxes and 0 options; images of 224x168 to 224x168 pixels. Sources: test 6." in out
    assert f"{folder / 'contact_sheet.png'} shows 6 samples" in out
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert sheet.width > 4 * THUMBNAIL_SIDE
    assert command.find_shards(folder) == sorted(folder.glob("*.tar"))  # the sheet is no shard


def test_errors_cost_the_exit_status_1_and_are_named(
    tmp_path: Path, make_sample: MakeSample, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tar(tmp_path / "a.tar", {"bad\x1b[31m.json": b"{", **members_of(make_sample("good"))})
    sheet = tmp_path / "elsewhere.png"
    with pytest.raises(SystemExit) as exit_:
        main(["check", str(tmp_path), "--sheet", str(sheet)])
    assert exit_.value.code == 1
    out = capsys.readouterr().out
    assert "it has no image" in out
    assert "a.tar" in out
    assert "\x1b[31m" not in out  # a key does not steer the terminal
    assert sheet.is_file()
    assert not (tmp_path / "contact_sheet.png").exists()


def test_boxes_are_where_they_should_be(make_sample: MakeSample) -> None:
    plain = io.BytesIO()
    Image.new("RGB", (1280, 640), "white").save(plain, "PNG")
    image = HighResImage(plain.getvalue())
    inner, outer, other = Box(400, 200, 480, 280), Box(320, 160, 640, 480), Box(960, 80, 1120, 240)
    cell = np.asarray(draw_cell(Sample("k", image, "q?", "3", evidence=((inner, outer), (other,)))))[:160]
    # the thumbnail has 1 pixel for 4: a line stands just outside its box
    expected = np.full((160, 320, 3), 255, np.uint8)
    for box, colour, width in ((outer, 0, 1), (inner, 0, INNERMOST_WIDTH), (other, 1, INNERMOST_WIDTH)):
        x1, y1, x2, y2 = (round(edge / 4) for edge in box.as_tuple())
        ring = np.zeros((160, 320), bool)
        ring[y1 - width : y2 + width, x1 - width : x2 + width] = True
        ring[y1:y2, x1:x2] = False
        expected[ring] = CHAIN_COLOURS[colour]
    np.testing.assert_array_equal(cell, expected)


def test_a_sheet_holds_every_cell_where_it_belongs(make_sample: MakeSample) -> None:
    cells = [Image.new("RGB", (THUMBNAIL_SIDE, 50 + number), (number * 40, 0, 0)) for number in range(6)]
    sheet = make_sheet(cells)
    for number in range(6):
        x = 16 + (number % 4) * (THUMBNAIL_SIDE + 16) + 5
        y = 16 + (number // 4) * (53 + 16) + 5
        assert sheet.getpixel((x, y)) == (number * 40, 0, 0), number


def tamper_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    index = folder / "shards.json"
    content = json.loads(index.read_bytes())
    change(content)
    index.write_text(json.dumps(content))


INDEX_FAULTS: dict[str, tuple[Callable[[dict[str, Any]], object], str, str]] = {
    "total": (lambda c: c.update(samples=9), "bad index", "shards.json"),
    "schema": (lambda c: c.update(schema=9), "bad index", "shards.json"),
    "no shards": (lambda c: c.pop("shards"), "bad index", "shards.json"),
    "infinite": (lambda c: c["shards"][0].update(bytes=float("inf")), "bad index", "shards.json"),
    "count": (
        lambda c: c["shards"][1].pop("members") and c["shards"][1].update(samples=4),
        DIFFERS,
        "shard-000001.tar",
    ),
    "twice": (lambda c: c["shards"].append(c["shards"][0]), "bad index", "shard-000000.tar"),
    "missing": (lambda c: c["shards"][0].update(name="gone.tar"), "missing shard", "gone.tar"),
    "unlisted": (lambda c: c["shards"].pop(), "shard not listed", "shard-000001.tar"),
    "size": (
        lambda c: c["shards"][1].update(bytes=c["shards"][1]["bytes"] + 512),
        "shard differs from index",
        "shard-000001.tar",
    ),
    "sha": (lambda c: c["shards"][1].update(sha256="0" * 64), DIFFERS, "shard-000001.tar"),
}


@pytest.mark.parametrize(("change", "kind", "name"), INDEX_FAULTS.values(), ids=INDEX_FAULTS)
def test_an_index_that_lies_is_found_out(
    tmp_path: Path, make_sample: MakeSample, change: Callable[[dict[str, Any]], object], kind: str, name: str
) -> None:
    folder = clean_set(tmp_path, make_sample)
    tamper_index(folder, change)
    report = check(str(folder), CheckConfig())
    assert ("error", kind, name, "") in found(report)
    assert report.samples == 6  # the samples are looked at nevertheless


@pytest.mark.parametrize("place", [0, 1, 2, 5], ids=["key", "image", "length", "chains"])
def test_a_member_that_the_index_puts_elsewhere_is_found(tmp_path: Path, make_sample: MakeSample, place: int) -> None:
    folder = clean_set(tmp_path, make_sample)

    def move(content: dict[str, Any]) -> None:
        member = content["shards"][1]["members"][1]
        member[place] = "other" if place == 0 else member[place] + 1

    tamper_index(folder, move)
    assert ("error", "sample differs from index", "shard-000001.tar", "s4") in found(check(str(folder), CheckConfig()))


def test_checksums_can_be_left_out(tmp_path: Path, make_sample: MakeSample) -> None:
    folder = clean_set(tmp_path, make_sample)
    tamper_index(folder, lambda content: content["shards"][0].update(sha256="0" * 64))
    assert not found(check(str(folder), CheckConfig(checksums=False)))
    main(["check", str(folder), "--sample", "2"])  # does not read all of the shards
    with pytest.raises(SystemExit):
        main(["check", str(folder), "--sample", "2", "--checksums"])


def test_a_manifest_of_other_samples_is_found_out(tmp_path: Path, make_sample: MakeSample) -> None:
    folder = clean_set(tmp_path, make_sample)
    with ManifestWriter(folder / "resolution.jsonl", ManifestHeader("p", (512, 128))) as manifest:
        for key in ("s0", "s1", "s2", "s3", "s4", "gone"):
            manifest.append(ManifestEntry(key, SelectionStatus.SELECTED, 128))
    assert found(check(str(folder), CheckConfig())) == {
        ("warning", "result without a sample", "resolution.jsonl", "gone"),
        ("warning", "sample without a result", "shard-000001.tar", "s5"),
    }
    (folder / "resolution.jsonl").write_text("{}\n")
    assert ("error", "bad manifest", "resolution.jsonl", "") in found(check(str(folder), CheckConfig()))


@pytest.mark.parametrize("share", [0.999, 0.5, 0.05])
def test_a_truncated_shard_is_found_and_read_up_to_there(tmp_path: Path, make_sample: MakeSample, share: float) -> None:
    folder = clean_set(tmp_path, make_sample)
    (folder / "shards.json").unlink()
    shard = folder / "shard-000001.tar"
    data = shard.read_bytes()
    end = data.rstrip(b"\0")
    shard.write_bytes(data[: int(len(end) * share)])
    report = check(str(folder), CheckConfig())
    assert ("error", "broken shard", "shard-000001.tar", "") in found(report)
    assert 3 <= report.seen < 6
    kinds = {kind for _, kind in report.problems.counts}
    assert kinds <= {"broken shard", "no json", "no index"}  # of a member that was cut nothing is used


def test_a_shard_that_was_cut_between_two_members_is_found(tmp_path: Path, make_sample: MakeSample) -> None:
    shard = write_tar(tmp_path / "a.tar", members_of(make_sample("k")))
    data = shard.read_bytes().rstrip(b"\0")
    shard.write_bytes(data + bytes(-len(data) % 512))
    report = check(str(tmp_path), CheckConfig())
    assert ("error", "broken shard", "a.tar", "") in found(report)
    assert report.seen == 1


def test_members_twice_links_and_slashes_are_errors(tmp_path: Path, make_sample: MakeSample) -> None:
    sample = make_sample("k")
    jpeg, text = sample.image.data, encode_sample(sample)["json"]
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in (
            ("k.jpg", jpeg),
            ("k.json", text),
            ("k.json", text),
            ("in/x.jpg", jpeg),
            ("in/x.json", text),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("l.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    report = check(str(path), CheckConfig())
    assert ("error", "duplicate member", "a.tar", "k") in found(report)
    assert ("error", "bad key", "a.tar", "in/x") in found(report)
    assert ("error", "special member", "a.tar", "l") in found(report)


@pytest.mark.parametrize("where", ["pipe:cat x.tar", "https://host/x.tar", "gs://bucket/x.tar"])
def test_commands_and_addresses_are_refused(where: str) -> None:
    with pytest.raises(ValueError, match="not local files"):
        check(where, CheckConfig())


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no \*.tar file"):
        check(str(tmp_path), CheckConfig())
    with pytest.raises(ValueError, match="at least 1"):
        spread([1, 2], 0, 0)
    with pytest.raises(ValueError, match="at least 1"):
        ProblemLog(0)


def test_samples_are_drawn_from_every_part_and_repeatably(tmp_path: Path, make_sample: MakeSample) -> None:
    drawn = [spread(range(1000), 10, seed) for seed in range(3)]
    for numbers in drawn:
        assert [number // 100 for number in numbers] == list(range(10))
    assert drawn[0] != drawn[1]
    assert drawn[0] == spread(range(1000), 10, 0)
    folder = clean_set(tmp_path, make_sample)
    report = check(str(folder), CheckConfig(sample=2))
    assert (report.samples, report.checked) == (6, 2)


def test_problems_are_grouped_and_cut_with_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = ProblemLog(4)
    log.add(Problem(Severity.WARNING, "small", "a.tar", f"w{n}", "f", "r") for n in range(1204))
    log.add(Problem(Severity.ERROR, "bad", "a.tar", f"e{n}", "f", "r") for n in range(3))
    groups = [([problem.key for problem in shown], more) for shown, more in log.groups()]
    assert groups == [(["e0", "e1"], 1), (["w0", "w1"], 1202)]
    write_tar(tmp_path / "a.tar", {f"k{n:04}.json": b"{" for n in range(1250)})
    with pytest.raises(SystemExit):
        main(["check", str(tmp_path), "--limit-problems", "20"])
    out = capsys.readouterr().out
    assert "and 1,240 more of this kind" in out
    assert "There is no contact sheet" in out


def test_the_scan_finds_what_the_loader_finds(tmp_path: Path, make_sample: MakeSample) -> None:
    folder = clean_set(tmp_path, make_sample)
    for shard in sorted(folder.glob("*.tar")):
        places = [record.place for record in scan(shard).records]
        assert [None if place is None else place[:-1] for place in places] == [
            place[:-1] for place in scan_shard(shard, SkipLog())
        ]
        assert [record.key for record in scan(shard).records] == [
            record["__key__"] for record in read_records(shard, SkipLog())
        ]


def write_odd_tar(path: Path, sample: Sample) -> None:
    """Members as other tools write them, and such that nobody should."""
    jpeg, text = sample.image.data, encode_sample(sample)["json"]
    plain = ("a.JPG", "b.jpg", "b.png", ".h.jpg", "e.png.jpg", "in/x.jpg", "in.d/y.jpg", "in/.jpg", "noext", "z.jpg")
    names = [f"./{name}" for key in plain for name in (key, key.split(".")[0] + ".json")]
    with tarfile.open(path, "w") as archive:
        for name in [*names, "z.JSON", "z.jpg", "z.jpeg"]:
            member = tarfile.TarInfo(name)
            data = text if name.lower().endswith("json") else jpeg
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)):
            for suffix in ("jpg", "json"):
                special = tarfile.TarInfo(f"l{number}.{suffix}")
                special.type, special.linkname = kind, "z.jpg"
                archive.addfile(special)
        for name, data in (("s.jpg", jpeg), ("s.json", text)):  # one piece of data, as `tar --sparse` writes it
            sparse = tarfile.TarInfo(name)
            sparse.size = len(data)
            sparse.pax_headers = {"GNU.sparse.map": f"0,{len(data)}", "GNU.sparse.size": str(len(data) + 512)}
            archive.addfile(sparse, io.BytesIO(data))


def test_the_scan_finds_what_the_loader_finds_in_odd_files(tmp_path: Path, make_sample: MakeSample) -> None:
    path = tmp_path / "a.tar"
    write_odd_tar(path, make_sample("k"))
    found_records = scan(path)
    skips = SkipLog()
    read = list(read_records(path, skips))
    keys = ["a", "b", "e", "in/x", "in", "noext", "z"]
    assert [record.key for record in found_records.records] == [record["__key__"] for record in read]
    assert [key for key in keys if key in {record["__key__"] for record in read}] == keys
    assert [{suffix for suffix, _, _ in record.members} for record in found_records.records] == [
        {name for name in record if not name.startswith("__")} for record in read
    ]
    assert [read_record(path, record) for record in found_records.records] == read
    places = [record.place for record in found_records.records if record.place is not None]
    assert [place[:-1] for place in places] == [place[:-1] for place in scan_shard(path, SkipLog())]
    kinds = [(problem.kind, problem.key) for problem in found_records.problems]
    assert [key for kind, key in kinds if kind == "special member"] == ["l0", "l0", "l1", "l1", "l3", "l3", "s", "s"]
    assert sum(kind == "duplicate member" for kind, _ in kinds) == skips.counts[SkipReason.DUPLICATE_MEMBER] > 0
    assert not {"l0", "l1", "l2", "l3", "s"} & {record["__key__"] for record in read}


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    samples = []
    for number, kind in enumerate(("JPEG", "PNG", "WEBP")):
        buffer = io.BytesIO()
        Image.new("RGB", (32, 30), (number * 90, 9, 200)).save(buffer, kind)
        samples.append(Sample(f"k{number}", HighResImage(buffer.getvalue()), "q?", "3", evidence=((Box(1, 1, 9, 9),),)))
    write_shards(samples, folder, 10)
    return folder


@settings(max_examples=150)
@given(data=st.data())
def test_mutated_files_never_crash_the_check(
    small_set: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("mutated")
    originals = {path.name: path.read_bytes() for path in small_set.iterdir() if path.suffix in (".tar", ".json")}
    name = data.draw(st.sampled_from(sorted(originals)))
    content = bytearray(originals[name].rstrip(b"\0") + bytes(1024))
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(content) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=12))
        if data.draw(st.booleans()):
            content[start : start + len(piece)] = piece
        else:
            content[start : start + len(piece)] = b""
    for other, original in originals.items():
        (folder / other).write_bytes(content if other == name else original)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    status, shown = 0, io.StringIO()
    try:
        with contextlib.redirect_stdout(shown):
            main(["check", str(folder), "--sheet", str(folder.parent / f"{folder.name}.png")])
    except SystemExit as stop:
        status = int(stop.code or 0)
    assert status == (0 if " 0 errors" in shown.getvalue() else 1), shown.getvalue()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
