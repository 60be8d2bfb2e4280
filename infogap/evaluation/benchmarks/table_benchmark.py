"""What benchmarks that are published as tables have in common: a row of the table is a row of the benchmark."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from infogap.data.sample import SampleError
from infogap.data.tables import Record, RowError, TableError, find_parts, read_tables
from infogap.evaluation.benchmarks.base import Benchmark
from infogap.evaluation.benchmarks.images import ImagePool, Picture
from infogap.evaluation.question import BenchmarkError, Question, Row, UnreadableRow


@dataclass(frozen=True)
class Headings:
    """What a row is filed under, as far as it can be read: see ``Question``."""

    category: str = ""
    subcategory: str = ""
    variant: str = ""


class TableBenchmark(Benchmark):
    """A benchmark whose rows stand in a table.

    Attributes:
        files: globs of the files below the root; the first that matches anything counts.
        columns: columns that the files must have.
        optional_columns: columns that are read where they are.
        key_column: holds the row's id.
        image_column: holds the image.
        category_column: holds the category; "": see `headings`.
        subcategory_column: holds the finer heading; "": there is none.
        variant_column: holds which form of its question the row is; "": there is one.
    """

    files: ClassVar[tuple[str, ...]]
    columns: ClassVar[tuple[str, ...]]
    optional_columns: ClassVar[tuple[str, ...]] = ()
    key_column: ClassVar[str] = "index"
    image_column: ClassVar[str] = "image"
    category_column: ClassVar[str] = "category"
    subcategory_column: ClassVar[str] = ""
    variant_column: ClassVar[str] = ""

    def rows(self, root: Path) -> Iterator[Row]:
        """Stream the rows; see ``Benchmark``."""
        pool = ImagePool(root if root.is_dir() else root.parent)
        names = UniqueKeys(self.name)
        for record in self.records(root):
            row = self.read(record, pool)
            names.add(row.key, record)
            yield row

    def records(self, root: Path) -> Iterator[Record]:
        """The rows of the files, not interpreted.

        Raises:
            BenchmarkError: as `rows`.
        """
        try:
            yield from read_tables(find_parts(root, self.files, self.name), self.columns, self.optional_columns)
        except TableError as error:
            raise BenchmarkError(str(error)) from error

    def read(self, record: Record, pool: ImagePool) -> Row:
        """One row; whatever is wrong with it is its reason."""
        key, cluster, headings = record.place, "", Headings()
        try:
            key = self.key(record)
            headings = self.headings(record)
            picture = pool.load(record, self.image_in(record))
            pool.remember(record.optional(self.key_column), picture)
            cluster = picture.digest
            return self.question(record, key, headings, picture)
        except RowError as error:
            reason = str(error)
        except SampleError as error:
            place = record.place
            reason = f"{place[0].upper()}{place[1:]} makes no question: {error}"
        return UnreadableRow(
            key=key,
            reason=reason,
            category=headings.category,
            cluster=cluster,
            subcategory=headings.subcategory,
            variant=headings.variant,
            base=self.base(record, cluster) if cluster else "",
        )

    def key(self, record: Record) -> str:
        """The row's id.

        Raises:
            RowError: if it has none.
        """
        return record.text(self.key_column)

    def headings(self, record: Record) -> Headings:
        """What the row is filed under."""
        columns = self.category_column, self.subcategory_column, self.variant_column
        return Headings(*(record.optional(column) if column else "" for column in columns))

    def image_in(self, record: Record) -> str:
        """The column of the image."""
        return self.image_column

    def base(self, record: Record, cluster: str) -> str:
        """What the forms of the row's question share; "": it has one form."""
        return ""

    @abstractmethod
    def question(self, record: Record, key: str, headings: Headings, picture: Picture) -> Question:
        """The row as a question.

        Args:
            record: the row, not interpreted.
            key: its id.
            headings: what it is filed under.
            picture: its image.

        Raises:
            RowError: if it makes none.
            SampleError: likewise.
        """


class UniqueKeys:
    """Refuses an id that occurs twice.

    Args:
        name: of the benchmark, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._places: dict[str, Record] = {}

    def add(self, key: str, record: Record) -> None:
        """Note an id.

        Raises:
            BenchmarkError: if an earlier row has it.
        """
        earlier = self._places.setdefault(key, Record(record.file, record.number))  # without the image
        if earlier.place != record.place:
            raise BenchmarkError(
                f"The id {key!r} of {self.name} occurs twice, in {earlier.place} and in {record.place}: remove one of "
                "the two rows."
            )
