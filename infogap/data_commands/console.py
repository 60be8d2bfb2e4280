"""What the commands show: text of fixed width where there is no terminal, and a bar where there is one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeVar

from rich.console import Console
from rich.progress import track

WIDTH: Final = 160
"""Characters of a line where the output is no terminal, which has no width: the table of problems has five columns."""

Item = TypeVar("Item")


def make_console() -> Console:
    """Standard output."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def say(console: Console, text: str) -> None:
    """Show a text as it is, on one line for each of its own."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def watched(items: Iterable[Item], name: str) -> Iterable[Item]:
    """The items, with a bar on standard error if that is a terminal."""
    console = Console(stderr=True)
    return track(items, name, console=console, transient=True, disable=not console.is_terminal)
