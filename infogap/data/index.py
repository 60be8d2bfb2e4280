"""The index of a folder of shards, `shards.json`: which shards there are, and where in them every sample lies.

Where it lies the shards are complete, since it is written last. It is what lets a stream begin anywhere without reading
what stands before, choose samples by key, and read one over a network without the others. docs/shard_format.md has
the format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from infogap.data.records import SCHEMA

INDEX_NAME = "shards.json"
DEFAULT_MANIFEST = "resolution.jsonl"
ABOUT = ("source", "licence", "origin")
"""What the data are, what their authors allow, and where they are published."""


class Place(NamedTuple):
    """Where a record lies in its shard.

    Attributes:
        key: of the record.
        image_offset: first byte of the image in the tar file.
        image_bytes: its length.
        json_offset: first byte of the JSON.
        json_bytes: its length.
        chains: pieces of evidence that the JSON holds.
    """

    key: str
    image_offset: int
    image_bytes: int
    json_offset: int
    json_bytes: int
    chains: int


@dataclass(frozen=True)
class ShardEntry:
    """What an index says of one shard.

    Attributes:
        name: of the file, beside the index.
        samples: number of records.
        bytes: size of the file.
        sha256: of the file, in hexadecimal digits.
        members: where its records lie, in the order of the file; None if an older version has written the index.
    """

    name: str
    samples: int
    bytes: int
    sha256: str
    members: tuple[Place, ...] | None = None


@dataclass(frozen=True)
class ShardIndex:
    """An index that was read.

    Attributes:
        shards: in the order of training.
        resolution: name of the resolution manifest, which lies beside the index if it was made.
        made_from: what the samples follow from; None if the index does not say.
        about: the fields of `ABOUT` that it has.
    """

    shards: tuple[ShardEntry, ...]
    resolution: str = DEFAULT_MANIFEST
    made_from: dict[str, Any] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


def has_shards(folder: Path) -> bool:
    """Whether shards, or an index of shards, lie in a folder."""
    return (folder / INDEX_NAME).exists() or any(folder.glob("*.tar"))


def parse_index(data: bytes, where: str) -> ShardIndex:
    """Read an index. Names in it are names of files beside it, whatever path they have.

    Args:
        data: the file.
        where: what messages call it.

    Raises:
        ValueError: if it is damaged, or of another schema.
    """
    try:
        content = json.loads(data)
        schema, listed = content["schema"], content["shards"]
        shards = tuple(_parse_entry(entry) for entry in listed) if schema == SCHEMA else ()
        resolution = PurePosixPath(content.get("resolution", DEFAULT_MANIFEST)).name
        made_from = content.get("made_from")
        about = {name: content[name] for name in ABOUT if name in content}
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
        fault = f"{type(error).__name__}: {error}"
        raise ValueError(f"The index {where} is damaged ({fault}): remove it to use every *.tar beside it.") from error
    if schema != SCHEMA:
        raise ValueError(f"The index {where} has the schema {schema!r}: this version reads {SCHEMA}, write it anew.")
    return ShardIndex(shards, resolution or DEFAULT_MANIFEST, made_from, about)


def load_index(folder: Path) -> ShardIndex | None:
    """The index of a folder, None if there is none.

    Raises:
        ValueError: see `parse_index`.
    """
    path = folder / INDEX_NAME
    return parse_index(path.read_bytes(), str(path)) if path.is_file() else None


def _parse_entry(entry: dict[str, Any]) -> ShardEntry:
    members = entry.get("members")
    places = None if members is None else tuple(_parse_place(member) for member in members)
    name, count, size = PurePosixPath(entry["name"]).name, int(entry["samples"]), int(entry["bytes"])
    if places is not None and len(places) != count:
        raise ValueError(f"{name} has {count} samples and {len(places)} members")
    for place in places or ():  # what is read is allocated first
        if max(place.image_offset + place.image_bytes, place.json_offset + place.json_bytes) > size:
            raise ValueError(f"{place.key!r} lies beyond the {size} bytes of {name}")
    return ShardEntry(name, count, size, str(entry["sha256"]), places)


def _parse_place(member: list[Any]) -> Place:
    key, *numbers = member
    place = Place(key, *numbers)
    if type(key) is not str or not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"the member {member!r:.80} is no key with five numbers")
    return place
