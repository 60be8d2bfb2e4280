"""The command ``infogap view`` and what it writes, without a browser."""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shard_files import spoilt_png
from test_pictures_records import RECORD
from viewer_runs import CROP_LEAST, CROP_TOKENS, make_record, write_run

from infogap.arguments import CommandError
from infogap.cli import main
from infogap.data.images import HighResImage
from infogap.data.needle import NeedleConfig, make_samples
from infogap.data.sample import Sample
from infogap.data.writing import write_shards
from infogap.evaluation.prediction import Prediction
from infogap.evaluation.prediction_file import PredictionFile
from infogap.geometry import Box, visual_tokens
from infogap.pictures.panels import crop_as_shown, view_as_shown
from infogap.pictures.record_file import EpisodeFileError, read_records, record_line
from infogap.viewer.entries import Entry, thin_out


def values_of(page: Path, name: str = "run") -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page.read_text(), re.DOTALL)
    return found and json.loads(found[1])


def pixels(address: str) -> np.ndarray:
    kind, data = address.split(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)


def view(*words: object) -> None:
    main(["view", *map(str, words)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("viewer"))


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of a run, which a test may change; its shards are elsewhere."""
    copy = tmp_path / "run"
    (copy / "episodes").mkdir(parents=True)
    for name in ("config.yaml", "episodes/rank_0.jsonl"):
        (copy / name).write_bytes((made / name).read_bytes())
    return copy


def test_every_episode_is_in_the_page_with_what_the_policy_saw(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    view(run)
    page = run / "episodes.html"
    said = capsys.readouterr().out
    assert re.fullmatch(rf"{page}: 24 episodes, pictures, \d\.\d MB, made in \d+\.\d s\n", said)
    values, records = values_of(page), read_records(run / "episodes" / "rank_0.jsonl")
    samples = {sample.key: sample for sample in make_samples(NeedleConfig(), 0, 6)}
    assert [values["samples"][e["sample"]]["key"] for e in values["episodes"]] == [r.sample for r in records]
    for episode, record in zip(values["episodes"], records, strict=True):
        assert (episode["answer"], episode["total"], episode["rewards"]) == (
            record.answer,
            record.total,
            record.rewards,
        )
        if record.episode == 0:
            pictures, image = values_of(page, f"pictures-{episode['sample']}"), samples[record.sample].image
            view_shown = pixels(pictures["views"][episode["view"]["picture"]])
            assert np.abs(view_shown - np.asarray(view_as_shown(image, record.view_size))).mean() < 3
            assert pixels(pictures["original"]).shape == (448, 448, 3)
        for turn, kept in zip(episode["turns"], record.turns, strict=True):
            if kept.crop is not None:
                crop = pixels(pictures["crops"][turn["picture"]])
                assert np.abs(crop - np.asarray(crop_as_shown(image, kept.crop, kept.shown))).mean() < 3


def test_the_page_needs_nothing_and_lets_nothing_in(run: Path) -> None:
    nasty = "</script><script src='https://example.org/x.js'></script>"
    path = run / "episodes" / "rank_0.jsonl"
    records = read_records(path)
    path.write_text("".join(record_line(replace(record, question=nasty, answer=nasty)) for record in records))
    view(run)
    page = (run / "episodes.html").read_text()
    assert "<script src" not in page
    assert page.count("<script") == page.count("</script>") == 2
    assert values_of(run / "episodes.html")["samples"][0]["question"] == nasty
    outside = set(re.findall(r"https?://[^'\"<> ]+", page)) - {"http://www.w3.org/2000/svg", "https://example.org/x.js"}
    assert not outside
    assert re.search(r"default-src 'none'; img-src data:; style-src 'sha256-\S+'; script-src 'sha256-\S+'\"", page)
    assert "<title>run " in page


def test_a_title_is_text(run: Path) -> None:
    other = run.with_name("<b>&")
    run.rename(other)
    view(other)
    assert "<title>&lt;b&gt;&amp; " in (other / "episodes.html").read_text()


def test_one_picture_for_each_crop_and_one_decoding_for_each_original(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run / "episodes" / "rank_0.jsonl"
    lines = path.read_text().splitlines(keepends=True)[:4]
    path.write_text("".join(lines) + "".join(line.replace('"rollout_step": 0', '"rollout_step": 8') for line in lines))
    decoded: list[str] = []
    released: list[str] = []
    load, release = HighResImage._load, HighResImage.release
    monkeypatch.setattr(HighResImage, "release", lambda self: (released.append(self.name), release(self)))
    monkeypatch.setattr(HighResImage, "_load", lambda self, image: (decoded.append(self.name), load(self, image)))
    view(run)
    values, records = values_of(run / "episodes.html"), read_records(path)
    assert len(values["episodes"]) == 8
    pictures = values_of(run / "episodes.html", "pictures-0")
    assert len(pictures["crops"]) == len({crop for record in records for crop in record.crops})
    assert len(pictures["views"]) == 1
    assert released == [records[0].sample]  # a decoded original may take 600 MB
    assert decoded == [records[0].sample] * 2  # the view, and all that is cut from the original


def test_files_of_all_ranks_are_read_in_the_order_of_the_steps(run: Path) -> None:
    path = run / "episodes" / "rank_0.jsonl"
    for rank in (1, 10):
        path.with_name(f"rank_{rank}.jsonl").write_bytes(path.read_bytes())
    path.with_name("rank_other.jsonl").write_text("nonsense")
    view(run)
    values = values_of(run / "episodes.html")
    names = [tuple(map(int, episode["name"].split("-"))) for episode in values["episodes"]]
    assert len(names) == 72
    assert names == sorted(names)
    assert values["facets"] == ["rank"]
    assert {episode["facets"]["rank"] for episode in values["episodes"]} == {"0", "1", "10"}
    assert len({episode["group"] for episode in values["episodes"]}) == 18


@pytest.mark.parametrize("part", ["episodes", "episodes/rank_0.jsonl"])
def test_a_run_is_found_from_its_folder_of_episodes_and_from_a_file(run: Path, part: str, tmp_path: Path) -> None:
    view(run / part, "--out", tmp_path / "new" / "page.html")
    assert len(values_of(tmp_path / "new" / "page.html")["episodes"]) == 24
    assert values_of(tmp_path / "new" / "page.html", "pictures-0")
    assert os.listdir(tmp_path / "new") == ["page.html"]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [("1", {1}), ("1:2", {1, 2}), (":1", {0, 1}), ("2:", {2}), ("0:99", {0, 1, 2})],
)
def test_steps_are_chosen(run: Path, steps: str, expected: set[int]) -> None:
    view(run, "--steps", steps)
    assert {episode["step"] for episode in values_of(run / "episodes.html")["episodes"]} == expected


def test_a_limit_keeps_whole_groups_spread_over_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    view(run, "--limit", 13)
    values = values_of(run / "episodes.html")
    assert [episode["name"] for episode in values["episodes"]] == [
        f"{group}-{number}" for group in ("0-0-0", "1-0-0", "2-0-1") for number in range(4)
    ]
    assert "12 episodes of 24 (--limit 0 shows all)" in capsys.readouterr().out


@pytest.mark.parametrize("limit", range(0, 40))
def test_thinning_out_keeps_as_many_groups_as_it_may(limit: int) -> None:
    sizes = [3, 1, 5, 5, 2, 8]
    entries = [Entry(RECORD, f"{g}-{n}", str(g), "") for g, size in enumerate(sizes) for n in range(size)]
    kept = thin_out(entries, limit)
    groups = [entry.group for entry in kept]
    assert all(groups.count(group) == sizes[int(group)] for group in groups)
    assert kept == [entry for entry in entries if entry in kept]
    assert len(kept) <= limit or limit == 0 or set(groups) == {"0"}
    assert len(set(groups)) == 1 or {groups[0], groups[-1]} == {"0", "5"}
    assert (len(kept) == 24) == (limit == 0 or limit >= 24)


# What is not there


def test_without_shards_there_is_a_page_without_pictures(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "config.yaml").write_text(
        "data:\n  root: gone/train\n  sources: null\n  val_root: https://example.org/val\n"
    )
    view(run)
    gone = "the shards gone/train, https://example.org/val are not here"
    notice = f"Without pictures: {gone}; give the shards as --data SHARDS."
    out = capsys.readouterr().out
    assert out.splitlines()[1:] == [notice]
    assert "24 episodes, pictures of 0 of 6 samples" in out
    assert values_of(run / "episodes.html")["notice"] == notice
    assert values_of(run / "episodes.html", "pictures-0") is None


def test_without_a_configuration_the_shards_can_be_given(
    made: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "config.yaml").unlink()
    view(run)
    assert "Without pictures: no configuration beside the run names its shards; give" in capsys.readouterr().out
    view(run, "--data", made.parent / "train")
    assert "24 episodes, pictures, " in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="matches no file"):
        view(run, "--data", "gone")


def test_several_sources_are_looked_through_and_samples_are_told_apart(
    made: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, *others = make_samples(NeedleConfig(), 0, 6)
    write_shards([replace(first, question="Another one?"), second], tmp_path / "a", 9)
    write_shards(others[:2], tmp_path / "b", 9)
    (run / "config.yaml").write_text(
        f"data:\n  root: null\n  sources:\n  - root: {tmp_path}/a\n  - root: {tmp_path}/b\n"
    )
    view(run)
    out = capsys.readouterr().out
    assert "pictures of 3 of 6 samples" in out
    assert "Without the pictures of 2 of 6 samples: the shards do not hold them; give the shards" in out
    found = [values_of(run / "episodes.html", f"pictures-{number}") is not None for number in range(6)]
    assert found == [False, True, True, True, False, False]


def test_relative_shards_are_found_from_where_the_run_was_started(
    made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "project", scenes=1)
    (run / "config.yaml").write_text("data:\n  root: train\n  val_root: gone\n")
    monkeypatch.chdir("/")
    view(run)
    assert ": 4 episodes, pictures, " in capsys.readouterr().out


def test_corrupt_originals_cost_their_pictures_alone(run: Path, tmp_path: Path) -> None:
    first, *others = make_samples(NeedleConfig(), 0, 6)
    buffer = io.BytesIO()
    Image.fromarray(first.image.decode()).save(buffer, "PNG")
    broken = HighResImage(spoilt_png(buffer.getvalue()))
    write_shards([replace(first, image=broken), *others], tmp_path / "broken", 9)
    view(run, "--data", tmp_path / "broken")
    found = [values_of(run / "episodes.html", f"pictures-{number}") is not None for number in range(6)]
    assert found == [False] + [True] * 5


def test_a_crop_outside_its_image_has_no_picture(run: Path) -> None:
    sample = next(make_samples(NeedleConfig(), 0, 1))
    record = make_record(sample, [Box(0, 0, 99, 99)], "3")
    outside = replace(record.turns[0], crop=Box(500, 500, 600, 600))
    (run / "episodes" / "rank_0.jsonl").write_text(record_line(replace(record, turns=(outside,))))
    view(run)
    assert values_of(run / "episodes.html", "pictures-0")["crops"] == [None]


# Mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "RUN is missing"),
        (["gone"], "^gone does not exist: give the folder of a run"),
        (["."], r"^\. holds no episodes: give the folder of a run"),
        (["run", "--limit", "-1"], "--limit is -1: give"),
        (["run", "--limit", "x"], "--limit: invalid int"),
        (["run", "--steps", "a"], "--steps is 'a': give FIRST:LAST"),
        (["run", "--steps", ":"], "--steps is ':': give FIRST:LAST"),
        (["run", "--steps", "7:9"], "run holds no episode of --steps 7:9: its steps are 0 to 2"),
        (["run", "--step", "7"], "no option --step: did you mean --steps"),
        (["run", "--steps", "5:3"], "--steps is '5:3', whose first step is above its last: give 3:5"),
        (["run", "--steps", "9" * 5000], "--steps is '999.*: give FIRST:LAST"),
        (["run", "--out", "run/config.yaml"], r"--out 'run/config\.yaml' is no page: give a path that ends in \.html"),
        (["run", "--out", "run/episodes/rank_0.jsonl"], "is no page: give"),
        (["run", "--out", "run/config.yaml/page.html"], r"--out 'run/config\.yaml/page\.html' cannot be written \("),
        (
            ["run", "--out", f"{'a' * 300}.html"],
            r"--out 'a+\.html' cannot be written \(File name too long\): give another",
        ),
    ],
)
def test_mistakes_cost_a_sentence(
    run: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CommandError, match=message):
        view(*words)
    assert not (run / "episodes.html").exists()


def test_what_is_read_is_not_written_over(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run / "episodes" / "rank_0.jsonl"
    before = path.read_bytes()
    other = run / "page.html"
    other.hardlink_to(path)
    monkeypatch.setattr("infogap.viewer.command._gather", lambda *_: 1 / 0)  # before any work
    with pytest.raises(CommandError, match=r"--out '.*page\.html' is a file of episodes itself: give another path"):
        view(run, "--out", other)
    other.unlink()
    other.mkdir()
    with pytest.raises(CommandError, match=r"--out '.*page\.html' is a folder: give"):
        view(run, "--out", other)
    assert path.read_bytes() == before


def test_a_full_disk_is_said_of_the_page(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("infogap.viewer.command.write_page", fail)
    with pytest.raises(
        CommandError, match=r"--out '.*run/episodes\.html' cannot be written \(No space left on device\)"
    ):
        view(run)
    assert sorted(os.listdir(run)) == ["config.yaml", "episodes"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" + 400 * "0"])
def test_a_number_that_is_none_has_no_value(run: Path, number: str) -> None:
    path = run / "episodes" / "rank_0.jsonl"
    values = json.loads(path.read_text().splitlines()[0])
    values |= {"total": "@", "advantage": "@", "rewards": {"accuracy": "@"}}
    path.write_text(json.dumps(values).replace('"@"', number) + "\n")
    view(run)
    (episode,) = values_of(run / "episodes.html")["episodes"]
    assert (episode["total"], episode["advantage"], episode["rewards"]) == (None, None, {"accuracy": None})


def test_an_episode_that_is_there_twice_is_named(run: Path) -> None:
    path = run / "episodes" / "rank_0.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[5]]))
    with pytest.raises(
        EpisodeFileError, match=r"^Line 25 of .*rank_0\.jsonl is another episode 1 of group 1 in rollout"
    ):
        view(run)


WRONG = {
    "data: 3": "has 3 as data: give a mapping",
    "data: {sources: 3}": "has 3 as data.sources: give a list of mappings",
    "data: {sources: [a]}": r"has \['a'\] as data.sources: give a list of mappings",
    "data: {root: 3}": "has 3 as data.root: give a path",
    "data: {sources: [{root: [a]}]}": r"has \['a'\] as data.sources.root: give a path",
}


@pytest.mark.parametrize(("text", "message"), WRONG.items(), ids=WRONG)
def test_a_value_of_another_kind_is_named(run: Path, text: str, message: str) -> None:
    (run / "config.yaml").write_text(text)
    with pytest.raises(CommandError, match=rf"config\.yaml {message}.*, or leave it out\.$"):
        view(run)


def test_data_that_holds_none_of_the_samples_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "episodes" / "rank_0.jsonl"
    view(run, "--data", path)
    said = f"Without pictures: {path} of --data holds none of the samples; name the shards that the run has played."
    assert capsys.readouterr().out.splitlines()[1:] == [said]


def test_a_run_without_an_episode_yet_is_said(run: Path) -> None:
    (run / "episodes" / "rank_0.jsonl").write_text('{"rollout_step": 0, "gr')
    with pytest.raises(CommandError, match="holds no episode yet"):
        view(run)


def test_a_bad_line_and_a_bad_configuration_are_named(run: Path) -> None:
    (run / "config.yaml").write_text("data: [")
    with pytest.raises(CommandError, match=r"config\.yaml cannot be read \(.*\): correct it"):
        view(run)
    (run / "config.yaml").write_text("!!python/object/apply:os.system ['touch hacked']")
    with pytest.raises(CommandError, match=r"config\.yaml cannot be read"):
        view(run)
    (run / "episodes" / "rank_0.jsonl").write_text("{}\n")
    with pytest.raises(EpisodeFileError, match=r"Line 1 of .*rank_0\.jsonl is no episode"):
        view(run)


def test_a_page_that_cannot_be_finished_leaves_the_old_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "episodes.html").write_text("old")
    monkeypatch.setattr("infogap.viewer.pictures.data_address", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        view(run)
    assert (run / "episodes.html").read_text() == "old"
    assert sorted(os.listdir(run)) == ["config.yaml", "episodes", "episodes.html"]


def test_the_program_says_a_mistake_in_one_line_and_needs_no_model() -> None:
    program = "import sys; from infogap.cli import main; sys.argv[1:] = ['view', '--help']\n"
    program += "try: main()\nexcept SystemExit: assert not {'torch', 'transformers', 'lightning'} & set(sys.modules)"
    assert b"--data SHARDS" in subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout


# Evaluations


def predict(sample: Sample, arm: str, **fields: Any) -> Prediction:
    given: dict[str, Any] = {"subcategory": "", "variant": "", "base": sample.key, "cluster": sample.key}
    given |= {"category": "c", "gold": sample.answer, "chance": 0.1, "view": "25", "attempt": 0, "correct": False}
    given |= {"method": "letter", "answer": "3", "turns": ("<answer>3</answer>",), "stop_reason": "answered"}
    given |= {"view_tokens": 25, "policy_tokens": 5}
    return Prediction(sample.key, arm=arm, **(given | fields))


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """An evaluation of two arms on two scenes, and of an arm that shows something else."""
    first, second = make_samples(NeedleConfig(), 0, 2)
    write_shards([first, second], tmp_path / "scenes", 9)
    crop = Box(40.0, 50.0, 140.0, 170.0)
    tokens = visual_tokens(first.image.crop_size(crop, CROP_TOKENS, CROP_LEAST))
    cut = {"turns": ("look", "<answer>3</answer>"), "crops": (crop.as_tuple(),), "crop_tokens": tokens}
    predictions = [
        predict(first, "no_tool", correct=True),
        predict(first, "own", **cut),
        predict(first, "noise", **cut),
        predict(first, "no_image", view_tokens=0),
        predict(second, "own", **(cut | {"bad_calls": 1, "turns": ("look", "bad", "<answer>3</answer>")})),
        predict(second, "no_tool", method="unreadable", stop_reason="", turns=()),
    ]
    folder = tmp_path / "out"
    with PredictionFile(folder / "predictions.jsonl", {}) as file:
        file.append(predictions)
    (folder / "config.yaml").write_text(
        f"data:\n  benchmark: shards\n  root: {tmp_path / 'scenes'}\nmodel:\n  play:\n    min_view_tokens: 4\n"
        f"    crop:\n      max_tokens: {CROP_TOKENS}\n      min_tokens: {CROP_LEAST}\n"
    )
    return folder


@pytest.mark.parametrize("name", ["", "predictions.jsonl"])
def test_the_predictions_of_an_evaluation_are_shown(evaluation: Path, name: str) -> None:
    view(evaluation / name)
    values = values_of(evaluation / "episodes.html")
    arms = [(episode["facets"]["arm"], episode["group"], episode["right"]) for episode in values["episodes"]]
    assert arms == [
        ("no_tool", 0, True),
        ("own", 0, False),
        ("noise", 0, False),
        ("no_image", 0, False),
        ("own", 1, False),
    ]
    direct, own, noise, blind, failed = values["episodes"]
    sample = next(make_samples(NeedleConfig(), 0, 1))
    assert values["samples"][0]["question"] == sample.question
    assert direct["view"]["size"] == [140, 140]
    assert blind["view"] is None
    assert own["turns"][0]["shown"] == list(sample.image.crop_size(Box(40, 50, 140, 170), CROP_TOKENS, CROP_LEAST))
    assert noise["turns"][0]["shown"] is None
    assert "random pixels" in noise["notes"][0]
    assert "Some calls failed" in failed["notes"][0]
    assert own["notes"] == []
    pictures = values_of(evaluation / "episodes.html", "pictures-0")
    assert len(pictures["crops"]) == 2  # as shown, and as asked for
    assert len({episode["name"] for episode in values["episodes"]}) == 5


def test_the_questions_are_found_from_where_the_evaluation_was_started(
    evaluation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = evaluation / "config.yaml"
    config.write_text(config.read_text().replace(f"root: {tmp_path}/scenes", "root: scenes"))
    monkeypatch.chdir("/")
    view(evaluation)
    assert values_of(evaluation / "episodes.html", "pictures-0") is not None


WRONG_PLAY = {
    "null": None,
    "{play: {crop: 3}}": "has 3 as model.play.crop: give a mapping",
    "{play: {min_view_tokens: x}}": "has 'x' as model.play.min_view_tokens: give a whole number of at least 1",
    "{play: {crop: {max_tokens: -1}}}": "has -1 as model.play.crop.max_tokens: give a whole number of at least 1",
    "{play: {crop: {max_tokens: 3}}}": "has a wrong model.play, crop.min_tokens 16, crop.max_tokens 3: give",
}


@pytest.mark.parametrize(("model", "message"), WRONG_PLAY.items(), ids=WRONG_PLAY)
def test_a_wrong_configuration_of_an_evaluation_is_named(evaluation: Path, model: str, message: str | None) -> None:
    config = evaluation / "config.yaml"
    config.write_text(config.read_text().partition("model:")[0] + f"model: {model}\n")
    if message is None:
        view(evaluation)
        return
    with pytest.raises(CommandError, match=rf"config\.yaml {message}"):
        view(evaluation)


def test_a_view_of_another_size_than_the_predictions_say_is_not_believed(evaluation: Path) -> None:
    config = evaluation / "config.yaml"
    config.write_text(config.read_text().replace("min_tokens: 16", "min_tokens: 60"))
    view(evaluation)
    own = values_of(evaluation / "episodes.html")["episodes"][1]
    assert own["turns"][0]["shown"] is None


def test_predictions_without_their_questions_are_refused(evaluation: Path, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"questions are in the files of shards, which cannot be read .*--data"):
        view(evaluation, "--data", "gone")
    write_shards(make_samples(NeedleConfig(), 5, 1), tmp_path / "others", 9)
    with pytest.raises(CommandError, match="holds none of the rows"):
        view(evaluation, "--data", tmp_path / "others")
    with pytest.raises(CommandError, match="--data is given twice"):
        view(evaluation, "--data", "a", "--data", "b")
    (evaluation / "config.yaml").unlink()
    with pytest.raises(CommandError, match=r"not the questions, and there is no config\.yaml beside it"):
        view(evaluation)
