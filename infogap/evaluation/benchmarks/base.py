"""What a benchmark is to the evaluation: a stream of rows, a rule for answers, and numbers of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from infogap.evaluation.bootstrap import Estimate
from infogap.evaluation.question import Row, Rule
from infogap.evaluation.sheet import Sheet


class Benchmark(ABC):
    """A benchmark's files, read as they are published.

    Attributes:
        name: what configs and results call it.
        has_boxes: whether its rows may say where the evidence is, which the ground-truth arms need.
        official: the rule of the benchmark's own harness, where that differs from ours and needs no judge; else None.
    """

    name: ClassVar[str]
    has_boxes: ClassVar[bool] = False
    official: ClassVar[Rule | None] = None

    @abstractmethod
    def rows(self, root: Path) -> Iterator[Row]:
        """Stream the rows in the order of the files. Rows that share an image share one ``HighResImage``.

        Args:
            root: the file or folder, as it was downloaded.

        Raises:
            BenchmarkError: if a file or a column is missing, or two rows have one id.
        """

    def scores(self, sheet: Sheet) -> dict[str, Estimate]:
        """Numbers beside the plain accuracy that the benchmark's authors report, by name."""
        return {}
