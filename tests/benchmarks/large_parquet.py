"""A parquet file of 8K JPEGs as the data sets of DeepEyes publish theirs, of any size.

    python tests/benchmarks/large_parquet.py OUT.parquet --gigabytes 5

Columns are those of verl. What pyarrow's defaults make of them: it looks at the size of a page, and of the dictionary
that it begins each column with, once in 1024 values. So a row group of 250 rows has all but the last image in **one
dictionary page of 1.2 GB**, packed with snappy in one piece, a data page of places in it, and a data page of the last
image. A page's size has 31 bits, so none could hold 5 GB: there are row groups of 1.25 GB each.

Writing takes 5 GB of memory, four times a row group, however long the file becomes. Every image is a JPEG that decodes,
and no two are equal: they share a few pictures of noise and gradients, and each has a comment of its own.
"""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

SIZE: Final = (7680, 4320)
PICTURES: Final = 4
GROUP_BYTES: Final = 1_250_000_000

IMAGE: Final = pa.struct({"bytes": pa.binary(), "path": pa.string()})
SCHEMA: Final = pa.schema(
    {
        "data_source": pa.string(),
        "prompt": pa.list_(pa.struct({"content": pa.string(), "role": pa.string()})),
        "images": pa.list_(IMAGE),
        "ability": pa.string(),
        "env_name": pa.string(),
        "reward_model": pa.struct({"ground_truth": pa.string(), "style": pa.string()}),
        "extra_info": pa.struct(
            {"answer": pa.string(), "id": pa.string(), "index": pa.int64(), "question": pa.string()}
        ),
    }
)


def picture(seed: int) -> bytes:
    """An 8K JPEG of 4 to 6 MB: coloured gradients under noise, as fine as a camera's."""
    width, height = SIZE
    noise = np.random.default_rng(seed)
    across = np.linspace(0, 200, width, dtype=np.float32)[None, :, None]
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    pixels = across * down * noise.random(3, dtype=np.float32)
    pixels += noise.integers(0, 24 + 4 * seed, (height, width, 1), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=75)
    return buffer.getvalue()


def image(pictures: Sequence[bytes], number: int) -> bytes:
    """The image of a row: a picture with the row's number in a comment behind the mark of a JPEG's beginning."""
    comment = f"row {number}".encode()
    data = pictures[number % len(pictures)]
    return data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2) + comment + data[2:]


def row(pictures: Sequence[bytes], number: int) -> dict[str, Any]:
    """One row of the file."""
    question = f"What is written on sign {number}?"
    return {
        "data_source": "large",
        "prompt": [
            {"content": "You are a helpful assistant.", "role": "system"},
            {"content": f"<image>\n{question}", "role": "user"},
        ],
        "images": [{"bytes": image(pictures, number), "path": None}],
        "ability": "vl_agent",
        "env_name": "visual_toolbox_v2",
        "reward_model": {"ground_truth": str(number), "style": "model"},
        "extra_info": {"answer": str(number), "id": f"large-{number}", "index": number, "question": question},
    }


def write(path: Path, gigabytes: float, group_bytes: int = GROUP_BYTES) -> int:
    """Write the file, and return its rows."""
    pictures = [picture(seed) for seed in range(PICTURES)]
    mean = sum(map(len, pictures)) / PICTURES
    rows, groups = round(gigabytes * 1e9 / mean), math.ceil(gigabytes * 1e9 / group_bytes)
    step = math.ceil(rows / groups)
    with parquet.ParquetWriter(path, SCHEMA) as writer:
        for start in range(0, rows, step):
            numbers = range(start, min(start + step, rows))
            table = pa.Table.from_pylist([row(pictures, number) for number in numbers], SCHEMA)
            writer.write_table(table, row_group_size=len(numbers))
    return rows


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--gigabytes", type=float, default=5.0, help="size of the file, in 10^9 bytes")
    options = parser.parse_args()
    rows = write(options.out, options.gigabytes)
    print(f"{options.out}: {rows} rows, {options.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
