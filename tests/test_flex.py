"""FlexAttention over packed rows: its blocks, its values against the dense mask, and when it is chosen."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from test_attention import attended, laid_out
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention import flex_attention as torch_flex
from torch.nn.attention.flex_attention import create_block_mask
from torch.utils.checkpoint import checkpoint

from infogap.policy import flex as flex_module
from infogap.policy.attention import DenseAttention, PackedAttention
from infogap.policy.flex import BLOCK, FLEX_TOKENS, FlexRowAttention, flex_is_cheaper, row_attention, visible_blocks

# torch's compiler looks at every tensor's gradient, and hides what its own look sets off from printing only
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="compares kernels of a GPU")
compiling = pytest.mark.filterwarnings("ignore")  # torch's compiler uses what torch deprecates

LAYOUTS: dict[str, list[tuple[int, list[int]]]] = {
    "several": [(150, [40, 0, 200]), (7, []), (300, [5, 5, 130])],
    "one prompt": [(260, [])],
    "whole blocks": [(256, [128, 256])],
    "short": [(3, [4, 0, 1])],
    "tiny episodes": [(1, [1] * 200), (2, [0, 0]), (140, [1])],
}


@pytest.fixture
def gradients_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch refuses gradients of FlexAttention on the CPU, because it has no kernel; its plain version has them."""
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *_: None)


def assert_same_mask(group: Tensor, branch: Tensor) -> None:
    mask = FlexRowAttention(group, branch).mask
    length = mask.seq_lengths[0]
    expected = create_block_mask(mask.mask_mod, None, None, length, length, device="cpu", BLOCK_SIZE=BLOCK)
    assert length >= len(group)
    for name in ("kv_num_blocks", "kv_indices", "q_num_blocks", "q_indices"):
        for kind in ("", "full_"):
            assert torch.equal(getattr(mask, kind + name), getattr(expected, kind + name)), kind + name


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_blocks_are_those_of_the_rule(name: str) -> None:
    assert_same_mask(*laid_out(LAYOUTS[name]))


@pytest.mark.parametrize("seed", range(12))
def test_blocks_of_random_rows_are_those_of_the_rule(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 300, (3, 4), generator=generator).tolist()
    group, branch = laid_out([(prompt + 1, episodes) for prompt, *episodes in lengths])
    assert_same_mask(group, branch)
    shuffled = torch.randperm(len(group), generator=generator)
    assert_same_mask(group[shuffled], branch[shuffled])


def test_padding_and_the_row_do_not_see_each_other() -> None:
    attend = FlexRowAttention(*laid_out([(130, [20])]))
    order = torch.arange(attend.mask.seq_lengths[0])
    seen = attend.mask.mask_mod(order, order, order[:, None], order[None, :])
    assert len(order) == 256
    assert not seen[:150, 150:].any()
    assert not seen[150:, :150].any()
    assert seen.any(1).all()


@pytest.mark.usefixtures("gradients_on_cpu")
@pytest.mark.parametrize("name", list(LAYOUTS))
def test_values_and_gradients_are_those_of_the_dense_mask(name: str) -> None:
    group, branch = laid_out(LAYOUTS[name])
    expected = attended(DenseAttention(group, branch), len(group), torch.float64)
    for one, other in zip(attended(FlexRowAttention(group, branch), len(group), torch.float64), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_autocast_decides_on_the_type() -> None:
    group, branch = laid_out(LAYOUTS["several"])
    rotated, plain = torch.randn(1, 2, len(group), 16), torch.randn(1, 2, len(group), 16).bfloat16()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = FlexRowAttention(group, branch)(0, rotated, rotated, plain, 0.3)
    assert found.dtype == torch.bfloat16
    expected = DenseAttention(group, branch)(0, rotated, rotated, plain.float(), 0.3)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.05)


def recomputed(attend: FlexRowAttention) -> Callable[..., Tensor]:
    """The attention under activation checkpointing."""
    return lambda *arguments: checkpoint(attend, *arguments, use_reentrant=False)


def check_lengths_and_recomputation(device: str, dtype: torch.dtype, tolerance: float) -> None:
    for prompt in (300, 180, 411, 9, 640):
        group, branch = laid_out([(prompt, [40, 7]), (20, [15])])
        expected = attended(DenseAttention(group, branch), len(group), torch.float64)
        attend = recomputed(FlexRowAttention(group.to(device), branch.to(device)))
        for one, other in zip(attended(attend, len(group), dtype, device), expected, strict=True):
            torch.testing.assert_close(one.double().cpu(), other, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("gradients_on_cpu")
def test_compiled_it_is_recomputed_and_a_new_length_is_nothing_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through all of torch's compiler but the kernels."""
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(flex_module, "_eager", flex_module._compiled(counter))
    check_lengths_and_recomputation("cpu", torch.float64, 1e-12)
    assert counter.frame_count == 2  # the first length, and then any


def ragged(tokens: int) -> tuple[Tensor, Tensor]:
    """A row of which most of a padded batch would be padding."""
    return laid_out([(tokens // 8, [tokens // 2, *[tokens // 32] * 12])])


def test_scores_are_counted_as_they_are_computed() -> None:
    group, branch = laid_out([(256, [128, 256])])
    assert PackedAttention(group, branch).scores == 256**2 // 2 + 2 * 512**2 // 2
    assert FlexRowAttention(group, branch).scores == sum((1, 2, 3, 3, 4)) * BLOCK**2
    some, full = visible_blocks(group, branch)
    assert int(some.sum()) - int(full.sum()) == 5  # those on the diagonal
    group, branch = laid_out([(300, [100, 200])])
    assert PackedAttention(group, branch).scores == 300**2 // 2 + 2 * 200 * 500


def test_a_row_that_is_mostly_padding_in_a_batch_is_for_flex_attention() -> None:
    rows = {True: ragged(FLEX_TOKENS), False: laid_out([(FLEX_TOKENS // 8, [FLEX_TOKENS // 8] * 7)])}
    for expected, row in rows.items():
        assert flex_is_cheaper(FlexRowAttention(*row), PackedAttention(*row)) == expected
        assert type(row_attention(*row)) is PackedAttention  # on the CPU, where it has no kernel


@pytest.mark.parametrize(("packed", "cheaper"), [(120, False), (130, True)])
def test_a_few_scores_less_are_no_reason(packed: int, cheaper: bool) -> None:
    assert flex_is_cheaper(SimpleNamespace(scores=100), SimpleNamespace(scores=packed)) == cheaper


@on_gpu
@compiling
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-2), (torch.bfloat16, 8e-2)])
@pytest.mark.parametrize("name", list(LAYOUTS))
def test_a_gpu_agrees_with_the_dense_mask(name: str, dtype: torch.dtype, tolerance: float) -> None:
    group, branch = laid_out(LAYOUTS[name])
    expected = attended(DenseAttention(group, branch), len(group), torch.float64)
    found = attended(FlexRowAttention(group.cuda(), branch.cuda()), len(group), dtype, "cuda")
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double().cpu(), other, rtol=tolerance, atol=tolerance)


@on_gpu
@compiling
def test_a_gpu_recomputes_and_takes_any_length() -> None:
    check_lengths_and_recomputation("cuda", torch.bfloat16, 8e-2)


@on_gpu
@compiling
def test_a_gpu_takes_flex_attention_for_a_long_row() -> None:
    for tokens, expected in ((FLEX_TOKENS, FlexRowAttention), (FLEX_TOKENS // 4, PackedAttention)):
        group, branch = (each.cuda() for each in ragged(tokens))
        group, branch = group[:tokens], branch[:tokens]
        assert type(row_attention(group, branch)) is expected
        found, other = (
            attended(kind(group, branch), len(group), torch.bfloat16, "cuda")
            for kind in (FlexRowAttention, PackedAttention)
        )
        for one, two in zip(found, other, strict=True):
            torch.testing.assert_close(one, two, rtol=8e-2, atol=8e-2)
