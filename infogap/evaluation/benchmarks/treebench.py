"""TreeBench: small things in crowded scenes, with a box around everything that the answer rests on."""

from __future__ import annotations

import ast
from typing import Any, ClassVar

from infogap.data.sample import Sample
from infogap.data.tables import Record
from infogap.evaluation.benchmarks.evidence import read_evidence
from infogap.evaluation.benchmarks.images import Picture
from infogap.evaluation.benchmarks.options import columns_of_options, generic_prompt, right_letter
from infogap.evaluation.benchmarks.table_benchmark import Headings, TableBenchmark
from infogap.evaluation.bootstrap import Estimate
from infogap.evaluation.question import Question
from infogap.evaluation.sheet import Sheet


class TreeBench(TableBenchmark):
    """TreeBench (Wang et al. 2025, arXiv 2507.07999; Hugging Face HaochenWang/TreeBench), 405 rows.

    Format: ``TreeBench.tsv`` with ``index``, ``image`` (base64), ``question``, ``A``, ``B``, ... (as many as there
    are), ``answer`` (letter), ``category`` ("Perception/Attributes"), and ``target_instances``, boxes
    [x1, y1, x2, y2] in pixels of the original, as Python writes a list.

    Option order: as in the file.

    Prompt: VLMEvalKit's (``vlmeval/dataset/image_mcq.py``, TreeBench).

    Score: accuracy, in all and by category, and ``miou``: for every box of the evidence the best IoU with one of the
    policy's, averaged over boxes, then over rows (same place). The policy's boxes are its crops here, while VLMEvalKit
    takes those that are written as "<box>...</box>". Rows without a box do not count; VLMEvalKit gives them 1 for
    pointing anywhere. No official rule for the answer: VLMEvalKit's is that of MME-RealWorld.
    """

    name: ClassVar[str] = "treebench"
    has_boxes: ClassVar[bool] = True
    files: ClassVar[tuple[str, ...]] = ("TreeBench.tsv",)
    columns: ClassVar[tuple[str, ...]] = (
        *("index", "image", "question", "answer", "category", "target_instances"),
        *("A", "B"),
    )
    optional_columns: ClassVar[tuple[str, ...]] = tuple("CDEFGHIJKLMNOPQRSTUVWXYZ")

    def question(self, record: Record, key: str, headings: Headings, picture: Picture) -> Question:
        """The row as a question."""
        question, options = record.text("question"), columns_of_options(record)
        boxes = _literal(record, "target_instances")
        return Question(
            sample=Sample(
                key=key,
                image=picture.image,
                question=question,
                answer=right_letter(record, "answer", options),
                options=options,
                evidence=read_evidence(record, "target_instances", boxes, "corners", picture.image),
                source=self.name,
            ),
            category=headings.category,
            cluster=picture.digest,
            official_prompt=generic_prompt(question, options, "Answer with the correct option's letter directly. \n"),
        )

    def scores(self, sheet: Sheet) -> dict[str, Estimate]:
        """How well the crops hit the evidence; see the class."""
        return {"miou": sheet.mean(lambda row: row.box_iou)}


def _literal(record: Record, column: str) -> Any:
    text = record.text(column)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise record.error(column, f"{text!r:.80} is no list of boxes ({type(error).__name__}), correct it") from error
