"""The table that docs/gpu.md has of benchmarks/memory.py is what the script calculates."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.strip().splitlines()]


@pytest.mark.slow
def test_the_memory_of_a_step_is_what_the_docs_say() -> None:
    block = re.search(
        r"<!-- python (benchmarks/\S+) -->\n(.*?)<!-- end -->", (ROOT / "docs/gpu.md").read_text(), re.DOTALL
    )
    assert block
    done = subprocess.run(
        [sys.executable, block[1]], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    said, found = cells(block[2]), cells(done.stdout)
    assert [row[0] for row in said] == [row[0] for row in found]
    assert said[:2] == found[:2]
    for mine, theirs in zip(said[2:], found[2:], strict=True):  # another torch may keep a little more or less
        assert [float(cell) for cell in mine[1:]] == pytest.approx([float(cell) for cell in theirs[1:]], rel=0.03)
