from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiny import HEAD_ROWS, IMAGE_TEXT, SPECIAL, build_tokenizer, tiny_copy, tiny_folder, tiny_image, tiny_policy, turn
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration

from infogap.policy import model as model_module
from infogap.policy.loading import LoraConfig, PolicyConfig, load_policy, load_weights, lora_scale, read_patchifier
from infogap.policy.model import Policy
from infogap.policy.packing import Group, Row, pack
from infogap.policy.patches import Patchifier
from infogap.policy.reference import Reference
from infogap.policy.vocabulary import PolicyError, read_vocabulary

LORA = LoraConfig(rank=4, alpha=8)
# peft asks transformers 5.23 by a name that it has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def row_of(policy: Policy) -> Row:
    prompt = policy.chunk(f"{IMAGE_TEXT} what?", [tiny_image(2, 3)])
    episodes = ((turn(policy, "one<|im_end|>"),), (turn(policy, "three"),))
    return pack([Group(prompt, episodes)], policy.vocabulary.image)


def logprobs(policy: Policy) -> Tensor:
    with torch.no_grad():
        return policy.score(row_of(policy), 1.0).logprobs


def step(policy: Policy) -> None:
    """One update of everything that is trained."""
    trained = [weight for weight in policy.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    policy.score(row_of(policy), 1.0).logprobs.sum().backward()
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
    folder, policy = changed(tmp_path / "other"), tiny_policy(lora=LORA)
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
    with pytest.raises(PolicyError, match="does not fit the policy"):
        load_weights(policy, tmp_path / "wrong.ckpt")
    with pytest.raises(PolicyError, match="is no model folder"):
        load_weights(policy, tmp_path)
    assert torch.equal(logprobs(policy), before)


def test_adapters_of_another_scale_are_refused(tmp_path: Path) -> None:
    """Alpha is in no weight, so names and shapes would fit."""
    policy = tiny_policy(lora=LORA)
    assert lora_scale(policy) == {"rank": 4, "alpha": 8}
    state = {"state_dict": {f"policy.{name}": value for name, value in policy.state_dict().items()}}
    checkpoint = tmp_path / "trained.ckpt"
    torch.save(state | {"infogap": {"lora": {"rank": 4, "alpha": 8}}}, checkpoint)
    load_weights(policy, checkpoint)
    for other in (LoraConfig(rank=4, alpha=128), None):
        with pytest.raises(PolicyError, match=r"holds adapters with .*'alpha': 8.*: set policy\.lora to the same"):
            load_weights(tiny_policy(lora=other), checkpoint)


def test_adapters_alone_are_trained() -> None:
    policy = tiny_policy(lora=LORA)
    trained = {name for name, weight in policy.named_parameters() if weight.requires_grad}
    assert trained
    assert all(".lora_" in name and ".language_model." in name for name in trained)
    assert len(trained) == 2 * 7 * 2  # two matrices for each of seven layers in each of two blocks
    before = {name: weight.clone() for name, weight in policy.named_parameters()}
    step(policy)
    moved = {name for name, weight in policy.named_parameters() if not torch.equal(weight, before[name])}
    assert moved
    assert all(".lora_B." in name for name in moved)  # the first step moves only what began at zero


def test_adapters_with_checkpointing_have_the_same_gradients() -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        policy = tiny_policy(lora=LORA, gradient_checkpointing=checkpointing)
        policy.score(row_of(policy), 1.0).logprobs.sum().backward()
        gradients.append([weight.grad for weight in policy.parameters() if weight.requires_grad])
    torch.testing.assert_close(*gradients)


def test_the_reference_of_adapters_is_the_policy_as_it_was() -> None:
    """Also where training goes on from adapters, as stage 2 does from those of stage 1."""
    policy = tiny_policy(lora=LORA)
    base = logprobs(tiny_policy())
    torch.testing.assert_close(Reference(policy).logprobs(row_of(policy), 1.0), base)
    step(policy)
    first = logprobs(policy)
    assert not torch.allclose(first, base, atol=1e-3)
    reference = Reference(policy)
    step(policy)
    second = logprobs(policy)
    assert not torch.allclose(second, first, atol=1e-3)
    torch.testing.assert_close(reference.logprobs(row_of(policy), 1.0), first)
    assert torch.equal(logprobs(policy), second)  # what is trained is in place again


def test_the_reference_copy_does_not_follow_the_policy() -> None:
    policy = tiny_policy()
    reference, before = Reference(policy), logprobs(policy)
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
    trained, frozen = tiny_policy(), tiny_policy(vision_tower="frozen")
    row = row_of(frozen)
    first = frozen.score(row, 1.0).logprobs
    images = len(row.images)
    assert calls == [images]
    assert torch.equal(frozen.score(row, 1.0).logprobs, first)
    assert calls == [images]
    torch.testing.assert_close(first, trained.score(row, 1.0).logprobs)
    trained.score(row, 1.0)
    assert calls == [images] * 3  # a tower that is trained encodes every time
    frozen.forget_images()
    frozen.score(row, 1.0)
    assert calls == [images] * 4


def test_weights_have_the_type_that_was_asked_for() -> None:
    assert {weight.dtype for weight in tiny_policy(dtype="bfloat16").parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in tiny_policy().parameters()} == {torch.float32}
