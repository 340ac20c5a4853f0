"""Every verb at work, and while it starts, ends soon and in one line after Ctrl-C and SIGTERM."""

import signal
from pathlib import Path

import pytest

from tests.interrupts import HOW, cases, end, faults

BUSY_S = 10.0  # `python -m tests.interrupts` measures against 2 s; here other tests may run as well


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes of a group")
@pytest.mark.parametrize("how", HOW)
def test_all_end_soon_and_in_one_line(tmp_path: Path, how: signal.Signals) -> None:
    wrong = {case.name: found for case in cases(tmp_path) if (found := faults(case, how, end(case, how), BUSY_S))}
    assert wrong == {}
