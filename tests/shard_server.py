"""A server of files on this machine, which fails as often as a test wants."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from infogap.data.remote import Cache, CacheConfig


@dataclass
class ShardServer:
    """What a running server serves, and what it was asked for.

    Attributes:
        url: its address, with a slash at its end.
        requests: paths with the first byte asked for, in order.
        fault: of the number of a request, from 1: "error" (503), "cut" (half of the body), or "" for none.
        ranges: whether it can begin in the middle of a file.
        missing: status of what is not there.
        says_length: whether it says how long an answer is.
    """

    url: str
    requests: list[tuple[str, int]] = field(default_factory=list)
    fault: Callable[[int], str] = lambda number: ""
    ranges: bool = True
    missing: int = 404
    says_length: bool = True


@contextmanager
def serving(folder: Path) -> Iterator[ShardServer]:
    """Serve a folder."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            begin = begin if served.ranges else 0
            with lock:
                served.requests.append((self.path[1:], begin))
                fault = served.fault(len(served.requests))
            file = folder / self.path[1:]
            if fault == "error":
                self.send_error(503)
            elif not file.is_file():
                self.send_error(served.missing)
            else:
                data = file.read_bytes()[begin:]
                self.send_response(206 if begin else 200)
                if served.says_length:
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)

        def log_message(self, *arguments: object) -> None:
            pass

    lock = threading.Lock()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = ShardServer(f"http://127.0.0.1:{server.server_port}/")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def open_all(folder: str, url: str, names: list[str], sizes: list[int]) -> None:
    """What a process does that needs every shard; here, so that a new one need not import torch."""
    cache = Cache(CacheConfig(folder))
    for name, size in zip(names, sizes, strict=True):
        os.close(cache.open(url + name, size))
