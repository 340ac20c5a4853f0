"""Programs that are told to end: one line, their exit code, at once."""

import os
import subprocess
import sys

import pytest

from talkinghead.processes import stopped

TOLD = """
import atexit, os, signal, time
from talkinghead.processes import program

class Slow:
    def __del__(self):
        print("taken apart")

kept = Slow()
atexit.register(print, "put away")
program("verb.py")
os.kill(os.getpid(), signal.{how})
time.sleep(60)
"""


@pytest.mark.parametrize(("how", "code", "said"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_a_program_ends_with_one_line_and_without_taking_itself_apart(how: str, code: int, said: str) -> None:
    text = TOLD.format(how=how)
    ended = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, timeout=50)
    assert ended.returncode == code
    assert ended.stderr.startswith(f"verb.py: {said}; ")
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == "put away\n"  # what has registered for the end is called


def test_a_mistake_in_a_program_is_still_shown() -> None:
    text = 'from talkinghead.processes import program\nprogram("verb.py")\n1 / 0'
    ended = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, timeout=50)
    assert ended.returncode == 1
    assert ended.stderr.rstrip().endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize(("given", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_of_a_program_sleep_while_they_wait(given: str | None, found: str) -> None:
    text = (
        'import os\nfrom talkinghead.processes import program\nprogram("verb.py")\nprint(os.environ["OMP_WAIT_POLICY"])'
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": given} if given else {}
    told = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, env=environment)
    assert told.stdout.strip() == found


def test_a_process_that_is_no_program_is_left_to_its_caller() -> None:
    with pytest.raises(SystemExit) as end:
        stopped("verb.py", KeyboardInterrupt())
    assert end.value.code == 130
