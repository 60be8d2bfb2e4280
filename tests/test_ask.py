"""`infogap ask` with the shipped policy on drawn needle scenes: what it plays, what it shows, what it writes."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from test_weights import write_directory, write_file

from infogap.ask import main
from infogap.ask.asked import read_image
from infogap.ask.picture import draw
from infogap.ask.playing import Played, find_device, play
from infogap.ask.policies import find_policy
from infogap.ask.settings import adjusted, default_settings, gap_tokens, needle_settings, read_settings
from infogap.ask.terminal import show
from infogap.data.drawing import GAP, beside
from infogap.data.needle import NeedleConfig, make_sample
from infogap.data.sample import Sample
from infogap.episode.protocol import Protocol
from infogap.evaluation.arms import Case, PlayConfig
from infogap.evaluation.engine import ArmPlayer
from infogap.evaluation.question import Question
from infogap.geometry import Box, Frame, Size
from infogap.pictures.record import EpisodeRecord, TurnRecord, records_of
from infogap.pictures.record_file import read_records
from infogap.policy.loading import NEEDLE_POLICY, LoraConfig, PolicyConfig, load_policy
from infogap.policy.model import Policy
from infogap.rollout import Rollout, ViewConfig
from infogap.types import StopReason

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
CPU = torch.device("cpu")


def scene(number: int = 0) -> Sample:
    return make_sample(NeedleConfig(), 3001, number)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: an image of a scene, and a terminal of 80 columns."""
    (tmp_path / "scene.jpg").write_bytes(scene().image.data)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


@pytest.fixture(scope="module")
def shipped() -> Policy:
    return find_policy("shipped", None, None, None).load(CPU)


def asked(*more: object) -> list[str]:
    return ["scene.jpg", scene().question, *map(str, more)]


def in_one_line(text: str) -> str:
    return " ".join(text.split())


def perturbed(config: PolicyConfig, scale: float = 0.01) -> Policy:
    policy, generator = load_policy(config), torch.Generator().manual_seed(1)
    for weight in policy.parameters():
        weight.data.add_(scale * torch.randn(weight.shape, generator=generator))
    return policy


def write_run(folder: Path, config: PolicyConfig | None = None, *, settings: str | None = None) -> Policy:
    """A run with a checkpoint, and maybe a configuration."""
    config = config or PolicyConfig()
    policy = perturbed(config)
    (folder / "checkpoints").mkdir(parents=True)
    lora = {} if config.lora is None else {"lora": {"rank": config.lora.rank, "alpha": config.lora.alpha}}
    write_file(policy, folder / "checkpoints" / "last.ckpt", policy=asdict(config), **lora)
    if settings is not None:
        (folder / "config.yaml").write_text(settings)
    return policy


def test_an_episode_is_shown_and_drawn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(asked("--answer", scene().answer, "--json", "episode.jsonl"))
    record = read_records(folder / "episode.jsonl")[0]
    crop, shown = record.turns[0].crop, record.turns[0].shown
    assert crop is not None
    assert shown is not None
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    output = in_one_line("\n".join(lines))
    x1, y1, x2, y2 = map(round, crop.as_tuple())
    for text in (
        "image scene.jpg, 448 x 448 pixels, 256 tokens if shown whole",
        f"question {scene().question}",
        "policy the shipped needle policy",
        "settings as the shipped policy was taught",
        "view 224 x 224 pixels, 64 tokens",
        f"turn 1 the policy wrote > {record.turns[0].text}",
        "and got back < <tool_response>[the crop]</tool_response>",
        f"crop ({x1}, {y1}) to ({x2}, {y2}), {x2 - x1} x {y2 - y1} pixels of the image, "
        f"shown as {shown.width} x {shown.height} pixels",
        f"turn 2 the policy wrote > {record.turns[1].text}",
        f"answer {scene().answer} RIGHT, expected {scene().answer} ended answered",
        f"tokens {record.policy_tokens} written, {record.visual_tokens} visual (64 of the view, "
        f"{record.visual_tokens - 64} of crops)",
        "written scene.episode.png",
        "written episode.jsonl",
    ):
        assert text in output
    assert re.search(r"seconds \d\.\d\d playing, \d\.\d\d loading", output)


def test_the_picture_has_the_box_at_its_place(folder: Path) -> None:
    """The left panel shows the original pixel by pixel, so that the box's lines lie where the box is."""
    main(asked("--json", "episode.jsonl", "--out", "new.PNG"))
    record = read_records(folder / "episode.jsonl")[0]
    picture = np.asarray(Image.open(folder / "new.PNG"))
    original = np.asarray(scene().image.crop(Box.whole(Size(448, 448)), 256))
    top = next(y for y in range(len(picture)) if np.array_equal(picture[y, GAP : GAP + 448], original[0]))
    panel = picture[top : top + 448, GAP : GAP + 448]
    assert record.turns[0].crop is not None
    x1, y1, x2, y2 = map(round, record.turns[0].crop.as_tuple())
    red = (panel == (225, 30, 30)).all(axis=-1)
    for line in (red[y1:y2, x1 - 3 : x1], red[y1 - 3 : y1, x1:x2]):
        assert line.all()
    assert not red[:, : x1 - 3].any()
    inside = np.s_[y1 : y2 - 3, x1 : x2 - 3]  # a line at the edge of the image lies in it
    assert np.array_equal(panel[inside], original[inside])


def test_the_episode_is_the_rollouts(folder: Path, shipped: Policy) -> None:
    """Greedy, by `Rollout`, with the settings of the shipped configurations and the view at 64 tokens."""
    main(asked("--json", "episode.jsonl"))
    settings = read_settings(CONFIGS / "stage1.yaml")
    config = replace(settings.rollout.greedy(), view=ViewConfig("budget", 64))
    sample = replace(scene(), key="scene.jpg", evidence=(), options=())
    group = Rollout(shipped, Protocol(settings.protocol), config).run([sample], (0,))[0]
    expected = replace(records_of(group, [{}], [None])[0], expected_answer=None)
    assert read_records(folder / "episode.jsonl") == [expected]


@pytest.mark.parametrize("direct", [False, True])
def test_answers_are_those_of_an_evaluation(shipped: Policy, direct: bool) -> None:
    settings, samples = needle_settings(), [scene(number) for number in range(8)]
    protocol, rollout = Protocol(settings.protocol), adjusted(settings.rollout, view_tokens=64)
    config = PlayConfig(("no_tool" if direct else "own",), (64,), crop=rollout.crop, limits=rollout.limits)
    cases = [Case(Question(sample, "scenes", sample.key, sample.question)) for sample in samples]
    outcomes = ArmPlayer(shipped, protocol, config).play(cases).outcomes
    episodes = [play(shipped, protocol, rollout, each, direct=direct, seed=0).episodes[0] for each in samples]
    assert [e.answer for e in episodes] == [outcome.answer for outcome in outcomes]
    assert [e.crops for e in episodes] == [outcome.episode.crops for outcome in outcomes]
    assert any(e.crops for e in episodes) is not direct
    assert len({e.answer for e in episodes}) > 3


def test_the_shipped_policys_settings_are_those_of_its_configuration() -> None:
    found, ours = read_settings(CONFIGS / "stage1.yaml"), needle_settings()
    assert found.protocol == ours.protocol
    assert adjusted(found.rollout) == adjusted(ours.rollout)


def test_two_policies_stand_side_by_side_or_one_below_the_other(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(folder / "run", settings=(CONFIGS / "stage1.yaml").read_text().replace("protocol/needle", "needle"))
    shutil.copy(CONFIGS / "protocol" / "needle.yaml", folder / "run")
    names = ("the shipped needle policy", "run/checkpoints/last.ckpt, rollout step 3")
    main(asked("--compare", "run", "--json", "episodes.jsonl"))
    below = capsys.readouterr().out
    assert [below.count(f"policy   {name}") for name in names] == [1, 1]
    assert max(map(len, below.splitlines())) <= 80
    monkeypatch.setenv("COLUMNS", "150")
    main(asked("--compare", "run"))
    assert re.search(rf"^policy   {names[0]} +policy   {names[1]}", capsys.readouterr().out, re.MULTILINE)
    written = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    assert [each["policy"] for each in written] == list(names)
    records = read_records(folder / "episodes.jsonl")
    assert [(record.group, record.episode) for record in records] == [(0, 0), (0, 1)]  # told apart by `infogap view`
    assert records[0].turns != records[1].turns
    played = [Played(name, "", record, 0.0, 0.0) for name, record in zip(names, records, strict=True)]
    alone = [draw([each], scene().image) for each in played]
    assert np.array_equal(np.asarray(Image.open("scene.episode.png")), np.asarray(beside(alone)))


def test_a_run_says_how_its_policy_is_played_and_flags_win(
    folder: Path, capsys: pytest.CaptureFixture[str], shipped: Policy
) -> None:
    settings = """
model:
  protocol: {frame: RELATIVE_1000, tool_system_prompt: Look.}
  rollout: {view: {mode: budget, budget: 128}, crop: {max_tokens: 9, min_tokens: 4}, limits: {max_turns: 1}}
  optim: {lr: 1.0e-6}
trainer: {devices: 8}
"""
    trained = write_run(folder / "run", settings=settings)
    found = find_policy("run/checkpoints/last.ckpt", None, None, None)
    assert found.settings.origin == "as in run/config.yaml"
    assert found.settings.protocol.frame is Frame.RELATIVE_1000
    assert found.settings.protocol.tool_system_prompt == "Look."
    assert found.settings.rollout.crop.max_tokens == 9
    loaded = found.load(CPU).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in trained.state_dict().items())
    main(asked("--checkpoint", "run/checkpoints/last.ckpt", "--compare", "shipped"))
    output = in_one_line(capsys.readouterr().out)
    assert "settings as in run/config.yaml view 308 x 308 pixels, 121 tokens" in output
    assert "view 224 x 224 pixels, 64 tokens" in output
    assert "The two were shown different views" in output
    flags = ("--view-tokens", "16", "--crop-tokens", "7", "--max-turns", "3", "--max-episode-tokens", "99")
    main(asked("--checkpoint", "run", "--compare", "shipped", *flags))
    output = in_one_line(capsys.readouterr().out)
    assert output.count("view 112 x 112 pixels, 16 tokens") == 2
    assert "The two were shown different views" not in output
    limits = {"max_turns": 3, "max_episode_tokens": 99}
    changed = adjusted(found.settings.rollout, 16, 7, limits, 0.5)
    assert (changed.view.budget, changed.crop.max_tokens, changed.crop.min_tokens) == (16, 7, 4)
    assert (changed.limits.max_turns, changed.limits.max_crops, changed.limits.max_episode_tokens) == (3, 2, 99)
    assert (changed.group_size, changed.sampling.temperature) == (1, 0.5)


def test_a_sharded_checkpoint_and_adapters_are_loaded(folder: Path) -> None:
    policy = perturbed(PolicyConfig())
    write_directory(policy, folder / "step_00000004.ckpt", policy=asdict(PolicyConfig()))
    lora = PolicyConfig(lora=LoraConfig(4, 8, target_modules=("q_proj",)), vision_tower="frozen")
    adapted = write_run(folder / "run", lora)
    for word, expected in (("step_00000004.ckpt", policy), ("run", adapted)):
        found = find_policy(word, None, None, None)
        assert found.settings == needle_settings()  # there is no configuration, and it is the shipped model
        loaded = found.load(CPU)
        state = loaded.state_dict()
        assert all(torch.equal(state[name], value) for name, value in expected.state_dict().items())
        assert not any(weight.requires_grad for weight in loaded.parameters())


def test_the_newest_checkpoint_of_a_run_is_taken(folder: Path) -> None:
    write_run(folder / "run")
    checkpoints = folder / "run" / "checkpoints"
    (checkpoints / "last.ckpt").rename(checkpoints / "step_00000003.ckpt")
    shutil.copy(checkpoints / "step_00000003.ckpt", checkpoints / "step_00000007.ckpt")
    for word in ("run", "run/checkpoints"):
        assert find_policy(word, None, None, None).name == "run/checkpoints/step_00000007.ckpt, rollout step 3"


def test_a_model_folder_is_asked_with_a_runs_settings(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(NEEDLE_POLICY, folder / "model")
    assert find_policy("model", None, None, None).settings == default_settings()
    assert find_policy("model", None, None, None).config.dtype == "bfloat16"  # as it is stored
    assert find_policy("model", None, "float32", None).config.dtype == "float32"
    config = CONFIGS / "stage1.yaml"
    main(asked("--policy", "model", "--config", config, "--dtype", "float32", "--json", "a.jsonl"))
    assert "policy model settings as in" in in_one_line(capsys.readouterr().out)
    main(asked("--json", "b.jsonl"))
    assert read_records(folder / "a.jsonl") == read_records(folder / "b.jsonl")


def test_a_checkpoint_that_names_no_model_needs_the_flag(folder: Path) -> None:
    trained = perturbed(PolicyConfig())
    write_file(trained, folder / "old.ckpt")
    with pytest.raises(ValueError, match="give its folder with --base"):
        find_policy("old.ckpt", None, None, None)
    loaded = find_policy("old.ckpt", NEEDLE_POLICY, None, None).load(CPU).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in trained.state_dict().items())


def test_without_the_tool_there_is_one_turn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(asked("--direct"))
    output = capsys.readouterr().out
    assert "turn 1" in output
    assert "turn 2" not in output
    assert "crop  " not in output
    assert "expected" not in output


def test_a_sampled_episode_depends_on_its_seed_alone(shipped: Policy) -> None:
    settings = needle_settings()
    rollout = adjusted(settings.rollout, temperature=1.5)
    played = [
        play(shipped, Protocol(settings.protocol), rollout, scene(), direct=False, seed=seed).episodes[0].turns
        for seed in (0, 0, 1, 2, 3)
    ]
    assert played[0] == played[1]
    assert any(turns != played[0] for turns in played[2:])


@pytest.mark.parametrize(
    ("sides", "tokens"), [((448, 448), 64), ((3840, 2160), 1024), ((56, 56), 4), ((1120, 560), 200)]
)
def test_the_view_is_a_quarter_of_the_images_tokens(sides: tuple[int, int], tokens: int, folder: Path) -> None:
    Image.new("RGB", sides).save(folder / "grey.png")
    assert gap_tokens(read_image(folder / "grey.png"), 4) == tokens


def text_of(record: EpisodeRecord, width: int = 80) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    sample = replace(scene(), options=record.options, answer=record.options[0] if record.options else "3")
    show(console, sample, [Played("a policy", "defaults", record, 1.0, 2.0)])
    return console.export_text()


def record_with(turns: Sequence[TurnRecord], **changes: object) -> EpisodeRecord:
    plain = EpisodeRecord(
        rollout_step=0,
        group=0,
        episode=0,
        sample="scene",
        question="What?",
        options=(),
        expected_answer=None,
        evidence=(),
        view_size=Size(56, 56),
        original_size=Size(448, 448),
        turns=tuple(turns),
        answer=None,
        stop_reason=StopReason.MAX_TURNS,
        policy_tokens=3,
        visual_tokens=4,
        rewards={},
        total=None,
        advantage=None,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_what_a_policy_writes_cannot_steer_the_terminal() -> None:
    shown = text_of(record_with([TurnRecord("a\x1b[2Jb [red]c[/red]\u202e\nd", "\x07", error="no")], answer="\x1b]0;x"))
    assert "a\\x1b[2Jb [red]c[/red]\\u202e" in shown
    assert not set(shown) & set("\x1b\x07\u202e")


def test_all_that_can_happen_is_said() -> None:
    turns = [
        TurnRecord("<tool_call>", "Bad call.", error="The call has no closing tag."),
        TurnRecord("x", None, Box(1, 2, 30, 40)),
    ]
    shown = in_one_line(
        text_of(record_with(turns, options=("yes", "no"), view_size=None, answer="no", expected_answer="B"))
    )
    for text in (
        "options A. yes B. no",
        "view none: it is asked without the image",
        "turn 1 the policy wrote > <tool_call> and got back < Bad call. error The call has no closing tag.",
        "crop (1, 2) to (30, 40), 29 x 38 pixels of the image, not shown: no tokens were left",
        "answer no RIGHT, expected B ended max_turns",
        "4 visual (0 of the view, 4 of crops) seconds 2.00 playing, 1.00 loading",
    ):
        assert text in shown
    assert "answer none WRONG, expected 3" in in_one_line(text_of(record_with([], expected_answer="3")))


def test_the_device_is_found_or_named() -> None:
    assert find_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match=r"--device 'gpu' cannot be used here \(.*\): give cpu, or cuda\."):
        find_device("gpu")


def test_what_is_written_does_not_depend_on_who_reads(folder: Path) -> None:
    """A reader that is gone ends the program quietly, and letters that a terminal has not become escapes."""
    (folder / "scene.jpg").rename(folder / "sc\u00e8ne.jpg")
    command = [sys.executable, "-m", "infogap.cli", "ask", "sc\u00e8ne.jpg", scene().question, "--out", "a.png"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as playing:
        assert playing.stdout is not None
        assert playing.stderr is not None
        playing.stdout.close()
        said = playing.stderr.read()
    assert said == b""
    assert playing.returncode in (1, 141)  # by rich, or by us
    assert (folder / "a.png").exists()


def test_the_program_asks_and_its_help_is_light(folder: Path) -> None:
    command = [sys.executable, "-m", "infogap.cli", "ask"]
    played = subprocess.run([*command, *asked("--answer", "0")], capture_output=True, text=True, check=True)
    assert "WRONG, expected 0" in played.stdout
    assert not played.stderr
    light = "import sys, infogap.ask as ask\ntry: ask.main(['--help'])\nexcept SystemExit: print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", light], capture_output=True, text=True, check=True).stdout.split()
    assert "infogap.ask" in modules
    assert not {"torch", "numpy", "PIL", "rich"} & set(modules)
