"""What is asked, the image and the question as a sample, and writing what came of it."""

from __future__ import annotations

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
    if expected is not None and not expected.strip():
        raise AskError("--answer is empty: give the right answer, or leave it out.")
    if not all(option.strip() for option in options):
        raise AskError("--options has an empty text: give one for every option.")
    if len(options) == 1:
        raise AskError(f"--options has one option, {options[0]!r}: give at least two, or leave it out.")
    if expected is not None and options and expected not in (*options, *_letters(len(options))):
        raise AskError(f"--answer {expected!r} is none of the options: give the text or the letter of one.")
    image = read_image(path)
    answer = expected if expected is not None else options[0] if options else UNKNOWN
    name = path.name.encode(errors="backslashreplace").decode()  # a name of a file need not be text
    return Sample(name, image, question, answer, tuple(options))


def read_image(path: Path) -> HighResImage:
    """An image whose pixels can be decoded: better known now than when a large policy is loaded.

    Raises:
        AskError: if there is none.
        ImageError: if it is damaged or too large.
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
