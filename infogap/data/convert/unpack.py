"""Shards back to files that people edit: one line of JSON a sample, and a folder of images."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from infogap.data.convert.writer import ConvertError
from infogap.data.records import encode_sample
from infogap.data.sample import Sample
from infogap.data.shards import find_shards, read_samples
from infogap.data.skips import SkipLog
from infogap.data.unfinished import unfinished_folder

SAMPLES_NAME: Final = "samples.jsonl"
IMAGES_FOLDER: Final = "images"


def unpack(shards: str | Path, out: Path) -> int:
    """Write the samples of shards as `samples.jsonl` and `images/KEY.jpg` (or png, webp), in their order.

    The lines have the fields that the converter of JSON lines reads: `id`, which is the key, `image`, `question`,
    `answer`, and where there are any `options`, `boxes`, `source` and `metadata`. Images keep their bytes, so that
    packing the result again gives the same samples. All of it is written, or nothing.

    Args:
        shards: a folder of shards, a glob pattern, or a file.
        out: the folder to write; must not exist.

    Returns:
        The number of samples.

    Raises:
        ConvertError: if `out` exists, or two samples share a key.
        FileNotFoundError: if there are no shards.
        SampleError: if a sample has a fault.
        ShardError: if a shard is damaged.
        BusyError: if another process unpacks to `out`.
    """
    paths = find_shards(shards)
    out.parent.mkdir(parents=True, exist_ok=True)
    with unfinished_folder(out.parent / f".{out.name}.unfinished", out) as folder:
        if os.path.lexists(out):
            raise ConvertError(f"{out} exists: give the path of a new folder.")
        (folder / IMAGES_FOLDER).mkdir()
        count = 0
        with (folder / SAMPLES_NAME).open("w", encoding="utf-8") as lines:
            for sample in read_samples(paths, SkipLog(strict=True)):
                lines.write(json.dumps(_unpack(sample, folder), ensure_ascii=False) + "\n")
                count += 1
        folder.rename(out)
    return count


def _unpack(sample: Sample, folder: Path) -> dict[str, Any]:
    """Write the image of a sample; returns its line."""
    suffix, data = next(iter(encode_sample(sample).items()))  # refuses keys that lead out of the folder
    image = f"{IMAGES_FOLDER}/{sample.key}.{suffix}"
    try:
        with (folder / image).open("xb") as file:
            file.write(data)
    except FileExistsError as error:
        raise ConvertError(f"The key {sample.key!r} occurs twice: a file of its name exists already.") from error
    boxes = [[[_whole(value) for value in box.as_tuple()] for box in chain] for chain in sample.evidence]
    line = {"id": sample.key, "image": image, "question": sample.question, "answer": sample.answer}
    rest = {"options": list(sample.options), "boxes": boxes, "source": sample.source, "metadata": dict(sample.metadata)}
    return line | {name: value for name, value in rest.items() if value}


def _whole(value: float) -> float | int:
    """Whole pixels without a decimal point, as people write them."""
    return int(value) if value.is_integer() else value
