"""The help of a command with a configuration: one sentence a field, our own fields first, at every depth."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from infogap.parser.fields import REQUIRED, Field, fields_of, first_sentence, summary_of, without_default

TRAINER_PAGE: Final = "https://lightning.ai/docs/pytorch/stable/common/trainer.html"

LONGEST_DEFAULT: Final = 100
"""Characters of a default that is printed; those of the protocol are whole pages."""

GENERAL: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "help": ("-h, --help", "Print this page."),
        "config": (
            "-c, --config FILE",
            "A YAML file of fields; several may be given, of which a later one wins, and so does an option after it.",
        ),
        "print_config": (
            "--print_config[=FLAG]",
            "Print the configuration that all other words make, as one file for --config, and exit; the flag comments "
            "says what each field is, skip_default leaves defaults out.",
        ),
        "seed_everything": ("--seed_everything INT", "The seed of everything random (default: 0)."),
        "ckpt_path": (
            "--ckpt_path PATH",
            "A checkpoint of a run of ours, or a folder of them, of which the newest is taken: fit goes on from it, "
            "validate plays its policy, and test takes --model.init_from instead.",
        ),
        "weights_only": (
            "--weights_only true|false",
            "Lightning's; of no effect, since checkpoints of ours are always read as tensors and plain values.",
        ),
        "trainer.help": ("--trainer.help", "Print the options of Lightning's trainer, one sentence each."),
    }
)
"""Options that are no fields of ours: how they are written, and what they do."""


def render(usage: str, description: str, sections: Mapping[str, type], general: Sequence[str], hidden: set[str]) -> str:
    """The page.

    Args:
        usage: the first line.
        description: what the command does, in a line or two.
        sections: the classes whose fields there are, by the name before their fields; "trainer" is named only.
        general: names of options in ``GENERAL`` that the command has.
        hidden: full names of fields that are set by others.
    """
    parts = [f"usage: {usage}", description]
    parts.append("\n".join(_entry(*GENERAL[name]) for name in general if name in GENERAL))
    for name, owner in sections.items():
        if name != "trainer":
            fields = [field for field in fields_of(owner, name) if field.name not in hidden]
            parts.append(f"{name}: {_plain(summary_of(owner))}\n{render_fields(fields)}")
    if "trainer" in sections:
        names = ", ".join(field.name.removeprefix("trainer.") for field in fields_of(sections["trainer"], "trainer"))
        intro = f"--trainer.NAME VALUE, with the names (--trainer.help says what they are, and {TRAINER_PAGE}):"
        parts.append(f"trainer: Lightning's training loop.\n{_wrapped(intro, 2)}\n{_wrapped(names, 4)}")
    return "\n\n".join(parts) + "\n"


def render_classes(classes: Mapping[str, Iterable[type]]) -> str:
    """What may stand under a field that takes classes, with the arguments of each.

    Args:
        classes: the classes, by the field's full name.
    """
    parts = []
    for name, owners in classes.items():
        lines = [f"{name}: each as {{class_path: NAME, init_args: {{...}}}}"]
        for owner in owners:
            lines.append(_entry(owner.__name__, _plain(summary_of(owner))))
            lines += [_entry(f"  {field.name} {field.kind}", _told(field)) for field in own_fields(owner)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def own_fields(owner: type) -> list[Field]:
    """The arguments of a class that its own docstring speaks of; those of a parent in another package are not ours."""
    return [field for field in fields_of(owner) if field.text]


def render_fields(fields: Iterable[Field]) -> str:
    """Fields as options, one entry each; a field that holds others is the heading of these."""
    lines = []
    for field in fields:
        if field.holds:
            lines += ["", _wrapped(f"{field.name} {field.kind}: {_plain(field.text)}", 4, first="  ")]
        else:
            lines.append(_entry(f"--{field.name} {field.kind}", _told(field)))
    return "\n".join(lines)


def render_trainer(owner: Any) -> str:
    """The options of Lightning's trainer, the first sentence of each."""
    lines = [_entry(f"--{f.name} {f.kind}", _told(f, first_sentence(f.text))) for f in fields_of(owner, "trainer")]
    return "\n".join([f"Options of Lightning's trainer; more is said at {TRAINER_PAGE}", "", *lines]) + "\n"


def _told(field: Field, text: str | None = None) -> str:
    """The sentence of a field, and its default."""
    sentence = _plain(without_default(field) if text is None else text)
    default = field.default if len(field.default) <= LONGEST_DEFAULT else "see --print_config"
    if default == REQUIRED:
        return f"{sentence.rstrip('.')} (required)."
    return f"{sentence.rstrip('.')} (default: {default})." if default else sentence


def _plain(text: str) -> str:
    """A sentence of a docstring without its marks for code, with a capital at its beginning."""
    bare = text.replace("`", "")
    return f"{bare[:1].upper()}{bare[1:]}"


def _entry(head: str, text: str) -> str:
    """An option on a line of its own, and its text below, or beside it where the option is short."""
    if len(head) <= 22:
        return _wrapped(text, 26, first=f"  {head:<24}")
    return f"  {head}\n{_wrapped(text, 10)}"


def _wrapped(text: str, indent: int, first: str | None = None) -> str:
    width = max(60, min(shutil.get_terminal_size().columns, 120))
    blank = " " * indent
    return textwrap.fill(
        text,
        width,
        initial_indent=blank if first is None else first,
        subsequent_indent=blank,
        break_long_words=False,
        break_on_hyphens=False,
    )
