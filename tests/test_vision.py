from __future__ import annotations

import copy
import itertools

import pytest
import torch
from tiny import Separate, tiny_image
from torch import Tensor
from torch.nn import functional

from infogap.policy import vision
from infogap.policy.vision import (
    BatchedVisionAttention,
    LinearPatchEmbed,
    Pieces,
    attend_at_once,
    attend_stacked,
    batch_vision_tower,
    encode_images,
)

# merged tokens; a window is 4x4 of them
MIXED = [(3, 2), (4, 4), (5, 3), (9, 7), (3, 2), (1, 1)]
EQUAL = [(6, 5), (6, 5)]
WHOLE_WINDOWS = [(4, 4), (4, 4)]


def one_by_one(query: Tensor, key: Tensor, value: Tensor, borders: Tensor, _: Tensor, longest: int, __: int) -> Tensor:
    """What torch's call of variable length computes."""
    assert borders.dtype == torch.int32
    assert longest == int(borders.diff().max())
    pieces = [
        functional.scaled_dot_product_attention(*(each[start:end].transpose(0, 1) for each in (query, key, value)))
        for start, end in itertools.pairwise(borders.tolist())
    ]
    return torch.cat(pieces, dim=1).transpose(0, 1)


@pytest.mark.parametrize("way", ["stacked", "in parts", "at once"])
@pytest.mark.parametrize("sizes", [MIXED, EQUAL, WHOLE_WINDOWS])
def test_the_batched_tower_is_transformers_own(
    sizes: list[tuple[int, int]], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "in parts":
        monkeypatch.setattr(vision, "MOST_PIECES", 3)
    if way == "at once":
        monkeypatch.setattr(vision, "flash_takes", lambda _: True)
        monkeypatch.setattr(vision, "varlen_attn", one_by_one)
        monkeypatch.setattr(vision, "attend_stacked", None)
    plain = Separate().model.model.visual.double()  # so that only an error, and no rounding, makes a difference
    batched = copy.deepcopy(plain)
    batch_vision_tower(batched)
    images = [tiny_image(*size, seed=seed) for seed, size in enumerate(sizes)]
    values, grids = torch.cat([image.values for image in images]).double(), [image.grid for image in images]
    expected = plain(values, grid_thw=torch.tensor([(1, *grid) for grid in grids])).pooler_output
    found = encode_images(batched, values, grids)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    for (name, one), other in zip(plain.named_parameters(), batched.parameters(), strict=True):
        assert one.grad is not None
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-6, atol=1e-6, msg=name)


def test_only_classes_change_and_names_stay() -> None:
    tower = Separate().model.model.visual
    names = list(tower.state_dict())
    batch_vision_tower(tower)
    assert list(tower.state_dict()) == names
    assert type(tower.patch_embed) is LinearPatchEmbed
    assert all(type(block.attn) is BatchedVisionAttention for block in tower.blocks)
    assert [block.attn.sees_whole_images for block in tower.blocks] == [False, True]


def test_no_layer_asks_where_its_pieces_are(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = Separate().model.model.visual.requires_grad_(False)
    batch_vision_tower(tower)
    image, between, asked = tiny_image(9, 7), Pieces.between, []
    monkeypatch.setattr(Pieces, "between", lambda borders: asked.append(borders) or between(borders))
    found = encode_images(tower, image.values, [image.grid])
    assert len(asked) == 2  # for the images and for the windows, on the CPU
    plain = tower(image.values, grid_thw=torch.tensor([(1, *image.grid)])).pooler_output
    assert len(asked) == 4  # only a caller that does not say is asked
    torch.testing.assert_close(plain, found)


def test_pieces_are_stacked_by_length() -> None:
    pieces = Pieces.between(torch.tensor([0, 3, 5, 8, 10]))
    assert pieces.stacks == ((2, 2), (2, 3))
    assert pieces.order is not None
    assert pieces.order.tolist() == [3, 4, 8, 9, 0, 1, 2, 5, 6, 7]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares kernels of a GPU")
def test_a_gpu_attends_at_once_as_it_does_by_stacks() -> None:
    borders = torch.cat([torch.zeros(1), torch.tensor([64] * 20 + [16, 48, 900, 64]).cumsum(0)])
    pieces, found = Pieces.between(borders).to(torch.device("cuda")), []
    for attend in (attend_at_once, attend_stacked):
        generator = torch.Generator("cuda").manual_seed(0)
        drawn = torch.randn(4, int(borders[-1]), 16, 80, generator=generator, device="cuda").bfloat16()
        inputs = [each.requires_grad_() for each in drawn[:3].unbind(0)]
        output = attend(*inputs, pieces)
        found.append([output.detach(), *torch.autograd.grad((output * drawn[3]).sum(), inputs)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=5e-2, atol=5e-2)


def test_images_do_not_see_each_other() -> None:
    tower = Separate().model.model.visual.requires_grad_(False)
    batch_vision_tower(tower)
    one, other = tiny_image(3, 5, seed=1), tiny_image(3, 5, seed=2)
    together = encode_images(tower, torch.cat([one.values, other.values]), [one.grid, other.grid])
    alone = encode_images(tower, other.values, [other.grid])
    torch.testing.assert_close(together[15:], alone, rtol=1e-4, atol=1e-5)
