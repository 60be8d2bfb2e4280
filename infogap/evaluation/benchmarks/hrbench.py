"""HR-Bench: single and several objects in images of 4K and 8K, every question with its options in four orders."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from statistics import fmean
from typing import ClassVar, Final

import numpy as np

from infogap.data.sample import Sample
from infogap.data.tables import Record
from infogap.evaluation import official
from infogap.evaluation.benchmarks.images import Picture
from infogap.evaluation.benchmarks.options import columns_of_options, generic_prompt, right_letter
from infogap.evaluation.benchmarks.scores import accuracy_by, mean_over, under
from infogap.evaluation.benchmarks.table_benchmark import Headings, TableBenchmark
from infogap.evaluation.bootstrap import Estimate
from infogap.evaluation.prediction import Prediction
from infogap.evaluation.question import Question, Rule
from infogap.evaluation.sheet import Sheet

CYCLES: Final = 4
"""Orders of the options in which every question is asked."""


class HRBench4K(TableBenchmark):
    """HR-Bench at 4K (Wang et al. 2024, arXiv 2408.15556; Hugging Face DreamMr/HR-Bench), 800 rows.

    Format: ``hr_bench_4k.tsv`` or ``.parquet`` with ``index``, ``question``, ``A`` to ``D``, ``answer`` (letter),
    ``category`` (single: attributes, text, visual prompts of one object; cross: maps, charts, positions),
    ``cycle_category`` and ``image`` (base64, in the parquet file too). 100 questions of each category stand in four
    rows each, with the options rotated. No published text says whether these four are neighbours, and the size of the
    8K parquet file, which would hold neighbours' images once, speaks against it: nothing here relies on it. What the
    four share, ``base``, is their image and question; ``variant`` is the cycle.

    Option order: as in the file.

    Prompt: VLMEvalKit's for any question with options, which the authors' harness inherits
    (github.com/DreamMr/HR-Bench, ``hrbench/vlmeval/dataset/image_mcq.py``).

    Score: for all rows and each category the accuracy of every cycle, averaged over the four (VLMEvalKit,
    ``vlmeval/dataset/utils/hrbench.py``): ``cyclic``, ``cyclic_single``, ``cyclic_cross``. Beside it, ours: the share
    of questions that are right in all four orders, ``all_four_right`` and likewise, over the questions of which all
    four rows are there. Rows of which the cycle could not be read are in neither.
    """

    name: ClassVar[str] = "hrbench_4k"
    official: ClassVar[Rule | None] = staticmethod(official.hrbench)
    files: ClassVar[tuple[str, ...]] = ("hr_bench_4k.tsv", "hr_bench_4k.parquet", "**/hrbench_4k-*.parquet")
    columns: ClassVar[tuple[str, ...]] = (
        *("index", "question", "answer", "category", "A", "B", "C", "D"),
        *("cycle_category", "image"),
    )
    variant_column: ClassVar[str] = "cycle_category"

    def base(self, record: Record, cluster: str) -> str:
        """What the four rows of a question share: the image and the text, since the options rotate."""
        question = record.optional("question")
        return hashlib.sha256(f"{cluster}/{question}".encode(errors="replace")).hexdigest()[:16] if question else ""

    def question(self, record: Record, key: str, headings: Headings, picture: Picture) -> Question:
        """The row as a question."""
        question, options = record.text("question"), columns_of_options(record)
        return Question(
            sample=Sample(
                key=key,
                image=picture.image,
                question=question,
                answer=right_letter(record, "answer", options),
                options=options,
                source=self.name,
            ),
            category=record.text("category"),
            cluster=picture.digest,
            official_prompt=generic_prompt(question, options),
            variant=record.text("cycle_category"),
            base=self.base(record, picture.digest),
        )

    def scores(self, sheet: Sheet) -> dict[str, Estimate]:
        """Mean over the cycles, and all four right; see the class."""
        scores = {}
        parts = {"": sheet} | {f"_{name}": under(sheet, lambda row: row.category, name) for name in ("single", "cross")}
        for suffix, part in parts.items():
            cyclic = mean_over(accuracy_by(part, lambda row: row.variant).values())
            if cyclic is not None:
                scores[f"cyclic{suffix}"] = cyclic
                scores[f"all_four_right{suffix}"] = _all_right(part)
        return scores


class HRBench8K(HRBench4K):
    """HR-Bench at 8K, ``hr_bench_8k.tsv`` or ``.parquet``; else as `HRBench4K`, whose images are cut from these."""

    name: ClassVar[str] = "hrbench_8k"
    files: ClassVar[tuple[str, ...]] = ("hr_bench_8k.tsv", "hr_bench_8k.parquet", "**/hrbench_8k-*.parquet")


def _all_right(sheet: Sheet) -> Estimate:
    """Share of questions with all rows right, of those that are complete; each counts once, in its first row."""
    forms: dict[str, list[list[Prediction]]] = defaultdict(list)
    for attempts in sheet.rows:
        forms[attempts[0].base].append(attempts)
    values = np.full(len(sheet), np.nan)
    seen = set()
    for place, attempts in enumerate(sheet.rows):
        rows = forms[attempts[0].base]
        if attempts[0].base in seen or len({row[0].variant for row in rows} - {""}) < CYCLES:
            continue
        seen.add(attempts[0].base)
        rounds = zip(*(sorted(row, key=lambda answer: answer.attempt) for row in rows), strict=False)
        values[place] = fmean(all(answer.correct for answer in answers) for answers in rounds)
    return sheet.mean_of(values)
