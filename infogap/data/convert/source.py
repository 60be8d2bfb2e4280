"""What a published training set is to the converter: a stream of rows that become samples, or say why they do not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from infogap.data.sample import Sample


@dataclass(frozen=True)
class Dropped:
    """A row that makes no sample.

    Attributes:
        place: where it stands, such as "row 3 of train.parquet".
        reason: what it is counted under, in a few words, such as "two images".
        message: what is wrong with it and what to do, as one sentence.
    """

    place: str
    reason: str
    message: str


class Source(ABC):
    """The files of a data set, as they were published.

    Attributes:
        name: what the command line, the index of the shards and `Sample.source` call it.
        licence: of the data, as its authors declare it, or "not declared".
        origin: where the data are published, for the index.
    """

    name: ClassVar[str]
    licence: ClassVar[str]
    origin: ClassVar[str]

    @abstractmethod
    def inputs(self) -> Sequence[Path]:
        """The files that are read: a conversion that was interrupted goes on only if they are the same.

        Raises:
            TableError: if there are none.
        """

    @abstractmethod
    def rows(self, start: int = 0) -> Iterator[Sample | Dropped]:
        """One result for each row of the files, in their order, with one image at a time in memory.

        What `decode_sample` would refuse must come as `Dropped`: it is not looked at again before it is written.

        Keys are unique in the data set and depend on the row alone, not on `start`.

        Args:
            start: rows to pass over, whose images are not read.

        Raises:
            TableError: if a file cannot be read or lacks a column.
        """
