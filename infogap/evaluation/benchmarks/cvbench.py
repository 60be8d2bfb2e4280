"""CV-Bench: counting, positions, depth and distance in images of three older data sets."""

from __future__ import annotations

from typing import ClassVar

from infogap.data.sample import Sample
from infogap.data.tables import Record
from infogap.evaluation import official
from infogap.evaluation.benchmarks.images import Picture
from infogap.evaluation.benchmarks.options import check_options, right_letter
from infogap.evaluation.benchmarks.scores import accuracy_by
from infogap.evaluation.benchmarks.table_benchmark import Headings, TableBenchmark
from infogap.evaluation.bootstrap import Estimate
from infogap.evaluation.question import Question, Rule
from infogap.evaluation.sheet import Sheet


class CVBench(TableBenchmark):
    """CV-Bench (Tong et al. 2024, Cambrian-1, arXiv 2406.16860; Hugging Face nyu-visionx/CV-Bench), 2638 rows.

    Format: ``test_2d.parquet`` and ``test_3d.parquet`` with ``idx``, ``type`` (2D, 3D), ``task``, ``image`` (struct of
    bytes), ``question``, ``choices`` (list of texts), ``prompt``, ``answer`` ("(A)") and ``source``. Ids are made of
    type and ``idx``.

    Option order: as in the file.

    Prompt: the column ``prompt``, as VLMEvalKit sends it.

    Score: accuracy, and the authors' combination of the three sources, ``by_source``:
    1/2 [(ADE20K + COCO) / 2 + Omni3D] (Cambrian-1, appendix C). Rows of which the source could not be read are not in
    it.
    """

    name: ClassVar[str] = "cvbench"
    official: ClassVar[Rule | None] = staticmethod(official.cvbench)
    files: ClassVar[tuple[str, ...]] = ("test_[23]d.parquet", "**/test*.parquet")
    columns: ClassVar[tuple[str, ...]] = (
        *("idx", "type", "task", "image", "question", "choices", "prompt"),
        *("answer", "source"),
    )
    key_column: ClassVar[str] = "idx"
    category_column: ClassVar[str] = "task"
    subcategory_column: ClassVar[str] = "source"

    def key(self, record: Record) -> str:
        """Type and number."""
        return f"{record.text('type')}-{record.text('idx')}"

    def question(self, record: Record, key: str, headings: Headings, picture: Picture) -> Question:
        """The row as a question."""
        choices = record.value("choices")
        if not isinstance(choices, list) or not choices or not all(isinstance(text, str) for text in choices):
            raise record.error("choices", f"it holds {choices!r:.80} where a list of texts is needed, correct it")
        check_options(record, "choices", choices)
        options = tuple(text.strip() for text in choices)
        return Question(
            sample=Sample(
                key=key,
                image=picture.image,
                question=record.text("question"),
                answer=right_letter(record, "answer", options),
                options=options,
                source=self.name,
            ),
            category=headings.category,
            cluster=picture.digest,
            official_prompt=record.text("prompt"),
            subcategory=record.text("source"),
        )

    def scores(self, sheet: Sheet) -> dict[str, Estimate]:
        """The combination of the three sources, where rows of all are there; see the class."""
        sources = accuracy_by(sheet, lambda row: row.subcategory)
        if not {"ADE20K", "COCO", "Omni3D"} <= sources.keys():
            return {}
        return {"by_source": ((sources["ADE20K"] + sources["COCO"]) / 2 + sources["Omni3D"]) / 2}
