"""The notebooks run from beginning to end without a network, define nothing, and are stored without outputs."""

import ast
import os
import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
NOWHERE = "http://127.0.0.1:9"  # nobody listens on the discard port


def read(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code(notebook: nbformat.NotebookNode) -> str:
    """All code, without IPython's own lines."""
    cells = (cell.source for cell in notebook.cells if cell.cell_type == "code")
    return "\n".join(line for cell in cells for line in cell.splitlines() if not line.startswith("%"))


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["01_data", "02_animate", "03_results"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_call_the_package_and_define_nothing(path: Path) -> None:
    tree = ast.parse(code(read(path)))
    assert not [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, DEFINITIONS)]
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert any(module.startswith("talkinghead.") for module in modules)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs_and_begin_with_prose(path: Path) -> None:
    notebook = read(path)
    assert notebook.cells[0].cell_type == "markdown"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    if path.stem == "02_animate":
        assert sum(cell.cell_type == "code" for cell in notebook.cells) == 10


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the notebooks render and write lies here; 03_results finds what 01_data has rendered."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path, data: Path, tmp_path: Path) -> None:
    notebook = read(path)
    environment = {
        **os.environ, "TALKINGHEAD_ROOT": str(data), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
        "http_proxy": NOWHERE, "https_proxy": NOWHERE, "IPYTHONDIR": str(tmp_path / "ipython"),
    }  # fmt: skip
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute(env=environment)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = Counter(kind for output in outputs for kind in output.get("data", {}))
    assert shown["image/png"] >= 4, "pictures"
    if path.stem == "02_animate":
        assert sum("<video" in output.get("data", {}).get("text/html", "") for output in outputs) == 3
        assert sorted(one.name for one in (data / "outputs/notebooks").glob("*.mp4")) == [
            "ff.mp4",
            "ft.mp4",
            "paste.mp4",
        ]
        assert "trainedAlgorithmicMedia" in str(outputs[-1]) or "TrainedAlgorithmicMedia" in str(outputs[-1])
    if path.stem == "03_results":
        (told,) = (
            found for output in outputs for found in re.findall(r"same person for (\d+)%", output.get("text", ""))
        )
        assert int(told) > 20, "people lie together far more often than by chance, which is 7 %"
