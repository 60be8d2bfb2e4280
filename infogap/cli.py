"""``infogap fit --config configs/stage1.yaml``: the command line.

What a command needs is imported when it is called, since Lightning alone takes seconds to import.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import infogap
from infogap.arguments import check_command

OVERVIEW = """\
usage: infogap COMMAND [--config FILE ...] [--KEY VALUE ...]

  fit       train: infogap fit --config configs/stage1.yaml
  validate  greedy episodes on the validation shards
  test      evaluate: infogap test --config configs/eval/vstar.yaml --model.init_from PATH --data.root PATH
  compare   one table of several results, with paired differences: infogap compare FOLDER FOLDER
  export    a Hugging Face folder of a trained policy: infogap export CHECKPOINT OUT
  data      shards: convert, check, filter, unpack, index, report: infogap data check SHARDS
  view      the episodes of a run as one HTML page: infogap view runs/stage1
  ask       play one episode: infogap ask IMAGE "question"
  doctor    what this machine can run: infogap doctor --config configs/stage1.yaml

infogap COMMAND --help lists the options of a command."""

TRAINER_COMMANDS: Final = ("fit", "validate", "test")
"""Commands that Lightning runs."""

MODULES: Final = {
    "compare": "infogap.evaluation.compare",
    "export": "infogap.export",
    "data": "infogap.data_commands",
    "view": "infogap.viewer",
    "ask": "infogap.ask",
    "doctor": "infogap.doctor",
}
"""The other commands, and the modules whose ``main`` runs them."""


def main(args: Any = None) -> None:
    """Run the command line.

    Run as a program, a mistake in the configuration or the data that this package found costs one line and the exit
    status 2. Any other error, and every error of a call from Python, comes as it is.

    Args:
        args: arguments instead of those of the process, for use from Python.
    """
    if args is not None:
        _run(args)
        return
    for stream in (sys.stdout, sys.stderr):  # what a terminal has no letter for is written as an escape
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with short_errors(), quiet_end():
        _run(sys.argv[1:])


@contextmanager
def quiet_end() -> Iterator[None]:
    """Whoever reads the output may stop, as ``head`` does: that ends the program without a word, as others end."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        sys.exit(128 + signal.SIGPIPE)


@contextmanager
def short_errors() -> Iterator[None]:
    """A mistake that this package found costs the program one line and the exit status 2."""
    try:
        yield
    except Exception as error:
        mistake = _mistake(error)
        if mistake is None:
            raise
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(2)


def _run(args: Any) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    words = args if isinstance(args, list) else []
    command = words[0] if words else ""
    if command in ("-h", "--help") or args == []:
        print(OVERVIEW)
    elif command in MODULES:
        importlib.import_module(MODULES[command]).main(words[1:])
    else:
        if command and not command.startswith("-"):
            check_command(command, [*TRAINER_COMMANDS, *MODULES], "infogap")
        from infogap import lightning_cli

        lightning_cli.run(args)


def _mistake(raised: Exception) -> str | None:
    """What the error says if this package raised it, else that of this package behind it: the parser wraps a config's.

    An error of a DataLoader's worker is raised anew with its traceback as its text, whose last line is the message.
    """
    if type(raised).__name__ == "MisconfigurationException":  # Lightning's, such as more GPUs than there are
        return " ".join(str(raised).split())
    if not isinstance(raised, ValueError | OSError):
        return None
    if isinstance(raised, OSError) and raised.filename and raised.strerror:  # a disk that is full, a folder of others
        return f"{raised.strerror}: {raised.filename}"
    package = Path(infogap.__file__).resolve().parent
    error: BaseException | None = raised
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        if frames and Path(frames[-1].filename).resolve().is_relative_to(package):
            return str(error)
        if type(error).__module__.startswith("infogap."):
            return str(error).splitlines()[-1].partition(": ")[2]
        error = error.__cause__ or error.__context__
    return None


if __name__ == "__main__":
    main()
