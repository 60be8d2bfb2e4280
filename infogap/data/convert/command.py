"""``infogap data convert SOURCE ROOT OUT``: a published training set as shards, and shards back as files."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args, get_type_hints

from infogap.arguments import CommandParser
from infogap.data.convert.convert import ConvertConfig, convert
from infogap.data.convert.registry import SOURCES
from infogap.data.convert.source import Source
from infogap.data.convert.writer import ConvertError

MIB = 1 << 20


def main(arguments: Sequence[str], prog: str = "infogap data convert") -> None:
    """Run the command.

    Args:
        arguments: those after the word ``convert``.
        prog: what the help calls the command.

    Raises:
        ConvertError: if one of the two folders lies in the other.
        ValueError: see `convert` and `unpack`.
        OSError: likewise.
    """
    if arguments[:1] == ["unpack"]:
        unpack_main(arguments[1:], f"{prog} unpack")
        return
    chosen = _make_parser(prog).parse_args(arguments)
    _check_apart(chosen.root, chosen.out)
    options = {name: getattr(chosen, name) for name in _options(SOURCES[chosen.source])}
    source = SOURCES[chosen.source](chosen.root, **options)
    shard_bytes = chosen.shard_mib * MIB
    config = ConvertConfig(shard_bytes, chosen.samples_per_shard, chosen.max_side, chosen.limit)
    report = convert(source, chosen.out, config)
    print(report.render())
    print(f"\n{chosen.out} holds the shards. `infogap data check {chosen.out}` looks at every sample.")


def _make_parser(prog: str) -> CommandParser:
    parser = CommandParser(
        prog=prog,
        description="Write a published training set as shards. Images are copied byte for byte. After a kill the same "
        "command goes on where it stopped.",
    )
    commands = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")
    for name, source in SOURCES.items():
        _add_source(commands, name, source)
    # for the overview alone: `unpack_main` reads its arguments
    commands.add_parser("unpack", help="the way back: shards to samples.jsonl and a folder of images")
    return parser


def _check_apart(root: Path, out: Path) -> None:
    """Raise if what is written could be taken for what is read, now or by a later conversion."""
    read, written = root.resolve(), out.resolve()
    if read.is_relative_to(written) or written.is_relative_to(read):
        raise ConvertError(f"One of ROOT ({root}) and OUT ({out}) lies in the other: give a folder beside ROOT as OUT.")


def _add_source(commands: Any, name: str, source: type[Source]) -> None:
    """One sub-command. Its help is the docstring of the source."""
    text = inspect.cleandoc(source.__doc__ or "").replace("``", "`")
    about = re.split(r"\n+(?:Args|Attributes|Raises):\n", text)[0]
    parser = commands.add_parser(
        name,
        help=about.partition("\n")[0].replace("%", "%%"),
        description=f"{about}\n\nLicence of the data: {source.licence}. Origin: {source.origin}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help=_help_of(source, "root"))
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the shards; must hold none")
    for option, kind in _options(source).items():
        parser.add_argument(
            f"--{option.replace('_', '-')}",
            type=kind,
            default=inspect.signature(source).parameters[option].default,
            choices=list(kind) if issubclass(kind, StrEnum) else None,
            metavar="FILE" if kind is Path else None,
            help=_help_of(source, option),
        )
    _add_settings(parser)


def _add_settings(parser: CommandParser) -> None:
    default = ConvertConfig()
    parser.add_argument(
        "--shard-mib",
        type=int,
        default=default.shard_bytes // MIB,
        metavar="N",
        help="largest size of a shard in MiB (default: %(default)s)",
    )
    parser.add_argument(
        "--samples-per-shard",
        type=int,
        default=default.samples_per_shard,
        metavar="N",
        help="most samples of a shard (default: %(default)s)",
    )
    parser.add_argument(
        "--max-side",
        type=int,
        metavar="N",
        help="scale images down whose longer side has more pixels, and their boxes alike; these are stored as JPEG, "
        "which loses detail, whatever they were (default: copy all as they are)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="read only the first N rows, for a look (default: all)")


def _options(source: type[Source]) -> Mapping[str, type]:
    """What the constructor of a source takes besides the root, which may be left out: paths, and words of a few."""
    hints = get_type_hints(source.__init__)
    names = [name for name in inspect.signature(source).parameters if name != "root"]
    return {name: next(iter(get_args(hints[name])), hints[name]) for name in names}  # Path of `Path | None`


def _help_of(source: type[Source], argument: str) -> str:
    """What the docstring of a source, or of the class that it takes its constructor from, says of an argument."""
    for kind in source.__mro__:
        section = re.search(r"\n\s*Args:\n(.*?)(?:\n\n|\Z)", kind.__doc__ or "", re.DOTALL)
        found = section and re.search(rf"(?m)^\s+{argument}: (.*(?:\n(?!\s*\w+: ).*)*)", section[1])
        if found:
            return " ".join(found[1].split()).removesuffix(".").replace("``", "`").replace("%", "%%")
    return "the files of the data set, as they were downloaded: a table, or the folder that holds it"


def unpack_main(words: Sequence[str], prog: str) -> None:
    """Run the command that takes shards apart.

    Args:
        words: its arguments.
        prog: what the help calls the command.

    Raises:
        ValueError: see `unpack`.
        OSError: likewise.
    """
    from infogap.data.convert.unpack import unpack  # reading shards needs torch, which writing them does not

    parser = CommandParser(
        prog=prog,
        description="Write shards as samples.jsonl and a folder of images, byte for byte.",
    )
    parser.add_argument("shards", metavar="SHARDS", help="a folder of shards, a shard, or a glob pattern")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write; must not exist")
    chosen = parser.parse_args(words)
    print(f"{chosen.out} holds {unpack(chosen.shards, chosen.out):,} samples.")
