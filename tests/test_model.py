from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tiny import HEAD_ROWS, IMAGE_TEXT, SPECIAL, build_tokenizer, tiny_copy, tiny_folder, tiny_image, tiny_policy, turn
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration

from infogap.policy import model as model_module
from infogap.policy.loading import LoraConfig, PolicyConfig, load_policy, read_patchifier
from infogap.policy.model import Policy
from infogap.policy.packing import Group, Row, pack
from infogap.policy.patches import Patchifier
from infogap.policy.reference import Reference, reference_policy
from infogap.policy.vocabulary import PolicyError, read_vocabulary
from infogap.policy.weights import load_weights, lora_scale

LORA = LoraConfig(rank=4, alpha=8)
ADAPTED: dict[str, Any] = {"lora": LORA, "vision_tower": "frozen"}
# peft asks transformers 5.23 by a name that it has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def row_of(policy: Policy) -> Row:
    prompt = policy.chunk(f"{IMAGE_TEXT} what?", [tiny_image(2, 3)])
    episodes = ((turn(policy, "one<|im_end|>"),), (turn(policy, "three"),))
    return pack([Group(prompt, episodes)], policy.vocabulary.image)


def logprobs(policy: Policy) -> Tensor:
    with torch.no_grad():
        return policy(row_of(policy), 1.0).logprobs


def step(policy: Policy) -> None:
    """One update of everything that is trained."""
    trained = [weight for weight in policy.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    policy(row_of(policy), 1.0).logprobs.sum().backward()
    optimizer.step()


def changed(folder: Path, amount: float = 0.5) -> Path:
    """A model folder with other weights of the same shapes."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_copy(folder))
    for weight in model.parameters():
        weight.data.mul_(1 + amount)
    model.save_pretrained(folder)
    return folder


def change_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_missing_folder_is_named() -> None:
    message = "'/no/such/folder' is no model folder: give one with a config.json, or 'needle' as the policy's path."
    with pytest.raises(PolicyError, match=re.escape(message)):
        load_policy(PolicyConfig("/no/such/folder"))


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    message = f"{tmp_path} holds a model of type 'bert': only 'qwen2_5_vl' (Qwen2.5-VL) can be trained."
    with pytest.raises(PolicyError, match=re.escape(message)):
        load_policy(PolicyConfig(str(tmp_path)))


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|im_end|>", "<|im_start|>"])
def test_a_tokenizer_without_a_needed_token_is_refused(token: str) -> None:
    tokenizer = build_tokenizer([text for text in SPECIAL if text != token])
    if token == "<|im_end|>":  # transformers adds the end of sequence by itself
        tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|endoftext|>")
        vocabulary = {text: number for text, number in tokenizer.get_vocab().items() if text != token}
        tokenizer.get_vocab = lambda: vocabulary
    with pytest.raises(PolicyError, match=re.escape(f"The tokenizer has no token {token}: it is not Qwen2.5-VL's.")):
        read_vocabulary(tokenizer, HEAD_ROWS, ())


def test_a_turn_end_of_several_tokens_is_refused() -> None:
    message = "The turn end '</crop>' is not one token of the tokenizer: remove it from turn_end_texts."
    with pytest.raises(PolicyError, match=re.escape(message)):
        load_policy(PolicyConfig(str(tiny_folder())), ("</tool_call>", "</crop>"))


def test_the_ids_that_mean_something() -> None:
    vocabulary = tiny_policy().vocabulary
    assert vocabulary.image == 261
    assert vocabulary.stop == 258  # <|im_end|>
    assert vocabulary.turn_end == {264}  # </tool_call>
    assert vocabulary.banned == (256, 257, 259, 260, 261, 262, 269, 270, 271)  # start, end of text, vision, padding


def test_image_statistics_are_read_from_the_folder(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "model")
    change_json(folder / "preprocessor_config.json", image_mean=[0.1, 0.2, 0.3], image_std=[1, 2, 3])
    assert read_patchifier(folder) == Patchifier((0.1, 0.2, 0.3), (1, 2, 3))
    change_json(folder / "preprocessor_config.json", patch_size=16)
    with pytest.raises(PolicyError, match=re.escape("has patch, merge and temporal sizes (16, 2, 2): only Qwen2.5-VL")):
        load_policy(PolicyConfig(str(folder)))
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(PolicyError, match=re.escape(f"{folder} has no preprocessor_config.json: copy it from")):
        load_policy(PolicyConfig(str(folder)))


def test_a_prompt_is_tokenized_with_its_images_expanded() -> None:
    policy = tiny_policy()
    images = (tiny_image(3, 1), tiny_image(1, 2))
    chunk = policy.chunk(f"a{IMAGE_TEXT}{IMAGE_TEXT}b", images)
    assert policy.tokenizer.decode(chunk.token_ids) == (
        "a<|vision_start|><|image_pad|><|image_pad|><|image_pad|><|vision_end|>"
        "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>b"
    )
    assert chunk.images == images
    assert not chunk.sampled
    with pytest.raises(ValueError, match=re.escape("A text holds 1 images and 2 were given.")):
        policy.chunk(IMAGE_TEXT, images)


def test_weights_of_a_folder_are_taken_over(tmp_path: Path) -> None:
    folder, policy = changed(tmp_path / "other"), tiny_policy()
    expected = logprobs(load_policy(PolicyConfig(str(folder))))
    assert not torch.allclose(logprobs(policy), expected, atol=1e-2)
    load_weights(policy, folder)
    torch.testing.assert_close(logprobs(policy), expected)


def test_weights_of_a_folder_go_below_the_adapters(tmp_path: Path) -> None:
    folder, policy = changed(tmp_path / "other"), tiny_policy(**ADAPTED)
    load_weights(policy, folder)  # adapters begin at zero
    torch.testing.assert_close(logprobs(policy), logprobs(load_policy(PolicyConfig(str(folder)))))


@pytest.mark.parametrize("lora", [None, LORA])
def test_weights_of_a_checkpoint_are_taken_over(tmp_path: Path, lora: LoraConfig | None) -> None:
    trained, policy = tiny_policy(lora=lora), tiny_policy(lora=lora)
    step(trained)
    state = {f"policy.{name}": value for name, value in trained.state_dict().items()}
    torch.save({"state_dict": {**state, "other": torch.zeros(1)}, "epoch": 3}, tmp_path / "run.ckpt")
    assert not torch.allclose(logprobs(policy), logprobs(trained), atol=1e-3)
    load_weights(policy, tmp_path / "run.ckpt")
    torch.testing.assert_close(logprobs(policy), logprobs(trained))


def test_weights_that_do_not_fit_are_refused_and_nothing_changes(tmp_path: Path) -> None:
    policy = tiny_policy()
    before = logprobs(policy)
    state = {f"policy.{name}": value * 2 for name, value in policy.state_dict().items()}
    wrong = {
        "policy.model.lm_head.weight": {**state, "policy.model.lm_head.weight": torch.zeros(3, 64)},
        "policy.more": {**state, "policy.more": torch.zeros(1)},
        "policy.model.lm_head.weight ": {n: v for n, v in state.items() if "lm_head" not in n},
    }
    for name, weights in wrong.items():
        torch.save({"state_dict": weights}, tmp_path / "wrong.ckpt")
        shown = name.strip().removeprefix("policy.")
        message = (
            f"{tmp_path / 'wrong.ckpt'} does not fit the policy, first at '{shown}': give weights of the same model."
        )
        with pytest.raises(PolicyError, match=re.escape(message)):
            load_weights(policy, tmp_path / "wrong.ckpt")
    torch.save({"weights": {}}, tmp_path / "wrong.ckpt")
    with pytest.raises(PolicyError, match="has no 'state_dict': give a checkpoint that `infogap fit` has written"):
        load_weights(policy, tmp_path / "wrong.ckpt")
    with pytest.raises(PolicyError, match="is no model folder"):
        load_weights(policy, tmp_path)
    assert torch.equal(logprobs(policy), before)


def test_adapters_of_another_scale_are_refused(tmp_path: Path) -> None:
    """Alpha is in no weight, so names and shapes would fit."""
    policy = tiny_policy(**ADAPTED)
    assert lora_scale(policy) == {"rank": 4, "alpha": 8}
    state = {"state_dict": {f"policy.{name}": value for name, value in policy.state_dict().items()}}
    checkpoint = tmp_path / "trained.ckpt"
    torch.save(state | {"infogap": {"lora": {"rank": 4, "alpha": 8}}}, checkpoint)
    load_weights(policy, checkpoint)
    for other in (LoraConfig(rank=4, alpha=128), None):
        with pytest.raises(PolicyError, match=r"holds adapters with .*'alpha': 8.*: set policy\.lora to the same"):
            load_weights(tiny_policy(lora=other), checkpoint)


def test_adapters_alone_are_trained() -> None:
    policy = tiny_policy(**ADAPTED)
    trained = {name for name, weight in policy.named_parameters() if weight.requires_grad}
    assert trained
    assert all(".lora_" in name and ".language_model." in name for name in trained)
    assert len(trained) == 2 * 7 * 2  # two matrices for each of seven layers in each of two blocks
    before = {name: weight.clone() for name, weight in policy.named_parameters()}
    step(policy)
    moved = {name for name, weight in policy.named_parameters() if not torch.equal(weight, before[name])}
    assert moved
    assert all(".lora_B." in name for name in moved)  # the first step moves only what began at zero


TOWER_LAYERS = 2 * 5 + 2  # five linear layers in each of two blocks, and two in the merger


@pytest.mark.parametrize("tower", ["full", "frozen", "lora"])
def test_the_vision_tower_is_trained_as_it_says_beside_adapters(tower: Literal["full", "frozen", "lora"]) -> None:
    policy = tiny_policy(lora=LORA, vision_tower=tower)
    visual = dict(policy.parts.model.visual.named_parameters())
    trained = {name for name, weight in visual.items() if weight.requires_grad}
    adapters = {name for name in visual if ".lora_" in name}
    assert trained == {"full": set(visual), "frozen": set(), "lora": adapters}[tower]
    assert len(adapters) == (2 * TOWER_LAYERS if tower == "lora" else 0)
    linear = [module for module in policy.parts.model.visual.modules() if type(module) is nn.Linear]
    # peft keeps the layer below each pair of adapters; the adapters themselves are linear layers as well
    assert len(linear) == TOWER_LAYERS * (3 if tower == "lora" else 1)
    rest = [weight for name, weight in policy.named_parameters() if weight.requires_grad and ".visual." not in name]
    assert len(rest) == 2 * 7 * 2
    before = {name: weight.clone() for name, weight in visual.items()}
    step(policy)
    moved = {name for name, weight in visual.items() if not torch.equal(weight, before[name])}
    assert moved == ({name for name in adapters if ".lora_B." in name} if tower == "lora" else trained)


def test_adapters_of_the_tower_need_adapters() -> None:
    message = "policy.vision_tower is 'lora' and policy.lora is not set: set policy.lora.rank and alpha, or make it"
    with pytest.raises(ValueError, match=re.escape(message)):
        PolicyConfig(vision_tower="lora")


def test_adapters_on_layers_that_are_not_there_are_refused() -> None:
    """Also where others are there: a misspelt one would be left out without a word."""
    message = (
        "policy.lora.target_modules names ['qkv', 'quary'], which the language model does not have: choose from "
        "['down_proj', 'gate_proj', 'k_proj', 'o_proj', 'q_proj', 'up_proj', 'v_proj']."
    )
    with pytest.raises(PolicyError, match=re.escape(message)):
        tiny_policy(lora=LoraConfig(target_modules=("q_proj", "quary", "qkv")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "policy.lora has rank 0 and alpha 128: give whole numbers of at least 1."),
        ({"alpha": -1}, "policy.lora has rank 64 and alpha -1: give whole numbers of at least 1."),
        ({"dropout": 1.0}, "policy.lora.dropout is 1.0: give a share of at least 0 and below 1."),
        ({"dropout": -0.1}, "policy.lora.dropout is -0.1: give a share of at least 0 and below 1."),
        ({"target_modules": ()}, "policy.lora.target_modules is empty: name the linear layers that get an adapter."),
    ],
)
def test_settings_of_adapters_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        LoraConfig(**changes)


def test_adapters_with_checkpointing_have_the_same_gradients() -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        policy = tiny_policy(**ADAPTED, gradient_checkpointing=checkpointing)
        policy(row_of(policy), 1.0).logprobs.sum().backward()
        gradients.append([weight.grad for weight in policy.parameters() if weight.requires_grad])
    torch.testing.assert_close(*gradients)


def test_the_reference_of_adapters_is_the_policy_as_it_was() -> None:
    """Also where training goes on from adapters, as stage 2 does from those of stage 1."""
    policy = tiny_policy(**ADAPTED)
    base = logprobs(tiny_policy())
    torch.testing.assert_close(Reference(reference_policy(policy)).logprobs(row_of(policy), 1.0), base)
    step(policy)
    first = logprobs(policy)
    assert not torch.allclose(first, base, atol=1e-3)
    reference = Reference(reference_policy(policy))
    step(policy)
    second = logprobs(policy)
    assert not torch.allclose(second, first, atol=1e-3)
    torch.testing.assert_close(reference.logprobs(row_of(policy), 1.0), first)
    assert torch.equal(logprobs(policy), second)  # what is trained is in place again


def test_the_reference_copy_does_not_follow_the_policy() -> None:
    policy = tiny_policy()
    reference, before = Reference(reference_policy(policy)), logprobs(policy)
    step(policy)
    assert not torch.allclose(logprobs(policy), before, atol=1e-3)
    found = reference.logprobs(row_of(policy), 1.0)
    torch.testing.assert_close(found, before)
    assert not found.requires_grad
    assert all(weight.requires_grad for weight in policy.parameters())


def test_a_frozen_tower_stays_as_it_is() -> None:
    policy = tiny_policy(vision_tower="frozen")
    before = {name: weight.clone() for name, weight in policy.named_parameters()}
    step(policy)
    still = {name for name, weight in policy.named_parameters() if torch.equal(weight, before[name])}
    assert still
    assert still == {name for name in before if ".visual." in name}


def test_a_frozen_tower_encodes_an_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the rollout has encoded is used again in the update, until the weights are replaced."""
    calls: list[int] = []
    encode = model_module.encode_images

    def counting(tower: nn.Module, values: Tensor, grids: Sequence[tuple[int, int]]) -> Tensor:
        calls.append(len(grids))
        return encode(tower, values, grids)

    monkeypatch.setattr(model_module, "encode_images", counting)
    frozen = tiny_policy(vision_tower="frozen")
    row = row_of(frozen)
    first = frozen(row, 1.0).logprobs
    images = len(row.images)
    assert calls == [images]
    assert torch.equal(frozen(row, 1.0).logprobs, first)
    assert calls == [images]
    frozen.forget_images()
    frozen(row, 1.0)
    assert calls == [images] * 2
    for trained in (tiny_policy(), tiny_policy(lora=LORA, vision_tower="lora")):
        calls.clear()
        torch.testing.assert_close(first, trained(row, 1.0).logprobs)  # adapters begin at zero
        trained(row, 1.0)
        assert calls == [images] * 2  # a tower that is trained encodes every time


def test_weights_have_the_type_that_was_asked_for() -> None:
    assert {weight.dtype for weight in tiny_policy(dtype="bfloat16").parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in tiny_policy().parameters()} == {torch.float32}


@pytest.mark.parametrize("tower", ["frozen", "lora", "full"])
def test_a_reference_beside_adapters_stays_what_it_was(tower: Literal["full", "frozen", "lora"]) -> None:
    policy = tiny_policy(lora=LoraConfig(rank=2, alpha=4), vision_tower=tower)
    row = row_of(policy)
    reference = Reference(reference_policy(policy))
    before = reference.logprobs(row, 1.0)
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight += 0.1
        changed = policy(row, 1.0).logprobs
    policy.forget_images()
    assert float((changed - before).abs().max()) > 1e-3
    assert torch.equal(reference.logprobs(row, 1.0), before)
    assert torch.equal(policy(row, 1.0).logprobs, changed)
