"""The examples of docs/extending.md: in a checkout with their files, their tests pass and their commands compose."""

import importlib.util
import inspect
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from talkinghead.reporting import summary
from tests.test_docs import CONFIGS, ROOT, commands, overrides

TEXT = (ROOT / "docs/extending.md").read_text()
SECTIONS = re.split(r"^## ", TEXT, flags=re.M)[1:]


def files(text: str) -> dict[str, str]:
    """Path -> content of the blocks that name their file in one of their first two lines."""
    blocks = re.findall(r"```(?:python|yaml)\n(.*?)```", text, re.DOTALL)
    heads = [re.search(r"^# ([\w/]+\.(?:py|yaml))", "\n".join(block.splitlines()[:2]), re.M) for block in blocks]
    return {head[1]: block for head, block in zip(heads, blocks, strict=True) if head}


FILES = files(TEXT)
NEW = {name: content for name, content in FILES.items() if not (ROOT / name).exists()}  # others are lines to add
TESTS = [name for name in NEW if name.startswith("tests/")]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with conf/ and the files of the page, which Python and Hydra find."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    for name, content in NEW.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("talkinghead.cli.CONF", tmp_path / "conf")
    declared = eval(f"{{{FILES['talkinghead/reporting/summary.py']}}}", vars(summary))
    for name, metric in declared.items():
        monkeypatch.setitem(summary.METRICS, name, metric)
    yield tmp_path
    for name in NEW:
        sys.modules.pop(Path(name).stem, None)


@pytest.mark.parametrize("name", TESTS)
def test_the_tests_of_the_page_pass(checkout: Path, name: str) -> None:
    spec = importlib.util.spec_from_file_location(Path(name).stem, checkout / name)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tests = [test for title, test in vars(module).items() if title.startswith("test_")]
    assert tests
    for test in tests:
        test(**({"tmp_path": checkout} if "tmp_path" in inspect.signature(test).parameters else {}))


def test_the_commands_of_the_page_compose(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x.py"])
    for verb, arguments in commands(TEXT):
        with initialize_config_dir(str(checkout / "conf"), version_base="1.3"):
            compose(CONFIGS[verb], overrides(verb, arguments))


def test_every_section_has_a_whole_example() -> None:
    assert len(SECTIONS) == 5
    for section in SECTIONS:
        names = files(section)
        assert any(name.endswith(".yaml") for name in names), section[:20]
        assert any(name.startswith("tests/") for name in names), section[:20]
        assert commands(section), section[:20]
