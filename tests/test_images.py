"""Images that stay compressed."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from infogap.data.images import TRANSPOSITIONS, HighResImage, ImageError
from infogap.geometry import Box, Frame, FramedBox, Size, fit_to_budget

RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
WHITE = (255, 255, 255)
UNEVEN = Size(1000, 610)  # its views have different scales along the two axes


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def quarters(size: Size) -> Image.Image:
    """Red upper left, green upper right, blue lower left, yellow lower right."""
    image = Image.new("RGB", size, RED)
    draw = ImageDraw.Draw(image)
    middle_x, middle_y = size.width // 2, size.height // 2
    draw.rectangle((middle_x, 0, size.width, middle_y - 1), fill=GREEN)
    draw.rectangle((0, middle_y, middle_x - 1, size.height), fill=BLUE)
    draw.rectangle((middle_x, middle_y, size.width, size.height), fill=YELLOW)
    return image


def corner_colours(image: Image.Image) -> list[tuple[int, ...]]:
    """Colours near the four corners, rounded to full or none: JPEG changes them a little."""
    xs, ys = (image.width // 8, image.width * 7 // 8), (image.height // 8, image.height * 7 // 8)
    pixels = [image.getpixel((x, y)) for y in ys for x in xs]
    return [tuple(round(value / 255) * 255 for value in pixel) for pixel in pixels if isinstance(pixel, tuple)]


def counted_colours(image: Image.Image) -> dict[Any, int]:
    """How many pixels have each colour."""
    return {colour: count for count, colour in image.getcolors(image.width * image.height) or ()}


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds no pixels."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b""))
    written = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def jpeg_header(width: int, height: int) -> bytes:
    """A JPEG that declares a size and holds no pixels."""
    frame = struct.pack(">BHHB", 8, height, width, 3) + bytes((1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0))
    scan = bytes((3, 1, 0, 2, 0, 3, 0, 0, 63, 0))
    segments = ((0xC0, frame), (0xDA, scan))
    return b"\xff\xd8" + b"".join(struct.pack(">BBH", 0xFF, kind, len(body) + 2) + body for kind, body in segments)


def webp_header(width: int, height: int) -> bytes:
    """A WEBP that declares a size and holds no pixels."""
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4)
    body += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Size at which every JPEG is decoded, in order."""
    sizes: list[tuple[int, int]] = []
    load = JpegImageFile.load

    def spy(self: JpegImageFile) -> Any:
        if self.tile:  # what is loaded has none left
            sizes.append(self.size)
        return load(self)

    monkeypatch.setattr(JpegImageFile, "load", spy)
    return sizes


class TestHeader:
    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
    def test_size_without_decoding(self, monkeypatch: pytest.MonkeyPatch, format: str) -> None:
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
        image = HighResImage(encode(quarters(Size(90, 50)), format), "scene")
        assert image.size == Size(90, 50)
        assert isinstance(image.size, Size)
        assert repr(image) == f"HighResImage('scene', {len(image.data)} bytes)"

    @pytest.mark.parametrize(
        "data",
        [png_header(25_000, 20_000), jpeg_header(25_000, 20_000), webp_header(25_000, 20_000)],
        ids=["PNG", "JPEG", "WEBP"],
    )
    def test_half_a_gigapixel_is_refused_at_once(self, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
        start = time.perf_counter()
        with pytest.raises(ImageError, match="The image huge of 25000x20000 pixels has more than the 200000000 "):
            HighResImage(data, "huge")
        assert time.perf_counter() - start < 0.5  # milliseconds, on a machine that is not busy

    @pytest.mark.parametrize("make", [png_header, jpeg_header])
    def test_our_limit_replaces_pillows(self, make: Callable[[int, int], bytes]) -> None:
        """Pillow warns from 89 million pixels, an error here, and refuses from 179 million."""
        assert HighResImage(make(20_000, 10_000)).size == Size(20_000, 10_000)

    @pytest.mark.parametrize("options", [{"lossless": True}, {}, {"exif": bytes(8)}], ids=["VP8L", "VP8", "VP8X"])
    def test_limit_is_exact(self, options: dict[str, Any]) -> None:
        for data in (encode(quarters(Size(70, 90)), "WEBP", **options), encode(quarters(Size(70, 90)))):
            assert HighResImage(data, max_pixels=6300).size == Size(70, 90)
            with pytest.raises(ImageError, match="of 70x90 pixels has more than the 6299 allowed"):
                HighResImage(data, max_pixels=6299)

    def test_webp_is_measured_before_it_is_opened(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("infogap.data.images.HighResImage._open", lambda self: pytest.fail("opened"))
        for options in ({"lossless": True}, {}, {"exif": bytes(8)}):
            with pytest.raises(ImageError, match="of 70x90 pixels has more than"):
                HighResImage(encode(quarters(Size(70, 90)), "WEBP", **options), max_pixels=6299)

    @pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "PPM"])
    def test_other_formats(self, format: str) -> None:
        with pytest.raises(ImageError, match="The image scene is not a JPEG, PNG or WEBP file"):
            HighResImage(encode(quarters(Size(28, 28)), format), "scene")

    @pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF0000WEBP", b"RIFF", b"hello"])
    def test_no_image(self, data: bytes) -> None:
        with pytest.raises(ImageError, match="image scene"):
            HighResImage(data, "scene")

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
    def test_truncated(self, format: str) -> None:
        noise = Image.effect_noise((200, 100), 100).convert("RGB")
        data = encode(noise, format)
        for share in (0.005, 0.5):
            with pytest.raises(ImageError, match="image scene"):
                HighResImage(data[: int(len(data) * share)], "scene").view(64)
            with pytest.raises(ImageError, match="image scene"):
                HighResImage(data[: int(len(data) * share)], "scene").crop(Box(0, 0, 9, 9), 64)

    @given(
        format=st.sampled_from(["JPEG", "PNG", "WEBP"]),
        changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=20),
    )
    @pytest.mark.filterwarnings("ignore")  # Pillow warns of some faults and goes on
    def test_corrupt_bytes_raise_nothing_but_an_image_error(
        self, format: str, changes: list[tuple[float, int]]
    ) -> None:
        data = bytearray(encode(quarters(Size(60, 40)), format, exif=Image.Exif()))
        for place, value in changes:
            data[int(place * len(data))] = value
        with contextlib.suppress(ImageError):
            image = HighResImage(bytes(data), "scene", max_pixels=1_000_000)
            assert image.view(16).size == image.view_size(16)


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
    def test_view_and_crop_are_upright(self, format: str, orientation: int) -> None:
        shown = quarters(Size(600, 300))
        inverse = {Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270}
        inverse |= {turned: turn for turn, turned in inverse.items()}
        method = TRANSPOSITIONS.get(orientation)
        stored = shown if method is None else shown.transpose(inverse.get(method, method))
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = HighResImage(encode(stored, format, exif=exif))
        assert image.size == Size(600, 300)
        for result in (image.view(16), image.crop(Box.whole(image.size), 16), image.view(None)):
            assert result.width > result.height
            assert corner_colours(result) == [RED, GREEN, BLUE, YELLOW]
            assert 0x0112 not in result.getexif()  # or the next reader would turn it again
        assert corner_colours(image.crop(Box(310, 10, 590, 140), 16)) == [GREEN] * 4

    def test_a_rotated_jpeg_is_drafted_too(self, decodes: list[tuple[int, int]]) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        image = HighResImage(encode(quarters(Size(1024, 2048)), "JPEG", exif=exif))
        assert image.size == Size(2048, 1024)
        assert image.view(40).size == (224, 112)
        assert decodes == [(128, 256)]

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
    def test_broken_exif_is_ignored(self) -> None:
        for exif in (b"Exif\0\0broken", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x01A\0\0\0"):
            image = HighResImage(encode(quarters(Size(80, 60)), "JPEG", exif=exif))
            assert image.size == Size(80, 60)


class TestView:
    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
    @pytest.mark.parametrize("max_tokens", [4, 17, 64, 500, 16_384])
    def test_size_and_content(self, format: str, max_tokens: int) -> None:
        image = HighResImage(encode(quarters(UNEVEN), format))
        view = image.view(max_tokens)
        assert view.size == fit_to_budget(UNEVEN, max_tokens) == image.view_size(max_tokens)
        assert view.mode == "RGB"
        assert corner_colours(view) == [RED, GREEN, BLUE, YELLOW]

    @pytest.mark.parametrize(
        ("size", "min_tokens", "expected"),
        [
            (Size(1000, 610), 4, Size(980, 588)),
            (Size(280, 140), 4, Size(280, 140)),
            (Size(55, 139), 4, Size(28, 112)),
            (Size(30, 30), 4, Size(56, 56)),  # below the fewest tokens
            (Size(30, 30), 1, Size(28, 28)),
            (Size(10, 300), 4, Size(28, 280)),
        ],
    )
    def test_without_a_budget(self, size: Size, min_tokens: int, expected: Size) -> None:
        assert HighResImage(encode(quarters(size))).view(None, min_tokens).size == expected

    @pytest.mark.parametrize(
        ("size", "max_tokens", "decoded"),
        [
            (Size(2240, 1120), 4, (280, 140)),  # never below 1/8
            (Size(2240, 1120), 50, (280, 140)),  # the view is 280x140, exactly 1/8
            (Size(2240, 1120), 72, (560, 280)),  # 336x168 is more than 1/8
            (Size(2240, 1120), 800, (1120, 560)),
            (Size(2240, 1120), 801, (1120, 560)),
            (Size(2240, 1120), 1000, (2240, 1120)),
            (Size(100, 50), 64, (100, 50)),
        ],
    )
    def test_a_jpeg_is_decoded_at_a_reduced_scale(
        self, decodes: list[tuple[int, int]], size: Size, max_tokens: int, decoded: tuple[int, int]
    ) -> None:
        view = HighResImage(encode(quarters(size), "JPEG")).view(max_tokens)
        assert decodes == [decoded]
        assert view.size == fit_to_budget(size, max_tokens)

    def test_a_reduced_scale_moves_nothing(self) -> None:
        """Scaled sides are rounded up to whole pixels: without the true extent the view would be stretched."""
        size = Size(1001, 609)  # an eighth is 125.125 by 76.125 pixels, decoded as 126 by 77
        stripes = Image.new("L", size)
        for x in range(0, size.width, 91):
            stripes.paste(255, (x, 0, x + 45, size.height))
        drafted = HighResImage(encode(stripes, "JPEG", quality=100)).view(8).convert("L")
        full = HighResImage(encode(stripes)).view(8).convert("L")
        differences = [abs(a - b) for a, b in zip(drafted.tobytes(), full.tobytes(), strict=True)]
        assert sum(differences) / len(differences) < 4

    def test_does_not_depend_on_earlier_calls(self) -> None:
        image = HighResImage(encode(quarters(Size(900, 400)), "JPEG"))
        before = image.view(12).tobytes()
        image.crop(Box(0, 0, 100, 100), 16)
        assert image.view(12).tobytes() == before


class TestCrop:
    def test_pixels_are_those_of_the_original(self) -> None:
        noise = Image.effect_noise((300, 200), 100).convert("RGB")
        crop = HighResImage(encode(noise)).crop(Box(20, 30, 104, 86), 64)
        assert crop.tobytes() == noise.crop((20, 30, 104, 86)).tobytes()

    def test_a_box_in_view_pixels_is_mapped_per_axis(self) -> None:
        """The square of one view pixel grid is no square in the original: one scale for both axes cuts elsewhere."""
        original = Image.new("RGB", UNEVEN, WHITE)
        view_size = fit_to_budget(UNEVEN, 64)  # 280x168: scales 3.571 and 3.631
        evidence = FramedBox(28, 140, 56, 168, Frame.VIEW_PIXELS).to_original(view_size, UNEVEN)
        assert (round(evidence.y1), round(evidence.y2)) == (508, 610)
        original.paste(RED, (100, 509, 200, 610))
        image = HighResImage(encode(original))
        assert image.view(64).size == view_size
        assert set(counted_colours(image.crop(Box(100, 509, 200, 610), 64))) == {RED}
        cut = image.crop(evidence, 64)
        assert counted_colours(cut)[RED] > 0.97 * cut.width * cut.height

    def test_whole_pixels_are_clamped(self) -> None:
        original = Image.new("RGB", (100, 80), WHITE)
        original.paste(RED, (10, 20, 13, 22))
        image = HighResImage(encode(original))
        assert set(counted_colours(image.crop(Box(10.0, 20.0, 13.0, 22.0), 1, 1))) == {RED}
        assert set(counted_colours(image.crop(Box(10.9, 20.9, 12.1, 21.1), 1, 1))) == {RED}  # floor and ceil
        assert len(set(counted_colours(image.crop(Box(9.9, 20.0, 13.0, 22.0), 16)))) > 1
        assert image.crop_size(Box(-500, -500, 70.5, 14), 64, 1) == Size(84, 28)  # 71x14 pixels
        assert image.crop_size(Box(72.5, 66, 900, 900), 64, 1) == Size(28, 28)  # 28x14 pixels

    @pytest.mark.parametrize("box", [Box(100, 0, 110, 10), Box(-9, 0, 0, 10), Box(0, 80, 10, 90)])
    def test_outside(self, box: Box) -> None:
        with pytest.raises(ValueError, match="lies outside the image of 100x80 pixels"):
            HighResImage(encode(quarters(Size(100, 80)))).crop(box, 64)

    def test_sees_nothing_beyond_the_box(self) -> None:
        original = Image.new("RGB", (100, 100), WHITE)
        original.paste(RED, (40, 40, 60, 60))
        crop = HighResImage(encode(original)).crop(Box(40, 40, 60, 60), 16, 16)
        assert crop.size == (112, 112)
        assert set(counted_colours(crop)) == {RED}

    @given(
        corners=st.tuples(st.floats(0, 89), st.floats(0, 49), st.floats(0.5, 90), st.floats(0.5, 50)),
        max_tokens=st.integers(4, 40),
    )
    def test_size_is_known_beforehand(self, corners: tuple[float, float, float, float], max_tokens: int) -> None:
        image = HighResImage(QUARTERS)
        x, y, width, height = corners
        box = Box(x, y, x + width, y + height)
        assert image.crop(box, max_tokens).size == image.crop_size(box, max_tokens)

    def test_decodes_once_until_release(self, decodes: list[tuple[int, int]]) -> None:
        image = HighResImage(encode(quarters(Size(640, 320)), "JPEG"))
        image.crop(Box(0, 0, 100, 100), 16)
        image.crop(Box(50, 0, 100, 100), 16)
        assert decodes == [(640, 320)]
        image.release()
        image.release()
        assert corner_colours(image.crop(Box.whole(image.size), 16)) == [RED, GREEN, BLUE, YELLOW]
        assert decodes == [(640, 320)] * 2

    def test_pickle_carries_only_the_bytes(self, decodes: list[tuple[int, int]]) -> None:
        data = encode(quarters(Size(640, 320)), "JPEG")
        image = HighResImage(data, "scene")
        image.crop(Box(0, 0, 100, 100), 16)
        pickled = pickle.dumps(image)
        assert len(pickled) < len(data) + 1000
        copy = pickle.loads(pickled)
        assert (copy.data, copy.name, copy.size) == (data, "scene", image.size)
        assert copy.crop(Box(0, 0, 99, 99), 16).tobytes() == image.crop(Box(0, 0, 99, 99), 16).tobytes()
        assert decodes == [(640, 320)] * 2  # the copy had to decode; the image had not forgotten


QUARTERS = encode(quarters(Size(90, 50)))


class TestModes:
    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1", "LA", "I;16"])
    def test_every_mode_becomes_rgb(self, mode: str) -> None:
        image = HighResImage(encode(quarters(Size(84, 84)).convert("L").convert(mode)))
        for result in (image.view(9), image.crop(Box(0, 0, 84, 84), 9)):
            assert result.mode == "RGB"
            assert result.size == (84, 84)

    def colour_of(self, data: bytes) -> Any:
        image = HighResImage(data)
        colours = {image.view(4).getpixel((20, 20)), image.crop(Box(0, 0, 56, 56), 4).getpixel((20, 20))}
        assert len(colours) == 1
        return colours.pop()

    def test_alpha_is_composited_on_white(self) -> None:
        assert self.colour_of(encode(Image.new("RGBA", (56, 56), (255, 0, 0, 0)))) == WHITE
        assert self.colour_of(encode(Image.new("RGBA", (56, 56), (255, 0, 0, 51)))) == (255, 204, 204)
        assert self.colour_of(encode(Image.new("RGBA", (56, 56), (9, 8, 7, 255)))) == (9, 8, 7)
        assert self.colour_of(encode(Image.new("LA", (56, 56), (0, 51)))) == (204, 204, 204)
        assert self.colour_of(encode(Image.new("RGBA", (56, 56), (0, 0, 0, 0)), "WEBP", lossless=True)) == WHITE

    def test_transparent_colours(self) -> None:
        palette = Image.new("P", (56, 56), 1)
        palette.putpalette([0, 0, 0, 10, 20, 30])
        assert self.colour_of(encode(palette)) == (10, 20, 30)
        assert self.colour_of(encode(palette, transparency=1)) == WHITE
        assert self.colour_of(encode(Image.new("RGB", (56, 56), RED), transparency=RED)) == WHITE
        assert self.colour_of(encode(Image.new("RGB", (56, 56), RED), transparency=BLUE)) == RED

    def test_sixteen_bits_are_scaled_not_cut(self) -> None:
        assert self.colour_of(encode(Image.new("I;16", (56, 56), 65_535))) == WHITE
        assert self.colour_of(encode(Image.new("I;16", (56, 56), 0x80FF))) == (128, 128, 128)

    def test_cmyk(self) -> None:
        red, green, blue = self.colour_of(encode(Image.new("CMYK", (56, 56), (0, 255, 255, 0)), "JPEG"))
        assert red > 240
        assert max(green, blue) < 15
