"""What is asked: the image and the question as a sample, and the paths of what is written, checked before any work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from infogap.data.images import HighResImage
from infogap.data.sample import Sample

UNKNOWN: Final = "unknown"
"""In the place of a right answer that nobody has given; an episode never sees it."""


class AskError(ValueError):
    """A question that cannot be asked, or a path that cannot be written; the message says what to do."""


def read_sample(path: Path, question: str, options: Sequence[str], expected: str | None) -> Sample:
    """The image and the question, as training has them.

    Args:
        path: a JPEG, PNG or WEBP file; see `HighResImage` for its limits.
        question: the question.
        options: texts of the options; their letters A, B, ... follow from the order.
        expected: the right answer, with options the text or letter of one; None if nobody knows it.

    Raises:
        ValueError: if the image cannot be read or decoded, or the question cannot be asked.
    """
    if not question.strip():
        raise AskError("The question is empty: write it after the image.")
    if len(options) == 1:
        raise AskError(f"--options has one option, {options[0]!r}: give at least two, or leave it out.")
    if expected is not None and options and expected not in (*options, *_letters(len(options))):
        raise AskError(f"--answer {expected!r} is none of the options: give the text or the letter of one.")
    image = read_image(path)
    answer = expected if expected is not None else options[0] if options else UNKNOWN
    return Sample(path.name, image, question, answer, tuple(options))


def read_image(path: Path) -> HighResImage:
    """An image whose pixels can be decoded: better known now than when a large policy is loaded.

    Raises:
        ValueError: if there is none, or it is damaged or too large.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise AskError(
            f"The image {str(path)!r} cannot be read ({error.strerror}): give the path of a JPEG, PNG or WEBP file."
        ) from error
    image = HighResImage(data, str(path))
    image.view(1, 1)
    return image


def check_output(flag: str, path: Path, image: Path) -> None:
    """See that a file can be written, and is not the image.

    Args:
        flag: the flag that names it.
        path: the file.
        image: the image that is asked about.

    Raises:
        AskError: if not.
    """
    folder = path.parent
    if path.exists() and image.exists() and path.samefile(image):
        raise AskError(f"{flag} {str(path)!r} is the image itself: give another path.")
    if path.is_dir():
        raise AskError(f"{flag} {str(path)!r} is a folder: give the path of a file in it.")
    if not folder.is_dir():
        raise AskError(f"{flag} {str(path)!r} is in a folder that does not exist: make {str(folder)!r}.")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise AskError(f"{flag} {str(path)!r} cannot be written: give a path in a folder of your own.")


def write(path: Path, data: bytes) -> None:
    """Write a file.

    Raises:
        AskError: if that fails, as on a disk that is full.
    """
    try:
        path.write_bytes(data)
    except OSError as error:
        raise AskError(f"{str(path)!r} cannot be written ({error.strerror}): give another path.") from error


def _letters(count: int) -> Sequence[str]:
    return [chr(ord("A") + number) for number in range(min(count, 26))]
