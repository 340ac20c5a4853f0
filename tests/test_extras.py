"""Who only animates needs none of the packages of training."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from talkinghead.cli.checking import EXTRAS

ROOT = Path(__file__).parents[1]
EXTRA = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["train"]
NAMES = {re.split("[><=]", one)[0] for one in EXTRA}
TRAINING = {name for name, owners in packages_distributions().items() if NAMES & set(owners)}
BLOCK = f"""
import importlib.abc, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {TRAINING}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Block())
"""
ANIMATE = """
from pathlib import Path
import talkinghead, talkinghead.cli.animate, talkinghead.cli.studio

shipped, folder = Path(talkinghead.__file__).parent / "reenactment/shipped", Path(sys.argv[1])
model = talkinghead.load("fsth_64", settings=talkinghead.Settings(max_frames=2), provenance="metadata")
for steps in (0, 1):
    person = model.learn(shipped / "portraits/anna.jpg", steps=steps)
    assert person.animate(shipped / "drivers/calm.mp4", folder / f"{steps}.mp4").video.is_file()
"""


def at_import(path: Path) -> set[str]:
    """Modules that a file imports when it is imported."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def closure(start: str) -> set[str]:
    """All modules that come with one, followed through this package."""
    found, new = set[str](), {start}
    while new:
        name = new.pop()
        if name in found:
            continue
        found.add(name)
        path = ROOT.joinpath(*name.split("."))
        files = [path.with_suffix(".py"), path / "__init__.py"] if name.startswith("talkinghead") else []
        new |= {other for file in files if file.is_file() for other in at_import(file)}
    return found


@pytest.mark.parametrize("start", ["talkinghead.api", "talkinghead.cli.animate", "talkinghead.cli.studio"])
def test_animating_imports_nothing_of_training(start: str) -> None:
    assert {"pytorch_lightning", "webdataset", "wandb"} <= TRAINING
    names = closure(start)
    assert len(names) > 40, "else this looks at nothing"
    assert not {name for name in names if name.split(".")[0] in TRAINING}


def test_the_extra_of_each_package_of_training_is_known() -> None:
    imported = {name.split(".")[0] for path in (ROOT / "talkinghead").rglob("*.py") for name in at_import(path)}
    assert {EXTRAS.get(name) for name in imported & TRAINING} == {"train"}


def test_training_without_its_packages_ends_in_one_line() -> None:
    code = BLOCK + "from talkinghead.cli.launch import imported\nimported('train', 'python train.py')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    line = r"train\.py: the package \w+ is not installed: pip install -c constraints.txt -e '\.\[train\]'\n"
    assert re.fullmatch(line, done.stderr), done.stderr


@pytest.mark.slow
def test_people_are_learned_and_animated_without_the_packages_of_training(tmp_path: Path) -> None:
    pytest.importorskip("dlib")
    command = [sys.executable, "-c", BLOCK + ANIMATE, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
