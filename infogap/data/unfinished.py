"""Hidden folders in which files are written until all are complete, by one process at a time."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from infogap.data.index import load_index

logger = logging.getLogger(__name__)


class BusyError(ValueError):
    """Another process writes the same files; the message says what to do."""


@contextmanager
def unfinished_folder(path: Path, out: Path) -> Iterator[Path]:
    """Have an empty hidden folder to oneself, and remove it at the end with what is still in it.

    A lock beside it, `PATH.lock`, is held meanwhile. A process that is killed lets go of the lock and leaves the folder
    under its name, where the next one finds it. That one removes what is in it, and the shards that had been moved from
    there: an index is in it while complete shards are moved.

    Args:
        path: the folder.
        out: where the files are moved when all are complete.

    Yields:
        The folder.

    Raises:
        BusyError: if another process has it.
    """
    lock_path = path.with_name(path.name + ".lock")
    with _locked(lock_path, out):
        try:
            _remove_leftovers(path, out)
            path.mkdir()
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            lock_path.unlink(missing_ok=True)  # while it is held: nobody else can hold it then


def file_sha256(path: Path) -> str:
    """Checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove_leftovers(path: Path, out: Path) -> None:
    index = load_index(path)
    for entry in () if index is None else index.shards:
        moved = out / entry.name
        if moved.is_file() and moved.stat().st_size == entry.bytes and file_sha256(moved) == entry.sha256:
            moved.unlink()
    if path.exists():
        shutil.rmtree(path)


@contextmanager
def _locked(path: Path, out: Path) -> Iterator[None]:
    while True:
        with path.open("ab") as file:
            _lock(file, out)
            if _is_at(path, file):  # else the process that held the lock has just removed it
                yield
                return


def _lock(file: BinaryIO, out: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BusyError(f"Another process is writing {out}: wait until it is done, or name another folder.") from error
    except OSError as error:  # some disks of a network have no locks
        logger.warning("The disk of %s cannot lock files (%s): see that no other process writes it.", out, error)


def _is_at(path: Path, file: BinaryIO) -> bool:
    """Whether an open file is still the one of that path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
