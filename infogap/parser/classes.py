"""One sentence for a ``class_path`` that names no class that could stand there."""

from __future__ import annotations

import difflib
import pydoc
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import jsonargparse

_MAKER: Final = Path(jsonargparse.__file__).parent
_PACKAGE: Final = Path(__file__).resolve().parents[1]
_SHAPE: Final = "{class_path: NAME, init_args: {...}}"
_BESIDE: Final = (
    re.compile(r"'class_path': '[^']*', '(?!init_args'|dict_kwargs')(\w+)'"),
    re.compile(r"'init_args': \{[^{}]*\}, '(?!class_path'|dict_kwargs')(\w+)'"),
    re.compile(r"\{'(?!init_args'|dict_kwargs')(\w+)': (?:'[^']*'|[\w.-]+|\{[^{}]*\}), 'class_path'"),
)
"""A key that stands before or after those that belong to a class, in the value as Python writes it."""


def explain_class(message: str, place: str, classes: Sequence[str]) -> str | None:
    """What is wrong with a class that a field names; None if that is not what the message is about.

    Args:
        message: the message of jsonargparse.
        place: the field's full name.
        classes: names of classes that may stand without their module.
    """
    absent = re.search(r"Problem with given class_path '([\w.]+)':\s+No module named '([^']+)'", message)
    if absent:
        return _explain_absent(place, absent[1], absent[2])
    missing = re.search(r"Problem with given class_path '([\w.]+)':\s+.*has no attribute '?(\w+)", message)
    if missing:
        module = missing[1].rpartition(".")[0]
        known = [name for name, value in vars(sys.modules.get(module, sys)).items() if isinstance(value, type)]
        return _explain_unknown(place, missing[1], missing[2], [*classes, *known])
    bare = re.search(r"Expected a dot import path string: (\S+)", message)
    if bare:
        return _explain_unknown(place, bare[1], bare[1], classes)
    other = re.search(r"Import path ([\w.]+) does not correspond to a subclass of (\w+)", message)
    if other:
        return f"{place}: {other[1]} is no {other[2]}: let the class inherit from {other[2]}."
    abstract = re.search(r"but ([\w.]+) is abstract", message)
    return _explain_abstract(place, abstract[1]) if abstract else None


def explain_key(message: str, place: str) -> str | None:
    """What is wrong with a key beside ``class_path``; None if there is no such key.

    Args:
        message: the message of jsonargparse.
        place: the field's full name.
    """
    given = given_value(message)
    if "Problem with given class_path" not in message and "is abstract" not in message:
        return None
    found = next((match for match in (pattern.search(given) for pattern in _BESIDE) if match), None)
    if found:
        near = difflib.get_close_matches(found[1], ["init_args"], n=1)
        remedy = "did you mean init_args? Write" if near else "arguments of the class stand under init_args, as in"
        return f"{place}: {found[1]} cannot stand beside class_path: {remedy} {_SHAPE}."
    if "class_path" in given:
        return None
    keys = re.findall(r"'(\w+)':", given)
    near = difflib.get_close_matches("class_path", keys, n=1, cutoff=0.65)
    return f"{place}: there is no key {near[0]}: did you mean class_path? Write {_SHAPE}." if near else None


def explain_broken(message: str, place: str, reason: str) -> str:
    """What is wrong with a module that cannot be imported, in its own words.

    Args:
        message: the message of jsonargparse.
        place: the field's full name.
        reason: what Python says of it.
    """
    given = given_value(message)
    # of a list, classes before it were found and are no dicts any more
    named = re.search(r"'class_path': '([\w.]+)'", given) or re.match(r"([A-Za-z_]\w*(?:\.\w+)+)$", given)
    if named is None:
        return f"{place}: {reason}"
    return f"{place}: {named[1]} cannot be imported ({reason}): correct its module."


def explain_constructor(raised: BaseException) -> str | None:
    """What is wrong in the constructor of a class that is not ours; None if no such constructor raised.

    Args:
        raised: what came from making the objects of a configuration; jsonargparse wraps what the constructor raised.
    """
    error: BaseException | None = raised
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        makers = [place for place, frame in enumerate(frames) if _makes(Path(frame.filename))]
        # that of a dataclass is in no file
        called = [frame for frame in frames[max(makers, default=len(frames)) + 1 :] if Path(frame.filename).is_file()]
        if called and Path(called[0].filename).resolve().is_relative_to(_PACKAGE):
            return None
        if called:
            own = [frame for frame in called if frame.filename == called[0].filename][-1]
            said = " ".join(f"{type(error).__name__}: {error}".split())
            return f"{own.filename}, line {own.lineno} ({said}): correct that place, or the class's init_args."
        error = error.__cause__ or error.__context__
    return None


def _makes(file: Path) -> bool:
    """Whether a file is of those that call constructors: jsonargparse's, and Lightning's command line."""
    return file.parent == _MAKER or file.parts[-3:] == ("lightning", "pytorch", "cli.py")


def given_value(message: str) -> str:
    """The value that a message is about, as Python writes it; of an option, what stands after it."""
    found = re.search(r"Given value: (.*)", message)
    nested = re.match(r"NestedArg\(key='[^']*', val='?(.*?)'?\)$", found[1]) if found else None
    return nested[1] if nested else found[1] if found else ""


def _explain_absent(place: str, path: str, module: str) -> str:
    """A module that is not there: that of the class, or one that it imports."""
    if path.startswith(f"{module}."):
        return (
            f"{place}: there is no module {module}: see that it can be imported (PYTHONPATH=FOLDER, or call "
            "`python -m infogap.cli` in its folder)."
        )
    return f"{place}: {path} cannot be imported, as it needs the module {module}, which is not there: install it."


def _explain_unknown(place: str, path: str, name: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(name.rpartition(".")[2], known, n=1)
    remedy = f"did you mean {found[0]}?" if found else "give the full path of one, such as package.module.Class."
    return f"{place}: there is no class {path}: {remedy}"


def _explain_abstract(place: str, path: str) -> str:
    """A class whose methods are not all defined; it has been imported."""
    missing = sorted(getattr(pydoc.locate(path), "__abstractmethods__", ()))
    if not path.startswith("infogap.") and missing:
        return f"{place}: {path} lacks {', '.join(missing)}: define {' and '.join(f'`{name}`' for name in missing)}."
    return f"{place}: {path} is only what others inherit from: name a class of its kind, as {_SHAPE}."
