"""Folders of images with an annotation each, in the format of V* Bench."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from string import ascii_uppercase
from typing import Any, ClassVar, Final

from infogap.data.convert.boxes import clamped, four_numbers, read_box
from infogap.data.convert.faults import DropError, DropReason
from infogap.data.convert.published import Content, PublishedSource, metadata_of
from infogap.data.convert.texts import listed_options, question_text
from infogap.data.tables import Record
from infogap.geometry import Box, NestedBoxes, Size

SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp")
"""Of images, the one that counts first if there are several."""

SEED: Final = 0
"""Of the shuffle of options, as `infogap.evaluation.benchmarks.vstar` has it."""


class VStarStyle(PublishedSource):
    """Your own annotations in the format of V* Bench (README of github.com/penghao-wu/vstar).

    Format: ``STEM.json`` beside ``STEM.jpg`` (or another suffix), in the folder or below it: ``question``, ``options``
    (the right one first), ``target_object`` (names) and ``bbox`` (a list [x, y, width, height] for each, in pixels of
    the original). Every box is evidence of its own, and is clamped to the image. The options are shuffled by the
    image's path: else a policy that always answers A were right.

    V* Bench itself is test data: do not train on it.
    """

    name: ClassVar[str] = "vstar_style"
    licence: ClassVar[str] = "not declared"
    origin: ClassVar[str] = "local files"
    patterns: ClassVar[tuple[str, ...]] = ("**/*.json",)
    needed: ClassVar[tuple[str, ...]] = ()

    def folder_of_images(self, tables: Sequence[Path]) -> Path:
        """The folder that was given, or that holds the file that was."""
        return self.root if self.root.is_dir() else self.root.parent

    def records(self, tables: Sequence[Path], start: int) -> Iterator[Record]:
        """One record for each annotation, with the path of its image."""
        folder = self.folder_of_images(tables)
        for file in tables[start:]:
            record = _read_annotation(file)
            image = next((path for path in _images_beside(file) if path.is_file()), file.with_suffix(SUFFIXES[0]))
            yield Record(file, None, {**record.fields, "image": image.relative_to(folder).as_posix()}, record.fault)

    def content(self, record: Record) -> Content:
        """The annotation's question, shuffled options and boxes."""
        fields = record.fields
        question, options = question_text(fields.get("question")), listed_options(fields.get("options"))
        if len(options) < 2 or len(set(options)) < len(options):
            fault = f"it has the options {options!r:.80} where two or more that differ are needed, correct them"
            raise DropError(DropReason.BAD_OPTIONS, fault)
        path = PurePosixPath(fields["image"])
        order = _shuffled(str(path.with_suffix("")), len(options))
        boxes = fields.get("bbox")
        if not isinstance(boxes, list):
            raise DropError(
                DropReason.BAD_BOXES, f"it has the boxes {boxes!r:.80} where a list is needed, correct them"
            )
        metadata = metadata_of({"category": str(path.parent)} if path.parent.name else {}, ("category",))
        if isinstance(targets := fields.get("target_object"), list):
            metadata["target_object"] = [target for target in targets if isinstance(target, str)]
        return Content(
            image=fields["image"],
            question=question,
            answer=ascii_uppercase[order.index(0)],
            options=tuple(options[place] for place in order),
            boxes=tuple((_from_corner_and_size(box),) for box in boxes),
            metadata=metadata,
        )

    def evidence(self, boxes: tuple[NestedBoxes, ...], size: Size) -> tuple[NestedBoxes, ...]:
        """The boxes, clamped to the image."""
        return clamped(boxes, size)


def _images_beside(file: Path) -> Iterator[Path]:
    for suffix in SUFFIXES:
        yield file.with_suffix(suffix)
        yield file.with_suffix(suffix.upper())


def _read_annotation(file: Path) -> Record:
    try:
        fields = json.loads(file.read_bytes())
    except OSError as error:
        return Record(file, None, fault=f"cannot be read ({error.strerror}): copy it again")
    except (ValueError, RecursionError) as error:
        return Record(file, None, fault=f"is no JSON ({error}): copy it again")
    if not isinstance(fields, dict):
        return Record(file, None, fault=f"holds a {type(fields).__name__}: an object with named fields is needed")
    return Record(file, None, fields)


def _shuffled(path: str, count: int) -> list[int]:
    """Places of options in the order in which they are asked."""
    lots = [hashlib.sha256(f"{SEED}/{path}/{place}".encode()).digest() for place in range(count)]
    return sorted(range(count), key=lots.__getitem__)


def _from_corner_and_size(value: Any) -> Box:
    x, y, width, height = four_numbers(value)
    return read_box([x, y, x + width, y + height])
