from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import IMAGE_TEXT, MEAN, STD, Separate, observation, tiny_image, tiny_policy
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from infogap.policy.patches import Patchifier, rope_positions

PATCHIFIER = Patchifier(MEAN, STD)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(28, 28), (84, 56), (140, 196)])
def test_patches_are_those_of_transformers_image_processor(size: tuple[int, int]) -> None:
    image = noise(*size)
    processor = Qwen2VLImageProcessorPil(do_resize=False, image_mean=list(MEAN), image_std=list(STD))
    expected = processor(images=[image], return_tensors="pt")
    patches = PATCHIFIER(image)
    torch.testing.assert_close(patches.values, expected["pixel_values"], rtol=0, atol=1e-6)
    assert [1, *patches.grid] == expected["image_grid_thw"][0].tolist()
    assert patches.values.dtype == torch.float32
    assert patches.tokens == size[0] * size[1] // 28**2


def test_a_batch_is_cut_as_its_images_are() -> None:
    images = [noise(56, 84, seed) for seed in range(3)]
    pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])
    expected = torch.stack([PATCHIFIER(image).values for image in images])
    assert torch.equal(PATCHIFIER.cut(pixels), expected)


def test_images_of_other_modes_are_shown_in_colour() -> None:
    image = noise(28, 28).convert("L")
    assert torch.equal(PATCHIFIER(image).values, PATCHIFIER(image.convert("RGB")).values)


@pytest.mark.parametrize("size", [(29, 28), (28, 42)])
def test_sides_that_are_no_whole_tokens_are_refused(size: tuple[int, int]) -> None:
    message = f"An image of {size[0]}x{size[1]} pixels cannot be cut into patches: make both sides multiples of 28."
    with pytest.raises(ValueError, match=re.escape(message)):
        PATCHIFIER(noise(*size))


def test_positions_are_those_of_transformers() -> None:
    policy, separate = tiny_policy(), Separate()
    images = [tiny_image(3, 2), tiny_image(1, 4), tiny_image(2, 2)]
    text = f"ab{IMAGE_TEXT}c{IMAGE_TEXT}{IMAGE_TEXT}de"
    ids = torch.tensor([policy.chunk(text, images).token_ids])
    grids = torch.tensor([(1, *image.grid) for image in images])
    expected, _ = separate.model.model.get_rope_index(ids, separate.kinds(ids), image_grid_thw=grids)
    positions, after = rope_positions(ids[0].tolist(), [i.grid for i in images], policy.vocabulary.image, 0)
    assert torch.equal(positions, expected[:, 0])
    assert after == int(expected.max()) + 1


def test_a_piece_goes_on_where_the_sequence_stands() -> None:
    policy, separate = tiny_policy(), Separate()
    chunks = [
        policy.chunk(f"a{IMAGE_TEXT}", [tiny_image(5, 2)]),
        observation(policy, tiny_image(2, 3)),
        policy.chunk("b"),
    ]
    ids = torch.tensor([[token for chunk in chunks for token in chunk.token_ids]])
    grids = torch.tensor([(1, *image.grid) for chunk in chunks for image in chunk.images])
    expected, _ = separate.model.model.get_rope_index(ids, separate.kinds(ids), image_grid_thw=grids)
    found, start = [], 0
    for chunk in chunks:
        grid = [image.grid for image in chunk.images]
        positions, start = rope_positions(chunk.token_ids, grid, policy.vocabulary.image, start)
        found.append(positions)
    assert torch.equal(torch.cat(found, dim=1), expected[:, 0])


def test_two_images_side_by_side_are_two_images() -> None:
    positions, after = rope_positions([9, 9, 9], [(2, 4), (2, 2)], 9, 10)
    assert positions.tolist() == [[10, 10, 12], [10, 10, 12], [10, 11, 12]]
    assert after == 13


def test_nothing_has_no_positions() -> None:
    positions, after = rope_positions([], [], 9, 7)
    assert positions.shape == (3, 0)
    assert after == 7


@pytest.mark.parametrize(
    ("ids", "grids", "message"),
    [
        ([1, 9], [], "There are image tokens for more than the 0 images given."),
        ([9, 9], [(2, 2)], "There are image tokens for more than the 1 images given."),
        ([9, 1], [(2, 4)], "Image 0 needs 2 image tokens in a row, and they are not there."),
        ([1, 9], [(2, 4)], "Image 0 needs 2 image tokens in a row, and they are not there."),
        ([1, 2], [(2, 2)], "1 images were given and the ids hold 0."),
    ],
)
def test_images_and_tokens_that_do_not_fit_are_refused(
    ids: list[int], grids: list[tuple[int, int]], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        rope_positions(ids, grids, 9, 0)
