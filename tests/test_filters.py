"""Quality filters: exact on planted cases; near-duplicates are found, and different pictures are not."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from infogap.data.filters import UNREADABLE, BoxSanity, FilterChain, SmallImages, Unanswerable, answer_fault
from infogap.data.images import HighResImage
from infogap.data.near_duplicates import DISTANCE, ImageHash, NearDuplicates
from infogap.data.needle import NeedleConfig, make_scene
from infogap.data.sample import Sample
from infogap.episode.matching import match_answer
from infogap.geometry import Box

MakeSample = Callable[..., Sample]


def encode(image: Image.Image, kind: str = "JPEG", quality: int = 90) -> HighResImage:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=quality)
    return HighResImage(buffer.getvalue())


def photograph(seed: int, size: tuple[int, int] = (640, 480)) -> Image.Image:
    """Noise whose spectrum falls as a photograph's does."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.rfftfreq(128), indexing="ij"))
    frequency[0, 0] = 1.0
    layers = []
    for _ in range(3):
        spectrum = (rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)) / frequency**1.2
        layer = np.fft.irfft2(spectrum, s=(128, 128))
        layers.append(np.clip(120 + 45 * (layer - layer.mean()) / layer.std(), 0, 255))
    return Image.fromarray(np.stack(layers, -1).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


def page(seed: int) -> Image.Image:
    """Lines of black blots, like words, on white."""
    rng = np.random.default_rng(seed)
    pixels = np.full((800, 600), 255, np.uint8)
    for line in range(60, 740, 24):
        start, end = 50, 550 if rng.random() < 0.8 else int(rng.integers(100, 550))
        while start < end:
            length = int(rng.integers(15, 80))
            pixels[line : line + 11, start : min(start + length, 550)] = 60
            start += length + 8
    return Image.fromarray(pixels)


def changed(image: Image.Image) -> Iterator[tuple[str, HighResImage]]:
    """The same picture in other files."""
    wide, high = image.size
    for quality in (30, 60, 95):
        yield f"quality {quality}", encode(image, quality=quality)
    yield "PNG", encode(image, "PNG")
    yield "WEBP", encode(image, "WEBP", 60)
    yield "grey", encode(image.convert("L"))
    yield "quarter", encode(image.resize((wide // 4, high // 4), Image.Resampling.LANCZOS))
    yield "lighter", encode(ImageEnhance.Brightness(image).enhance(1.3))
    yield "darker", encode(ImageEnhance.Brightness(image).enhance(0.7))
    for share in (0.01, 0.02):
        cut = round(wide * share), round(high * share)
        yield f"{share} off the left", encode(image.crop((cut[0], 0, wide, high)))
        yield f"{share} off the top", encode(image.crop((0, cut[1], wide, high)))
    yield "0.01 off all edges", encode(image.crop((wide // 100, high // 100, wide - wide // 100, high - high // 100)))


def originals() -> list[Image.Image]:
    scenes = [make_scene(NeedleConfig(), np.random.default_rng(index)).image for index in range(6)]
    return [*(photograph(seed) for seed in range(6)), *(page(seed) for seed in range(6)), *scenes]


def test_the_same_picture_in_another_file_is_found(make_sample: MakeSample) -> None:
    base = make_sample("k")
    for number, image in enumerate(originals()):
        known = NearDuplicates([ImageHash.of(encode(image))])
        for name, copy in changed(image):
            assert not known.keeps(replace(base, image=copy)), (number, name)


def test_different_pictures_are_kept_and_so_is_what_is_not_claimed(make_sample: MakeSample) -> None:
    base = make_sample("k")
    images = originals()
    hashes = [ImageHash.of(encode(image)) for image in images]
    for number, image in enumerate(images):
        others = NearDuplicates(hashes[:number] + hashes[number + 1 :])
        assert others.keeps(replace(base, image=encode(image, quality=60))), number
    wide, high = images[0].size
    own = NearDuplicates(hashes[:1])
    for part in (images[0].crop((0, 0, wide // 2, high)), images[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)):
        assert own.keeps(replace(base, image=encode(part)))


def test_flat_pictures_match_by_their_bytes_alone(make_sample: MakeSample) -> None:
    white, grey = (encode(Image.new("RGB", (300, 200), colour)) for colour in ("white", "grey"))
    assert ImageHash.of(white).bits is None
    known = NearDuplicates([ImageHash.of(white)])
    base = make_sample("k")
    assert not known.keeps(replace(base, image=white))
    assert known.keeps(replace(base, image=grey))
    assert known.keeps(replace(base, image=encode(Image.new("RGB", (300, 200), "white"), quality=50)))


def test_the_nearest_of_many_is_found() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (3000, 32), dtype=np.uint8)
    hashes = [ImageHash(bytes([number % 256, number // 256]), row.tobytes()) for number, row in enumerate(rows)]
    known = NearDuplicates(hashes)
    probe = rows[1234].copy()
    probe[3] ^= 0b101
    probe[30] ^= 0b1
    assert known.nearest(ImageHash(b"", probe.tobytes())) == 3
    assert NearDuplicates([]).nearest(hashes[0]) == 255


@pytest.mark.parametrize("distance", [-1, 127])
def test_a_distance_that_means_nothing_is_refused(distance: int) -> None:
    with pytest.raises(ValueError, match="0 to 126 bits"):
        NearDuplicates([], distance)


def test_the_distance_decides(make_sample: MakeSample) -> None:
    image = photograph(0)
    copy = encode(image.crop((13, 0, 640, 480)))
    distance = NearDuplicates([ImageHash.of(encode(image))]).nearest(ImageHash.of(copy))
    assert 0 < distance <= DISTANCE
    sample = replace(make_sample("k"), image=copy)
    assert not NearDuplicates([ImageHash.of(encode(image))], distance).keeps(sample)
    assert NearDuplicates([ImageHash.of(encode(image))], distance - 1).keeps(sample)


@pytest.mark.parametrize(("size", "kept"), [((28, 90), True), ((27, 90), False), ((90, 27), False)])
def test_small_images_go(make_sample: MakeSample, size: tuple[int, int], kept: bool) -> None:
    assert SmallImages().keeps(make_sample("k", size=size)) is kept
    assert SmallImages(1).keeps(make_sample("k", size=size))


MATCHABLE = (
    "3", "1,234,567.5", "-5", "5%", "$5.50", "3/4", "12:30", "10-12", "2020 - 2021", "555-0100", "B", "Yes", "C++",
    "A+", "H2O", "R&D", "New York, USA", "2400 Bridgeport Way West", "red and white", "AT&T", "a_b", "100 + VAT",
)  # fmt: skip
HARD = (
    "\\boxed{3}", "\\boxed{3}, \\boxed{4}", "\\frac{1}{2}", "$x$", "x = 3", "x^2", "2x + 1", "x - 1", "4 + 5", "3 * y",
    "3, 5", "3 and 5", "5 or 6", "(1, 2)", "[10, 20, 30, 40]", "The dog is sitting on the red chair.",
    "\N{CJK UNIFIED IDEOGRAPH-53F3}" * 7,
)  # fmt: skip


@pytest.mark.parametrize("answer", MATCHABLE)
def test_answers_that_rules_match_stay(make_sample: MakeSample, answer: str) -> None:
    assert Unanswerable().keeps(make_sample("k", answer=answer))
    assert match_answer(f"The answer is {answer}", answer, ())


@pytest.mark.parametrize("answer", HARD)
def test_answers_that_rules_hardly_match_go(make_sample: MakeSample, answer: str) -> None:
    sample = make_sample("k", answer=answer)
    assert not Unanswerable().keeps(sample)
    assert answer_fault(sample)
    assert Unanswerable().keeps(make_sample("k", answer=answer, options=(answer, "no")))


def test_the_number_of_words_decides(make_sample: MakeSample) -> None:
    sample = make_sample("k", answer="on the 2nd shelf, it's there")
    assert Unanswerable(6).keeps(sample)
    assert not Unanswerable(5).keeps(sample)


def boxed(make_sample: MakeSample, *chains: tuple[Box, ...]) -> Sample:
    return make_sample("k", size=(400, 400), evidence=chains)


def test_boxes_that_are_no_region_to_look_at_go(make_sample: MakeSample) -> None:
    sane = (Box(10, 10, 40, 40), Box(5, 5, 300, 300))
    assert BoxSanity().keeps(make_sample("k"))
    assert BoxSanity().keeps(boxed(make_sample, sane))
    for chain in (
        (Box(10, 10, 11, 11), Box(5, 5, 60, 60)),  # 1 of 160,000 pixels
        (Box(0, 0, 400, 201),),
        (Box(10, 10, 40, 40), Box(0, 0, 400, 400)),
    ):
        assert not BoxSanity().keeps(boxed(make_sample, sane, chain)), chain
    assert BoxSanity(min_area_share=1e-6).keeps(boxed(make_sample, (Box(10, 10, 11, 11),)))
    assert BoxSanity(max_area_share=0.6).keeps(boxed(make_sample, (Box(0, 0, 400, 201),)))


@pytest.mark.parametrize(
    "wrong",
    [lambda: SmallImages(0), lambda: Unanswerable(0), lambda: BoxSanity(0.5, 0.5), lambda: BoxSanity(-0.1, 0.5)],
)
def test_settings_that_mean_nothing_are_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="give"):
        wrong()


def test_the_first_step_that_drops_a_sample_counts_it(make_sample: MakeSample) -> None:
    chain = FilterChain([SmallImages(), Unanswerable(), BoxSanity()])
    steps = [
        chain.dropping_step(make_sample("both", size=(20, 20), answer="x = 3")),
        chain.dropping_step(make_sample("hard", answer="x = 3")),
        chain.dropping_step(make_sample("good")),
    ]
    assert steps == ["small image", "unanswerable", None]
    assert chain.kept == 1
    assert list(chain.dropped.items()) == [("small image", 1), ("unanswerable", 1), ("box sanity", 0)]
    with pytest.raises(ValueError, match="share a name"):
        FilterChain([SmallImages(1), SmallImages(2)])


def test_a_corrupt_image_is_counted_by_the_step_that_decodes_it(make_sample: MakeSample) -> None:
    png = make_sample("k", kind="PNG", size=(90, 90))
    data = png.image.data
    spoilt = replace(png, image=HighResImage(data[:-600] + bytes(500) + data[-100:]))
    chain = FilterChain([SmallImages(), NearDuplicates([])])
    assert chain.dropping_step(spoilt) == UNREADABLE
    assert chain.dropped[UNREADABLE] == 1
