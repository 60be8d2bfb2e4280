"""ZoomBench: details that a crop shows and the whole image hides."""

from __future__ import annotations

from string import ascii_uppercase
from typing import ClassVar

from infogap.data.options import Asked, split_options
from infogap.data.sample import Sample
from infogap.data.tables import Record
from infogap.evaluation.benchmarks.images import Picture
from infogap.evaluation.benchmarks.options import is_letter, right_letter
from infogap.evaluation.benchmarks.table_benchmark import Headings, TableBenchmark
from infogap.evaluation.question import Question


class ZoomBench(TableBenchmark):
    """ZoomBench (ZwZ, arXiv 2602.11858; Hugging Face inclusionAI/ZoomBench), 845 rows.

    Format: ``data/test.parquet`` with ``id``, ``query`` (options inside), ``response`` (a letter, or a number),
    ``image`` and ``crop_image`` (structs of bytes). The crop comes without its place, so that there is no evidence; it
    is not read. The published file names no dimension: 621 rows with options and 224 that ask for a number are the
    categories here. One published row has the answer D and the options A and B only, and counts as unreadable.

    Option order: as in the query. Options that cannot be told from the question stay in it, and the answer is the
    letter.

    Prompt: the query.

    Score: accuracy. The authors grade by rules, then by a judge (``mathruler``, as Vision-OPD's ``eval`` does): no
    official rule.
    """

    name: ClassVar[str] = "zoombench"
    files: ClassVar[tuple[str, ...]] = ("data/test*.parquet", "test*.parquet")
    columns: ClassVar[tuple[str, ...]] = ("id", "query", "response", "image")
    key_column: ClassVar[str] = "id"

    def headings(self, record: Record) -> Headings:
        """Whether there are options."""
        has_options = is_letter(record.optional("response")) or split_options(record.optional("query")) is not None
        return Headings("options" if has_options else "number")

    def question(self, record: Record, key: str, headings: Headings, picture: Picture) -> Question:
        """The row as a question."""
        query, answer = record.text("query"), record.text("response")
        asked = Asked(query, ())
        if headings.category == "options":
            asked = split_options(query) or asked
            answer = right_letter(record, "response", asked.options or tuple(ascii_uppercase))
        return Question(
            sample=Sample(key, picture.image, asked.question, answer, asked.options, source=self.name),
            category=headings.category,
            cluster=picture.digest,
            official_prompt=query,
        )
