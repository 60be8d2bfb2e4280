"""How fast views of 8K photographs stream, and how fast crops of one are cut, against plain webdataset and Pillow.

    python tests/benchmarks/streaming.py [--images 32] [--tokens 1024] [--json OUT]

Both sides read the same shards and use every core: plain webdataset decodes in worker processes, one a core, as it is
commonly used (`decode("pil")`), and is measured twice: with a resize to the size of the view, which is the same work
as ours, and without, where nothing but the key leaves the worker, so that it is the decoding alone. Ours reads bytes in
one worker process and decodes views in threads, one a core, as a rollout does. Time to the first sample counts from
the construction of the loader. Crops are of at most 1,024 visual tokens, from an original that has been decoded.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader

from infogap.data.datamodule import ShardDataModule
from infogap.data.images import HighResImage
from infogap.data.manifest import ManifestEntry, ManifestHeader, ManifestWriter, SelectionStatus
from infogap.data.sample import Sample
from infogap.data.writing import write_shards
from infogap.geometry import Box, Size, fit_to_budget

SIZE = (7680, 4320)
CORES = os.cpu_count() or 1


def photograph(seed: int) -> bytes:
    """A JPEG of 8K with structure at every scale, some 5 MB."""
    rng = np.random.default_rng(seed)
    total = np.zeros((SIZE[1], SIZE[0]), np.float32)
    for side in (8, 32, 128, 512, 2048):
        noise = Image.fromarray(rng.normal(0, 1, (side * 9 // 16, side)).astype(np.float32))
        total += np.asarray(noise.resize(SIZE, Image.Resampling.BICUBIC)) * 30 / side**0.25
    grey = np.clip(total + 128, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.merge("RGB", [Image.fromarray(grey), Image.fromarray(255 - grey), Image.fromarray(grey // 2)]).save(
        buffer, "JPEG", quality=85
    )
    return buffer.getvalue()


def write(folder: Path, count: int, tokens: int) -> None:
    """Shards, and a manifest that selects the view, as in a run of stage 1."""
    photographs = [photograph(seed) for seed in range(4)]
    keys = [f"photograph-{number:03d}" for number in range(count)]
    images = (HighResImage(photographs[number % 4]) for number in range(count))
    samples = (Sample(key, image, "What is written there?", "yes") for key, image in zip(keys, images, strict=True))
    write_shards(samples, folder, 8)
    with ManifestWriter(folder / "resolution.jsonl", ManifestHeader("none", (tokens,))) as writer:
        for key in keys:
            writer.append(ManifestEntry(key, SelectionStatus.SELECTED, tokens))


def view_size(tokens: int) -> Size:
    """Size of a view."""
    return fit_to_budget(Size(*SIZE), tokens, 4)


def plain(folder: Path, tokens: int, scaled: bool) -> Iterator[Any]:
    """webdataset with Pillow's full decode, in one worker process a core, scaled to the view or not."""

    def view(sample: dict[str, Any]) -> Any:
        return np.array(sample["jpg"].resize(size, Image.Resampling.BICUBIC)) if scaled else sample["__key__"]

    size = view_size(tokens)
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    dataset = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode("pil").map(view)
    return iter(DataLoader(dataset, batch_size=None, num_workers=CORES))


def ours(folder: Path) -> Iterator[Any]:
    """The datamodule's batches and the views of their samples, decoded in threads."""
    data = ShardDataModule(str(folder), prompts_per_step=CORES, num_workers=1, require_view_tokens=True)
    with ThreadPoolExecutor(CORES) as pool:
        for batch in data.train_dataloader():
            yield from pool.map(lambda sample: np.asarray(sample.image.view(sample.view_tokens)), batch)


def timed(make: Callable[[], Iterator[Any]], count: int) -> tuple[float, float]:
    """Samples a second, and seconds to the first one."""
    start = time.perf_counter()
    samples = make()
    next(samples)
    first = time.perf_counter() - start
    for _ in islice(samples, count - 1):
        pass
    return count / (time.perf_counter() - start), first


def crops(folder: Path) -> dict[str, float]:
    """Milliseconds to cut a crop from a decoded original, by the width of the region."""
    data = next(iter(ShardDataModule(str(folder), prompts_per_step=1).train_dataloader()))
    image = next(iter(data)).image
    start = time.perf_counter()
    image.decode()
    found = {"decode_once_ms": 1000 * (time.perf_counter() - start)}
    rng = np.random.default_rng(0)
    for width in (200, 400, 800, 1200, 1600, 3200):
        took = []
        for _ in range(40):
            x, y = rng.uniform(0, SIZE[0] - width), rng.uniform(0, SIZE[1] - width / 2)
            start = time.perf_counter()
            image.crop(Box(x, y, x + width, y + width / 2), 1024)
            took.append(1000 * (time.perf_counter() - start))
        found[f"crop_of_{width}_ms"] = statistics.median(took)
    return found


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    try:
        write(folder, args.images, args.tokens)
        rates: dict[str, list[tuple[float, float]]] = {"plain": [], "plain_unscaled": [], "ours": []}
        for _ in range(args.rounds):
            rates["plain"].append(timed(lambda: plain(folder, args.tokens, True), args.images))
            rates["plain_unscaled"].append(timed(lambda: plain(folder, args.tokens, False), args.images))
            rates["ours"].append(timed(lambda: ours(folder), args.images))
        report: dict[str, Any] = {
            name: {
                "samples_a_second": statistics.median(rate for rate, _ in each),
                "first_sample_s": statistics.median(first for _, first in each),
            }
            for name, each in rates.items()
        }
        for name in ("plain", "plain_unscaled"):
            report[f"ratio_to_{name}"] = report["ours"]["samples_a_second"] / report[name]["samples_a_second"]
        report["mib_a_shard"] = sum(path.stat().st_size for path in folder.glob("*.tar")) / 2**20 / args.images * 8
        report |= crops(folder)
        print(json.dumps(report, indent=1))
        if args.json:
            args.json.write_text(json.dumps(report, indent=1))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
