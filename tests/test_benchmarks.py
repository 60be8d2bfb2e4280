from __future__ import annotations

import gc
import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import benchmark_files as files
import pytest
import torch
from PIL import Image
from predictions import predict, sheet_of, unreadable
from torchmetrics.classification import BinaryF1Score, BinaryPrecision, BinaryRecall

from infogap.data.manifest import ManifestEntry, ManifestHeader, ManifestWriter, SelectionStatus
from infogap.data.options import Asked, split_options
from infogap.data.tables import Record, TableError, find_parts, read_tables
from infogap.data.writing import write_shards
from infogap.evaluation.benchmarks.images import ImagePool
from infogap.evaluation.benchmarks.registry import BENCHMARKS, find_benchmark
from infogap.evaluation.benchmarks.vstar import VStar
from infogap.evaluation.question import BenchmarkError, Question, UnreadableRow
from infogap.geometry import Box, Size


def rows_of(name: str, root: Path) -> list[Any]:
    return list(find_benchmark(name).rows(root))


def questions_of(name: str, root: Path) -> list[Question]:
    rows = rows_of(name, root)
    assert all(isinstance(row, Question) for row in rows), rows
    return rows


def right_option(question: Question) -> str:
    sample = question.sample
    return sample.options[sample.option_letters.index(sample.answer)]


# --- the registry ---


def test_every_benchmark_is_found_by_its_name() -> None:
    names = (
        "vstar hrbench_4k hrbench_8k mme_realworld mme_realworld_lite xlrs_lite visualprobe_easy visualprobe_medium "
    )
    names += "visualprobe_hard treebench zoombench mmstar cvbench pope shards"
    assert list(BENCHMARKS) == names.split()
    assert all(find_benchmark(name).name == name for name in BENCHMARKS)


def test_every_class_says_what_its_files_prompt_options_and_score_are() -> None:
    for benchmark in BENCHMARKS.values():
        told = "".join(kind.__doc__ or "" for kind in benchmark.__mro__ if kind.__module__ == benchmark.__module__)
        assert all(word in told for word in ("Format:", "Option order:", "Prompt:", "Score:")), benchmark


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(BenchmarkError, match="no benchmark 'HRBench4K': did you mean 'hrbench_4k'"):
        find_benchmark("HRBench4K")


def test_benchmarks_with_boxes_say_so() -> None:
    assert {name for name, benchmark in BENCHMARKS.items() if benchmark.has_boxes} == {"vstar", "treebench", "shards"}


def test_official_rules_are_called_without_the_benchmark() -> None:
    official = {name for name, benchmark in BENCHMARKS.items() if benchmark.official is not None}
    ours_alone = {"vstar", "visualprobe_easy", "visualprobe_medium", "visualprobe_hard", "treebench", "zoombench"}
    assert official == BENCHMARKS.keys() - ours_alone - {"shards"}
    benchmark = find_benchmark("pope")
    assert benchmark.official is not None
    assert benchmark.official(None, None).method == "unanswered"  # type: ignore[arg-type]


# --- V* ---


def test_vstar_reads_the_folders(tmp_path: Path) -> None:
    glove, dog = questions_of("vstar", files.vstar_annotations(tmp_path))
    assert [glove.key, dog.key] == ["direct_attributes/sa_1", "relative_position/sa_2"]
    assert [glove.category, dog.category] == ["direct_attributes", "relative_position"]
    assert glove.sample.question == "What is the colour of the glove?"
    assert sorted(glove.sample.options) == ["It is blue.", "It is green.", "It is red.", "It is white."]
    assert [right_option(glove), right_option(dog)] == ["It is red.", "It is on the left."]
    assert glove.sample.evidence == ((Box(10, 20, 15, 28),),)
    assert dog.sample.evidence == ((Box(0, 0, 4, 4),), (Box(30.5, 10, 40.5, 20),))
    assert glove.sample.image.size == Size(64, 48)
    assert dog.official_prompt.startswith("Is the dog left of the cup?\n(A) It is on the ")
    assert dog.official_prompt.endswith("\nAnswer with the option's letter from the given choices directly.")


def test_vstar_shuffles_by_seed_and_id_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.vstar_annotations(tmp_path)
    content = (tmp_path / "direct_attributes/sa_1.json").read_text()
    for number in range(3, 63):
        (tmp_path / f"direct_attributes/sa_{number}.json").write_text(content)
        (tmp_path / f"direct_attributes/sa_{number}.jpg").write_bytes(files.encoded())
    first = {row.key: row.sample.options for row in questions_of("vstar", tmp_path)}
    glove = [row for row in questions_of("vstar", tmp_path) if row.category == "direct_attributes"]
    assert {right_option(row) for row in glove} == {"It is red."}
    letters = Counter(row.sample.answer for row in glove)
    assert len(letters) == 4
    assert max(letters.values()) < 30
    for number in range(3, 43):
        (tmp_path / f"direct_attributes/sa_{number}.json").unlink()
        (tmp_path / f"direct_attributes/sa_{number}.jpg").unlink()
    fewer = {row.key: row.sample.options for row in questions_of("vstar", tmp_path)}
    assert fewer == {key: first[key] for key in fewer}
    monkeypatch.setattr(VStar, "seed", 1)
    assert fewer != {row.key: row.sample.options for row in questions_of("vstar", tmp_path)}


def test_vstar_has_a_known_shuffle(tmp_path: Path) -> None:
    glove, _ = questions_of("vstar", files.vstar_annotations(tmp_path))
    # in the order of `printf 0/direct_attributes/sa_1/0 | sha256sum` and so on: published numbers rest on it
    assert glove.sample.options == ("It is white.", "It is blue.", "It is green.", "It is red.")


def test_vstar_reads_the_published_list_with_the_boxes_beside_it(tmp_path: Path) -> None:
    files.vstar_annotations(tmp_path)
    from_folders = questions_of("vstar", tmp_path)
    glove, dog = questions_of("vstar", files.vstar_questions(tmp_path))
    assert glove.sample.options == ("It is blue.", "It is white.", "It is red.", "It is green.")
    assert [glove.sample.answer, dog.sample.answer] == ["C", "A"]
    assert glove.sample.question == "What is the colour of the glove?"
    assert json.loads((tmp_path / "test_questions.jsonl").read_text().splitlines()[0])["text"] == glove.official_prompt
    assert [row.key for row in from_folders] == [glove.key, dog.key]
    assert [row.sample.evidence for row in from_folders] == [glove.sample.evidence, dog.sample.evidence]


def test_vstar_reads_the_published_list_without_boxes(tmp_path: Path) -> None:
    files.vstar_annotations(tmp_path)
    for file in tmp_path.glob("*/*.json"):
        file.unlink()
    files.vstar_questions(tmp_path)
    assert [row.sample.evidence for row in questions_of("vstar", tmp_path)] == [(), ()]


# --- HR-Bench ---


@pytest.mark.parametrize("kind", ["tsv", "parquet"])
def test_hrbench_rows_of_one_question_share_image_base_and_cluster(tmp_path: Path, kind: str) -> None:
    write = files.write_tsv if kind == "tsv" else files.write_parquet
    write(tmp_path / f"hr_bench_4k.{kind}", files.hrbench_rows())
    rows = questions_of("hrbench_4k", tmp_path)
    single = [row for row in rows if row.category == "single"]
    assert len(single) == 4
    assert len({id(row.sample.image) for row in single}) == 1
    assert len({row.base for row in single}) == len({row.cluster for row in single}) == 1
    assert len({row.base for row in rows}) == len({row.cluster for row in rows}) == 2
    assert [row.variant for row in single] == ["cycle_0", "cycle_1", "cycle_2", "cycle_3"]
    assert [row.key for row in rows] == [str(number) for number in range(8)]
    assert {right_option(row) for row in single} == {"red"}
    assert [row.sample.answer for row in single] == ["A", "D", "C", "B"]
    assert single[1].official_prompt == (
        'Question: What does the "single" one\nshow?\nOptions:\nA. blue\nB. green\nC. white\nD. red\n'
        "Please select the correct answer from the options above. \n"
    )


def test_hrbench_takes_one_of_two_formats_and_the_right_size(tmp_path: Path) -> None:
    files.write_tsv(tmp_path / "hr_bench_8k.tsv", files.hrbench_rows())
    files.write_parquet(tmp_path / "hr_bench_8k.parquet", files.hrbench_rows())
    assert len(questions_of("hrbench_8k", tmp_path)) == 8
    assert len(questions_of("hrbench_4k", tmp_path / "hr_bench_8k.parquet")) == 8
    with pytest.raises(BenchmarkError, match=r"holds no file of hrbench_4k: give the file, or .*hr_bench_4k\.tsv"):
        rows_of("hrbench_4k", tmp_path)


def test_a_letter_is_a_letter_where_options_are_letters(tmp_path: Path) -> None:
    row = files.hrbench_rows()[0] | {"A": "C", "B": "A", "C": "D", "D": "B", "answer": "A"}
    (question,) = questions_of("hrbench_4k", files.write_tsv(tmp_path / "hr_bench_4k.tsv", [row]))
    assert question.sample.answer == "A"


def hrbench_predictions(right: dict[str, str], category: str = "single") -> list[Any]:
    """Four predictions of every question, "1" for a right one."""
    return [
        predict(f"{base}{cycle}", sign == "1", category=category, variant=str(cycle), base=base, cluster=base)
        for base, signs in right.items()
        for cycle, sign in enumerate(signs)
    ]


def test_hrbench_averages_cycles_and_counts_questions_that_are_right_in_all() -> None:
    predictions = hrbench_predictions({"a": "1111", "b": "1101"})
    predictions += hrbench_predictions({"c": "0000", "d": "0001"}, "cross")
    scores = find_benchmark("hrbench_4k").scores(sheet_of(predictions))
    assert {name: score.value for name, score in scores.items()} == {
        "cyclic": 8 / 16,
        "cyclic_single": 7 / 8,
        "cyclic_cross": 1 / 8,
        "all_four_right": 1 / 4,
        "all_four_right_single": 1 / 2,
        "all_four_right_cross": 0.0,
    }
    assert scores["all_four_right"].count == 4
    assert scores["cyclic"].count == 16


def test_hrbench_weighs_cycles_alike_where_rows_are_missing() -> None:
    predictions = hrbench_predictions({"a": "1111", "b": "0000"})
    scores = find_benchmark("hrbench_4k").scores(sheet_of(predictions[:-2]))  # b lacks its last two cycles
    assert scores["cyclic"].value == (1 / 2 + 1 / 2 + 1 + 1) / 4
    assert scores["all_four_right"].value == 1.0
    assert scores["all_four_right"].count == 1


def test_hrbench_counts_an_unreadable_row_of_a_known_cycle_as_wrong() -> None:
    predictions = hrbench_predictions({"a": "111", "b": "1111"})
    predictions.append(unreadable("a3", category="single", variant="3", base="a", cluster="a"))
    scores = find_benchmark("hrbench_4k").scores(sheet_of([*predictions, unreadable("lost")]))
    assert scores["cyclic"].value == (1 + 1 + 1 + 1 / 2) / 4  # "lost" is of no cycle
    assert scores["all_four_right"].value == 1 / 2


def test_hrbench_asks_for_all_four_within_one_attempt() -> None:
    first, second = hrbench_predictions({"a": "1111"}), hrbench_predictions({"a": "0110"})
    third = hrbench_predictions({"b": "0000"})
    seconds = [replace(prediction, attempt=1) for prediction in second]
    both = [*first[1:], *seconds, first[0], *third]  # in the order in which two interrupted runs wrote them
    assert find_benchmark("hrbench_4k").scores(sheet_of(both))["all_four_right"].value == 1 / 4


# --- MME-RealWorld ---


@pytest.mark.parametrize("kind", ["parquet", "tsv", "lines"])
def test_mme_realworld_reads_options_in_all_forms(tmp_path: Path, kind: str) -> None:
    rows = files.mme_rows("bytes" if kind == "parquet" else "image")
    if kind == "parquet":
        files.write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", rows[:1])
        files.write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", rows[1:])
    else:
        for row in rows:
            lines = "The choices are listed below:\n" + "\n".join(row["multi-choice options"])
            row["multi-choice options"] = str(row["multi-choice options"]) if kind == "tsv" else lines
        files.write_tsv(tmp_path / "mme_realworld_lite.tsv", rows)
    number, way = questions_of("mme_realworld_lite", tmp_path)
    assert number.sample.options == ("1", "2", "3", "4", "none")
    assert way.sample.options == ("left", "right", "up, not down", "'back'", "none")
    assert [number.sample.answer, way.sample.answer] == ["B", "E"]
    assert (number.key, number.category, number.subcategory) == ("7", "Perception/OCR with Complex Context", "license")
    assert number.official_prompt == (
        "What is the number on the car? The choices are listed below:\n(A) 1\n(B) 2\n(C) 3\n(D) 4\n(E) none\n"
        "Select the best answer to the above multiple-choice question based on the image. Respond with only the letter "
        "(A, B, C, D, or E) of the correct option.\nThe best answer is:"
    )


def test_mme_realworld_reports_tasks_their_means_and_the_way_out() -> None:
    predictions = [
        predict("1", True, category="Perception/OCR", subcategory="x", read="A"),
        predict("2", True, category="Perception/OCR", subcategory="x", read="A"),
        predict("3", False, category="Perception/OCR", subcategory="y", read="E"),
        predict("4", False, category="Reasoning/OCR", subcategory="x", read="E"),
        unreadable("5"),
    ]
    scores = {n: s.value for n, s in find_benchmark("mme_realworld").scores(sheet_of(predictions)).items()}
    assert scores == {
        "accuracy_Perception/OCR": pytest.approx(2 / 3),
        "accuracy_Reasoning/OCR": 0.0,
        "mean_over_tasks": pytest.approx(1 / 3),
        "mean_over_subtasks": pytest.approx(1 / 3),
        "rate_E": pytest.approx(2 / 5),
    }


# --- the others ---


def test_xlrs_reads_its_parts_in_their_order(tmp_path: Path) -> None:
    sea, several, _ = files.xlrs_rows()
    for part in range(12):
        rows = [sea | {"index": part}] if part else [several | {"index": 0}]
        files.write_json_lines(tmp_path / f"XLRS-Bench-lite_part{part}.jsonl", rows)
    assert [row.key for row in rows_of("xlrs_lite", tmp_path)] == [str(part) for part in range(12)]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_xlrs_knows_several_right_letters_and_counts_rows_with_two_images(tmp_path: Path, kind: str) -> None:
    write = files.write_parquet if kind == "parquet" else files.write_json_lines
    write(tmp_path / f"part0.{kind}", files.xlrs_rows(in_parquet=kind == "parquet"))
    sea, several, change = rows_of("xlrs_lite", tmp_path)
    assert (sea.sample.answer, sea.letters, sea.gold) == ("C", frozenset(), "C")
    assert (several.sample.answer, several.letters, several.gold) == ("B", frozenset("BD"), "BD")
    assert sea.sample.options == ("farm", "city", "sea", "road")
    assert (sea.category, sea.subcategory) == ("Counting/Overall counting", "Overall counting")
    assert sea.official_prompt.endswith("corresponding to the correct answer (A, B, C, D).\nThe answer is:")
    assert several.official_prompt.endswith("multiple choices separated by spaces.The answer(s) is(are):")
    assert isinstance(change, UnreadableRow)
    assert "column 'image': it holds 2 images, but only rows with one image can be asked" in change.reason
    assert (change.key, change.category) == ("2", "Counting/Counting with changing detection")


def test_xlrs_expects_a_set_even_where_it_has_one_letter(tmp_path: Path) -> None:
    row = files.xlrs_rows()[1] | {"answer": "B"}
    (question,) = questions_of("xlrs_lite", files.write_json_lines(tmp_path / "part.jsonl", [row]))
    assert question.letters == frozenset("B")
    assert question.chance == 1 / 15


def test_xlrs_averages_over_tasks() -> None:
    predictions = [predict(str(n), n > 0, category="Counting/a") for n in range(4)]
    predictions.append(predict("z", False, category="Land/b"))
    assert find_benchmark("xlrs_lite").scores(sheet_of(predictions))["mean_over_tasks"].value == 3 / 8


def test_images_of_a_hundred_million_pixels_are_taken(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(buffer, "PNG")
    row = files.xlrs_rows(in_parquet=True)[0] | {"image": [{"bytes": buffer.getvalue(), "path": None}]}
    (question,) = questions_of("xlrs_lite", files.write_parquet(tmp_path / "part.parquet", [row]))
    assert question.sample.image.size == Size(10_000, 10_000)


def test_visualprobe_is_open_and_finds_its_images(tmp_path: Path) -> None:
    sign, birds = questions_of("visualprobe_hard", files.visualprobe(tmp_path))
    assert [sign.key, birds.key] == ["0", "1"]
    assert (sign.sample.question, sign.sample.answer, sign.sample.options) == ("Which word is on the sign?", "Exit", ())
    assert sign.official_prompt == "Which word is on the sign?"
    assert sign.category == "hard"
    assert sign.sample.image is birds.sample.image
    assert questions_of("visualprobe_hard", tmp_path / "val.json")[1].sample.answer == "3"
    assert len(questions_of("visualprobe_hard", files.visualprobe(tmp_path / "above" / "below").parent)) == 2


def test_treebench_has_a_chain_for_every_box(tmp_path: Path) -> None:
    nearer, made_of = questions_of("treebench", files.write_tsv(tmp_path / "TreeBench.tsv", files.treebench_rows()))
    assert nearer.sample.evidence == ((Box(1, 2, 11, 12),), (Box(20, 20, 40, 30),))
    assert made_of.sample.evidence == ((Box(0, 0, 64, 48),),)
    assert [nearer.sample.options, made_of.sample.options] == [("the cup", "the dog"), ("wood", "tin", "glass")]
    assert [nearer.sample.answer, made_of.sample.answer] == ["B", "C"]
    assert nearer.category == "Reasoning/Ordering"
    assert nearer.official_prompt == (
        "Question: Which is nearer?\nOptions:\nA. the cup\nB. the dog\n"
        "Answer with the correct option's letter directly. \n"
    )


def test_treebench_averages_the_boxes_of_rows_that_have_some() -> None:
    predictions = [predict("1", box_iou=0.5), predict("2", box_iou=0.0), predict("3", box_iou=None)]
    score = find_benchmark("treebench").scores(sheet_of(predictions))["miou"]
    assert (score.value, score.count) == (0.25, 2)


def test_zoombench_has_options_and_numbers(tmp_path: Path) -> None:
    hat, birds, door = rows_of("zoombench", files.write_parquet(tmp_path / "test.parquet", files.zoombench_rows()))
    assert hat.sample.question == "What is the colour of the hat?"
    assert (hat.sample.options, hat.sample.answer) == (("red", "blue", "green"), "B")
    assert hat.official_prompt == "What is the colour of the hat?\nA. red\nB. blue\nC. green"
    assert (birds.sample.options, birds.sample.answer) == ((), "12")
    assert [hat.category, birds.category, door.category] == ["options", "number", "options"]
    place = f"Row 3 of {tmp_path / 'test.parquet'}, column 'response'"
    assert door.reason == f"{place}: the answer 'D' is none of the options A, B, correct it."


def test_mmstar_takes_its_options_out_where_they_can_be_told(tmp_path: Path) -> None:
    rows = files.write_parquet(tmp_path / "mmstar.parquet", files.mmstar_rows())
    this, choose = questions_of("mmstar", rows)
    assert this.sample.question == "What is this?"
    assert this.sample.options == ("A cup, or so.", "A dog.", "A car.", "A hat.")
    assert this.sample.answer == "C"
    assert (choose.sample.options, choose.sample.answer) == ((), "D")
    assert (this.category, this.subcategory) == ("coarse perception", "image emotion")
    assert this.official_prompt.endswith("D: A hat.\nAnswer with the option's letter from the given choices directly")


def test_mmstar_averages_over_categories() -> None:
    predictions = [predict("1", True, category="math"), predict("2", True, category="math"), predict("3", False)]
    scores = find_benchmark("mmstar").scores(sheet_of([*predictions, unreadable("4")]))
    assert scores["mean_over_categories"].value == 1 / 2


def test_cvbench_reads_both_files_and_weighs_its_sources(tmp_path: Path) -> None:
    rows = files.cvbench_rows()
    files.write_parquet(tmp_path / "test_2d.parquet", rows[:2])
    files.write_parquet(tmp_path / "test_3d.parquet", [rows[2] | {"idx": 0}])
    count, relation, depth = questions_of("cvbench", tmp_path)
    assert [count.key, relation.key, depth.key] == ["2D-0", "2D-1", "3D-0"]
    assert (count.category, count.subcategory) == ("Count", "ADE20K")
    assert (count.sample.options, count.sample.answer) == (("2", "0", "1"), "C")
    assert count.official_prompt == rows[0]["prompt"]
    predictions = [predict("1", True, subcategory="ADE20K"), predict("2", False, subcategory="COCO")]
    predictions += [predict(str(n), n < 6, subcategory="Omni3D") for n in range(3, 7)]
    scores = find_benchmark("cvbench").scores(sheet_of(predictions))
    assert scores["by_source"].value == ((1 + 0) / 2 + 3 / 4) / 2
    assert find_benchmark("cvbench").scores(sheet_of(predictions[:2])) == {}


def test_pope_is_yes_or_no(tmp_path: Path) -> None:
    files.write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", files.pope_rows())
    files.write_parquet(tmp_path / "Full" / "adversarial-00000-of-00001.parquet", files.pope_rows()[:1])
    adversarial, popular = questions_of("pope", tmp_path)
    assert [adversarial.key, popular.key] == ["adversarial-1", "popular-1"]
    assert (adversarial.sample.answer, adversarial.sample.options, popular.sample.answer) == ("yes", (), "no")
    assert adversarial.cluster == popular.cluster
    prompt = "Is there a cup in the image?\nAnswer the question using a single word or phrase."
    assert popular.official_prompt == prompt


def test_pope_scores_are_those_of_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    said = torch.randint(0, 3, (60,), generator=generator)  # 2: neither
    true = torch.randint(0, 2, (60,), generator=generator)
    predictions = [
        predict(
            f"{n:02}", s == t, read=("no", "yes", "")[s], gold=("no", "yes")[t], category=("random", "popular")[n % 2]
        )
        for n, (s, t) in enumerate(zip(said.tolist(), true.tolist(), strict=True))
    ]
    scores = find_benchmark("pope").scores(sheet_of(predictions))
    yes = (said == 1).long()
    assert scores["precision"].value == pytest.approx(BinaryPrecision()(yes, true).item())
    assert scores["recall"].value == pytest.approx(BinaryRecall()(yes, true).item())
    assert scores["f1"].value == pytest.approx(BinaryF1Score()(yes, true).item())
    assert scores["f1_popular"].value == pytest.approx(BinaryF1Score()(yes[1::2], true[1::2]).item())
    assert scores["yes_ratio"].value == pytest.approx(yes.float().mean().item())


def test_shards_take_categories_letters_evidence_and_views(tmp_path: Path, make_sample: Any) -> None:
    first = make_sample("a", answer="blue", options=("red", "blue"), metadata={"category": "colour"})
    second = make_sample("b", answer="A", options=("B", "A"), source="needles", evidence=((Box(0, 0, 9, 9),),))
    third = replace(make_sample("c", answer="7", source="needles"), image=first.image)
    write_shards([first, second, third], tmp_path, 2)
    with ManifestWriter(tmp_path / "resolution.jsonl", ManifestHeader("policy", (1024, 256))) as manifest:
        manifest.append(ManifestEntry("a", SelectionStatus.SELECTED, 256))
        manifest.append(ManifestEntry("b", SelectionStatus.NEVER_DIVERGES))
    a, b, c = questions_of("shards", tmp_path)
    assert [a.category, b.category, c.category] == ["colour", "needles", "needles"]
    assert [a.sample.answer, b.sample.answer, c.sample.answer] == ["B", "B", "7"]  # an option's text comes first
    assert b.sample.evidence == ((Box(0, 0, 9, 9),),)
    assert [row.sample.view_tokens for row in (a, b, c)] == [256, None, None]
    assert a.sample.image is c.sample.image
    assert a.cluster == c.cluster != b.cluster
    assert b.official_prompt.startswith("Question: What is b?\nOptions:\nA. B\nB. A\n")
    assert [row.key for row in questions_of("shards", tmp_path / "shard-000001.tar")] == ["c"]


# --- tables, images and options ---


def test_tables_stream_and_know_their_places(tmp_path: Path) -> None:
    rows = [{"index": n, "text": f'a "{n}"\twith a\nline end', "other": 1} for n in range(20)]
    readers = {
        "t.tsv": files.write_tsv,
        "t.parquet": files.write_parquet,
        "t.jsonl": files.write_json_lines,
    }
    for name, write in readers.items():
        records = list(read_tables([write(tmp_path / name, rows)], ("index", "text")))
        assert [record.text("text") for record in records] == [row["text"] for row in rows]
        assert [record.text("index") for record in records] == [str(n) for n in range(20)]
        assert records[16].place == f"row 17 of {tmp_path / name}"
        if name != "t.jsonl":
            assert "other" not in records[0].fields  # a column that nobody asked for is not read


def test_a_tsv_holds_large_fields_and_is_read_as_it_is_asked_for(tmp_path: Path) -> None:
    file = files.write_tsv(tmp_path / "t.tsv", [{"index": n, "image": "x" * 300_000} for n in range(3)])
    with file.open("ab") as lines:
        lines.write(b"\xff")  # no UTF-8
    records = read_tables([file], ("index", "image"))
    assert len(next(records).text("image")) == 300_000
    with pytest.raises(TableError, match=r"t\.tsv cannot be read \('utf-8' codec can't decode"):
        list(records)


def test_parts_are_ordered_by_number_and_one_pattern_counts(tmp_path: Path) -> None:
    for name in ("p10.tsv", "p2.tsv", "p1.tsv", "p1.parquet"):
        (tmp_path / name).touch()
    assert [path.name for path in find_parts(tmp_path, ("*.tsv", "*.parquet"), "x")] == ["p1.tsv", "p2.tsv", "p10.tsv"]


def test_an_image_may_be_another_rows(tmp_path: Path) -> None:
    rows = files.hrbench_rows()
    for row in rows[2:]:
        row["image"] = str(row["index"] % 2)
    asked = questions_of("hrbench_4k", files.write_tsv(tmp_path / "hr_bench_4k.tsv", rows))
    assert len({id(row.sample.image) for row in asked}) == len({row.base for row in asked}) == 2


def test_a_pool_lets_go_of_images_that_nobody_uses(tmp_path: Path) -> None:
    datas = [files.encoded(colour) for colour in ("red", "blue", "green")]
    pool = ImagePool(tmp_path, max_bytes=len(datas[0]) + len(datas[1]))
    records = [Record(tmp_path / "t", n, {"image": data}) for n, data in enumerate(datas, 1)]
    held = pool.load(records[0], "image").image
    pool.load(records[1], "image")
    pool.load(records[2], "image")
    gc.collect()
    alive = [image.name for image in gc.get_objects() if type(image).__name__ == "HighResImage"]
    assert sum(str(tmp_path) in name for name in alive) == 3
    assert pool.load(records[0], "image").image is held  # in use, though no longer among the recent ones
    del held
    pool.load(records[1], "image")
    pool.load(records[2], "image")
    gc.collect()
    alive = [image.name for image in gc.get_objects() if type(image).__name__ == "HighResImage"]
    assert sum(str(tmp_path) in name for name in alive) == 2


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("What?\n(A) x\n(B) y\nAnswer with the letter.", Asked("What?", ("x", "y"))),
        ("What?\nOptions:\nA. x\nB. y\nC. z", Asked("What?", ("x", "y", "z"))),
        ("What?\nChoices:\nA) x\nB) y", Asked("What?", ("x", "y"))),
        ("What? Options: A: x, B: y, or C, C: z", Asked("What?", ("x", "y, or C", "z"))),
        ("Two\nlines?\n(A) x\n(B) y", Asked("Two\nlines?", ("x", "y"))),
        ("A. Smith asks:\nWhat?\n(A) x\n(B) y", Asked("A. Smith asks:\nWhat?", ("x", "y"))),
        ("What?\n(A) x\nmore\n(B) y", None),
        ("What?\n(A) x\n(C) y", None),
        ("What?\n(A) x\n(B) y\n(D) z", None),
        ("What?\n(A) x", None),
        ("(A) x\n(B) y", None),
        ("What?\n(A) x\n(B)", None),
        ("What?\n(A) x\n(B) y\nOr\n(A) u\n(B) v", None),
        ("A man and B: who? ", None),
        ("What? Options: A: x, B: y, B: z", None),
    ],
)
def test_options_are_split_off_only_where_they_are_plain(text: str, asked: Asked | None) -> None:
    assert split_options(text) == asked
