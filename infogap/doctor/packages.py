"""Versions of packages against the bounds that the installed package was declared with."""

from __future__ import annotations

import operator
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import Final

from infogap.doctor.findings import Finding, problem, warning

_REQUIREMENT: Final = re.compile(r"^([\w.-]+)(?:\[[^\]]*\])?\s*\(?([^;)]*)\)?\s*(?:;\s*(.*))?$")
_EXTRA: Final = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")
_COMPARE: Final[Mapping[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
EXTRAS: Final[Mapping[str, str]] = {
    "pyarrow": "parquet files: training sets and benchmarks",
    "matplotlib": "plots of `infogap test`",
}
"""Packages that only some commands need, and for what."""


def look_at_packages() -> list[Finding]:
    """Python and the packages: what is installed, and what is out of the declared bounds."""
    try:
        needed = str(metadata("infogap").json.get("requires_python", ""))
        declared = list(_declared())
    except PackageNotFoundError:
        return [warning("packages", "infogap is not installed, so that no bounds are known: run `pip install -e .`.")]
    found = [_python(needed)]
    fine = []
    for name, bounds, extra in declared:
        if extra and name not in EXTRAS:
            continue
        try:
            installed = version(name)
        except PackageNotFoundError:
            found.append(_missing(name, extra))
            continue
        if within(installed, bounds):
            fine.append(f"{name} {installed}")
        else:
            found.append(
                warning(name, f"{installed} is installed, and {bounds} was tested: run `pip install '{name}{bounds}'`.")
            )
    return [*found, Finding("packages", ", ".join(fine))]


def within(installed: str, bounds: str) -> bool:
    """Whether a version lies within bounds such as ">=2.6.4,<2.7"; letters in a version are not looked at.

    Args:
        installed: the version.
        bounds: comparisons, joined by commas; empty for none.
    """
    have = _release(installed)
    for bound in filter(None, (each.strip() for each in bounds.split(","))):
        parts = re.match(r"(>=|<=|==|!=|<|>)\s*([\w.+-]+)$", bound)
        if parts is None:
            continue
        wanted = _release(parts[2])
        length = max(len(have), len(wanted))
        padded = [each + (0,) * (length - len(each)) for each in (have, wanted)]
        if not _COMPARE[parts[1]](*padded):
            return False
    return True


def _declared() -> Iterator[tuple[str, str, str]]:
    """Name, bounds and extra of every declared package."""
    for line in requires("infogap") or []:
        parts = _REQUIREMENT.match(line.strip())
        if parts is not None and parts[1] != "infogap":
            extra = _EXTRA.search(parts[3] or "")
            yield parts[1], parts[2].strip(), extra[1] if extra else ""


def _python(needed: str) -> Finding:
    here = platform.python_version()
    if within(here, needed):
        return Finding("python", f"{here} on {platform.system()} {platform.machine()}")
    return problem("python", f"{here} is too old or too new for {needed}: make an environment with another Python.")


def _missing(name: str, extra: str) -> Finding:
    if not extra:
        return problem(name, "is not installed, and everything needs it: run `pip install -e .`.")
    return warning(name, f"is not installed, so there is no {EXTRAS[name]}: run `pip install -e '.[{extra}]'`.")


def _release(text: str) -> tuple[int, ...]:
    """Numbers of a version up to the first part that is none: "2.13.0+cpu" is (2, 13, 0)."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()
