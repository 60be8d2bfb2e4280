"""Rows of parquet files in bounded memory: pyarrow reads columns of small pages, and large ones are read beside it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any, Final

from pyarrow import parquet

from infogap.data.parquet.errors import PageError, UnboundedPageError
from infogap.data.parquet.footer import BYTE_ARRAY, Column, RowGroup, read_footer
from infogap.data.parquet.layout import Leaf, find_leaves, merge
from infogap.data.parquet.leaves import LeafReader
from infogap.data.parquet.pages import Encoding, scan_pages
from infogap.data.parquet.streams import STREAMED
from infogap.data.parquet.values import Chunk

BATCH_ROWS: Final = 8
"""Rows that pyarrow decodes at a time: an image of 8K fills megabytes."""

ENCODINGS: Final = frozenset(
    (Encoding.PLAIN, Encoding.RLE, Encoding.BIT_PACKED, Encoding.PLAIN_DICTIONARY, Encoding.RLE_DICTIONARY)
)
"""Encodings of columns that are read value by value. Bit-packed levels are also named by columns that have none."""


class ParquetRows:
    """The rows of an open parquet file.

    Args:
        file: its path.
        table: the file, opened so that pyarrow does not read ahead.
        large_page: bytes of an unpacked page beyond which a column is read value by value.
    """

    def __init__(self, file: Path, table: parquet.ParquetFile, large_page: int) -> None:
        self._file, self._table, self._large_page = file, table, large_page
        self._types = {field.name: field.type for field in table.schema_arrow}
        self._leaves = find_leaves(table.schema_arrow, table.schema)

    def read(self, names: Sequence[str], start: int = 0) -> Iterator[Mapping[str, Any]]:
        """Read rows in order, as pyarrow would give them.

        Args:
            names: fields to read.
            start: rows to pass over.

        Raises:
            PageError: if the file is damaged.
            UnboundedPageError: if a page is too large for pyarrow and cannot be read value by value.
            OSError: if the file cannot be read or unpacked.
            pyarrow.ArrowException: likewise.
        """
        with self._file.open("rb", buffering=0) as file:
            for index, group in enumerate(read_footer(file)):
                if len(group.columns) != len(self._leaves):
                    raise PageError("the footer lacks a column")
                if start < group.rows:
                    chunks = self._large_chunks(file, group, names)
                    yield from self._read_group(chunks, index, names, start, group.rows)
                start = max(start - group.rows, 0)

    def _read_group(
        self, chunks: Sequence[Chunk], group: int, names: Sequence[str], start: int, rows: int
    ) -> Iterator[Mapping[str, Any]]:
        if not chunks:
            yield from self._read_small(group, names, start)
            return
        large = {chunk.leaf.index for chunk in chunks}
        small = [leaf.path for leaf in self._leaves if leaf.field in names and leaf.index not in large]
        with ExitStack() as stack:
            readers = []
            for chunk in chunks:
                with _naming(chunk.leaf):
                    reader = stack.enter_context(closing(LeafReader(chunk)))
                    reader.begin(start)
                readers.append((chunk.leaf, reader))
            for fields in self._read_small(group, small, start) if small else repeat({}, rows - start):
                parts = {name: [fields[name]] if name in fields else [] for name in names}
                for leaf, reader in readers:
                    with _naming(leaf):
                        parts[leaf.field].append(reader.row())
                yield {name: merge(parts[name], self._types[name]) for name in names}

    def _read_small(self, group: int, columns: Sequence[str], start: int) -> Iterator[Mapping[str, Any]]:
        for batch in self._table.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns):
            yield from batch.slice(start).to_pylist()
            start = max(start - len(batch), 0)

    def _large_chunks(self, file: io.FileIO, group: RowGroup, names: Sequence[str]) -> list[Chunk]:
        """The columns that must be read value by value."""
        chunks = []
        for leaf, column in zip(self._leaves, group.columns, strict=True):
            if leaf.field not in names or column.kind != BYTE_ARRAY or column.elsewhere:
                continue  # values of other types are so small that writers look at the size of a page in time
            if column.unpacked <= self._large_page:
                continue
            with _naming(leaf):
                pages = scan_pages(file, column.start, column.values)
                largest = max((page.unpacked for page in pages), default=0)
                if largest <= self._large_page:
                    continue
                if fault := _fault(leaf, column):
                    raise UnboundedPageError(f"has a page of {largest:,} bytes {fault}")
            chunks.append(Chunk(file, leaf, column.codec, pages))
        return chunks


def _fault(leaf: Leaf, column: Column) -> str:
    """Why a column cannot be read value by value, "" if it can."""
    if not leaf.known:
        return "and is nested in a way, or of a type, that needs pages whole"
    if column.codec not in STREAMED:
        return f"and is packed with {column.codec}, which needs pages whole"
    if unknown := sorted(column.encodings.difference(ENCODINGS)):
        names = ", ".join(Encoding(one).name if one in tuple(Encoding) else str(one) for one in unknown)
        return f"and is written in {names}, which needs pages whole"
    return ""


@contextmanager
def _naming(leaf: Leaf) -> Iterator[None]:
    """Name the column in what is raised."""
    try:
        yield
    except UnboundedPageError as error:
        raise UnboundedPageError(f"its column {leaf.path} {error}") from error
    except PageError as error:
        raise PageError(f"{error}, in the column {leaf.path}") from error
