"""A packed row is exactly its episodes, each a sequence of its own, through transformers alone."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import IMAGE_TEXT, Separate, observation, sequences, tiny_image, tiny_policy, turn
from torch import Tensor, nn

from infogap.policy import attention as attention_module
from infogap.policy.attention import Attend, DenseAttention, PackedAttention, fold_heads
from infogap.policy.model import Policy
from infogap.policy.packing import Chunk, Group, Row, pack

POLICY = tiny_policy()
TEMPERATURE = 0.7
TOLERANCE = 1e-4


def view_group() -> Group:
    """A prompt with a view; episodes of no, one and two crops, one of them cut off."""
    prompt = POLICY.chunk(f"see {IMAGE_TEXT} what?", [tiny_image(3, 2, seed=1)])
    return Group(
        prompt,
        (
            (turn(POLICY, "seven<|im_end|>"),),
            (
                turn(POLICY, "<tool_call>a</tool_call>"),
                observation(POLICY, tiny_image(2, 5, seed=2)),
                turn(POLICY, "9"),
            ),
            (
                turn(POLICY, "x</tool_call>"),
                observation(POLICY, tiny_image(1, 1, seed=3)),
                turn(POLICY, "yy</tool_call>"),
                observation(POLICY, tiny_image(5, 3, seed=4), tiny_image(2, 2, seed=5)),
                turn(POLICY, "nine<|im_end|>"),
            ),
            (turn(POLICY, "z"),),
        ),
    )


def text_group() -> Group:
    """No image at all; a bad call brings text back."""
    bad = (turn(POLICY, "<tool_call></tool_call>"), observation(POLICY), turn(POLICY, "one<|im_end|>"))
    return Group(POLICY.chunk("which?"), (bad, (turn(POLICY, "two"),)))


def single_group() -> Group:
    """One episode, with a crop."""
    prompt = POLICY.chunk(f"{IMAGE_TEXT}?", [tiny_image(2, 2, seed=6)])
    return Group(prompt, ((turn(POLICY, "b"), observation(POLICY, tiny_image(3, 3, seed=7)), turn(POLICY, "c")),))


ROWS = {
    "view": [view_group()],
    "no_images": [text_group()],
    "single": [single_group()],
    "several": [view_group(), text_group(), single_group()],
}


def separate_scores(separate: Separate, groups: list[Group]) -> tuple[Tensor, Tensor]:
    """Logits before every sampled token, and its log-probability."""
    logits, logprobs = [], []
    banned = torch.tensor(POLICY.vocabulary.banned)
    for group in groups:
        for chunks in sequences(group):
            found = separate.logits(chunks)
            sampled = [chunk.sampled for chunk in chunks for _ in chunk.token_ids]
            where = torch.tensor([place for place, is_sampled in enumerate(sampled) if is_sampled])
            target = torch.tensor([token for chunk in chunks for token in chunk.token_ids])[where]
            logits.append(found[where - 1])
            scaled = (found[where - 1] / TEMPERATURE).index_fill(1, banned, -math.inf)
            logprobs.append(scaled.log_softmax(1).gather(1, target[:, None])[:, 0])
    return torch.cat(logits), torch.cat(logprobs)


def objective(logprobs: Tensor) -> Tensor:
    """A loss that weighs every token differently."""
    return (logprobs * torch.linspace(-1, 2, len(logprobs))).sum()


def check_gradients(policy: Policy, separate: Separate) -> None:
    own = dict(policy.parts.named_parameters())
    for name, weight in separate.model.named_parameters():
        gradient = own[name].grad
        if gradient is None:
            assert weight.grad is None or not weight.grad.any(), name
            continue
        assert weight.grad is not None, name
        scale = max(1.0, float(weight.grad.abs().max()))
        torch.testing.assert_close(gradient / scale, weight.grad / scale, rtol=0, atol=TOLERANCE, msg=name)


@pytest.mark.parametrize("attention", [PackedAttention, DenseAttention])
@pytest.mark.parametrize("name", list(ROWS))
def test_a_row_is_its_episodes_one_by_one(name: str, attention: type[PackedAttention] | type[DenseAttention]) -> None:
    separate, row = Separate(), pack(ROWS[name], POLICY.vocabulary.image)
    logits, logprobs = separate_scores(separate, ROWS[name])
    hidden = POLICY.row_hidden(row, attention(row.group, row.branch))
    found = POLICY.parts.lm_head(hidden[row.predictor])
    torch.testing.assert_close(found, logits, rtol=0, atol=TOLERANCE)
    scaled = (found / TEMPERATURE).index_fill(1, POLICY.banned, -math.inf)
    own = scaled.log_softmax(1).gather(1, row.target[:, None])[:, 0]
    torch.testing.assert_close(own, logprobs, rtol=0, atol=TOLERANCE)
    POLICY.zero_grad()
    objective(own).backward()
    objective(logprobs).backward()
    check_gradients(POLICY, separate)


@pytest.mark.parametrize("config", [{}, {"gradient_checkpointing": True}, {"vision_tower": "frozen"}])
def test_scores_and_their_gradients_are_those_of_separate_sequences(config: dict[str, object]) -> None:
    policy, separate = tiny_policy(**config), Separate()
    _, expected = separate_scores(separate, ROWS["several"])
    scores = policy(pack(ROWS["several"], policy.vocabulary.image), TEMPERATURE)
    torch.testing.assert_close(scores.logprobs, expected, rtol=0, atol=TOLERANCE)
    objective(scores.logprobs).backward()
    separate.model.model.visual.requires_grad_(config.get("vision_tower") != "frozen")
    objective(expected).backward()
    if config.get("vision_tower") == "frozen":
        for weight in separate.model.model.visual.parameters():
            weight.grad = None
        assert all(weight.grad is None for weight in policy.parts.model.visual.parameters())
    check_gradients(policy, separate)


def test_checkpointing_computes_the_layers_again_in_the_backward_pass() -> None:
    policy = tiny_policy(gradient_checkpointing=True)
    calls: list[int] = []
    for number, layer in enumerate(policy.parts.model.language_model.layers):
        layer.mlp.register_forward_pre_hook(lambda *_, number=number: calls.append(number))
    scores = policy(pack(ROWS["single"], policy.vocabulary.image), 1.0)
    assert calls == [0, 1]
    objective(scores.logprobs).backward()
    assert sorted(calls) == [0, 0, 1, 1]


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_a_frozen_tower_keeps_nothing_for_the_backward_pass(gradient_checkpointing: bool) -> None:
    policy = tiny_policy(vision_tower="frozen", gradient_checkpointing=gradient_checkpointing)
    features: list[Tensor] = []
    policy.parts.model.visual.register_forward_hook(lambda *arguments: features.append(arguments[2].pooler_output))
    policy.row_hidden(pack(ROWS["view"], policy.vocabulary.image))
    assert len(features) == 1  # all images of a row at once
    assert not features[0].requires_grad


def test_what_an_episode_holds_does_not_reach_its_siblings() -> None:
    group = view_group()
    changed = Group(group.prompt, (group.episodes[0], (turn(POLICY, "something else"),), *group.episodes[2:]))
    rows = [pack([each], POLICY.vocabulary.image) for each in (group, changed)]
    scores = [POLICY(row, 1.0).logprobs for row in rows]
    for episode, same in enumerate((True, False, True, True)):
        one, other = (found[row.episode == episode] for found, row in zip(scores, rows, strict=True))
        assert (len(one) == len(other) and torch.allclose(one, other, atol=1e-5)) == same


def test_taught_tokens_are_scored_at_temperature_one() -> None:
    taught = POLICY.chunk("box")
    group = Group(text_group().prompt, (*text_group().episodes, (Chunk(taught.token_ids, taught=(1, 2)),)))
    found = POLICY(pack([group], POLICY.vocabulary.image), TEMPERATURE).taught_logprobs
    logits = Separate().logits([group.prompt, taught])[-3:-1].index_fill(1, POLICY.banned, -math.inf)
    expected = logits.log_softmax(1).gather(1, torch.tensor(taught.token_ids[1:])[:, None])[:, 0]
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


def test_heads_of_one_key_lie_one_after_the_other() -> None:
    query = torch.arange(4).view(1, 4, 1, 1).expand(2, 4, 3, 1)  # every entry holds the number of its head
    assert fold_heads(query, 2)[0, :, :, 0].tolist() == [[0, 0, 0, 1, 1, 1], [2, 2, 2, 3, 3, 3]]


def test_a_plain_forward_is_refused_with_a_sentence() -> None:
    layer: nn.Module = POLICY.parts.model.language_model
    with pytest.raises(ValueError, match="This model attends packed rows only"):
        layer(inputs_embeds=torch.zeros(1, 2, 64), attention_mask={"full_attention": None})


def test_low_precision_scores_are_near() -> None:
    row: Row = pack(ROWS["several"], POLICY.vocabulary.image)
    exact = POLICY(row, 1.0).logprobs.detach()
    for policy, autocast in ((tiny_policy(dtype="bfloat16"), False), (POLICY, True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            scores = policy(row, 1.0)
        assert scores.logprobs.dtype == torch.float32
        assert float((scores.logprobs.detach() - exact).abs().mean()) < 0.2
        scores.logprobs.sum().backward()


LAYOUTS: dict[str, list[tuple[int, list[int]]]] = {
    "short episodes": [(9, [3, 1, 4]), (7, [5])],
    "long episodes": [(3, [8, 0, 1, 12]), (5, [4])],
    "no episodes": [(6, []), (2, [])],
    "one prompt": [(5, [])],
    "empty episodes": [(4, [0, 0]), (2, [1])],
}
"""Tokens of each group's prompt and of its episodes."""


def laid_out(layout: list[tuple[int, list[int]]]) -> tuple[Tensor, Tensor]:
    """Group and branch of every token."""
    lengths = [(number, -1, prompt) for number, (prompt, _) in enumerate(layout)]
    lengths += [(number, b, tokens) for number, (_, episodes) in enumerate(layout) for b, tokens in enumerate(episodes)]
    group, branch, tokens = torch.tensor(sorted(lengths)).T
    return group.repeat_interleave(tokens), branch.repeat_interleave(tokens)


def attended(attend: Attend, tokens: int, dtype: torch.dtype, device: str = "cpu") -> list[Tensor]:
    """Values of four query heads over two key heads, and gradients."""
    generator = torch.Generator().manual_seed(tokens)
    drawn = [torch.randn(1, tokens, heads, 16, generator=generator, dtype=torch.float64) for heads in (4, 2, 2, 4)]
    # heads as a layer of the model cuts them
    query, key, value, weights = (each.to(device, dtype).transpose(1, 2) for each in drawn)
    inputs = [each.requires_grad_() for each in (query, key, value)]
    output = attend(0, query, key, value, 0.3)
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), inputs)]


@pytest.mark.parametrize("most_mask", [attention_module.MOST_MASK, 0])
@pytest.mark.parametrize("name", list(LAYOUTS))
def test_small_batches_are_the_dense_mask(name: str, most_mask: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_module, "MOST_MASK", most_mask)
    group, branch = laid_out(LAYOUTS[name])
    packed = PackedAttention(group, branch)
    has_mask = packed.mask is not None and packed.mask.numel() > 0
    assert has_mask == (name in ("short episodes", "empty episodes") and most_mask > 0)
    expected = attended(DenseAttention(group, branch), len(group), torch.float64)
    for one, other in zip(attended(packed, len(group), torch.float64), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("prompt", "episodes"), [(1000, [6000] * 16), (5000, [300] * 16)])
def test_no_mask_is_made_that_would_not_fit(prompt: int, episodes: list[int]) -> None:
    assert PackedAttention(*laid_out([(prompt, episodes)])).mask is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares kernels of a GPU")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-2), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("name", list(LAYOUTS))
def test_a_gpu_agrees_with_the_dense_mask(name: str, dtype: torch.dtype, tolerance: float) -> None:
    group, branch = laid_out(LAYOUTS[name])
    expected = attended(DenseAttention(group, branch), len(group), torch.float64)
    found = attended(PackedAttention(group.cuda(), branch.cuda()), len(group), dtype, "cuda")
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double().cpu(), other, rtol=tolerance, atol=tolerance)
