"""Images as benchmarks hold them: base64, bytes, a file beside the table, or a reference to another row."""

from __future__ import annotations

import base64
import hashlib
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final
from weakref import WeakValueDictionary

from infogap.data.images import HighResImage, ImageError
from infogap.data.tables import Record

LONGEST_REFERENCE: Final = 64
"""A text of up to so many characters in an image column is the index of the row whose image is meant, to save space
(VLMEvalKit, ``vlmeval/dataset/image_base.py``)."""

POOL_BYTES: Final = 1 << 30
"""Default size of a pool. All images of HR-Bench 8K, 4.6 GB as a TSV, fit in: they are 0.8 GB without repetitions and
base64."""


@dataclass(frozen=True)
class Picture:
    """An image and the name of its bytes.

    Attributes:
        image: the image.
        digest: first 16 hex digits of the SHA-256 of its bytes: rows that show one image have one digest.
    """

    image: HighResImage
    digest: str


class ImagePool:
    """Images by their bytes, so that rows that show one image share one `HighResImage`, which is then decoded once.

    An image stays as long as a row that is in use holds it, and beyond that until others need the room, for the rows
    that share it need not be neighbours. It is the compressed bytes that stay; decoded pixels are dropped by
    `HighResImage.release`, which is up to whoever decodes them.

    Args:
        root: folder that paths start from.
        max_bytes: of compressed images that are kept though no row in use holds them.
    """

    def __init__(self, root: Path, max_bytes: int = POOL_BYTES) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self._in_use: WeakValueDictionary[str, HighResImage] = WeakValueDictionary()
        self._recent: OrderedDict[str, HighResImage] = OrderedDict()
        self._recent_bytes = 0
        self._digests: dict[Path | str, str] = {}  # of files, and of rows by their ids

    def load(self, record: Record, column: str) -> Picture:
        """The image of a row.

        Args:
            record: the row.
            column: holds base64, bytes, a path below the root, the id of an earlier row, a struct of bytes and path as
                Hugging Face's datasets write it, or a list with one of these.

        Raises:
            RowError: if it does not, or the image's header cannot be read.
        """
        value = _single(record.value(column), record, column)
        if isinstance(value, dict):
            value = value.get("path") if value.get("bytes") is None else value["bytes"]
        if isinstance(value, bytes):
            return self._from_bytes(value, record, column)
        if not isinstance(value, str) or not value.strip():
            kind = "nothing" if value is None or value == "" else f"a {type(value).__name__}"
            raise record.error(column, f"it holds {kind} where an image is needed, copy the file again")
        value = value.strip()
        if "." in value:  # no sign of base64
            return self._from_path(value, record, column)
        if len(value) <= LONGEST_REFERENCE:
            return self._from_reference(value, record, column)
        try:
            data = base64.b64decode(value, validate=True)
        except ValueError as error:
            raise record.error(column, f"its image is no base64 ({error}), copy the file again") from error
        return self._from_bytes(data, record, column)

    def remember(self, key: str, picture: Picture) -> None:
        """Note the image of a row, so that later rows can refer to it."""
        self._digests[key] = picture.digest

    def share(self, image: HighResImage) -> Picture:
        """The image with these bytes that is in the pool already, or else this one."""
        digest = _digest(image.data)
        known = self._find(digest)
        return Picture(self._keep(digest, image) if known is None else known, digest)

    def _from_bytes(self, data: bytes, record: Record, column: str) -> Picture:
        digest = _digest(data)
        image = self._find(digest)
        if image is None:
            try:
                image = self._keep(digest, HighResImage(data, name=f"of {record.place}"))
            except ImageError as error:
                fault = str(error).rstrip(".")
                raise record.error(column, fault[0].lower() + fault[1:]) from error
        return Picture(image, digest)

    def _from_path(self, path: str, record: Record, column: str) -> Picture:
        if PurePosixPath(path).is_absolute() or os.path.isabs(path) or ".." in Path(path).parts:
            raise record.error(column, f"the path {path!r} leads out of the folder {self.root}, give one below it")
        file = self.root / path
        known = self._find(self._digests.get(file, ""))
        if known is not None:
            return Picture(known, self._digests[file])
        try:
            data = file.read_bytes()
        except OSError as error:
            raise record.error(column, f"the image {file} cannot be read ({error.strerror}), copy it there") from error
        picture = self._from_bytes(data, record, column)
        self._digests[file] = picture.digest
        return picture

    def _from_reference(self, key: str, record: Record, column: str) -> Picture:
        digest = self._digests.get(key)
        if digest is None:
            raise record.error(column, f"it refers to the image of the row {key!r}, which no earlier row holds")
        image = self._find(digest)
        if image is None:
            fault = f"it refers to the image of the row {key!r}, which is too far back, move the two rows together"
            raise record.error(column, fault)
        return Picture(image, digest)

    def _find(self, digest: str) -> HighResImage | None:
        image = self._in_use.get(digest)
        return None if image is None else self._keep(digest, image)

    def _keep(self, digest: str, image: HighResImage) -> HighResImage:
        """Note that an image was used, and let go of those that were not for longest."""
        self._in_use[digest] = image
        if self._recent.pop(digest, None) is None:
            self._recent_bytes += len(image.data)
        self._recent[digest] = image
        while self._recent_bytes > self.max_bytes:
            _, oldest = self._recent.popitem(last=False)
            self._recent_bytes -= len(oldest.data)
        return image


def _single(value: Any, record: Record, column: str) -> Any:
    """The only element of a list, or the value itself."""
    if not isinstance(value, list):
        return value
    if len(value) != 1:
        fault = f"it holds {len(value)} images, but only rows with one image can be asked"
        raise record.error(column, fault)
    return value[0]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
