from __future__ import annotations

import copy

import pytest
import torch
from tiny import Separate, tiny_image

from infogap.policy.vision import BatchedVisionAttention, LinearPatchEmbed, batch_vision_tower, encode_images

# merged tokens; a window is 4x4 of them
MIXED = [(3, 2), (4, 4), (5, 3), (9, 7), (3, 2), (1, 1)]
EQUAL = [(6, 5), (6, 5)]
WHOLE_WINDOWS = [(4, 4), (4, 4)]


@pytest.mark.parametrize("sizes", [MIXED, EQUAL, WHOLE_WINDOWS])
def test_the_batched_tower_is_transformers_own(sizes: list[tuple[int, int]]) -> None:
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


def test_images_do_not_see_each_other() -> None:
    tower = Separate().model.model.visual.requires_grad_(False)
    batch_vision_tower(tower)
    one, other = tiny_image(3, 5, seed=1), tiny_image(3, 5, seed=2)
    together = encode_images(tower, torch.cat([one.values, other.values]), [one.grid, other.grid])
    alone = encode_images(tower, other.values, [other.grid])
    torch.testing.assert_close(together[15:], alone, rtol=1e-4, atol=1e-5)
