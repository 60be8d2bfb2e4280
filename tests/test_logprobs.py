from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from infogap.policy.logprobs import scaled_logits, token_scores

TOKENS, WIDTH, VOCABULARY = 11, 6, 17
BANNED = torch.tensor([3, 16])


class CountingHead(nn.Linear):
    """Notes how many tokens it is given at once."""

    def __init__(self) -> None:
        super().__init__(WIDTH, VOCABULARY, bias=False)
        self.sizes: list[int] = []
        nn.init.normal_(self.weight, generator=torch.Generator().manual_seed(2))

    def forward(self, input: Tensor) -> Tensor:
        self.sizes.append(len(input))
        return super().forward(input)


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(0, 3, (TOKENS,), generator=generator)
    return torch.randn(TOKENS, WIDTH, generator=generator, requires_grad=True), target


@pytest.mark.parametrize("chunk", [1, 3, 10, 11, 100])
def test_slices_change_neither_values_nor_gradients(chunk: int) -> None:
    hidden, target = inputs()
    head = CountingHead()
    scaled = (head(hidden) / 0.7).index_fill(-1, BANNED, -math.inf)
    expected = scaled.log_softmax(-1).gather(-1, target[:, None])[:, 0]
    weights = torch.linspace(-1, 1, TOKENS)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), [hidden, head.weight])
    scores = token_scores(head, hidden, target, BANNED, 0.7, chunk)
    torch.testing.assert_close(scores.logprobs, expected)
    torch.testing.assert_close(scores.entropy, torch.distributions.Categorical(logits=scaled.detach()).entropy())
    gradients = torch.autograd.grad((scores.logprobs * weights).sum(), [hidden, head.weight])
    torch.testing.assert_close(gradients, expected_gradients)
    assert not scores.entropy.requires_grad


def test_the_head_never_sees_more_than_a_slice_and_works_twice() -> None:
    hidden, target = inputs()
    head = CountingHead()
    scores = token_scores(head, hidden, target, BANNED, 1.0, chunk=4)
    assert head.sizes == [4, 4, 3]
    scores.logprobs.sum().backward()
    assert sorted(head.sizes) == [3, 3, 4, 4, 4, 4]


def test_a_slice_has_as_many_tokens_as_make_its_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, target = inputs()
    for logits, sizes in ((5 * VOCABULARY - 1, [4, 4, 3]), (5 * VOCABULARY, [5, 5, 1]), (1, [1] * TOKENS)):
        monkeypatch.setattr("infogap.policy.logprobs.SLICE_LOGITS", logits)
        head = CountingHead()
        token_scores(head, hidden, target, BANNED, 1.0)
        assert head.sizes == sizes


def test_a_row_that_fits_into_one_slice_is_not_computed_again() -> None:
    hidden, target = inputs()
    head = CountingHead()
    token_scores(head, hidden, target, BANNED, 1.0, chunk=TOKENS).logprobs.sum().backward()
    assert head.sizes == [TOKENS]


def test_nothing_of_the_size_of_all_logits_is_kept_for_the_backward_pass() -> None:
    hidden, target = inputs()
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        token_scores(CountingHead(), hidden, target, BANNED, 1.0, chunk=4)
    assert max(kept, default=0) <= max(hidden.numel(), WIDTH * VOCABULARY) < TOKENS * VOCABULARY


def test_banned_tokens_take_no_probability() -> None:
    scaled = scaled_logits(torch.tensor([[1.0, 2.0, 50.0]], dtype=torch.bfloat16), torch.tensor([2]), 0.5)
    assert scaled.tolist() == [[2.0, 4.0, -math.inf]]
    assert scaled.dtype == torch.float32
    hidden, _ = inputs()
    scores = token_scores(CountingHead(), hidden, torch.full((TOKENS,), 16), BANNED, 1.0)
    assert torch.isneginf(scores.logprobs).all()
    assert torch.isfinite(scores.entropy).all()


def test_no_tokens_have_no_scores() -> None:
    hidden, target = inputs()
    scores = token_scores(CountingHead(), hidden[:0], target[:0], BANNED, 1.0)
    assert scores.logprobs.shape == scores.entropy.shape == (0,)
    scores.logprobs.sum().backward()  # a row without sampled tokens still makes its backward call
    assert hidden.grad is not None
