"""Runs a command that a signal ends at its n-th moment: python -m tests.helpers.killing FOLDER NAMES N SIGNAL COMMAND …

A moment is a point in the life of a file below FOLDER whose name holds one of NAMES (a regular expression): before it
is opened for writing, half-way through a write, before it gets its final name, after. N=0: nothing is sent. The number
of moments there were is printed at the end.
"""

import builtins
import io
import os
import re
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from talkinghead.processes import interruptible

WRITES = os.O_WRONLY | os.O_RDWR


class Moments:
    """Counts, and sends the signal at its moment."""

    def __init__(self, folder: str, names: str, due: int, signum: int) -> None:
        self.folder, self.names, self.due, self.signum = os.path.abspath(folder), re.compile(names), due, signum
        self.count = 0

    def concerns(self, path: Any) -> bool:
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        if not isinstance(path, str | os.PathLike):
            return False
        path = os.path.abspath(os.fspath(path))
        return path.startswith(self.folder + os.sep) and bool(self.names.search(os.path.basename(path)))

    def passed(self, path: Any) -> None:
        if self.concerns(path):
            self.count += 1
            if self.count == self.due:
                self.send()

    def send(self) -> None:
        os.kill(os.getpid(), self.signum)

    def audit(self, event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES and arguments[0] is not None:
            if not isinstance(arguments[0], int):
                self.passed(arguments[0])
        elif event == "os.rename":
            self.passed(arguments[1])

    def install(self) -> None:
        sys.addaudithook(self.audit)
        os.replace = self.told_after(os.replace)
        builtins.open = self.halving(builtins.open)

    def told_after(self, replace: Callable[..., None]) -> Callable[..., None]:
        def replaced(source: Any, target: Any, **options: Any) -> None:
            replace(source, target, **options)
            self.passed(target)

        return replaced

    def halving(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        moments = self

        class Half(io.BufferedWriter):
            halved = False

            def write(self, content: Any) -> int:
                content, first = memoryview(content).cast("B"), not self.halved
                if not first or len(content) < 2:
                    return super().write(content)
                self.halved = True
                middle = len(content) // 2
                super().write(content[:middle])
                self.flush()
                moments.passed(self.raw.name)
                super().write(content[middle:])
                return len(content)

        def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if mode == "wb" and not arguments and not options and moments.concerns(file):
                return Half(io.FileIO(file, "w"))
            return plain(file, mode, *arguments, **options)

        return opened


def render(folder: str) -> None:
    from talkinghead.synthetic.dataset import SyntheticDataset  # noqa: PLC0415

    people = {"train": 2, "val": 1, "test": 2}
    SyntheticDataset(**people, frames_per_clip=2, eval_frames=2, image_size=32, workers=1, people_per_shard=1)(
        Path(folder)
    )


if __name__ == "__main__":
    moments = Moments(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    command, sys.argv = sys.argv[5], sys.argv[5:]
    sys.path.insert(0, os.getcwd())
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job ignores Ctrl-C, its children too
    moments.install()
    try:
        if command == "render":
            with interruptible("render"):
                render(sys.argv[1])
        else:
            runpy.run_path(command, run_name="__main__")
    finally:
        print(f"moments: {moments.count}", flush=True)
