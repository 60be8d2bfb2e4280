"""``infogap doctor``: what this machine can run, and what a configuration would take on it.

What is imported needs torch and Lightning, so it is imported when the words have been read.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from infogap.arguments import CommandError, CommandParser, nearest

if TYPE_CHECKING:
    from infogap.doctor.findings import Finding

DESCRIPTION: Final = """\
Say what this machine can run. With the words of `infogap fit`, also what that run would take: memory, disk and time, by
arithmetic; nothing is loaded and nothing is written. The exit status is 1 if something cannot work.

  infogap doctor --config configs/stage1.yaml --config configs/model/qwen2_5_vl_7b.yaml --hardware h100
"""


def main(words: Sequence[str]) -> None:
    """Run ``infogap doctor``; ends with exit status 1 if something cannot work.

    Args:
        words: the words after the command: those of ``fit``, and ``--hardware NAME``.

    Raises:
        CommandError: if there is no such hardware, or `--hardware` is misspelt.
        SystemExit: with status 1 for a problem; with status 2 if the parser of ``fit`` refuses a word.
    """
    parser = _make_parser()
    chosen, rest = parser.parse_known_args(list(words))
    for name in (word.partition("=")[0] for word in rest):
        meant = nearest(name, ["--hardware"]) if name.startswith("--") and "." not in name else ""
        if meant:
            raise CommandError(f"There is no option {name}{meant}")
    from infogap.doctor.findings import Level, render
    from infogap.doctor.hardware import TABLE
    from infogap.doctor.machine import devices, look_at_machine
    from infogap.doctor.packages import look_at_packages

    if chosen.hardware is not None and chosen.hardware not in TABLE:
        near = difflib.get_close_matches(chosen.hardware, TABLE, n=1, cutoff=0.0)[0]
        known = ", ".join(TABLE)
        raise CommandError(f"--hardware {chosen.hardware} is not known: did you mean {near!r}? Known are {known}.")
    run = None
    if rest:
        from infogap.doctor.reading import read_run

        run = read_run(rest)
    here = devices("auto" if run is None else str(run.accelerator))
    found = [*look_at_packages(), *look_at_machine(here, Path("runs") if run is None else run.folder)]
    print(render("this machine", found))
    if run is not None:
        from infogap.doctor.run import look_at_run

        of_run = look_at_run(run, here, TABLE.get(chosen.hardware))
        print(f"\n{render('this run', of_run)}")
        found += of_run
    print(f"\n{_verdict(found)}")
    if any(each.level is Level.PROBLEM for each in found):
        sys.exit(1)


def _make_parser() -> CommandParser:
    parser = CommandParser(
        prog="infogap doctor",
        usage="infogap doctor [--config FILE ...] [--KEY VALUE ...] [--hardware NAME]",
        description=DESCRIPTION,
        epilog="All other words are those of fit: `infogap fit --help` lists them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--hardware",
        metavar="NAME",
        help="plan for devices of this kind, such as h100, h200 or a100, instead of this machine's; --trainer.devices "
        "says how many (default: this machine's)",
    )
    return parser


def _verdict(found: Sequence[Finding]) -> str:
    problems = [each.subject for each in found if each.level == "problem"]
    warnings = sum(each.level == "warning" for each in found)
    if problems:
        return f"This cannot work: {', '.join(dict.fromkeys(problems))}."
    return f"Nothing speaks against it; {warnings} warning(s)."
