"""Resolution selection: planted levels are found, nothing is asked twice, and what differs is not mixed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import yaml
from PIL import Image
from torch import distributed

from infogap.data.images import HighResImage
from infogap.data.manifest import (
    MANIFEST_NAME,
    ManifestEntry,
    ManifestHeader,
    SelectionStatus,
    load_header,
    load_manifest,
)
from infogap.data.needle import NeedleConfig, make_samples
from infogap.data.sample import Sample
from infogap.data.skips import SkipReason
from infogap.data.writing import write_shards
from infogap.episode.protocol import Protocol, ProtocolConfig
from infogap.geometry import Frame, visual_tokens
from infogap.policy.loading import NEEDLE_POLICY, PolicyConfig, load_policy
from infogap.policy.patches import Patches
from infogap.policy.weights import fingerprint
from infogap.resolution import (
    PolicyAnswerer,
    ResolutionConfig,
    SelectionReport,
    Share,
    ensure_manifest,
    majority,
    make_header,
    manifests,
    same_answer,
    select_resolutions,
)
from infogap.resolution.report import Progress, share_size
from infogap.rollout import RolloutConfig

LADDER = (128, 64, 32, 16)
ORIGINAL = 16384
HEADER = ManifestHeader("scripted", LADDER)
MakeSample = Callable[..., Sample]


class ScriptedAnswerer:
    """Answers right from views above a planted budget, by sample key; a key that is not planted never diverges.

    Args:
        planted: largest budget that a sample is not answered from.
        wrong: what it answers there.
        original: what it answers from the original, by key; the right answer for the others.
        stop_after: number of calls after which it is killed.
    """

    min_tokens = 4

    def __init__(
        self,
        planted: Mapping[str, int],
        wrong: str | None = None,
        original: Mapping[str, str | None] | None = None,
        stop_after: int | None = None,
    ) -> None:
        self.planted, self.wrong, self.original = planted, wrong, original or {}
        self.stop_after = stop_after
        self.batches: list[list[tuple[str, int]]] = []

    @property
    def asked(self) -> list[tuple[str, int]]:
        return [question for batch in self.batches for question in batch]

    def answer(self, samples: Sequence[Sample], budgets: Sequence[int]) -> list[list[str | None]]:
        if len(self.batches) == self.stop_after:
            raise KeyboardInterrupt
        self.batches.append([(sample.key, budget) for sample, budget in zip(samples, budgets, strict=True)])
        return [[self._one(sample, budget)] for sample, budget in zip(samples, budgets, strict=True)]

    def _one(self, sample: Sample, budget: int) -> str | None:
        if budget <= self.planted.get(sample.key, 0):
            return self.wrong
        return self.original.get(sample.key, sample.answer)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Eleven needle scenes of 256 visual tokens in three shards."""
    folder = tmp_path_factory.mktemp("needle")
    samples = make_samples(NeedleConfig(sides=(448,), clutter=0), seed=5, count=11)
    return write_shards(samples, folder, samples_per_shard=4)


def key(number: int) -> str:
    return f"needle-attribute-5-{number:06d}"


KEYS = [key(number) for number in range(11)]
PLANTED = {key(number): LADDER[number % 4] for number in range(9)}  # the last two never diverge


def select(
    shards: Sequence[Path],
    answerer: ScriptedAnswerer,
    path: Path,
    header: ManifestHeader = HEADER,
    batch_size: int = 4,
    *,
    require_correct: bool = True,
) -> SelectionReport:
    config = ResolutionConfig(ladder=LADDER, batch_size=batch_size, require_correct=require_correct)
    return select_resolutions(shards, answerer, config, path, header)


@pytest.mark.parametrize("wrong", [None, "", "banana"], ids=["no answer", "empty answer", "another answer"])
def test_the_planted_level_of_every_sample_is_found(shards: list[Path], tmp_path: Path, wrong: str | None) -> None:
    answerer = ScriptedAnswerer(PLANTED, wrong)
    report = select(shards, answerer, tmp_path / "m.jsonl")
    entries = load_manifest(tmp_path / "m.jsonl")
    assert list(entries) == KEYS
    for name in KEYS:
        level = PLANTED.get(name)
        status = SelectionStatus.SELECTED if level else SelectionStatus.NEVER_DIVERGES
        assert (entries[name].status, entries[name].view_tokens) == (status, level)
        reached = [budget for budget in LADDER if budget >= (level or 0)]  # and nothing below the first divergence
        assert [budget for asked, budget in answerer.asked if asked == name] == [ORIGINAL, *reached]
    assert report.statuses == {SelectionStatus.SELECTED: 9, SelectionStatus.NEVER_DIVERGES: 2}
    assert report.budgets == {128: 3, 64: 2, 32: 2, 16: 2}


def test_batches_are_full_until_no_sample_is_left(shards: list[Path], tmp_path: Path) -> None:
    answerer = ScriptedAnswerer(PLANTED)
    select(shards, answerer, tmp_path / "m.jsonl")
    # a sample that diverges makes room for the next at once
    assert sum(map(len, answerer.batches)) == 11 + sum(LADDER.index(level) + 1 for level in PLANTED.values()) + 2 * 4
    sizes = list(map(len, answerer.batches))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[:8] == [4] * 8


def test_divergence_is_from_the_own_answer_and_not_from_the_truth(shards: list[Path], tmp_path: Path) -> None:
    """Always the same wrong answer never diverges; a right answer after a wrong one does."""
    truth = {sample.key: sample.answer for sample in make_samples(NeedleConfig(sides=(448,), clutter=0), 5, 2)}
    others = {name: str((int(truth[name]) + 1) % 10) for name in (key(0), key(1))}
    answerer = ScriptedAnswerer({key(1): 64}, wrong=truth[key(1)], original=others)
    select(shards[:1], answerer, tmp_path / "m.jsonl", require_correct=False)
    entries = load_manifest(tmp_path / "m.jsonl")
    assert entries[key(0)].status is SelectionStatus.NEVER_DIVERGES
    assert (entries[key(1)].status, entries[key(1)].view_tokens) == (SelectionStatus.SELECTED, 64)


@pytest.mark.parametrize(("original", "require_correct"), [("banana", True), (None, True), (None, False)])
def test_wrong_on_the_original_is_marked_and_not_asked_further(
    shards: list[Path], tmp_path: Path, original: str | None, require_correct: bool
) -> None:
    answerer = ScriptedAnswerer(PLANTED, original={key(2): original})
    select(shards[:1], answerer, tmp_path / "m.jsonl", require_correct=require_correct)
    entries = load_manifest(tmp_path / "m.jsonl")
    assert entries[key(2)].status is SelectionStatus.WRONG_ON_ORIGINAL
    assert [budget for name, budget in answerer.asked if name == key(2)] == [ORIGINAL]
    assert Counter(entry.status for entry in entries.values())[SelectionStatus.SELECTED] == 3


def part(manifest: Path) -> Path:
    return manifest.with_name(f"{manifest.name}.part-1-of-1")


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_a_killed_run_goes_on_to_the_same_bytes(shards: list[Path], tmp_path: Path, batch_size: int) -> None:
    whole, path = ScriptedAnswerer(PLANTED), tmp_path / "resumed.jsonl"
    select(shards, whole, tmp_path / "whole.jsonl", batch_size=3)
    killed = ScriptedAnswerer(PLANTED, stop_after=5)
    with pytest.raises(KeyboardInterrupt):
        select(shards, killed, path, batch_size=batch_size)
    assert not path.exists()
    known = load_manifest(part(path))
    part(path).write_bytes(part(path).read_bytes() + b'{"key": "torn')
    resumed = ScriptedAnswerer(PLANTED)
    report = select(shards, resumed, path)
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert known
    assert not {name for name, _ in resumed.asked} & known.keys()
    assert sum(report.statuses.values()) == 11
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "resumed.jsonl",
        "resumed_report.txt",
        "whole.jsonl",
        "whole_report.txt",
    ]


def test_a_manifest_that_an_older_version_began_is_finished(shards: list[Path], tmp_path: Path) -> None:
    select(shards, ScriptedAnswerer(PLANTED), tmp_path / "whole.jsonl")
    path = tmp_path / "resumed.jsonl"
    path.write_bytes(b"".join((tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)[:4]) + b'{"torn')
    resumed = ScriptedAnswerer(PLANTED)
    select(shards, resumed, path)
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not {name for name, _ in resumed.asked} & set(KEYS[:3])


def test_a_finished_manifest_asks_nothing(shards: list[Path], tmp_path: Path) -> None:
    select(shards, ScriptedAnswerer(PLANTED), tmp_path / "m.jsonl")
    again = ScriptedAnswerer(PLANTED)
    report = select(shards, again, tmp_path / "m.jsonl")
    assert again.asked == []
    assert sum(report.statuses.values()) == 11


@pytest.mark.parametrize(
    "other", [ManifestHeader("another", LADDER), ManifestHeader("scripted", (64, 32))], ids=["policy", "ladder"]
)
def test_results_of_another_policy_or_ladder_are_not_mixed_in(
    shards: list[Path], tmp_path: Path, other: ManifestHeader
) -> None:
    path = tmp_path / "m.jsonl"
    select(shards[:1], ScriptedAnswerer(PLANTED), path)
    before, answerer = path.read_bytes(), ScriptedAnswerer(PLANTED)
    with pytest.raises(ValueError, match=r"was made with .*scripted.*, not with .*: name another file, or remove"):
        select(shards, answerer, path, other)
    assert (answerer.asked, path.read_bytes()) == ([], before)


def test_the_ladder_starts_below_the_own_size(make_sample: MakeSample) -> None:
    config = ResolutionConfig(ladder=(1024, 512, 256, 64, 32, 16, 4, 3))
    image = make_sample(size=(448, 448)).image
    assert visual_tokens(image.view_size(None)) == 256
    assert config.levels(image, 4) == [64, 32, 16, 4, 3]
    assert ResolutionConfig(ladder=config.ladder, original_tokens=64).levels(image, 4) == [32, 16, 4, 3]
    assert config.levels(make_sample(size=(56, 56)).image, 4) == [3]
    assert ResolutionConfig(ladder=(64, 32, 4)).levels(make_sample(size=(56, 56)).image, 4) == []


def test_levels_that_show_the_same_view_are_asked_once(make_sample: MakeSample) -> None:
    image = make_sample(size=(448, 448)).image
    assert image.view_size(80, 4) == image.view_size(64, 4) == (224, 224)
    config = ResolutionConfig(ladder=(128, 80, 64, 63, 16))
    assert config.levels(image, 4) == [128, 80, 63, 16]
    # what the policy is shown counts: at 12 tokens or more these two levels are two views
    thin, config = make_sample(size=(448, 84)).image, ResolutionConfig(ladder=(14, 12))
    assert (config.levels(thin, 4), config.levels(thin, 12)) == ([14], [14, 12])
    # a level that shows what the original shows could never diverge
    assert ResolutionConfig(ladder=(70, 64, 16), original_tokens=80).levels(image, 4) == [16]


@pytest.mark.parametrize(
    ("first", "second", "options", "same"),
    [
        ("B", "The answer is B.", ("red", "blue"), True),
        ("blue", "(B)", ("red", "blue"), True),
        ("A", "B", ("red", "blue"), False),
        ("A", "A", ("B", "A"), True),  # letters name options on both sides
        ("purple", "Purple.", ("red", "blue"), True),
        ("purple", "B", ("red", "blue"), False),
        ("The answer is B.", "B", (), True),
        ("B", "The answer is B.", (), True),
        ("1,234", "1234.0", (), True),
        ("12", "13", (), False),
        (None, "12", (), False),
        (None, None, (), True),
    ],
)
def test_two_answers_of_the_policy_are_compared(
    first: str | None, second: str | None, options: tuple[str, ...], same: bool
) -> None:
    assert same_answer(first, second, options) is same


def test_the_majority_counts_and_among_equals_the_first() -> None:
    assert majority(["3", "7", "7.0"], ()) == "7"
    assert majority(["3", "7"], ()) == "3"
    assert majority(["7", "3", "3", "7"], ()) == "7"
    assert majority(["B", "red", "blue"], ("red", "blue")) == "B"
    assert majority(["3", None, " "], ()) is None
    assert majority(["3", None], ()) == "3"


class Voters(ScriptedAnswerer):
    """Two voices of three answer from all views that are not planted, one is always off."""

    def answer(self, samples: Sequence[Sample], budgets: Sequence[int]) -> list[list[str | None]]:
        return [["banana", *answer, *answer] for answer in super().answer(samples, budgets)]


def test_of_several_answers_the_majority_decides(shards: list[Path], tmp_path: Path) -> None:
    voters = Voters(PLANTED)
    select(shards, voters, tmp_path / "voted.jsonl")
    select(shards, ScriptedAnswerer(PLANTED), tmp_path / "one.jsonl")
    assert (tmp_path / "voted.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()


def test_a_corrupt_image_is_left_out_and_counted(make_sample: MakeSample, tmp_path: Path) -> None:
    sound, corrupt = make_sample("sound", size=(448, 448)), make_sample("corrupt", size=(448, 448), kind="PNG")
    data = bytearray(corrupt.image.data)
    data[len(data) // 2] ^= 0xFF  # the header and the end are whole
    samples = [Sample("corrupt", HighResImage(bytes(data), "corrupt"), "What?", "3"), sound]
    report = select(write_shards(samples, tmp_path, 2), ScriptedAnswerer({"sound": 32}), tmp_path / "m.jsonl")
    assert list(load_manifest(tmp_path / "m.jsonl")) == ["sound"]
    assert report.skipped == {SkipReason.BAD_IMAGE: 1}
    assert "left out: bad_image" in report.render()


def test_the_report_shows_every_status_and_a_bar_for_every_budget() -> None:
    entries = [ManifestEntry(f"s{i}", SelectionStatus.SELECTED, 128 if i else 64) for i in range(5)]
    entries += [ManifestEntry(f"w{i}", SelectionStatus.WRONG_ON_ORIGINAL) for i in range(3)]
    assert SelectionReport.of(entries, {}).render(width=8).splitlines() == [
        "samples                    count  share",
        "selected                       5  62.5%",
        "never_diverges                 0   0.0%",
        "wrong_on_original              3  37.5%",
        "view of 128 tokens             4  ########",
        "view of 64 tokens              1  ##",
    ]
    assert "0.0%" in SelectionReport.of([], {}).render()


def test_progress_is_logged_with_rate_and_time_left(caplog: pytest.LogCaptureFixture) -> None:
    moments = iter([0.0, 10.0, 40.0, 50.0])
    progress = Progress(Share(), 200, clock=lambda: next(moments))
    with caplog.at_level(logging.INFO):
        for answered in (10, 20, 30):
            progress.log(answered, passed=100)
    assert caplog.messages == ["Selected the views of 120 of 200 samples, 0.50 a second, 0:02:40 left."]


def test_the_time_left_is_that_of_the_share(
    shards: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert [share_size(shards, Share(number, 2)) for number in (1, 2)] == [4 + 3, 4]
    assert [share_size(shards, Share(number, 5)) for number in range(1, 6)] == [3, 2, 2, 2, 2]
    assert share_size([*shards, tmp_path / "of another folder.tar"], Share(1, 2)) == 7
    assert share_size([*shards, tmp_path / "of another folder.tar"], Share(2, 2)) is None
    moments = iter([0.0, 100.0, 200.0])
    progress = Progress(Share(2, 8), 50, clock=lambda: next(moments))
    with caplog.at_level(logging.INFO):
        progress.log(0, passed=10)  # nothing says yet how long an answer takes
        progress.log(20, passed=10)
    assert caplog.messages == ["Share 2/8: Selected the views of 30 of 50 samples, 0.10 a second, 0:03:20 left."]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ladder": ()}, "ladder"),
        ({"ladder": (64, 64)}, "ladder"),
        ({"ladder": (32, 64)}, "ladder"),
        ({"ladder": (4, 0)}, "ladder"),
        ({"original_tokens": 0}, "original_tokens"),
        ({"samples": 0}, "samples"),
        ({"batch_size": 0}, "batch_size"),
        ({"samples": 3, "temperature": 0.0}, "temperature"),
        ({"ask_without_image": True, "keep_answers": False}, "ask_without_image"),
    ],
)
def test_a_wrong_setting_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=rf"resolution\.{message} is .*: give"):
        ResolutionConfig(**fields)  # type: ignore[arg-type]


@pytest.fixture
def policy_folder(tmp_path: Path) -> Path:
    """Files that look like a saved policy to whoever only reads bytes."""
    folder = tmp_path / "policy"
    folder.mkdir()
    for name in ("config.json", "model-1.safetensors", "model-2.safetensors"):
        (folder / name).write_bytes(name.encode())
    return folder


def test_the_fingerprint_follows_weights_and_configuration_alone(policy_folder: Path) -> None:
    before = fingerprint(policy_folder)
    (policy_folder / "README.md").write_text("other text")
    assert fingerprint(policy_folder) == before
    for name in ("config.json", "model-2.safetensors"):
        (policy_folder / name).write_bytes(b"changed")
        assert fingerprint(policy_folder) != before
        (policy_folder / name).write_bytes(name.encode())
    assert fingerprint(policy_folder) == before
    (policy_folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.json or no \*\.safetensors: give"):
        fingerprint(policy_folder)


def test_the_fingerprint_of_a_checkpoint_is_its_own(policy_folder: Path) -> None:
    checkpoint = policy_folder / "last.ckpt"
    checkpoint.write_bytes(b"stage 1")
    before = fingerprint(checkpoint)
    assert before != fingerprint(policy_folder)
    checkpoint.write_bytes(b"stage 2")
    assert fingerprint(checkpoint) != before


def test_the_policy_that_answers_is_the_one_that_training_starts_from(
    copied_shards: Path,
    policy_folder: Path,
    scripted_policy: ScriptedAnswerer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[Path] = []
    monkeypatch.setattr(manifests, "load_weights", lambda _, source: loaded.append(source))
    checkpoint = tmp_path / "last.ckpt"
    checkpoint.write_bytes(b"stage 1")
    config, policy = ResolutionConfig(ladder=LADDER), PolicyConfig(path=str(policy_folder))
    ensure_manifest(
        copied_shards, policy, Protocol(ProtocolConfig()), RolloutConfig(), config, None, init_from=checkpoint
    )
    assert loaded == [checkpoint]
    assert load_header(copied_shards / MANIFEST_NAME).policy == fingerprint(checkpoint)


def test_the_header_names_what_the_answers_depend_on(policy_folder: Path) -> None:
    def header(config: ResolutionConfig, protocol: ProtocolConfig | None = None) -> ManifestHeader:
        texts = Protocol(protocol or ProtocolConfig())
        return make_header(PolicyConfig(path=str(policy_folder)), texts, RolloutConfig(), config)

    plain = header(ResolutionConfig())
    assert plain == header(ResolutionConfig(batch_size=3, seed=7, temperature=0.5))  # unused, with one greedy answer
    assert plain != header(ResolutionConfig(), ProtocolConfig(direct_system_prompt="Say it."))
    assert plain != header(ResolutionConfig(original_tokens=4096))
    assert plain != header(ResolutionConfig(require_correct=False))
    assert header(ResolutionConfig(samples=3)) != header(ResolutionConfig(samples=3, seed=7))
    assert plain == header(ResolutionConfig(keep_answers=False))
    assert plain == header(ResolutionConfig(ask_without_image=True, order="together"))  # of the same results
    assert plain != header(ResolutionConfig(order="bisect"))
    assert plain.policy == fingerprint(policy_folder)


@pytest.fixture
def scripted_policy(monkeypatch: pytest.MonkeyPatch) -> ScriptedAnswerer:
    """`ensure_manifest` and all below it, with a script in the policy's place."""
    answerer = ScriptedAnswerer(PLANTED)

    class Weights:
        def to(self, _device: str) -> Weights:
            return self

    monkeypatch.setattr(manifests, "load_policy", lambda *_: Weights())
    monkeypatch.setattr(manifests, "PolicyAnswerer", lambda *_: answerer)
    return answerer


def ensure(root: Path, policy: Path, ladder: tuple[int, ...] = LADDER) -> None:
    config = ResolutionConfig(ladder=ladder)
    ensure_manifest(root, PolicyConfig(path=str(policy)), Protocol(ProtocolConfig()), RolloutConfig(), config)


@pytest.fixture
def copied_shards(shards: list[Path], tmp_path: Path) -> Path:
    """The same shards in a folder without a manifest."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in shards:
        (folder / shard.name).symlink_to(shard)
    return folder


def test_a_missing_manifest_is_made_and_a_complete_one_used(
    copied_shards: Path, policy_folder: Path, scripted_policy: ScriptedAnswerer, caplog: pytest.LogCaptureFixture
) -> None:
    path = copied_shards / MANIFEST_NAME
    with caplog.at_level(logging.INFO):
        ensure(copied_shards, policy_folder)
    assert "resolution.jsonl is not complete: selecting the rest" in caplog.messages[0]
    assert list(load_manifest(path)) == KEYS
    made, questions = path.read_bytes(), len(scripted_policy.asked)
    (policy_folder / "config.json").write_text("the policy of a later stage")
    ensure(copied_shards, policy_folder)
    assert (path.read_bytes(), len(scripted_policy.asked)) == (made, questions)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    ensure(copied_shards, policy_folder, ladder=LADDER[1:])
    assert (path.read_bytes(), len(scripted_policy.asked)) == (made, questions)
    assert f"was made with ladder {LADDER} instead of {LADDER[1:]}, and is used as it is" in caplog.messages[-1]


def test_an_unfinished_manifest_is_finished_by_the_same_policy_only(
    copied_shards: Path, policy_folder: Path, scripted_policy: ScriptedAnswerer
) -> None:
    path = copied_shards / MANIFEST_NAME
    ensure(copied_shards, policy_folder)
    made = path.read_bytes()
    path.write_bytes(b"".join(made.splitlines(keepends=True)[:-2]))
    config = (policy_folder / "config.json").read_bytes()
    (policy_folder / "config.json").write_text("another policy")
    with pytest.raises(ValueError, match="was made with"):
        ensure(copied_shards, policy_folder)
    (policy_folder / "config.json").write_bytes(config)
    scripted_policy.batches.clear()
    ensure(copied_shards, policy_folder)
    assert path.read_bytes() == made
    assert {name for name, _ in scripted_policy.asked} == set(KEYS[-2:])


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group", "scripted_policy")
def test_the_processes_meet_in_a_group_of_their_own(copied_shards: Path, policy_folder: Path) -> None:
    ensure(copied_shards, policy_folder)
    assert list(load_manifest(copied_shards / MANIFEST_NAME)) == KEYS
    assert distributed.is_initialized()  # the default group is left alone


@pytest.fixture(scope="module")
def needle_protocol() -> Protocol:
    values = yaml.safe_load((Path(__file__).parents[1] / "configs" / "protocol" / "needle.yaml").read_text())
    return Protocol(ProtocolConfig(**{**values, "frame": Frame[values["frame"]]}))


@pytest.mark.skipif(not (NEEDLE_POLICY / "config.json").is_file(), reason="the small policy is not there")
@pytest.mark.parametrize("several", [1, 3])
def test_the_small_policy_answers_from_views(
    shards: list[Path], tmp_path: Path, needle_protocol: Protocol, several: int
) -> None:
    config = ResolutionConfig(ladder=LADDER, samples=several, require_correct=False, batch_size=4)
    policy = load_policy(PolicyConfig(), needle_protocol.config.turn_end_texts)
    answerer = PolicyAnswerer(policy, needle_protocol, RolloutConfig(), config)
    header = make_header(PolicyConfig(), needle_protocol, RolloutConfig(), config)
    select_resolutions(shards[:1], answerer, config, tmp_path / "m.jsonl", header)
    assert load_header(tmp_path / "m.jsonl") == header
    entries = load_manifest(tmp_path / "m.jsonl")
    assert list(entries) == KEYS[:4]
    samples = list(make_samples(NeedleConfig(sides=(448,), clutter=0), 5, 4))
    asked = answerer.answer(samples, [ORIGINAL] * 4)
    assert {len(answers) for answers in asked} == {several}
    # what is answered beside a sample changes nothing
    assert answerer.answer(samples[2:], [ORIGINAL] * 2) == asked[2:]
    for sample, answers in zip(samples, asked, strict=True):
        entry, own = entries[sample.key], majority(answers, sample.options)
        if entry.view_tokens is not None:
            (below,) = answerer.answer([sample], [entry.view_tokens])
            assert not same_answer(majority(below, sample.options), own, sample.options)


@pytest.mark.skipif(not (NEEDLE_POLICY / "config.json").is_file(), reason="the small policy is not there")
def test_every_sample_is_shown_at_its_own_level(needle_protocol: Protocol) -> None:
    policy = load_policy(PolicyConfig(), needle_protocol.config.turn_end_texts)
    patchify, shown = policy.patchifier, []

    def noting(image: Image.Image) -> Patches:
        patches = patchify(image)
        shown.append(patches.tokens)
        return patches

    policy.patchifier = noting  # type: ignore[assignment]
    answerer = PolicyAnswerer(policy, needle_protocol, RolloutConfig(), ResolutionConfig(ladder=LADDER))
    answerer.answer(list(make_samples(NeedleConfig(sides=(448,), clutter=0), 5, 3)), [ORIGINAL, 64, 16])
    assert shown == [256, 64, 16]
