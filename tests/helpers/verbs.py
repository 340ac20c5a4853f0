"""Commands of users, each in a process of its own that has the imports behind it: seconds less for each."""

import io
import multiprocessing
import os
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRELOADED = [f"talkinghead.cli.{verb}" for verb in ("train", "evaluate", "animate", "prepare")]
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(PRELOADED)


def call(program: list[str], folder: Path, seconds: float = 300) -> tuple[int, str]:
    """Run a Python program in `folder`.

    Args:
        program: what follows `python`: a script of the checkout's root, or `-m` and a module, and the arguments
        folder: the working directory
        seconds: after which the program is killed

    Returns:
        The exit status, and all that it printed.
    """
    log = folder / ".printed"
    process = _server.Process(target=_child, args=(program, folder, log))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode or 0, log.read_text()


def _child(program: list[str], folder: Path, log: Path) -> None:
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for name, number in (("stdout", 1), ("stderr", 2)):
        setattr(sys, name, io.TextIOWrapper(os.fdopen(number, "wb", closefd=False), write_through=True))
    os.chdir(folder)
    module = program[1] if program[0] == "-m" else None
    sys.argv = [module or program[0], *program[2 if module else 1 :]]
    if module:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv[0] = str(ROOT / program[0])
        runpy.run_path(sys.argv[0], run_name="__main__")
