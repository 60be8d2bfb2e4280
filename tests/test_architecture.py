"""The shape of the package, read from its source: who imports whom, how long things are, and what is not called."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "infogap"
FILES = sorted(PACKAGE.rglob("*.py"))

PLAIN = {"arguments", "types", "geometry"}
ALL_BELOW = PLAIN | {"data", "episode", "policy", "rollout", "pictures", "grpo", "evaluation", "callbacks"}
ENTRIES = {"ask", "cli", "data_commands", "doctor", "export", "lightning_cli", "parser", "resolution", "viewer"}
MAY_IMPORT = {
    "__init__": set(),
    "arguments": set(),
    "types": PLAIN,
    "geometry": set(),
    "data": PLAIN,
    "episode": PLAIN | {"data"},
    "policy": set(),
    "rollout": PLAIN | {"data", "episode", "policy"},
    "pictures": PLAIN | {"data", "episode", "policy", "rollout"},
    "grpo": PLAIN | {"data", "episode", "policy", "rollout"},
    "evaluation": PLAIN | {"data", "episode", "policy", "rollout"},
    "callbacks": ALL_BELOW - {"callbacks"},
    "ask": ALL_BELOW | ENTRIES,
    "cli": ALL_BELOW | ENTRIES,
    "data_commands": ALL_BELOW | ENTRIES,
    "doctor": ALL_BELOW | ENTRIES,
    "export": ALL_BELOW | ENTRIES,
    "lightning_cli": ALL_BELOW | ENTRIES,
    "parser": {"arguments"},
    "resolution": ALL_BELOW | ENTRIES,
    "viewer": ALL_BELOW | ENTRIES,
}
"""Rooms that each room may import besides itself."""

MAY_IMPORT_LIGHTNING = (
    "grpo/",
    "data/datamodule.py",
    "evaluation/datamodule.py",
    "evaluation/module.py",
    "callbacks/",
    "lightning_cli.py",
)
MAY_NOT_IMPORT_TORCH = ("__init__.py", "types.py", "geometry.py", "episode/")
STANDARD_LIBRARY_ONLY = ("__init__.py", "arguments.py", "types.py", "geometry.py")

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 40

DOCUMENTED = sorted(f"docs/contributing/{path.name}" for path in (ROOT / "docs" / "contributing").glob("*.md"))
INVENTED = {"my_rewards.py", "few.yaml", "config.yaml", "vstar.py"}
"""Files that a page or a run makes, or that are named without their folder."""

DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml"}
"""Import names that differ from the name under which a dependency is installed."""

USED_BUT_NOT_IMPORTED = {
    "tensorboard",  # by Lightning's TensorBoardLogger
    "jsonargparse",  # by LightningCLI
}


def name_of(path: Path) -> str:
    """Path of a file below the package, as it is shown for a failing test."""
    return path.relative_to(PACKAGE).as_posix()


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> Iterator[str]:
    """Modules that a file imports anywhere, those for type checking included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno} imports relatively"
            if node.module == "infogap":
                yield from (f"infogap.{alias.name}" for alias in node.names)
            else:
                yield str(node.module)


def third_parties_of(path: Path) -> set[str]:
    tops = {module.split(".")[0] for module in imports_of(path)}
    return tops - set(sys.stdlib_module_names) - {"infogap"}


every_file = pytest.mark.parametrize("path", FILES, ids=name_of)


@every_file
def test_a_room_imports_only_what_stands_above_it(path: Path) -> None:
    room = room_of(path)
    assert room in MAY_IMPORT, f"{room} is a new room: give it a place in MAY_IMPORT and in infogap's docstring"
    used = {module.split(".")[1] for module in imports_of(path) if module.startswith("infogap.")}
    assert used - {room} <= MAY_IMPORT[room]


@every_file
def test_only_the_training_loop_knows_lightning(path: Path) -> None:
    third_parties, name = third_parties_of(path), name_of(path)
    if not name.startswith(MAY_IMPORT_LIGHTNING):
        assert not third_parties & {"lightning", "pytorch_lightning"}
    if name.startswith(MAY_NOT_IMPORT_TORCH):
        assert "torch" not in third_parties
    if name in STANDARD_LIBRARY_ONLY:
        assert not third_parties


@every_file
def test_a_file_fits_in_the_head(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES


@every_file
def test_a_function_fits_on_the_screen(path: Path) -> None:
    """Counted from `def` to the last line, without the docstring."""
    long = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first, last = node.body[0], node.end_lineno or node.lineno
            docstring = (first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(node) else 0
            lines = last - node.lineno + 1 - docstring
            if lines > MAX_FUNCTION_LINES:
                long[f"{name_of(path)}:{node.lineno} {node.name}"] = lines
    assert not long


@every_file
def test_nothing_runs_what_it_reads(path: Path) -> None:
    """No eval or exec, torch.load only for weights, and of pickle only what an unpickler that refuses names needs."""
    faults = [module for module in imports_of(path) if module.split(".")[0] in ("dill", "cloudpickle")]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "pickle":
            faults.append(f"from pickle in line {node.lineno}")
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("pickle."):
            allowed = name_of(path) == "policy/checkpoint.py" and node.attr in ("Unpickler", "UnpicklingError")
            faults += [] if allowed else [f"{ast.unparse(node)} in line {node.lineno}"]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        weights_only = any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)
        if called in ("eval", "exec", "compile", "__import__") or (called == "torch.load" and not weights_only):
            faults.append(f"{called} in line {node.lineno}")
    assert not faults


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    requirements = project["dependencies"] + extras["data"] + extras["eval"]
    declared = {re.split(r"[\[<>=!~; ]", requirement)[0] for requirement in requirements} - {"infogap"}
    imported = {DISTRIBUTIONS.get(name, name) for path in FILES for name in third_parties_of(path)}
    assert imported - declared == set(), "imported, but not declared in pyproject.toml"
    assert declared - imported - USED_BUT_NOT_IMPORTED == set(), "declared in pyproject.toml, but not imported"


def test_the_version_is_in_the_changelog() -> None:
    version = re.search(r'^__version__ = "(.+)"$', (PACKAGE / "__init__.py").read_text(), re.MULTILINE)
    assert version is not None
    assert f"## [{version[1]}]" in (ROOT / "CHANGELOG.md").read_text()


# --- the page and its picture ---


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    """The script that draws the picture."""
    name = "draw_architecture"
    spec = importlib.util.spec_from_file_location(name, ROOT / "data_scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its data classes look themselves up there
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_drawn_from_the_imports(drawing: ModuleType) -> None:
    stale = "docs/architecture.svg is stale: run python data_scripts/draw_architecture.py"
    assert (ROOT / "docs" / "architecture.svg").read_text() == drawing.draw(), stale


def test_an_edge_that_follows_from_others_is_left_out(drawing: ModuleType) -> None:
    edges = {"a": set(), "b": {"a"}, "c": {"a", "b"}, "d": {"a", "c"}}
    assert drawing.reduced(edges) == {"a": set(), "b": {"a"}, "c": {"b"}, "d": {"c"}}
    assert drawing.layers_of(edges, ["a"], ["d"]) == {"a": 0, "b": 1, "c": 2, "d": 3}
    with pytest.raises(ValueError, match=r"^The rooms .* import each other: take one import out\.$"):
        drawing.reduced({"a": {"b"}, "b": {"a"}})


def test_the_rooms_are_those_of_the_docstring_and_of_the_page(drawing: ModuleType) -> None:
    lines, entries = drawing.rooms_of_docstring()
    rooms = {room for line in lines for room in line}
    assert rooms == MAY_IMPORT.keys() - {"__init__"}
    assert set(entries) == ENTRIES - {"resolution"}
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert set(re.findall(r"^- \*\*`(\w+)`\*\*", page, re.MULTILINE)) == rooms


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md", *DOCUMENTED])
def test_what_a_page_for_contributors_names_is_there(page: str) -> None:
    """Links, files of the package, and what is said to be defined in them."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target
    for name in re.findall(r"`((?:infogap/|tests/|docs/|configs/|data_scripts/)?[\w./]+\.(?:py|md|yaml))`", text):
        assert any((base / name).exists() for base in (ROOT, PACKAGE)) or name in INVENTED, name
