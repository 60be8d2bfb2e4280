"""`infogap data`: commands are found, shards are filtered, and mistakes cost one line."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import killed_data_commands
import pytest
from PIL import Image
from shard_files import members_of, spoilt_png, write_tar

from infogap import cli
from infogap.arguments import CommandError
from infogap.data.images import HighResImage
from infogap.data.manifest import (
    ManifestEntry,
    ManifestHeader,
    SelectionStatus,
    load_header,
    load_manifest,
    write_manifest,
)
from infogap.data.sample import Sample
from infogap.data.shards import find_shards, read_samples
from infogap.data.skips import SkipLog
from infogap.data.unfinished import unfinished_folder
from infogap.data.writing import write_shards
from infogap.data_commands import COMMANDS, filter_shards, main
from infogap.data_commands.filter_shards import FilterError
from infogap.data_commands.references import ReferencesError, load_references
from infogap.evaluation.question import BenchmarkError
from infogap.geometry import Box

MakeSample = Callable[..., Sample]


def keys_of(folder: Path) -> list[str]:
    return [sample.key for sample in read_samples(find_shards(folder), SkipLog(strict=True))]


def dropped_of(folder: Path) -> dict[str, str]:
    lines = (folder / "dropped.jsonl").read_text().splitlines()
    return {fields["key"]: fields["step"] for fields in map(json.loads, lines)}


def reencoded(sample: Sample) -> HighResImage:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(sample.image.data)).save(buffer, "WEBP", quality=80)
    return HighResImage(buffer.getvalue())


@pytest.fixture
def shards(tmp_path: Path, make_sample: MakeSample) -> Path:
    """Samples of which each has one fault, or none."""
    big = Box(0, 0, 300, 220)
    samples = [
        make_sample("good", size=(300, 224), metadata={"x": 1}),
        make_sample("thin", size=(300, 20)),
        make_sample("formula", size=(300, 224), answer="x = 3"),
        make_sample("half", size=(300, 224), evidence=((big,),)),
        make_sample("test-image", size=(300, 224)),
        make_sample("fine", size=(300, 224), evidence=((Box(9, 9, 40, 40),),)),
    ]
    write_shards(samples, tmp_path / "in", 4, made_from={"by": "hand"}, about={"licence": "MIT"})
    return tmp_path / "in"


def test_every_step_drops_what_it_should_and_says_so(
    tmp_path: Path, shards: Path, make_sample: MakeSample, capsys: pytest.CaptureFixture[str]
) -> None:
    known = tmp_path / "known"
    known.mkdir()
    (known / "one.webp").write_bytes(reencoded(make_sample("test-image", size=(300, 224))).data)
    (known / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    out = tmp_path / "out"
    words = ["filter", str(shards), str(out), "--drop-unanswerable", "--box-sanity", "--against", str(known)]
    main([*words, "--samples-per-shard", "1"])
    assert keys_of(out) == ["good", "fine"]
    assert len(find_shards(out)) == 2
    expected = {
        "thin": "small image",
        "formula": "unanswerable",
        "half": "box sanity",
        "test-image": "near-duplicate image",
    }
    assert dropped_of(out) == expected
    before = {sample.key: sample for sample in read_samples(find_shards(shards), SkipLog())}
    for sample in read_samples(find_shards(out), SkipLog()):
        assert sample.image.data == before[sample.key].image.data
        assert replace(sample, image=before[sample.key].image) == before[sample.key]
    index = json.loads((out / "shards.json").read_bytes())
    assert index["licence"] == "MIT"
    origin = index["made_from"]
    assert origin["from"] == {"shards": str(shards), "made_from": {"by": "hand"}}
    assert origin["steps"] == {
        "min_side": 28,
        "drop_unanswerable": True,
        "box_sanity": True,
        "against": [str(known)],
        "distance": 48,
    }
    counts = {"small image": 1, "unanswerable": 1, "box sanity": 1, "near-duplicate image": 1, "kept": 2}
    assert origin["counts"] == counts
    shown = capsys.readouterr().out
    assert f"{known}: 1 different images." in shown
    assert "1 cannot be read" in shown
    for name, count in counts.items():
        assert any(line.split() == [*name.split(), str(count)] for line in shown.splitlines()), name
    main(["check", str(out)])  # exits if there are errors


def test_without_options_only_small_images_go(tmp_path: Path, shards: Path) -> None:
    main(["filter", str(shards), str(tmp_path / "a")])
    assert dropped_of(tmp_path / "a") == {"thin": "small image"}
    main(["filter", str(shards), str(tmp_path / "b"), "--min-side", "20"])
    assert dropped_of(tmp_path / "b") == {}


def test_shards_and_benchmarks_can_be_compared_with(tmp_path: Path, shards: Path, make_sample: MakeSample) -> None:
    held_back = make_sample("test-image", size=(300, 224))
    write_shards([replace(held_back, image=reencoded(held_back))], tmp_path / "test", 1)
    for number, name in enumerate((str(tmp_path / "test"), f"shards={tmp_path / 'test'}")):
        out = tmp_path / f"out{number}"
        main(["filter", str(shards), str(out), "--min-side", "1", "--against", name])
        assert dropped_of(out) == {"test-image": "near-duplicate image"}


def test_faulty_and_repeated_samples_go_too(
    tmp_path: Path, make_sample: MakeSample, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = make_sample("k", size=(60, 60))
    png = make_sample("y", kind="PNG", size=(90, 90)).image.data
    spoilt = {"s.png": spoilt_png(png), "s.json": members_of(sample)["k.json"]}
    write_tar(tmp_path / "in/a.tar", members_of(sample) | {"bad.jpg": sample.image.data, "bad.json": b"{"} | spoilt)
    write_tar(tmp_path / "in/b.tar", members_of(sample) | members_of(make_sample("other", size=(60, 60))))
    data = (tmp_path / "in/b.tar").read_bytes().rstrip(b"\0")
    (tmp_path / "in/b.tar").write_bytes(data[:-100])
    images = tmp_path / "images"
    images.mkdir()
    (images / "x.png").write_bytes(make_sample("z", kind="PNG").image.data)
    main(["filter", str(tmp_path / "in"), str(tmp_path / "out"), "--against", str(images)])
    reasons = {"k": "duplicate key", "bad": "faulty: bad_json", "s": "unreadable image", "other": "faulty: no_json"}
    assert dropped_of(tmp_path / "out") == reasons
    assert keys_of(tmp_path / "out") == ["k"]
    assert "1 shards are damaged" in capsys.readouterr().out


def test_results_of_selection_are_carried_over(tmp_path: Path, shards: Path) -> None:
    header = ManifestHeader("p", (512, 128), {"x": 1})
    entries = [
        ManifestEntry("good", SelectionStatus.SELECTED, 128, {"text": "3", "128": "4"}, frozenset({"text"})),
        ManifestEntry("thin", SelectionStatus.SELECTED, 512),
    ]
    write_manifest(shards / "resolution.jsonl", header, entries)
    main(["filter", str(shards), str(tmp_path / "out")])
    assert load_manifest(tmp_path / "out" / "resolution.jsonl") == {"good": entries[0]}
    assert load_header(tmp_path / "out" / "resolution.jsonl") == header


def test_filtering_and_unpacking_that_are_killed_at_any_moment_end_as_if_they_had_not_been(tmp_path: Path) -> None:
    """SIGKILL before every call that changes what is on the disk; a complete set has all that belongs to it."""
    program = [sys.executable, str(Path(killed_data_commands.__file__)), str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["filter"]["moments"] > 15
    assert told["unpack"]["moments"] > 3
    assert [len(told[command]["files"]) for command in ("filter", "unpack")] == [5, 6]
    assert [told[command]["different"] for command in ("filter", "unpack")] == [[], []]


def test_two_processes_do_not_filter_or_unpack_into_one_folder(tmp_path: Path, shards: Path) -> None:
    out, plain = tmp_path / "out", tmp_path / "plain"
    with unfinished_folder(tmp_path / ".plain.unfinished", plain), pytest.raises(ValueError, match="Another process"):
        main(["unpack", str(shards), str(plain)])
    out.mkdir()
    with unfinished_folder(out / ".writing", out), pytest.raises(ValueError, match="Another process is writing"):
        main(["filter", str(shards), str(out)])
    assert list(out.iterdir()) == []
    main(["filter", str(shards), str(out)])
    main(["unpack", str(shards), str(plain)])


def test_shards_of_several_folders_are_not_filtered_as_if_they_were_of_one(
    tmp_path: Path, shards: Path, make_sample: MakeSample
) -> None:
    write_shards([make_sample("z", size=(60, 60))], tmp_path / "in2", 1, about={"licence": "CC BY-NC 4.0"})
    with pytest.raises(FilterError, match=r"lie in 2 folders, each with an origin .*in, .*in2\): filter one folder"):
        main(["filter", str(tmp_path / "in*" / "*.tar"), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    main(["filter", str(shards / "*.tar"), str(tmp_path / "out")])
    assert json.loads((tmp_path / "out" / "shards.json").read_bytes())["licence"] == "MIT"


def test_what_is_solved_without_looking_goes(tmp_path: Path, shards: Path) -> None:
    def entry(key: str, text: str, view: str) -> ManifestEntry:
        return ManifestEntry(key, SelectionStatus.SELECTED, 64, {"text": text, "64": view})

    others = [entry(key, "5", "5") for key in ("thin", "formula", "test-image")]
    entries = [entry("good", "3", "5"), entry("half", "5", "3"), entry("fine", "5", "5"), *others]
    write_manifest(shards / "resolution.jsonl", ManifestHeader("p", (64,)), entries)
    words = ["filter", str(shards), str(tmp_path / "a"), "--min-side", "1", "--drop-solved-by-text"]
    main([*words, "--drop-solved-in-view"])
    assert dropped_of(tmp_path / "a") == {"good": "solved by text alone", "half": "solved in the selected view"}
    main(["filter", str(shards), str(tmp_path / "b"), "--min-side", "1", "--drop-solved-in-view", "64"])
    assert dropped_of(tmp_path / "b") == {"half": "solved in a view of 64 tokens"}
    steps = json.loads((tmp_path / "b" / "shards.json").read_bytes())["made_from"]["steps"]
    assert steps == {"min_side": 1, "drop_solved_in_view": [64]}


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (["--distance", "3"], FilterError, "name them with --against"),
        (["--min-side", "9999"], FilterError, r"No sample of .* is left \(6 small image\)"),
        (["--against", "vstr=x"], BenchmarkError, "did you mean 'vstar'"),
        (["--against", "https://host/x"], ValueError, "not local files"),
        (["--against", "nowhere"], FileNotFoundError, "matches no file"),
        (["--drop-solved-by-text"], FilterError, r"no manifest .*resolution.jsonl"),
        (["--manifest", "x.jsonl"], FilterError, "no manifest x.jsonl"),
    ],
)
def test_mistakes_leave_nothing_behind(
    tmp_path: Path, shards: Path, options: list[str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        main(["filter", str(shards), str(tmp_path / "out"), *options])
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_damaged_manifest_is_noticed_before_anything_is_written(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shards / "resolution.jsonl").write_text("{}\n")
    monkeypatch.setattr(filter_shards, "write_shards", lambda *_, **__: pytest.fail("shards are written"))
    with pytest.raises(ValueError, match=r"resolution\.jsonl"):
        main(["filter", str(shards), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["filter", "in", "out", "--min", "20"],
        ["filter", "in", "out", "--drop-unanswer"],
        ["check", "in", "--checks"],
        ["check", "in", "--limit", "3"],
    ],
)
def test_an_abbreviated_option_is_refused(words: list[str]) -> None:
    with pytest.raises(CommandError, match="There is no option --"):
        main(words)


def test_a_folder_without_images_is_no_reference(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no image")
    with pytest.raises(ReferencesError, match=r"There is no image to compare with in .*x.jpg is not a JPEG"):
        load_references(str(tmp_path))


def test_shards_are_not_written_over(tmp_path: Path, shards: Path) -> None:
    before = sorted(shards.iterdir())
    with pytest.raises(FileExistsError, match="holds shards already"):
        main(["filter", str(shards), str(shards)])
    assert sorted(shards.iterdir()) == before


def test_an_unknown_command_names_the_nearest() -> None:
    with pytest.raises(CommandError, match="did you mean 'check'"):
        main(["chekc"])


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_the_overview_names_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(words)
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines() if line.startswith("  ")] == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    assert f"usage: infogap data {command}" in capsys.readouterr().out


def test_shards_are_unpacked(tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["unpack", str(shards), str(tmp_path / "plain")])
    assert "holds 6 samples" in capsys.readouterr().out
    assert len((tmp_path / "plain" / "samples.jsonl").read_text().splitlines()) == 6


def test_an_index_is_written_anew(shards: Path) -> None:
    before = json.loads((shards / "shards.json").read_bytes())
    (shards / "shards.json").unlink()
    main(["index", str(shards)])
    assert json.loads((shards / "shards.json").read_bytes())["shards"] == before["shards"]


def test_a_manifest_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "resolution.jsonl"
    write_manifest(path, ManifestHeader("p", (512,)), [ManifestEntry("a", SelectionStatus.SELECTED, 512)])
    main(["report", str(path)])
    assert "view of 512 tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data", "chek"], "There is no command `infogap data chek`: did you mean 'check'?"),
        (["data", "check", "pipe:ls"], "The shards 'pipe:ls' are not local files"),
        (["data", "report", "nowhere.jsonl"], "There is no manifest nowhere.jsonl"),
    ],
)
def test_a_mistake_costs_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["infogap", *words])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
