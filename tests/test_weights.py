from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as distributed_checkpoint
from tiny import IMAGE_TEXT, tiny_folder, tiny_image, tiny_policy, turn
from torch import Tensor

from infogap.policy.checkpoint import read_checkpoint
from infogap.policy.loading import LoraConfig
from infogap.policy.model import Policy
from infogap.policy.packing import Group, pack
from infogap.policy.vocabulary import PolicyError
from infogap.policy.weights import fingerprint, load_weights

RUN = {"rollout_step": 3, "update_step": 6}


def trained_policy(seed: int = 1, **config: Any) -> Policy:
    """A policy whose every weight is another one than in the folder."""
    policy, generator = tiny_policy(**config), torch.Generator().manual_seed(seed)
    for weight in policy.parameters():
        weight.data.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return policy


def write_file(policy: Policy, path: Path, /, **run: Any) -> Path:
    """As Lightning writes a checkpoint."""
    state = {f"policy.{name}": value for name, value in policy.state_dict().items()}
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"state_dict": state, "optimizer_states": [optimizer], "epoch": 0, "infogap": RUN | run}, path)
    return path


def write_directory(policy: Policy, path: Path, /, **run: Any) -> Path:
    """As Lightning's ``ModelParallelStrategy(save_distributed_checkpoint=True)`` writes one."""
    state = {f"policy.{name}": value for name, value in policy.state_dict().items()}
    # the rate is no tensor, so that torch stores it as a pickle of its own
    optimizer = {"state": {"policy.model.lm_head.weight": {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    with pytest.warns(UserWarning, match="torch.distributed is disabled"):
        distributed_checkpoint.save({"state_dict": state, "optimizer_0": optimizer}, checkpoint_id=path, no_dist=True)
    torch.save({"epoch": 0, "infogap": RUN | run}, path / "meta.pt")
    return path


Write = Callable[..., Path]
both_kinds = pytest.mark.parametrize("write", [write_file, write_directory])


def logprobs(policy: Policy) -> Tensor:
    prompt = policy.chunk(f"{IMAGE_TEXT} what?", [tiny_image(2, 3)])
    row = pack([Group(prompt, ((turn(policy, "one<|im_end|>"),),))], policy.vocabulary.image)
    with torch.no_grad():
        return policy(row, 1.0).logprobs


@both_kinds
def test_a_checkpoint_is_read(tmp_path: Path, write: Write) -> None:
    policy = trained_policy()
    checkpoint = read_checkpoint(write(policy, tmp_path / "step=6.ckpt", lora={"rank": 4, "alpha": 8}))
    assert checkpoint.metadata == {**RUN, "lora": {"rank": 4, "alpha": 8}}
    assert dict(checkpoint.shapes) == {name: value.shape for name, value in policy.state_dict().items()}
    assert set(checkpoint.weights) == set(checkpoint.shapes)
    for name, value in policy.state_dict().items():
        assert torch.equal(checkpoint.weights[name], value)


@both_kinds
@pytest.mark.parametrize("config", [{}, {"lora": LoraConfig(rank=4, alpha=8), "vision_tower": "lora"}])
def test_weights_of_both_kinds_are_taken_over(tmp_path: Path, write: Write, config: dict[str, Any]) -> None:
    trained, policy = trained_policy(**config), tiny_policy(**config)
    expected = logprobs(trained)
    assert not torch.allclose(logprobs(policy), expected, atol=1e-2)
    load_weights(policy, write(trained, tmp_path / "step=6.ckpt"))
    assert torch.equal(logprobs(policy), expected)


@both_kinds
def test_weights_become_of_the_policys_type(tmp_path: Path, write: Write) -> None:
    trained, policy = tiny_policy(dtype="bfloat16"), trained_policy()
    load_weights(policy, write(trained, tmp_path / "step=6.ckpt"))
    for own, stored in zip(policy.parameters(), trained.parameters(), strict=True):
        assert own.dtype == torch.float32
        assert torch.equal(own, stored.float())


@both_kinds
def test_a_weight_that_does_not_fit_changes_nothing(tmp_path: Path, write: Write) -> None:
    """The first to be copied are right ones."""
    trained, policy = trained_policy(), tiny_policy()
    trained.parts.lm_head.weight.data = torch.zeros(3, 64)
    before = logprobs(policy)
    path = write(trained, tmp_path / "step=6.ckpt")
    with pytest.raises(
        PolicyError, match=re.escape(f"{path} does not fit the policy, first at 'model.lm_head.weight'")
    ):
        load_weights(policy, path)
    assert torch.equal(logprobs(policy), before)


@pytest.mark.parametrize("name", [".metadata", "meta.pt"])
def test_a_directory_that_was_not_finished_is_refused(tmp_path: Path, name: str) -> None:
    path = write_directory(tiny_policy(), tmp_path / "step=6.ckpt")
    (path / name).unlink()
    message = f"{path} is incomplete, it has no {name}: give a checkpoint that was finished."
    with pytest.raises(PolicyError, match=re.escape(message)):
        read_checkpoint(path)


@pytest.mark.parametrize("cut", [0, 100])
def test_a_directory_without_all_of_its_pieces_is_refused(tmp_path: Path, cut: int) -> None:
    path = write_directory(tiny_policy(), tmp_path / "step=6.ckpt")
    piece = path / "__0_0.distcp"
    kept = piece.read_bytes()[:-cut]
    piece.unlink()
    if cut:
        piece.write_bytes(kept)
    with pytest.raises(PolicyError, match=rf"^{path} is incomplete, .* should be in __0_0\.distcp and is not: give a"):
        read_checkpoint(path)


def test_a_damaged_piece_is_named(tmp_path: Path) -> None:
    path = write_directory(tiny_policy(), tmp_path / "step=6.ckpt")
    piece = path / "__0_0.distcp"
    piece.write_bytes(bytes(piece.stat().st_size))
    checkpoint = read_checkpoint(path)
    with pytest.raises(
        PolicyError, match=rf"^{path} cannot be loaded \(\w+: (?!CheckpointException).+\): copy it again"
    ):
        checkpoint.weights["model.lm_head.weight"]


def test_other_files_are_no_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "step=6.ckpt"
    with pytest.raises(PolicyError, match=rf"^{path} cannot be loaded \(FileNotFoundError"):
        read_checkpoint(path)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(PolicyError, match=rf"^{path} cannot be loaded \("):
        read_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(PolicyError, match=rf"^{path} holds a list: give a checkpoint"):
        read_checkpoint(path)
    torch.save({"state_dict": {"head.weight": torch.zeros(1)}}, path)
    with pytest.raises(PolicyError, match=rf"^{path} holds no weights of a policy: give a checkpoint"):
        read_checkpoint(path)
    path.write_bytes(write_file(tiny_policy(), tmp_path / "whole.ckpt").read_bytes()[:-1000])
    with pytest.raises(PolicyError, match=rf"^{path} cannot be loaded \("):
        read_checkpoint(path)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", [".metadata", "meta.pt", "step=6.ckpt"])
def test_reading_runs_nothing_that_a_checkpoint_holds(tmp_path: Path, name: str) -> None:
    trapped, sprung = tmp_path / "step=6.ckpt", tmp_path / "sprung"
    if name == trapped.name:
        torch.save({"state_dict": {"policy.x": torch.zeros(1)}, "other": Trap(sprung)}, trapped)
    else:
        write_directory(tiny_policy(), trapped)
        if name == ".metadata":
            (trapped / name).write_bytes(pickle.dumps(Trap(sprung)))
        else:
            torch.save({"infogap": Trap(sprung)}, trapped / name)
    with pytest.raises(PolicyError, match=r"step=6.ckpt.* cannot be loaded \(UnpicklingError: "):
        read_checkpoint(trapped)
    assert not sprung.exists()


def test_the_name_of_weights_follows_every_file(tmp_path: Path) -> None:
    path = write_directory(tiny_policy(), tmp_path / "step=6.ckpt")
    names = {fingerprint(path), fingerprint(path)}
    assert len(names) == 1
    for file in (".metadata", "meta.pt", "__0_0.distcp"):
        (path / file).write_bytes((path / file).read_bytes() + b" ")
        names.add(fingerprint(path))
    assert len(names) == 4
    assert fingerprint(tiny_folder()) not in names
