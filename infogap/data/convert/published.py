"""What all sources share: rows of tables, an image for each, and a sample or a reason for every row."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

from infogap.data.convert.faults import DropError, DropReason
from infogap.data.convert.image_files import ImageFiles
from infogap.data.convert.source import Dropped, Source
from infogap.data.images import HighResImage, ImageError
from infogap.data.records import RecordError, decode_sample, encode_sample
from infogap.data.sample import Sample, SampleError
from infogap.data.skips import SkipReason
from infogap.data.tables import Record, find_parts, read_tables
from infogap.geometry import NestedBoxes, Size

LONGEST_STEM: Final = 80
"""Characters of a file's name that a key takes over: names of members of tar files should stay short."""


@dataclass(frozen=True)
class Content:
    """What a row says, before its image is read.

    Attributes:
        image: where the image is, see `ImageFiles.read`.
        question: as in `Sample`.
        answer: as in `Sample`.
        options: as in `Sample`.
        boxes: evidence as the row has it, in pixels of the original.
        metadata: as in `Sample`.
        key: as in `Sample`; "": the row is named after its file and number.
        source: as in `Sample`; None: the name of the data set.
    """

    image: Any
    question: str
    answer: str
    options: tuple[str, ...] = ()
    boxes: tuple[NestedBoxes, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
    source: str | None = None


class PublishedSource(Source):
    """A data set whose rows stand in tables, and whose images stand in these, beside them, or in zip files.

    Args:
        root: a table, or the folder that holds the files, as they were downloaded.

    Attributes:
        patterns: globs of the tables below the folder, see `find_parts`.
        needed: columns that every table must have.
        wanted: columns that are read where they are.
        archive_patterns: globs of zip files with images, beside the tables.
        prefix: a folder that paths of images may begin with, or leave out.
    """

    patterns: ClassVar[tuple[str, ...]]
    needed: ClassVar[tuple[str, ...]]
    wanted: ClassVar[tuple[str, ...]] = ()
    archive_patterns: ClassVar[tuple[str, ...]] = ()
    prefix: ClassVar[str] = ""

    def __init__(self, root: Path) -> None:
        self.root = root

    def inputs(self) -> Sequence[Path]:
        """The tables, and the archives beside them; files of single images are not listed.

        Raises:
            TableError: if there is no table.
        """
        tables = self.tables()
        return [*tables, *self.archives(tables)]

    def rows(self, start: int = 0) -> Iterator[Sample | Dropped]:
        """One result for each row of the tables, in their order, with one image at a time in memory.

        Args:
            start: rows to pass over, whose images are not read.

        Raises:
            TableError: if a file cannot be read or lacks a column.
        """
        tables = self.tables()
        stems = distinct_stems(tables)
        with ImageFiles(self.folder_of_images(tables), self.prefix, self.archives(tables)) as images:
            for record in self.records(tables, start):
                yield self._result(record, images, self.made_up_key(record, stems))

    def made_up_key(self, record: Record, stems: Mapping[Path, str]) -> str:
        """The key of a row that brings none: the data set, the file and the number of the row in it.

        Args:
            record: the row.
            stems: what `distinct_stems` gave for the tables.
        """
        return f"{self.name}-{stems[record.file]}-{record.number or 1:07d}"

    def tables(self) -> list[Path]:
        """The files that hold the rows, in order.

        Raises:
            TableError: if there are none.
        """
        return find_parts(self.root, self.patterns, self.name)

    def records(self, tables: Sequence[Path], start: int) -> Iterator[Record]:
        """The rows of the tables, without the first ones."""
        return read_tables(tables, self.needed, self.wanted, start=start)

    def archives(self, tables: Sequence[Path]) -> list[Path]:
        """The zip files beside the tables, in order."""
        folder = self.folder_of_images(tables)
        return sorted({path for pattern in self.archive_patterns for path in folder.glob(pattern) if path.is_file()})

    def folder_of_images(self, tables: Sequence[Path]) -> Path:
        """The folder that paths of images start from: that of the first table."""
        return tables[0].parent

    @abstractmethod
    def content(self, record: Record) -> Content:
        """What a row says.

        Raises:
            DropError: if it makes no sample.
        """

    def evidence(self, boxes: tuple[NestedBoxes, ...], size: Size) -> tuple[NestedBoxes, ...]:
        """The boxes of a row, seen beside its image; as they are, if a data set does not say otherwise.

        Args:
            boxes: evidence as the row has it.
            size: size of the original, in pixels.

        Raises:
            DropError: if they do not fit.
        """
        return boxes

    def _result(self, record: Record, images: ImageFiles, key: str) -> Sample | Dropped:
        try:
            if record.fault:
                raise DropError(DropReason.UNREADABLE_ROW, f"it {record.fault}")
            content = self.content(record)
            return self._sample(content, images.read(content.image), content.key or key)
        except DropError as fault:
            place = record.place
            return Dropped(place, fault.reason, f"{place[0].upper()}{place[1:]}: {fault}.")

    def _sample(self, content: Content, data: bytes, key: str) -> Sample:
        try:
            image = HighResImage(data, name=key)
        except ImageError as error:
            raise DropError(DropReason.UNREADABLE_IMAGE, _clause(error)) from error
        boxes = self.evidence(content.boxes, image.size)
        source = self.name if content.source is None else content.source
        try:
            sample = Sample(
                key, image, content.question, content.answer, content.options, boxes, source, metadata=content.metadata
            )
        except SampleError as error:  # texts and options were looked at before, with reasons of their own
            raise DropError(DropReason.BAD_BOXES, _clause(error)) from error
        _check_readable(sample)
        return sample


def metadata_of(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Those of some fields that say something: texts, whole numbers and truth values.

    Args:
        values: fields of a row.
        names: fields to keep.
    """
    found = {name: values.get(name) for name in names}
    return {name: value for name, value in found.items() if isinstance(value, str | int) and value != ""}


def _check_readable(sample: Sample) -> None:
    """Read a sample as it will be read from a shard, so that nothing is written that training would leave out."""
    try:
        decode_sample({**encode_sample(sample), "__key__": sample.key, "__url__": ""})
    except RecordError as error:
        reason = DropReason.UNREADABLE_IMAGE if error.reason is SkipReason.BAD_IMAGE else DropReason.BAD_METADATA
        raise DropError(reason, _clause(error.__cause__ or error)) from error
    except SampleError as error:
        raise DropError(DropReason.BAD_METADATA, _clause(error)) from error


def _clause(error: BaseException) -> str:
    """The sentence of an error, to read on from "Row 3 of train.json: "."""
    text = str(error).rstrip(".")
    return text[:1].lower() + text[1:]


def distinct_stems(files: Sequence[Path]) -> dict[Path, str]:
    """For every file a name that keys can hold, and no other file has."""
    stems: dict[Path, str] = {}
    taken: set[str] = set()
    for file in files:
        stem = re.sub(r"[^A-Za-z0-9_-]", "_", file.stem)[:LONGEST_STEM]
        number, name = 1, stem
        while name in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        stems[file] = name
    return stems
