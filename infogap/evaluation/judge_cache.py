"""A judge's verdicts on disk, so that none is asked for twice.

One JSON object a line: ``key``, the SHA-256 of the model's name and the whole prompt; ``model``; ``verdict``. Lines are
only ever appended, and are on disk before they count. A last line without its line end was torn by a kill and is
dropped.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from enum import StrEnum
from pathlib import Path

from infogap.evaluation.judge_client import JudgeError


class Verdict(StrEnum):
    """What a judge says of an answer."""

    RIGHT = "right"
    WRONG = "wrong"


def cache_key(model: str, prompt: str) -> str:
    """What a verdict is kept under: the SHA-256 of the judge's model and everything that it is sent, in hexadecimal."""
    return hashlib.sha256(json.dumps([model, prompt]).encode()).hexdigest()


class JudgeCache:
    """The verdicts in a file; safe to add to from several threads.

    Args:
        path: the file; it is made with its folder if it does not exist.

    Attributes:
        verdicts: what the file holds, by `cache_key`.

    Raises:
        JudgeError: if the file cannot be read, or a line of it is damaged.
    """

    def __init__(self, path: str) -> None:
        self.verdicts: dict[str, Verdict] = {}
        self._path = Path(path)
        self._lock = threading.Lock()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            data = self._path.read_bytes() if self._path.exists() else b""
        except OSError as error:
            raise self._fault(error) from error
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.split(b"\n")[:-1], 1):
            try:
                content = json.loads(line)
                self.verdicts[str(content["key"])] = Verdict(content["verdict"])
            except (ValueError, TypeError, KeyError) as error:
                raise JudgeError(
                    f"Line {number} of the judge's cache {path} is damaged ({type(error).__name__}: {error}): remove "
                    "the line, and its question is asked again."
                ) from error
        if whole != data:
            os.truncate(self._path, len(whole))  # otherwise the next line would be appended to the torn one

    def add(self, key: str, model: str, verdict: Verdict) -> None:
        """Remember a verdict; it is on disk when this returns.

        Args:
            key: of what was judged.
            model: that judged.
            verdict: what it said.

        Raises:
            JudgeError: if it cannot be written.
        """
        line = json.dumps({"key": key, "model": model, "verdict": verdict}) + "\n"
        try:
            with self._lock, self._path.open("ab", buffering=0) as file:
                file.write(line.encode())
                os.fsync(file.fileno())
        except OSError as error:
            raise self._fault(error) from error
        self.verdicts[key] = verdict

    def _fault(self, error: OSError) -> JudgeError:
        return JudgeError(
            f"The judge's cache {self._path} cannot be used ({error.strerror}): mend that, or give another file."
        )
