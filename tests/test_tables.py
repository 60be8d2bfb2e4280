"""Readers of tables against pyarrow and json, damaged files, and how much memory a large page takes."""

from __future__ import annotations

import functools
import io
import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import benchmark_files as files
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from infogap.data import json_stream, tables
from infogap.data.json_stream import read_list
from infogap.data.parquet import rows as parquet_rows
from infogap.data.parquet import streams as parquet_streams
from infogap.data.parquet import values as parquet_values
from infogap.data.parquet.compact import CompactReader
from infogap.data.parquet.errors import PageError, UnboundedPageError
from infogap.data.parquet.layout import Items, Leaf, Null
from infogap.data.parquet.leaves import LeafReader
from infogap.data.parquet.levels import read_runs
from infogap.data.parquet.pages import Encoding, Page, PageKind
from infogap.data.parquet.streams import PageStream
from infogap.data.parquet.values import Chunk
from infogap.data.tables import Record, TableError, read_tables

CODECS = ("none", "snappy", "gzip", "zstd", "brotli")
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("flat", pa.binary()),
        pa.field("required", pa.large_binary(), nullable=False),
        ("text", pa.string()),
        ("image", IMAGE),
        ("images", pa.list_(IMAGE)),
        ("blobs", pa.large_list(pa.binary())),
        ("deep", pa.struct([("inner", pa.list_(pa.struct([pa.field("data", pa.binary(), nullable=False)])))])),
    ]
)


def blob(random: random.Random) -> bytes | None:
    """Null, empty, noise, something that packs well, or something that occurred before."""
    kind = random.randrange(6)
    if kind == 0:
        return None
    if kind == 1:
        return b"the same"
    return random.randbytes(random.choice((0, 1, 59, 60, 61, 300, 5000))) * (1 if kind < 4 else random.randrange(1, 90))


def rows(count: int = 40, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of all shapes, with nulls, empty lists and lists of several."""
    rng = random.Random(seed)

    def image() -> dict[str, Any] | None:
        return rng.choice((None, {"bytes": blob(rng), "path": rng.choice((None, "a.jpg", "b.jpg"))}))

    def items(make: Any) -> list[Any] | None:
        return rng.choice((None, [], [make()], [make() for _ in range(rng.randrange(1, 5))]))

    return [
        {
            "number": number,
            "flat": blob(rng),
            "required": blob(rng) or b"",
            "text": rng.choice((None, "", "é" * rng.randrange(2000))),
            "image": image(),
            "images": items(image),
            "blobs": items(lambda: blob(rng)),
            "deep": rng.choice((None, {"inner": items(lambda: rng.choice((None, {"data": blob(rng) or b""})))})),
        }
        for number in range(count)
    ]


def write(path: Path, content: Sequence[dict[str, Any]], schema: pa.Schema = SCHEMA, **options: Any) -> Path:
    parquet.write_table(pa.Table.from_pylist(list(content), schema), path, **options)
    return path


def read(file: Path, names: Sequence[str] = SCHEMA.names, start: int = 0) -> list[Record]:
    """Rows, all columns of bytes and texts read value by value that can be."""
    reader = functools.partial(tables.read_parquet, large_page=0)
    with patch.dict(tables.READERS, {".parquet": reader}):
        return list(read_tables([file], names, (), start))


def fields(records: Sequence[Record]) -> list[Any]:
    return [dict(record.fields) for record in records]


@pytest.fixture
def read_by_value(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the columns that were read value by value."""
    seen: set[str] = set()

    class Seen(LeafReader):
        def __init__(self, chunk: Any) -> None:
            seen.add(chunk.leaf.path)
            super().__init__(chunk)

    monkeypatch.setattr(parquet_rows, "LeafReader", Seen)
    return seen


LARGE = {
    *("flat", "required", "text", "image.bytes", "image.path", "images.list.element.bytes", "images.list.element.path"),
    *("blobs.list.element", "deep.inner.list.element.data"),
}


# --- parquet, the values ---


@pytest.mark.parametrize("dictionary", [True, False, "falling back"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("codec", CODECS)
def test_values_of_large_pages_are_those_of_pyarrow(
    tmp_path: Path, codec: str, version: str, dictionary: Any, read_by_value: set[str]
) -> None:
    content = rows()
    options: dict[str, Any] = {"compression": codec, "data_page_version": version, "use_dictionary": bool(dictionary)}
    if dictionary == "falling back":
        options |= {"dictionary_pagesize_limit": 9000, "write_batch_size": 3, "data_page_size": 3000}
    file = write(tmp_path / "t.parquet", content, row_group_size=27, **options)
    expected = parquet.read_table(file).to_pylist()
    assert expected == content
    for start in (0, 1, 13, 26, 27, 31, 39, 40, 99):
        records = read(file, start=start)
        assert fields(records) == expected[start:]
        assert [record.number for record in records] == list(range(start + 1, 41))
    assert read_by_value == LARGE
    assert list(read(file)[0].fields) == SCHEMA.names


@pytest.mark.parametrize("codec", CODECS)
def test_values_longer_than_what_is_read_at_a_time_are_whole(tmp_path: Path, codec: str) -> None:
    rng = random.Random(1)
    values = [rng.randbytes(700_000), b"ab" * 400_000, rng.randbytes(70_000) * 9, b"", rng.randbytes(300_000)]
    content = [{"flat": value, "number": number} for number, value in enumerate(values)]
    schema = pa.schema({"flat": pa.binary(), "number": pa.int64()})
    for dictionary in (True, False):
        file = write(tmp_path / "t.parquet", content, schema, compression=codec, use_dictionary=dictionary)
        assert fields(read(file, schema.names)) == content
        assert fields(read(file, schema.names, 2)) == content[2:]
        assert fields(read(file, ["flat"], 1)) == [{"flat": value} for value in values[1:]]


def test_a_row_may_go_on_in_the_next_page(tmp_path: Path, read_by_value: set[str]) -> None:
    content = [{"blobs": [bytes([row, n]) * 9 for n in range(size)]} for row, size in enumerate((1, 70, 0, 200, 3))]
    schema = pa.schema({"blobs": pa.list_(pa.binary())})
    options = {"use_dictionary": False, "data_page_size": 100, "write_batch_size": 10, "write_page_index": False}
    file = write(tmp_path / "t.parquet", content, schema, **options)
    for start in range(6):
        assert fields(read(file, ["blobs"], start)) == content[start:]
    assert read_by_value


@pytest.mark.parametrize("kept", [1 << 26, 1])
def test_values_that_occur_again_are_kept_in_memory_or_in_a_file(
    tmp_path: Path, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_values, "KEPT_BYTES", kept)
    values = [random.Random(n).randbytes(2000) for n in range(9)]
    content = [{"flat": values[random.Random(n).randrange(9)]} for n in range(60)]
    schema = pa.schema({"flat": pa.binary()})
    for version in ("1.0", "2.0"):
        file = write(tmp_path / "t.parquet", content, schema, data_page_version=version, data_page_size=8)
        for start in (0, 7, 59):
            assert fields(read(file, ["flat"], start)) == content[start:]


def test_small_pages_are_left_to_pyarrow(tmp_path: Path, read_by_value: set[str]) -> None:
    """With the limit that holds outside tests; so are columns of small pages beside a large one, however long."""
    file = write(tmp_path / "t.parquet", rows())
    assert fields(list(read_tables([file], SCHEMA.names, start=3))) == rows()[3:]
    assert not read_by_value
    rng = random.Random(0)
    content = [
        {"flat": rng.randbytes(999), "images": [{"bytes": rng.randbytes(9000), "path": "x" * n}]} for n in range(20)
    ]
    schema = pa.schema([field for field in SCHEMA if field.name in ("flat", "images")])
    file = write(file, content, schema, use_dictionary=False, data_page_size=1, write_batch_size=5)
    records = list(tables.read_parquet(file, ["flat", "images"], (), 7, large_page=9000))
    assert fields(records) == content[7:]
    assert read_by_value == {"images.list.element.bytes"}


@pytest.mark.parametrize(
    ("options", "kind", "value", "fault"),
    [
        (
            {"compression": {"x": "lz4"}},
            pa.binary(),
            b"x" * 99,
            r"its column x has a page of \d+ bytes and is packed with LZ4",
        ),
        (
            {"use_dictionary": False, "column_encoding": {"x": "DELTA_LENGTH_BYTE_ARRAY"}},
            pa.binary(),
            b"x" * 99,
            "is written in DELTA_LENGTH_BYTE_ARRAY",
        ),
        (
            {},
            pa.list_(pa.list_(pa.binary())),
            [[b"x" * 99]],
            "its column x.list.element.list.element has a page .* nest",
        ),
        ({}, pa.map_(pa.string(), pa.binary()), [("a", b"x" * 99)], r"column x\.key_value.* is nested"),
    ],
)
def test_a_large_page_that_must_be_whole_is_refused_and_a_small_one_read(
    tmp_path: Path, options: dict[str, Any], kind: pa.DataType, value: Any, fault: str
) -> None:
    schema = pa.schema({"x": kind, "y": pa.binary()})
    file = write(tmp_path / "t.parquet", [{"x": value, "y": b"y"}], schema, **options)
    assert fields(list(read_tables([file], ["x", "y"]))) == [{"x": value, "y": b"y"}]
    assert fields(read(file, ["y"])) == [{"y": b"y"}]
    with pytest.raises(TableError, match=rf"t\.parquet cannot be read in bounded memory: .*{fault}.*: write it again"):
        read(file, ["x", "y"])


# --- parquet, its parts ---


def stream_of(data: bytes, unpacked: int) -> PageStream:
    memory: Any = io.BytesIO(data)  # in place of a file without a buffer
    return PageStream(memory, 0, len(data), unpacked, "SNAPPY")


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 3000), st.booleans())), st.integers(16, 300))
def test_snappy_is_unpacked_as_its_library_does(parts: list[tuple[int, int, bool]], piece: int) -> None:
    rng = random.Random(len(parts))
    pool = rng.randbytes(4000)
    data = b"".join(pool[start : start + length] for start, length, _ in parts)
    packed = pa.compress(data, "snappy", asbytes=True)
    with patch.object(parquet_streams, "PIECE", piece):
        stream = stream_of(packed, len(data))
        for start, length, skipped in parts:
            expected = pool[start : start + length]
            assert (skipped and stream.skip(len(expected)) is None) or stream.read(len(expected)) == expected
        assert stream.left == 0


def test_elements_of_snappy_that_its_library_does_not_write_are_unpacked() -> None:
    long = bytes(range(256)) * 2
    literals = b"\xf0\x01ab\xf4\xff\x01" + long + b"\xfc\x00\x00\x00\x00!"  # lengths in 1, 2 and 4 bytes
    copies = bytes([1, 1, 63 << 2 | 2, 3, 0, 3 << 2 | 3, 255, 1, 0, 0])  # offsets in 1, 2 and 4 bytes
    expected = b"ab" + long + b"!"
    for offset, length in ((1, 4), (3, 64), (511, 4)):
        for _ in range(length):
            expected += expected[-offset : len(expected) - offset + 1]
    data = varint(len(expected)) + literals + copies
    assert stream_of(data, len(expected)).read(len(expected)) == expected


@pytest.mark.parametrize(
    ("packed", "unpacked", "fault"),
    [
        (b"", 0, "cut short"),
        (b"\x85", 1, "cut short"),
        (b"\x04\x0cab", 4, "cut short"),
        (b"\x04\x0c", 4, "cut short"),
        (b"\x05\x0cabcd", 5, "cut short"),
        (b"\x04\xf4\x03", 4, "cut short"),
        (b"\x05\x0cabcd", 4, "another length"),
        (b"\x04\x01\x01", 4, "before its beginning"),
        (b"\x05\x00a\x01\x00", 5, "before its beginning"),
        (b"\x05\x00a\x01\x02", 5, "before its beginning"),
        (b"\xff\xff\xff\x7f\x00a", (1 << 28) - 1, "packed so well"),
    ],
)
def test_damaged_snappy_is_told(packed: bytes, unpacked: int, fault: str) -> None:
    with pytest.raises(PageError, match=fault):
        stream_of(packed, unpacked).read(unpacked)
    if unpacked > 1 and "packed" not in fault:
        with pytest.raises(PageError, match=fault):
            stream_of(packed, unpacked).skip(unpacked)


def test_snappy_that_refers_far_back_is_told() -> None:
    size = 400_000  # more than is held
    data = varint(size + 4) + b"\xf8" + (size - 1).to_bytes(3, "little") + bytes(size)
    with pytest.raises(UnboundedPageError, match="refers 400,000 bytes back"):
        stream_of(data + b"\x0f" + size.to_bytes(4, "little"), size + 4).read(size + 4)


def varint(value: int) -> bytes:
    data = b""
    while value > 127:
        data, value = data + bytes([value & 127 | 128]), value >> 7
    return data + bytes([value])


def test_runs_are_those_of_the_format() -> None:
    packed = bytes((0b10001000, 0b11000110, 0b11111010))  # the example of Encodings.md
    assert list(read_runs(b"\x03" + packed, 3)) == list(range(8))
    assert list(read_runs(b"\x0a\x01\x03" + packed + b"\x04\x07", 3)) == [1] * 5 + list(range(8)) + [7, 7]
    assert list(read_runs(b"\x06\x01\x02", 9)) == [513] * 3
    assert list(read_runs(b"\x03\x04", 0)) == [0] * 10
    assert next(read_runs(varint((1 << 31) - 1 << 1) + b"\x01", 1)) == 1  # and not two billion of them in memory
    for cut in (b"\x03\x88\xc6", b"\x06", b"\x80", b"\xff" * 11):
        with pytest.raises(PageError):
            list(read_runs(cut, 3))


def test_a_page_header_that_is_none_is_told() -> None:
    assert CompactReader(b"\x15\x06\x11\x2c\x15\x03\x00\x18\x02ab\x19\x25\x02\x04\x00").struct() == {
        1: 3,
        2: True,
        4: {1: -2},
        5: b"ab",
        6: [1, 2],
    }
    with pytest.raises(EOFError):
        CompactReader(b"\x18\xff\xff\x7f").struct()  # bytes that are not there
    with pytest.raises(EOFError):
        CompactReader(b"\x19\xf8\xff\xff\xff\x7f" + b"\x00" * 99).struct()  # a list of billions
    with pytest.raises(PageError, match="type 11"):
        CompactReader(b"\x1b\x00").struct()  # a map
    with pytest.raises(PageError, match="type 12"):
        CompactReader(b"\x1c" * 999).struct()
    with pytest.raises(PageError, match="too long"):
        CompactReader(b"\x15" + b"\xff" * 99).struct()


FLAT = Leaf(0, "x", "x", (Null(1),), False, 1, 0, True)
LISTS = Leaf(0, "x.list.element", "x", (Items(1),), False, 1, 1, True)
ONE, NONE, FIRST, NEXT = b"\x02\x01", b"\x02\x00", b"\x02\x00", b"\x02\x01"  # runs of one level
VALUE = b"\x01\x00\x00\x00v"


def rows_of(
    leaf: Leaf, values: int, repetitions: bytes, definitions: bytes, data: bytes, *before: Page
) -> Iterator[Any]:
    """A column of one page, behind a dictionary of one value if one is given."""
    content = VALUE + repetitions + definitions + data
    encoding = Encoding.RLE_DICTIONARY if before else Encoding.PLAIN
    size, levels = len(content) - len(VALUE), (len(repetitions), len(definitions))
    page = Page(PageKind.DATA_V2, len(VALUE), size, size, values, encoding, (3, 3), levels, False)
    memory: Any = io.BytesIO(content)
    with closing(LeafReader(Chunk(memory, leaf, "UNCOMPRESSED", [*before, page]))) as reader:
        reader.begin(0)
        while True:
            yield reader.row()


def test_pages_made_by_hand_are_read() -> None:
    dictionary = Page(PageKind.DICTIONARY, 0, 5, 5, 1, Encoding.PLAIN, (3, 3), None, False)
    assert list(islice(rows_of(FLAT, 2, b"", ONE + NONE, VALUE), 2)) == [b"v", None]
    lists = rows_of(LISTS, 3, FIRST + NEXT + FIRST, ONE + ONE + NONE, VALUE + VALUE)
    assert list(islice(lists, 2)) == [[b"v", b"v"], []]
    assert next(rows_of(FLAT, 1, b"", ONE, b"\x01\x02\x00", dictionary)) == b"v"


@pytest.mark.parametrize(
    ("leaf", "values", "repetitions", "definitions", "data", "fault"),
    [
        (FLAT, 1, b"", b"\x02\x02", VALUE, "a level is too high"),
        (FLAT, 2, b"", ONE, VALUE, "a page has too few levels"),
        (FLAT, 1, b"", ONE, b"\x02\x00\x00\x00v", "a value is longer than its page"),
        (FLAT, 1, b"", ONE, b"\x01\x00", "a value is longer than its page"),
        (FLAT, 1, b"", ONE, VALUE, "a column has too few rows"),
        (LISTS, 2, FIRST + NEXT, ONE + NONE, VALUE, "a list has entries and is empty"),
        (LISTS, 1, NEXT, ONE, VALUE, "a row of a column does not begin"),
        (FLAT, 1, b"", ONE, b"\x01\x02\x01", "a page refers to more values than its dictionary has"),
        (FLAT, 2, b"", ONE + ONE, b"\x01\x02\x00", "a page has too few values"),
        (FLAT, 1, b"", ONE, b"\x21\x02\x00", "the places in a dictionary are too wide"),
    ],
)
def test_counts_that_do_not_agree_are_told(
    leaf: Leaf, values: int, repetitions: bytes, definitions: bytes, data: bytes, fault: str
) -> None:
    dictionary = Page(PageKind.DICTIONARY, 0, 5, 5, 1, Encoding.PLAIN, (3, 3), None, False)
    before = [dictionary] if (data[0] == 1 and len(data) == 3) or "wide" in fault else []
    with pytest.raises(PageError, match=fault):
        list(rows_of(leaf, values, repetitions, definitions, data, *before))


# --- parquet, damaged and large files ---


@functools.cache
def sound_bytes(codec: str, version: str, dictionary: bool) -> bytes:
    buffer = io.BytesIO()
    table = pa.Table.from_pylist(rows(12), SCHEMA)
    parquet.write_table(table, buffer, compression=codec, data_page_version=version, use_dictionary=dictionary)
    return buffer.getvalue()


@given(
    st.sampled_from(CODECS),
    st.sampled_from(("1.0", "2.0")),
    st.booleans(),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=5)), min_size=1, max_size=4),
    st.sampled_from(SCHEMA.names[1:]),
)
def test_a_damaged_file_is_told_in_one_sentence(
    tmp_path_factory: pytest.TempPathFactory,
    codec: str,
    version: str,
    dictionary: bool,
    changes: list[tuple[float, bytes]],
    name: str,
) -> None:
    data = bytearray(sound_bytes(codec, version, dictionary))
    with parquet.ParquetFile(io.BytesIO(data)) as table:
        columns = [table.metadata.row_group(0).column(n) for n in range(table.metadata.num_columns)]
    (column, *_) = [column for column in columns if column.path_in_schema.split(".")[0] == name]
    first = column.dictionary_page_offset or column.data_page_offset
    for place, change in changes:  # headers and levels stand at the beginning, and are met more often there
        at = first + int(place**3 * column.total_compressed_size)
        data[at : at + len(change)] = change
    file = tmp_path_factory.getbasetemp() / "damaged.parquet"
    file.write_bytes(data)
    for start in (0, 5):
        told = ""
        try:
            assert len(read(file, [name], start)) == 12 - start
        except TableError as error:
            told = str(error)
        assert not told or told.startswith(f"The file {file} cannot be read ")
        assert not told or told.endswith(("download it again.", "fewer rows in a row group."))


def test_lengths_that_are_not_there_fill_no_memory(tmp_path: Path) -> None:
    """A value, and a page, of two gigabytes in a file of a few kilobytes."""
    schema = pa.schema({"x": pa.binary()})
    file = write(tmp_path / "t.parquet", [{"x": b"abcdefgh" * 9}], schema, compression="none", use_dictionary=False)
    data = file.read_bytes()
    length = (72).to_bytes(4, "little") + b"abcd"
    file.write_bytes(data.replace(length, b"\xff\xff\xff\x7fabcd"))
    with pytest.raises(TableError, match=r"a value is longer than its page, in the column x\): download it again"):
        read(file, ["x"])


MEASURE = """
import re, sys
from pathlib import Path
import pyarrow.parquet
from infogap.data.parquet import rows as parquet_rows
from infogap.data.tables import read_tables

def peak():  # not getrusage: what it tells begins with the peak of the process that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

before, count, size = peak(), 0, 0
for record in read_tables([Path(sys.argv[1])], ("number", "images"), start=int(sys.argv[2])):
    count += 1
    size += sum(len(image["bytes"]) for image in record.fields["images"])
print(count, size, peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell a process its peak")
@pytest.mark.parametrize(
    ("codec", "dictionary", "start"),
    [("snappy", True, 0), ("snappy", False, 50), ("zstd", True, 0), ("none", False, 0)],
)
def test_a_large_page_takes_little_memory(tmp_path: Path, codec: str, dictionary: bool, start: int) -> None:
    """60 images of 3 MB, which pyarrow writes into one page, or into one dictionary, of 180 MB."""
    noise = random.Random(0).randbytes(3_000_000)
    content = [{"number": n, "images": [{"bytes": n.to_bytes(4) + noise[4:], "path": None}]} for n in range(60)]
    schema = pa.schema([field for field in SCHEMA if field.name in ("number", "images")])
    file = write(tmp_path / "t.parquet", content, schema, compression=codec, use_dictionary=dictionary)
    command = [sys.executable, "-c", MEASURE, str(file), str(start)]
    count, size, grown = map(int, subprocess.run(command, capture_output=True, check=True).stdout.split())
    assert (count, size) == (60 - start, 3_000_000 * (60 - start))
    assert 0 < grown < 60 << 10  # kilobytes: a third of the page


# --- JSON lists, and rows that are passed over ---

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=9,
)


@settings(max_examples=60)
@given(
    st.lists(JSON, max_size=6),
    st.integers(1, 9),
    st.sampled_from((None, 2)),
    st.sampled_from(("utf-8", "utf-16", "utf-8-sig")),
)
def test_a_list_is_decoded_piece_by_piece_as_json_does(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Any], piece: int, indent: int | None, encoding: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "list.json"
    text = json.dumps(entries, indent=indent, ensure_ascii=False)
    file.write_bytes(f" {text}\n\n".encode(encoding, "surrogatepass"))
    with patch.object(json_stream, "PIECE", 4 * piece):
        assert list(read_list(file)) == entries


@pytest.mark.parametrize("piece", [8, 1 << 20])
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", r"Expecting value: character 0"),
        ("[", r"Expecting value: character 1"),
        ('[{"a": 1}', r"Expecting ',' delimiter: character 9"),
        ('[{"a": 1}, {"a": "b', r"Unterminated string starting at: character 17"),
        ('[{"a": 1},]', r"Expecting value: character 10"),
        ('[{"a": 1} {"a": 2}]', r"Expecting ',' delimiter: character 10"),
        ('[{"a": 1}] []', r"Extra data: character 11"),
        ('[{"a": tru}]', r"Expecting value: character 7"),
        ("[" + "[" * 200_000, r"recursion"),
        ("[" + "1" * 5000 + "]", r"4300 digits"),
    ],
)
def test_a_damaged_list_is_told_with_its_place(
    tmp_path: Path, text: str, fault: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "PIECE", piece)
    file = tmp_path / "t.json"
    file.write_text(text)
    with pytest.raises(TableError, match=rf"The file .*t\.json cannot be read \(.*{fault}.*\): download it again\."):
        list(read_tables([file], ["a"]))


@pytest.mark.parametrize(("text", "kind"), [('{"a": [', "dict"), (' "a"', "str"), ("12", "int"), ("null", "NoneType")])
def test_json_that_is_no_list_is_told(tmp_path: Path, text: str, kind: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(TableError, match=rf"t\.json holds a {kind}: a list of objects is needed\.$"):
        list(read_tables([tmp_path / "t.json"], ["a"]))


def test_a_list_is_read_as_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "PIECE", 64)
    (tmp_path / "t.json").write_text('[{"a": 1}, 2, {"b": 3},' + " " * 99 + "broken")
    records = read_tables([tmp_path / "t.json"], ["a"])
    assert next(records).fields == {"a": 1}
    assert next(records).fault == "is a int: an object with named fields is needed"
    assert next(records).number == 3
    with pytest.raises(TableError, match="Expecting value: character 122"):
        next(records)


def test_an_entry_without_end_is_not_read_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "PIECE", 64)
    monkeypatch.setattr(json_stream, "ENTRY_CHARACTERS", 1000)
    (tmp_path / "t.json").write_bytes(b'[{"a": "' + b"x" * 1_000_000 + b"\xff")  # no UTF-8, if it is read so far
    entries = read_list(tmp_path / "t.json")
    with pytest.raises(json.JSONDecodeError, match="Unterminated string starting at: character 7"):
        next(entries)


def parts(folder: Path, kind: str) -> Iterator[Path]:
    for part, numbers in enumerate((range(11), range(11, 12), range(12, 30))):
        content = [{"number": number, "text": 'a "\t\n' * number, "other": 1} for number in numbers]
        path = folder / f"p{part}.{kind}"
        if kind == "tsv":
            yield files.write_tsv(path, content)
        elif kind == "parquet":
            table = pa.Table.from_pylist(content)
            parquet.write_table(table, path, row_group_size=4)
            yield path
        elif kind == "jsonl":
            path.write_text("\n".join(json.dumps(row) + "\n" for row in content))  # with empty lines
            yield path
        else:
            path.write_text(json.dumps(content))
            yield path


@pytest.mark.parametrize("kind", ["tsv", "parquet", "jsonl", "json"])
def test_rows_that_are_passed_over_are_counted_over_all_files(tmp_path: Path, kind: str) -> None:
    paths = list(parts(tmp_path, kind))
    whole = list(read_tables(paths, ("number",), ("text",)))
    assert [record.text("number") for record in whole] == [str(number) for number in range(30)]
    for start in (1, 10, 11, 12, 13, 29, 30, 31):
        assert list(read_tables(paths, ("number",), ("text",), start=start)) == whole[start:]


def test_lines_that_are_passed_over_are_not_taken_apart(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('broken\n\n{"a": 1}\n')
    (record,) = read_tables([tmp_path / "t.jsonl"], ["a"], start=1)
    assert (record.number, record.fields) == (3, {"a": 1})
