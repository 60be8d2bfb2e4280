"""Shards behind http(s): copied to a local folder of limited size, again and again until the copy is right.

One sample's bytes could be asked for alone, but not of every server, and a shard that is here costs nothing the next
time. Processes of one machine share the folder: each shard is fetched once, by whoever needs it first, under a lock.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.client
import logging
import os
import random
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

CHUNK = 1 << 20
"""Bytes that are read at a time."""

GIVE_UP = frozenset({400, 401, 403, 404, 405, 410})
"""Answers of a server that asking again does not change."""


MISSING = frozenset({403, 404, 410})
"""Answers for what is not there; stores that may not be listed say 403."""

LOCAL_FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOTDIR})
"""Errors of the disk that asking a server again does not change."""


class RemoteError(ValueError):
    """A file that could not be fetched; the message names it."""


class MissingError(RemoteError):
    """A file that the server does not have, or does not give."""


def check_url(url: str) -> None:
    """Refuse addresses of which the address of a file beside it cannot be made, and secrets that would be logged.

    Raises:
        ValueError: if `url` has a query, a fragment, a user or a space.
    """
    parts = urlsplit(url)
    if parts.query or parts.fragment or "@" in parts.netloc or re.search(r"\s", url):
        where = f"{parts.scheme}://{parts.hostname}{parts.path}"
        raise ValueError(
            f"The address {where!r} has a query, a fragment, a user or a space in it: give the plain address of a "
            "folder with shards.json, or copy the shards here."
        )


@dataclass
class CacheConfig:
    """Where shards from http(s) addresses are kept, and how patiently they are fetched.

    Args:
        folder: for the copies; null for `infogap/shards` in the user's cache folder. Give every machine a disk of its
            own.
        limit_gib: largest size of all copies in GiB; the ones that were used the longest ago make room. Default: what
            training sets of some ten thousand photographs need. Ours.
        attempts: times that a file is asked for before the run ends. Default: with the waits, three minutes. Ours.
        first_wait: seconds before the second attempt, doubled before each further one and spread by chance, so that
            many processes do not come back at once. Ours.
        timeout: seconds without a byte after which an attempt has failed. Ours.

    Raises:
        ValueError: if a number is out of range.
    """

    folder: str | None = None
    limit_gib: float = 50.0
    attempts: int = 8
    first_wait: float = 1.0
    timeout: float = 60.0

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        for name in ("limit_gib", "attempts", "timeout"):
            if not getattr(self, name) > 0:
                raise ValueError(f"data.cache.{name} is {getattr(self, name)}: give a positive number.")
        if self.first_wait < 0:
            raise ValueError(f"data.cache.first_wait is {self.first_wait}: give seconds, 0 or more.")

    @property
    def path(self) -> Path:
        """The folder of the copies."""
        if self.folder is not None:
            return Path(self.folder)
        return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "infogap" / "shards"


class Cache:
    """Local copies of files behind http(s).

    Args:
        config: where they are, how many, and how patiently they are fetched.
        wait: sleeps so many seconds.
    """

    def __init__(self, config: CacheConfig, wait: Callable[[float], None] = time.sleep) -> None:
        self.config = config
        self._wait = wait
        self._chance = random.SystemRandom()  # spreads waits, also of forked processes; no result depends on it

    def open(self, url: str, size: int | None = None, sha256: str | None = None) -> int:
        """A file descriptor of the copy, which stays readable even if the copy makes room for others.

        Args:
            url: of the file.
            size: in bytes; None if unknown, and then the file is fetched anew.
            sha256: of the content, checked when it is fetched; None if unknown.

        Raises:
            RemoteError: if it cannot be fetched or kept, is another file than was expected, or larger than the limit.
        """
        limit = round(self.config.limit_gib * 2**30)
        if size is not None and size > limit:
            raise RemoteError(f"{url} has {size} bytes, but data.cache.limit_gib allows {limit}: raise it.")
        path = self._place(url, sha256)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path.with_name(path.name + ".lock")):
                found = None if size is None else _open(path, size)
                if found is None:
                    self._make_room(limit - (size or 0))
                    self._fetch(url, path, size, sha256)
                    found = os.open(path, os.O_RDONLY)
                os.utime(found)
        except OSError as error:
            what = error.strerror or type(error).__name__
            raise RemoteError(
                f"The copy of {url} cannot be kept in {path.parent} ({what}): mend that folder, or name another with "
                "data.cache.folder."
            ) from error
        return found

    def read(self, url: str) -> bytes:
        """The content of a small file, fetched anew: it may have changed.

        Raises:
            RemoteError: see `open`.
        """
        with os.fdopen(self.open(url), "rb") as file:
            return file.read()

    def _place(self, url: str, sha256: str | None) -> Path:
        """Where the copy of this very content lies: a shard that was written anew often keeps its size."""
        name = PurePosixPath(urlsplit(url).path).name or "file"
        digest = hashlib.sha256(f"{url} {sha256}".encode()).hexdigest()
        return self.config.path / f"{digest[:16]}-{name[-80:]}"

    def _fetch(self, url: str, path: Path, size: int | None, sha256: str | None) -> None:
        """Ask for a file until it is here, going on where a broken answer stopped."""
        partial = path.with_name(path.name + ".partial")
        partial.unlink(missing_ok=True)
        try:
            for attempt in range(1, self.config.attempts + 1):
                try:
                    self._receive(url, partial, size)
                    _check(partial, url, size, sha256)
                except (OSError, http.client.HTTPException, RemoteError) as error:
                    self._wait_or_give_up(url, partial, attempt, error)
                else:
                    os.replace(partial, path)
                    return
        finally:
            partial.unlink(missing_ok=True)

    def _wait_or_give_up(self, url: str, partial: Path, attempt: int, error: Exception) -> None:
        """Wait before the next attempt, or raise if there is none."""
        if isinstance(error, OSError) and error.errno in LOCAL_FAULTS:
            raise error
        fault = str(error) or type(error).__name__
        status = error.code if isinstance(error, urllib.error.HTTPError) else None
        if isinstance(error, RemoteError) or status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            partial.unlink(missing_ok=True)  # what is wrong in itself is not gone on with
        final = status in GIVE_UP or isinstance(error, http.client.InvalidURL)
        if final or attempt == self.config.attempts:
            times = "once" if attempt == 1 else f"{attempt} times"
            message = f"{url} could not be fetched, tried {times} ({fault}): check the address and the server."
            kind = MissingError if status in MISSING else RemoteError
            raise kind(message) from error
        pause = self.config.first_wait * 2 ** (attempt - 1) * self._chance.uniform(0.5, 1.0)
        logger.warning("%s: %s. Attempt %d comes in %.1f s.", url, fault, attempt + 1, pause)
        self._wait(pause)

    def _receive(self, url: str, partial: Path, size: int | None) -> None:
        """Append to a partial file what it lacks, or all of it where the server does not know how to go on."""
        have = partial.stat().st_size if partial.exists() else 0
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        with urllib.request.urlopen(request, timeout=self.config.timeout) as answer:
            goes_on = have and answer.status == http.HTTPStatus.PARTIAL_CONTENT
            promised = answer.headers.get("Content-Length")
            if promised is None and size is None and not answer.chunked:  # a cut answer would look like a whole one
                raise RemoteError("the server does not say how long it is")
            received = 0
            with partial.open("ab" if goes_on else "wb") as file:
                while block := answer.read(CHUNK):
                    file.write(block)
                    received += len(block)
        if promised is not None and received < int(promised):
            raise ConnectionError(f"the answer ended after {received} of {promised} bytes")

    def _make_room(self, limit: int) -> None:
        """Remove the copies that were used the longest ago. Whoever has one open can still read it."""
        copies: list[tuple[float, int, Path]] = []
        for path in self.config.path.iterdir():
            try:
                found = path.stat()
            except FileNotFoundError:  # another process has removed it
                continue
            if path.suffix != ".lock":
                copies.append((found.st_mtime, found.st_size, path))
        total = sum(size for _, size, _ in copies)
        for _, size, path in sorted(copies):
            if total <= limit:
                return
            if path.suffix != ".partial" or _is_abandoned(path):
                path.unlink(missing_ok=True)
                total -= size


def _open(path: Path, size: int) -> int | None:
    """A file of this size, open; None if there is none, also if another process removes it at this moment."""
    try:
        found = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    if os.fstat(found).st_size == size:
        return found
    os.close(found)
    return None


def _is_abandoned(partial: Path) -> bool:
    """Whether nobody fetches a file any more that was not fetched to its end."""
    with partial.with_suffix(".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _check(path: Path, url: str, size: int | None, sha256: str | None) -> None:
    found = path.stat().st_size
    if size is not None and found != size:
        raise RemoteError(f"{url} has {found} bytes where its index says {size}")
    if sha256 is None:
        return
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise RemoteError(f"{url} has another content than its index says")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process if that is killed."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
