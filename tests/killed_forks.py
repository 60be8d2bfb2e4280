"""Work in a forked process that kills itself at a chosen moment, for programs that try all of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

Moment = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Makes a moment of every call of a function."""


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def in_a_fork(work: Callable[[Moment], None], kill_at: int | None) -> tuple[int, int]:
    """Work in a process of its own; returns its exit status and the number of moments."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        moments = 0

        def moment(call: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*args: Any, **kwargs: Any) -> Any:
                nonlocal moments
                moments += 1
                if moments == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)

            return counted

        work(moment)
        os.write(writer, str(moments).encode())
        os._exit(0)
    os.close(writer)
    status = os.waitpid(child, 0)[1]
    with os.fdopen(reader) as told:
        return status, int(told.read() or 0)
