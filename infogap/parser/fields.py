"""The fields of a configuration, read from signatures and docstrings: what help, suggestions and the page of docs say.

A field is an argument of a class. The docstring of its class has a sentence for it, under ``Args:`` or ``Attributes:``;
a field that is a dataclass has fields of its own.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import enum
import inspect
import re
import textwrap
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

REQUIRED: Final = "required"
"""What stands in the place of the default of a field that must be given."""

_PLAIN: Final[Mapping[object, str]] = {
    bool: "true|false",
    int: "INT",
    float: "FLOAT",
    str: "TEXT",
    Path: "PATH",
    type(None): "null",
    Any: "ANY",
    datetime.timedelta: "DURATION",
}


_IN_WORDS: Final[Mapping[str, str]] = {"false": "no", "true": "yes", "[]": "none"}
"""How a docstring may say a default."""


@dataclass(frozen=True)
class Field:
    """One field.

    Attributes:
        name: its full name, with dots. Items of a list are written ``sources[]``.
        kind: what may be given, such as "INT", "TEXT|null" or "sum|mean".
        default: what is used if nothing is given, as in YAML; ``REQUIRED`` if something must be given. Empty for a
            field that holds others: its text says what null means.
        text: what its docstring says of it, without line breaks.
        holds: whether it is a dataclass, whose fields follow.
    """

    name: str
    kind: str
    default: str
    text: str
    holds: bool = False


def fields_of(owner: Any, prefix: str = "", instance: object = None) -> Iterator[Field]:
    """The fields of a class, those of its dataclasses after the field that holds them.

    Args:
        owner: a class.
        prefix: what stands before their names.
        instance: an instance whose values are the defaults; None takes those of the signature.
    """
    told = field_texts(owner)
    hints = get_type_hints(owner.__init__)
    for name, parameter in inspect.signature(owner).parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        full = f"{prefix}.{name}" if prefix else name
        hint = hints.get(name, Any)
        default = getattr(instance, name) if dataclasses.is_dataclass(instance) else _default(owner, name, parameter)
        inner, repeated = _dataclass_in(hint)
        if inner is None:
            yield Field(full, spell(hint), to_yaml(default), told.get(name, ""))
            continue
        yield Field(full, spell(hint), "", told.get(name, ""), holds=True)
        yield from fields_of(inner, f"{full}[]" if repeated else full, default)


def field_texts(owner: Any) -> dict[str, str]:
    """What the docstring of a class, or of its constructor, says of each argument."""
    found: dict[str, str] = {}
    for documented in (owner.__init__, owner):
        text = inspect.cleandoc(documented.__doc__ or "")
        for block in re.findall(r"^(?:Args|Attributes|Arguments):\n((?:[ \t]+.*\n?|\n)*)", text, re.MULTILINE):
            found |= _entries(textwrap.dedent(block))
    return found


def summary_of(owner: Any) -> str:
    """The first sentence of a class's docstring."""
    return first_sentence(" ".join((inspect.getdoc(owner) or "").partition("\n\n")[0].split()))


def first_sentence(text: str) -> str:
    """Everything up to the first full stop that ends a sentence."""
    return re.split(r"(?<=[^.\d][.])\s+(?=[A-Z(\"`])", text, maxsplit=1)[0]


def without_default(field: Field) -> str:
    """The text of a field without a clause that says no more than its default, which stands beside it."""
    words = [field.default, *([_IN_WORDS[field.default]] if field.default in _IN_WORDS else [])]
    said = rf"default:? (?:{'|'.join(map(re.escape, words))})"
    whole = re.sub(rf"(?:^|(?<=\.)\s){said}\.(?=\s|$)", "", field.text, flags=re.IGNORECASE).strip()
    return re.sub(rf"; {said}\.(?=\s|$)", ".", whole) or field.text


def spell(hint: Any) -> str:
    """What may be given for a type, in capitals where it is a kind of value and not a word."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if origin in (Union, types.UnionType):
        spelled = [spell(each) for each in inner]
        words = [part for each in spelled for part in ([each] if each.startswith(("[", "{")) else each.split("|"))]
        return "|".join(dict.fromkeys(words))
    if origin is Literal:
        return "|".join(dict.fromkeys(str(each) for each in inner))
    if origin is tuple and Ellipsis not in inner:
        return f"[{', '.join(spell(each) for each in inner)}]"
    if origin in (list, tuple, set, collections.abc.Iterable, collections.abc.Sequence):
        return f"[{spell(inner[0])}, ...]"
    if origin in (dict, collections.abc.Mapping):
        return f"{{{spell(inner[0])}: {spell(inner[1])}, ...}}"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "|".join(member.name for member in hint)
    if dataclasses.is_dataclass(hint):
        return "FIELDS"
    return "CLASS" if isinstance(origin or hint, type) else "TEXT"


def to_yaml(value: object) -> str:
    """A default as it would stand in a configuration file; quoted only where it is empty."""
    if value is inspect.Parameter.empty:
        return REQUIRED
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(to_yaml(each) for each in value)}]"
    return str(value) or '""'


def _entries(block: str) -> dict[str, str]:
    """Arguments and their texts, from lines such as ``name (type): text`` and the deeper ones that go on."""
    parts = re.split(r"^(\w+)(?: \([^)]*\))?:", block, flags=re.MULTILINE)[1:]
    return {name: _in_yaml(" ".join(text.split())) for name, text in zip(parts[::2], parts[1::2], strict=True)}


def _in_yaml(text: str) -> str:
    """A text with YAML's words for Python's: it is read by who writes a configuration."""
    words = {"None": "null", "True": "true", "False": "false"}
    return re.sub(r"\b(None|True|False)\b", lambda found: words[found[1]], text)


def _dataclass_in(hint: Any) -> tuple[type | None, bool]:
    """The dataclass that a type is, may be, or is a list of, and whether it is a list."""
    for each in get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,):
        if dataclasses.is_dataclass(each) and isinstance(each, type):
            return each, False
        for item in get_args(each) if get_origin(each) in (list, tuple) else ():
            if dataclasses.is_dataclass(item) and isinstance(item, type):
                return item, True
    return None, False


def _default(owner: Any, name: str, parameter: inspect.Parameter) -> object:
    """The default of an argument; of a dataclass what its factory makes."""
    if dataclasses.is_dataclass(owner):
        own = next((each for each in dataclasses.fields(owner) if each.name == name), None)
        if own is not None and own.default_factory is not dataclasses.MISSING:
            return own.default_factory()
    return parameter.default
