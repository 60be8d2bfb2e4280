"""Resolution selection by many processes: whatever is killed, dealt out or asked in another order, the results stay."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import distributed

from infogap.data.images import HighResImage, ImageError
from infogap.data.manifest import (
    MANIFEST_NAME,
    ManifestHeader,
    ManifestWriter,
    SelectionStatus,
    load_manifest,
)
from infogap.data.needle import NeedleConfig, make_samples
from infogap.data.sample import Sample
from infogap.data.skips import SkipLog, SkipReason
from infogap.data.writing import write_shards
from infogap.episode.environment import EpisodeLimits
from infogap.episode.protocol import Protocol, ProtocolConfig
from infogap.geometry import Frame
from infogap.policy.loading import NEEDLE_POLICY, PolicyConfig, load_policy
from infogap.policy.packing import Chunk
from infogap.resolution import (
    PolicyAnswerer,
    ResolutionConfig,
    SelectionError,
    SelectionReport,
    Share,
    ensure_manifest,
    manifests,
    select_resolutions,
)
from infogap.resolution.orders import Search, bisect, descend
from infogap.resolution.questions import Budget
from infogap.resolution.shares import part_path
from infogap.resolution.views import PreparedImage, find_faults
from infogap.rollout import RolloutConfig

LADDER = (128, 64, 32, 16, 8, 4)
ORIGINAL = 16384
HEADER = ManifestHeader("scripted", LADDER)
COUNT = 13
SHARDS = 4
CONFIG = ResolutionConfig(ladder=LADDER, batch_size=3)

small_policy = pytest.mark.skipif(not (NEEDLE_POLICY / "config.json").is_file(), reason="the small policy is not there")
MakeSample = Callable[..., Sample]
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


class Answerer:
    """Answers wrong from planted budgets, by key; right from everything else, and from text alone if that is planted.

    Args:
        planted: budgets that a sample is answered wrong from; None stands for the text alone.
        delay_s: seconds that an answer takes.
        fail_after: number of calls after which it fails.
    """

    min_tokens = 4

    def __init__(
        self, planted: Mapping[str, Sequence[Budget]], delay_s: float = 0.0, fail_after: int | None = None
    ) -> None:
        self.planted, self.delay_s, self.fail_after = planted, delay_s, fail_after
        self.batches: list[list[tuple[str, Budget]]] = []

    @property
    def asked(self) -> list[tuple[str, Budget]]:
        return [question for batch in self.batches for question in batch]

    def answer(self, samples: Sequence[Sample], budgets: Sequence[Budget]) -> list[list[str | None]]:
        if len(self.batches) == self.fail_after:
            raise OSError("The power failed.")
        time.sleep(self.delay_s)
        self.batches.append([(sample.key, budget) for sample, budget in zip(samples, budgets, strict=True)])
        return [
            ["banana" if budget in self.planted.get(sample.key, ()) else sample.answer]
            for sample, budget in zip(samples, budgets, strict=True)
        ]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Thirteen needle scenes of 256 visual tokens in four shards."""
    samples = make_samples(NeedleConfig(sides=(448,), clutter=0), seed=5, count=COUNT)
    return write_shards(samples, tmp_path_factory.mktemp("needle"), samples_per_shard=4)


def key(number: int) -> str:
    return f"needle-attribute-5-{number:06d}"


KEYS = [key(number) for number in range(COUNT)]
PLANTED: dict[str, tuple[Budget, ...]] = {
    key(number): (None, *LADDER[number % 5 :]) for number in range(COUNT) if number % 6
} | {key(12): (ORIGINAL,)}


def select(
    shards: Sequence[Path],
    answerer: Answerer,
    path: Path,
    share: Share | None = None,
    config: ResolutionConfig = CONFIG,
    **arguments: Any,
) -> SelectionReport | None:
    return select_resolutions(shards, answerer, config, path, HEADER, share=share or Share(), **arguments)


@pytest.fixture(scope="module")
def whole(shards: list[Path], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The manifest of a single process that nothing interrupts."""
    path = tmp_path_factory.mktemp("whole") / "m.jsonl"
    select(shards, Answerer(PLANTED), path)
    assert list(load_manifest(path)) == KEYS
    return path.read_bytes()


def followed(search: Search, diverging: Sequence[int]) -> tuple[int | None, list[int]]:
    """What a search finds, and what it asks."""
    asked: list[int] = []
    try:
        level = next(search)
        while True:
            asked.append(level)
            level = search.send(level in diverging)
    except StopIteration as end:
        return end.value, asked


@pytest.mark.parametrize("count", range(10))
def test_bisection_finds_what_descending_finds_where_divergence_stays(count: int) -> None:
    levels = [2 ** (count - place) for place in range(count)]
    for first in range(count + 1):
        found, asked = followed(bisect(levels), levels[first:])
        assert found == followed(descend(levels), levels[first:])[0]
        assert len(asked) <= count.bit_length()


def test_bisection_finds_some_edge_where_divergence_does_not_stay() -> None:
    assert followed(bisect(LADDER), (128, 8, 4)) == (8, [16, 4, 8])  # and not 128
    assert followed(bisect(LADDER), (64,)) == (None, [16, 4])
    for size in range(len(LADDER) + 1):
        for diverging in itertools.combinations(LADDER, size):
            found, _ = followed(bisect(LADDER), diverging)
            if found is None:
                assert LADDER[-1] not in diverging
            else:
                above = LADDER[: LADDER.index(found)]
                assert found in diverging
                assert not above or above[-1] not in diverging


@pytest.mark.parametrize("seed", range(3))
def test_all_levels_together_have_the_results_of_descending(shards: list[Path], tmp_path: Path, seed: int) -> None:
    """Also where divergence does not stay; with fewer rounds."""
    draw = random.Random(seed)
    planted = {name: [level for level in (ORIGINAL, *LADDER) if draw.random() < 0.3] for name in KEYS}
    answerers = {order: Answerer(planted) for order in ("descend", "together")}
    for order, answerer in answerers.items():
        config = replace(CONFIG, order=order, keep_answers=False)
        select(shards, answerer, tmp_path / order, config=config)
    assert (tmp_path / "together").read_bytes() == (tmp_path / "descend").read_bytes()
    assert Counter(entry.status for entry in load_manifest(tmp_path / "together").values()).keys() == set(
        SelectionStatus
    )
    assert set(Counter(answerers["together"].asked).values()) == {1}
    assert len(answerers["together"].batches) == 5 < len(answerers["descend"].batches)


@pytest.mark.parametrize("order", ["descend", "together", "bisect"])
def test_no_more_samples_than_asked_for_are_in_memory(shards: list[Path], tmp_path: Path, order: Any) -> None:
    answerer = Answerer(PLANTED)
    select(shards, answerer, tmp_path / "m", config=replace(CONFIG, order=order))
    assert max(len({name for name, _ in batch}) for batch in answerer.batches) == CONFIG.batch_size


def test_answers_are_kept_with_what_is_right(shards: list[Path], tmp_path: Path) -> None:
    config = replace(CONFIG, ask_without_image=True)
    report = select(shards, Answerer(PLANTED), tmp_path / "m.jsonl", config=config)
    lines = {line["key"]: line for line in map(json.loads, (tmp_path / "m.jsonl").read_text().splitlines()[1:])}
    truth = next(s.answer for s in make_samples(NeedleConfig(sides=(448,), clutter=0), 5, 3) if s.key == key(2))
    assert lines[key(2)] == {
        "key": key(2),
        "view_tokens": 32,
        "status": "selected",
        "answers": {"original": truth, "128": truth, "64": truth, "32": "banana", "text": "banana"},
        "right": ["original", "128", "64"],
    }
    assert report is not None
    assert report.right == {
        "original": (12, 13),
        "128": (10, 12),
        "64": (8, 10),
        "32": (6, 8),
        "16": (4, 6),
        "8": (2, 4),  # 4 tokens give the same view
        "text": (3, 13),
    }
    assert (tmp_path / "m_report.txt").read_text() == report.render() + "\n"
    assert report.render().splitlines()[-8:] == [
        "answers                    count  right",
        "original                      13  92.3%",
        "view of 128 tokens            12  83.3%",
        "view of 64 tokens             10  80.0%",
        "view of 32 tokens              8  75.0%",
        "view of 16 tokens              6  66.7%",
        "view of 8 tokens               4  50.0%",
        "text alone                    13  23.1%",
    ]


def test_the_text_alone_can_be_asked_later(shards: list[Path], tmp_path: Path, whole: bytes) -> None:
    asking = replace(CONFIG, ask_without_image=True)
    select(shards, Answerer(PLANTED), tmp_path / "at once.jsonl", config=asking)
    path, later = tmp_path / "later.jsonl", Answerer(PLANTED)
    path.write_bytes(whole)
    select(shards, later, path, Share(2, 2), config=asking)
    select(shards, later, path, Share(1, 2), config=asking)
    assert Counter(later.asked) == Counter((name, None) for name in KEYS)
    assert path.read_bytes() == (tmp_path / "at once.jsonl").read_bytes()
    select(shards, later, path)  # who does not ask for it does not lose it
    assert path.read_bytes() == (tmp_path / "at once.jsonl").read_bytes()


def test_a_part_that_was_left_behind_takes_no_answer_away(shards: list[Path], tmp_path: Path, whole: bytes) -> None:
    """As after a kill between the manifest and the removal of its parts."""
    path, asking = tmp_path / "m.jsonl", replace(CONFIG, ask_without_image=True)
    select(shards, Answerer(PLANTED), path, config=asking)
    with_text = path.read_bytes()
    left = part_path(path, Share(2, 2))
    left.write_bytes(b"".join(whole.splitlines(keepends=True)[:5]))
    answerer = Answerer(PLANTED)
    select(shards, answerer, path)
    assert (path.read_bytes(), answerer.asked) == (with_text, [])
    assert not left.exists()


def test_a_share_is_read_and_wrong_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Share.parse("3/8") == Share(3, 8)
    assert str(Share(3, 8)) == "3/8"
    for text in ("0/8", "9/8"):
        with pytest.raises(ValueError, match=rf"The share is {text}: give one from 1/8 to 8/8\."):
            Share.parse(text)
    for text in ("3", "3 of 8", "-1/8", ""):
        with pytest.raises(ValueError, match="give the third of eight as 3/8"):
            Share.parse(text)
    assert Share.of_environment() == Share(1, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert Share.of_environment() == Share(3, 8)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 20])
def test_shares_have_every_record_once(shards: list[Path], count: int) -> None:
    dealt = [list(Share(number, count).records(shards, SkipLog())) for number in range(1, count + 1)]
    keys = {place: record["__key__"] for records in dealt for place, record in records}
    assert [keys[place] for place in sorted(keys)] == KEYS
    assert sum(map(len, dealt)) == COUNT
    assert all([place for place, _ in records] == sorted(place for place, _ in records) for records in dealt)
    if count > SHARDS:
        assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@pytest.mark.parametrize("count", [2, 4, 6])
def test_shares_without_communication_end_with_the_bytes_of_one_process(
    shards: list[Path], tmp_path: Path, whole: bytes, count: int
) -> None:
    path, asked = tmp_path / "m.jsonl", Counter[tuple[str, Budget]]()
    numbers = list(range(1, count + 1))
    random.Random(count).shuffle(numbers)
    for number in numbers:
        answerer = Answerer(PLANTED)
        report = select(shards, answerer, path, Share(number, count))
        asked.update(answerer.asked)
        assert (report is None) is (number != numbers[-1])
        assert path.exists() is (number == numbers[-1])
    assert path.read_bytes() == whole
    assert set(asked.values()) == {1}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.jsonl", "m_report.txt"]


@pytest.mark.parametrize("counts", [(4, 1), (4, 3), (2, 5), (1, 3)])
def test_another_number_of_shares_goes_on(
    shards: list[Path], tmp_path: Path, whole: bytes, counts: tuple[int, int]
) -> None:
    before, after = counts
    path, asked = tmp_path / "m.jsonl", []
    for number in range(1, before + 1):
        stopped = Answerer(PLANTED, fail_after=4)
        with suppress(OSError):
            select(shards, stopped, path, Share(number, before))
    known = {name for part in tmp_path.glob("*.part-*-of-?") for name in load_manifest(part)}
    assert len(known) > before
    for number in range(1, after + 1):
        answerer = Answerer(PLANTED)
        select(shards, answerer, path, Share(number, after))
        asked += answerer.asked
    assert path.read_bytes() == whole
    assert not {name for name, _ in asked} & known
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.jsonl", "m_report.txt"]


def fork(work: Callable[..., Any], *arguments: Any) -> multiprocessing.Process:
    """Start some work in a copy of this process."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process  # type: ignore[return-value]


@forks
@pytest.mark.parametrize("after", [2, 3])
def test_killed_processes_end_with_the_bytes_of_an_uninterrupted_one(
    shards: list[Path], tmp_path: Path, whole: bytes, after: int
) -> None:
    """SIGKILL, both shares, twice, at moments that are not chosen."""
    path, kills = tmp_path / "m.jsonl", 0
    for wanted in (1, 3):
        processes = [fork(select, shards, Answerer(PLANTED, delay_s=0.03), path, Share(n, 2)) for n in (1, 2)]
        for number, process in enumerate(processes, 1):
            part = part_path(path, Share(number, 2))
            while process.is_alive() and not (part.exists() and part.read_bytes().count(b"\n") > wanted):
                time.sleep(0.001)
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            kills += process.exitcode == -signal.SIGKILL
    assert kills >= 3
    known = {name for number in (1, 2) for name in load_manifest(part_path(path, Share(number, 2)))}
    assert known
    assert not path.exists()
    answerers = [Answerer(PLANTED) for _ in range(after)]
    for number, answerer in enumerate(answerers, 1):
        select(shards, answerer, path, Share(number, after))
    assert path.read_bytes() == whole
    assert not {name for answerer in answerers for name, _ in answerer.asked} & known


@forks
def test_shares_at_the_same_time_write_one_manifest(shards: list[Path], tmp_path: Path, whole: bytes) -> None:
    for repetition in range(4):
        path = tmp_path / str(repetition) / "m.jsonl"
        processes = [fork(select, shards, Answerer(PLANTED), path, Share(number, 4)) for number in range(1, 5)]
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * 4
        assert path.read_bytes() == whole
        assert sorted(file.name for file in path.parent.iterdir()) == ["m.jsonl", "m_report.txt"]


def test_a_finished_share_is_not_read_again(
    shards: list[Path], tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, again = tmp_path / "m.jsonl", Answerer(PLANTED)
    select(shards, Answerer(PLANTED), path, Share(1, 2))
    with monkeypatch.context() as patch:
        patch.setattr(Share, "records", lambda *_: pytest.fail("it was read"))
        assert select(shards, again, path, Share(1, 2)) is None
    select(shards, again, path, Share(2, 2))
    assert not {name for name, _ in again.asked} & {*KEYS[:4], *KEYS[8:12]}
    assert path.read_bytes() == whole


def test_a_note_counts_only_beside_its_part_and_for_its_task(shards: list[Path], tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "m.jsonl"
    select(shards, Answerer(PLANTED), path, Share(1, 2))
    # the same shards and some more are another task: their first share is not finished
    part_path(path, Share(1, 2)).unlink()
    assert select(shards, Answerer(PLANTED), path, Share(2, 2)) is None
    assert not path.exists()
    assert select(shards[:3], Answerer(PLANTED), path, Share(1, 2)) is None
    assert select(shards, Answerer(PLANTED), path, Share(1, 2)) is not None
    assert path.read_bytes() == whole


def test_two_processes_do_not_work_on_the_same_share(shards: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    with (
        ManifestWriter(part_path(path, Share(1, 2)), HEADER),
        pytest.raises(ValueError, match=r"m\.jsonl\.part-1-of-2 is being written by another process: wait for it"),
    ):
        select(shards, Answerer(PLANTED), path, Share(1, 2))


def test_parts_of_another_policy_are_not_mixed_in(shards: list[Path], tmp_path: Path) -> None:
    path, answerer = tmp_path / "m.jsonl", Answerer(PLANTED)
    with ManifestWriter(part_path(path, Share(1, 2)), ManifestHeader("another", LADDER)):
        pass
    with pytest.raises(ValueError, match=r"part-1-of-2 was made with .*another.*: name another file, or remove this"):
        select(shards, answerer, path, Share(2, 2))
    assert answerer.asked == []


def test_results_of_other_shards_stay_in_a_common_manifest(shards: list[Path], tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "m.jsonl"
    select(shards[:2], Answerer(PLANTED), path)
    select(shards[2:], Answerer(PLANTED), path)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("count", [1, 2, 5])
def test_faults_are_counted_once_whoever_meets_them(
    shards: list[Path], make_sample: MakeSample, tmp_path: Path, count: int
) -> None:
    corrupt = make_sample("corrupt", size=(448, 448), kind="PNG")
    data = bytearray(corrupt.image.data)
    data[len(data) // 2] ^= 0xFF  # the header and the end are whole
    (damaged,) = write_shards([Sample("corrupt", HighResImage(bytes(data)), "What?", "3")], tmp_path / "bad", 1)
    cut = tmp_path / "cut.tar"
    cut.write_bytes(shards[0].read_bytes()[:-3000])
    for number in range(1, count + 1):
        report = select([cut, damaged, *shards[1:3]], Answerer(PLANTED), tmp_path / "m.jsonl", Share(number, count))
    assert report is not None
    assert report.skipped[SkipReason.BAD_IMAGE] == report.skipped[SkipReason.BROKEN_SHARD] == 1
    assert "left out: broken_shard" in report.render()
    strict = SkipLog(strict=True)
    with pytest.raises(ImageError):
        select([damaged], Answerer(PLANTED), tmp_path / "strict.jsonl", skips=strict)


def test_a_prepared_image_shows_the_very_view(make_sample: MakeSample) -> None:
    image = make_sample(size=(700, 448)).image
    prepared = PreparedImage(image, 64, 4)
    assert prepared.size == image.size
    for budget in (64, 16, None):
        assert prepared.view(budget).tobytes() == image.view(budget).tobytes()
    assert prepared.view(64, 40).tobytes() == image.view(64, 40).tobytes()
    assert find_faults([image, image], 16) == [None, None]


def rank(number: int, folder: Path, answerer: Answerer, out: Path) -> None:
    """One of two processes of a run, with a script in the policy's place; writes what happened to it."""
    distributed.init_process_group("gloo", init_method=f"file://{out / 'group'}", rank=number, world_size=2)

    class Weights:
        def to(self, _device: str) -> None:
            pass

    manifests.load_policy = lambda *_: Weights()  # type: ignore[assignment]
    manifests.PolicyAnswerer = lambda *_: answerer  # type: ignore[assignment,misc]
    policy = PolicyConfig(path=str(out / "policy"))
    outcome = "finished"
    try:
        ensure_manifest(folder, policy, Protocol(ProtocolConfig()), RolloutConfig(), CONFIG)
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    asked = sorted({name for name, _ in answerer.asked})
    (out / f"{number}.json").write_text(json.dumps({"outcome": outcome, "asked": asked}))
    distributed.barrier()
    distributed.destroy_process_group()


def run_ranks(folder: Path, out: Path, *answerers: Answerer) -> list[dict[str, Any]]:
    policy = out / "policy"
    policy.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (policy / name).write_bytes(name.encode())
    processes = [fork(rank, number, folder, answerer, out) for number, answerer in enumerate(answerers)]
    for process in processes:
        process.join(60)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    return [json.loads((out / f"{number}.json").read_text()) for number in range(2)]


@pytest.fixture
def folder(shards: list[Path], tmp_path: Path) -> Path:
    """The same shards in a folder without a manifest, whose index names it otherwise."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in shards:
        (folder / shard.name).symlink_to(shard)
    index = json.loads((shards[0].parent / "shards.json").read_text())
    (folder / "shards.json").write_text(json.dumps({**index, "resolution": "views.jsonl"}))
    return folder


@forks
def test_all_processes_of_a_run_select(folder: Path, tmp_path: Path, whole: bytes) -> None:
    (folder / "views.jsonl.failed").touch()  # from a run before
    first, second = run_ranks(folder, tmp_path / "out", Answerer(PLANTED), Answerer(PLANTED))
    assert first == {"outcome": "finished", "asked": [*KEYS[:4], *KEYS[8:12]]}
    assert second == {"outcome": "finished", "asked": [*KEYS[4:8], KEYS[12]]}
    assert (folder / "views.jsonl").read_bytes().splitlines()[1:] == whole.splitlines()[1:]
    again = run_ranks(folder, tmp_path / "again", Answerer(PLANTED), Answerer(PLANTED))
    assert again == [{"outcome": "finished", "asked": []}] * 2
    left = sorted(file.name for file in folder.iterdir() if file.suffix != ".tar")
    assert left == ["shards.json", "views.jsonl", "views_report.txt"]
    assert not (folder / MANIFEST_NAME).exists()


@forks
@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_in_one_process_ends_the_others(folder: Path, tmp_path: Path, failing: int) -> None:
    """Soon: the other one stops between two rounds, though it has an hour of work left."""
    answerers = [Answerer(PLANTED, delay_s=0.2), Answerer(PLANTED, delay_s=0.2)]
    answerers[failing] = Answerer(PLANTED, fail_after=1)
    outcomes = run_ranks(folder, tmp_path / "out", *answerers)
    assert outcomes[failing]["outcome"] == "OSError: The power failed."
    assert outcomes[1 - failing]["outcome"] == (
        f"SelectionError: Resolution selection ended in process {failing} of 2: OSError: The power failed."
    )
    assert len(outcomes[1 - failing]["asked"]) <= 2 * CONFIG.batch_size - 1
    assert not (folder / "views.jsonl").exists()
    assert not (folder / "views.jsonl.failed").exists()
    assert issubclass(SelectionError, ValueError)  # one line on the command line


@pytest.fixture(scope="module")
def needle_protocol() -> Protocol:
    values = yaml.safe_load((Path(__file__).parents[1] / "configs" / "protocol" / "needle.yaml").read_text())
    return Protocol(ProtocolConfig(**{**values, "frame": Frame[values["frame"]]}))


def small_answerer(protocol: Protocol, config: ResolutionConfig) -> PolicyAnswerer:
    policy = load_policy(PolicyConfig(), protocol.config.turn_end_texts)
    return PolicyAnswerer(policy, protocol, RolloutConfig(limits=EpisodeLimits(max_turn_tokens=12)), config)


@small_policy
@pytest.mark.parametrize("samples", [1, 3])
def test_the_small_policy_gives_the_same_results_in_shares_and_in_any_order(
    shards: list[Path], tmp_path: Path, needle_protocol: Protocol, samples: int
) -> None:
    config = replace(CONFIG, samples=samples, ask_without_image=True, ladder=(128, 64, 16))
    answerer, used = small_answerer(needle_protocol, config), shards[:1]
    select(used, answerer, tmp_path / "one.jsonl", config=config)  # type: ignore[arg-type]
    for number in (1, 2, 3):
        other = replace(config, batch_size=2)
        select(used, answerer, tmp_path / "three.jsonl", Share(number, 3), other)  # type: ignore[arg-type]
    assert (tmp_path / "three.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    together = replace(config, order="together")
    select(used, answerer, tmp_path / "together.jsonl", config=together)  # type: ignore[arg-type]
    one, all_levels = load_manifest(tmp_path / "one.jsonl"), load_manifest(tmp_path / "together.jsonl")
    for name, entry in one.items():
        assert (entry.status, entry.view_tokens) == (all_levels[name].status, all_levels[name].view_tokens)
        assert entry.answers.items() <= all_levels[name].answers.items()
        assert set(all_levels[name].answers) == {"original", "128", "64", "16", "text"}


@small_policy
def test_the_text_alone_is_asked_as_the_evaluation_asks_it(
    needle_protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    answerer = small_answerer(needle_protocol, CONFIG)
    samples = list(make_samples(NeedleConfig(sides=(448,), clutter=0), 5, 2))
    policy = answerer._without_image.policy
    chunk, prompts = policy.chunk, list[tuple[str, int]]()

    def noting(text: str, images: Sequence[Any] = ()) -> Chunk:
        prompts.append((text, len(images)))
        return chunk(text, images)

    monkeypatch.setattr(policy, "chunk", noting)
    answers = answerer.answer([samples[0], samples[0], samples[1]], [64, None, 16])
    assert [len(given) for given in answers] == [1, 1, 1]
    texts = [needle_protocol.prompt(s.question, s.options, tool=False) for s in samples]
    without = needle_protocol.prompt(samples[0].question, samples[0].options, tool=False, image=False)
    assert [prompt for prompt in prompts if prompt[0] in (*texts, without)] == [
        (texts[0], 1),
        (texts[1], 1),
        (without, 0),
    ]
    alone = [answerer.answer([samples[place]], [budget])[0] for place, budget in ((0, 64), (0, None), (1, 16))]
    assert answers == alone
