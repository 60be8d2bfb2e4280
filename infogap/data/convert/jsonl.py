"""Tables that you wrote yourself, and those that unpacked shards become: JSON lines beside a folder of images."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any, ClassVar, Final

from infogap.data.convert.boxes import read_chains
from infogap.data.convert.faults import DropError, DropReason
from infogap.data.convert.published import Content, PublishedSource, distinct_stems
from infogap.data.convert.texts import checked_text
from infogap.data.tables import Record, TableError, load_pyarrow

FIELDS: Final = ("id", "image", "question", "answer", "options", "boxes", "source", "metadata")
"""Fields of a row. Those that may hold lists or objects may be JSON texts in TSV and parquet files."""

_NESTED: Final = ("options", "boxes", "metadata")


@dataclass(frozen=True)
class _Repeated(Record):
    """A row whose key, which is its id or else made of its file and number, an earlier row has."""

    key: str = ""


class JsonLines(PublishedSource):
    """Any data set as JSON lines, a JSON list, TSV or parquet, and a folder of images.

    Format: ``image`` (path from the table's folder), ``question``, ``answer``; where there are any, ``id`` (becomes the
    sample's key), ``options``, ``boxes`` (as in docs/shard_format.md, or a flat list of boxes, each evidence on its
    own), ``source`` and ``metadata``. Texts are taken as they are. `infogap.data.convert.unpack` writes this.
    """

    name: ClassVar[str] = "jsonl"
    licence: ClassVar[str] = "not declared"
    origin: ClassVar[str] = "local files"
    patterns: ClassVar[tuple[str, ...]] = ("*.jsonl", "*.json", "*.tsv", "*.parquet")
    needed: ClassVar[tuple[str, ...]] = ("image", "question", "answer")
    wanted: ClassVar[tuple[str, ...]] = ("id", "options", "boxes", "source", "metadata")

    def records(self, tables: Sequence[Path], start: int) -> Iterator[Record]:
        """The rows of the tables, without the first ones; all are read, since ids must not occur twice.

        Raises:
            TableError: if a file cannot be read, lacks a column, or has one of another name.
        """
        for file in tables:
            _check_fields(_columns(file), str(file))
        seen: set[str] = set()
        stems = distinct_stems(tables)
        for place, record in enumerate(super().records(tables, 0)):
            if record.file.suffix.lower() == ".tsv":  # which writes nothing for what is not there
                fields = {name: value for name, value in record.fields.items() if value != ""}
                record = replace(record, fields=fields)
            given = record.fields.get("id")
            key = self.made_up_key(record, stems) if given is None else str(given)
            if place >= start:
                yield _Repeated(**vars(record), key=key) if key in seen else record
            seen.add(key)

    def content(self, record: Record) -> Content:
        """The row's fields.

        Raises:
            DropError: if one cannot be used.
            TableError: if it has a field of another name.
        """
        _check_fields(record.fields, record.place)
        fields = {name: record.fields.get(name) for name in FIELDS}
        if record.file.suffix.lower() in (".tsv", ".parquet"):
            fields |= {name: _from_json(name, fields[name]) for name in _NESTED}
        answer = _text(fields["answer"], "answer", DropReason.EMPTY_ANSWER)
        options = _options(fields["options"])
        if options and answer not in options and answer not in ascii_uppercase[: len(options)]:
            fault = f"the answer {answer!r:.80} is none of its {len(options)} options, give the text or letter of one"
            raise DropError(DropReason.BAD_OPTIONS, fault)
        metadata = {} if fields["metadata"] is None else fields["metadata"]
        if not isinstance(metadata, Mapping):
            kind = type(metadata).__name__
            raise DropError(DropReason.BAD_METADATA, f"the metadata are a {kind}, write an object with named fields")
        return Content(
            image=fields["image"],
            question=_text(fields["question"], "question", DropReason.EMPTY_QUESTION),
            answer=answer,
            options=options,
            boxes=read_chains(fields["boxes"]),
            metadata=metadata,
            key=_key(record),
            source="" if fields["source"] in (None, "") else _text(fields["source"], "source"),
        )


def _columns(file: Path) -> Sequence[str]:
    """The columns of a file that has the same in every row; none for JSON, whose rows are looked at one by one."""
    suffix = file.suffix.lower()
    if suffix == ".tsv":
        # faults in its text are found by who reads all of it
        with file.open(newline="", encoding="utf-8-sig", errors="replace") as lines:
            return next(csv.reader(lines, delimiter="\t"), [])
    return _parquet_columns(file) if suffix == ".parquet" else ()


def _parquet_columns(file: Path) -> list[str]:
    pyarrow, parquet = load_pyarrow(file)
    try:
        return list(parquet.read_schema(file).names)
    except (OSError, pyarrow.ArrowException) as error:
        raise TableError(f"The file {file} cannot be read ({error}): copy it again.") from error


def _check_fields(found: Iterable[str], where: str) -> None:
    unknown = [name for name in found if name not in FIELDS]
    if unknown:
        known = ", ".join(FIELDS)
        raise TableError(f"The fields {unknown} of {where} are unknown: use {known}, or move them into metadata.")


def _key(record: Record) -> str:
    """The id of a row as the key of its sample, "" if it has none.

    Raises:
        DropError: if it cannot be one.
    """
    if isinstance(record, _Repeated):
        fault = f"an earlier row has the id {record.key!r} too, give every row one of its own"
        raise DropError(DropReason.BAD_ID, fault)
    value = record.fields.get("id")
    if value is None:
        return ""
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise DropError(DropReason.BAD_ID, f"the id is a {type(value).__name__} where text is needed, correct it")
    key = str(value)
    if not key.strip() or not key.isprintable() or set(key) & set("./") or key.startswith("__"):
        fault = f"the id {key!r} cannot name a sample, leave out dots, slashes, control characters and a leading '__'"
        raise DropError(DropReason.BAD_ID, fault)
    return key


def _text(value: Any, what: str, if_empty: DropReason = DropReason.UNREADABLE_ROW) -> str:
    """A text as it is, if it is one; numbers are written out."""
    text = checked_text(value, what, if_empty)
    return value if isinstance(value, str) else text


def _options(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > len(ascii_uppercase):
        fault = f"the options {value!r:.80} are no list of at most {len(ascii_uppercase)} texts, correct them"
        raise DropError(DropReason.BAD_OPTIONS, fault)
    return tuple(_text(option, f"option {number}", DropReason.BAD_OPTIONS) for number, option in enumerate(value, 1))


def _from_json(name: str, value: Any) -> Any:
    """A nested field of a table whose cells are texts."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        fault = f"the field {name!r} is no JSON ({error}), correct it"
        raise DropError(DropReason.UNREADABLE_ROW, fault) from error
