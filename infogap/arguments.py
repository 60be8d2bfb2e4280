"""The words of a command: a mistake in them costs one sentence, which names the nearest thing that there is."""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn


class CommandError(ValueError):
    """A command line that means nothing; the message says what would."""


class CommandParser(argparse.ArgumentParser):
    """argparse's parser without abbreviations, which would break when an option is added, and with short errors.

    Args:
        **settings: those of `argparse.ArgumentParser`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong as one sentence.

        Raises:
            CommandError: always.
        """
        unknown = re.search(r"unrecognized arguments: (\S+)", message)
        if unknown:
            name = unknown[1].split("=")[0]
            kind = "option" if name.startswith("-") else "use for"
            raise CommandError(f"There is no {kind} {name}{nearest(name, self._option_string_actions) or self._see()}")
        missing = re.search(r"arguments are required: (.*)", message)
        if missing:
            raise CommandError(f"{missing[1]} is missing{self._see()}")
        choice = re.search(r"argument (\S+): invalid choice: '?(.*?)'? \(choose from (.*)\)", message)
        if choice:
            choices = [word.strip("'") for word in choice[3].split(", ")]
            found = difflib.get_close_matches(choice[2], choices, n=1)
            meant = f"did you mean {found[0]}? All are" if found else "give one of"
            raise CommandError(f"{choice[1]}: invalid choice: {choice[2]!r}: {meant} {', '.join(choices)}.")
        raise CommandError(f"{message.removeprefix('argument ')}{self._see()}")

    def _see(self) -> str:
        return f": see `{self.prog} --help`."


def check_command(command: str, known: Iterable[str], prog: str) -> None:
    """See that a command exists.

    Args:
        command: the word that was given.
        known: the commands that there are.
        prog: what stands before the word.

    Raises:
        CommandError: if it does not exist; the message names the nearest that does.
    """
    names = list(known)
    if command not in names:
        suggestion = difflib.get_close_matches(command, names, n=1, cutoff=0.0)[0]
        raise CommandError(
            f"There is no command `{prog} {command}`: did you mean {suggestion!r}? All are {', '.join(names)}."
        )


def check_output(flag: str, path: Path, inputs: Iterable[tuple[str, Path]]) -> None:
    """See, before any work, that a file can be written and is none of those that are read.

    Args:
        flag: the flag that names it.
        path: the file.
        inputs: what is read, each with what to call it.

    Raises:
        CommandError: if not.
    """
    folder = path.parent
    try:
        taken = path.exists()
    except OSError as error:
        raise CommandError(f"{flag} {str(path)!r} cannot be written ({error.strerror}): give another path.") from error
    for name, read in inputs:
        if taken and read.exists() and path.samefile(read):
            raise CommandError(f"{flag} {str(path)!r} is {name} itself: give another path.")
    if path.is_dir():
        raise CommandError(f"{flag} {str(path)!r} is a folder: give the path of a file in it.")
    if not folder.is_dir():
        raise CommandError(f"{flag} {str(path)!r} is in a folder that does not exist: make {str(folder)!r}.")
    if not os.access(path if taken else folder, os.W_OK):
        raise CommandError(f"{flag} {str(path)!r} cannot be written: give a path in a folder of your own.")


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most like another one, as the end of a sentence; empty if none is."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f": did you mean {found[0]}?" if found else ""
