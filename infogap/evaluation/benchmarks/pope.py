"""POPE: whether a thing is in the image, to count what a policy makes up."""

from __future__ import annotations

from typing import ClassVar

from infogap.data.sample import Sample
from infogap.data.tables import Record
from infogap.evaluation import official
from infogap.evaluation.benchmarks.images import Picture
from infogap.evaluation.benchmarks.scores import under
from infogap.evaluation.benchmarks.table_benchmark import Headings, TableBenchmark
from infogap.evaluation.bootstrap import Estimate
from infogap.evaluation.question import Question, Rule
from infogap.evaluation.sheet import Sheet


class POPE(TableBenchmark):
    """POPE (Li et al. 2023, arXiv 2305.10355; Hugging Face lmms-lab/POPE), 9000 rows.

    Format: ``data/test-*.parquet`` with ``id``, ``question_id``, ``question``, ``answer`` (yes or no), ``image``
    (struct of bytes) and ``category`` (adversarial, popular, random; 3000 rows each). The folder ``Full`` holds the
    same rows again and is read only where ``data`` is not there. Ids are made of category and ``question_id``, since
    the numbers of two categories may be the same.

    Option order: no options; the answer is yes or no.

    Prompt: the question and lmms-eval's request (``lmms_eval/tasks/pope/pope.yaml``).

    Score: accuracy, and, with yes as the positive answer, ``precision``, ``recall``, ``f1`` and ``yes_ratio``, the
    share of answers that are yes; ``f1`` of every category too. What is read as neither counts as a no, as in
    VLMEvalKit (``vlmeval/dataset/utils/yorn.py``); lmms-eval's yes ratio is that of the right answers, not of the given
    ones.
    """

    name: ClassVar[str] = "pope"
    official: ClassVar[Rule | None] = staticmethod(official.pope)
    files: ClassVar[tuple[str, ...]] = ("data/test-*.parquet", "test-*.parquet", "Full/*.parquet")
    columns: ClassVar[tuple[str, ...]] = ("question_id", "question", "answer", "image", "category")
    key_column: ClassVar[str] = "question_id"

    def key(self, record: Record) -> str:
        """Category and number."""
        return f"{record.text('category')}-{record.text('question_id')}"

    def question(self, record: Record, key: str, headings: Headings, picture: Picture) -> Question:
        """The row as a question."""
        question, answer = record.text("question"), record.text("answer").lower()
        if answer not in ("yes", "no"):
            raise record.error("answer", f"the answer {answer!r} is neither yes nor no, correct it")
        return Question(
            sample=Sample(key, picture.image, question, answer, source=self.name),
            category=headings.category,
            cluster=picture.digest,
            official_prompt=f"{question}\nAnswer the question using a single word or phrase.",
        )

    def scores(self, sheet: Sheet) -> dict[str, Estimate]:
        """Precision, recall, F1 and rate of yes; see the class."""
        said = sheet.values(lambda row: float(row.read == "yes"))
        true = sheet.values(lambda row: float(row.gold == "yes"))
        both = sheet.values(lambda row: float(row.read == row.gold == "yes"))
        categories = sorted({attempts[0].category for attempts in sheet.rows} - {""})
        return {
            "precision": sheet.ratio(both, said),
            "recall": sheet.ratio(both, true),
            "f1": _f1(sheet),
            "yes_ratio": sheet.mean_of(said),
        } | {f"f1_{name}": _f1(under(sheet, lambda row: row.category, name)) for name in categories}


def _f1(sheet: Sheet) -> Estimate:
    """Harmonic mean of precision and recall, as one ratio: 2 TP / (answers yes + right answers yes)."""
    both = sheet.values(lambda row: float(row.read == row.gold == "yes"))
    either = sheet.values(lambda row: float(row.read == "yes") + float(row.gold == "yes"))
    return sheet.ratio(2 * both, either)
