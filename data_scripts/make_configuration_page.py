"""docs/configuration.md: every field of `fit` and `test`, from signatures and docstrings.

    python data_scripts/make_configuration_page.py            # writes docs/configuration.md
    python data_scripts/make_configuration_page.py --out FILE

A test makes the page anew and compares.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from infogap.data.datamodule import ShardDataModule
from infogap.evaluation.datamodule import BenchmarkDataModule
from infogap.evaluation.module import EvaluationModule
from infogap.grpo.module import GRPOModule
from infogap.lightning_cli import TrainingCLI
from infogap.parser.fields import Field, fields_of, summary_of, without_default
from infogap.parser.help import own_fields
from infogap.resolution import ResolutionConfig

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"

INTRODUCTION = """\
# Every field of a configuration

Made by `python data_scripts/make_configuration_page.py` from the signatures and docstrings of the code; do not edit it.

A configuration is a YAML file of these fields, nested at the dots, or words of the command line (`--model.optim.lr
1e-4`). Several files may be given: a later one wins, and so does an option after it. `infogap fit --help` says the
same in a terminal, `infogap fit --config FILE --print_config=comments` prints a whole configuration with a comment at
every field. Sources are named where a default is from a paper; "not published" stands where the paper is silent.
Beside these there are the options of Lightning's trainer (`infogap fit --trainer.help`), `seed_everything` (the seed
of everything random) and `--ckpt_path` (to go on with a run).

Types: `INT`, `FLOAT`, `TEXT`, `true|false`; `a|b` is one of several words; `[INT, ...]` is a list; `CLASS` is
`{class_path: NAME, init_args: {...}}`; `FIELDS` has the fields of the rows below it, and `[FIELDS, ...]` is a list of
such, so that `sources[].root` is a field of every item; `|null` may be null. What has a default may be left out, and so
may `FIELDS`; `required` must be given.
"""


def make_page() -> str:
    """The page."""
    hidden = {*TrainingCLI.seeds, "model.seed", "data.seed"}
    parts = [INTRODUCTION, "## fit, validate"]
    for name, owner in (("model", GRPOModule), ("data", ShardDataModule), ("resolution", ResolutionConfig)):
        parts.append(_section(name, owner, hidden))
    for name, owners in TrainingCLI.classes.items():
        parts.append(f"### {name}\n\nClasses of ours that may stand there, with their arguments (`init_args`).")
        parts += [_class(owner) for owner in owners]
    parts.append("## test")
    for name, owner in (("model", EvaluationModule), ("data", BenchmarkDataModule), ("resolution", ResolutionConfig)):
        seen = name == "resolution"
        parts.append("### resolution\n\nAs for fit." if seen else _section(name, owner, {"model.seed"}))
    return "\n\n".join(parts) + "\n"


def _section(name: str, owner: type, hidden: set[str]) -> str:
    fields = [field for field in fields_of(owner, name) if field.name not in hidden]
    return f"### {name}\n\n{summary_of(owner)}\n\n{_table(fields)}"


def _class(owner: type) -> str:
    fields = own_fields(owner)
    return f"#### {owner.__name__}\n\n{summary_of(owner)}" + (f"\n\n{_table(fields)}" if fields else "")


def _table(fields: Iterable[Field]) -> str:
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for field in fields:
        default = f"`{_cell(field.default)}`" if field.default else ""
        text = without_default(field).replace("``", "`")
        rows.append(f"| `{field.name}` | `{_cell(field.kind)}` | {default} | {_cell(text)} |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    """Text that does not end a cell of a table, or its line."""
    return text.replace("|", "\\|").replace("\n", "⏎")


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description="Write the page of all fields of a configuration.")
    parser.add_argument("--out", type=Path, default=PAGE, help="where to write it (default: docs/configuration.md)")
    out: Path = parser.parse_args().out
    out.write_text(make_page())
    print(out)


if __name__ == "__main__":
    main()
