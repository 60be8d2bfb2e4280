from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from infogap.grpo.run_state import check_resume, read_run_state
from infogap.policy.loading import LoraConfig, PolicyConfig

REWARDS = ("accuracy", "format")
POLICY = asdict(PolicyConfig(path="models/base", lora=LoraConfig(rank=8)))


def contents(**noted: Any) -> dict[str, Any]:
    """What a run's checkpoint holds, weights aside."""
    state = {"rollout_step": 3, "update_step": 3, "policy": POLICY, "init_from": None} | noted
    return {"infogap": state, "loops": {}, "callbacks": {}, "lr_schedulers": []}


def write(path: Path, **noted: Any) -> Path:
    weights = {"state_dict": {"weight": torch.zeros(10)}, "optimizer_states": [{}]}
    torch.save(contents(**noted) | weights, path)
    return path


def write_sharded(path: Path, without: str = "") -> Path:
    path.mkdir()
    torch.save(contents(), path / "meta.pt")
    (path / ".metadata").write_bytes(b"index")
    (path / "__0_0.distcp").write_bytes(b"shard")
    if without:
        (path / without).unlink()
    return path


def check(path: Path, init_from: str | None = None, /, **changes: Any) -> None:
    check_resume(path, policy=POLICY | changes, init_from=init_from, rewards=REWARDS)


def test_a_run_goes_on_from_its_own_checkpoint(tmp_path: Path) -> None:
    for path in (write(tmp_path / "step.ckpt"), write_sharded(tmp_path / "sharded.ckpt")):
        check(path)
        assert read_run_state(path)["update_step"] == 3


def test_what_changes_no_result_may_differ(tmp_path: Path) -> None:
    check(write(tmp_path / "step.ckpt"), gradient_checkpointing=True)


def test_a_list_is_as_good_as_a_tuple(tmp_path: Path) -> None:
    lora = POLICY["lora"] | {"target_modules": list(POLICY["lora"]["target_modules"])}
    check(write(tmp_path / "step.ckpt"), lora=lora)


def test_a_path_may_be_written_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check(write(tmp_path / "step.ckpt", init_from="old/last.ckpt"), f"{tmp_path}/old/last.ckpt", path="./models/base")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "models/other"}, "with policy.path 'models/base' where this run has 'models/other'"),
        ({"lora": None}, "with policy.lora .*'rank': 8.* where this run has None"),
        ({"lora": POLICY["lora"] | {"rank": 16}}, "with policy.lora .*'rank': 8.* where this run has .*'rank': 16"),
        ({"vision_tower": "frozen"}, "with policy.vision_tower 'full' where this run has 'frozen'"),
        ({"dtype": "bfloat16"}, "with policy.dtype 'float32'"),
        ({"new_field": 1}, "with policy.new_field None where this run has 1"),
    ],
)
def test_another_policy_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "step.ckpt")
    with pytest.raises(ValueError, match=rf"^The checkpoint {path} is of another policy, {message}"):
        check(path, **changes)


def test_a_checkpoint_of_stage_1_is_not_gone_on_with_in_stage_2(tmp_path: Path) -> None:
    path = write(tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"started from the policy itself, but this one starts from 'runs/last.ckpt'"):
        check(path, "runs/last.ckpt")
    with pytest.raises(ValueError, match=r"give it as model.init_from and leave --ckpt_path out"):
        check(write(tmp_path / "stage2.ckpt", init_from="runs/last.ckpt"), None)


def test_a_run_with_other_rewards_is_not_gone_on_with(tmp_path: Path) -> None:
    check(write(tmp_path / "same.ckpt", rewards=list(reversed(REWARDS))))
    path = write(tmp_path / "other.ckpt", rewards=[*REWARDS, "crop_area_cost"])
    with pytest.raises(
        ValueError, match=r"with the rewards accuracy, format, crop_area_cost, but this one has accuracy"
    ):
        check(path)


def test_a_checkpoint_that_notes_nothing_is_taken_at_its_word(tmp_path: Path) -> None:
    path = tmp_path / "old.ckpt"
    torch.save(contents() | {"infogap": {"rollout_step": 3, "update_step": 3}, "optimizer_states": []}, path)
    check(path, "runs/last.ckpt")


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^There is no checkpoint .*missing.ckpt: name "):
        check(tmp_path / "missing.ckpt")
    other = tmp_path / "other.ckpt"
    torch.save({"state_dict": {}}, other)
    with pytest.raises(ValueError, match=r"^.*other.ckpt is no checkpoint of infogap: "):
        check(other)
    torch.save([1], other)
    with pytest.raises(ValueError, match="is no checkpoint of infogap"):
        check(other)
    (tmp_path / "text.ckpt").write_text("no archive")
    with pytest.raises(ValueError, match=r"^.*text.ckpt cannot be read as a checkpoint"):
        check(tmp_path / "text.ckpt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"^The folder .*folder is no sharded checkpoint: "):
        check(tmp_path / "folder")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, share: float) -> None:
    path = write(tmp_path / "step.ckpt")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match="cannot be read as a checkpoint, it is damaged, cut off or something else"):
        check(path)


@pytest.mark.parametrize(
    ("part", "named"), [(".metadata", r"\.metadata"), ("meta.pt", "meta.pt"), ("__0_0.distcp", r"shards \(\*.distcp\)")]
)
def test_an_incomplete_folder_is_refused(tmp_path: Path, part: str, named: str) -> None:
    path = write_sharded(tmp_path / "step.ckpt", without=part)
    with pytest.raises(ValueError, match=rf"^The checkpoint {path} is incomplete, {named} missing: "):
        check(path)


@pytest.mark.parametrize("part", ["loops", "optimizer_states"])
def test_weights_alone_are_no_state_of_a_run(tmp_path: Path, part: str) -> None:
    path = write(tmp_path / "step.ckpt")
    values = torch.load(path, weights_only=True)
    del values[part]
    torch.save(values, path)
    with pytest.raises(ValueError, match=r"holds weights only, not a run's state: give it as model.init_from instead"):
        check(path)


def test_weights_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: list[dict[str, Any]] = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *given, **more: options.append(more) or load(*given, **more))
    check(write(tmp_path / "step.ckpt"))
    assert [(more["mmap"], more["weights_only"]) for more in options] == [(True, True)]


def test_a_folder_of_shards_is_for_sharded_runs(tmp_path: Path) -> None:
    folder = tmp_path / "step_00000001.ckpt"
    folder.mkdir()
    write(tmp_path / "whole.ckpt")
    noted = torch.load(tmp_path / "whole.ckpt", weights_only=True)
    torch.save(noted, folder / "meta.pt")
    for part in (".metadata", "__0_0.distcp"):
        (folder / part).write_bytes(b"")
    with pytest.raises(ValueError, match=r"is a folder of shards, which only a sharded run goes on from: add --config"):
        check_resume(folder, policy=noted["infogap"].get("policy", {}), init_from=None, rewards=(), sharded=False)
