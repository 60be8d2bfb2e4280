"""XLRS-Bench-lite: remote sensing images of up to 10 000 x 10 000 pixels, some questions with several right answers."""

from __future__ import annotations

import re
from typing import ClassVar, Final

from infogap.data.sample import Sample
from infogap.data.tables import Record
from infogap.evaluation import official
from infogap.evaluation.benchmarks.images import Picture
from infogap.evaluation.benchmarks.options import bracketed, listed_options
from infogap.evaluation.benchmarks.scores import accuracy_by, mean_over
from infogap.evaluation.benchmarks.table_benchmark import Headings, TableBenchmark
from infogap.evaluation.bootstrap import Estimate
from infogap.evaluation.question import Question, Rule
from infogap.evaluation.sheet import Sheet

OPTIONS: Final = "multi-choice options"
SEVERAL: Final = "Land use classification/Overall Land use classification"
"""The task whose rows may have several right answers."""


class XLRSBenchLite(TableBenchmark):
    """XLRS-Bench-lite (Wang et al. 2025, arXiv 2503.23771).

    Format: 15 files ``XLRS-Bench-lite_part0.jsonl``, ... of Hugging Face initiacms/XLRS-Bench-lite_VLM, or parquet
    files of initiacms/XLRS-Bench-lite: ``index``, ``image`` (a list; base64 in the one, structs of bytes in the other),
    ``question``, ``multi-choice options`` (lines of text with the request below them, or a list), ``answer`` (letters),
    ``category`` ("Counting/Overall counting") and ``l2-category``. A row with more than one image cannot be asked here,
    since a policy is shown one view, and is counted as unreadable.

    Option order: as in the file.

    Prompt: that of lmms-eval (``lmms_eval/tasks/xlrs/mcq_utils.py``), with a request of its own where several answers
    may be right.

    Score: an answer is right if its set of letters is (lmms-eval and VLMEvalKit alike), for one task with several right
    letters too; accuracy over all rows (micro), and the mean over the pairs of ``category`` and ``l2-category`` (macro,
    VLMEvalKit, ``vlmeval/dataset/image_mcq.py``, XLRSBench): ``mean_over_tasks``. Rows of which the category could not
    be read are not in the mean.
    """

    name: ClassVar[str] = "xlrs_lite"
    official: ClassVar[Rule | None] = staticmethod(official.xlrs)
    files: ClassVar[tuple[str, ...]] = ("**/*.jsonl", "**/*.parquet")
    columns: ClassVar[tuple[str, ...]] = ("index", "image", "question", OPTIONS, "answer", "category", "l2-category")
    subcategory_column: ClassVar[str] = "l2-category"

    def question(self, record: Record, key: str, headings: Headings, picture: Picture) -> Question:
        """The row as a question."""
        question, options = record.text("question"), listed_options(record, OPTIONS)
        letters = _right_letters(record, len(options))
        several = len(letters) > 1 or headings.category == SEVERAL
        return Question(
            sample=Sample(
                key=key,
                image=picture.image,
                question=question,
                answer=min(letters),
                options=options,
                source=self.name,
            ),
            category=headings.category,
            cluster=picture.digest,
            official_prompt=f"{question}The choices are listed below:\n{bracketed(options)}\n\n{_request(several)}",
            subcategory=headings.subcategory,
            letters=letters if several else frozenset(),
        )

    def scores(self, sheet: Sheet) -> dict[str, Estimate]:
        """The mean over tasks; see the class."""
        tasks = accuracy_by(sheet, lambda row: f"{row.category}/{row.subcategory}" if row.category else "")
        mean = mean_over(tasks.values())
        return {} if mean is None else {"mean_over_tasks": mean}


def _right_letters(record: Record, count: int) -> frozenset[str]:
    """Letters of all right options, which may have commas or spaces between them."""
    answer = record.text("answer")
    letters = re.sub(r"[\s,;()]", "", answer)
    known = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:count]
    if not letters or len(set(letters)) != len(letters) or not set(letters) <= set(known):
        raise record.error("answer", f"the answer {answer!r} is not made of the options {', '.join(known)}, correct it")
    return frozenset(letters)


def _request(several: bool) -> str:
    if several:
        return (
            "Select the best answer(s) for the multiple-choice question based on the image. There may be more than one "
            "correct option. Only respond with the letter(s) corresponding to the correct answer(s) (A, B, C, D), with "
            "multiple choices separated by spaces.The answer(s) is(are):"
        )
    return (
        "Select the best answer for the multiple-choice question based on the image. Only respond with the letter "
        "corresponding to the correct answer (A, B, C, D).\nThe answer is:"
    )
