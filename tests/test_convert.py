"""Converting a data set: what is written and counted, resuming, scaling, unpacking, and the command."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import random
import re
import runpy
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import killed_conversions
import pytest
from killed_conversions import CONFIG, ScriptedSource, picture, some_rows
from killed_forks import tree
from PIL import Image, ImageChops, ImageStat
from PIL.JpegImagePlugin import JpegImageFile
from rich.console import Console

from infogap.arguments import CommandError
from infogap.data.convert import command, scaling
from infogap.data.convert.convert import ConvertConfig, convert
from infogap.data.convert.progress import ConvertProgress
from infogap.data.convert.scaling import scale_down
from infogap.data.convert.source import Dropped
from infogap.data.convert.summary import AnswerKind, ConvertReport, Tally, answer_kind
from infogap.data.convert.unpack import unpack
from infogap.data.convert.writer import ConvertError
from infogap.data.filters import answer_fault
from infogap.data.images import HighResImage
from infogap.data.sample import Sample, SampleError
from infogap.data.shards import find_shards, read_samples
from infogap.data.skips import SkipLog
from infogap.geometry import Box, Size


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "rows"
    path.touch()
    return path


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine does not fail here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def sample(key: str, image: HighResImage | None = None, **fields: Any) -> Sample:
    return Sample(key, image or picture(key), **({"question": "What?", "answer": "3"} | fields))


def index_of(folder: Path) -> Any:
    return json.loads((folder / "shards.json").read_text())


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]


def fields_of(one: Sample) -> tuple[Any, ...]:
    fields = vars(one) | {"image": one.image.data}
    return tuple(fields.items())


def test_what_is_kept_is_read_back_and_what_is_not_is_accounted_for(root: Path, tmp_path: Path) -> None:
    rows, out = some_rows(), tmp_path / "new" / "out"
    report = convert(ScriptedSource(root, rows), out, CONFIG)
    kept = [row for row in rows if isinstance(row, Sample)]
    back = list(read_samples(find_shards(out), SkipLog(strict=True)))
    assert [fields_of(one) for one in back] == [fields_of(one) for one in kept]
    index = index_of(out)
    assert (index["source"], index["licence"], index["origin"]) == ("scripted", "CC0", "example.org")
    assert index["samples"] == len(kept) == report.tally.kept == 12
    tally = report.tally
    assert (tally.rows, tally.image_bytes) == (len(rows), sum(len(row.image.data) for row in kept))
    assert tally.dropped == {"two images": 3}
    dropped = lines_of(out / "dropped.jsonl")
    assert dropped == [vars(row) for row in rows if isinstance(row, Dropped)]
    assert json.loads((out / "summary.json").read_text()) == report.to_json()
    assert sorted(path.name for path in out.iterdir() if path.suffix != ".tar") == [
        "dropped.jsonl", "shards.json", "summary.json"
    ]  # fmt: skip


def test_shards_are_cut_by_number_and_by_bytes(root: Path, tmp_path: Path) -> None:
    convert(ScriptedSource(root, some_rows()), tmp_path / "out", CONFIG)
    shards = index_of(tmp_path / "out")["shards"]
    assert [[member[0] for member in shard["members"]] for shard in shards] == [
        ["s0", "s1", "s2"], ["s3", "s4"], ["s5", "s6"], ["s7", "s8", "s9"], ["s10", "s11"]
    ]  # fmt: skip
    assert all(shard["bytes"] <= CONFIG.shard_bytes for shard in shards)
    assert shards[1]["bytes"] == CONFIG.shard_bytes, "the largest that is allowed is not cut earlier"
    tiny = ConvertConfig(shard_bytes=1, samples_per_shard=5)
    convert(ScriptedSource(root, some_rows()), tmp_path / "tiny", tiny)
    assert [shard["samples"] for shard in index_of(tmp_path / "tiny")["shards"]] == [1] * 12


def test_a_conversion_that_is_killed_at_any_moment_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """SIGKILL before every row, and before every call that changes what is on the disk."""
    program = [sys.executable, str(Path(killed_conversions.__file__)), str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["moments"] > 50
    assert told["different"] == []
    assert len(told["files"]) == 8


@pytest.mark.parametrize("torn", [1, 40])
def test_a_torn_last_line_of_the_journal_costs_one_shard(root: Path, tmp_path: Path, torn: int) -> None:
    out = tmp_path / "out"
    convert(ScriptedSource(root, some_rows()), tmp_path / "whole", CONFIG)
    interrupt(ScriptedSource(root, some_rows()), out, 8)
    journal = out / ".converting" / "journal.jsonl"
    os.truncate(journal, journal.stat().st_size - torn)
    source = ScriptedSource(root, some_rows())
    interrupt(source, out, 6)  # behind further shards, whose lines must not be appended to the torn one
    assert source.asked == [3], "the rows of the first shard, and not of the second, were passed over"
    convert(ScriptedSource(root, some_rows()), out, CONFIG)
    assert tree(out) == tree(tmp_path / "whole")


def interrupt(source: ScriptedSource, out: Path, after: int, config: ConvertConfig = CONFIG) -> None:
    """Begin a conversion that fails after so many rows."""
    rows = source.rows

    def failing(start: int = 0) -> Iterator[Sample | Dropped]:
        for number, row in enumerate(rows(start)):
            if number == after:
                raise OSError("the disk is gone")
            yield row

    source.rows = failing  # type: ignore[method-assign]
    with pytest.raises(OSError, match="the disk is gone"):
        convert(source, out, config)


def test_an_error_interrupts_and_can_be_resumed(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "out"
    interrupt(ScriptedSource(root, some_rows()), out, 6)
    assert [path.name for path in out.iterdir()] == [".converting"], "nothing can be taken for a finished set"
    source = ScriptedSource(root, some_rows())
    with caplog.at_level(logging.INFO):
        report = convert(source, out, CONFIG)
    assert source.asked == [3]
    assert "after 3 rows and 1 shards" in caplog.text
    assert report.tally.rows == 15
    assert report.tally.kept == 12


def test_a_conversion_goes_on_only_with_what_it_was_begun_with(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupt(ScriptedSource(root, some_rows()), out, 6)
    before = tree(out)

    def refused(what: str, source: ScriptedSource, config: ConvertConfig = CONFIG) -> None:
        with pytest.raises(ConvertError, match=rf"begun with other {what}: .*remove .*\.converting to begin anew\."):
            convert(source, out, config)
        assert source.asked == []
        assert tree(out) == before

    source = ScriptedSource(root, some_rows())
    refused("settings", source, replace(CONFIG, samples_per_shard=4))
    source.languages = ("English",)  # type: ignore[attr-defined]
    refused("source", source)
    other = ScriptedSource(tmp_path / "other", some_rows())
    other.root.touch()
    refused("files and source", other)
    root.write_text("longer")
    refused("files", ScriptedSource(root, some_rows()))
    root.write_text("")
    os.utime(root, ns=(1, 1))
    refused("files and settings", ScriptedSource(root, some_rows()), replace(CONFIG, limit=3))


def test_a_first_try_that_wrote_no_shard_is_in_nobodys_way(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupt(ScriptedSource(root, some_rows()), out, 2, replace(CONFIG, max_side=20))
    convert(ScriptedSource(root, some_rows()), out, CONFIG)
    convert(ScriptedSource(root, some_rows()), tmp_path / "whole", CONFIG)
    assert tree(out) == tree(tmp_path / "whole")


def test_a_conversion_goes_on_from_another_folder(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    interrupt(ScriptedSource(Path("rows"), some_rows()), tmp_path / "out", 6)
    monkeypatch.chdir(tmp_path.parent)
    source = ScriptedSource(Path(tmp_path.name) / "rows", some_rows())
    convert(source, tmp_path / "out", CONFIG)
    assert source.asked == [3]


def test_a_set_that_is_there_is_not_touched(root: Path, tmp_path: Path) -> None:
    convert(ScriptedSource(root, some_rows()), tmp_path / "out", CONFIG)
    (tmp_path / "tar").mkdir()
    (tmp_path / "tar" / "mine.tar").touch()
    for name in ("out", "tar"):
        before = tree(tmp_path / name)
        with pytest.raises(FileExistsError, match="holds shards already"):
            convert(ScriptedSource(root, some_rows()), tmp_path / name, CONFIG)
        assert tree(tmp_path / name) == before
        assert not (tmp_path / name / ".converting").exists()


def test_a_shard_that_went_missing_is_noticed(root: Path, tmp_path: Path) -> None:
    interrupt(ScriptedSource(root, some_rows()), tmp_path, 6)
    (tmp_path / ".converting" / "shard-000000.tar").unlink()
    with pytest.raises(ConvertError, match=r"shard-000000\.tar is missing in .*remove that folder"):
        convert(ScriptedSource(root, some_rows()), tmp_path, CONFIG)
    (tmp_path / ".converting" / "journal.jsonl").write_text("{}\n")
    with pytest.raises(ConvertError, match=r"journal\.jsonl is damaged: remove .*\.converting"):
        convert(ScriptedSource(root, some_rows()), tmp_path, CONFIG)


def test_two_processes_do_not_write_one_set(root: Path, tmp_path: Path) -> None:
    interrupt(ScriptedSource(root, some_rows()), tmp_path, 6)
    before = tree(tmp_path)
    with (tmp_path / ".converting" / "journal.jsonl").open("rb+") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)
        with pytest.raises(ConvertError, match="Another process is converting into"):
            convert(ScriptedSource(root, some_rows()), tmp_path, CONFIG)
    assert tree(tmp_path) == before
    convert(ScriptedSource(root, some_rows()), tmp_path, CONFIG)


def test_a_key_that_occurs_twice_is_refused_even_across_an_interruption(root: Path, tmp_path: Path) -> None:
    rows = [*some_rows(), sample("s0")]
    with pytest.raises(SampleError, match="The key 's0' occurs twice"):
        convert(ScriptedSource(root, rows), tmp_path, CONFIG)
    source = ScriptedSource(root, rows)
    with pytest.raises(SampleError, match="The key 's0' occurs twice"):
        convert(source, tmp_path, CONFIG)
    assert source.asked == [12], "all shards but the first key are known from the journal"


def test_samples_that_cannot_be_stored_are_dropped_and_named(root: Path, tmp_path: Path) -> None:
    rows = [
        sample("a.b"),
        sample("long", metadata={"text": "x" * (1 << 20)}),
        sample("nan", metadata={"x": float("nan")}),
        sample("sound"),
    ]
    report = convert(ScriptedSource(root, rows), tmp_path / "out")
    assert report.tally.dropped == {"cannot be stored": 3}
    assert [one.key for one in read_samples(find_shards(tmp_path / "out"), SkipLog(strict=True))] == ["sound"]
    dropped = lines_of(tmp_path / "out" / "dropped.jsonl")
    for number, (line, words) in enumerate(zip(dropped, ["a.b", "long", "nan"], strict=True), 1):
        assert f"{words!r}" in line["message"]
        assert line["place"] == f"row {number} of scripted, counted over all its files, sample {words}"


def test_a_source_without_samples_leaves_nothing(root: Path, tmp_path: Path) -> None:
    rows: list[Sample | Dropped] = [Dropped("row 1", "two images", "Row 1 has two images.")]
    with pytest.raises(ConvertError, match=r"No sample came of scripted.*two images \(1\): Row 1 has two images\."):
        convert(ScriptedSource(root, rows), tmp_path / "out")
    assert tree(tmp_path / "out") == {}
    with pytest.raises(ConvertError, match=r"nothing was written to .*: the table has no rows\."):
        convert(ScriptedSource(root, []), tmp_path / "out")
    convert(ScriptedSource(root, [sample("a")]), tmp_path / "out")


def test_a_limit_reads_so_many_rows_and_no_more(root: Path, tmp_path: Path) -> None:
    source = ScriptedSource(root, some_rows())
    read: list[Sample | Dropped] = []
    rows = source.rows

    def watched(start: int = 0) -> Iterator[Sample | Dropped]:
        for row in rows(start):
            read.append(row)
            yield row

    source.rows = watched  # type: ignore[method-assign]
    limited = replace(CONFIG, limit=5)
    assert convert(source, tmp_path / "five", limited).tally.rows == len(read) == 5
    interrupt(ScriptedSource(root, some_rows()), tmp_path / "again", 4, limited)
    assert convert(ScriptedSource(root, some_rows()), tmp_path / "again", limited).tally.rows == 5
    assert tree(tmp_path / "again") == tree(tmp_path / "five")


@pytest.mark.parametrize("name", ["shard_bytes", "samples_per_shard", "max_side", "limit"])
def test_settings_that_write_nothing_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0: give at least 1"):
        ConvertConfig(**{name: 0})


def test_large_images_are_scaled_with_their_boxes_and_others_are_left_alone(root: Path, tmp_path: Path) -> None:
    wide = Image.new("RGB", (400, 100), "white")
    wide.paste("red", (100, 20, 140, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter: 100 wide, 400 high
    buffer = BytesIO()
    wide.save(buffer, "JPEG", quality=95, exif=exif)
    turned = HighResImage(buffer.getvalue(), name="turned")
    shown = Box(60.0, 100.0, 80.0, 140.0)
    rows = [
        sample("turned", turned, evidence=((shown, Box(-0.5, 90.0, 100.5, 400.9)),)),
        sample("fits", picture("fits", (150, 150), "PNG"), evidence=((Box(1, 1, 9, 9),),)),
    ]
    report = convert(ScriptedSource(root, rows), tmp_path / "out", ConvertConfig(max_side=150))
    scaled, fits = read_samples(find_shards(tmp_path / "out"), SkipLog(strict=True))
    assert report.tally.scaled == 1
    assert fields_of(fits) == fields_of(rows[1])
    assert scaled.image.size == Size(38, 150)
    for box, expected in zip(
        scaled.evidence[0], [(22.8, 37.5, 30.4, 52.5), (-0.19, 33.75, 38.19, 150.3375)], strict=True
    ):
        assert box.as_tuple() == pytest.approx(expected)
    assert turned._original is None, "decoded images do not pile up"
    stored = Image.open(BytesIO(scaled.image.data))
    red, white = (stored.getpixel(place) for place in ((26, 45), (15, 45)))
    assert red[0] > 200  # type: ignore[index]
    assert red[1] < 60  # type: ignore[index]
    assert white[1] > 200  # type: ignore[index]
    assert stored.format == "JPEG"
    assert [layer[1:3] for layer in stored.layer] == [(1, 1)] * 3, "colours keep their resolution"  # type: ignore[attr-defined]
    assert not stored.getexif()


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "I;16"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_images_of_every_mode_are_scaled_as_they_are_shown(mode: str, kind: str) -> None:
    if kind == "JPEG" and mode not in ("RGB", "L"):
        pytest.skip("JPEG has no such mode")
    gradient = Image.linear_gradient("L").resize((300, 600))  # in three strips
    if mode == "I;16":
        image = gradient.convert("I").point(lambda value: value * 256).convert("I;16")
    else:
        image = gradient.convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.linear_gradient("L").rotate(90).resize((300, 600)))
    buffer = BytesIO()
    image.save(buffer, kind)
    original = HighResImage(buffer.getvalue())
    small = scale_down(sample("x", original), 100).image
    assert small.size == Size(50, 100)
    expected = Image.fromarray(original.decode()).resize(small.size, Image.Resampling.LANCZOS)
    difference = ImageChops.difference(expected, Image.fromarray(small.decode())).convert("L")
    assert ImageStat.Stat(difference).mean[0] < 4


@pytest.mark.parametrize(("side", "extent"), [(37, (0.0, 0.0, 90.0, 700.0)), (300, (0.0, 0.0, 89.5, 698.75))])
def test_strips_do_not_show(side: int, extent: tuple[float, float, float, float]) -> None:
    image = Image.frombytes("RGB", (90, 700), random.Random(0).randbytes(3 * 90 * 700))
    size = Size(side // 7, side)
    expected = image.resize(size, Image.Resampling.LANCZOS, box=extent)
    difference = ImageChops.difference(expected, scaling._scaled_in_strips(image, size, extent))
    assert max(high for _, high in difference.getextrema()) <= 1  # type: ignore[misc]


def test_a_large_jpeg_is_not_decoded_whole_to_be_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[int, int]] = []
    load = JpegImageFile.load

    def watched(self: JpegImageFile) -> Any:
        result = load(self)
        loaded.append(self.size)
        return result

    monkeypatch.setattr(JpegImageFile, "load", watched)
    scale_down(sample("x", picture("x", (1600, 800))), 400)
    assert max(loaded) == (400, 200)


def test_an_image_that_cannot_be_scaled_drops_its_sample(root: Path, tmp_path: Path) -> None:
    broken = bytearray(picture("x", (90, 90), "PNG").data)
    broken[200:260] = bytes(60)
    rows = [sample("broken", HighResImage(bytes(broken), name="broken")), sample("sound")]
    report = convert(ScriptedSource(root, rows), tmp_path / "out", ConvertConfig(max_side=50))
    assert report.tally.dropped == {"unreadable image": 1}
    outside = sample("o", picture("o", (90, 90)), evidence=((Box(90, 5, 91, 9),),))  # inside but for rounding
    assert scale_down(outside, 50).evidence[0][0].as_tuple() == pytest.approx((50, 25 / 9, 50 + 5 / 9, 5))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (r"\boxed{red}", "formula or list"), ("5", "number"),
        ("-1,234.50", "number"), ("50%", "number"), ("$3.20", "number"), ("Seven", "number"),
        ("1, 2 and 3", "formula or list"), ("3.", "number"), ("12:30", "short text"), ("1 km", "short text"),
        ("B", "letter alone"), ("(B)", "letter alone"), ("b", "short text"), ("Yes.", "yes or no"),
        ("It is a red car.", "short text"), ("It is the red car on the left.", "sentence"), ("red", "short text"),
        (r"\frac{1}{2}", "formula or list"), ("x^{2}", "formula or list"), ("$x = 3$", "formula or list"),
    ],
)  # fmt: skip
def test_kinds_of_answers(answer: str, kind: str) -> None:
    one = sample("a", answer=answer)
    assert answer_kind(one) == kind
    assert answer_kind(replace(one, options=("a", answer))) == "option"
    assert (kind in ("sentence", "formula or list")) == (answer_fault(one) is not None), "one rule, not two"


def test_sizes_and_kinds_are_summed_up() -> None:
    tally = Tally(rows=9, kept=7, dropped=Counter({"no image": 2}), examples={"no image": ["Row 1."]})
    tally.sizes = Counter({Size(20, 500): 2, Size(500, 500): 1, Size(3840, 2160): 3, Size(7680, 4320): 1})
    tally.answers = Counter({AnswerKind.NUMBER: 7})
    report = ConvertReport("s", 2, 3_000_000, tally)
    assert report.median_image == Size(3840, 2160)
    assert report.largest_image == Size(7680, 4320)
    assert list(report.megapixels().values()) == [2, 1, 0, 3, 1, 0]
    assert report.small_images == 2
    lines = report.render(width=6).splitlines()
    assert lines[0] == "s: 2 shards, 3.0 MB"
    assert [line.split() for line in lines if line.startswith("dropped")] == [["dropped:", "no", "image", "2", "22.2%"]]
    assert "    Row 1." in lines
    assert [line.count("#") for line in lines if "megapixels" in line] == [4, 2, 0, 6, 2, 0]
    tally.sizes = Counter({Size(1, 1): 1, Size(2, 2): 1})
    tally.kept = 2
    assert report.median_image == Size(1, 1)
    assert ConvertReport("s", 0, 0, Tally()).median_image == Size(0, 0)


def test_counts_add_up_and_survive_json() -> None:
    first, second = Tally(), Tally()
    for number in range(2):
        first.drop(Dropped("p", "a", f"m{number}"))
    for number in range(2, 5):
        second.drop(Dropped("p", "a", f"m{number}"))
    second.drop(Dropped("p", "b", "n"))
    second.keep(sample("x", evidence=((Box(1, 1, 2, 2),),)), scaled=True)
    again = Tally.from_json(json.loads(json.dumps(second.to_json())))
    assert again == second
    first.add(again)
    assert first.dropped == {"a": 5, "b": 1}
    assert first.examples == {"a": ["m0", "m1", "m2"], "b": ["n"]}
    assert (first.rows, first.kept, first.scaled, first.with_boxes) == (7, 1, 1, 1)
    assert (first.sizes, first.answers) == ({(40, 30): 1}, {"number": 1})


def test_progress_is_a_bar_for_people_and_a_line_now_and_then_for_a_log(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]

    def shown(console: Console) -> None:
        with ConvertProgress("s", None, 0, console, clock=lambda: now[0]) as progress:
            for number in range(1, 8):
                now[0] += 10
                progress.show(number, number - 1, 50_000_000 * number)

    terminal = Console(file=StringIO(), force_terminal=True, width=100, legacy_windows=False)
    with caplog.at_level(logging.INFO):
        shown(terminal)
        assert caplog.messages == []
        assert "7 rows, 6 samples, 4 MB/s" in terminal.file.getvalue()  # type: ignore[attr-defined]
        now[0] = 0.0
        shown(Console(file=StringIO()))
    assert caplog.messages == ["s: 3 rows, 2 samples, 3 MB/s.", "s: 6 rows, 5 samples, 4 MB/s."]


def test_unpacking_and_packing_again_is_exact(tmp_path: Path) -> None:
    """The converter of JSON lines reads what was unpacked; unpacking that again gives the same files."""
    chains = ((Box(1, 2, 11.5, 12), Box(0, 0, 20, 20)), (Box(3, 3, 9, 9),))
    (tmp_path / "rows").touch()
    rows = [
        sample("a-1", question="Größe?", answer="B", options=("1", "2"), evidence=chains, source="x"),
        sample("b", picture("b", kind="PNG"), metadata={"nested": [1, {"x": None}], "text": "\u2028 日本"}),
        sample("c", picture("c", kind="WEBP"), source="y"),
    ]
    convert(ScriptedSource(tmp_path / "rows", rows), tmp_path / "one")
    assert unpack(tmp_path / "one", tmp_path / "files") == 3
    lines = lines_of(tmp_path / "files" / "samples.jsonl")
    assert [line["image"] for line in lines] == ["images/a-1.jpg", "images/b.png", "images/c.webp"]
    assert lines[0]["boxes"] == [[[1, 2, 11.5, 12], [0, 0, 20, 20]], [[3, 3, 9, 9]]]
    assert "Größe" in (tmp_path / "files" / "samples.jsonl").read_text("utf-8")
    assert "options" not in lines[1]
    for row in rows:
        assert next((tmp_path / "files" / "images").glob(f"{row.key}.*")).read_bytes() == row.image.data
    command.main(["jsonl", str(tmp_path / "files" / "samples.jsonl"), str(tmp_path / "two")])
    back = read_samples(find_shards(tmp_path / "two"), SkipLog(strict=True))
    assert [fields_of(one) for one in back] == [fields_of(one) for one in rows]
    command.main(["unpack", str(tmp_path / "two"), str(tmp_path / "again")])
    assert tree(tmp_path / "again") == tree(tmp_path / "files")


def test_unpacking_is_all_or_nothing(root: Path, tmp_path: Path) -> None:
    convert(ScriptedSource(root, [sample("a"), sample("b")]), tmp_path / "set")
    before = sorted(tmp_path.iterdir())
    (shard,) = find_shards(tmp_path / "set")
    with pytest.raises(ConvertError, match="exists: give the path of a new folder"):
        unpack(shard, tmp_path / "set")
    twice = tmp_path / "set" / "z.tar"
    twice.write_bytes(shard.read_bytes())
    with pytest.raises(ConvertError, match="The key 'a' occurs twice"):
        unpack(tmp_path / "set" / "*.tar", tmp_path / "files")
    twice.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(ValueError, match="truncated or damaged"):
        unpack(twice, tmp_path / "files")
    twice.unlink()
    assert sorted(tmp_path.iterdir()) == before


class Length(StrEnum):
    SHORT = "short"
    LONG = "long"


class Chosen(ScriptedSource):
    """Scripted rows, 100% of them.

    Args:
        root: the file that
            ``names`` them.
        boxes: file of boxes. Default: none.
        length: how long.
    """

    made: tuple[Any, ...] = ()

    def __init__(self, root: Path, boxes: Path | None = None, length: Length = Length.SHORT) -> None:
        super().__init__(root, some_rows())
        Chosen.made = (root, boxes, length)


def test_the_command_makes_a_source_and_prints_what_became_of_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "SOURCES", {"chosen": Chosen})
    settings = ["--shard-mib", "3", "--samples-per-shard", "4", "--max-side", "100", "--limit", "9"]
    own = ["--boxes", "b.json", "--length", "long"]
    command.main(["chosen", str(root), str(tmp_path / "out"), *settings, *own])
    assert Chosen.made == (root, Path("b.json"), Length.LONG)
    assert "kept" in capsys.readouterr().out
    assert index_of(tmp_path / "out")["samples"] == 7
    assert [shard["samples"] for shard in index_of(tmp_path / "out")["shards"]] == [4, 3]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["images_scaled_down"] == 3
    command.main(["chosen", str(root), str(tmp_path / "plain")])
    assert Chosen.made == (root, None, Length.SHORT)
    with pytest.raises(SystemExit):
        command.main(["chosen", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for words in ("Scripted rows, 100% of them. Licence", "the file that `names` them", "--boxes FILE file of boxes.",
                  "--length {short,long} how long", "(default: 512)"):  # fmt: skip
        assert words in text
    assert "Args:" not in text


def test_shortened_options_are_refused(root: Path, tmp_path: Path) -> None:
    for words in (["jsonl", str(root), str(tmp_path / "out"), "--lim", "1"], ["unpack", "a", "b", "--hel"]):
        with pytest.raises(CommandError, match="There is no option --"):
            command.main(words)


@pytest.mark.parametrize(("root", "out"), [("x", "x"), ("x", "x/../x/out"), ("x/a.jsonl", "x"), ("x/y", "x")])
def test_what_is_written_does_not_lie_in_what_is_read(
    root: str, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConvertError, match=r"lies in the other: give a folder beside ROOT as OUT\."):
        command.main(["jsonl", root, out])
    assert list(tmp_path.iterdir()) == []


def test_every_source_has_a_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name, source in command.SOURCES.items():
        with pytest.raises(SystemExit) as caught:
            command.main([name, "--help"])
        assert caught.value.code == 0
        assert source.licence in " ".join(capsys.readouterr().out.split())


def test_the_disk_that_is_full_is_an_error_and_no_shorter_shard(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        convert(ScriptedSource(root, some_rows()), tmp_path / "out", CONFIG)
    assert not list((tmp_path / "out").glob("*.tar"))
    monkeypatch.setattr(os, "fsync", lambda _: None)
    convert(ScriptedSource(root, some_rows()), tmp_path / "out", CONFIG)


def test_the_script_says_in_one_line_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Path(__file__).resolve().parents[1] / "data_scripts" / "convert.py"
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    monkeypatch.setattr(sys, "argv", [str(script), "jsonl", str(tmp_path / "none"), str(tmp_path / "out")])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(script), run_name="__main__")
    assert caught.value.code == 2
    assert re.fullmatch(r"error: .*none.*\n", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
