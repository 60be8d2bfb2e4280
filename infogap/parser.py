"""The command line's parser: a mistake in the configuration costs one sentence, not a page of usage and types."""

from __future__ import annotations

import inspect
import pydoc
import re
import sys
from collections.abc import Iterable
from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from infogap.arguments import nearest

_UNKNOWN_OPTION = re.compile(r"Option '([^']+)' is not accepted|does not accept option '([^']+)'")
_NOTHING = "Expected a <class 'NoneType'>"
"""What jsonargparse says of every field that may also be null."""


class InfogapParser(LightningArgumentParser):
    """Lightning's parser with short errors."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong as one line and exit with status 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        options = [option for action in self._actions for option in action.option_strings]
        sys.stderr.write(f"error: {explain(message, options)}\n")
        sys.exit(2)


def explain(message: str, options: Iterable[str] = ()) -> str:
    """One sentence for a message of jsonargparse.

    Args:
        message: the message; it may have many lines, one for every type that a value was tried as.
        options: option strings of the command, among which the nearest to an unknown one is looked for.
    """
    unrecognized = re.search(r"unrecognized arguments: (\S+)", message, re.IGNORECASE)
    if unrecognized:
        name = unrecognized[1].split("=")[0]
        return f"There is no option {name}{nearest(name, options) or ': see --help for those that there are.'}"
    key = re.search(r'[Pp]arser key "([^"]+)"', message)
    place = key[1] if key else ""
    unknown = _UNKNOWN_OPTION.search(message)
    if unknown:
        name = unknown[1] or unknown[2]
        where = f"{place}.{name}" if place else name
        return f"There is no field {where}{nearest(name, _fields(message)) or ': correct its name or remove it.'}"
    reason = _reason(message)
    return f"{place}: {reason}" if place and place not in reason else reason


def _fields(message: str) -> list[str]:
    """Names of the fields of the class that the message speaks of."""
    path = re.search(r"given class_path '([\w.]+)'", message)
    owner = pydoc.locate(path[1]) if path else None
    return list(inspect.signature(owner).parameters) if callable(owner) else []


def _reason(message: str) -> str:
    """The first reason, without the value, which may be long, and without the other types that were tried.

    Where a field of a field is at fault the reasons are nested, and the first that is a reason and no heading counts.
    """
    reasons = re.split(r"\n\s*Given value", message)[0]
    headings: list[str] = []
    for tried in re.split(r"\n\s*- ", reasons.split("Errors:", 1)[1]) if "Errors:" in reasons else ():
        headings += re.findall(r'Parser key "([^"]+)":', tried)
        text = _one_line(re.sub(r'Parser key "[^"]+":', "", tried))
        if text and _NOTHING not in tried and "Does not validate against" not in text:
            return ": ".join([*headings, text])
    return re.sub(r'Parser key "([^"]+)":', r"\1:", _one_line(reasons))


def _one_line(text: str) -> str:
    lines = (line.strip() for line in text.splitlines())
    joined = " ".join(line for line in lines if line and not line.startswith("Problem with given class_path"))
    return re.sub(r"<class '([^']+)'>", r"\1", joined)
