"""Published training sets become samples, field by field, and what cannot be trained on is dropped with its reason."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import training_files as files
from benchmark_files import encoded, write_json_lines, write_parquet, write_tsv
from hypothesis import given, settings
from hypothesis import strategies as st

from infogap.data.convert import image_files
from infogap.data.convert.faults import DropError, DropReason
from infogap.data.convert.image_files import ImageFiles
from infogap.data.convert.jsonl import JsonLines
from infogap.data.convert.mini_o3 import DeepEyes4K, VisualProbe
from infogap.data.convert.pixelreasoner import PixelReasoner
from infogap.data.convert.published import PublishedSource
from infogap.data.convert.registry import SOURCES
from infogap.data.convert.search_traces import Ambiguous, JoinCounts
from infogap.data.convert.source import Dropped
from infogap.data.convert.texts import answer_text, listed_options, question_text, right_option, with_options
from infogap.data.convert.thinklite import ThinkLite
from infogap.data.convert.verl import ChainOfFocus, DeepEyes, Verl
from infogap.data.convert.vstar_style import VStarStyle
from infogap.data.records import encode_sample
from infogap.data.sample import Sample
from infogap.data.tables import TableError
from infogap.evaluation.benchmarks.images import ImagePool
from infogap.evaluation.benchmarks.vstar import VStar
from infogap.evaluation.question import Question


def told(row: Sample | Dropped) -> dict[str, Any] | str:
    """Every field of a sample but those that are empty, or the reason for which a row was dropped."""
    if isinstance(row, Dropped):
        return str(row.reason)
    fields = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    fields["image"] = row.image.data
    fields["evidence"] = [[box.as_tuple() for box in chain] for chain in row.evidence]
    return {name: value for name, value in fields.items() if value}


def all_told(source: PublishedSource, start: int = 0) -> list[dict[str, Any] | str]:
    return [told(row) for row in source.rows(start)]


def messages_of(source: PublishedSource) -> list[str]:
    return [row.message for row in source.rows() if isinstance(row, Dropped)]


def question_of(row: dict[str, Any] | str) -> str:
    return str(row["question"] if isinstance(row, dict) else row)


WRITTEN: dict[str, Callable[[Path], Path]] = {
    "deepeyes": files.deepeyes,
    "visualprobe": files.mini_o3,
    "deepeyes_4k": lambda root: files.mini_o3(root, "DeepEyes_train_4K"),
    "pixelreasoner": files.pixelreasoner,
    "cof": files.cof,
    "thinklite": files.thinklite,
    "verl": files.deepeyes,
    "jsonl": files.json_lines,
    "vstar_style": files.vstar_style,
}


def test_deepeyes(tmp_path: Path) -> None:
    first, charts = "deepeyes-data_0_1_2_visual_toolbox_v2", "deepeyes-data_v0_8_visual_toolbox_v2"
    origin = {"data_source": "vstar", "ability": "vl_agent", "env_name": "visual_toolbox_v2"}
    chart = {"image": files.GREEN, "source": "deepeyes", "question": "Which line is highest?"}
    options = ("the red one", "the blue one", "the green one")
    assert all_told(DeepEyes(files.deepeyes(tmp_path))) == [
        {
            "key": f"{first}-0000001",
            "image": files.RED,
            "question": "What is the color of the glove?",
            "answer": "The color of the glove is red.",
            "source": "deepeyes",
            "metadata": {"id": "sa_1", "index": 4, **origin},
        },
        {
            "key": f"{first}-0000002",
            "image": files.BLUE,
            "question": "What is left of the dog?",
            "answer": "a cat",
            "source": "deepeyes",
            "metadata": {"id": "sa_2", "index": 5, **origin},
        },
        "several images",
        "chat markup",
        "unreadable image",
        "no image",
        "unreadable image",
        "empty answer",
        {
            **chart,
            "key": f"{charts}-0000001",
            "answer": "B",
            "options": options,
            "metadata": {"id": "sa_1", "index": 4, **origin},
        },
        {**chart, "key": f"{charts}-0000002", "answer": "C", "options": options, "metadata": origin},
        {
            **chart,
            "key": f"{charts}-0000003",
            "question": "Which line is highest?\nA. the red one\nB. the blue one\nC. the green one",
            "answer": "The red one, since it rises most.",
            "metadata": {"id": "sa_1", "index": 4, **origin},
        },
    ]


def test_verl_reads_paths_and_prompts_in_parts(tmp_path: Path) -> None:
    parts = [{"type": "image", "text": None}, {"type": "text", "text": "What is <image> it?"}]
    rows = [
        {
            "images": [{"bytes": None, "path": "pictures/a.jpg"}],
            "prompt": [{"role": "user", "content": parts[:1]}, {"role": "user", "content": parts}],
            "reward_model": {"ground_truth": ["a cup"]},
        },
        {
            "images": [{"bytes": None, "path": None}],
            "prompt": [{"role": "user", "content": parts}],
            "reward_model": {"ground_truth": ["a cup"]},
        },
        {
            "images": [{"bytes": None, "path": "pictures/a.jpg"}],
            "prompt": [{"role": "assistant", "content": parts}],
            "reward_model": {"ground_truth": ["a cup"]},
        },
    ]
    file = write_parquet(tmp_path / "mine.parquet", rows)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.jpg").write_bytes(files.RED)
    sample = {"key": "verl-mine-0000001", "image": files.RED, "question": "What is  it?", "answer": "a cup"}
    assert all_told(Verl(file)) == [{**sample, "source": "verl"}, "no image", "empty question"]


def test_verl_leaves_videos_out(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "mine.parquet", [files.verl_row(files.RED, "What?", "x", videos=["a.mp4"])])
    assert all_told(Verl(file)) == ["video"]


@pytest.mark.parametrize(
    ("source", "name"), [(VisualProbe, "VisualProbe_train"), (DeepEyes4K, "DeepEyes_train_4K")], ids=["vp", "de"]
)
def test_sets_of_mini_o3(source: type[DeepEyes4K], name: str, tmp_path: Path) -> None:
    def metadata(number: int) -> dict[str, Any]:
        return {"metadata": {"id": f"visual_probe_train_{number}", "data_source": "visual_probe_train"}}

    sample = {"image": files.RED, "source": source.name}
    assert all_told(source(files.mini_o3(tmp_path, name))) == [
        {
            **sample,
            "key": f"{source.name}-train-0000001",
            "question": "What is on the sign?",
            "answer": "EXIT",
            **metadata(0),
        },
        {
            **sample,
            "image": files.BLUE,
            "key": f"{source.name}-train-0000002",
            "question": "How many dogs?",
            "answer": "3",
            **metadata(1),
        },
        "missing image",
        "empty question",
        "unreadable row",
        "missing image",
        "no image",
        "unreadable text",
        "unreadable row",
        {
            **sample,
            "key": f"{source.name}-train-0000010",
            "question": "Which?",
            "answer": "B",
            "options": ("red", "blue"),
            **metadata(9),
        },
    ]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_visualprobe_takes_its_boxes_from_people_who_searched(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, traces = files.mini_o3(tmp_path / "set"), tmp_path / f"traces.{kind}"
    (write_parquet if kind == "parquet" else write_json_lines)(traces, files.search_sessions())
    source = VisualProbe(root, traces)
    rows = list(source.rows())
    assert [told(row)["evidence"] for row in (rows[0],)] == [  # type: ignore[index]
        [[(60.0, 20.0, 96.0, 50.0)], [(4.0, 5.0, 6.0, 7.0)]]
    ]
    assert isinstance(rows[0], Sample)
    assert rows[0].metadata["search_session"] == "s_1"
    assert isinstance(rows[1], Sample)
    assert rows[1].evidence == ()
    assert "search_session" not in rows[1].metadata
    assert source.traces is not None
    assert source.traces.counts == JoinCounts(1, repeated=2, unmatched=1, without_boxes=1, ambiguous=1, unreadable=1)
    assert "1 joined, 2 repeated, 1 unmatched" in caplog.text
    assert source.inputs() == [root / "train.json", traces]

    kept = next(VisualProbe(root, traces, Ambiguous.KEPT).rows(1))
    assert isinstance(kept, Sample)
    assert [chain[0].as_tuple() for chain in kept.evidence] == [(0.0, 0.0, 20.0, 20.0)]


def test_of_several_sessions_the_surest_of_a_plain_task_counts(tmp_path: Path) -> None:
    root = files.mini_o3(tmp_path / "set")
    sessions = [
        files.search_session("a", 8, "How many dogs?", [[1, 1, 9, 9]], is_ambiguous=True, confidence_score=1.0),
        files.search_session("b", 8, "How many dogs?", [[1, 1, 9, 9]], confidence_score=0.1),
        files.search_session("d", 8, "How many dogs?", [[1, 1, 9, 9]], confidence_score=0.3),
        files.search_session("c", 8, "How many dogs?", [[1, 1, 9, 9]], confidence_score=0.3),
        files.search_session("e", 8, "How many dogs?", [[1, 1, 9, 9]], confidence_score=None),
        files.search_session("0", 8, "How many dogs?", [[1, 1, 9, 9]], confidence_score=float("nan")),
    ]
    for order in (sessions, sessions[::-1]):
        traces = write_json_lines(tmp_path / "traces.jsonl", order)
        row = next(VisualProbe(root, traces, Ambiguous.KEPT).rows(1))
        assert isinstance(row, Sample)
        assert row.metadata["search_session"] == "c"


def test_a_box_outside_the_image_drops_its_row(tmp_path: Path) -> None:
    root = files.mini_o3(tmp_path / "set")
    sessions = [files.search_session("s", 7, "What is on the sign?", [[960, 10, 990, 20]])]
    rows = list(VisualProbe(root, write_json_lines(tmp_path / "traces.jsonl", sessions)).rows())
    assert told(rows[0]) == "bad boxes"


def test_sessions_that_all_fit_are_told_quietly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    root = files.mini_o3(tmp_path / "set")
    traces = write_json_lines(tmp_path / "traces.jsonl", files.search_sessions()[:1])
    list(VisualProbe(root, traces).rows())
    assert [record.levelname for record in caplog.records] == ["INFO"]


@pytest.mark.parametrize("folder_in_zip", ["", "images/"])
def test_pixelreasoner(folder_in_zip: str, tmp_path: Path) -> None:
    source = PixelReasoner(files.pixelreasoner(tmp_path, folder_in_zip))

    def sample(number: int, image: bytes, question: str, answer: str, **more: Any) -> dict[str, Any]:
        fields = {"key": f"pixelreasoner-release-{number:07d}", "image": image, "question": question, "answer": answer}
        return {**fields, "source": "pixelreasoner", "metadata": {"qid": f"q-{number - 1}"}, **more}

    assert all_told(source) == [
        sample(1, files.RED, "What is the total?", "42"),
        sample(2, files.BLUE, "What is it?", "B", options=("a cat", "a dog")),
        "video",
        "video",
        "several images",
        sample(6, files.BLUE, "Who?", "Ann"),
        "several answers",
        sample(8, files.BLUE, "How much?", "\\frac{1}{2}"),
        "empty answer",
        "missing image",
    ]
    assert source.inputs() == [tmp_path / "release.parquet", tmp_path / "images.zip"]


def test_an_unpacked_archive_does_as_well(tmp_path: Path) -> None:
    packed = all_told(PixelReasoner(files.pixelreasoner(tmp_path)))
    with zipfile.ZipFile(tmp_path / "images.zip") as archive:
        archive.extractall(tmp_path / "images")
    (tmp_path / "images.zip").unlink()
    assert all_told(PixelReasoner(tmp_path)) == packed


def test_chain_of_focus(tmp_path: Path) -> None:
    metadata = {
        "index": 11,
        "split": "train",
        "data_source": "cof_rl",
        "ability": "visual_search",
        "agent_name": "cof_tool_agent",
    }
    sample = {"image": files.GREEN, "source": "cof"}
    assert all_told(ChainOfFocus(files.cof(tmp_path))) == [
        {
            **sample,
            "key": "cof-train-0000001",
            "question": "What is the color of the car?",
            "answer": "red",
            "metadata": {**metadata, "groundtruth_complete": "It is red."},
        },
        {
            **sample,
            "key": "cof-train-0000002",
            "question": "Which is it?",
            "answer": "A",
            "options": ("a car", "a bus"),
            "metadata": {**metadata, "groundtruth_complete": "It is A."},
        },
        "unreadable image",
        "missing image",
    ]


@pytest.mark.parametrize("as_struct", [False, True])
def test_thinklite(as_struct: bool, tmp_path: Path) -> None:
    def sample(number: int, image: bytes, question: str, answer: str, **more: Any) -> dict[str, Any]:
        key = f"thinklite-ThinkLite-VL-hard-11k-{number:07d}"
        fields = {"key": key, "image": image, "question": question, "answer": answer, "source": "thinklite"}
        return {**fields, "metadata": {"id": 99 + number}, **more}

    expected: list[Any] = [
        sample(1, files.RED, "How many?", "4"),
        sample(2, files.TINY, "How high?", "12"),
        sample(3, files.WHITE, "Which?", "B", options=("30", "40")),
        "bad options" if as_struct else "unreadable image",
        "no image",
    ]
    if as_struct:
        expected[3] = "unreadable image"
        expected += [sample(6, files.RED, "How many?", "B", options=("3", "4")), "bad options"]
    assert all_told(ThinkLite(files.thinklite(tmp_path, as_struct=as_struct))) == expected


def test_own_rows(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    source = JsonLines(files.json_lines(tmp_path / "own" / "set"))
    image = {"image": files.RED}
    chains = [[(10, 10, 20, 20), (5, 5, 40, 40)], [(50.5, 8, 60, 9)]]
    assert all_told(source) == [
        {**image, "key": "a-1", "question": " What? ", "answer": "x", "evidence": chains},
        {
            "image": files.GREEN,
            "key": "jsonl-own-0000002",
            "question": "Which?",
            "answer": "B",
            "options": ("(A) red", "blue"),
            "source": "own",
        },
        {**image, "key": "3", "question": "Where?", "answer": "7", "evidence": [[(1, 2, 3, 4)], [(5, 6, 7, 8)]]},
        "bad id",
        "bad id",
        "missing image",
        "bad options",
        "bad options",
        "unreadable row",
        "empty answer",
        "bad boxes",
        "bad boxes",
        "bad boxes",
        "bad metadata",
        "bad metadata",
    ]


@pytest.mark.parametrize("suffix", [".json", ".tsv", ".parquet"])
def test_own_rows_in_other_tables_are_the_same(suffix: str, tmp_path: Path) -> None:
    rows = [{**row, "metadata": {"group": {"a": [1, None]}}} for row in files.own_rows()[:3]]
    lines = JsonLines(write_json_lines(files.own_images(tmp_path) / "own.jsonl", rows))
    cells = [
        {name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in row.items()}
        for row in rows
    ]
    names = ("id", "image", "question", "answer", "options", "boxes", "source", "metadata")
    cells = [{name: None if row.get(name) is None else str(row[name]) for name in names} for row in cells]
    file = tmp_path / f"own{suffix}"
    if suffix == ".json":
        file.write_text(json.dumps(rows))
    else:
        (write_tsv if suffix == ".tsv" else write_parquet)(file, cells)
    assert all_told(JsonLines(file)) == all_told(lines)


def test_samples_survive_the_way_out_and_back(tmp_path: Path) -> None:
    """The fields that unpacking writes are those of the JSON in a shard, with key and image."""
    sources = [SOURCES[name](write(tmp_path / name)) for name, write in WRITTEN.items()]
    samples = [row for source in sources for row in source.rows() if isinstance(row, Sample)]
    assert len(samples) > 20
    lines = []
    (tmp_path / "images").mkdir()
    for sample in samples:
        suffix, data = next(iter(encode_sample(sample).items()))
        (tmp_path / f"images/{sample.key}.{suffix}").write_bytes(data)
        line = json.loads(encode_sample(sample)["json"])
        del line["schema"]
        lines.append({"id": sample.key, "image": f"images/{sample.key}.{suffix}", **line})
    again = JsonLines(write_json_lines(tmp_path / "samples.jsonl", lines))
    assert all_told(again) == [told(sample) for sample in samples]


def test_metadata_of_any_depth_make_a_sample_or_are_dropped(tmp_path: Path) -> None:
    row = '{"image": "images/a.jpg", "question": "What?", "answer": "x", "metadata": {"deep": %s}}'
    deep = [row % ("[" * depth + "]" * depth) for depth in range(700, 1050)]
    (files.own_images(tmp_path) / "own.jsonl").write_text("\n".join(deep))
    reasons = [row if isinstance(row, str) else "" for row in all_told(JsonLines(tmp_path))]
    assert reasons[0] == ""
    assert set(reasons) == {"", "bad metadata", "unreadable row"}


def test_a_row_without_an_id_does_not_take_one_away(tmp_path: Path) -> None:
    own = {"image": "images/a.jpg", "question": "What?", "answer": "x"}
    file = write_json_lines(files.own_images(tmp_path) / "own.jsonl", [own, {**own, "id": "None"}])
    assert [row.key for row in JsonLines(file).rows() if isinstance(row, Sample)] == ["jsonl-own-0000001", "None"]


def test_an_id_that_is_made_up_and_one_that_is_given_may_collide(tmp_path: Path) -> None:
    own = {"image": "images/a.jpg", "question": "What?", "answer": "x"}
    unpacked = [{**own, "id": f"jsonl-own-000000{number}"} for number in (1, 2)]
    file = write_json_lines(files.own_images(tmp_path) / "own.jsonl", [own, *unpacked])
    rows = list(JsonLines(file).rows())
    assert [told(row)["key"] if isinstance(row, Sample) else row.reason for row in rows] == [  # type: ignore[index]
        "jsonl-own-0000001", "bad id", "jsonl-own-0000002"
    ]  # fmt: skip
    assert messages_of(JsonLines(file))[0].startswith(f"Row 2 of {file}: an earlier row has the id 'jsonl-own-0000001'")
    file = write_json_lines(file, [unpacked[1], own])
    assert [told(row) for row in JsonLines(file).rows()][1] == "bad id"


def test_tables_of_excel_begin_with_a_mark(tmp_path: Path) -> None:
    row = {"image": "images/a.jpg", "question": "What?", "answer": "x"}
    file = write_tsv(files.own_images(tmp_path) / "own.tsv", [row])
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert [question_of(row) for row in all_told(JsonLines(file))] == ["What?"]


def test_hidden_files_are_no_tables(tmp_path: Path) -> None:
    files.cof(tmp_path)
    (tmp_path / "._train.parquet").write_bytes(b"AppleDouble")
    (tmp_path / ".converting").mkdir()
    (tmp_path / ".converting" / "train.json").touch()
    assert ChainOfFocus(tmp_path).tables() == [tmp_path / "train.parquet"]
    with pytest.raises(TableError, match="holds no file of"):
        VisualProbe(tmp_path).tables()


def test_what_reads_parquet_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "own.parquet").touch()
    for source in (JsonLines(tmp_path), Verl(tmp_path)):
        with pytest.raises(TableError, match=r"own\.parquet needs pyarrow: pip install 'infogap\[data\]'\."):
            all_told(source)


def test_a_number_beyond_all_images_is_a_bad_box(tmp_path: Path) -> None:
    root = files.vstar_style(tmp_path)
    file = root / "attributes/sa_1.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "bbox": [[10**400, 0.5, 1.5, 1]]}))
    assert all_told(VStarStyle(root))[0] == "bad boxes"


@pytest.mark.parametrize("suffix", [".jsonl", ".tsv", ".parquet"])
def test_a_slip_in_a_field_of_own_rows_is_named(suffix: str, tmp_path: Path) -> None:
    row = {"image": "a.jpg", "question": "What?", "answer": "x", "box": "[]"}
    write = {".jsonl": write_json_lines, ".tsv": write_tsv, ".parquet": write_parquet}[suffix]
    with pytest.raises(TableError, match=r"The fields \['box'\] of .* are unknown: use id, image, question"):
        all_told(JsonLines(write(tmp_path / f"own{suffix}", [row])))


def test_own_annotations_in_the_format_of_vstar(tmp_path: Path) -> None:
    rows = list(VStarStyle(files.vstar_style(tmp_path)).rows())
    assert [told(row) for row in rows[1:]] == [
        "bad boxes",
        "bad options",
        "bad boxes",
        "missing image",
        "unreadable row",
    ]
    sample = rows[0]
    assert isinstance(sample, Sample)
    assert told(sample) == {
        "key": "vstar_style-sa_1-0000001",
        "image": files.RED,
        "question": "What colour is it?",
        "answer": "ABC"[sample.options.index("red")],
        "options": sample.options,
        "evidence": [[(10, 20, 15, 28)], [(90, 60, 96, 64)]],
        "source": "vstar_style",
        "metadata": {"category": "attributes", "target_object": ["glove"]},
    }
    assert sorted(sample.options) == ["blue", "green", "red"]


def test_options_are_shuffled_as_in_the_benchmark(tmp_path: Path) -> None:
    """Over many files every letter is right somewhere, and the order is the one that the benchmark's reader has."""
    for category in ("direct_attributes", "relative_position"):
        (tmp_path / category).mkdir()
        for number in range(8):
            row = {"question": "Which?", "options": ["a1", "b2", "c3"], "target_object": ["x"], "bbox": [[1, 1, 9, 9]]}
            (tmp_path / f"{category}/q_{number}.json").write_text(json.dumps(row))
            (tmp_path / f"{category}/q_{number}.jpg").write_bytes(files.RED)
    samples = [row for row in VStarStyle(tmp_path).rows() if isinstance(row, Sample)]
    benchmark, pool = VStar(), ImagePool(tmp_path)
    questions = [benchmark.read(record, pool) for record in benchmark.records(tmp_path)]
    asked = [(row.sample.options, row.sample.answer) for row in questions if isinstance(row, Question)]
    assert [(sample.options, sample.answer) for sample in samples] == asked
    assert {s.answer for s in samples} == {"A", "B", "C"}
    assert len({s.key for s in samples}) == 16


@pytest.mark.parametrize("name", WRITTEN)
def test_reading_goes_on_in_the_middle(name: str, tmp_path: Path) -> None:
    source = SOURCES[name](WRITTEN[name](tmp_path / "set"))
    rows = all_told(source)
    for start in range(len(rows) + 1):
        assert all_told(source, start) == rows[start:]
    assert all_told(source) == rows


@pytest.mark.parametrize("name", WRITTEN)
def test_every_source_has_unique_keys_and_says_where_a_fault_is(name: str, tmp_path: Path) -> None:
    source = SOURCES[name](WRITTEN[name](tmp_path / "set"))
    rows = list(source.rows())
    keys = [row.key for row in rows if isinstance(row, Sample)]
    assert len(set(keys)) == len(keys) > 0
    dropped = [row for row in rows if isinstance(row, Dropped)]
    assert {row.reason for row in dropped} <= set(DropReason)
    for row in dropped:
        assert row.place in row.message or row.place[1:] in row.message
        assert row.message.endswith(".")
        assert ".." not in row.message.replace("../..", "")
    assert all(path.is_file() for path in source.inputs())


def test_the_registry_holds_every_source_under_its_name() -> None:
    assert SOURCES.keys() == WRITTEN.keys()
    assert all(source.name == name and source.licence and source.origin for name, source in SOURCES.items())
    assert SOURCES["deepeyes"].licence.startswith("Apache-2.0")
    assert {SOURCES[name].licence for name in ("visualprobe", "deepeyes_4k")} == {"CC BY-NC 4.0"}
    assert SOURCES["thinklite"].licence == "MIT"
    unknown = ("pixelreasoner", "cof", "verl", "jsonl", "vstar_style")
    assert {SOURCES[name].licence for name in unknown} == {"not declared"}


def test_files_of_one_name_do_not_share_keys(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_parquet(tmp_path / folder / "train.a.parquet", [files.verl_row(files.RED, "What?", "x")])
    keys = [row.key for row in Verl(tmp_path).rows() if isinstance(row, Sample)]
    assert keys == ["verl-train_a-0000001", "verl-train_a-2-0000001"]


def test_messages_name_the_place_and_what_to_do(tmp_path: Path) -> None:
    messages = messages_of(VisualProbe(files.mini_o3(tmp_path)))
    table = tmp_path / "train.json"
    assert messages[:3] == [
        f"Row 3 of {table}: the image 'VisualProbe_train/data/gone.jpg' is not in {tmp_path}, download it there.",
        f"Row 4 of {table}: the question is empty, fill it in or remove the row.",
        f"Row 5 of {table}: the question is a list where text is needed, correct it.",
    ]


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../a.jpg", "x/../../a.jpg", "..\\a.jpg", "C:\\a.jpg", "\\\\host\\a.jpg", "a\0.jpg"]
)
def test_no_path_leads_out_of_the_folder(path: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(files.RED)
    (tmp_path / "folder").mkdir()
    with ImageFiles(tmp_path / "folder") as images, pytest.raises(DropError, match="leads out of the folder"):
        images.read(path)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=4), values, max_size=2),
    max_leaves=6,
)
VALUES = JSON_VALUES | st.sampled_from(["a.jpg", ["a.jpg"], "x" * 5000, [[1, 2, 30, 40]], ["x", "y"], "<image>", "A"])


@settings(max_examples=60, deadline=None)
@given(values=st.lists(VALUES, min_size=8, max_size=8))
def test_no_value_of_a_field_stops_the_conversion(values: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("any")
    (root / "a.jpg").write_bytes(files.RED)
    names = ("id", "image", "question", "answer", "options", "boxes", "source", "metadata")
    row = dict(zip(names, values, strict=True))
    own = {"image": "a.jpg", "question": "What?", "answer": "x"}
    rows = [row, *({**own, name: value} for name, value in row.items())]
    (root / "own.json").write_text(json.dumps(rows))
    published = [{"images": row["image"], "problem": row["question"], "solution": row["answer"], "doc_id": row["id"]}]
    published += [{"images": ["a.jpg"], "problem": "What?", "solution": "x", "doc_id": 1, "data_source": row["source"]}]
    (root / "train.json").write_text(json.dumps(published))
    sessions = [files.search_session("s", 7, "What?", row["boxes"], confidence_score=row["source"])]
    sessions += [{**sessions[0], "image": row["image"], "question": row["question"], "task_evaluation": row["options"]}]
    traces = write_json_lines(root / "traces.jsonl", sessions)
    assert len(all_told(JsonLines(root / "own.json"))) == 9
    assert len(all_told(VisualProbe(root, traces))) == 2


def test_a_name_that_no_file_can_have_is_a_missing_image(tmp_path: Path) -> None:
    with ImageFiles(tmp_path) as images, pytest.raises(DropError, match=r"'xxx.* is not in") as caught:
        images.read("x" * 5000)
    assert len(str(caught.value)) < 500


def test_a_member_that_declares_too_much_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MAX_IMAGE_BYTES", len(files.RED) - 1)
    archive = files.write_zip(tmp_path / "images.zip", {"a.jpg": files.RED})
    (tmp_path / "b.jpg").write_bytes(files.RED)
    with ImageFiles(tmp_path, archives=[archive]) as images:
        for name in ("a.jpg", "b.jpg"):
            with pytest.raises(DropError, match=rf"has {len(files.RED)} bytes, but {len(files.RED) - 1} are allowed"):
                images.read(name)


def test_a_member_that_holds_more_than_it_declares_is_unpacked_no_further(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.jpg", bytes(64 << 20))
        info = archive.getinfo("bomb.jpg")
    data = bytearray(path.read_bytes())
    true, small = (64 << 20).to_bytes(4, "little"), (1000).to_bytes(4, "little")
    assert data.count(true) == 2  # in the local header and in the directory
    path.write_bytes(bytes(data).replace(true, small))
    assert info.file_size == 64 << 20
    with ImageFiles(tmp_path, archives=[path]) as images:
        tracemalloc.start()
        with pytest.raises(DropError, match="cannot be unpacked"):
            images.read("bomb.jpg")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        tracemalloc.stop()


def test_members_that_are_damaged_or_packed_otherwise_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("packed.jpg", files.RED)
    stored = files.write_zip(tmp_path / "more.zip", {"changed.jpg": files.RED})
    data = bytearray(stored.read_bytes())
    data[data.index(files.RED) + 50] ^= 1
    stored.write_bytes(bytes(data))
    with ImageFiles(tmp_path, archives=[tmp_path / "images.zip", stored]) as images:
        with pytest.raises(DropError, match="only stored and deflated"):
            images.read("packed.jpg")
        with pytest.raises(DropError, match="Bad CRC-32"):
            images.read("changed.jpg")


def test_an_archive_that_is_none_is_named(tmp_path: Path) -> None:
    files.pixelreasoner(tmp_path)
    (tmp_path / "images.zip").write_bytes(b"<html>")
    with pytest.raises(TableError, match=r"The archive .*images\.zip cannot be read"):
        all_told(PixelReasoner(tmp_path))


@pytest.mark.parametrize("name", WRITTEN)
def test_a_folder_without_the_data_set_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="holds no file of"):
        SOURCES[name](tmp_path).inputs()


def test_one_image_is_in_memory_at_a_time(tmp_path: Path) -> None:
    big = encoded("red", size=(64, 64)) + bytes(4 << 20)  # what stands behind the end of a JPEG is copied along
    rows = [{"image": f"{number}.jpg", "question": "What?", "answer": "x"} for number in range(8)]
    for row in rows:
        (tmp_path / row["image"]).write_bytes(big)
    source = JsonLines(write_json_lines(tmp_path / "own.jsonl", rows))
    tracemalloc.start()
    for row in source.rows():
        assert isinstance(row, Sample)
        del row
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20  # of 32 MiB


@pytest.mark.parametrize(
    ("published", "question"),
    [
        ("<image>\nWhat?", "What?"),
        (f"<image>What?{files.TOOL_REQUEST}", "What?"),
        (f"What?{files.COF_REQUEST}", "What?"),
        ("What? You FIRST think about the reasoning process as an internal monologue", "What?"),
        ("What?\n\nGuidelines: Understand the given visual information", "What?"),
        ("What do the Guidelines: say?", "What do the Guidelines: say?"),
    ],
)
def test_of_a_prompt_the_question_is_kept(published: str, question: str) -> None:
    assert question_text(published) == question


@pytest.mark.parametrize("filling", [" ", "\n", "(", "A. x\n", "{", "[", "options"])
def test_long_texts_take_no_long_time(filling: str) -> None:
    text = f"What {filling * 50_000}?"
    start = time.perf_counter()
    with_options(question_text(text), answer_text(text))
    answer_text(f"\\boxed{{x{filling * 50_000}}}")
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("How many? (A) 2 (B) 3, (C) none", "(B)", ("How many?", "B", ("2", "3", "none"))),
        ("Which? Options: A: red, B: blue", "A", ("Which?", "A", ("red", "blue"))),
        ("Which?\nA. red\nB. blue\nAnswer with the letter.", "blue", ("Which?", "B", ("red", "blue"))),
        ("Which?\nA. red\nB. blue", "B. blue", ("Which?", "B", ("red", "blue"))),
        # not plain: the question stays whole
        ("Which?\nA. red\nB. blue", "B. red", None),
        ("Which?\nA. red\nB. blue", "D", None),
        ("Consider:\nA. red\nB. blue\nWhich of them is on the sign?", "A", None),
        ("Panel (A) is red and (B) is blue. Which is larger?", "A", None),
        ("Compare panel (A) with red marks and (B) with blue ones.", "A", None),
        ("What is above? (A) what? (B) blue", "B", None),
        ("Which letter?\nA. C\nB. A\nC. B", "A", None),
        ("Which letter?\nA. a\nB. b", "B", ("Which letter?", "B", ("a", "b"))),
    ],
)
def test_options_are_taken_out_where_they_are_plain(question: str, answer: str, expected: Any) -> None:
    assert with_options(question, answer) == (expected or (question, answer, ()))


@pytest.mark.parametrize(
    ("published", "answer"),
    [
        ("\\boxed{\\text{a}}", "\\text{a}"),
        ("\\boxed{1} and \\boxed{2}", "\\boxed{1} and \\boxed{2}"),
        (["x"], "x"),
        ('\\boxed{["x", "x"]}', "x"),
        ("[1, 2]", "[1, 2]"),
        ("['\\d']", "\\d"),
        ([2.5, 2.5], "2.5"),
    ],
)
def test_answers_are_unwrapped(published: Any, answer: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert answer_text(published) == answer


@pytest.mark.parametrize(
    ("published", "reason"),
    [
        ([], DropReason.EMPTY_ANSWER),
        (None, DropReason.EMPTY_ANSWER),
        (float("nan"), DropReason.EMPTY_ANSWER),
        (["a", "b"], DropReason.SEVERAL_ANSWERS),
        ({"a": 1}, DropReason.UNREADABLE_ROW),
        (True, DropReason.UNREADABLE_ROW),
    ],
)
def test_answers_that_are_none_are_dropped(published: Any, reason: DropReason) -> None:
    with pytest.raises(DropError) as caught:
        answer_text(published)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("published", "options"),
    [
        (["(A) red", "(B) blue"], ("red", "blue")),
        (["(A) red", "blue"], ("(A) red", "blue")),
        ("['red', 'blue']", ("red", "blue")),
        (None, ()),
        ([], ()),
    ],
)
def test_listed_options(published: Any, options: tuple[str, ...]) -> None:
    assert listed_options(published) == options


@pytest.mark.parametrize("published", ["red", ["red", ""], [["red"]], {"A": "red"}, ["x"] * 27])
def test_options_that_are_none_are_refused(published: Any) -> None:
    with pytest.raises(DropError):
        listed_options(published)


def test_an_option_that_occurs_twice_names_none() -> None:
    assert right_option("red", ("red", "red")) is None
