"""V* Bench: small things in large photographs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from string import ascii_uppercase
from typing import ClassVar, Final

from infogap.data.options import Asked, split_options
from infogap.data.sample import Sample
from infogap.data.tables import Record
from infogap.evaluation.benchmarks.evidence import read_evidence
from infogap.evaluation.benchmarks.images import Picture
from infogap.evaluation.benchmarks.options import bracketed, check_options, right_letter
from infogap.evaluation.benchmarks.table_benchmark import Headings, TableBenchmark
from infogap.evaluation.question import BenchmarkError, Question

CATEGORIES: Final = ("direct_attributes", "relative_position")
SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp")
REQUEST: Final = "Answer with the option's letter from the given choices directly."


class VStar(TableBenchmark):
    """V* Bench (Wu and Xie 2024, arXiv 2312.14135; Hugging Face craigwu/vstar_bench), 191 questions.

    Format: two folders, direct_attributes (115) and relative_position (76), with an image and ``STEM.json`` for every
    question: ``question``, ``options``, ``target_object`` (names), ``bbox`` (a list [x, y, width, height] for each,
    pixels of the original; README of github.com/penghao-wu/vstar). Beside them ``test_questions.jsonl``: ``image``
    (path), ``text`` (question, options "(A) ..." and the request, in lines), ``category``, ``label``, ``question_id``.

    A root with the folders' JSON files is read from these, and the boxes are its evidence; else, or if
    ``test_questions.jsonl`` itself is the root, from that, with boxes from the JSON files that are there. Ids are the
    images' paths without suffix in both.

    Option order: the JSON files list the right option first, which the authors' own harness reads as its answer
    (``vstar_bench_eval.py``); one that keeps this order has A as every answer. They are shuffled here, by a seed and
    the row's id. ``test_questions.jsonl`` is shuffled already and taken as it is.

    Prompt: the lines of ``test_questions.jsonl``, made likewise for the JSON files; the authors' harness compares
    likelihoods of options and has none.

    Score: accuracy, in all and by category. No official rule: the authors' reads no text.

    Attributes:
        seed: of the shuffle.
    """

    name: ClassVar[str] = "vstar"
    has_boxes: ClassVar[bool] = True
    seed: ClassVar[int] = 0
    files: ClassVar[tuple[str, ...]] = ("test_questions.jsonl",)
    columns: ClassVar[tuple[str, ...]] = ("image", "text", "category", "label")

    def records(self, root: Path) -> Iterator[Record]:
        """The JSON files of the two folders, or the lines of ``test_questions.jsonl`` with the boxes of these."""
        found = [category for category in CATEGORIES if any((root / category).glob("*.json"))]
        if not found:
            yield from self._published(root)
        elif missing := [category for category in CATEGORIES if category not in found]:
            raise BenchmarkError(f"The folder {root / missing[0]} of V* holds no JSON file: download it again.")
        else:
            for category in CATEGORIES:
                yield from _annotations(root / category)

    def key(self, record: Record) -> str:
        """Path of the image without its suffix."""
        return os.path.splitext(record.text("image"))[0]

    def question(self, record: Record, key: str, headings: Headings, picture: Picture) -> Question:
        """The row as a question."""
        is_published = record.value("text") is not None
        asked, answer = _as_published(record) if is_published else self._shuffled(record, key)
        boxes = record.value("bbox")
        if boxes is None and is_published:  # the list has none of its own
            boxes = []
        return Question(
            sample=Sample(
                key=key,
                image=picture.image,
                question=asked.question,
                answer=answer,
                options=asked.options,
                evidence=read_evidence(record, "bbox", boxes, "corner_and_size", picture.image),
                source=self.name,
            ),
            category=headings.category,
            cluster=picture.digest,
            official_prompt=f"{asked.question}\n{bracketed(asked.options)}\n{REQUEST}",
        )

    def _published(self, root: Path) -> Iterator[Record]:
        for record in super().records(root):
            folder, _, name = str(record.fields.get("image")).partition("/")
            file = record.file.parent / folder / f"{os.path.splitext(name)[0]}.json"
            if folder not in CATEGORIES or "/" in name or not file.is_file():
                yield record
                continue
            annotation = _read_annotation(file)
            boxes = {"bbox": annotation.fields.get("bbox")}
            fault = f"has an annotation that cannot be used: {annotation.fault}" if annotation.fault else ""
            yield Record(record.file, record.number, {**record.fields, **boxes}, record.fault or fault)

    def _shuffled(self, record: Record, key: str) -> tuple[Asked, str]:
        """The question of a JSON file, which lists the right option first, and the letter of that one."""
        options = record.value("options")
        if not isinstance(options, list) or len(options) < 2 or not all(isinstance(text, str) for text in options):
            raise record.error("options", f"it holds {options!r:.80} where a list of texts is needed, correct it")
        lots = [hashlib.sha256(f"{self.seed}/{key}/{place}".encode()).digest() for place in range(len(options))]
        order = sorted(range(len(options)), key=lots.__getitem__)
        check_options(record, "options", options)
        shuffled = tuple(options[place].strip() for place in order)
        return Asked(record.text("question"), shuffled), ascii_uppercase[order.index(0)]


def _as_published(record: Record) -> tuple[Asked, str]:
    """The question of a line of ``test_questions.jsonl``, and the right letter."""
    asked = split_options(record.text("text"))
    if asked is None:
        raise record.error("text", f"no options can be found in {record.text('text')!r:.200}, correct it")
    return asked, right_letter(record, "label", asked.options)


def _annotations(folder: Path) -> Iterator[Record]:
    """One record for every image and every JSON file of a folder that have one name."""
    images = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES}
    stems = images.keys() | {path.stem for path in folder.glob("*.json")}
    for stem in sorted(stems):
        record = _read_annotation(folder / f"{stem}.json")
        image = images.get(stem, folder / f"{stem}.jpg")
        place = {"image": f"{folder.name}/{image.name}", "category": folder.name}
        yield Record(record.file, None, {**record.fields, **place}, record.fault)


def _read_annotation(file: Path) -> Record:
    try:
        fields = json.loads(file.read_bytes())
    except OSError as error:
        return Record(file, None, fault=f"cannot be read ({error.strerror}): download it again")
    except (ValueError, RecursionError) as error:
        return Record(file, None, fault=f"is no JSON ({error}): download it again")
    if not isinstance(fields, dict):
        return Record(file, None, fault=f"holds a {type(fields).__name__}: an object with named fields is needed")
    return Record(file, None, fields)
