"""Images beside the tables of a data set: files below a folder, and members of zip files, one at a time.

What names an image comes from the data, so that no path leads out of the folder, and sizes are looked at before
anything is read.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import TracebackType
from typing import Any, Final, Self

from infogap.data.convert.faults import DropError, DropReason
from infogap.data.tables import TableError

MAX_IMAGE_BYTES: Final = 512 << 20
"""Most bytes of one image. One of 200 million pixels, the most that is trained on, has 600 MB before it is packed as
JPEG or PNG; a file, or a member of a zip file, that has so many afterwards is a mistake or an attack."""

_KEYS: Final = ("bytes", "image", "path")
"""Where an image stands in a struct: Hugging Face's datasets write bytes and path, Qwen's messages an image."""

_VIDEO_SUFFIXES: Final = (".mp4", ".avi", ".mkv", ".mov", ".webm")


class ImageFiles:
    """The images that rows name, for use in a `with` block.

    Args:
        folder: paths start from it.
        prefix: a folder that published paths may begin with, or leave out, in the rows and in the archives alike.
        archives: zip files, which are looked into where the folder has no such file.

    Raises:
        TableError: on entering, if an archive cannot be read.
    """

    def __init__(self, folder: Path, prefix: str = "", archives: Sequence[Path] = ()) -> None:
        self.folder = folder
        self.prefix = prefix
        self.archives = archives
        self._opened: list[zipfile.ZipFile] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Open the archives."""
        for archive in self.archives:
            try:
                self._opened.append(self._stack.enter_context(zipfile.ZipFile(archive)))
            except (OSError, zipfile.BadZipFile) as error:
                self._stack.close()
                raise TableError(f"The archive {archive} cannot be read ({error}): download it again.") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the archives."""
        self._opened.clear()
        self._stack.close()

    def read(self, value: Any) -> bytes:
        """The bytes of an image's file, as they are.

        Args:
            value: the bytes, a path, a struct with one of these, or a list with one of all these.

        Raises:
            DropError: if it is something else, or leads to no file that can be read.
        """
        value = _single(value)
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str) or not value.strip():
            kind = "nothing" if value is None or value == "" else f"a {type(value).__name__}"
            raise DropError(DropReason.NO_IMAGE, f"it has {kind} where an image is needed, remove the row")
        return self._from_path(value.strip())

    def _from_path(self, text: str) -> bytes:
        path = PurePosixPath(text)
        # a Windows path takes both kinds of slashes, and has an anchor wherever another one has
        if PureWindowsPath(text).anchor or ".." in PureWindowsPath(text).parts or "\0" in text:
            fault = f"the path {text!r:.200} leads out of the folder {self.folder}, give one below it"
            raise DropError(DropReason.MISSING_IMAGE, fault)
        if path.suffix.lower() in _VIDEO_SUFFIXES:
            raise DropError(
                DropReason.VIDEO, f"it shows the video {text!r:.200}, which cannot be trained on, remove the row"
            )
        names = list(self._spellings(path))
        for name in names:
            file = self.folder / name
            if os.path.isfile(file):  # pathlib's own raises for a name that is too long
                return _read_file(file)
        for archive in self._opened:
            for name in names:
                if name in archive.NameToInfo:
                    return _read_member(archive, archive.getinfo(name))
        where = " and ".join(map(str, [self.folder, *self.archives]))
        raise DropError(DropReason.MISSING_IMAGE, f"the image {text!r:.200} is not in {where}, download it there")

    def _spellings(self, path: PurePosixPath) -> Iterator[str]:
        """A path with and without the prefix."""
        yield str(path)
        if self.prefix and path.parts[:1] == (self.prefix,):
            yield str(PurePosixPath(*path.parts[1:]))
        elif self.prefix:
            yield str(PurePosixPath(self.prefix) / path)


def _single(value: Any) -> Any:
    """What a list of one, or a struct, holds."""
    if isinstance(value, list):
        if len(value) > 1:
            fault = f"it has {len(value)} images, but samples have one, remove the row"
            raise DropError(DropReason.SEVERAL_IMAGES, fault)
        value = value[0] if value else None
    if isinstance(value, dict):
        value = next((value[key] for key in _KEYS if value.get(key) is not None), None)
    return value


def _read_file(file: Path) -> bytes:
    try:
        _check_size(file.stat().st_size, str(file))
        return file.read_bytes()
    except OSError as error:
        fault = f"the image {file} cannot be read ({error.strerror}), copy it again"
        raise DropError(DropReason.UNREADABLE_IMAGE, fault) from error


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """One member; no more than its header declares is unpacked, and its checksum is compared."""
    where = f"{member.filename} in {archive.filename}"
    _check_size(member.file_size, where)
    try:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise zipfile.BadZipFile("only stored and deflated members are read")  # others are unpacked without bound
        with archive.open(member) as file:
            data = file.read(member.file_size)  # with a size: without one zipfile unpacks first and cuts then
        if len(data) != member.file_size:
            raise EOFError(f"it ends after {len(data)} of {member.file_size} bytes")
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        fault = f"the image {where} cannot be unpacked ({error or type(error).__name__}), download the archive again"
        raise DropError(DropReason.UNREADABLE_IMAGE, fault) from error
    return data


def _check_size(size: int, where: str) -> None:
    if size > MAX_IMAGE_BYTES:
        fault = f"the image {where} has {size} bytes, but {MAX_IMAGE_BYTES} are allowed, remove it"
        raise DropError(DropReason.UNREADABLE_IMAGE, fault)
