"""Who may import whom: the packages form layers, and frameworks stay where they belong."""

import ast
import tomllib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "talkinghead"
LAYERS = [  # each may import those before it
    {"names", "processes", "types"},
    {"storage", "terminal", "progress", "precision", "machine", "options", "losses"},
    {"downloads"},
    {"pretrained"},
    {"images", "pixels", "provenance"},
    {"video", "models"},
    {"faces"},
    {"data"},
    {"metrics"},
    {"preparation", "synthetic", "reenactment", "callbacks"},
    {"learners"},
    {"evaluation"},
    {"reporting"},
    {"study"},
    {"api"},
    {"studio"},
    {"tools", "cli"},
    {"__main__"},
]
COMMANDS = {Path("studio/__main__.py")}  # three lines that start a verb
LIGHTNING = {Path("data/datamodule.py"), Path("reporting/sweep_table.py")}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Dotted names of every module that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write the whole name instead of a relative import"
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part(dotted: str) -> str:
    """`talkinghead.data.shards` -> `data`."""
    return dotted.split(".")[1] if "." in dotted else ""


def layer(name: str) -> int:
    return next(n for n, names in enumerate(LAYERS) if name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__" or path.relative_to(PACKAGE) in COMMANDS:
        return
    for name in sorted(n for n in imported(path) if n.startswith("talkinghead.")):
        other = part(name)
        assert other == own or layer(other) < layer(own), f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_frameworks_stay_where_they_belong(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)}
    where = path.relative_to(PACKAGE)
    config = {"hydra", "omegaconf", "wandb"}
    assert where.parts[0] == "cli" or not roots & config, f"{path}: configuration and services stay outside the package"
    if where.parts[0] not in ("learners", "callbacks", "evaluation", "cli") and where not in LIGHTNING:
        assert not roots & {"pytorch_lightning", "lightning", "lightning_fabric"}, f"{path} must not need Lightning"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_say_what_they_are_and_stay_short(path: Path) -> None:
    text = path.read_text()
    assert text.startswith('"""'), f"{path}: line 1 says what the file is"
    assert text.count("\n") <= 400, f"{path}: split it, it has more than one idea"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_stay_short(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[ast.get_docstring(node) is not None :] or node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1
            assert lines <= 35, f"{path}: {node.name} has {lines} lines: which of its ideas has a name of its own?"


def test_types_imports_torch_only() -> None:
    roots = {name.split(".")[0] for name in imported(PACKAGE / "types.py")}
    assert roots <= {"collections", "typing", "jaxtyping", "torch"}


def test_the_wheel_has_every_package() -> None:
    listed = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {".".join(path.parent.relative_to(PACKAGE.parent).parts) for path in PACKAGE.rglob("__init__.py")}
    assert {*listed} == {*there, "talkinghead.conf"}
