"""Streams: which samples come in which batches, for any ranks and workers, and what a faulty one does."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from infogap.data import stream as stream_module
from infogap.data.reader import open_set
from infogap.data.remote import Cache, CacheConfig
from infogap.data.sample import Sample
from infogap.data.sample_set import SampleSet, Selection
from infogap.data.shards import find_shards
from infogap.data.skips import SkipLog, SkipReason
from infogap.data.stream import StreamPosition, TrainStream, ValidationStream
from infogap.data.writing import write_shards

MakeSample = Callable[..., Sample]
KEYS = [f"s{number:02d}" for number in range(23)]
CACHE = Cache(CacheConfig())


@pytest.fixture
def root(make_sample: MakeSample, tmp_path: Path) -> str:
    """Five shards with 23 samples, and a corrupt one at their end."""
    folder = tmp_path / "train"
    shards = write_shards([make_sample(key) for key in [*KEYS, "corrupt"]], folder, 5)
    data = shards[-1].read_bytes()
    start = data.rfind(b'{"schema"')
    shards[-1].write_bytes(data[:start] + b"!" + data[start + 1 :])
    return str(folder)


def samples_of(root: str, skips: SkipLog) -> SampleSet:
    return SampleSet(open_set(root, CACHE, skips), Selection(), skips)


def make_stream(*roots: str, **changes: Any) -> TrainStream:
    arguments: dict[str, Any] = {
        "batch_size": 3,
        "shuffle_buffer": 6,
        "seed": 0,
        "rank": 0,
        "world_size": 1,
        "position": StreamPosition(),
        "cache": CACHE,
        "skips": SkipLog(),
    }
    arguments |= changes
    weights = arguments.pop("weights", [1.0] * len(roots))
    return TrainStream([samples_of(root, arguments["skips"]) for root in roots], weights, **arguments)


def keys_of(batches: Any, count: int) -> list[list[str]]:
    """Keys of the first batches."""
    return [[sample.key for sample in batch] for batch in islice(batches, count)]


def flat(lists: Any) -> list[str]:
    """One list of many."""
    return list(chain.from_iterable(lists))


def in_turn(monkeypatch: pytest.MonkeyPatch, make: Callable[[], Any], workers: int, count: int) -> list[list[str]]:
    """Batches as a DataLoader takes them from its workers, without its processes: in turn, the first one first."""

    def in_worker(worker: int) -> Iterator[Any]:
        with monkeypatch.context() as patch:
            patch.setattr(stream_module, "_this_worker", lambda _: (worker, workers))
            iterator = iter(make())
            first = next(iterator)  # the generator asks which worker it is in when it starts
        yield first
        yield from iterator

    running = [in_worker(worker) for worker in range(workers)]
    return [[sample.key for sample in next(running[number % workers])] for number in range(count)]


def test_every_epoch_brings_every_sound_sample_once_in_another_order(root: str) -> None:
    stream = make_stream(root, batch_size=24)
    epochs = keys_of(stream, 4)
    assert all(sorted(epoch) == KEYS for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert KEYS not in epochs
    assert stream.skips.counts == {SkipReason.BAD_JSON: 4}


def test_the_order_follows_from_the_seed(root: str) -> None:
    orders = [keys_of(make_stream(root, seed=seed), 20) for seed in (7, 7, 8)]
    assert orders[0] == orders[1] != orders[2]
    assert {len(batch) for batch in orders[0]} == {2, 3}  # the corrupt one is missing from its batch


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_the_batches_are_the_same_with_any_number_of_workers(
    monkeypatch: pytest.MonkeyPatch, root: str, workers: int
) -> None:
    for changes in ({}, {"rank": 1, "world_size": 2}):
        alone = keys_of(make_stream(root, **changes), 30)
        assert in_turn(monkeypatch, lambda changes=changes: make_stream(root, **changes), workers, 30) == alone


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("changes", [{}, {"rank": 1, "world_size": 2, "shuffle_buffer": 50}])
def test_a_stream_goes_on_at_any_position(
    monkeypatch: pytest.MonkeyPatch, root: str, workers: int, changes: dict[str, Any]
) -> None:
    def make(used: int) -> TrainStream:
        return make_stream(root, position=StreamPosition(used), **changes)

    whole = keys_of(make(0), 30)
    for used in range(20):
        assert in_turn(monkeypatch, lambda used=used: make(used), workers, 30 - used) == whole[used:], used


def test_passing_over_what_was_used_reads_nothing(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = SampleSet.read

    def noted(self: SampleSet, number: int, *rest: Any) -> Sample | None:
        read.append(number)
        return original(self, number, *rest)

    monkeypatch.setattr(SampleSet, "read", noted)
    keys_of(make_stream(root, position=StreamPosition(10_000)), 1)
    assert len(read) == 3


def test_the_position_is_read_when_iteration_begins(root: str) -> None:
    stream = make_stream(root)
    whole = keys_of(stream, 6)
    stream.position.batches = 4
    assert keys_of(stream, 2) == whole[4:]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_two_ranks_see_every_sample_once_an_epoch_with_any_number_of_worker_processes(root: str, workers: int) -> None:
    seen: Counter[str] = Counter()
    for rank in range(2):
        stream = make_stream(root, batch_size=2, rank=rank, world_size=2)
        loader = DataLoader(stream, batch_size=None, num_workers=workers, generator=torch.Generator())
        seen.update(flat(keys_of(loader, 12)))  # two epochs of 24
    assert seen == Counter(KEYS * 2)


def test_a_batch_without_a_sound_sample_takes_the_next_of_the_order(root: str) -> None:
    skips = SkipLog()
    batches = flat(keys_of(make_stream(root, batch_size=1, skips=skips), 24))
    missing = next(number for number in range(23) if batches[number] == batches[number + 1])
    assert sorted([*batches[:missing], *batches[missing + 1 :]]) == KEYS
    assert skips.counts[SkipReason.BAD_JSON] == 1


def test_the_next_sound_sample_does_not_depend_on_how_far_the_run_is(root: str) -> None:
    """The position moves on while a stream in the main process makes its next batch."""
    stream = make_stream(root, batch_size=1)
    whole = keys_of(make_stream(root, batch_size=1), 24)
    found = []
    for batch in islice(stream, 24):
        stream.position.batches += 1
        found.append([sample.key for sample in batch])
    assert found == whole


def test_where_nothing_is_sound_the_counts_say_why(root: str) -> None:
    for shard in find_shards(root):
        shard.write_bytes(shard.read_bytes().replace(b'{"schema"', b'!"schema"'))
    with pytest.raises(ValueError, match=r"None of 48 samples.*left out were: \d+ bad_json"):
        keys_of(make_stream(root), 1)


def test_strict_raises_the_first_fault(root: str) -> None:
    with pytest.raises(ValueError, match="Sample 'corrupt' of the shard"):
        keys_of(make_stream(root, skips=SkipLog(strict=True)), 20)


def test_sources_are_mixed_by_weight_and_each_keeps_its_epochs(
    root: str, make_sample: MakeSample, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    write_shards((make_sample(f"o{number}") for number in range(6)), other, 2)
    keys = flat(keys_of(make_stream(root, str(other), weights=[3.0, 1.0], batch_size=4), 12))
    counts = Counter(key[0] for key in keys)
    assert counts["o"] == 12
    assert counts["s"] in (34, 35)  # 36 of 24, of which the corrupt one comes once or twice
    assert sorted(key for key in keys if key[0] == "o") == sorted([f"o{number}" for number in range(6)] * 2)
    for used in range(10):
        resumed = make_stream(root, str(other), weights=[3.0, 1.0], batch_size=4, position=StreamPosition(used))
        assert flat(keys_of(resumed, 12 - used)) == keys[-len(flat(keys_of(resumed, 12 - used))) :]


def test_ranks_draw_the_same_sources_at_the_same_time(root: str, make_sample: MakeSample, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_shards((make_sample(f"o{number}") for number in range(6)), other, 2)
    streams = [make_stream(root, str(other), weights=[2.0, 1.0], rank=rank, world_size=2) for rank in range(2)]
    kinds = [[[source for source, _ in batch] for batch in islice(stream._batches(0), 9)] for stream in streams]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 4, 11, 12])
def test_validation_gives_every_rank_equally_many_batches(
    monkeypatch: pytest.MonkeyPatch, root: str, batch_size: int, workers: int
) -> None:
    of_ranks: list[list[list[str]]] = []
    for rank in range(2):
        batches: dict[int, list[str]] = {}
        for worker in range(workers):
            monkeypatch.setattr(stream_module, "_this_worker", lambda _, worker=worker: (worker, workers))
            skips = SkipLog()
            stream = ValidationStream(
                samples_of(root, skips), batch_size=batch_size, rank=rank, world_size=2, cache=CACHE, skips=skips
            )
            batches |= {worker + workers * at: keys for at, keys in enumerate(keys_of(stream, 99))}
        of_ranks.append([batches[number] for number in range(len(batches))])
    assert len(of_ranks[0]) == len(of_ranks[1])
    assert sorted(flat(of_ranks[0] + of_ranks[1])) == KEYS
    assert flat(of_ranks[0]) == KEYS[0::2]


def test_what_is_in_memory_are_the_samples_of_a_batch(root: str) -> None:
    """Before its turn a sample is a number: the set holds no bytes of any."""
    stream = make_stream(root, shuffle_buffer=10_000)
    assert not any(isinstance(value, bytes) for shard, place in stream.sets[0]._items for value in (*place, shard))


def test_two_ranks_with_two_workers_that_are_killed_miss_nothing_and_repeat_nothing(
    make_sample: MakeSample, tmp_path: Path
) -> None:
    """Killed without warning in the middle of an epoch, and gone on with."""
    shards = tmp_path / "shards"
    write_shards((make_sample(key) for key in KEYS), shards, 4)
    script = Path(__file__).with_name("killed_reader.py")
    for target in (4, 13):
        running: list[tuple[Path, subprocess.Popen[bytes]]] = []
        for rank in range(2):
            state = tmp_path / f"state-{rank}"
            command = [sys.executable, script, shards, state, tmp_path / f"log-{rank}", str(rank)]
            running.append((state, subprocess.Popen(command)))
        for state, process in running:
            with process:
                while not state.exists() or int(state.read_text()) < target:
                    assert process.poll() is None
                    time.sleep(0.002)
                process.kill()
    used: list[list[list[str]]] = []
    for rank in range(2):
        lines = [json.loads(line) for line in (tmp_path / f"log-{rank}").read_text().splitlines() if line[-2:] == "]]"]
        batches = dict(lines)
        assert all(batches[number] == keys for number, keys in lines)  # what was used again is what was used
        assert list(batches) == list(range(1, len(batches) + 1))
        alone = make_stream(str(shards), shuffle_buffer=6, batch_size=2, rank=rank, world_size=2)
        assert list(batches.values()) == keys_of(alone, len(batches))
        used.append(list(batches.values()))
    counts = Counter(flat(used[0][:12] + used[1][:12]))  # two epochs of 23, and two samples of the third
    assert set(counts) == set(KEYS)
    assert sum(counts.values()) == 48
    assert set(counts.values()) <= {2, 3}
