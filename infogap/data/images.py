"""Images at full resolution that stay compressed until someone looks closely.

A sample's original can have a hundred million pixels, and most of its uses need few of them. `HighResImage` keeps the
bytes of the file, knows its size from the header, decodes at a reduced scale for the view, and decodes everything only
when a crop is cut.
"""

from __future__ import annotations

import io
import math
import struct
from typing import Any

import numpy as np
from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from infogap.geometry import TOKEN_SIDE, Box, Size, fit_to_budget, visual_tokens

ORIENTATION_TAG = 0x0112
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns stored pixels into shown ones, by the value of the EXIF orientation tag."""

_SWAPPING = frozenset(TRANSPOSITIONS[value] for value in (5, 6, 7, 8))

REDUCING_GAP = 3.0
"""Pixels are averaged in blocks while that leaves 3 times the wanted size: Pillow's documentation calls the result
indistinguishable from full resampling."""


class ImageError(ValueError):
    """An image that cannot be used; the message names it."""


class HighResImage:
    """A JPEG, PNG or WEBP file in memory, decoded as little and as late as possible.

    Of an animation the first frame counts. An orientation tag that stands after the pixels of a PNG is not seen.
    Pickling carries the bytes and never the decoded pixels.

    Args:
        data: bytes of the file.
        name: what messages call the image.
        max_pixels: the most pixels an image may have; checked from the header, so that a small file that unpacks to a
            huge image costs nothing. Default: 200 million, six times an 8K image. For WEBP, Pillow's own limit of 179
            million holds as well.

    Attributes:
        data: bytes of the file.
        name: what messages call the image.
        size: size of the image as shown, after the EXIF orientation.

    Raises:
        ImageError: if the header cannot be read, the format is another one, or there are too many pixels.
    """

    def __init__(self, data: bytes, name: str = "image", max_pixels: int = 200_000_000) -> None:
        self.data = data
        self.name = name
        if _plugin(data) is WebPImageFile:  # Pillow allocates a WEBP's canvas as it opens it
            self._check_pixels(_webp_size(data), max_pixels)
        image = self._open()
        self._check_pixels(Size(*image.size), max_pixels)
        self._transposition = _transposition(image)
        self.size = self._shown(Size(*image.size))
        self._original: np.ndarray | None = None

    def __repr__(self) -> str:
        """Name and size of the file."""
        return f"HighResImage({self.name!r}, {len(self.data)} bytes)"

    def __getstate__(self) -> dict[str, Any]:
        """State for pickling and copying: without the decoded original."""
        return {**self.__dict__, "_original": None}

    def view_size(self, max_tokens: int | None, min_tokens: int = 4) -> Size:
        """Size of `view` for the same arguments, computed without decoding."""
        if max_tokens is not None:
            return fit_to_budget(self.size, max_tokens, min_tokens)
        whole_tokens = Size(*(max(side // TOKEN_SIDE, 1) * TOKEN_SIDE for side in self.size))
        return fit_to_budget(whole_tokens, max(visual_tokens(whole_tokens), min_tokens), min_tokens)

    def view(self, max_tokens: int | None, min_tokens: int = 4) -> Image.Image:
        """The whole image, scaled to a budget of visual tokens.

        A JPEG is decoded at the smallest of the scales 1, 1/2, 1/4, 1/8 that is not below the view, which is several
        times faster than decoding all of it. The result does not depend on what was called before.

        Args:
            max_tokens: the most visual tokens; None: as many as the image has, its sides rounded down to whole tokens.
            min_tokens: the fewest visual tokens; a smaller image is scaled up. Default: see `fit_to_budget`.

        Returns:
            An RGB image of size `view_size(max_tokens, min_tokens)`.

        Raises:
            ImageError: if the data is corrupt or truncated.
        """
        target = self._shown(self.view_size(max_tokens, min_tokens))  # in stored orientation: the swap undoes itself
        image = self._open()
        drafted = image.draft("RGB", target)
        extent = drafted[1] if drafted else None  # the drafted image is padded to whole pixels: its true extent
        self._load(image)
        return self._transposed(_scaled_view(_to_rgb(image), target, extent))

    def crop_size(self, box: Box, max_tokens: int, min_tokens: int = 4) -> Size:
        """Size of `crop` for the same arguments, computed without decoding.

        Args:
            box: the region, in pixels of the original.
            max_tokens: most visual tokens of the crop.
            min_tokens: fewest. Default 4, as in `crop`.
        """
        left, top, right, bottom = self._whole_pixels(box)
        return fit_to_budget(Size(right - left, bottom - top), max_tokens, min_tokens)

    def crop(self, box: Box, max_tokens: int, min_tokens: int = 4) -> Image.Image:
        """A region cut from the original, at full resolution where the budget allows it.

        The first call decodes the original; it is kept for the next calls until `release`.

        Args:
            box: region in pixels of the original, widened to whole pixels and clamped to the image.
            max_tokens: the most visual tokens of the crop.
            min_tokens: the fewest visual tokens of the crop; a smaller one is scaled up. Default: see `fit_to_budget`.

        Returns:
            An RGB image of size `crop_size(box, max_tokens, min_tokens)`.

        Raises:
            ValueError: if nothing of the box lies inside the image.
            ImageError: if the data is corrupt or truncated.
        """
        target = self.crop_size(box, max_tokens, min_tokens)
        left, top, right, bottom = self._whole_pixels(box)
        # cut first: resampling must not see what lies outside
        return _scaled(self.decode()[top:bottom, left:right].copy(), target)

    def decode(self) -> np.ndarray:
        """The original in RGB, kept until `release`: to be called ahead of crops that are sure to come.

        Returns:
            Its pixels, (height, width, 3), unsigned bytes, not to be written to.

        Raises:
            ImageError: if the data is corrupt or truncated.
        """
        if self._original is None:
            image = self._open()
            self._load(image)
            self._original = np.asarray(self._transposed(_to_rgb(image)))
        return self._original

    def release(self) -> None:
        """Drop the decoded original; the next crop decodes it again."""
        self._original = None

    def _open(self) -> ImageFile.ImageFile:
        """Read the header.

        The plugins are called directly, not through `Image.open`: that compares the pixels to a limit of its own,
        which is one global for the whole process, warns from half of ours and fails below ours.
        """
        plugin = _plugin(self.data)
        if plugin is None:
            msg = f"The image {self.name} is not a JPEG, PNG or WEBP file: it begins with {self.data[:8]!r}."
            raise ImageError(msg)
        try:
            return plugin(io.BytesIO(self.data))
        except Exception as error:  # Pillow lets errors of many kinds through when the data is corrupt
            msg = f"The header of the image {self.name} cannot be read: {_reason(error)}."
            raise ImageError(msg) from error

    def _load(self, image: ImageFile.ImageFile) -> None:
        """Decode an opened image in place."""
        try:
            image.load()
        except Exception as error:  # as in `_open`
            msg = f"The image {self.name} is corrupt or truncated ({_reason(error)}): write or copy it again."
            raise ImageError(msg) from error

    def _check_pixels(self, size: Size, max_pixels: int) -> None:
        if size.width * size.height > max_pixels:
            msg = (
                f"The image {self.name} of {size.width}x{size.height} pixels has more than the {max_pixels} allowed: "
                "scale it down."
            )
            raise ImageError(msg)

    def _shown(self, size: Size) -> Size:
        """Stored size to shown size, and back."""
        return Size(size.height, size.width) if self._transposition in _SWAPPING else size

    def _transposed(self, image: Image.Image) -> Image.Image:
        """Stored pixels to shown pixels."""
        return image if self._transposition is None else image.transpose(self._transposition)

    def _whole_pixels(self, box: Box) -> tuple[int, int, int, int]:
        """The whole pixels that a box touches."""
        inside = box.clamp(self.size)
        return math.floor(inside.x1), math.floor(inside.y1), math.ceil(inside.x2), math.ceil(inside.y2)


def _plugin(data: bytes) -> type[ImageFile.ImageFile] | None:
    """Pillow's reader for the format that the first bytes announce."""
    if data.startswith(b"\xff\xd8\xff"):
        return JpegImageFile
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return WebPImageFile
    return None


def _reason(error: Exception) -> str:
    """What an error of Pillow says, or its kind if it says nothing."""
    return str(error).strip(" .") or type(error).__name__


def _webp_size(data: bytes) -> Size:
    """Size that the header of a WEBP file declares (RFC 9649), or 0x0 if it declares none."""
    kind, header = data[12:16], data[20:30].ljust(10, b"\0")
    if kind == b"VP8X":
        return Size(int.from_bytes(header[4:7], "little") + 1, int.from_bytes(header[7:10], "little") + 1)
    if kind == b"VP8L":
        bits = int.from_bytes(header[1:5], "little")
        return Size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", header[6:10])
        return Size(width & 0x3FFF, height & 0x3FFF)
    return Size(0, 0)


def _transposition(image: ImageFile.ImageFile) -> Image.Transpose | None:
    """What the EXIF or XMP orientation of an opened, undecoded image asks for; None if nothing or unreadable."""
    try:
        exif = Image.Image.getexif(image)  # not the PNG reader's own, which decodes the pixels to look behind them
        return TRANSPOSITIONS.get(exif.get(ORIENTATION_TAG, 1))
    except Exception:  # many a camera writes broken EXIF beside good pixels; viewers ignore it too
        return None


def _scaled_view(image: Image.Image, size: Size, extent: tuple[float, float, float, float] | None) -> Image.Image:
    """An image of which an extent is scaled bicubically to a size."""
    far = image.width > REDUCING_GAP * size.width or image.height > REDUCING_GAP * size.height
    if far or extent not in (None, (0.0, 0.0, *image.size)):  # what only Pillow does, or does faster
        return image.resize(size, Image.Resampling.BICUBIC, box=extent, reducing_gap=REDUCING_GAP)
    return _scaled(np.array(image), size)


def _scaled(region: np.ndarray, size: Size) -> Image.Image:
    """Pixels (height, width, 3) scaled bicubically to a size.

    By torch, which needs a third of Pillow's time where it has vector instructions; a value in a few hundred differs
    from Pillow's, by 1 or 2 of 255. torch is imported here: most that is done with images needs none of it.
    """
    if region.shape[:2] == (size.height, size.width):
        return Image.fromarray(region)
    import torch
    from torch.nn.functional import interpolate

    pixels = torch.from_numpy(region).permute(2, 0, 1)[None]  # (1, 3, height, width), channels last in memory
    scaled = interpolate(pixels, (size.height, size.width), mode="bicubic", antialias=True)
    return Image.fromarray(scaled[0].permute(1, 2, 0).contiguous().numpy())


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB image of the same pixels, whatever the mode; transparent parts become white."""
    if image.mode.startswith("I"):  # 16 bits a pixel: keep the upper eight, as Pillow does for 16-bit colour
        rgb = image.convert("I").point(lambda value: value * (1 / 256)).convert("RGB")
    elif image.has_transparency_data:
        coloured = image.convert("RGBA")
        rgb = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert("RGB")
    else:
        rgb = image if image.mode == "RGB" else image.convert("RGB")
    rgb.info = {}  # an orientation tag that travelled along would be applied once more by whoever reads the result
    return rgb
