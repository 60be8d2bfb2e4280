"""Tar files that the writer of shards would refuse."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from infogap.data.records import encode_sample
from infogap.data.sample import Sample

Members = dict[str, bytes]


def write_tar(path: Path, members: Members) -> Path:
    """A tar file with these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def members_of(sample: Sample, key: str | None = None, **changes: Any) -> Members:
    """Members of a sample, with fields of its JSON changed, under another key if one is given."""
    encoded = encode_sample(sample)
    fields = json.loads(encoded["json"]) | changes
    encoded["json"] = json.dumps({name: value for name, value in fields.items() if value is not None}).encode()
    return {f"{key or sample.key}.{suffix}": data for suffix, data in encoded.items()}


def spoilt_png(png: bytes) -> bytes:
    """A PNG with its header and its end, and nothing that can be decoded between."""
    return png[:-600] + bytes(500) + png[-100:]
