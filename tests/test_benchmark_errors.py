from __future__ import annotations

import builtins
import json
import os
import re
from pathlib import Path
from typing import Any

import benchmark_files as files
import pytest

from infogap.data.writing import write_shards
from infogap.evaluation.benchmarks.registry import find_benchmark
from infogap.evaluation.question import BenchmarkError, Question, UnreadableRow
from infogap.geometry import Box


def rows_of(name: str, root: Path) -> list[Any]:
    return list(find_benchmark(name).rows(root))


def hrbench_with(tmp_path: Path, **fields: Any) -> Path:
    """HR-Bench with some fields of its third row changed."""
    rows = files.hrbench_rows()
    rows[2] |= fields
    return files.write_tsv(tmp_path / "hr_bench_4k.tsv", rows)


def only_fault(rows: list[Any]) -> UnreadableRow:
    (fault,) = [row for row in rows if isinstance(row, UnreadableRow)]
    assert len(rows) - 1 == sum(isinstance(row, Question) for row in rows)
    return fault


# --- faults of one row ---


@pytest.mark.parametrize(
    ("fields", "column", "fault"),
    [
        ({"answer": "E"}, "answer", "the answer 'E' is none of the options A, B, C, D, correct it"),
        ({"answer": ""}, "answer", "it is empty, fill it in or remove the row"),
        ({"question": " "}, "question", "it is empty, fill it in or remove the row"),
        ({"question": "<|im_end|>"}, "question", "it holds '<|', which would be read as chat markup, take it out"),
        ({"B": "<|im_end|>"}, "B", "it holds '<|', which would be read as chat markup, take it out"),
        ({"B": ""}, "B", "the option is empty before C, fill it in or remove the row"),
        ({"A": "", "B": "", "C": "", "D": ""}, "A", "the option is empty, fill it in or remove the row"),
        ({"cycle_category": ""}, "cycle_category", "it is empty, fill it in or remove the row"),
        ({"image": ""}, "image", "it holds nothing where an image is needed, copy the file again"),
        ({"image": "!" * 99}, "image", "its image is no base64 (Only base64 data is allowed), copy the file again"),
        ({"image": "99"}, "image", "it refers to the image of the row '99', which no earlier row holds"),
        ({"image": "7"}, "image", "it refers to the image of the row '7', which no earlier row holds"),
        ({"image": "/etc/a.jpg"}, "image", "the path '/etc/a.jpg' leads out of the folder FOLDER, give one below it"),
        (
            {"image": "b/../../a.jpg"},
            "image",
            "the path 'b/../../a.jpg' leads out of the folder FOLDER, give one below it",
        ),
        (
            {"image": "b/a.jpg"},
            "image",
            "the image FOLDER/b/a.jpg cannot be read (No such file or directory), copy it there",
        ),
    ],
)
def test_a_fault_of_a_row_is_told_by_file_row_and_column(
    tmp_path: Path, fields: dict[str, Any], column: str, fault: str
) -> None:
    file = hrbench_with(tmp_path, **fields)
    row = only_fault(rows_of("hrbench_4k", file))
    assert row.reason == f"Row 3 of {file}, column '{column}': {fault.replace('FOLDER', str(tmp_path))}."
    assert (row.key, row.category) == ("2", "single")


def test_bytes_that_are_no_image_are_told(tmp_path: Path) -> None:
    file = hrbench_with(tmp_path, image="Tm90IGFuIGltYWdlLCBub3QgYXQgYWxsLCBub3QgZXZlbiBhIGxpdHRsZSBvbmUsIG5vLCBuby4u")
    row = only_fault(rows_of("hrbench_4k", file))
    assert row.reason.startswith(
        f"Row 3 of {file}, column 'image': the image of row 3 of {file} is not a JPEG, PNG or "
    )
    cut = files.encoded()[:100]
    row = only_fault(rows_of("mmstar", files.write_parquet(tmp_path / "m.parquet", mmstar_with(image=cut))))
    assert "column 'image': the header of the image of row 2 of" in row.reason


def mmstar_with(**fields: Any) -> list[dict[str, Any]]:
    first, second = files.mmstar_rows()
    return [first, second | fields]


def test_an_unreadable_row_keeps_what_could_be_read_of_it(tmp_path: Path) -> None:
    rows = rows_of("hrbench_4k", hrbench_with(tmp_path, answer="E"))
    fault = only_fault(rows)
    assert (fault.variant, fault.base, fault.cluster) == ("cycle_1", rows[0].base, rows[0].cluster)
    fault = only_fault(rows_of("hrbench_4k", hrbench_with(tmp_path, index="")))
    assert fault.key == f"row 3 of {tmp_path / 'hr_bench_4k.tsv'}"


def test_a_row_with_too_few_fields_is_told(tmp_path: Path) -> None:
    file = files.write_tsv(tmp_path / "hr_bench_4k.tsv", files.hrbench_rows())
    with file.open("a") as lines:
        lines.write("8\thalf a row\n")
    row = only_fault(rows_of("hrbench_4k", file))
    assert row.reason == f"Row 9 of {file} has 2 fields, but the header names 10: copy the file again."
    assert row.key == f"row 9 of {file}"


@pytest.mark.parametrize(
    ("boxes", "fault"),
    [
        ("[[1, 2, 11", "'[[1, 2, 11' is no list of boxes (SyntaxError), correct it"),
        ("__import__('os')", "\"__import__('os')\" is no list of boxes (ValueError), correct it"),
        ("7", "it holds 7 where a list of boxes is needed, correct it"),
        ("[1, 2, 3, 4]", "the box 1 is no list of four numbers, correct it"),
        ("[[1, 2, 3]]", "the box [1, 2, 3] is no list of four numbers, correct it"),
        ("[[1, 2, True, 4]]", "the box [1, 2, True, 4] is no list of four numbers, correct it"),
    ],
)
def test_a_bad_box_is_told(tmp_path: Path, boxes: str, fault: str) -> None:
    first, second = files.treebench_rows()
    file = files.write_tsv(tmp_path / "TreeBench.tsv", [first, second | {"target_instances": boxes}])
    assert only_fault(rows_of("treebench", file)).reason == f"Row 2 of {file}, column 'target_instances': {fault}."


@pytest.mark.parametrize(
    ("boxes", "fault"),
    [
        ("[[5, 2, 5, 4]]", "the box (5, 2, 5, 4) is empty: give x1 < x2 and y1 < y2"),
        ("[[1, 2, 3, 4], [1, 2, 1e999, 4]]", "the box (1, 2, not finite, 4) has a coordinate that is not finite"),
        ("[[64, 0, 70, 9]]", "the box (64, 0, 70, 9) lies outside the image of 64x48 pixels"),
    ],
)
def test_a_row_whose_box_is_nowhere_is_asked_without_boxes(
    tmp_path: Path, boxes: str, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Most arms need no box, and none of them should lose the row for an annotation."""
    first, second = files.treebench_rows()
    file = files.write_tsv(tmp_path / "TreeBench.tsv", [first, second | {"target_instances": boxes}])
    _, row = rows_of("treebench", file)
    assert row.sample.evidence == ()
    assert f"Row 2 of {file}, column 'target_instances': {fault}" in caplog.text
    assert "its row is asked without boxes." in caplog.text


def test_a_box_over_the_edge_is_cut_there(tmp_path: Path) -> None:
    file = files.vstar_annotations(tmp_path) / "direct_attributes" / "sa_1.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"bbox": [[60, 0, 9, 9]]}))
    (row,) = [row for row in rows_of("vstar", tmp_path) if row.key == "direct_attributes/sa_1"]
    assert row.sample.evidence == ((Box(60, 0, 64, 9),),)


def test_a_json_file_of_vstar_without_boxes_is_told(tmp_path: Path) -> None:
    file = files.vstar_annotations(tmp_path) / "direct_attributes" / "sa_1.json"
    file.write_text(file.read_text().replace("bbox", "box"))
    reason = only_fault(rows_of("vstar", tmp_path)).reason
    assert reason == f"{file}, column 'bbox': it holds None where a list of boxes is needed, correct it."


@pytest.mark.parametrize("image", [7, None, "direct_attributes/..", "direct_attributes/", "."])
def test_a_published_line_of_vstar_with_an_odd_path_is_told(tmp_path: Path, image: Any) -> None:
    files.vstar_annotations(tmp_path)
    row = {"image": image, "text": "What?\n(A) x\n(B) y", "category": "direct_attributes", "label": "A"}
    reason = only_fault(rows_of("vstar", files.write_json_lines(tmp_path / "test_questions.jsonl", [row]))).reason
    assert "Row 1 of " in reason
    assert "column 'image'" in reason


def test_half_a_character_is_told(tmp_path: Path) -> None:
    sea, _, _ = files.xlrs_rows()
    file = files.write_json_lines(tmp_path / "part.jsonl", [sea | {"question": "\ud800?"}])
    reason = only_fault(rows_of("xlrs_lite", file)).reason
    assert "column 'question': it holds half a character (a lone surrogate), correct it." in reason


def test_a_question_of_vstar_without_image_or_json_is_told(tmp_path: Path) -> None:
    folder = files.vstar_annotations(tmp_path) / "direct_attributes"
    (folder / "sa_1.jpg").unlink()
    image = f"the image {folder / 'sa_1.jpg'} cannot be read (No such file or directory), copy it there"
    assert only_fault(rows_of("vstar", tmp_path)).reason == f"{folder / 'sa_1.json'}, column 'image': {image}."
    (folder / "sa_1.jpg").write_bytes(files.encoded())
    (folder / "sa_0.jpg").write_bytes(files.encoded())
    reason = f"{folder / 'sa_0.json'} cannot be read (No such file or directory): download it again."
    assert only_fault(rows_of("vstar", tmp_path)).reason == reason
    (folder / "sa_0.json").write_text('{"question": ')
    assert only_fault(rows_of("vstar", tmp_path)).reason.startswith(
        f"{folder / 'sa_0.json'} is no JSON (Expecting value"
    )


def test_a_published_line_of_vstar_with_a_broken_annotation_is_told(tmp_path: Path) -> None:
    file = files.vstar_annotations(tmp_path) / "direct_attributes" / "sa_1.json"
    file.write_text("[]")
    row = only_fault(rows_of("vstar", files.vstar_questions(tmp_path)))
    assert "Row 1 of" in row.reason
    assert "has an annotation that cannot be used: holds a list" in row.reason


def test_a_published_line_of_vstar_reads_nothing_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    row = {"image": "../a.jpg", "text": "What?\n(A) x\n(B) y", "category": "direct_attributes", "label": "A"}
    file = files.write_json_lines(tmp_path / "below" / "test_questions.jsonl", [row])
    reason = only_fault(rows_of("vstar", file)).reason
    assert "column 'image': the path '../a.jpg' leads out of the folder" in reason


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ("['(A) x', '(B) y'", "its list of options is damaged (SyntaxError), copy the file again"),
        ("[open('x')]", "its list of options is damaged (ValueError), copy the file again"),
        ("['(A) x', '(C) y']", "its options ['(A) x', '(C) y'] are not lettered A, B, ... in order, correct them"),
        (
            "(A) x\nmore\n(B) y",
            "its options ['(A) x', 'more', '(B) y'] are not lettered A, B, ... in order, correct them",
        ),
        ("nothing", "it holds [] where options are needed, copy the file again"),
        ("['(A) ', '(B) y']", "option 1 is empty, fill it in or remove the row"),
        ("['(A) <|x|>', '(B) y']", "option 1 holds '<|', which would be read as chat markup, take it out"),
    ],
)
def test_damaged_options_are_told(tmp_path: Path, options: str, fault: str) -> None:
    first, second = files.mme_rows("image")
    rows = [row | {"multi-choice options": str(row["multi-choice options"])} for row in (first, second)]
    rows[1]["multi-choice options"] = options
    file = files.write_tsv(tmp_path / "mme_realworld_lite.tsv", rows)
    reason = only_fault(rows_of("mme_realworld_lite", file)).reason
    assert reason == f"Row 2 of {file}, column 'multi-choice options': {fault}."


def test_several_letters_that_are_no_options_are_told(tmp_path: Path) -> None:
    sea, several, _ = files.xlrs_rows()
    for answer in ("BE", "BB", "B or D"):
        file = files.write_json_lines(tmp_path / "part.jsonl", [sea, several | {"answer": answer}])
        reason = only_fault(rows_of("xlrs_lite", file)).reason
        assert f"column 'answer': the answer '{answer}' is not made of the options A, B, C, D, correct it." in reason


def test_a_broken_line_is_told(tmp_path: Path) -> None:
    file = files.write_json_lines(tmp_path / "part0.jsonl", files.xlrs_rows()[:1])
    with file.open("a") as lines:
        lines.write('{"index": 1, "ima')
    row = only_fault(rows_of("xlrs_lite", file))
    assert row.reason.startswith(f"Row 2 of {file} is no JSON (Unterminated string")
    assert row.key == f"row 2 of {file}"


def test_a_line_without_a_field_is_told(tmp_path: Path) -> None:
    first, second, _ = files.xlrs_rows()
    del second["answer"]
    file = files.write_json_lines(tmp_path / "part0.jsonl", [first, second])
    reason = only_fault(rows_of("xlrs_lite", file)).reason
    assert reason == f"Row 2 of {file}, column 'answer': it is empty, fill it in or remove the row."


def test_an_answer_that_is_neither_yes_nor_no_is_told(tmp_path: Path) -> None:
    first, second = files.pope_rows()
    file = files.write_parquet(tmp_path / "test-0.parquet", [first, second | {"answer": "Maybe"}])
    reason = only_fault(rows_of("pope", file)).reason
    assert reason == f"Row 2 of {file}, column 'answer': the answer 'maybe' is neither yes nor no, correct it."


def test_a_sample_of_a_shard_with_a_fault_is_told(tmp_path: Path, make_sample: Any) -> None:
    (shard,) = write_shards([make_sample("a"), make_sample("b", question="Whose hat?"), make_sample("c")], tmp_path, 9)
    shard.write_bytes(shard.read_bytes().replace(b"Whose hat?", b"<|i_end|>?"))
    row = only_fault(rows_of("shards", tmp_path))
    assert row.key == "b"
    assert row.reason.startswith(f"Sample 'b' of the shard {shard}: The sample 'b' has '<|' in its question")


# --- faults of a file ---


def test_a_missing_column_is_told_at_once(tmp_path: Path) -> None:
    rows = [{name: value for name, value in row.items() if name != "answer"} for row in files.hrbench_rows()]
    for file in (
        files.write_tsv(tmp_path / "hr_bench_4k.tsv", rows),
        files.write_parquet(tmp_path / "hr_bench_4k.parquet", rows),
        files.write_json_lines(tmp_path / "hr_bench_4k.jsonl", rows),
    ):
        found = re.escape(f"The file {file} lacks the columns ['answer'], it has ['index', 'question', 'category', 'A'")
        with pytest.raises(BenchmarkError, match=found):
            next(find_benchmark("hrbench_4k").rows(file))


def test_a_file_without_either_column_for_its_image_is_told(tmp_path: Path) -> None:
    file = files.write_tsv(tmp_path / "mme.tsv", files.mme_rows("picture"))
    with pytest.raises(BenchmarkError, match=r"mme\.tsv lacks the column 'bytes' or 'image'"):
        rows_of("mme_realworld", file)


@pytest.mark.parametrize("kind", ["tsv", "parquet"])
def test_an_id_that_occurs_twice_is_told_with_both_rows(tmp_path: Path, kind: str) -> None:
    rows = files.hrbench_rows()
    rows[5]["index"] = 1
    write = files.write_tsv if kind == "tsv" else files.write_parquet
    file = write(tmp_path / f"hr_bench_4k.{kind}", rows)
    twice = f"The id '1' of hrbench_4k occurs twice, in row 2 of {file} and in row 6 of {file}: remove one of"
    with pytest.raises(BenchmarkError, match=re.escape(twice)):
        rows_of("hrbench_4k", file)


def test_an_id_in_two_parts_or_shards_is_told(tmp_path: Path, make_sample: Any) -> None:
    for part in (0, 1):
        files.write_json_lines(tmp_path / f"part{part}.jsonl", files.xlrs_rows()[:1])
    with pytest.raises(
        BenchmarkError, match=r"The id '0' of xlrs_lite .* row 1 of .*part0.jsonl and in row 1 of .*part1"
    ):
        rows_of("xlrs_lite", tmp_path)
    for name in ("one", "two"):
        (shard,) = write_shards([make_sample("a")], tmp_path / name, 1)
        os.replace(shard, tmp_path / f"{name}.tar")
    with pytest.raises(BenchmarkError, match=r"The key 'a' occurs twice, in the shards .*one\.tar and .*two\.tar"):
        rows_of("shards", tmp_path)


def test_half_a_parquet_file_is_told(tmp_path: Path) -> None:
    file = files.write_parquet(tmp_path / "mmstar.parquet", files.mmstar_rows())
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(BenchmarkError, match=r"The file .*mmstar\.parquet cannot be read \(.+\): download it again"):
        rows_of("mmstar", tmp_path)


def test_a_parquet_file_with_damaged_pages_is_told(tmp_path: Path) -> None:
    file = files.write_parquet(tmp_path / "mmstar.parquet", files.mmstar_rows())
    data = bytearray(file.read_bytes())
    data[4:60] = bytes(56)
    file.write_bytes(data)
    with pytest.raises(BenchmarkError, match=r"The file .*mmstar\.parquet cannot be read \(.+\): download it again"):
        rows_of("mmstar", tmp_path)


def test_half_a_list_is_told(tmp_path: Path) -> None:
    file = files.visualprobe(tmp_path) / "val.json"
    file.write_text(file.read_text()[:-20])
    with pytest.raises(BenchmarkError, match=r"The file .*val\.json cannot be read \(Unterminated string"):
        rows_of("visualprobe_hard", tmp_path)
    file.write_text("{}")
    with pytest.raises(BenchmarkError, match=r"The file .*val\.json holds a dict: a list of objects is needed"):
        rows_of("visualprobe_hard", tmp_path)


def test_a_tsv_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "TreeBench.tsv").write_bytes(b"index\timage\n\xff\xfe\n")
    with pytest.raises(BenchmarkError, match=r"TreeBench\.tsv (cannot be read|lacks the columns)"):
        rows_of("treebench", tmp_path)


def test_half_a_shard_is_told(tmp_path: Path, make_sample: Any) -> None:
    (shard,) = write_shards([make_sample("a"), make_sample("b")], tmp_path, 9)
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(BenchmarkError, match="truncated or damaged"):
        rows_of("shards", tmp_path)


def test_a_broken_manifest_is_told(tmp_path: Path, make_sample: Any) -> None:
    write_shards([make_sample("a")], tmp_path, 9)
    (tmp_path / "resolution.jsonl").write_text("no header\n")
    with pytest.raises(BenchmarkError, match=r"Line 1 of the manifest .* is broken"):
        rows_of("shards", tmp_path)


@pytest.mark.parametrize("name", ["vstar", "hrbench_4k", "pope", "visualprobe_easy", "shards"])
def test_a_missing_or_empty_folder_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(BenchmarkError, match=f"{tmp_path}.* holds no"):
        rows_of(name, tmp_path)
    with pytest.raises(BenchmarkError, match="nowhere"):
        rows_of(name, tmp_path / "nowhere")


def test_half_of_vstar_is_told(tmp_path: Path) -> None:
    files.vstar_annotations(tmp_path)
    (tmp_path / "relative_position" / "sa_2.json").unlink()
    with pytest.raises(BenchmarkError, match=r"relative_position of V\* holds no JSON file: download it again"):
        rows_of("vstar", tmp_path)


def test_a_file_of_another_kind_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    with pytest.raises(BenchmarkError, match=r"a\.csv is none of \.tsv, \.parquet, \.jsonl, \.json"):
        rows_of("treebench", tmp_path / "a.csv")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = files.write_parquet(tmp_path / "mmstar.parquet", files.mmstar_rows())
    ordinary = builtins.__import__

    def without_pyarrow(name: str, *rest: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return ordinary(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    with pytest.raises(BenchmarkError, match=r"mmstar\.parquet needs pyarrow: pip install 'infogap\[data\]'"):
        rows_of("mmstar", file)
