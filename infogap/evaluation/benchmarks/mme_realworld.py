"""MME-RealWorld: photographs, charts, streets, satellite and monitoring images, with a way out among the options."""

from __future__ import annotations

from typing import ClassVar, Final

from infogap.data.sample import Sample
from infogap.data.tables import Record
from infogap.evaluation import official
from infogap.evaluation.benchmarks.images import Picture
from infogap.evaluation.benchmarks.options import bracketed, listed_options, right_letter
from infogap.evaluation.benchmarks.scores import accuracy_by, mean_over
from infogap.evaluation.benchmarks.table_benchmark import Headings, TableBenchmark
from infogap.evaluation.bootstrap import Estimate
from infogap.evaluation.question import BenchmarkError, Question, Rule
from infogap.evaluation.sheet import Sheet

OPTIONS: Final = "multi-choice options"
WAY_OUT: Final = "E"
"""Letter of the option that says that the image does not show it, in every row."""


class MMERealWorld(TableBenchmark):
    """MME-RealWorld in English (Zhang et al. 2024, arXiv 2408.13257), 23 609 rows.

    Format: parquet files of Hugging Face yifanzhang114/MME-RealWorld-Lmms-eval with ``index``, ``bytes`` (base64),
    ``question``, ``multi-choice options`` (list of "(A) ..." to "(E) ..."), ``answer`` (letter), ``category``
    ("Perception/OCR with Complex Context") and ``l2-category``; or the TSV of VLMEvalKit with ``image`` for ``bytes``,
    and the options as Python writes a list, or as lines below "The choices are listed below:".

    Option order: as in the file; E says that the image does not show it.

    Prompt: that of the paper, as in VLMEvalKit (``vlmeval/dataset/image_mcq.py``, MMERealWorld).

    Score: accuracy over all rows; by task and domain, such as ``accuracy_Perception/Remote Sensing``; the unweighted
    means over these, ``mean_over_tasks``, and over what ``l2-category`` divides them into, ``mean_over_subtasks``,
    which papers report under one name; and ``rate_E``, the share of answers read as E
    (github.com/yfzhang114/MME-RealWorld). Rows of which the category could not be read are in none of the means.
    """

    name: ClassVar[str] = "mme_realworld"
    official: ClassVar[Rule | None] = staticmethod(official.mme_realworld)
    files: ClassVar[tuple[str, ...]] = ("**/*.parquet", "MME-RealWorld.tsv", "*.tsv")
    columns: ClassVar[tuple[str, ...]] = ("index", "question", OPTIONS, "answer", "category", "l2-category")
    optional_columns: ClassVar[tuple[str, ...]] = ("bytes", "image")
    subcategory_column: ClassVar[str] = "l2-category"

    def image_in(self, record: Record) -> str:
        """The column of the image: ``bytes`` in parquet files, ``image`` in a TSV.

        Raises:
            BenchmarkError: if the file has neither.
        """
        for column in self.optional_columns:
            if column in record.fields:
                return column
        raise BenchmarkError(
            f"The file {record.file} lacks the column 'bytes' or 'image': give it as it was published."
        )

    def question(self, record: Record, key: str, headings: Headings, picture: Picture) -> Question:
        """The row as a question."""
        question, options = record.text("question"), listed_options(record, OPTIONS)
        return Question(
            sample=Sample(
                key=key,
                image=picture.image,
                question=question,
                answer=right_letter(record, "answer", options),
                options=options,
                source=self.name,
            ),
            category=headings.category,
            cluster=picture.digest,
            official_prompt=(
                f"{question} The choices are listed below:\n{bracketed(options)}\nSelect the best answer to the above "
                "multiple-choice question based on the image. Respond with only the letter (A, B, C, D, or E) of the "
                "correct option.\nThe best answer is:"
            ),
            subcategory=headings.subcategory,
        )

    def scores(self, sheet: Sheet) -> dict[str, Estimate]:
        """Tables by task, means over tasks, and the rate of E; see the class."""
        tasks = accuracy_by(sheet, lambda row: row.category)
        subtasks = accuracy_by(sheet, lambda row: f"{row.category}/{row.subcategory}" if row.category else "")
        means = {"mean_over_tasks": mean_over(tasks.values()), "mean_over_subtasks": mean_over(subtasks.values())}
        return {
            **{f"accuracy_{name}": accuracy for name, accuracy in tasks.items()},
            **{name: mean for name, mean in means.items() if mean is not None},
            "rate_E": sheet.mean(lambda row: float(row.read == WAY_OUT)),
        }


class MMERealWorldLite(MMERealWorld):
    """The smaller set of the same authors, 1919 rows, 50 of a subtask; otherwise as `MMERealWorld`.

    Format: four parquet files of Hugging Face yifanzhang114/MME-RealWorld-lite-lmms-eval, or ``mme_realworld_lite.tsv``
    of yifanzhang114/MME-RealWorld-Base64.
    """

    name: ClassVar[str] = "mme_realworld_lite"
    files: ClassVar[tuple[str, ...]] = ("**/*.parquet", "mme_realworld_lite.tsv", "*.tsv")
