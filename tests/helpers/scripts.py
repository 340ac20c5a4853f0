"""The scripts at the checkout's root, in processes of their own: on the CPU, with one thread each."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(**variables: str) -> dict[str, str]:
    """Of a process that imports from this checkout."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), **variables}


def start(script: str, *arguments: str, **variables: str) -> subprocess.Popen:
    """Begin `python SCRIPT ARGUMENTS …` with these variables in its environment."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *arguments], cwd=ROOT, env=environment(**variables),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> str:
    """All that it printed; it has to end well."""
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output[-4000:]
    return output
