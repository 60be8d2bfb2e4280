"""VisualProbe: open questions about small things, in three degrees of difficulty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import ClassVar, Final

from infogap.data.sample import Sample
from infogap.data.tables import Record
from infogap.evaluation.benchmarks.images import Picture
from infogap.evaluation.benchmarks.table_benchmark import Headings, TableBenchmark
from infogap.evaluation.question import Question

MARK: Final = "<image>"
"""Stands in a question for its image."""


class VisualProbeEasy(TableBenchmark):
    """VisualProbe-Easy (Mini-o3, Lai et al. 2025, arXiv 2509.07969; Hugging Face Mini-o3/VisualProbe_Easy).

    Format: ``val.json``, a list of ``images`` (one path), ``problem`` ("<image>" and the question) and ``solution``,
    beside the images; paths begin with the name of the data set, or below its folder. Rows have no ids: their places in
    the list, from 0, are used.

    Option order: no options.

    Prompt: the question alone.

    Score: accuracy. The authors' rule is a judge, averaged over 32 sampled answers (github.com/Mini-o3/Mini-o3), so
    that there is no official rule; without a judge the figures are a lower bound.
    """

    name: ClassVar[str] = "visualprobe_easy"
    files: ClassVar[tuple[str, ...]] = ("val.json", "*/val.json")
    columns: ClassVar[tuple[str, ...]] = ("images", "problem", "solution")
    image_column: ClassVar[str] = "images"
    degree: ClassVar[str] = "Easy"

    def records(self, root: Path) -> Iterator[Record]:
        """The rows, their paths made such that they start from the folder of the file."""
        folder = root if root.is_dir() else root.parent
        for record in super().records(root):
            below = record.file.parent.relative_to(folder)
            images = record.fields.get("images")
            if isinstance(images, list) and all(isinstance(image, str) for image in images):
                paths = [str(below / self._without_name(image)) for image in images]
                yield Record(record.file, record.number, {**record.fields, "images": paths}, record.fault)
            else:
                yield record

    def key(self, record: Record) -> str:
        """The row's place in the list, from 0."""
        record.text("problem")  # an unreadable row is named by its place in the file
        return str((record.number or 1) - 1)

    def headings(self, record: Record) -> Headings:
        """The degree of difficulty is all that is known."""
        return Headings(self.degree.lower())

    def question(self, record: Record, key: str, headings: Headings, picture: Picture) -> Question:
        """The row as a question."""
        question = record.text("problem").replace(MARK, "").strip()
        if not question:
            raise record.error("problem", "it holds no question, fill it in or remove the row")
        return Question(
            sample=Sample(key, picture.image, question, record.text("solution"), source=self.name),
            category=headings.category,
            cluster=picture.digest,
            official_prompt=question,
        )

    def _without_name(self, path: str) -> PurePosixPath:
        parts = PurePosixPath(path).parts
        return PurePosixPath(*parts[1:]) if parts[:1] == (f"VisualProbe_{self.degree}",) else PurePosixPath(path)


class VisualProbeMedium(VisualProbeEasy):
    """VisualProbe-Medium (Hugging Face Mini-o3/VisualProbe_Medium), otherwise as `VisualProbeEasy`."""

    name: ClassVar[str] = "visualprobe_medium"
    degree: ClassVar[str] = "Medium"


class VisualProbeHard(VisualProbeEasy):
    """VisualProbe-Hard (Hugging Face Mini-o3/VisualProbe_Hard), otherwise as `VisualProbeEasy`."""

    name: ClassVar[str] = "visualprobe_hard"
    degree: ClassVar[str] = "Hard"
