from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageDraw

from infogap.data.images import HighResImage
from infogap.data.sample import Sample
from infogap.episode.tool import CropTool, GroundTruthCrop, NoiseCrop, OwnCrop
from infogap.geometry import TOKEN_SIDE, Box, NestedBoxes, visual_tokens

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)
WORDS, SIGN, WALL = Box(120, 60, 160, 80), Box(112, 56, 168, 84), Box(56, 28, 224, 112)
LAMP = Box(448, 168, 504, 224)
OWN = Box(300, 100, 356, 156)
MOST, FEWEST = 16, 4


def painted(*evidence: NestedBoxes, key: str = "scene") -> Sample:
    """A grey image of 560 x 280 with a red wall, a green sign on it with blue words, and a blue lamp far off."""
    image = Image.new("RGB", (560, 280), GREY)
    draw = ImageDraw.Draw(image)
    for box, colour in ((WALL, RED), (SIGN, GREEN), (WORDS, BLUE), (LAMP, BLUE)):
        draw.rectangle((box.x1, box.y1, box.x2 - 1, box.y2 - 1), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return Sample(key, HighResImage(buffer.getvalue()), "What?", "7", evidence=evidence)


def colours(image: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(image.getpixel((x, y))) for x in range(image.width) for y in range(image.height)}  # type: ignore[arg-type]


def test_own_crop_is_the_region_that_was_asked_for() -> None:
    crop = OwnCrop(MOST, FEWEST).look(painted(), Box(112, 56, 168, 112))  # 56 x 56 is 4 tokens: nothing is scaled
    assert crop.size == (56, 56)
    assert [crop.getpixel(at) for at in ((1, 1), (28, 14), (1, 27), (1, 28), (28, 55))] == [
        GREEN,
        BLUE,
        GREEN,
        RED,
        RED,
    ]
    assert OwnCrop(MOST, FEWEST).look(painted(), Box(0, 0, 560, 280)).size == (140, 56)  # 5 * 2 of 16 tokens


def test_ground_truth_is_the_second_box_grown_to_the_shape_of_the_own_crop() -> None:
    crop = GroundTruthCrop(MOST, FEWEST).look(painted((WORDS, SIGN, WALL)), OWN)
    assert crop.size == OwnCrop(MOST, FEWEST).look(painted(), OWN).size == (56, 56)
    # the sign of 56 x 28 grows to 56 x 56, with wall above and below and nothing at the sides
    rows = [crop.getpixel((2, y)) for y in (2, 17, 28, 38, 53)]
    assert rows == [RED, GREEN, GREEN, GREEN, RED]
    assert crop.getpixel((28, 28)) == BLUE


def test_ground_truth_with_one_box_is_that_box_grown_to_the_least_side() -> None:
    sample = painted((WORDS,))
    asked = Box(300, 100, 412, 156)  # twice as wide as high, as the words are
    grown = GroundTruthCrop(MOST, FEWEST).look(sample, asked)
    assert colours(grown) >= {BLUE, GREEN}  # 40 x 20 grew to 40 x 28, and that to 56 x 28: the sign
    tight = GroundTruthCrop(MOST, FEWEST, min_crop_side=1).look(sample, asked)
    assert colours(tight) == {BLUE}


@pytest.mark.parametrize(("asked", "colour"), [(Box(100, 40, 156, 96), RED), (Box(400, 150, 456, 206), BLUE)])
def test_ground_truth_is_the_evidence_nearest_to_the_box(asked: Box, colour: tuple[int, int, int]) -> None:
    crop = GroundTruthCrop(MOST, FEWEST).look(painted((SIGN,), (LAMP,)), asked)
    assert crop.getpixel((2, 2)) == colour


def test_ground_truth_stays_in_the_image_where_it_cannot_grow() -> None:
    corner = Box(0, 0, 560, 28)
    crop = GroundTruthCrop(MOST, FEWEST).look(painted((corner,)), OWN)
    assert crop.size == (56, 56)


def test_ground_truth_needs_evidence() -> None:
    with pytest.raises(ValueError, match="sample scene has no evidence"):
        GroundTruthCrop(MOST).look(painted(), OWN)


def test_noise_follows_from_seed_sample_and_box_alone() -> None:
    sample = painted()
    noise = NoiseCrop(MOST, seed=1).look(sample, OWN)
    assert noise.tobytes() == NoiseCrop(MOST, seed=1).look(painted(), OWN).tobytes()
    others = [
        NoiseCrop(MOST, seed=2).look(sample, OWN),
        NoiseCrop(MOST, seed=1).look(painted(key="other"), OWN),
        NoiseCrop(MOST, seed=1).look(sample, Box(300, 100, 356, 157)),
    ]
    assert len({noise.tobytes(), *(other.tobytes() for other in others)}) == 4


def test_noise_is_uniform() -> None:
    histogram = NoiseCrop(400, 400).look(painted(), OWN).histogram()
    pixels = sum(histogram) / 3
    assert len(histogram) == 3 * 256
    # each count is binomial with mean pixels / 256; six standard deviations
    assert all(abs(count - pixels / 256) < 6 * (pixels / 256) ** 0.5 for count in histogram)


coordinates = st.floats(0, 1)


@given(st.tuples(coordinates, coordinates, coordinates, coordinates), st.integers(1, 40), st.integers(1, 8))
def test_every_arm_shows_an_image_of_the_own_crops_size(
    corners: tuple[float, float, float, float], most: int, fewest: int
) -> None:
    x1, x2 = sorted(corners[:2])
    y1, y2 = sorted(corners[2:])
    sample = painted((WORDS, SIGN), (LAMP,))
    box = Box(x1 * 500, y1 * 200, x2 * 500 + 28, y2 * 200 + 28)
    arms: list[CropTool] = [OwnCrop(most, fewest), GroundTruthCrop(most, fewest), NoiseCrop(most, fewest)]
    images = [arm.look(sample, box) for arm in arms]
    assert {image.mode for image in images} == {"RGB"}
    (size,) = {image.size for image in images}
    assert size[0] % TOKEN_SIDE == size[1] % TOKEN_SIDE == 0
    assert visual_tokens(sample.image.crop_size(box, most, fewest)) <= most
    assert ImageChops.difference(images[0], images[2]).getbbox() is not None


def test_samples_from_the_factory_work_too(make_sample: Callable[..., Sample]) -> None:
    assert OwnCrop(MOST).look(make_sample(size=(56, 56)), Box(0, 0, 28, 28)).size == (56, 56)
