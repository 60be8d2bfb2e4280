"""What all tests share: no network, small thread pools, repeatable examples, and tiny samples."""

from __future__ import annotations

import os

# before torch or a tokenizer is imported: tests run small models, which more threads only slow down
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import io
import random
import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from PIL import Image

from infogap.data.images import HighResImage
from infogap.data.sample import Sample

# Examples follow from the test alone, so that a failure elsewhere fails here too; slow machines are no failure.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may reach beyond this machine: a test that needs the network would fail elsewhere."""
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise RuntimeError(f"A test tried to connect to {address}: tests must not use the network.")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_locally)


@pytest.fixture
def make_sample() -> Callable[..., Sample]:
    """Factory of samples with a small image of noise: `make_sample("key", size=(56, 28), kind="PNG", answer="yes")`."""

    def make(key: str = "sample", *, size: tuple[int, int] = (56, 28), kind: str = "JPEG", **fields: Any) -> Sample:
        noise = random.Random(key).randbytes(3 * size[0] * size[1])
        buffer = io.BytesIO()
        Image.frombytes("RGB", size, noise).save(buffer, kind)
        fields = {"question": f"What is {key}?", "answer": "3"} | fields
        return Sample(key, HighResImage(buffer.getvalue(), name=key), **fields)

    return make
