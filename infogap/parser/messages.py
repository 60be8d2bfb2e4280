"""One sentence for a message of jsonargparse, which has many lines: one for every type that a value was tried as."""

from __future__ import annotations

import difflib
import inspect
import itertools
import pydoc
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from infogap.parser.classes import explain_broken, explain_class, explain_key, given_value

_HEADING: Final = re.compile(r'^(?:- )?Parser key "([^"]+)":\s*(.*)')
_UNKNOWN: Final = re.compile(
    r"Subcommand '[^']+' does not accept option '([^']+)'|Option '([^']+)' is not accepted$|"
    r"[Uu]nrecognized arguments: --([^\s=]+)"
)
_GROUP: Final = re.compile(r"Group '([^']*)' does not accept option '([^']+)'")
_CLASS: Final = re.compile(r"Problem with given class_path '([\w.]+)'")
_EXPECTED: Final = re.compile(r"Expected an? (?!path but)(.+?)(?:\. Got value: (.*))?$", re.DOTALL)
_NO_REASON: Final = (
    "Does not validate",
    "Subtypes:",
    "Errors:",
    "Given value",
    "Not a valid subclass",
    "Subclass types expect",
    "a class path (str)",
    "a dict with",
    "Expected a path but",
)
"""Beginnings of lines that say nothing by themselves."""

_WORDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "NoneType": "null",
    "list": "a list",
    "tuple": "a list",
    "dict": "fields",
    "collections.abc.Iterable": "a list",
}


@dataclass
class Fault:
    """What is wrong with one field.

    Attributes:
        place: the field's full name, "" if the message names none.
        owner: path of the class whose argument it is, "" if that is not known.
        reasons: what jsonargparse says of every type that was tried.
    """

    place: str
    owner: str
    reasons: list[str]


def explain(message: str, kinds: Mapping[str, str] = MappingProxyType({}), classes: Iterable[str] = ()) -> str:
    """One sentence for a message of jsonargparse.

    Args:
        message: the message.
        kinds: what may be given for every field of the command, by its full name; the nearest to an unknown one is
            looked for among them.
        classes: names of classes that a ``class_path`` may be.
    """
    known = {name.replace("[]", ""): kind for name, kind in kinds.items()}
    for explained in (_explain_words(message, list(known)), _explain_file(message)):
        if explained:
            return explained
    fault = _first_fault(message)
    misplaced = explain_key(message, fault.place)
    if misplaced:
        return misplaced
    reason = fault.reasons[0] if fault.reasons else _one_line(message)
    unknown = _unknown_name(reason)
    if unknown is not None:
        return _explain_unknown(fault, unknown, list(known))
    expected = [found for found in map(_EXPECTED.match, fault.reasons) if found and "import path" not in found[0]]
    if not any(found[2] for found in expected):
        explained = explain_class(message, fault.place, list(classes))
        if explained:
            return explained
    return _explain_value(message, fault, [(found[1], found[2]) for found in expected], known)


def nearest_field(name: str, names: Sequence[str]) -> str:
    """The field that is most like another name, as the end of a sentence; empty if none is.

    Where the last word of the name is that of some fields, it is one of these that was put in the wrong place; else a
    field beside it is looked for first, and then any field.
    """
    place, _, last = name.rpartition(".")
    same = [each for each in names if each.rpartition(".")[2] == last]
    beside = {each.rpartition(".")[2]: each for each in names if each.rpartition(".")[0] == place}
    found = difflib.get_close_matches(name, same, n=1, cutoff=0.4)
    found = found or [beside[each] for each in difflib.get_close_matches(last, list(beside), n=1)]
    found = found or difflib.get_close_matches(name, names, n=1)
    # the field that was taken for one with fields of its own is no help
    return f": did you mean {found[0]}?" if found and not name.startswith(f"{found[0]}.") else ""


def in_words(kind: str) -> str:
    """A type, as jsonargparse writes it, in words."""
    bare = re.sub(r"<(?:class|enum) '([^']+)'>", r"\1", kind).removeprefix("typing.")
    choices = re.match(r"Literal\[(.*)\]$", bare) or re.match(r"member of .*\{(.*)\}$", bare)
    if choices:
        return f"one of {', '.join(each.strip(' ') for each in choices[1].replace(chr(39), '').split(','))}"
    pair = re.match(r"tuple with (\d+) elements", bare)
    if pair:
        return f"a list of {pair[1]} values"
    if bare.startswith(("list[", "tuple[", "List or ", "List")):
        return "a list"
    return _WORDS.get(bare, _WORDS.get(bare.rpartition(".")[2], f"a {bare.rpartition('.')[2]}"))


def _explain_words(message: str, names: Sequence[str]) -> str | None:
    """Mistakes in the words of the command line, of which no field knows."""
    word = re.match(r"[Uu]nrecognized arguments: (\S+)", message)
    if word and word[1].startswith("--"):
        name = word[1].split("=")[0].removeprefix("--")
        near = nearest_field(name, names).replace("did you mean ", "did you mean --")
        return f"There is no option --{name}{near or ': see --help for those that there are.'}"
    if word:
        return f"There is no use for {word[1]!r}: options begin with --, and a value with spaces is quoted."
    missing = re.match(r"the following arguments are required: (.*)", message)
    if missing:
        required = re.sub(r"\b(fit|validate|test)\.", "", missing[1])
        return f"{required} must be given: write it into a configuration file, or give --NAME VALUE."
    lonely = re.match(r"argument (\S+): expected one argument", message)
    if lonely:
        return f"{lonely[1].split('/')[-1]} stands without a value: give one after it."
    flag = re.match(r'Invalid option "(.*)" for (\S+)', message)
    if flag:
        return f"{flag[2]} takes no {flag[1]!r}: give {flag[2]} alone, {flag[2]}=comments or {flag[2]}=skip_default."
    early = re.match(r"Option '[^']+' is not accepted before subcommand (\S+)", message)
    if early:
        return f"--config stands before {early[1]}: write the command first, as in `infogap fit --config FILE`."
    return None


def _explain_file(message: str) -> str | None:
    """A configuration file that cannot be read."""
    yaml_fault = re.match(r"Problems parsing config: (.*)", message, re.DOTALL)
    if yaml_fault:
        return f"This is no YAML: {_one_line(yaml_fault[1])}: correct that place."
    missing = re.search(r"Expected a path but (\S+\.(?:ya?ml|json)) either|File does not exist: '([^']+)'", message)
    if missing:
        place, file = _first_fault(message).place, missing[1] or missing[2]
        return (
            f"{place}: there is no file {file}: correct its path."
            if place
            else f"There is no file {file}: correct its path."
        )
    if message.startswith("Unexpected config"):
        return f"A configuration holds {_one_line(message[18:]):.40} and must hold fields, such as `model:`."
    return None


def _first_fault(message: str) -> Fault:
    """The first field that the message gives a reason for, however deep, and all reasons at that depth."""
    headings: list[tuple[int, str]] = []
    owners: list[tuple[int, str]] = []
    fault, depth = Fault("", "", []), -1
    for line in message.splitlines():
        text = line.strip()
        if not text:
            continue
        indent = len(line) - len(text)
        if depth >= 0 and indent < depth:
            break
        headings = [each for each in headings if each[0] < indent]
        owners = [each for each in owners if each[0] < indent]
        heading, owner = _HEADING.match(text), _CLASS.search(text)
        if heading:
            headings.append((indent, heading[1]))
            text = heading[2]
        elif owner:
            owners.append((indent, owner[1]))
            continue
        text = text.removeprefix("- ")
        if not fault.place and headings:
            fault.place = headings[0][1]
        if not text or text.startswith(_NO_REASON) or (depth < 0 and "<class 'NoneType'>" in text):
            continue
        if depth < 0:
            depth = indent
            fault.place, fault.owner = ".".join(each[1] for each in headings), owners[-1][1] if owners else ""
        fault.reasons.append(text)
    return fault


def _unknown_name(reason: str) -> str | None:
    """The name that is not known, if that is the reason."""
    group, unknown = _GROUP.search(reason), _UNKNOWN.search(reason)
    if group:
        return f"{group[1]}.{group[2]}"
    return (unknown[1] or unknown[2] or unknown[3]) if unknown else None


def _explain_unknown(fault: Fault, unknown: str, names: Sequence[str]) -> str:
    where = f"{fault.place}.{unknown}" if fault.place else unknown
    if not fault.owner or any(name.startswith(f"{fault.place}.") for name in names):
        return f"There is no field {where}{nearest_field(where, names) or ': correct its name or remove it.'}"
    owner = pydoc.locate(fault.owner)
    arguments = list(inspect.signature(owner).parameters) if callable(owner) else []
    found = difflib.get_close_matches(unknown, arguments, n=1)
    remedy = f"did you mean {found[0]}?" if found else f"it has {', '.join(arguments) or 'none'}."
    return f"{fault.place}: {fault.owner.rpartition('.')[2]} has no argument {unknown}: {remedy}"


def _explain_value(
    message: str, fault: Fault, expected: Sequence[tuple[str, str | None]], known: Mapping[str, str]
) -> str:
    """A value that is none of what was expected, or that was refused for a reason of its own."""
    fields = re.search(r'Parser key "([^"]+)": Unable to load config "(.*)"', message)
    if fields:
        place = fault.place if fault.place.endswith(fields[1]) else f"{fault.place}.{fields[1]}"
        return f"{place} is {fields[2]!r}: give its fields, or a YAML file of them."
    # an error of a module that was imported stands beside all that the value is not
    real = [reason for reason in fault.reasons if not _EXPECTED.match(reason)]
    missing = re.match(r"the following arguments are required: (.*)", real[0]) if real else None
    if missing:
        return f"{fault.place}: {missing[1]} must be given, as {{{missing[1]}: ...}}."
    if real and (expected or not fault.place):
        nested = re.search(r"Given value: NestedArg\(key='([\w.]+)", message)
        return explain_broken(message, f"{fault.place}.{nested[1]}" if nested else fault.place, real[0])
    if expected or "Not a valid subclass" in message:
        given = next((value for _, value in expected if value), None) or given_value(message)
        wanted = list(dict.fromkeys(in_words(kind) for kind, _ in expected)) or ["its fields, or a YAML file of them"]
        return _explain_type(_named(fault, known), given, wanted, known.get(fault.place, ""))
    reason = fault.reasons[0] if fault.reasons else _one_line(message)
    return f"{fault.place}: {reason}" if fault.place and fault.place not in reason else reason


def _named(fault: Fault, known: Iterable[str]) -> str:
    """The field's full name; of a class that a field holds, the class and its argument."""
    if not fault.owner or fault.place in known:
        return fault.place
    place, _, argument = fault.place.rpartition(".")
    return f"{place}: {fault.owner.rpartition('.')[2]}.{argument}"


def _explain_type(place: str, given: str, wanted: Sequence[str], kind: str) -> str:
    value = given if len(given) <= 60 else f"{given[:57]}..."
    what = " or ".join(_joined(wanted))
    if kind.startswith("[") and not any("list" in each for each in wanted):
        return f"{place} holds {value!r}: each value must be {what}."
    example = "" if wanted != ["a list"] else f", such as {_as_list(given, kind)}"
    return f"{place} is {value!r}: give {what}{example}."


def _joined(wanted: Iterable[str]) -> list[str]:
    """What may be given, with all words of which one may be chosen in one place."""
    plain = [each for each in wanted if not each.startswith("one of ")]
    words = dict.fromkeys(
        word for each in wanted if each.startswith("one of ") for word in each.removeprefix("one of ").split(", ")
    )
    return [*([f"one of {', '.join(words)}"] if words else []), *plain]


def _as_list(given: str, kind: str) -> str:
    """A value as the list that was meant; where a fixed number is asked for, so many."""
    values = re.findall(r"[^\s,()\[\]]+", given) or ["..."]
    length = kind.count(",") + 1 if kind.startswith("[") and "..." not in kind else len(values)
    return f"[{', '.join(itertools.islice(itertools.cycle(values), length))}]"


def _one_line(text: str) -> str:
    return " ".join(text.split())
