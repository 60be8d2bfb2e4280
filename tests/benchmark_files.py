"""Miniatures of published benchmarks, written into a folder in the formats in which their authors ship them."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image
from pyarrow import parquet

RED, BLUE, GREEN = "red", "blue", "green"


def encoded(colour: str = RED, size: tuple[int, int] = (64, 48), kind: str = "JPEG") -> bytes:
    """Bytes of an image of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def base64_of(colour: str = RED, **options: Any) -> str:
    return base64.b64encode(encoded(colour, **options)).decode()


def struct(colour: str = RED) -> dict[str, Any]:
    """An image as Hugging Face's datasets write it to parquet files."""
    return {"bytes": encoded(colour), "path": f"{colour}.jpg"}


def write_tsv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """As pandas writes it: fields with tabs, quotes or line ends stand in quotes, None is an empty field."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def write_json_lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def vstar_annotations(root: Path) -> Path:
    """The two folders of V*, with an image and a JSON file for each question."""
    contents = {
        "direct_attributes/sa_1": {
            "target_object": ["glove"],
            "bbox": [[10, 20, 5, 8]],
            "question": "What is the colour of the glove?",
            "options": ["It is red.", "It is blue.", "It is green.", "It is white."],
        },
        "relative_position/sa_2": {
            "target_object": ["dog", "cup"],
            "bbox": [[0, 0, 4, 4], [30.5, 10, 10, 10]],
            "question": "Is the dog left of the cup?",
            "options": ["It is on the left.", "It is on the right."],
        },
    }
    for stem, content in contents.items():
        file = root / f"{stem}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
        file.with_suffix(".jpg").write_bytes(encoded(RED if "sa_1" in stem else BLUE))
    return root


def vstar_questions(root: Path) -> Path:
    """``test_questions.jsonl`` of V*, without the images."""
    request = "Answer with the option's letter from the given choices directly."
    return write_json_lines(
        root / "test_questions.jsonl",
        [
            {
                "image": "direct_attributes/sa_1.jpg",
                "text": "What is the colour of the glove?\n(A) It is blue.\n(B) It is white.\n(C) It is red.\n"
                f"(D) It is green.\n{request}",
                "category": "direct_attributes",
                "label": "C",
                "question_id": "0",
            },
            {
                "image": "relative_position/sa_2.jpg",
                "text": f"Is the dog left of the cup?\n(A) It is on the left.\n(B) It is on the right.\n{request}",
                "category": "relative_position",
                "label": "A",
                "question_id": "0",
            },
        ],
    )


def hrbench_rows() -> list[dict[str, Any]]:
    """Two questions about two images in four cycles, all first cycles first."""
    texts = {"single": ["red", "blue", "green", "white"], "cross": ["one", "two", "three", "four"]}
    rows = []
    for cycle in range(4):
        for question, (category, options) in enumerate(texts.items()):
            turned = options[cycle:] + options[:cycle]
            rows.append(
                {
                    "index": 2 * cycle + question,
                    "question": f'What does the "{category}" one\nshow?',
                    "answer": "ABCD"[-cycle % 4],
                    "category": category,
                    **dict(zip("ABCD", turned, strict=True)),
                    "cycle_category": f"cycle_{cycle}",
                    "image": base64_of(RED if category == "single" else BLUE),
                }
            )
    return rows


def mme_rows(image: str = "bytes") -> list[dict[str, Any]]:
    """Two rows of MME-RealWorld; the image's column has another name in the TSV."""
    return [
        {
            "index": 7,
            image: base64_of(),
            "question": "What is the number on the car?",
            "multi-choice options": [
                *(f"({letter}) {n}" for letter, n in zip("ABCD", "1234", strict=True)),
                "(E) none",
            ],
            "answer": "B",
            "category": "Perception/OCR with Complex Context",
            "l2-category": "license",
        },
        {
            "index": 8,
            image: base64_of(BLUE),
            "question": "Where does the car go?",
            "multi-choice options": ["(A) left", "(B) right", "(C) up, not down", "(D) 'back'", "(E) none"],
            "answer": "E",
            "category": "Reasoning/Autonomous_Driving",
            "l2-category": "intention",
        },
    ]


def xlrs_rows(in_parquet: bool = False) -> list[dict[str, Any]]:
    """A row with one right answer, one with several, and one with two images."""
    listed = ["(A) farm", "(B) city", "(C) sea", "(D) road"]
    lines = "\nThe choices are listed below:\n" + "\n".join(listed) + "\nSelect the best answer for the question."

    def row(index: int, answer: str, category: str, colours: Sequence[str]) -> dict[str, Any]:
        return {
            "index": index,
            "image": [struct(colour) if in_parquet else base64_of(colour) for colour in colours],
            "question": f"What is question {index}?",
            "multi-choice options": listed if in_parquet else lines,
            "answer": answer,
            "category": category,
            "l2-category": category.split("/")[1],
        }

    return [
        row(0, "C", "Counting/Overall counting", [RED]),
        row(1, "BD", "Land use classification/Overall Land use classification", [BLUE]),
        row(2, "A", "Counting/Counting with changing detection", [RED, BLUE]),
    ]


def visualprobe(root: Path) -> Path:
    """The list of VisualProbe-Hard, with paths in both of the forms that occur."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "images" / "1.jpg").write_bytes(encoded())
    rows = [
        {"images": ["images/1.jpg"], "problem": "<image>\nWhich word is on the sign?", "solution": "Exit"},
        {"images": ["VisualProbe_Hard/images/1.jpg"], "problem": "<image>\nHow many birds?", "solution": "3"},
    ]
    (root / "val.json").write_text(json.dumps(rows))
    return root


def treebench_rows() -> list[dict[str, Any]]:
    """A row with two options and two boxes, and one with three options and one box."""
    first = {
        "index": 0,
        "image": base64_of(),
        "question": "Which is nearer?",
        "answer": "B",
        "category": "Reasoning/Ordering",
        "A": "the cup",
        "B": "the dog",
        "C": "",
        "target_instances": "[[1, 2, 11, 12], [20, 20, 40, 30]]",
    }
    second = {"index": 1, "question": "What is it made of?", "category": "Perception/Material", "answer": "C"}
    return [first, first | second | {"A": "wood", "B": "tin", "C": "glass", "target_instances": "[[0, 0, 64, 48]]"}]


def zoombench_rows() -> list[dict[str, Any]]:
    """A row with options, one that asks for a number, and the published one with an answer that is no option."""
    rows = [
        ("mcq_1", "What is the colour of the hat?\nA. red\nB. blue\nC. green", "B"),
        ("count_1", "How many birds are there?", "12"),
        ("mcq_2", "Is it open?\nA. yes\nB. no", "D"),
    ]
    return [
        {"id": key, "query": query, "response": response, "image": struct(), "crop_image": struct(BLUE)}
        for key, query, response in rows
    ]


def mmstar_rows() -> list[dict[str, Any]]:
    """A row with options in one line, and one with options that cannot be told from the question."""
    rows = [
        (0, "What is this?\nOptions: A: A cup, or so., B: A dog., C: A car., D: A hat.", "C", "coarse perception"),
        (1, "Choose A or B or C or D as the image says.", "D", "math"),
    ]
    return [
        {
            "index": index,
            "question": question,
            "image": encoded(GREEN),
            "answer": answer,
            "category": category,
            "l2_category": "image emotion",
            "meta_info": {"source": "MMBench"},
        }
        for index, question, answer, category in rows
    ]


def cvbench_rows() -> list[dict[str, Any]]:
    """One row of each source; the first two stand in the file for 2D."""
    return [
        {
            "idx": index,
            "type": "3D" if source == "Omni3D" else "2D",
            "task": task,
            "image": struct(),
            "question": "How many cups are there?",
            "choices": ["2", "0", "1"],
            "answer": "(C)",
            "prompt": "How many cups are there? Select from the following choices.\n(A) 2\n(B) 0\n(C) 1",
            "source": source,
        }
        for index, (source, task) in enumerate({"ADE20K": "Count", "COCO": "Relation", "Omni3D": "Depth"}.items())
    ]


def pope_rows() -> list[dict[str, Any]]:
    """The same number in two categories, about the same image."""
    return [
        {
            "id": str(place),
            "question_id": "1",
            "question": "Is there a cup in the image?",
            "answer": answer,
            "image_source": "COCO_val2014_1",
            "image": struct(),
            "category": category,
        }
        for place, (category, answer) in enumerate({"adversarial": "yes", "popular": "no"}.items())
    ]
