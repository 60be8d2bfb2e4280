"""MMStar: questions that need their image, as a control for leakage; the images are small."""

from __future__ import annotations

from typing import ClassVar

from infogap.data.options import Asked, split_options
from infogap.data.sample import Sample
from infogap.data.tables import Record
from infogap.evaluation import official
from infogap.evaluation.benchmarks.images import Picture
from infogap.evaluation.benchmarks.options import right_letter
from infogap.evaluation.benchmarks.scores import accuracy_by, mean_over
from infogap.evaluation.benchmarks.table_benchmark import Headings, TableBenchmark
from infogap.evaluation.bootstrap import Estimate
from infogap.evaluation.question import Question, Rule
from infogap.evaluation.sheet import Sheet

LETTERS = ("A", "B", "C", "D")


class MMStar(TableBenchmark):
    """MMStar (Chen et al. 2024, arXiv 2403.20330; Hugging Face Lin-Chen/MMStar), 1500 rows.

    Format: ``mmstar.parquet`` with ``index``, ``question`` (options inside, as "Options: A: ..., B: ..." or in lines),
    ``image`` (bytes), ``answer`` (letter), ``category`` (6 of 250 rows each) and ``l2_category``.

    Option order: as in the question. Options that cannot be told from the question stay in it, and the answer is the
    letter.

    Prompt: the question and lmms-eval's request (``lmms_eval/tasks/mmstar``).

    Score: accuracy, and the unweighted mean over categories, ``mean_over_categories``; leakage and multi-modal gain are
    the arms' business. Rows of which the category could not be read are not in the mean.
    """

    name: ClassVar[str] = "mmstar"
    official: ClassVar[Rule | None] = staticmethod(official.mmstar)
    files: ClassVar[tuple[str, ...]] = ("mmstar.parquet", "**/*val*.parquet")
    columns: ClassVar[tuple[str, ...]] = ("index", "question", "image", "answer", "category", "l2_category")
    subcategory_column: ClassVar[str] = "l2_category"

    def question(self, record: Record, key: str, headings: Headings, picture: Picture) -> Question:
        """The row as a question."""
        text = record.text("question")
        asked = split_options(text) or Asked(text, ())
        answer = right_letter(record, "answer", asked.options or LETTERS)
        return Question(
            sample=Sample(key, picture.image, asked.question, answer, asked.options, source=self.name),
            category=headings.category,
            cluster=picture.digest,
            official_prompt=f"{text}\nAnswer with the option's letter from the given choices directly",
            subcategory=headings.subcategory,
        )

    def scores(self, sheet: Sheet) -> dict[str, Estimate]:
        """The mean over categories; see the class."""
        mean = mean_over(accuracy_by(sheet, lambda row: row.category).values())
        return {} if mean is None else {"mean_over_categories": mean}
