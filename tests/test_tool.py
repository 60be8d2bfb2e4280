from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageDraw

from infogap.data.images import HighResImage
from infogap.data.sample import Sample
from infogap.episode.tool import CropTool, GroundTruthCrop, NoiseCrop, OtherImageCrop, OwnCrop, RandomCrop
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


def test_ground_truth_is_the_second_box_as_the_tool_would_show_it() -> None:
    sample = painted((WORDS, SIGN, WALL))
    crop = GroundTruthCrop(MOST, FEWEST).look(sample, OWN)
    assert crop.tobytes() == OwnCrop(MOST, FEWEST).look(sample, SIGN).tobytes()
    assert colours(crop) >= {GREEN, BLUE}
    assert RED not in colours(crop)


def test_ground_truth_with_one_box_is_that_box_grown_to_the_least_side() -> None:
    sample = painted((WORDS,))
    grown = GroundTruthCrop(MOST, FEWEST).look(sample, OWN)
    assert grown.tobytes() == OwnCrop(MOST, FEWEST).look(sample, WORDS.expand_to(28, sample.image.size)).tobytes()
    tight = GroundTruthCrop(MOST, FEWEST, min_crop_side=1).look(sample, OWN)
    assert colours(tight) == {BLUE}


@pytest.mark.parametrize(("asked", "colour"), [(Box(100, 40, 156, 96), GREEN), (Box(400, 150, 456, 206), BLUE)])
def test_ground_truth_is_the_evidence_nearest_to_the_box(asked: Box, colour: tuple[int, int, int]) -> None:
    crop = GroundTruthCrop(MOST, FEWEST).look(painted((SIGN,), (LAMP,)), asked)
    assert crop.getpixel((2, 2)) == colour


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


def test_a_random_crop_is_a_region_of_the_same_size_that_follows_from_seed_sample_and_box() -> None:
    sample, lamp = painted(), Box(448, 168, 504, 224)
    first = RandomCrop(MOST, FEWEST, seed=1).look(sample, lamp)
    assert first.tobytes() == RandomCrop(MOST, FEWEST, seed=1).look(painted(), lamp).tobytes()
    assert first.size == OwnCrop(MOST, FEWEST).look(sample, lamp).size
    # over many seeds it is everywhere: grey, wall, sign and lamp
    seen = [RandomCrop(MOST, FEWEST, seed=seed).look(sample, lamp).getpixel((28, 28)) for seed in range(200)]
    assert {GREY, RED, GREEN, BLUE} <= set(seen)
    wall = sum(colour in (RED, GREEN, BLUE) for colour in seen)
    assert 12 < wall < 60  # the middles lie in 504 x 224 pixels, of which the wall takes 168 x 84 and the lamp some


def test_a_random_crop_of_the_whole_image_is_the_image() -> None:
    whole = Box(0, 0, 560, 280)
    sample = painted()
    assert RandomCrop(MOST).look(sample, whole).tobytes() == OwnCrop(MOST).look(sample, whole).tobytes()


def plain(colour: tuple[int, int, int], size: tuple[int, int]) -> HighResImage:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return HighResImage(buffer.getvalue())


@pytest.mark.parametrize("size", [(560, 280), (40, 900), (900, 30)])
def test_another_images_crop_has_the_own_crops_size_and_nothing_of_its_image(size: tuple[int, int]) -> None:
    sample = painted()
    crop = OtherImageCrop({"scene": plain((7, 8, 9), size)}, MOST, FEWEST).look(sample, OWN)
    assert crop.size == OwnCrop(MOST, FEWEST).look(sample, OWN).size
    assert colours(crop) == {(7, 8, 9)}


def test_another_images_crop_lies_at_the_same_place() -> None:
    """The other image has the same things at twice the size: the middle of the lamp is the middle of its lamp."""
    sample = painted()
    buffer = io.BytesIO()
    Image.open(io.BytesIO(sample.image.data)).resize((1120, 560), Image.Resampling.NEAREST).save(buffer, "PNG")
    tool = OtherImageCrop({"scene": HighResImage(buffer.getvalue())}, MOST, FEWEST)
    assert colours(tool.look(sample, LAMP)) == {BLUE}
    assert tool.look(sample, Box(0, 0, 56, 56)).getpixel((1, 1)) == GREY


coordinates = st.floats(0, 1)


@given(st.tuples(coordinates, coordinates, coordinates, coordinates), st.integers(1, 40), st.integers(1, 8))
def test_what_replaces_a_crop_has_its_size(corners: tuple[float, float, float, float], most: int, fewest: int) -> None:
    x1, x2 = sorted(corners[:2])
    y1, y2 = sorted(corners[2:])
    sample = painted((WORDS, SIGN), (LAMP,))
    box = Box(x1 * 500, y1 * 200, x2 * 500 + 28, y2 * 200 + 28)
    others = {"scene": plain(GREY, (77, 333))}
    arms: list[CropTool] = [OwnCrop(most, fewest), RandomCrop(most, fewest), NoiseCrop(most, fewest)]
    images = [arm.look(sample, box) for arm in (*arms, OtherImageCrop(others, most, fewest))]
    assert {image.mode for image in images} == {"RGB"}
    (size,) = {image.size for image in images}
    assert size[0] % TOKEN_SIDE == size[1] % TOKEN_SIDE == 0
    assert visual_tokens(sample.image.crop_size(box, most, fewest)) <= most
    assert ImageChops.difference(images[0], images[2]).getbbox() is not None


def test_samples_from_the_factory_work_too(make_sample: Callable[..., Sample]) -> None:
    assert OwnCrop(MOST).look(make_sample(size=(56, 56)), Box(0, 0, 28, 28)).size == (56, 56)
