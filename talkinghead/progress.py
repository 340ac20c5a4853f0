"""The phases of an animation, each with a bar and the time left; lines where there is no terminal."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@runtime_checkable
class Counter(Protocol):
    """Called after each step of a phase; `of` sets the total number of steps, and returns the counter itself."""

    def __call__(self) -> None: ...

    def of(self, total: int) -> "Counter": ...


@runtime_checkable
class Reporter(Protocol):
    """Receives progress reports. An exception that it raises ends the work cleanly."""

    def tell(self, text: str) -> None: ...

    def phase(self, name: str, total: int | None = None) -> AbstractContextManager[Counter]: ...


def columns(title: str, *details: str) -> list[ProgressColumn]:
    """The columns of every progress bar: title, bar, steps done, details, time elapsed and left."""
    about = map(TextColumn, details)
    return [TextColumn(title), BarColumn(), MofNCompleteColumn(), *about, TimeElapsedColumn(), TextColumn("left"),
            TimeRemainingColumn()]  # fmt: skip


class Phases:
    """Shows the phases on the terminal; `tell` prints between bars."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)

    def tell(self, text: str) -> None:
        """Print one line; Rich markup in it is shown as it is."""
        self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator["Step"]:
        """Show a bar while the block runs, and a line with its duration when it has succeeded."""
        start = time.monotonic()
        shown = self.console.is_terminal
        bar = Progress(*columns(f"{name:<22}"), console=self.console, disable=not shown, transient=True)
        with bar:
            step = Step(bar, bar.add_task(name, total=total))
            yield step
        seconds = time.monotonic() - start
        rate = f", {step.done} steps, {step.done / max(1e-9, seconds):.1f} per second" if step.done > 1 else ""
        self.tell(f"{name}: {seconds:.1f} s{rate}")


class Step:
    """Called after each step of a phase."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task
        self.done = 0

    def __call__(self) -> None:
        self.done += 1
        self._bar.advance(self._task)

    def of(self, total: int) -> "Step":
        """Set the total number of steps."""
        self._bar.update(self._task, total=total)
        return self
