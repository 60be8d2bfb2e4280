"""A user's mistake in any command: exit status 2, and one sentence that names what is wrong and what to do."""

from __future__ import annotations

import builtins
import gc
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_policy import SCENES

from infogap import cli
from infogap.data.index import INDEX_NAME
from infogap.data.needle_shards import write_needle_shards
from infogap.policy.loading import NEEDLE_POLICY, PolicyConfig

ROOT = Path(__file__).resolve().parents[1]
STAGE = "--config=configs/stage1.yaml"
BENCHMARK = "--config=configs/eval/vstar.yaml"
VALIDATE = (
    "validate {S} --data.root {}/shards --data.needle null --data.val_root {}/shards "
    "--trainer.logger.init_args.save_dir {}/logs"
)
SHARDS = "test {B} --data.benchmark shards --data.root {}/shards --model.policy.path needle"
FILES = {
    "typo.yaml": "model: {rolout: {group_size: 4}}",
    "deep.yaml": "model:\n  rollout:\n    view: {bugdet: 4}",
    "scenes.yaml": "data: {needle: {scenes: {sdes: [300]}}}",
    "callback.yaml": "trainer:\n  callbacks:\n  - class_path: EpisodeLogger\n    init_args: {every_rollouts: 3}",
    "callback_type.yaml": "trainer:\n  callbacks:\n  - class_path: EpisodeLogger\n    init_args: {groups: many}",
    "class.yaml": "trainer:\n  callbacks:\n  - class_path: EpisodeLoger",
    "strategy.yaml": "trainer:\n  strategy: {class_path: ShardedStrateg}",
    "reward.yaml": "model: {rewards: {extra: [{class_path: nowhere.Reward}]}}",
    "syntax.yaml": "model:\n  rollout: {group_size: 3\n  optim: [}\n",
    "list.yaml": "- 3\n",
    "number.yaml": "model: {rollout: 5}",
    "sources.yaml": "data: {root: null, sources: [{rot: here}]}",
    "bad.ckpt": "no checkpoint",
    "lines.jsonl": "{}\n",
    "words.txt": "no image",
    "results.json": "{",
    "data.parquet": "no parquet",
    "resolution.jsonl": "no manifest",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files to be mistaken for others, and shards."""
    made = tmp_path_factory.mktemp("mistakes")
    for name, text in FILES.items():
        (made / name).write_text(text)
    (made / "binary.yaml").write_bytes(bytes(range(128, 256)))
    (made / "random.ckpt").write_bytes(bytes(range(256)))
    torch.save(
        {"infogap": {"policy": asdict(PolicyConfig(vision_tower="frozen"))}, "state_dict": {}}, made / "weights.ckpt"
    )
    (made / "empty").mkdir()
    (made / "run").mkdir()
    (made / "lone_index").mkdir()
    (made / "lone_index" / INDEX_NAME).write_text("{")
    write_needle_shards(SCENES, made / "shards", count=2, seed=0)
    return made


Case = tuple[str, tuple[str, ...]]
FIT: dict[str, Case] = {
    "an option's group": ("--model.rolout.group_size 3", ("--model.rolout.group_size", "--model.rollout.group_size?")),
    "an option": ("--model.rollout.grup_size 3", ("model.rollout.grup_size", "did you mean model.rollout.group_size?")),
    "a deep option": ("--model.rollout.view.bugdet 3", ("view.bugdet", "did you mean model.rollout.view.budget?")),
    "a deeper group": ("--model.rollout.vew.budget 3", ("rollout.vew.budget", "model.rollout.view.budget?")),
    "inside what may be null": (
        "--model.policy.lora.rnk 3",
        ("lora.rnk", "did you mean model.policy.lora.rank?"),
    ),
    "a name without its place": ("--group_size 3", ("--group_size", "did you mean --model.rollout.group_size?")),
    "a name in another place": ("--model.lr 3", ("--model.lr", "did you mean --model.optim.lr?")),
    "a trainer's option": ("--trainer.max_epoch 3", ("--trainer.max_epoch", "did you mean --trainer.max_epochs?")),
    "nothing like it": ("--zzz 3", ("--zzz", "see --help")),
    "a seed that is linked": ("--model.seed 3", ("model.seed", "seed_everything")),
    "a file's group": ("--config {}/typo.yaml", ("model.rolout.group_size", "did you mean model.rollout.group_size?")),
    "a file's deep field": ("--config {}/deep.yaml", ("view.bugdet", "did you mean model.rollout.view.budget?")),
    "a file's deeper field": ("--config {}/scenes.yaml", ("needle.scenes.sdes", "data.needle.scenes.sides?")),
    "a field of a source": ("--config {}/sources.yaml", ("data.sources.rot", "did you mean data.sources.root?")),
    "a callback's argument": ("--config {}/callback.yaml", ("EpisodeLogger", "every_rollouts", "every_n_rollouts?")),
    "a callback's type": ("--config {}/callback_type.yaml", ("EpisodeLogger.groups is 'many'", "give a whole number.")),
    "a callback": ("--config {}/class.yaml", ("trainer.callbacks", "EpisodeLoger", "did you mean EpisodeLogger?")),
    "a strategy": ("--config {}/strategy.yaml", ("trainer.strategy", "did you mean ShardedStrategy?")),
    "a strategy's name": ("--trainer.strategy foo --data.root {}/shards", ("trainer: ", "'foo'", "--trainer.help")),
    "a reward": ("--config {}/reward.yaml", ("model.rewards.extra", "nowhere")),
    "a file's syntax": ("--config {}/syntax.yaml", ("syntax.yaml", "line 3", "correct it")),
    "a binary file": ("--config {}/binary.yaml", ("binary.yaml is no text", "give a YAML file")),
    "a list": ("--config {}/list.yaml", ("- 3", "must hold fields")),
    "a number for fields": ("--config {}/number.yaml", ("model.rollout is '5'", "give its fields")),
    "a folder for a file": ("--config {}/empty", ("empty is a folder", "give a YAML file")),
    "no such file": ("--config {}/nowhere.yaml", ("nowhere.yaml", "correct its path")),
    "no such protocol": ("--model.protocol nowhere.yaml", ("model.protocol", "no file nowhere.yaml")),
    "no value": ("--config", ("--config stands without a value", "give one")),
    "a stray word": ("stage2", ("no use for 'stage2'", "options begin with --")),
    "text for a number": ("--model.rollout.group_size many", ("model.rollout.group_size is 'many'", "a whole number.")),
    "a share for a number": ("--data.prompts_per_step 2.5", ("data.prompts_per_step is '2.5'", "a whole number.")),
    "text for a rate": ("--model.optim.lr fast", ("model.optim.lr is 'fast'", "give a number.")),
    "text for a yes": (
        "--model.policy.gradient_checkpointing maybe",
        ("is 'maybe'", "give true or false."),
    ),
    "another choice": ("--model.rollout.view.mode best", ("view.mode is 'best'", "one of selected, budget, none.")),
    "another frame": ("--model.protocol.frame pixels", ("protocol.frame is 'pixels'", "VIEW_PIXELS")),
    "text in a list": (
        "--resolution.ladder [a]",
        ("resolution.ladder holds 'a'", "must be a whole number."),
    ),
    "too few values": ("--model.optim.betas [0.9]", ("model.optim.betas is '[0.9]'", "a list of 2 values.")),
    "text or null": ("--trainer.max_epochs x", ("trainer.max_epochs is 'x'", "a whole number or null.")),
    "a negative seed": ("--seed_everything -5", ("seed_everything is -5", "from 0 to 4294967295.")),
    "out of range": ("--model.optim.lr -1", ("optim.lr is -1", "give a positive number")),
    "a rising ladder": ("--resolution.ladder [1,2]", ("resolution.ladder is", "each smaller")),
    "no rank": ("--model.policy.lora.rank 0", ("policy.lora", "at least 1")),
    "another flag of printing": ("--print_config=coments", ("'coments'", "--print_config=comments")),
    "no model": (
        "--model.policy.path {}/empty --model.rollout.view.mode budget",
        ("empty", "config.json"),
    ),
    "weights of nothing": ("--model.init_from {}/nowhere", ("model.init_from", "nowhere", "give a checkpoint")),
    "no checkpoint": ("--ckpt_path {}/empty --data.root {}/shards", ("empty", "no complete checkpoint")),
    "another file for a checkpoint": (
        "--ckpt_path {}/bad.ckpt --data.root {}/shards --data.require_view_tokens false "
        "--model.rollout.view.mode budget",
        ("bad.ckpt",),
    ),
    "no shards": ("--data.root {}/nowhere --data.needle null", ("nowhere", "give a folder of shards")),
    "a folder without shards": ("--data.root {}/empty --data.needle null", ("empty", "holds no *.tar file")),
    "a damaged index": ("--data.root {}/lone_index --data.needle null", ("index", "is damaged")),
    "more GPUs than there are": ("--trainer.accelerator gpu --trainer.devices 64", ("gpu", "trainer")),
}
OTHERS: dict[str, Case] = {
    "a command": ("fitt", ("infogap fitt", "did you mean 'fit'?")),
    "the words' order": ("--config=configs/stage1.yaml fit", ("--config stands before", "write the command first")),
    "what test needs": ("test", ("data.benchmark", "data.root", "must be given")),
    "an arm": ("test {B} --model.play.arms [onw]", ("model.play.arms holds 'onw'", "no_tool, own")),
    "a field of play": ("test {B} --model.play.arm [own]", ("model.play.arm", "did you mean model.play.arms?")),
    "a judge's field": (
        "test {B} --model.scoring.judge.modl x",
        ("judge.modl", "mean model.scoring.judge.model?"),
    ),
    "a benchmark": ("test {B} --data.benchmark vstra", ("vstra", "vstar")),
    "a benchmark's files": ("test {B} --model.policy.path needle --data.root {}/nowhere", ("nowhere",)),
    "weights to test": ("test {B} --model.init_from {}/nowhere", ("init_from", "nowhere", "give")),
    "weights that cannot be read": (SHARDS + " --model.init_from {}/random.ckpt", ("random.ckpt", "give one that")),
    "a file without weights": (SHARDS + " --model.init_from {}/weights.ckpt", ("weights.ckpt", "holds no weights")),
    "a folder without weights": (SHARDS + " --model.init_from {}/empty", ("empty", "is no model folder")),
    "no validation shards": ("validate {S} --data.val_root null", ("data.val_root is null", "give their folder")),
    "no checkpoint to validate": (VALIDATE + " --ckpt_path {}/nowhere.ckpt", ("no checkpoint", "nowhere.ckpt")),
    "a binary to validate": (VALIDATE + " --ckpt_path {}/random.ckpt", ("random.ckpt", "give another")),
    "a configuration to validate": (VALIDATE + " --ckpt_path {}/typo.yaml", ("typo.yaml", "give another")),
    "a model to validate": (VALIDATE + f" --ckpt_path {NEEDLE_POLICY}/model.safetensors", ("safetensors", "another")),
    "another policy's checkpoint": (
        VALIDATE + " --ckpt_path {}/weights.ckpt --model.policy.lora.rank 4",
        ("weights.ckpt", "another policy", "policy.lora None"),
    ),
    "validate's checkpoint": ("validate {S} --ckpt_path {}/empty --data.val_root {}/shards", ("empty", "no complete")),
    "results to compare": ("compare {}/empty", ("empty",)),
    "damaged results": ("compare {}/results.json", ("results.json",)),
    "an option of compare": ("compare --markdwon x {}/empty", ("--markdwon", "did you mean --markdown?")),
    "nothing to compare": ("compare", ("RESULT", "infogap compare --help")),
    "what to export": ("export {}/nowhere {}/out", ("nowhere",)),
    "no checkpoint to export": ("export {}/bad.ckpt {}/out", ("bad.ckpt",)),
    "where to export": ("export {}/bad.ckpt", ("OUT", "infogap export --help")),
    "a data command": ("data chekc x", ("chekc", "did you mean 'check'?")),
    "shards to check": ("data check {}/nowhere", ("nowhere", "give a folder of shards")),
    "a folder to check": ("data check {}/empty", ("empty", "*.tar")),
    "where to filter": ("data filter {}/shards", ("OUT", "infogap data filter --help")),
    "shards to filter": ("data filter {}/nowhere {}/out", ("nowhere",)),
    "shards to index": ("data index {}/empty", ("empty",)),
    "a manifest": ("data report {}/resolution.jsonl", ("resolution.jsonl",)),
    "no manifest": ("data report {}/nowhere.jsonl", ("nowhere.jsonl",)),
    "shards to unpack": ("data unpack {}/nowhere {}/out", ("nowhere",)),
    "a source": ("data convert visualprob {}/empty {}/out", ("visualprob",)),
    "what to convert": ("data convert verl {}/nowhere {}/out", ("nowhere",)),
    "a run to view": ("view {}/nowhere", ("nowhere",)),
    "a run without episodes": ("view {}/run", ("run", "episodes")),
    "an image": ("ask {}/nowhere.png why", ("nowhere.png",)),
    "no image": ("ask {}/words.txt why", ("words.txt",)),
    "no question": ("ask {}/words.txt", ("QUESTION", "infogap ask --help")),
    "hardware": ("doctor --hardware h10", ("--hardware h10", "did you mean 'h100'?")),
    "the doctor's words": ("doctor {S} --model.optm.lr 1", ("model.optm.lr", "did you mean --model.optim.lr?")),
}


def explain(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What the program says to some words; it must be one sentence, and the exit status 2."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(logging, "raiseExceptions", False)  # Lightning's handler has the output of the first test
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped, cli.short_errors():
        cli._run(words)
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    errors = [line for line in said.err.splitlines() if line != "Seed set to 0"]
    assert len(errors) == 1, said.err
    assert errors[0].startswith("error: ")
    assert "<class" not in errors[0]
    return errors[0]


@pytest.mark.filterwarnings("ignore")  # the program's own filters are set when it trains
@pytest.mark.parametrize("mistake", [*FIT, *OTHERS])
def test_a_mistake_costs_one_sentence(
    mistake: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given, expected = (FIT | OTHERS)[mistake]
    safe = f"--data.root={folder}/shards --data.val_root null --data.needle null --trainer.limit_train_batches 0"
    line = f"fit {{S}} --trainer.logger.init_args.save_dir={tmp_path} {safe} {given}" if mistake in FIT else given
    words = [
        word.replace("{S}", STAGE).replace("{B}", BENCHMARK).replace("{}", str(folder)) for word in line.split(" ")
    ]
    if words[0] == "test":
        words.append(f"--model.output={tmp_path}")
    said = explain(words, capsys, monkeypatch)
    gc.collect()  # what a stopped evaluation has opened is closed here, and not in another test
    for part in expected:
        assert part in said


def test_a_missing_extra_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without_pyarrow(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "pyarrow":
            raise ImportError("No module named 'pyarrow'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    words = ["data", "convert", "jsonl", str(folder / "data.parquet"), str(tmp_path / "out")]
    said = explain(words, capsys, monkeypatch)
    assert "pyarrow" in said
    assert "pip install 'infogap[data]'" in said


def test_more_gpus_than_there_are(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    said = explain(["fit", STAGE, "--trainer.accelerator=gpu", "--trainer.devices=8"], capsys, monkeypatch)
    assert "[0, 1, 2, 3, 4, 5, 6, 7]" in said


def test_what_cannot_be_read_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a user without the right to read; the tests may run as one who reads everything."""
    path = tmp_path / "secret.yaml"
    path.write_text("data: {limit: 3}")
    real = Path.read_text

    def refused(self: Path, *rest: Any, **more: Any) -> str:
        if self == path:
            raise PermissionError(13, "Permission denied", str(path))
        return real(self, *rest, **more)

    monkeypatch.setattr(Path, "read_text", refused)
    assert f"Permission denied: {path}" in explain(["fit", STAGE, f"--config={path}"], capsys, monkeypatch)
