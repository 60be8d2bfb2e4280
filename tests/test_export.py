from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_weights import write_directory, write_file
from tiny import tiny_copy, tiny_folder
from torch import Tensor
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from infogap import export as export_module
from infogap.export import ExportError, export, main
from infogap.policy.loading import NEEDLE_POLICY, LoraConfig, PolicyConfig, load_policy
from infogap.policy.model import Policy
from infogap.policy.vocabulary import PolicyError
from infogap.policy.weights import fingerprint, load_weights, lora_scale

LORA = LoraConfig(rank=4, alpha=8, target_modules=("q_proj", "down_proj"))


def trained(config: PolicyConfig) -> Policy:
    """A policy after some training of what its configuration trains."""
    policy, generator = load_policy(config), torch.Generator().manual_seed(1)
    for weight in policy.parameters():
        if weight.requires_grad:
            weight.data.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return policy


def save(policy: Policy, config: PolicyConfig, path: Path, *, directory: bool = False) -> Path:
    run: dict[str, Any] = {"policy": asdict(config), "init_from": None}
    scale = lora_scale(policy)
    return (write_directory if directory else write_file)(policy, path, **run, **({"lora": scale} if scale else {}))


def run_of(path: Path, /, **changes: Any) -> PolicyConfig:
    """A checkpoint of a trained policy."""
    config = PolicyConfig(**{"path": str(tiny_folder()), **changes})
    save(trained(config), config, path)
    return config


def state_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def nothing_but(folder: Path, *names: str) -> bool:
    return sorted(path.name for path in folder.iterdir()) == sorted(names)


@pytest.mark.parametrize("directory", [False, True])
def test_a_trained_policy_becomes_a_folder(tmp_path: Path, directory: bool, capsys: pytest.CaptureFixture[str]) -> None:
    config = PolicyConfig(str(tiny_folder()))
    policy = trained(config)
    checkpoint = save(policy, config, tmp_path / "step=6.ckpt", directory=directory)
    main([str(checkpoint), str(tmp_path / "new" / "out")])
    out = tmp_path / "new" / "out"
    assert nothing_but(tmp_path / "new", "out")
    assert re.search(r"out holds the policy in float32\. .* is \d\.\de-0[67] of the largest", capsys.readouterr().out)
    again = Qwen2_5_VLForConditionalGeneration.from_pretrained(out).state_dict()
    for name, value in policy.parts.state_dict().items():
        assert torch.equal(again[name], value)
    copied = {"preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"}
    assert nothing_but(out, "config.json", "model.safetensors", *copied)
    for name in copied:
        assert (out / name).read_bytes() == (tiny_folder() / name).read_bytes()
    load_policy(PolicyConfig(str(out)))


@pytest.mark.parametrize("inner", ["", "checkpoints"])
def test_a_run_stands_for_its_newest_checkpoint(tmp_path: Path, inner: str) -> None:
    config = PolicyConfig(str(tiny_folder()))
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    save(load_policy(config), config, run / "checkpoints" / "step_00000002.ckpt")
    newest = save(trained(config), config, run / "checkpoints" / "step_00000010.ckpt")
    export(run / inner, tmp_path / "out")
    again, policy = load_policy(PolicyConfig(str(tmp_path / "out"))), load_policy(config)
    load_weights(policy, run / inner)
    for name, value in trained(config).state_dict().items():
        assert torch.equal(policy.state_dict()[name], value)
        assert torch.equal(again.state_dict()[name], value)
    assert fingerprint(run / inner) == fingerprint(newest)


def test_the_small_policy_is_exported_with_its_chat_template(tmp_path: Path) -> None:
    run_of(tmp_path / "step=6.ckpt", path="needle")
    export(tmp_path / "step=6.ckpt", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == (NEEDLE_POLICY / "chat_template.jinja").read_text()
    assert not (tmp_path / "out" / "README.md").exists()  # it describes the policy before


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_the_type_of_the_weights_is_written_and_named(tmp_path: Path, key: str) -> None:
    """Under the name that it has in the base folder, which earlier releases of transformers look for."""
    base = tiny_copy(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config.pop("dtype", None)
    config |= {key: "float32", "text_config": config["text_config"] | {key: "float32"}}
    (base / "config.json").write_text(json.dumps(config))
    run_of(tmp_path / "step=6.ckpt", path=str(base))
    said = export(tmp_path / "step=6.ckpt", tmp_path / "out", dtype="bfloat16")
    assert "holds the policy in bfloat16" in said
    assert {value.dtype for value in state_of(tmp_path / "out").values()} == {torch.bfloat16}
    named = {key: "bfloat16", "text_config": config["text_config"] | {key: "bfloat16"}}
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == config | named


@pytest.mark.parametrize("tower", ["full", "lora"])
def test_adapters_are_merged(tmp_path: Path, tower: str) -> None:
    """In bfloat16 as well, in which the run may be."""
    config = run_of(tmp_path / "step=6.ckpt", lora=LORA, vision_tower=tower, dtype="bfloat16")
    policy = load_policy(config)
    load_weights(policy, tmp_path / "step=6.ckpt")
    export(tmp_path / "step=6.ckpt", tmp_path / "out")
    merged = state_of(tmp_path / "out")
    assert merged.keys() == state_of(tiny_folder()).keys()
    below = policy.parts.get_submodule("model.language_model.layers.1.mlp.down_proj")
    pair = [below.get_submodule(name).get_parameter("default.weight") for name in ("lora_B", "lora_A")]
    wanted = below.get_parameter("base_layer.weight").float() + 8 / 4 * pair[0].float() @ pair[1].float()
    assert torch.equal(merged["model.layers.1.mlp.down_proj.weight"], wanted.bfloat16())


@pytest.mark.parametrize("tower", ["frozen", "lora"])
def test_adapters_alone_are_exported(tmp_path: Path, tower: str) -> None:
    run_of(tmp_path / "step=6.ckpt", lora=LORA, vision_tower=tower)
    main([str(tmp_path / "step=6.ckpt"), str(tmp_path / "out"), "--adapter"])
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (4, 8)
    assert settings["base_model_name_or_path"] == str(tiny_folder())
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_weights_below_adapters_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    """A run that began from another checkpoint has other weights than its base folder."""
    config = PolicyConfig(str(tiny_folder()), lora=LORA, vision_tower="frozen")
    policy = trained(config)
    weight = policy.parts.get_submodule("model.language_model.layers.0.mlp.up_proj").get_parameter("weight")
    weight.data.mul_(2)
    checkpoint = save(policy, config, tmp_path / "step=6.ckpt")
    export(checkpoint, tmp_path / "out")
    assert torch.equal(state_of(tmp_path / "out")["model.layers.0.mlp.up_proj.weight"], weight)
    message = f"The adapters in {checkpoint} were trained on other weights than those of {tiny_folder()}, first at "
    with pytest.raises(ExportError, match=re.escape(message)):
        export(checkpoint, tmp_path / "adapter", adapter=True)
    assert nothing_but(tmp_path, "step=6.ckpt", "out")


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_checkpoint_of_an_earlier_version_needs_its_base_folder(tmp_path: Path, lora: LoraConfig | None) -> None:
    config = PolicyConfig(str(tiny_folder()), lora=lora, vision_tower="frozen")
    policy = trained(config)
    checkpoint = write_file(policy, tmp_path / "old.ckpt", **({"lora": lora_scale(policy)} if lora else {}))
    message = f"{checkpoint} does not name the model that it was trained from: give its folder with --base."
    with pytest.raises(PolicyError, match=re.escape(message)):
        export(checkpoint, tmp_path / "out")
    export(checkpoint, tmp_path / "out", tiny_folder())
    save(policy, config, tmp_path / "new.ckpt")
    export(tmp_path / "new.ckpt", tmp_path / "same")
    old, new = state_of(tmp_path / "out"), state_of(tmp_path / "same")
    assert all(torch.equal(old[name], new[name]) for name in old.keys() | new.keys())
    if lora is not None:  # with which an earlier version left the tower as it was
        export(checkpoint, tmp_path / "adapter", tiny_folder(), adapter=True)


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    checkpoint, out = tmp_path / "step=6.ckpt", tmp_path / "out"
    run_of(checkpoint, lora=LORA)
    torch.save({"state_dict": {"policy.x": torch.zeros(1)}}, tmp_path / "other.ckpt")
    run_of(tmp_path / "full.ckpt")
    refused: list[tuple[Path, dict[str, Any], str]] = [
        (tmp_path / "none.ckpt", {}, "none.ckpt' does not exist: give one that `infogap fit` has written."),
        (tiny_folder(), {}, f"{tiny_folder()} is a folder and no checkpoint: give one that"),
        (tmp_path / "other.ckpt", {}, "other.ckpt does not say which run it is of: give one that"),
        (checkpoint, {"base": tmp_path / "nowhere"}, f"needs '{tmp_path}/nowhere', which was given as --base, and it"),
        (checkpoint, {"base": NEEDLE_POLICY}, f"{NEEDLE_POLICY} is not the model that {checkpoint} was trained from"),
        (checkpoint, {"adapter": True}, "has a vision tower that was trained in full, which adapters cannot hold"),
        (tmp_path / "full.ckpt", {"adapter": True}, "has no adapters, its weights themselves were trained: leave"),
    ]
    for source, options, message in refused:
        with pytest.raises((ExportError, PolicyError), match=re.escape(message)):
            export(source, out, **options)
    assert nothing_but(tmp_path, "step=6.ckpt", "other.ckpt", "full.ckpt")


def test_a_base_folder_that_has_moved_is_asked_for(tmp_path: Path) -> None:
    base = tiny_copy(tmp_path / "base")
    run_of(tmp_path / "step=6.ckpt", path=str(base))
    base.rename(tmp_path / "moved")
    message = f"needs '{base}', which it was trained from, and it is not there: give its folder with --base."
    with pytest.raises(PolicyError, match=re.escape(message)):
        export(tmp_path / "step=6.ckpt", tmp_path / "out")
    export(tmp_path / "step=6.ckpt", tmp_path / "out", tmp_path / "moved")


def test_a_run_of_a_later_version_is_refused(tmp_path: Path) -> None:
    config = PolicyConfig(str(tiny_folder()))
    write_file(trained(config), tmp_path / "step=6.ckpt", policy=asdict(config) | {"quantised": True})
    with pytest.raises(PolicyError, match=r"its policy has \['quantised'\]|policy with \['quantised'\]"):
        export(tmp_path / "step=6.ckpt", tmp_path / "out")


@pytest.mark.parametrize("kind", ["folder", "file", "broken link"])
def test_nothing_is_overwritten(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    {"folder": out.mkdir, "file": out.touch, "broken link": lambda: out.symlink_to("nowhere")}[kind]()
    run_of(tmp_path / "step=6.ckpt")
    with pytest.raises(ExportError, match=re.escape(f"{out} exists: give the path of a new folder.")):
        export(tmp_path / "step=6.ckpt", out)
    assert nothing_but(tmp_path, "step=6.ckpt", "out")


def test_an_export_that_is_another_policy_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One number of one weight is wrong; of the folder nothing is left."""
    run_of(tmp_path / "step=6.ckpt")
    original = Qwen2_5_VLForConditionalGeneration.save_pretrained

    def spoiled(model: Qwen2_5_VLForConditionalGeneration, folder: Path) -> None:
        row = model.model.language_model.layers[0].mlp.down_proj.weight.data[3]
        kept = row.clone()
        row[5] += 0.05
        original(model, folder)
        row.copy_(kept)

    monkeypatch.setattr(Qwen2_5_VLForConditionalGeneration, "save_pretrained", spoiled)
    message = (
        r"^What was written of .*step=6\.ckpt is not what was in memory, logits differ by \d\.\de-0\d of the largest "
    )
    with pytest.raises(ExportError, match=message):
        export(tmp_path / "step=6.ckpt", tmp_path / "out")
    assert nothing_but(tmp_path, "step=6.ckpt")


@pytest.mark.parametrize("adapter", [False, True])
def test_adapters_that_do_not_apply_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: bool) -> None:
    """Merged at another scale, or read back without their settings."""
    run_of(tmp_path / "step=6.ckpt", lora=LORA, vision_tower="frozen")
    from peft import PeftModel
    from peft.tuners.lora import Linear

    if adapter:
        monkeypatch.setattr(PeftModel, "from_pretrained", lambda model, folder: model)
    else:
        delta = Linear.get_delta_weight
        monkeypatch.setattr(Linear, "get_delta_weight", lambda layer, name: 1.1 * delta(layer, name))
    match = "is not what was in memory" if adapter else "did not merge into the weights"
    with pytest.raises(ExportError, match=match):
        export(tmp_path / "step=6.ckpt", tmp_path / "out", adapter=adapter, dtype="bfloat16")
    assert nothing_but(tmp_path, "step=6.ckpt")


def test_a_policy_that_bears_no_rounding_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_of(tmp_path / "step=6.ckpt")
    monkeypatch.setattr(export_module, "ROUNDING_TOLERANCE", 1e-3)
    with pytest.raises(ExportError, match=r"^In bfloat16 the policy in .* is another one, logits differ by \d\.\de-02"):
        export(tmp_path / "step=6.ckpt", tmp_path / "out", dtype="bfloat16")
    assert nothing_but(tmp_path, "step=6.ckpt")


def test_a_folder_that_appears_during_the_export_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_of(tmp_path / "step=6.ckpt")
    reload = export_module._reload

    def slow(*arguments: Any) -> Tensor:
        shutil.copytree(tiny_folder(), tmp_path / "out")
        return reload(*arguments)

    monkeypatch.setattr(export_module, "_reload", slow)
    with pytest.raises(ExportError, match="has come to exist in the meantime: give the path of a new folder"):
        export(tmp_path / "step=6.ckpt", tmp_path / "out")
    assert nothing_but(tmp_path, "step=6.ckpt", "out")
    assert state_of(tmp_path / "out").keys() == state_of(tiny_folder()).keys()
