"""The datamodule: which samples come, in which order, and that an interrupted run goes on with the next one."""

from __future__ import annotations

import logging
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonargparse
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from infogap.data.datamodule import ShardDataModule, ShardSource
from infogap.data.manifest import ManifestEntry, ManifestHeader, ManifestWriter, SelectionStatus
from infogap.data.needle import NeedleConfig
from infogap.data.needle_shards import NeedleShardConfig
from infogap.data.sample import Sample
from infogap.data.shards import find_shards
from infogap.data.skips import SkipReason
from infogap.data.writing import write_shards
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


def keys_of(batches: Any, count: int) -> list[list[str]]:
    """Keys of the first batches."""
    return [[sample.key for sample in batch] for batch in islice(batches, count)]


def flat(lists: Any) -> list[str]:
    """One list of many."""
    return list(chain.from_iterable(lists))


def test_the_datamodule_reads_with_worker_processes(root: str) -> None:
    def make() -> ShardDataModule:
        return ShardDataModule(root, prompts_per_step=2, num_workers=2, shuffle_buffer=4)

    whole = keys_of(make().train_dataloader(), 12)
    alone = ShardDataModule(root, prompts_per_step=2, shuffle_buffer=4)
    assert whole == keys_of(alone.train_dataloader(), 12)
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
    data = ShardDataModule(root, prompts_per_step=24)
    (everything,) = islice(data.train_dataloader(), 1)
    assert {sample.key for sample in everything if sample.view_tokens == 32} == {"s03", "s09"}
    assert {sample.view_tokens for sample in everything} == {32, None}
    path = path.rename(path.parent.parent / "elsewhere.jsonl")
    data = ShardDataModule(root, prompts_per_step=2, manifest=str(path), require_view_tokens=True)
    assert all(sorted(batch) == ["s03", "s09"] for batch in keys_of(data.train_dataloader(), 5))
    assert data.skipped == {SkipReason.NO_SELECTED_VIEW: 22}  # once: they are not even read


def test_where_nothing_is_wanted_the_counts_say_why(root: str) -> None:
    write_manifest(root, {"s03": SelectionStatus.NEVER_DIVERGES})
    with pytest.raises(ValueError, match=r"The 5 shards of .* hold no sample that can be used; .* 24 no_selected_view"):
        ShardDataModule(root, require_view_tokens=True).train_dataloader()


def test_several_sources_are_used_up_together_by_default(root: str, make_sample: MakeSample, tmp_path: Path) -> None:
    write_shards((make_sample(f"o{number}") for number in range(12)), tmp_path / "other", 5)
    sources = [ShardSource(root), ShardSource(str(tmp_path / "other"))]
    data = ShardDataModule(sources=sources, prompts_per_step=6)
    keys = Counter(flat(keys_of(data.train_dataloader(), 12)))  # two epochs of 24 + 12
    assert keys == Counter([*KEYS, *(f"o{number}" for number in range(12))] * 2)


def test_what_is_not_wanted_is_counted_once_with_any_number_of_workers(root: str, tmp_path: Path) -> None:
    for workers in (0, 2):
        data = ShardDataModule(root, prompts_per_step=8, num_workers=workers, require_evidence=True)
        fit(data, tmp_path / str(workers), max_steps=2)
        assert data.skipped == {SkipReason.NO_EVIDENCE: 16}


def test_passes_leave_no_shard_open(root: str) -> None:
    data = ShardDataModule(root, root, prompts_per_step=8, limit=4)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        keys_of(data.val_dataloader(), 99)
        keys_of(data.train_dataloader(), 3)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_manifest_that_is_missing_is_named(root: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"no resolution manifest beside .*train: run resolution"):
        ShardDataModule(root, require_view_tokens=True).train_dataloader()
    with pytest.raises(FileNotFoundError, match="no resolution manifest gone"):
        ShardDataModule(root, manifest="gone").train_dataloader()


def test_a_limit_takes_the_first_samples_that_are_wanted(root: str) -> None:
    data = ShardDataModule(root, prompts_per_step=4, limit=4, require_evidence=True)
    batches = keys_of(data.train_dataloader(), 6)
    assert all(sorted(batch) == ["s00", "s03", "s06", "s09"] for batch in batches)
    assert len({tuple(batch) for batch in batches}) > 1
    assert data.skipped == {SkipReason.NO_EVIDENCE: 16}
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
        ({"val_root": "s3://x/y.tar"}, "not local files"),
        ({"root": "http://x/y", "needle": NeedleShardConfig()}, "is no folder to write shards to"),
        ({"root": None}, "are both empty: name the shards"),
        ({"sources": [ShardSource("y")]}, "are both given: set data.root to null"),
        (
            {"root": None, "sources": [ShardSource("x", 1.0), ShardSource("y")]},
            r"the weights \[1.0, None\]: give one to every source",
        ),
        ({"root": None, "sources": [ShardSource("x", -1.0)]}, r"the weights \[-1.0\]: give positive"),
        ({"root": None, "sources": [ShardSource("x")], "manifest": "m"}, "give each source its own"),
        ({"root": "https://host/x?token=1"}, "has a query, a fragment, a user or a space"),
        ({"val_root": "https://me:secret@host/x"}, "has a query, a fragment, a user or a space"),
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
        assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]  # the corrupt one would be the last
        assert flat(batches) == KEYS
    assert ShardDataModule(root).val_dataloader() == []
    write_manifest(root, {"s01": SelectionStatus.SELECTED})
    views = [sample.view_tokens for batch in data.val_dataloader() for sample in batch]
    assert views == [None, 32] + [None] * 21


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
    loader = data.train_dataloader()
    assert data.skipped == {SkipReason.BROKEN_SHARD: 1}
    keys = flat(keys_of(loader, 22))  # 21 epochs of 22, the corrupt one included
    assert Counter(keys) == Counter([key for key in KEYS if key not in ("s03", "s04")] * 21)
