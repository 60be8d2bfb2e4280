"""``infogap data COMMAND``: shards are made, looked at, filtered and taken apart again.

Each command's code is imported when it is called, so that looking at shards does not wait for what trains on them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from infogap.arguments import CommandError, CommandParser, check_command

OVERVIEW: Final = """\
usage: infogap data COMMAND ...

  convert   a published training set to shards: infogap data convert SOURCE ROOT OUT
  check     every sample of some shards, and a contact sheet: infogap data check SHARDS
  filter    shards without the samples that should not train: infogap data filter SHARDS OUT
  unpack    shards to JSON lines and a folder of images: infogap data unpack SHARDS OUT
  index     the index of a folder of shards: infogap data index FOLDER
  report    what resolution selection found: infogap data report MANIFEST

infogap data COMMAND --help lists the options of a command."""


def main(words: Sequence[str]) -> None:
    """Run ``infogap data``.

    Args:
        words: those after the word ``data``.

    Raises:
        CommandError: if there is no such command.
        ValueError: if what the command was given cannot be used.
        OSError: likewise.
        SystemExit: with status 1, if ``check`` found errors.
    """
    command = words[0] if words else "--help"
    if command in ("-h", "--help"):
        print(OVERVIEW)
        return
    check_command(command, COMMANDS, "infogap data")
    COMMANDS[command](words[1:])


def _check(words: Sequence[str]) -> None:
    from infogap.data_commands import check

    check.main(words)


def _filter(words: Sequence[str]) -> None:
    from infogap.data_commands import filter_shards

    filter_shards.main(words)


def _convert(words: Sequence[str]) -> None:
    from infogap.data.convert import command

    command.main(words)


def _unpack(words: Sequence[str]) -> None:
    from infogap.data.convert import command

    command.unpack_main(words, "infogap data unpack")


def _index(words: Sequence[str]) -> None:
    from infogap.data.indexing import index_shards

    parser = CommandParser(
        prog="infogap data index",
        description="Write the index of shards that another tool has made, or changed.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder that holds the shards")
    chosen = parser.parse_args(words)
    entries = index_shards(chosen.folder)
    samples = sum(entry.samples for entry in entries)
    print(f"The index of {chosen.folder} is written: {samples:,} samples in {len(entries):,} shards.")


def _report(words: Sequence[str]) -> None:
    from infogap.data.manifest import load_manifest
    from infogap.resolution import SelectionReport

    parser = CommandParser(
        prog="infogap data report",
        description="How many samples got which view, and how many got none.",
    )
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="a resolution.jsonl")
    chosen = parser.parse_args(words)
    if not chosen.manifest.is_file():
        raise CommandError(f"There is no manifest {chosen.manifest}: give the file of a resolution selection.")
    print(SelectionReport.of(load_manifest(chosen.manifest).values(), {}).render())


COMMANDS: Final[Mapping[str, Callable[[Sequence[str]], None]]] = MappingProxyType(
    {
        "convert": _convert,
        "check": _check,
        "filter": _filter,
        "unpack": _unpack,
        "index": _index,
        "report": _report,
    }
)
"""The commands by name, in the order of the overview."""
