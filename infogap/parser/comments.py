"""What each field is, as a comment above it in a configuration that is printed."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping

from infogap.parser.fields import fields_of, first_sentence
from infogap.parser.help import own_fields

_KEY = re.compile(r"^( *)(- )?([A-Za-z_]\w*):(?: (.*))?$")


def texts_of(sections: Mapping[str, type], classes: Mapping[str, Iterable[type]]) -> dict[str, str]:
    """Texts by the full names of fields, and by class and argument of what a ``class_path`` names.

    Args:
        sections: classes by the name before their fields.
        classes: classes that a field may hold, by its name.
    """
    fields = [field for name, owner in sections.items() for field in fields_of(owner, name)]
    # Lightning says a page of some of its options
    short = {f.name: first_sentence(f.text) for f in fields if f.name.startswith("trainer.")}
    found = {field.name.replace("[]", ""): field.text for field in fields} | short
    for owner in (each for owners in classes.values() for each in owners):
        found |= {f"{owner.__name__}:{field.name}": field.text for field in own_fields(owner)}
    return found


def comment(written: str, texts: Mapping[str, str]) -> str:
    """A configuration with a comment above every field that is known.

    Lines that go on with a long text may look like a field, but never are one of a known name.

    Args:
        written: the configuration in YAML, in block style.
        texts: see ``texts_of``.
    """
    lines: list[str] = []
    above: list[tuple[int, str]] = []
    owners: dict[int, str] = {}  # of the class_path at each depth
    for line in written.splitlines():
        found = _KEY.match(line)
        if found:
            indent = len(found[1]) + len(found[2] or "")
            above = [each for each in above if each[0] < indent]
            inside = bool(above) and above[-1][1] == "init_args"
            path = [owners.get(above[-1][0], "")] if inside else [each[1] for each in above]
            name = (":" if inside else ".").join([*path, found[3]])
            lines += _comments(texts.get(name, ""), len(found[1]))
            above.append((indent, found[3]))
            if found[3] == "class_path" and found[4]:
                owners[indent] = found[4].rpartition(".")[2]
        lines.append(line)
    return "\n".join(lines) + "\n"


def _comments(text: str, indent: int) -> list[str]:
    start = " " * indent + "# "
    return textwrap.wrap(text, 120, initial_indent=start, subsequent_indent=start)
