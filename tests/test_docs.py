"""What README.md and docs say is there: files, sections, modules, and commands whose options exist."""

import ast
import re
import shlex
import sys
import tomllib
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from docs.hooks import REPOSITORY
from talkinghead.reenactment.inputs import file_arguments
from tests.test_architecture import LAYERS, layer
from tests.test_commands import PAGES as RUN

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("experiments/*/README.md"))]
CONFIGS = {"train": "config", "evaluate": "evaluate", "animate": "animate", "prepare": "prepare"}
FILES = ("source", "driving", "output", "checkpoint", "save_person")
pages = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def sections(text: str) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        name, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in sections(target.read_text()), link


@pages
def test_files_and_modules_are_there(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(
        r"`((?:talkinghead|conf|tests|experiments|docs|slurm|notebooks|benchmarks)/[\w./*-]+)`", text
    ):
        assert name == "conf/method/mine.yaml" or list(ROOT.glob(name)), name  # mine: what a reader would write
    for name in re.findall(r"python -m ((?:talkinghead|tests|docs)[\w.]*\w)", text):
        path = ROOT.joinpath(*name.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), name
    for name in re.findall(r"python ([\w/]+\.py)\b", text):
        assert (ROOT / name).is_file() or (page.parent / name).is_file(), name


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(verb, arguments) of the commands in blocks that name all that they need: no loops, no ellipses."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [re.search(r"python (train|evaluate|animate|prepare)\.py ([^#&|;]*)", line) for line in lines]
    given = [(match[1], shlex.split(match[2])) for match in found if match]
    return [(verb, args) for verb, args in given if not any(re.search(r"…|\$(common|row)|^<", arg) for arg in args)]


def overrides(verb: str, args: list[str]) -> list[str]:
    """What Hydra composes: of a sweep the first job."""
    folders = [args[n + 1] for n, arg in enumerate(args[:-1]) if arg == "--config-dir"]
    given = [arg.replace("$", "") for arg in args if "=" in arg]
    if "-m" in args:
        given = [
            re.sub(r"=(?:range\((\d+)\)|([^\[,]+),.*)$", lambda match: f"={match[1] or match[2]}", arg) for arg in given
        ]
    paths = [f"hydra.searchpath=[file://{ROOT / folder}]" for folder in folders]
    return [*(file_arguments(given, FILES) if verb == "animate" else given), *paths]


@pytest.mark.slow
@pages
def test_options_of_commands_exist(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if str(page.relative_to(ROOT)) in (*RUN, "docs/extending.md"):
        return  # tests/test_commands.py runs them; tests/test_extending.py has the files that they need
    monkeypatch.setattr(sys, "argv", ["x.py"])
    for verb, args in commands(page.read_text()):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            compose(CONFIGS[verb], overrides(verb, args))


def test_commands_are_found() -> None:
    """Else the test above would pass for nothing."""
    counts = {page.name: len(commands(page.read_text())) for page in PAGES[:6]}
    assert counts["README.md"] >= 12
    assert sum(len(commands(page.read_text())) for page in PAGES) >= 35


def test_the_map_shows_every_package_and_module_from_base_to_top() -> None:
    """docs/architecture.md against the layers that tests/test_architecture.py enforces."""
    block = re.search(r"```\n(conf/.*?)```", (ROOT / "docs/architecture.md").read_text(), re.DOTALL)
    assert block
    drawn = [name for line in block[1].splitlines() for name in re.findall(r"^    ((?:\w+(?:/|\.py) ?)+)", line)]
    names = [name.removesuffix("/").removesuffix(".py") for part in drawn for name in part.split()]
    there = {path.stem for path in (ROOT / "talkinghead").glob("*.py")} - {"__init__", "__main__"}
    there |= {path.parent.name for path in (ROOT / "talkinghead").glob("*/__init__.py")}
    assert sorted(names) == sorted(there)
    packages = [name for name in names if (ROOT / "talkinghead" / name).is_dir()]
    assert [layer(name) for name in packages] == sorted(map(layer, packages))


def test_the_drawing_shows_the_layers() -> None:
    block = re.search(r"```mermaid\n(.*?)```", (ROOT / "docs/architecture.md").read_text(), re.DOTALL)
    assert block
    labels = dict(re.findall(r'(\w+)\["([^"]+)"\]', block[1]))
    bare = re.sub(r'\["[^"]+"\]', "", block[1])
    order: list[str] = []
    for line in (line.split("-->") for line in bare.splitlines() if "-->" in line):
        order += [node.strip() for node in line if node.strip() not in order]
    drawn = [set(labels.get(node, node).split(", ")) for node in order]
    assert drawn == [names for names in LAYERS if names != {"__main__"}]


def test_version_and_repository_are_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["repository-code"]) == (project["version"], project["urls"]["Repository"])
    assert project["urls"]["Repository"] == REPOSITORY


def test_the_drawing_of_the_readme_shows_packages_that_are_there_and_no_circle() -> None:
    """What is made in one goes to the next; docs/architecture.md says who may import whom."""
    block = re.search(r"```mermaid\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block
    assert block[1].count("\n") <= 12
    arrows: dict[str, set[str]] = {}
    for line in block[1].splitlines()[1:]:
        sides = [set(re.findall(r"\w+", side)) for side in re.sub(r'\["[^"]+"\]', "", line).split("-->")]
        for before, after in pairwise(sides):
            for name in after:
                arrows.setdefault(name, set()).update(before)
    labels = ", ".join(label.split(":")[0] for label in re.findall(r'\["([^"]+)"\]', block[1])).split(", ")
    for name in {*arrows, *labels} - {"conf/"}:
        assert (ROOT / "talkinghead" / name).is_dir() or (ROOT / f"talkinghead/{name}.py").is_file(), name
    TopologicalSorter(arrows).prepare()  # raises CycleError


def test_the_api_page_lists_what_is_there() -> None:
    """mkdocstrings leaves out, without a word, members that do not exist or have no docstring."""
    blocks = re.findall(r"^::: (talkinghead[\w.]*)((?:\n    .*)*)", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    assert len(blocks) >= 30
    for name, options in blocks:
        module, _, own = name.rpartition(".")
        path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
        listed = re.findall(r"\w+", re.search(r"members: \[(.*)\]", options)[1]) if "members:" in options else []
        if not path.is_file():
            path, listed = ROOT.joinpath(*module.split(".")).with_suffix(".py"), [own]
        parts = {
            node.name: ast.get_docstring(node)
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.ClassDef | ast.FunctionDef)
        }
        assert all(parts.get(member) for member in listed), (name, listed)
