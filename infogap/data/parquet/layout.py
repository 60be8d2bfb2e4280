"""How deep the values of a parquet column lie in a row, and how a row's value is put together from one such column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow
from pyarrow import parquet, types

from infogap.data.parquet.errors import PageError

Entry = tuple[int, bytes | str | None]
"""How much of the way down to a value there is (the definition level), and the value."""


@dataclass(frozen=True)
class Null:
    """A part of a row that may be null: it is below this definition level."""

    level: int


@dataclass(frozen=True)
class Items:
    """A list: below this definition level it is empty."""

    level: int


@dataclass(frozen=True)
class Member:
    """A struct, of which the column holds this member."""

    name: str


Step = Null | Items | Member


@dataclass(frozen=True)
class Leaf:
    """A column of values, somewhere in the rows.

    Attributes:
        index: its place among the columns of the file.
        path: its name, with the structs and lists that it lies in.
        field: the field of the rows that it lies in.
        steps: the way from there down to a value.
        text: whether its values are texts, not bytes.
        definition: highest definition level, that of a value.
        repetition: highest repetition level: the number of lists that it lies in.
        known: whether it can be read value by value.
    """

    index: int
    path: str
    field: str
    steps: tuple[Step, ...]
    text: bool
    definition: int
    repetition: int
    known: bool

    def build(self, entries: Sequence[Entry]) -> Any:
        """The value of a row, in which structs are dicts of the one member.

        Args:
            entries: what the column holds of the row, at least one entry.

        Raises:
            PageError: if there are several, but no list to hold them.
        """
        return _build(self.steps, entries)


def _build(steps: Sequence[Step], entries: Sequence[Entry]) -> Any:
    for place, step in enumerate(steps):
        rest = steps[place + 1 :]
        if isinstance(step, Member):
            return {step.name: _build(rest, entries)}
        if min(definition for definition, _ in entries) < step.level:
            if len(entries) > 1:
                raise PageError("a list has entries and is empty")
            return None if isinstance(step, Null) else []
        if isinstance(step, Items):
            return [_build(rest, [entry]) for entry in entries]
    return entries[0][1]


def find_leaves(schema: pyarrow.Schema, columns: parquet.ParquetSchema) -> list[Leaf]:
    """The columns of a file in order.

    Args:
        schema: pyarrow's schema of the file.
        columns: the file's own schema.
    """
    ways = [(field.name, *way) for field in schema for way in _ways(field, 0)]
    if len(ways) != len(columns):  # a type of pyarrow's that is not stored as it looks
        paths = [columns.column(index).path for index in range(len(columns))]
        return [Leaf(index, path, path.split(".")[0], (), False, 0, 0, False) for index, path in enumerate(paths)]
    return [_leaf(index, columns.column(index), *way) for index, way in enumerate(ways)]


def _leaf(index: int, column: Any, field: str, steps: tuple[Step, ...], kind: pyarrow.DataType) -> Leaf:
    definition = sum(isinstance(step, Null | Items) for step in steps)
    repetition = sum(isinstance(step, Items) for step in steps)
    text = types.is_string(kind) or types.is_large_string(kind)
    known = (
        (text or types.is_binary(kind) or types.is_large_binary(kind))
        and None not in steps
        and column.physical_type == "BYTE_ARRAY"
        and (definition, repetition) == (column.max_definition_level, column.max_repetition_level)
        and repetition <= 1
    )
    return Leaf(index, column.path, field, steps, text, definition, repetition, known)


def _ways(field: pyarrow.Field, level: int) -> Iterator[tuple[tuple[Any, ...], pyarrow.DataType]]:
    """The ways down from a field, with None for a step of a kind that is not known, and the types at their ends."""
    kind = field.type
    before: tuple[Any, ...] = ()
    if field.nullable:
        level += 1
        before = (Null(level),)
    below: list[tuple[Step | None, pyarrow.Field, int]]
    if types.is_struct(kind):
        below = [(Member(child.name), child, level) for child in kind]
    elif types.is_list(kind) or types.is_large_list(kind):
        below = [(Items(level + 1), kind.value_field, level + 1)]
    elif kind.num_fields:
        below = [(None, kind.field(place), level) for place in range(kind.num_fields)]
    else:
        yield before, kind
        return
    for step, child, deeper in below:
        for rest, end in _ways(child, deeper):
            yield (*before, step, *rest), end


def merge(parts: Sequence[Any], kind: pyarrow.DataType) -> Any:
    """Put what several columns hold of the same field of a row together.

    Args:
        parts: values in which structs have different members; lists and nulls are alike in all.
        kind: type of the field.

    Raises:
        PageError: if they are not alike.
    """
    if len(parts) == 1:
        return parts[0]
    if any(part is None for part in parts):
        if any(part is not None for part in parts):
            raise PageError("its columns do not agree on what is null")
        return None
    if types.is_struct(kind):
        return {
            child.name: merge([part[child.name] for part in parts if child.name in part], child.type)
            for child in kind
            if any(child.name in part for part in parts)
        }
    if len({len(part) for part in parts}) > 1:
        raise PageError("its columns do not agree on the lengths of lists")
    return [merge(entries, kind.value_type) for entries in zip(*parts, strict=True)]
