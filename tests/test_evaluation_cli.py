"""``infogap test`` and ``compare`` as a user runs them, with the shipped policy on a few needle scenes."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import benchmark_files as files
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from infogap.cli import main
from infogap.data.needle import NeedleConfig, make_samples
from infogap.data.writing import write_shards
from infogap.evaluation.benchmarks.registry import BENCHMARKS, find_benchmark
from infogap.evaluation.engine import ArmPlayer
from infogap.evaluation.module import EvaluationModule
from infogap.evaluation.prediction_file import PredictionFile, load_contents, load_predictions
from infogap.evaluation.question import BenchmarkError, UnreadableRow
from infogap.grpo.module import GRPOModule
from infogap.policy.loading import NEEDLE_POLICY, LoraConfig, PolicyConfig, load_policy
from infogap.policy.vocabulary import PolicyError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SCENES = 8

pytestmark = [
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter is intended to run from within Python"),
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero"),
]


def arguments(folder: Path, *more: str) -> list[str]:
    return [
        "test",
        f"--config={CONFIGS}/eval/needle.yaml",
        f"--model.output={folder / 'out'}",
        f"--data.root={folder / 'scenes'}",
        f"--data.needle.count={SCENES}",
        "--data.batch_size=3",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        *more,
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One evaluation of the shipped policy; it writes to its own folder and nowhere else."""
    folder = tmp_path_factory.mktemp("evaluation")
    with contextlib.chdir(tmp_path_factory.mktemp("elsewhere")):
        main(arguments(folder))
        assert list(Path.cwd().iterdir()) == []
    return folder


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out" / "results.json").read_text())
    return found


def test_an_evaluation_writes_everything(folder: Path) -> None:
    found = results(folder)
    assert {path.name for path in (folder / "out").iterdir()} == {
        "predictions.jsonl",
        "results.json",
        "config.yaml",
        "report.md",
        "accuracy_against_tokens.png",
        "dependence.png",
        "crop_area.png",
    }
    assert set(found["views"]) == {"selected", "1024"}
    arms = {"no_image", "no_tool", "own", "gt", "noise", "random", "other", "gt_only"}
    assert set(found["views"]["selected"]["arms"]) == arms
    assert {"crop_dependence", "gap_closure", "information_gain_over_placebo"} <= set(
        found["views"]["selected"]["probes"]
    )
    report = (folder / "out" / "report.md").read_text()
    assert "crop_dependence" in report
    assert "dependence.png" in report


def test_the_protocol_says_how_it_was_played(folder: Path) -> None:
    protocol = results(folder)["protocol"]
    assert protocol["weights"].startswith("sha256:")
    assert protocol["play"]["views"] == ["selected", 1024]
    assert protocol["play"]["limits"]["max_crops"] == 1
    assert protocol["play"]["sampling"]["temperature"] == 0
    assert (protocol["matching"], protocol["unreadable"], protocol["judge"]) == ("strict", "wrong", None)
    assert set(protocol["versions"]) == {"torch", "transformers", "lightning", "pillow"}
    assert "commit" in protocol
    rows, left_out = results(folder)["counts"]["rows"], protocol["rows_left_out"]
    assert rows + left_out == SCENES


def test_the_configuration_that_is_kept_can_be_run_again(folder: Path) -> None:
    kept = yaml.safe_load((folder / "out" / "config.yaml").read_text())
    assert kept["data"]["batch_size"] == 3
    main(["test", f"--config={folder / 'out' / 'config.yaml'}"])  # everything is there, and nothing is refused


def test_every_row_has_every_arm_and_view(folder: Path) -> None:
    predictions = load_predictions(folder / "out" / "predictions.jsonl")
    rows = {prediction.key for prediction in predictions}
    assert len(predictions) == len(rows) * 8 * 2
    assert all(prediction.cluster != prediction.key for prediction in predictions)  # a digest of the image


def test_a_second_run_plays_what_is_missing_and_nothing_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "scenes").symlink_to(folder / "scenes")
    whole = (folder / "out" / "predictions.jsonl").read_bytes()
    half = tmp_path / "out" / "predictions.jsonl"
    half.write_bytes(whole.replace(str(folder).encode(), str(tmp_path).encode())[: len(whole) // 2])
    done = {prediction.key for prediction in load_predictions(half)}
    played: list[str] = []
    play = ArmPlayer.play

    def note(self: ArmPlayer, cases: Any) -> Any:
        played.extend(case.question.key for case in cases)
        return play(self, cases)

    monkeypatch.setattr(ArmPlayer, "play", note)
    main(arguments(tmp_path))
    everything = {p.key for p in load_predictions(folder / "out" / "predictions.jsonl")}
    assert set(played) >= everything - done
    assert len(played) < len(everything)
    first, second = results(folder)["views"], results(tmp_path)["views"]
    for view in first:
        for arm, numbers in first[view]["arms"].items():
            assert second[view]["arms"][arm]["accuracy"] == numbers["accuracy"]
            assert second[view]["arms"][arm]["visual_tokens"] == numbers["visual_tokens"]
    played.clear()
    main(arguments(tmp_path))
    assert played == []


def small(folder: Path, *more: str) -> list[str]:
    few = ["--data.needle=null", "--data.require_view_tokens=false", "--model.play.views=[16]"]
    return arguments(folder, *few, "--model.play.arms=[no_tool]", "--model.play.information_gain=false", *more)


def test_results_hold_what_the_data_hold_now(tmp_path: Path) -> None:
    samples = list(make_samples(NeedleConfig(), 9, 3))
    write_shards(samples, tmp_path / "scenes", 8)
    main(small(tmp_path))
    assert results(tmp_path)["counts"]["rows"] == 3
    for shard in (tmp_path / "scenes").iterdir():
        shard.unlink()
    write_shards(samples[:2], tmp_path / "scenes", 8)
    with pytest.raises(BenchmarkError, match="was made with files"):
        main(small(tmp_path))


def test_a_row_with_another_right_answer_is_not_taken_for_the_one_that_was_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = list(make_samples(NeedleConfig(), 9, 2))
    write_shards(samples, tmp_path / "scenes", 8)
    main(small(tmp_path))
    path = tmp_path / "out" / "predictions.jsonl"
    gold = load_predictions(path)[0].gold
    path.write_text(path.read_text().replace(f'"gold": "{gold}"', '"gold": "Z"', 1))
    with pytest.raises(BenchmarkError, match=f"its right answer was 'Z', and now it is '{gold}'"):
        main(small(tmp_path))


def test_a_row_that_was_mended_is_played(tmp_path: Path) -> None:
    samples = list(make_samples(NeedleConfig(), 9, 2))
    write_shards(samples, tmp_path / "scenes", 8)
    (shard,) = (tmp_path / "scenes").glob("*.tar")
    sound = shard.read_bytes()
    place = sound.index(samples[1].image.data)
    shard.write_bytes(sound[: place + 100] + bytes(400) + sound[place + 500 :])
    main(small(tmp_path))
    assert results(tmp_path)["counts"]["unreadable"] == 1
    shard.write_bytes(sound)
    main(small(tmp_path))
    assert results(tmp_path)["counts"]["unreadable"] == 0


def test_fixed_views_of_needle_scenes_are_played_too(tmp_path: Path) -> None:
    main(arguments(tmp_path, "--model.play.views=[16]", "--model.play.arms=[own]"))
    assert 0 < results(tmp_path)["counts"]["rows"] <= SCENES


def test_a_model_folder_does_not_select_its_own_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(
        "infogap.lightning_cli.ensure_manifest", lambda root, policy, *_, **__: asked.append(policy.path)
    )
    with pytest.raises(BenchmarkError, match=f"No row of .* was played: {SCENES} were left out"):
        main(arguments(tmp_path, f"--model.init_from={NEEDLE_POLICY}"))
    assert asked == ["needle"]


def test_another_way_of_playing_is_not_mixed_in(folder: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"was made with .*give model\.output another folder"):
        main(arguments(folder, "--model.play.views=[64]"))


def test_a_folder_is_a_policy_of_its_own_and_a_checkpoint_gives_weights(folder: Path, tmp_path: Path) -> None:
    few = ["--model.play.views=[64]", "--model.play.arms=[own]", "--model.play.information_gain=false"]
    few += ["--data.limit=3", f"--data.root={folder / 'scenes'}", "--data.require_view_tokens=false"]
    main(arguments(tmp_path, f"--model.init_from={NEEDLE_POLICY}", "--model.policy.path=/nowhere", *few))
    shipped = load_contents(tmp_path / "out" / "predictions.jsonl")
    assert shipped.protocol["policy"] == str(NEEDLE_POLICY)
    weights = tmp_path / "zero.ckpt"
    state = load_policy(PolicyConfig(), ()).state_dict()
    torch.save({"state_dict": {f"policy.{name}": torch.zeros_like(value) for name, value in state.items()}}, weights)
    changed = arguments(tmp_path, f"--model.init_from={weights}", f"--model.output={tmp_path / 'zero'}", *few)
    main(changed)
    zero = load_predictions(tmp_path / "zero" / "predictions.jsonl")
    assert {p.crops for p in zero} == {()}
    assert all(p.crops for p in shipped.predictions.values())


def checkpoint(path: Path, **changes: Any) -> Path:
    """The shipped policy's weights as a run writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = load_policy(PolicyConfig(**changes)).state_dict()
    torch.save({"state_dict": {f"policy.{name}": value for name, value in state.items()}}, path)
    return path


def test_a_run_stands_for_its_newest_checkpoint(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoints" / "step_00000002.ckpt")
    newest = checkpoint(tmp_path / "checkpoints" / "step_00000010.ckpt")
    for folder in (tmp_path, tmp_path / "checkpoints"):
        module = EvaluationModule(init_from=str(folder))
        assert (module.weights, module.policy_config.path) == (newest, "needle")
        module.check_weights()
        assert GRPOModule(init_from=str(folder)).init_from == str(newest)


def test_weights_of_another_kind_are_refused_before_views_are_selected(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infogap.lightning_cli.ensure_manifest", lambda *_, **__: pytest.fail("views were selected"))
    other = checkpoint(tmp_path / "adapters.ckpt", lora=LoraConfig(rank=4))
    with pytest.raises(PolicyError, match=r"adapters.ckpt does not fit the policy, first at"):
        main(arguments(folder, f"--model.init_from={other}"))


def test_an_evaluation_that_stops_before_its_first_row_closes_its_predictions(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any) -> None:
        raise PolicyError("a file is missing")

    closed: list[Path] = []
    close = PredictionFile.close
    monkeypatch.setattr(PredictionFile, "close", lambda file: (closed.append(file.path), close(file)))
    monkeypatch.setattr("infogap.evaluation.module.load_policy", missing)
    (tmp_path / "scenes").symlink_to(folder / "scenes")
    with pytest.raises(PolicyError, match="a file is missing"):
        main(arguments(tmp_path))
    assert closed == [tmp_path / "out" / "predictions.jsonl"]


def test_a_row_that_cannot_be_read_is_counted_and_said(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples = list(make_samples(NeedleConfig(), 9, 3))
    write_shards(samples, tmp_path / "scenes", 8)
    (shard,) = (tmp_path / "scenes").glob("*.tar")
    data = bytearray(shard.read_bytes())
    image = samples[1].image.data
    place = data.index(image)
    data[place + 200 : place + len(image) - 100] = bytes(len(image) - 300)
    shard.write_bytes(bytes(data))
    few = ["--data.needle=null", "--data.require_view_tokens=false", "--model.play.views=[64]"]
    main(arguments(tmp_path, *few))
    counts = results(tmp_path)["counts"]
    assert (counts["rows"], counts["unreadable"]) == (3, 1)
    assert counts["unreadable_reasons"][0]["key"] == samples[1].key
    assert "unreadable" in caplog.text
    own = results(tmp_path)["views"]["64"]["arms"]["own"]
    assert own["accuracy"]["count"] == 3
    assert own["unreadable"]["value"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--data.benchmark=vstr"], "did you mean 'vstar'"),
        (["--data.benchmark=pope", "--data.needle=null"], "gt, gt_only show annotated evidence, which pope"),
        (["--data.needle=null", "--data.root=/nowhere"], "/nowhere"),
        (["--model.init_from=/nowhere.ckpt"], "/nowhere.ckpt"),
        (["--model.scoring.mode=official"], "shards has no rule of its own"),
        (["--model.play.arms=[own,gtt]"], "gtt"),
        (["--model.play.view=[64]"], "did you mean model.play.views"),
        (["--model.scoring.judge.base_url=http://x/v1"], "model.scoring.judge: model must be given"),
        (["--model.scoring.judge.base_url=ftp://x", "--model.scoring.judge.model=m"], "is no http or https address"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_mistake_costs_one_sentence(
    folder: Path, more: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a program, which is what `main` without arguments is."""
    monkeypatch.setattr(sys, "argv", ["infogap", *arguments(folder, *more)])
    with pytest.raises(SystemExit) as ending:
        main()
    assert ending.value.code == 2
    shown = capsys.readouterr().err
    last = shown.splitlines()[-1]
    assert last.startswith("error: ")
    assert sentence in last
    assert "Traceback" not in shown


def test_several_processes_are_refused(folder: Path) -> None:
    command = [sys.executable, "-m", "infogap.cli", *arguments(folder, "--trainer.devices=2", "--trainer.strategy=ddp")]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert run.returncode == 2
    assert "2 processes, which this version cannot do" in run.stderr
    assert "Traceback" not in run.stderr


def test_the_program_says_what_it_can_do() -> None:
    run = subprocess.run([sys.executable, "-m", "infogap.cli", "--help"], capture_output=True, text=True)
    assert run.returncode == 0
    for command in ("fit", "validate", "test", "compare"):
        assert f"\n  {command}" in run.stdout


def test_two_results_are_compared(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--model.play.views=[selected]", f"--data.root={folder / 'scenes'}", "--model.seed=1"]
    few = [argument for argument in few if "seed" not in argument]
    main(arguments(tmp_path, *few))
    capsys.readouterr()
    main(["compare", str(folder / "out"), str(tmp_path / "out"), "--names", "first", "second"])
    shown = capsys.readouterr().out
    assert "first" in shown
    assert "second" in shown
    assert "own" in shown


def written(name: str, folder: Path) -> Path:
    """A miniature of a benchmark's files, as they are published."""
    if name.startswith("hrbench"):
        return files.write_tsv(folder / f"hr_bench_{name[-2:]}.tsv", files.hrbench_rows())
    if name.startswith("visualprobe"):
        return files.visualprobe(folder)
    if name == "cvbench":
        files.write_parquet(folder / "test_2d.parquet", files.cvbench_rows())
        files.write_parquet(folder / "test_3d.parquet", [files.cvbench_rows()[0] | {"idx": 99}])
        return folder
    write = {
        "vstar": lambda: files.vstar_annotations(folder),
        "mme_realworld": lambda: files.write_parquet(folder / "data.parquet", files.mme_rows()),
        "mme_realworld_lite": lambda: files.write_parquet(folder / "data.parquet", files.mme_rows()),
        "xlrs_lite": lambda: files.write_json_lines(folder / "part0.jsonl", files.xlrs_rows()),
        "treebench": lambda: files.write_tsv(folder / "TreeBench.tsv", files.treebench_rows()),
        "zoombench": lambda: files.write_parquet(folder / "test.parquet", files.zoombench_rows()),
        "mmstar": lambda: files.write_parquet(folder / "mmstar.parquet", files.mmstar_rows()),
        "pope": lambda: files.write_parquet(folder / "test-0.parquet", files.pope_rows()),
    }
    return write[name]()


@pytest.mark.parametrize("name", sorted({*BENCHMARKS} - {"shards"}))
def test_every_published_benchmark_runs_by_its_configuration(name: str, tmp_path: Path) -> None:
    """With a policy that answers nonsense; what is checked is that every row is played or counted, and reported."""
    root = written(name, tmp_path / "data")
    small = {
        "model.init_from": NEEDLE_POLICY,
        "model.policy.dtype": "bfloat16",
        "model.protocol": CONFIGS / "protocol" / "needle.yaml",  # the texts that this policy has tokens for
        "model.play.views": "[16]",
        "model.play.crop.max_tokens": 16,
        "model.play.limits.max_turn_tokens": 8,
        "model.play.limits.max_episode_tokens": 16,
        "model.output": tmp_path / "out",
        "data.root": root,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false",
    }
    main(["test", f"--config={CONFIGS}/eval/{name}.yaml", *(f"--{key}={value}" for key, value in small.items())])
    rows = list(find_benchmark(name).rows(root))
    found = results(tmp_path)
    assert found["benchmark"] == name
    assert found["counts"]["rows"] == len(rows)
    assert found["counts"]["unreadable"] == sum(isinstance(row, UnreadableRow) for row in rows)
    assert set(found["views"]) == {"16"}
    assert {prediction.key for prediction in load_predictions(tmp_path / "out" / "predictions.jsonl")} == {
        row.key for row in rows
    }


def fit(folder: Path, values: dict[str, Any], shards: Path) -> Path:
    """Three steps of stage 1 with a configuration; returns where its files are."""
    values["model"]["protocol"] = str(CONFIGS / "protocol" / "needle.yaml")
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    small = {
        "data.root": shards / "train",
        "data.val_root": shards / "val",
        "data.needle.count": 24,
        "data.needle.val_count": 8,
        "data.prompts_per_step": 2,
        "model.rollout.group_size": 4,
        "trainer.accelerator": "cpu",
        "trainer.limit_train_batches": 3,
        "trainer.limit_val_batches": 1,
        "trainer.val_check_interval": 1,
        "trainer.num_sanity_val_steps": 0,
        "trainer.logger.init_args.save_dir": folder,
        "trainer.enable_progress_bar": "false",
    }
    main(["fit", f"--config={folder / 'config.yaml'}", *(f"--{key}={value}" for key, value in small.items())])
    return folder / "stage1"


def test_the_probe_during_training_changes_nothing_and_says_what_the_evaluation_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed_under: list[bool] = []
    _note_autocast(monkeypatch, probed_under)
    values = yaml.safe_load((CONFIGS / "stage1.yaml").read_text())
    callbacks = values["trainer"]["callbacks"]
    values["trainer"]["callbacks"] = [c for c in callbacks if c["class_path"] != "RewardProgressBar"]
    (probe,) = [callback for callback in callbacks if callback["class_path"] == "CropDependence"]
    probe["init_args"] = {"rows": 5, "every_n_validations": 2, "batch_size": 4}
    probed = fit(tmp_path / "with", values, tmp_path / "shards")
    values["trainer"]["callbacks"] = [c for c in values["trainer"]["callbacks"] if c is not probe]
    plain = fit(tmp_path / "without", values, tmp_path / "shards")

    names = ("episodes/rank_0.jsonl",)
    assert all((probed / name).read_bytes() == (plain / name).read_bytes() for name in names)
    weights = [torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (probed, plain)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())

    assert probed_under
    assert set(probed_under) == {False}
    events = EventAccumulator(str(probed))
    events.Reload()
    logged = {name: events.Scalars(f"eval/{name}") for name in ("own_crop", "noise_crop", "crop_dependence", "gt_crop")}
    assert [event.step for event in logged["own_crop"]] == [0, 2]  # of three validations the first and the third
    last = {name: found[-1].value for name, found in logged.items()}
    assert last["crop_dependence"] == pytest.approx(last["own_crop"] - last["noise_crop"])
    more = [f"--data.root={tmp_path / 'shards' / 'val'}", "--data.needle=null", "--model.play.views=[selected]"]
    main(arguments(tmp_path, f"--model.init_from={probed / 'checkpoints/last.ckpt'}", *more))
    arms: dict[str, list[bool]] = {}
    predictions = load_predictions(tmp_path / "out" / "predictions.jsonl")
    first = list(dict.fromkeys(p.key for p in predictions))[:5]
    for prediction in predictions:
        if prediction.key in first:
            arms.setdefault(prediction.arm, []).append(prediction.correct)
    for arm, name in (("own", "own_crop"), ("noise", "noise_crop"), ("gt", "gt_crop")):
        assert last[name] == pytest.approx(sum(arms[arm]) / 5)


def _note_autocast(monkeypatch: pytest.MonkeyPatch, seen: list[bool]) -> None:
    play = ArmPlayer.play

    def note(self: ArmPlayer, cases: Any) -> Any:
        seen.append(torch.is_autocast_enabled("cpu"))
        return play(self, cases)

    monkeypatch.setattr(ArmPlayer, "play", note)


def test_the_probe_plays_in_the_precision_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    _note_autocast(monkeypatch, seen)
    values = yaml.safe_load((CONFIGS / "stage1.yaml").read_text())
    callbacks = [c for c in values["trainer"]["callbacks"] if c["class_path"] == "CropDependence"]
    callbacks[0]["init_args"] = {"rows": 2}
    values["trainer"] |= {"callbacks": callbacks, "precision": "bf16-mixed"}
    fit(tmp_path / "run", values, tmp_path / "shards")
    assert seen
    assert all(seen)
