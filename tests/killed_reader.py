"""A process that uses batches of a stream and is killed: `python killed_reader.py SHARDS STATE LOG RANK`.

It notes the keys of each batch in LOG, then the position in STATE, and goes on from the position that it finds.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from infogap.data.reader import open_set
from infogap.data.remote import Cache, CacheConfig
from infogap.data.sample_set import SampleSet, Selection
from infogap.data.skips import SkipLog
from infogap.data.stream import StreamPosition, TrainLoader, TrainStream


def main(shards: str, state: Path, log: Path, rank: int) -> None:
    position = StreamPosition(int(state.read_text()) if state.exists() else 0)
    skips, cache = SkipLog(), Cache(CacheConfig())
    stream = TrainStream(
        [SampleSet(open_set(shards, cache, skips), Selection(), skips)],
        [1.0],
        batch_size=2,
        shuffle_buffer=6,
        seed=0,
        rank=rank,
        world_size=2,
        position=position,
        cache=cache,
        skips=skips,
    )
    for batch in TrainLoader(stream, num_workers=2, generator=torch.Generator()):
        position.batches += 1
        with log.open("a") as file:
            file.write(json.dumps([position.batches, [sample.key for sample in batch]]) + "\n")
        partial = state.with_suffix(".partial")
        partial.write_text(str(position.batches))
        os.replace(partial, state)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
