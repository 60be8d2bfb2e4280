"""What the doctor has found: lines of a report, and whether anything cannot work."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad something is."""

    FINE = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        subject: what was looked at, a word or two.
        text: what was found; for a warning or a problem also what to do.
        level: how bad it is.
    """

    subject: str
    text: str
    level: Level = Level.FINE


def warning(subject: str, text: str) -> Finding:
    """Something that works, but not well."""
    return Finding(subject, text, Level.WARNING)


def problem(subject: str, text: str) -> Finding:
    """Something that cannot work."""
    return Finding(subject, text, Level.PROBLEM)


def render(title: str, findings: Iterable[Finding]) -> str:
    """A part of the report: its title, and a line for every finding."""
    lines = [title]
    for found in findings:
        mark = "" if found.level is Level.FINE else f"{found.level.upper()}: "
        start = f"  {found.subject:<20}"
        lines.append(textwrap.fill(f"{mark}{found.text}", 120, initial_indent=start, subsequent_indent=" " * 22))
    return "\n".join(lines)
