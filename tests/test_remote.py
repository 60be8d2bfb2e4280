"""Shards behind http(s): nothing is lost to a server that fails, and copies stay within their limit."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path

import pytest
from shard_server import ShardServer, open_all, serving

from infogap.cli import main
from infogap.data.datamodule import ShardDataModule
from infogap.data.manifest import ManifestEntry, ManifestHeader, ManifestWriter, SelectionStatus
from infogap.data.reader import open_set
from infogap.data.remote import Cache, CacheConfig, MissingError, RemoteError
from infogap.data.sample import Sample
from infogap.data.skips import SkipLog
from infogap.data.writing import write_shards

MakeSample = Callable[..., Sample]
KEYS = [f"s{number:02d}" for number in range(24)]


@pytest.fixture
def folder(make_sample: MakeSample, tmp_path: Path) -> Path:
    """Eight shards of three samples."""
    write_shards((make_sample(key) for key in KEYS), tmp_path / "web" / "train", 3)
    return tmp_path / "web" / "train"


@pytest.fixture
def server(folder: Path) -> Iterator[ShardServer]:
    with serving(folder.parent) as running:
        yield running


@pytest.fixture
def config(tmp_path: Path) -> CacheConfig:
    return CacheConfig(str(tmp_path / "cache"), first_wait=0.0)


def keys_of(data: ShardDataModule, count: int) -> list[str]:
    return [sample.key for sample in chain.from_iterable(islice(data.train_dataloader(), count))]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("fault", ["error", "cut"])
def test_a_server_that_fails_every_third_request_loses_nothing(
    server: ShardServer, folder: Path, config: CacheConfig, fault: str, ranges: bool, workers: int
) -> None:
    server.fault = lambda number: fault if number % 3 == 0 else ""
    server.ranges = ranges
    local = keys_of(ShardDataModule(str(folder), prompts_per_step=4), 12)
    far = ShardDataModule(f"{server.url}train", prompts_per_step=4, num_workers=workers, cache=config)
    assert keys_of(far, 12) == local
    assert Counter(local) == Counter(KEYS * 2)
    assert not far.skipped
    assert len(server.requests) >= 12  # every third one failed
    assert any(begin for _, begin in server.requests) == (fault == "cut" and ranges)


def test_a_shard_is_fetched_once(server: ShardServer, config: CacheConfig) -> None:
    for _ in range(2):
        assert len(keys_of(ShardDataModule(f"{server.url}train/", prompts_per_step=4, cache=config), 12)) == 48
    asked = Counter(path for path, _ in server.requests)
    assert {count for path, count in asked.items() if path.endswith(".tar")} == {1}


def test_copies_stay_within_their_limit_and_are_fetched_again(
    server: ShardServer, folder: Path, config: CacheConfig
) -> None:
    size = max(path.stat().st_size for path in folder.glob("*.tar"))
    config.limit_gib = 2.5 * size / 2**30
    data = ShardDataModule(f"{server.url}train", prompts_per_step=4, shuffle_buffer=24, cache=config)
    assert Counter(keys_of(data, 12)) == Counter(KEYS * 2)
    copies = [path for path in Path(str(config.folder)).iterdir() if path.suffix == ".tar"]
    assert len(copies) <= 2
    config.limit_gib = 0.5 * size / 2**30
    with pytest.raises(RemoteError, match=r"has \d+ bytes, but data.cache.limit_gib allows \d+: raise it"):
        keys_of(ShardDataModule(f"{server.url}train", prompts_per_step=4, cache=config), 1)


def test_a_copy_that_is_open_can_be_read_after_it_made_room(folder: Path, server: ShardServer, tmp_path: Path) -> None:
    first, second = sorted(folder.glob("*.tar"))[:2]
    limit = 1.5 * max(first.stat().st_size, second.stat().st_size) / 2**30
    cache = Cache(CacheConfig(str(tmp_path / "cache"), limit_gib=limit))
    opened = [cache.open(f"{server.url}train/{path.name}", path.stat().st_size) for path in (first, second)]
    assert len(list((tmp_path / "cache").glob("*.tar"))) == 1
    assert os.pread(opened[0], 1 << 30, 0) == first.read_bytes()
    for descriptor in opened:
        os.close(descriptor)


def test_what_is_not_there_is_said_at_once_and_a_server_that_stays_ill_in_the_end(
    server: ShardServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    waits: list[float] = []
    cache = Cache(CacheConfig(str(tmp_path), attempts=5, first_wait=1.0), waits.append)
    with pytest.raises(MissingError, match=r"train/gone.tar could not be fetched, tried once \(.*404"):
        cache.open(f"{server.url}train/gone.tar")
    server.fault = lambda number: "error"
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(RemoteError, match=r"tried 5 times \(.*503.*\): check the address"),
    ):
        cache.open(f"{server.url}train/shard-000000.tar")
    assert len(caplog.messages) == len(waits) == 4
    assert all(2**number / 2 <= wait <= 2**number for number, wait in enumerate(waits))
    with pytest.raises(RemoteError, match="Connection refused"):
        cache.open("http://127.0.0.1:9/x")


def test_another_content_than_the_index_says_is_not_used(
    server: ShardServer, folder: Path, config: CacheConfig
) -> None:
    shard = folder / "shard-000003.tar"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    with pytest.raises(RemoteError, match=r"shard-000003.tar could not be fetched.*another content than its index"):
        keys_of(ShardDataModule(f"{server.url}train", prompts_per_step=4, cache=config), 6)


def test_one_shard_and_a_range_of_them_have_addresses_too(server: ShardServer, config: CacheConfig) -> None:
    cache = Cache(config)
    names = {
        "train/shard-000002.tar": KEYS[6:9],
        "train/shard-{000001..000003}.tar": KEYS[3:12],
        "train": KEYS,
    }
    for name, keys in names.items():
        shards = open_set(server.url + name, cache, SkipLog())
        assert [place.key for shard in shards for place in shard.places] == keys
    with pytest.raises(FileNotFoundError, match=r"does not list shard-000009.tar: correct"):
        open_set(f"{server.url}train/shard-000009.tar", cache, SkipLog())


def test_an_index_that_does_not_say_where_records_lie_is_refused(
    server: ShardServer, folder: Path, config: CacheConfig
) -> None:
    index = json.loads((folder / "shards.json").read_bytes())
    for entry in index["shards"]:
        del entry["members"]
    (folder / "shards.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"does not say where the records of shard-000000.tar lie.*infogap data index"):
        open_set(f"{server.url}train", Cache(config), SkipLog())


def test_the_manifest_beside_remote_shards_is_used(server: ShardServer, folder: Path, config: CacheConfig) -> None:
    data = ShardDataModule(f"{server.url}train", require_view_tokens=True, prompts_per_step=2, cache=config)
    with pytest.raises(FileNotFoundError, match=r"There is no resolution manifest beside http://"):
        data.train_dataloader()
    with ManifestWriter(folder / "resolution.jsonl", ManifestHeader("policy", (64, 32))) as writer:
        for key in ("s03", "s11"):
            writer.append(ManifestEntry(key, SelectionStatus.SELECTED, 32))
    assert sorted(keys_of(data, 1)) == ["s03", "s11"]


def test_processes_share_the_copies(server: ShardServer, folder: Path, config: CacheConfig) -> None:
    paths = sorted(folder.glob("*.tar"))
    arguments = (
        str(config.folder),
        f"{server.url}train/",
        [path.name for path in paths],
        [path.stat().st_size for path in paths],
    )
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=open_all, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert Counter(path for path, _ in server.requests) == Counter(f"train/{path.name}" for path in paths)
    found = {hashlib.sha256(path.read_bytes()).digest() for path in Path(str(config.folder)).glob("*.tar")}
    assert found == {hashlib.sha256(path.read_bytes()).digest() for path in paths}


def test_a_shard_that_was_written_anew_is_fetched_anew_even_if_its_size_is_the_same(
    server: ShardServer, folder: Path, config: CacheConfig, make_sample: MakeSample
) -> None:
    def questions() -> set[str]:
        data = ShardDataModule(f"{server.url}train", prompts_per_step=24, cache=config)
        return {sample.question for sample in next(iter(data.train_dataloader()))}

    before = {path.name: path.stat().st_size for path in folder.glob("*.tar")}
    assert len(questions()) == len(KEYS)
    shutil.rmtree(folder)
    write_shards((make_sample(key, question="How many cats?") for key in KEYS), folder, 3)
    assert {path.name: path.stat().st_size for path in folder.glob("*.tar")} == before
    assert questions() == {"How many cats?"}


def test_a_copy_that_another_process_removes_is_fetched_again(
    server: ShardServer, folder: Path, config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard, cache = folder / "shard-000000.tar", Cache(config)
    opened = [cache.open(f"{server.url}train/{shard.name}", shard.stat().st_size)]
    for copy in Path(str(config.folder)).glob("*.tar"):
        copy.unlink()
    opened.append(cache.open(f"{server.url}train/{shard.name}", shard.stat().st_size))
    assert [os.pread(one, 1 << 30, 0) == shard.read_bytes() for one in opened] == [True, True]
    for one in opened:
        os.close(one)


def test_no_sample_is_left_out_because_of_the_cache(server: ShardServer, config: CacheConfig) -> None:
    data = ShardDataModule(f"{server.url}train", prompts_per_step=4, cache=config)
    batches = iter(data.train_dataloader())
    shutil.rmtree(str(config.folder))
    Path(str(config.folder)).write_text("a file in the way")
    with pytest.raises(RemoteError, match=r"cannot be kept in .*cache \(.*\): mend that folder, or name another"):
        next(batches)
    assert not data.skipped


def test_nothing_is_left_of_a_file_that_was_not_fetched_to_its_end(
    server: ShardServer, folder: Path, config: CacheConfig
) -> None:
    shard, config.attempts = folder / "shard-000000.tar", 2
    server.fault = lambda number: "cut"
    with pytest.raises(RemoteError, match="tried 2 times"):
        Cache(config).open(f"{server.url}train/{shard.name}", shard.stat().st_size)
    left = Path(str(config.folder)) / "abandoned.tar.partial"
    assert not list(Path(str(config.folder)).glob("*.partial"))
    left.write_bytes(bytes(1000))  # of a process that was killed
    server.fault = lambda number: ""
    config.limit_gib = (shard.stat().st_size + 10) / 2**30
    os.close(Cache(config).open(f"{server.url}train/{shard.name}", shard.stat().st_size))
    assert not left.exists()


def test_a_store_that_says_forbidden_for_what_is_not_there_can_be_used(
    server: ShardServer, config: CacheConfig
) -> None:
    server.missing = 403
    assert len(keys_of(ShardDataModule(f"{server.url}train", prompts_per_step=4, cache=config), 1)) == 4


def test_an_answer_of_unknown_length_is_not_taken_for_a_whole_index(server: ShardServer, config: CacheConfig) -> None:
    server.says_length = False
    config.attempts = 2
    with pytest.raises(RemoteError, match="does not say how long it is"):
        open_set(f"{server.url}train", Cache(config), SkipLog())


def test_the_command_line_takes_an_address_for_what_it_is(
    server: ShardServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lightning's parser would fetch it and take what the server answers for a configuration."""
    config = Path(__file__).parents[1] / "configs" / "stage1.yaml"
    needle = ["--data.needle=null", "--data.val_root=null"]
    with pytest.raises(SystemExit) as stop:
        main(["fit", f"--config={config}", *needle, f"--data.root={server.url}train", "--print_config"])
    assert stop.value.code == 0
    assert f"root: {server.url}train\n" in capsys.readouterr().out
    assert not server.requests


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"limit_gib": 0}, "limit_gib is 0"),
        ({"attempts": 0}, "attempts is 0"),
        ({"first_wait": -1}, "first_wait is -1"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(changes: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CacheConfig(**changes)  # type: ignore[arg-type]
