"""Docstrings say what they must, read from the source of every file of the package.

The rules, beside those of ruff (``D``, Google style):

- every public module, class, function and method has a docstring;
- an ``Args`` section names exactly the parameters, in their order; a public function or class with three parameters or
  more has one. With one or two a sentence may cover them. A class's parameters are those of its constructor, or the
  fields of its dataclass, under ``Args`` or ``Attributes``. What overrides a method with a docstring, or sends its
  reader to another docstring, need not say it again;
- a function that raises an error of the package, or a ``ValueError``, in its own body says so in a ``Raises`` section,
  or with the word raise; for ``__init__`` and ``__post_init__`` the class's docstring may do it;
- a tensor or an array that goes in or comes out has its shape in the docstring, in the module's where it names axes, or
  in its own name (``rewards_pgc``);
- a number that is a default of a configuration has a source in the docstring: a paper, a repository, or that it is ours
  or not published.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "infogap"
FILES = sorted(PACKAGE.rglob("*.py"))

Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Example|Examples|Note):$", re.MULTILINE)
ENTRY = re.compile(r"^    (\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?:", re.MULTILINE)
SHAPE = re.compile(
    r"\[[^\]]*[A-Za-z0-9.][^\]]*\]|\([a-z]+(, \w+)+\)|\b[Ss]calar\b|\bof any shape\b|[Ll]ike ``\w+``|broadcast shape"
)
AXES = re.compile(r"_[a-z]{1,4}$")
SOURCE = re.compile(
    r"LFPC|DAPO|GRPO|GSPO|DeepEyes|TRL|verl|VLMEvalKit|lmms-eval|arXiv|Qwen|PyTorch|Lightning|transformers|webdataset|"
    r"[Nn]ot published|[Oo]urs?\b|[Pp]aper"
)
PACKAGE_ERRORS = {
    node.name
    for path in FILES
    for node in ast.walk(tree(path))
    if isinstance(node, ast.ClassDef) and re.match(r"[A-Z]\w*Error$", node.name)
} | {"ValueError"}

CLASSES = {node.name: node for path in FILES for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)}
"""Classes of the package by their names."""


@dataclass(frozen=True)
class Definition:
    """A public class, function or method, by its dotted name, and the class that it stands in."""

    name: str
    node: ast.ClassDef | Function
    owner: ast.ClassDef | None

    @property
    def text(self) -> str:
        return ast.get_docstring(self.node) or ""

    @property
    def place(self) -> str:
        return f"line {self.node.lineno}: {self.name}"


def definitions(path: Path) -> Iterator[Definition]:
    """What is public in a file, itself included: names without an underscore, in classes without one."""

    def inside(body: list[ast.stmt], prefix: str, owner: ast.ClassDef | None) -> Iterator[Definition]:
        for node in body:
            if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
                yield Definition(f"{prefix}{node.name}", node, owner)
                if isinstance(node, ast.ClassDef):
                    yield from inside(node.body, f"{prefix}{node.name}.", node)

    yield from inside(tree(path).body, "", None)


def decorators(node: ast.ClassDef | Function) -> set[str]:
    return {ast.unparse(each).split("(")[0].rpartition(".")[2] for each in node.decorator_list}


def sections(text: str) -> dict[str, str]:
    """The sections of a docstring by their headings."""
    parts = SECTION.split(text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def named(section: str) -> list[str]:
    """Names that a section explains, in order; one line may explain several."""
    return [name.lstrip("*") for match in ENTRY.finditer(section) for name in match[1].split(", ")]


def arguments_of(node: Function, is_method: bool) -> list[ast.arg]:
    spec = node.args
    found = [*spec.posonlyargs, *spec.args]
    if is_method and "staticmethod" not in decorators(node):
        found = found[1:]
    found += [spec.vararg] if spec.vararg else []
    found += spec.kwonlyargs
    return found + ([spec.kwarg] if spec.kwarg else [])


def inherited(each: Definition) -> str:
    """The docstring of what a method overrides in a class of the package; "" if it overrides nothing there."""
    bases = [] if each.owner is None else list(each.owner.bases)
    while bases:
        name = ast.unparse(bases.pop(0)).split("[")[0].rpartition(".")[2]
        if name in CLASSES:
            found = method(CLASSES[name], each.node.name)
            if found is not None and ast.get_docstring(found):
                return ast.get_docstring(found) or ""
            bases += CLASSES[name].bases
    return ""


def method(node: ast.ClassDef, name: str) -> Function | None:
    return next((each for each in node.body if isinstance(each, Function) and each.name == name), None)


def fields_of(node: ast.ClassDef) -> list[ast.AnnAssign]:
    """The public fields of a dataclass or of a named tuple."""
    return [
        each
        for each in node.body
        if isinstance(each, ast.AnnAssign)
        and isinstance(each.target, ast.Name)
        and not each.target.id.startswith("_")
        and "ClassVar" not in ast.unparse(each.annotation)
    ]


def is_record(node: ast.ClassDef) -> bool:
    return "dataclass" in decorators(node) or any(ast.unparse(base).endswith("NamedTuple") for base in node.bases)


def raised_in(node: Function) -> set[str]:
    """Errors of the package that a function raises itself, and does not catch in the same breath."""
    found = set()
    for each in ast.walk(node):
        if isinstance(each, ast.Raise) and isinstance(each.exc, ast.Call):
            found.add(ast.unparse(each.exc.func).rpartition(".")[2])
    return found & PACKAGE_ERRORS


every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())


@every_file
def test_what_is_public_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(tree(path)), "the module has none"
    assert not [each.place for each in definitions(path) if not each.text]


@every_file
def test_arguments_are_those_that_there_are(path: Path) -> None:
    faults = []
    for each in definitions(path):
        if isinstance(each.node, ast.ClassDef):
            if not is_record(each.node):
                constructor = method(each.node, "__init__")
                expected = [] if constructor is None else [found.arg for found in arguments_of(constructor, True)]
                faults += argument_faults(each, expected)
        else:
            expected = [found.arg for found in arguments_of(each.node, each.owner is not None)]
            faults += argument_faults(each, expected)
    assert not faults


OVERRIDES = re.compile(
    r"on_\w+|setup|teardown|\w+_step|state_dict|load_state_dict|save_checkpoint|forward|transfer_batch_to_device|"
    r"add_class_arguments|link_arguments"
)
"""Methods of Lightning, torch and jsonargparse, whose arguments are theirs to explain."""


def argument_faults(each: Definition, expected: list[str]) -> list[str]:
    """What is wrong with the section of arguments of a class's constructor or of a function."""
    explained = named(sections(each.text).get("Args", ""))
    if explained:
        return [] if explained == expected else [f"{each.place}: Args {explained}, but it has {expected}"]
    hook = each.owner is not None and OVERRIDES.fullmatch(each.node.name) is not None
    short = len(expected) <= MOST_WITHOUT_ARGS or hook or is_reference(each.text) or bool(inherited(each))
    return [] if short else [f"{each.place}: no Args, but it has {expected}"]


MOST_WITHOUT_ARGS = 2
"""Parameters that the first sentences may cover."""


def is_reference(text: str) -> bool:
    """Whether a docstring sends its reader to another one, as that of an implementation to its protocol."""
    return re.search(r"(?:[Ss]ee|[Aa]s(?: in)?|Arguments:|Like) `{1,2}\w+", text) is not None


@every_file
def test_fields_are_those_that_there_are(path: Path) -> None:
    faults = []
    for each in definitions(path):
        if not isinstance(each.node, ast.ClassDef) or not is_record(each.node):
            continue
        fields = [found.target.id for found in fields_of(each.node) if isinstance(found.target, ast.Name)]
        parts = sections(each.text)
        explained = named(parts.get("Attributes", "")) + named(parts.get("Args", ""))
        if explained and explained != fields:
            faults.append(f"{each.place}: {explained}, but its fields are {fields}")
        if not explained and len(fields) > MOST_FIELDS_WITHOUT_ATTRIBUTES:
            faults.append(f"{each.place}: no Attributes, but its fields are {fields}")
    assert not faults


MOST_FIELDS_WITHOUT_ATTRIBUTES = 4
"""Fields that the first sentences may cover, such as the four edges of a box."""


@every_file
def test_errors_are_told(path: Path) -> None:
    faults = []
    for each in definitions(path):
        told = [each.text, inherited(each)]
        makers: list[Function] = [] if isinstance(each.node, ast.ClassDef) else [each.node]
        if isinstance(each.node, ast.ClassDef):
            found = [method(each.node, name) for name in ("__init__", "__post_init__")]
            makers = [maker for maker in found if maker is not None]
            told += [ast.get_docstring(maker) or "" for maker in makers]
        raised = set().union(*map(raised_in, makers))
        missing = sorted(error for error in raised if not tells(told, error))
        if missing and not is_reference(each.text):
            faults.append(f"{each.place}: raises {missing}, and its docstring does not say when")
    assert not faults


def tells(told: list[str], error: str) -> bool:
    """Whether a docstring says when an error is raised, by its name or, for a ValueError, by that of a kind of it."""
    names = rf"(?:{error}|\w+Error)" if error == "ValueError" else error
    return any(re.search(rf"{names}:", sections(text).get("Raises", "")) for text in told) or any(
        re.search(rf"\b[Rr]aises? `*{error}|`{error}` that", text) for text in told
    )


@every_file
def test_tensors_have_shapes(path: Path) -> None:
    faults = []
    for each in definitions(path):
        if isinstance(each.node, ast.ClassDef):
            tensors = [(each.name, found.target.id) for found in fields_of(each.node) if is_tensor(found.annotation)]
            constructor = method(each.node, "__init__")
            if constructor is not None and not is_record(each.node):
                tensors += [
                    (each.name, found.arg) for found in arguments_of(constructor, True) if is_tensor(found.annotation)
                ]
        else:
            arguments = arguments_of(each.node, each.owner is not None)
            tensors = [(each.name, found.arg) for found in arguments if is_tensor(found.annotation)]
            if is_tensor(each.node.returns):
                tensors.append((each.name, "what it returns"))
        parts = sections(each.text)
        for _, name in tensors:
            own = entry_of(parts, name)
            told = own or f"{each.text} {inherited(each)}"
            if not (SHAPE.search(told) or AXES.search(name) or is_reference(each.text)):
                faults.append(f"{each.place}: {name} has no shape")
    assert not faults


def entry_of(parts: dict[str, str], name: str) -> str:
    """What a docstring says about one argument or field; "" if it has no entry."""
    if name == "what it returns":
        return parts.get("Returns", "")
    for section in ("Args", "Attributes"):
        match = re.search(
            rf"^    (?:\w+, )*{name}(?:, \w+)*:(.*(?:\n        .*)*)", parts.get(section, ""), re.MULTILINE
        )
        if match:
            return match[1]
    return ""


def is_tensor(annotation: ast.expr | None) -> bool:
    """Whether a value is a tensor or an array itself; what is in a list or a mapping is told in words."""
    if annotation is None:
        return False
    return re.fullmatch(r"(Tensor|np\.ndarray.*|Floats|NDArray.*)( \| None)?", ast.unparse(annotation)) is not None


@every_file
def test_numbers_of_a_configuration_have_a_source(path: Path) -> None:
    faults = []
    for each in definitions(path):
        if not isinstance(each.node, ast.ClassDef) or not each.node.name.endswith("Config"):
            continue
        parts = sections(each.text)
        head = SECTION.split(each.text)[0]
        for found in fields_of(each.node):
            assert isinstance(found.target, ast.Name)
            told = entry_of(parts, found.target.id)
            if is_number(found.value) and not SOURCE.search(f"{told} {head}"):
                faults.append(f"{each.place}.{found.target.id}: where is {ast.unparse(found.value)} from?")
    assert not faults


def is_number(value: ast.expr | None) -> bool:
    """Whether a default is a number that somebody chose: no switch, not 0 (nothing), and not 1 (once)."""
    if not isinstance(value, ast.Constant) or isinstance(value.value, bool):
        return False
    return isinstance(value.value, int | float) and repr(value.value) not in ("0", "0.0", "1")
