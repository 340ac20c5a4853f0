"""The examples in docstrings run, and give what they say."""

import ast
import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDS = {"talkinghead/api.py": "dlib"}  # examples that find faces: seconds, and an extra
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def examples(path: Path) -> Iterator[tuple[str, int, str]]:
    """(name, line, docstring) of all docstrings with examples; doctest's own finder misses what a decorator wraps."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, DOCUMENTED) and ">>>" in (text := ast.get_docstring(node) or ""):
            yield getattr(node, "name", path.stem), node.body[0].lineno - 1, text


FILES = [path for path in sorted(ROOT.glob("talkinghead/**/*.py")) if any(examples(path))]
NAMES = [path.relative_to(ROOT).as_posix() for path in FILES]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in NEEDS else name for name in NAMES]
)
def test_examples_give_what_they_say(name: str) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    module = importlib.import_module(name.removesuffix(".py").replace("/", "."))
    runner, told = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE), []
    for where, line, text in examples(ROOT / name):
        test = doctest.DocTestParser().get_doctest(text, dict(vars(module)), where, name, line)
        runner.run(test, out=told.append)
    assert not runner.failures, "".join(told)
    assert runner.tries, "nothing was run"


def test_examples_are_found() -> None:
    """Else the test above would pass for nothing; these are the modules in which an example teaches most."""
    parser = doctest.DocTestParser()
    count = sum(len(parser.get_examples(text)) for path in FILES for _, _, text in examples(path))
    assert count >= 100
    teaching = {"losses", "metrics/suite", "metrics/landmarks", "metrics/motion", "metrics/frechet", "models/fsth"}
    teaching |= {"metrics/perceptual", "metrics/features", "metrics/lpips"}
    teaching |= {"reporting/intervals", "faces/landmark_image", "evaluation/frame_choice", "data/sampling", "api"}
    assert {f"talkinghead/{name}.py" for name in teaching} <= set(NAMES)
