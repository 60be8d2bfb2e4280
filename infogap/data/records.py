"""A sample as two files: its image, untouched, and a JSON object. The format is described in docs/shard_format.md.

webdataset's own decoders are not used, since they unpickle: a member is either an image, kept compressed, or JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from infogap.data.images import HighResImage, ImageError
from infogap.data.sample import Sample, SampleError
from infogap.data.skips import SkipReason
from infogap.geometry import Box, NestedBoxes

SCHEMA = 1
MAX_JSON_BYTES = 1 << 20
"""Largest JSON member: text and boxes need kilobytes, so more than a mebibyte is a mistake or an attack."""

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
FIELDS: dict[str, type] = {
    "schema": int,
    "question": str,
    "answer": str,
    "options": list,
    "boxes": list,
    "source": str,
    "metadata": dict,
}
"""Fields of the JSON member and their types; the first three must be there."""

REQUIRED_FIELDS = tuple(FIELDS)[:3]

Record = dict[str, Any]
"""Members of one sample as bytes, by suffix, with `__key__` and `__url__` (the path of the shard)."""


class RecordError(SampleError):
    """A record that is no sample; `reason` says under which heading it is counted."""

    def __init__(self, message: str, reason: SkipReason = SkipReason.BAD_FIELD) -> None:
        super().__init__(message)  # the message alone: a DataLoader makes a worker's error anew from one argument
        self.reason = reason


def encode_sample(sample: Sample) -> dict[str, bytes]:
    """Members of a sample by suffix: the image's bytes untouched, and the JSON.

    `Sample.view_tokens` is not among them: it belongs to the resolution manifest, since it depends on a policy.

    Raises:
        SampleError: if the key cannot be a member's name, or the metadata are not JSON values, or too large.
    """
    if not sample.key.isprintable() or set(sample.key) & set("./") or sample.key.startswith("__"):
        raise SampleError(
            f"The key {sample.key!r} cannot name a tar member: leave out dots, slashes, control characters and a "
            "leading '__'."
        )
    fields: dict[str, Any] = {"schema": SCHEMA, "question": sample.question, "answer": sample.answer}
    fields["options"] = list(sample.options)
    fields["boxes"] = [[list(box.as_tuple()) for box in chain] for chain in sample.evidence]
    fields |= {"source": sample.source, "metadata": dict(sample.metadata)}
    try:
        text = json.dumps({name: value for name, value in fields.items() if value}, ensure_ascii=False, allow_nan=False)
        encoded = text.encode()
    except (TypeError, ValueError) as error:
        raise SampleError(f"The metadata of the sample {sample.key!r} are not JSON values: {error}.") from error
    if len(encoded) > MAX_JSON_BYTES:
        raise SampleError(
            f"The sample {sample.key!r} needs {len(encoded)} bytes of JSON, but {MAX_JSON_BYTES} are allowed: shorten "
            "its metadata."
        )
    return {_image_suffix(sample.image.data): sample.image.data, "json": encoded}


def decode_sample(record: Mapping[str, Any]) -> Sample:
    """Sample of a record, its image still compressed.

    Raises:
        RecordError: a `SampleError` that names shard and key, says what is wrong with them, and what to do.
    """
    with _named(record):
        return _decode(record)


def members_of(record: Mapping[str, Any]) -> tuple[Any, Any]:
    """The image and the JSON of a record, or whatever stands in their place.

    Raises:
        RecordError: if it has not exactly one of each.
    """
    with _named(record):
        return _two_members(record)


@contextmanager
def _named(record: Mapping[str, Any]) -> Iterator[None]:
    """Say of which record an error is."""
    try:
        yield
    except RecordError as error:
        where = f"Sample {record['__key__']!r} of the shard {record['__url__']}"
        raise RecordError(f"{where}: {error}", error.reason) from error


def _two_members(record: Mapping[str, Any]) -> tuple[Any, Any]:
    suffixes = [suffix for suffix in IMAGE_SUFFIXES if suffix in record]
    if len(suffixes) != 1:
        found = f"the images {suffixes}" if suffixes else "no image"
        _refuse(SkipReason.NO_IMAGE, f"it has {found}: write one member KEY.jpg, KEY.png or KEY.webp beside KEY.json")
    if "json" not in record:
        _refuse(SkipReason.NO_JSON, "it has no JSON: write a member KEY.json beside the image")
    return record[suffixes[0]], record["json"]


def _decode(record: Mapping[str, Any]) -> Sample:
    """As `decode_sample`, with messages that do not say where."""
    key = record["__key__"]
    data, text = _two_members(record)
    fields = _checked_fields(text)
    try:
        image = HighResImage(data, name=key)
    except ImageError as error:
        raise RecordError(str(error), SkipReason.BAD_IMAGE) from error
    if not _is_complete(data):
        _refuse(SkipReason.BAD_IMAGE, f"the image of {len(data)} bytes is cut off: write it again")
    try:
        return Sample(
            key=key,
            image=image,
            question=fields["question"],
            answer=fields["answer"],
            options=tuple(_text(option) for option in fields.get("options", [])),
            evidence=tuple(_chain(chain) for chain in fields.get("boxes", [])),
            source=fields.get("source", ""),
            metadata=fields.get("metadata", {}),
        )
    except SampleError as error:
        raise RecordError(str(error), SkipReason.BAD_FIELD) from error


def _checked_fields(data: bytes) -> dict[str, Any]:
    """Fields of the JSON member, each of the right type."""
    if len(data) > MAX_JSON_BYTES:
        _refuse(SkipReason.BAD_JSON, f"its JSON has {len(data)} bytes, but {MAX_JSON_BYTES} are allowed: shorten it")
    try:
        fields = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"its JSON cannot be read: {error}.", SkipReason.BAD_JSON) from error
    if not isinstance(fields, dict):
        _refuse(SkipReason.BAD_JSON, f"its JSON is a {type(fields).__name__}: write an object with named fields")
    if fields.get("schema") != SCHEMA:
        found = fields.get("schema")
        _refuse(SkipReason.BAD_SCHEMA, f"its schema is {found!r}: this version reads {SCHEMA}, write the shard for it")
    for name in REQUIRED_FIELDS:
        if name not in fields:
            _refuse(SkipReason.MISSING_FIELD, f"the field {name!r} is missing: add it")
    for name, value in fields.items():
        if name not in FIELDS:
            known = ", ".join(FIELDS)
            _refuse(SkipReason.BAD_FIELD, f"the field {name!r} is unknown: use {known}, or move it into metadata")
        if type(value) is not FIELDS[name]:
            needed, found = FIELDS[name].__name__, type(value).__name__
            _refuse(SkipReason.BAD_FIELD, f"the field {name!r} is a {found}: write a {needed}")
    return fields


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _text(option: object) -> str:
    if not isinstance(option, str):
        _refuse(SkipReason.BAD_FIELD, f"the option {option!r} is not text: write it in quotes")
    return option


def _chain(chain: object) -> NestedBoxes:
    """One chain of nested boxes; that they are nested and inside the image is checked by `Sample`."""
    if not isinstance(chain, list) or not all(isinstance(box, list) and len(box) == 4 for box in chain):
        _refuse(SkipReason.BAD_FIELD, f"the entry {chain!r:.80} of boxes is no chain: write lists of [x1, y1, x2, y2]")
    if not all(type(value) in (int, float) for box in chain for value in box):
        _refuse(SkipReason.BAD_FIELD, f"the boxes {chain!r:.80} hold something that is not a number: write pixels")
    try:
        return tuple(Box(*map(float, box)) for box in chain)
    except (ValueError, OverflowError) as error:
        raise RecordError(str(error), SkipReason.BAD_FIELD) from error


def _image_suffix(data: bytes) -> str:
    """Suffix for the bytes of a file that `HighResImage` has accepted, which is JPEG, PNG or WEBP."""
    if data.startswith(b"\xff\xd8"):
        return "jpg"
    return "png" if data.startswith(b"\x89PNG") else "webp"


def _is_complete(data: bytes) -> bool:
    """Whether an image file has its end, found without decoding; a truncated file is the fault that occurs in practice.

    A JPEG's end mark must stand behind its last scan: an embedded thumbnail has an end mark too.
    """
    if data.startswith(b"\xff\xd8"):
        return data.endswith(b"\xff\xd9") or data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    if data.startswith(b"\x89PNG"):
        return data.rfind(b"IEND") > 0
    return len(data) >= int.from_bytes(data[4:8], "little") + 8


def _refuse(reason: SkipReason, fault: str) -> NoReturn:
    raise RecordError(f"{fault}.", reason)
