"""What docstrings list is there: `Args:` names parameters, `Attributes:` fields, one a line, as tools read them."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "talkinghead"
ENTRY = re.compile(r"^    (\S[^:]*): ", re.M)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def section(node: Function | ast.ClassDef, title: str) -> list[str]:
    """The names that a section of the docstring lists."""
    text = ast.get_docstring(node) or ""
    match = re.search(rf"^{title}:\n((?:    .*\n?|\n(?=    ))+)", text, re.M)
    return ENTRY.findall(match[1]) if match else []


def parameters(function: Function) -> set[str]:
    given = function.args
    return {one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg) if one}


def fields(node: ast.ClassDef) -> set[str]:
    """Annotated names of the class, and what its methods set on self."""
    annotated = {
        one.target.id for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
    }
    plain = {
        name.id
        for one in node.body
        if isinstance(one, ast.Assign)
        for name in one.targets
        if isinstance(name, ast.Name)
    }
    properties = {one.name for one in node.body if isinstance(one, Function)}
    own = {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)}
    return annotated | plain | properties | own


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_listed_is_there(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Function):
            assert set(section(node, "Args")) <= parameters(node), node.name
        elif isinstance(node, ast.ClassDef):
            makers = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
            named = set(section(node, "Args"))
            assert named <= (parameters(makers[0]) if makers else fields(node)), node.name
            assert set(section(node, "Attributes")) <= fields(node), node.name
