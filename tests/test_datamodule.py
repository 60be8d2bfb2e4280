"""The datamodule: which samples come, in which order, and that an interrupted run goes on with the next one."""

from __future__ import annotations

import logging
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonargparse
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from infogap.data import stream as stream_module
from infogap.data.datamodule import NeedleShardConfig, ShardDataModule
from infogap.data.manifest import ManifestEntry, ManifestHeader, ManifestWriter, SelectionStatus
from infogap.data.needle import NeedleConfig
from infogap.data.sample import Sample
from infogap.data.shards import find_shards, write_shards
from infogap.data.skips import SkipLog, SkipReason
from infogap.data.stream import SampleBatch, Selection, StreamPosition, TrainStream, ValidationStream
from infogap.geometry import Box

MakeSample = Callable[..., Sample]
KEYS = [f"s{number:02d}" for number in range(23)]


@pytest.fixture
def root(make_sample: MakeSample, tmp_path: Path) -> str:
    """Five shards with 23 samples, one of them corrupt; every third has evidence."""
    evidence = ((Box(1, 1, 9, 9),),)
    samples = [
        make_sample(key, evidence=evidence if number % 3 == 0 else ()) for number, key in enumerate([*KEYS, "corrupt"])
    ]
    folder = tmp_path / "train"
    shards = write_shards(samples, folder, 5)
    data = shards[-1].read_bytes()
    start = data.rfind(b'{"schema"')
    shards[-1].write_bytes(data[:start] + b"!" + data[start + 1 :])
    return str(folder)


def make_stream(root: str, **changes: Any) -> TrainStream:
    arguments: dict[str, Any] = {
        "batch_size": 3,
        "shuffle_buffer": 6,
        "seed": 0,
        "rank": 0,
        "world_size": 1,
        "position": StreamPosition(),
        "skips": SkipLog(),
    }
    selection = changes.pop("selection", Selection())
    return TrainStream(find_shards(root), selection, **{**arguments, **changes})


def keys_of(batches: Any, count: int) -> list[list[str]]:
    """Keys of the first batches."""
    return [[sample.key for sample in batch] for batch in islice(batches, count)]


def flat(lists: Any) -> list[str]:
    """One list of many."""
    return list(chain.from_iterable(lists))


def in_worker(monkeypatch: pytest.MonkeyPatch, stream: TrainStream, worker: int, workers: int) -> Iterator[SampleBatch]:
    """The stream as a DataLoader worker sees it, without its process."""
    with monkeypatch.context() as patch:
        patch.setattr(stream_module, "_this_worker", lambda: (worker, workers))
        iterator = iter(stream)
        first = next(iterator)  # the generator asks which worker it is in when it starts
    yield first
    yield from iterator


def in_turn(monkeypatch: pytest.MonkeyPatch, make: Callable[[], TrainStream], workers: int, count: int) -> list[Any]:
    """Batches as a DataLoader takes them from its workers: in turn, beginning with the first."""
    running = [in_worker(monkeypatch, make(), worker, workers) for worker in range(workers)]
    return [[sample.key for sample in next(running[number % workers])] for number in range(count)]


def test_every_epoch_brings_every_sound_sample_once_in_another_order(root: str) -> None:
    stream = make_stream(root, batch_size=23)
    epochs = keys_of(stream, 4)
    assert all(sorted(epoch) == KEYS for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert KEYS not in epochs
    assert stream.skips.counts[SkipReason.BAD_JSON] >= 3


def test_both_shuffles_change_from_epoch_to_epoch(root: str, make_sample: MakeSample, tmp_path: Path) -> None:
    shards_only = keys_of(make_stream(root, batch_size=23, shuffle_buffer=1), 4)
    assert len({tuple(epoch) for epoch in shards_only}) > 1
    write_shards((make_sample(key) for key in KEYS), tmp_path / "one", 23)
    records_only = keys_of(make_stream(str(tmp_path / "one"), batch_size=23), 4)
    assert len({tuple(epoch) for epoch in records_only}) == 4


def test_a_buffer_that_holds_everything_shuffles_everything(make_sample: MakeSample, tmp_path: Path) -> None:
    write_shards((make_sample(f"{number:03d}", size=(8, 8)) for number in range(150)), tmp_path / "many", 150)
    streams = [make_stream(str(tmp_path / "many"), batch_size=1, shuffle_buffer=150, seed=seed) for seed in range(9)]
    assert max(keys_of(stream, 1)[0][0] for stream in streams) >= "100"


def test_the_order_follows_from_the_seed(root: str) -> None:
    orders = [keys_of(make_stream(root, seed=seed), 20) for seed in (7, 7, 8)]
    assert orders[0] == orders[1] != orders[2]
    assert {len(batch) for batch in orders[0]} == {3}


def test_a_buffer_of_one_keeps_the_order_within_shards(root: str) -> None:
    (epoch,) = keys_of(make_stream(root, batch_size=23, shuffle_buffer=1), 1)
    assert sorted(epoch) == KEYS
    assert epoch != KEYS
    for key, following in pairwise(epoch):
        assert following == f"s{int(key[1:]) + 1:02d}" or int(following[1:]) % 5 == 0


@pytest.mark.parametrize("parts", [2, 4, 7])
def test_the_parts_share_every_epoch(root: str, parts: int) -> None:
    """With 7 parts there are fewer shards than parts, and the records are dealt out instead."""
    streams = [make_stream(root) for _ in range(parts)]
    for epoch in range(2):
        keys = [
            [record["__key__"] for record in stream._records(epoch, part, parts)] for part, stream in enumerate(streams)
        ]
        assert sorted(flat(keys)) == ["corrupt", *KEYS]
        assert all(keys)


def test_ranks_see_different_samples(root: str) -> None:
    first, second = (keys_of(make_stream(root, rank=rank, world_size=2), 2) for rank in range(2))
    assert not set(flat(first)) & set(flat(second))


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("changes", [{}, {"rank": 1, "world_size": 2, "shuffle_buffer": 50}])
def test_a_stream_goes_on_at_any_position(
    monkeypatch: pytest.MonkeyPatch, root: str, workers: int, changes: dict[str, Any]
) -> None:
    def make(used: int) -> TrainStream:
        return make_stream(root, position=StreamPosition(used), **changes)

    whole = in_turn(monkeypatch, lambda: make(0), workers, 30)
    for used in range(20):
        resumed = in_turn(monkeypatch, lambda used=used: make(used), workers, 30 - used)
        assert resumed == whole[used:], used


def test_the_position_is_read_when_iteration_begins(root: str) -> None:
    stream = make_stream(root)
    whole = keys_of(stream, 6)
    stream.position.batches = 4
    assert keys_of(stream, 2) == whole[4:]


def test_a_part_without_samples_says_why(root: str) -> None:
    stream = make_stream(root, selection=Selection(require_view_tokens=True))
    with pytest.raises(ValueError, match=r"Part 0 of 1 .* 1 bad_json, 23 no_selected_view"):
        next(iter(stream))
    with pytest.raises(ValueError, match="Part 30 of 31"):
        next(iter(make_stream(root, rank=30, world_size=31)))


def test_the_datamodule_reads_with_worker_processes(root: str) -> None:
    def make() -> ShardDataModule:
        return ShardDataModule(root, prompts_per_step=2, num_workers=2, shuffle_buffer=4)

    whole = keys_of(make().train_dataloader(), 12)
    alone = make_stream(root, batch_size=2, shuffle_buffer=4, rank=0, world_size=2)
    assert whole[0::2] == keys_of(alone, 6)  # the first worker's part is that of the first of two ranks
    resumed = make()
    resumed.load_state_dict(make().state_dict() | {"batches_used": 5})
    assert keys_of(resumed.train_dataloader(), 7) == whole[5:]


def test_drawing_batches_leaves_the_global_generator_alone(root: str) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    keys_of(ShardDataModule(root).train_dataloader(), 2)
    assert torch.equal(torch.rand(1), expected)


def write_manifest(folder: str, statuses: dict[str, SelectionStatus]) -> Path:
    path = Path(folder) / "resolution.jsonl"
    with ManifestWriter(path, ManifestHeader("policy", (64, 32))) as writer:
        for key, status in statuses.items():
            writer.append(ManifestEntry(key, status, 32 if status is SelectionStatus.SELECTED else None))
    return path


def test_samples_get_the_view_that_was_selected(root: str) -> None:
    statuses = {
        "s03": SelectionStatus.SELECTED,
        "s04": SelectionStatus.NEVER_DIVERGES,
        "s09": SelectionStatus.SELECTED,
        "s10": SelectionStatus.WRONG_ON_ORIGINAL,
    }
    path = write_manifest(root, statuses)
    data = ShardDataModule(root, prompts_per_step=23)
    (everything,) = islice(data.train_dataloader(), 1)
    assert {sample.key for sample in everything if sample.view_tokens == 32} == {"s03", "s09"}
    assert {sample.view_tokens for sample in everything} == {32, None}
    path = path.rename(path.parent.parent / "elsewhere.jsonl")
    data = ShardDataModule(root, prompts_per_step=2, manifest=str(path), require_view_tokens=True)
    assert all(sorted(batch) == ["s03", "s09"] for batch in keys_of(data.train_dataloader(), 5))
    assert data.skipped[SkipReason.NO_SELECTED_VIEW] >= 21 * 4


def test_a_manifest_that_is_missing_is_named(root: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"no resolution manifest .*resolution\.jsonl: run resolution"):
        ShardDataModule(root, require_view_tokens=True).train_dataloader()
    with pytest.raises(FileNotFoundError, match="no resolution manifest gone"):
        ShardDataModule(root, manifest="gone").train_dataloader()


def test_a_limit_takes_the_first_samples_that_are_wanted(root: str) -> None:
    data = ShardDataModule(root, prompts_per_step=4, limit=4, require_evidence=True)
    batches = keys_of(data.train_dataloader(), 6)
    assert all(sorted(batch) == ["s00", "s03", "s06", "s09"] for batch in batches)
    assert len({tuple(batch) for batch in batches}) > 1
    assert data.skipped[SkipReason.NO_EVIDENCE] == 6  # once, on the way to the fourth; the stream reads only the four
    whole = ShardDataModule(root, prompts_per_step=2, limit=23)
    assert Counter(flat(keys_of(whole.train_dataloader(), 23))) == Counter(KEYS * 2)
    with pytest.raises(ValueError, match=r"limit is 24, but .* has only 23 samples"):
        ShardDataModule(root, limit=24).train_dataloader()


def test_strict_raises_the_first_fault(root: str) -> None:
    with pytest.raises(ValueError, match="Sample 'corrupt' of the shard"):
        keys_of(ShardDataModule(root, strict=True).train_dataloader(), 20)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prompts_per_step": 0}, "data.prompts_per_step is 0: give at least 1"),
        ({"shuffle_buffer": 0}, "data.shuffle_buffer is 0"),
        ({"num_workers": -1}, "data.num_workers is -1"),
        ({"limit": 0}, "data.limit is 0"),
        ({"root": "pipe:cat x"}, "not local files"),
        ({"val_root": "http://x/y.tar"}, "not local files"),
        ({"root": "x/*.tar", "needle": NeedleShardConfig()}, "is no folder to write shards to"),
    ],
)
def test_arguments_that_cannot_work_are_refused_at_once(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ShardDataModule(**({"root": "x"} | arguments))


def test_samples_of_a_step_that_cannot_be_shared_out_are_refused() -> None:
    data = ShardDataModule("x", prompts_per_step=12)
    data.trainer = SimpleNamespace(global_rank=0, world_size=8)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"data.prompts_per_step is 12 and there are 8 processes: make it a multiple"):
        data.setup("fit")
    data.trainer.world_size = 4
    data.setup("fit")


def test_validation_passes_over_all_samples_once_in_order(root: str) -> None:
    data = ShardDataModule(root, val_root=root, prompts_per_step=5)
    for _ in range(2):
        batches = keys_of(data.val_dataloader(), 99)
        assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
        assert flat(batches) == KEYS
    assert ShardDataModule(root).val_dataloader() == []
    write_manifest(root, {"s01": SelectionStatus.SELECTED})
    views = [sample.view_tokens for batch in data.val_dataloader() for sample in batch]
    assert views == [None, 32] + [None] * 21


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 4, 11, 12])
def test_validation_gives_every_rank_equally_many_batches(
    monkeypatch: pytest.MonkeyPatch, root: str, batch_size: int, workers: int
) -> None:
    of_ranks: list[list[list[str]]] = []
    for rank in range(2):
        batches: dict[int, list[str]] = {}
        for worker in range(workers):
            monkeypatch.setattr(stream_module, "_this_worker", lambda worker=worker: (worker, workers))
            stream = ValidationStream(
                find_shards(root), Selection(), batch_size=batch_size, rank=rank, world_size=2, skips=SkipLog()
            )
            batches |= {worker + workers * at: keys for at, keys in enumerate(keys_of(stream, 99))}
        of_ranks.append([batches[number] for number in range(len(batches))])
    assert len(of_ranks[0]) == len(of_ranks[1])
    assert sorted(flat(of_ranks[0] + of_ranks[1])) == KEYS
    assert flat(of_ranks[0]) == KEYS[0::2]


def test_needle_scenes_are_written_once_where_there_are_none(tmp_path: Path) -> None:
    needle = NeedleShardConfig(NeedleConfig(sides=(224,), signs=(2, 2)), count=3, val_count=2, seed=5)
    roots = [str(tmp_path / name) for name in ("train", "val")]
    data = ShardDataModule(*roots, needle=needle, prompts_per_step=3)
    data.prepare_data()
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")}
    data.prepare_data()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")} == written
    (batch,) = keys_of(data.train_dataloader(), 1)
    assert sorted(batch) == [f"needle-attribute-5-{index:06d}" for index in range(3)]
    assert keys_of(data.val_dataloader(), 9) == [[f"needle-attribute-6-{index:06d}" for index in range(2)]]
    ShardDataModule(str(tmp_path / "other")).prepare_data()
    assert not (tmp_path / "other").exists()


def test_needle_scenes_of_other_settings_are_not_taken_for_those_asked_for(tmp_path: Path) -> None:
    root = str(tmp_path / "train")
    ShardDataModule(root, needle=NeedleShardConfig(NeedleConfig(sides=(224,), signs=(2, 2)), count=2)).prepare_data()
    changed = NeedleShardConfig(NeedleConfig(sides=(224,), signs=(2, 3)), count=2, seed=5)
    message = f"The needle scenes in {root} were drawn with another scenes and seed than data.needle asks for: remove"
    with pytest.raises(ValueError, match=re.escape(message)):
        ShardDataModule(root, needle=changed).prepare_data()
    ShardDataModule(root).prepare_data()  # used as they are


def test_shards_of_the_user_are_not_overwritten(root: str) -> None:
    Path(root, "shards.json").unlink()
    before = {path: path.read_bytes() for path in Path(root).iterdir()}
    ShardDataModule(root, needle=NeedleShardConfig(count=1)).prepare_data()
    assert {path: path.read_bytes() for path in Path(root).iterdir()} == before


class Recorder(LightningModule):
    """Notes the keys it is given, as the real module would get them."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches: list[list[str]] = []
        self.validated: list[str] = []

    def training_step(self, batch: list[Sample]) -> None:
        assert type(batch) is list
        assert all(type(sample) is Sample for sample in batch)
        self.batches.append([sample.key for sample in batch])
        self.optimizers().step()

    def validation_step(self, batch: list[Sample]) -> None:
        self.validated += [sample.key for sample in batch]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(data: ShardDataModule, folder: Path, resume: Path | None = None, **arguments: Any) -> Recorder:
    recorder = Recorder()
    if data.val_root is None:
        arguments = {"limit_val_batches": 0} | arguments  # Lightning remarks on a validation of length zero
    Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)],
        **arguments,
    ).fit(recorder, data, ckpt_path=resume)
    return recorder


@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")  # the rest goes to a folder of its own
@pytest.mark.parametrize("arguments", [{}, {"limit_train_batches": 3, "max_epochs": 9}])
def test_lightning_resumes_where_a_checkpoint_stopped(root: str, tmp_path: Path, arguments: dict[str, Any]) -> None:
    """Also where Lightning's epochs are shorter than ours; what it had prefetched is not lost."""

    def data() -> ShardDataModule:
        return ShardDataModule(root, prompts_per_step=4, seed=3)

    whole = fit(data(), tmp_path / "whole", max_steps=10, **arguments).batches
    assert whole == keys_of(data().train_dataloader(), 10)
    for stop in (4, 6):
        resumed = fit(
            data(), tmp_path / f"rest-{stop}", tmp_path / "whole" / f"step={stop}.ckpt", max_steps=10, **arguments
        )
        assert resumed.batches == whole[stop:], stop


def test_validation_during_training_does_not_move_the_stream(root: str, tmp_path: Path) -> None:
    data = ShardDataModule(root, val_root=root, prompts_per_step=4)
    recorder = fit(data, tmp_path / "run", max_steps=6, limit_train_batches=3, max_epochs=2, num_sanity_val_steps=1)
    assert recorder.batches == keys_of(ShardDataModule(root, prompts_per_step=4).train_dataloader(), 6)
    assert recorder.validated == KEYS[:4] + KEYS + KEYS
    assert data.state_dict()["batches_used"] == 6


@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero:UserWarning")
def test_training_needs_no_validation_shards(root: str, tmp_path: Path) -> None:
    recorder = fit(ShardDataModule(root), tmp_path / "run", max_steps=1, limit_val_batches=1.0)
    assert (len(recorder.batches), recorder.validated) == (1, [])


def test_true_half_precision_leaves_the_samples_alone(root: str, tmp_path: Path) -> None:
    recorder = fit(ShardDataModule(root), tmp_path / "run", max_steps=1, precision="bf16-true")
    assert len(recorder.batches) == 1


def test_a_changed_order_is_announced(root: str, caplog: pytest.LogCaptureFixture) -> None:
    state = ShardDataModule(root, seed=1).state_dict() | {"batches_used": 7}
    data = ShardDataModule(root, seed=2)
    with caplog.at_level(logging.WARNING):
        data.load_state_dict(state)
    assert caplog.messages == [
        "The checkpoint was written with seed 1, now it is 2: the order of the samples is another one."
    ]
    assert data.state_dict()["batches_used"] == 7


def test_the_constructor_is_the_schema_of_the_command_line() -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ShardDataModule, "data")
    parsed = parser.parse_args(
        ["--data.root=x", "--data.needle.count=7", "--data.needle.scenes.signs=[2,3]", "--data.limit=256"]
    )
    assert parsed.data.limit == 256
    assert parsed.data.needle.count == 7
    assert parsed.data.needle.scenes.signs == (2, 3)
    assert parsed.data.needle.scenes.sides == NeedleConfig().sides
    with pytest.raises(jsonargparse.ArgumentError, match="shufle"):
        parser.parse_args(["--data.root=x", "--data.shufle_buffer=7"])


def test_a_truncated_shard_costs_its_rest_and_nothing_else(root: str) -> None:
    shards = find_shards(root)
    with tarfile.open(shards[0]) as archive:
        cut = archive.getmember("s03.jpg").offset_data + 10
    shards[0].write_bytes(shards[0].read_bytes()[:cut])
    data = ShardDataModule(root, prompts_per_step=21)
    epochs = keys_of(data.train_dataloader(), 2)
    assert all(sorted(epoch) == [key for key in KEYS if key not in ("s03", "s04")] for epoch in epochs)
    assert data.skipped[SkipReason.BROKEN_SHARD] >= 1
