"""A visitor's job: it runs in its own thread, shows its state, and can be stopped at every progress report."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from talkinghead.progress import Counter

PATIENCE = 0.25  # seconds between two looks at the state


class Stopped(BaseException):
    """The visitor has stopped the job. A BaseException, so that no `except Exception` on the way catches it."""


@dataclass(frozen=True)
class Phase:
    """One phase of a job; times are in seconds of the monotonic clock."""

    name: str
    start: float
    done: int = 0
    total: int | None = None
    end: float | None = None

    def left(self, now: float) -> float | None:
        """Estimated seconds to the end, at the pace so far; None before the first step."""
        if not self.total or not self.done:
            return None
        return (now - self.start) / self.done * (self.total - self.done)


@dataclass(frozen=True)
class State:
    """What the page shows of a job."""

    phases: tuple[Phase, ...] = ()
    notes: tuple[str, ...] = ()
    preview: UInt8[np.ndarray, "H W 3"] | None = None
    result: Any = None
    error: BaseException | None = None  # Stopped where it was stopped
    over: bool = False


class JobProgress:
    """A `Reporter` that keeps the job's state; every report is also a point at which the job can be stopped."""

    def __init__(self) -> None:
        self.state = State()
        self._stop, self._changed = threading.Event(), threading.Condition()

    def stop(self) -> None:
        """Make the next report raise Stopped."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    def check(self) -> None:
        """Raise Stopped if `stop` was called."""
        if self.stopped:
            raise Stopped

    def tell(self, text: str) -> None:
        """Add a line to the notes on the page. Raises Stopped after `stop`."""
        self.check()
        self.change(notes=(*self.state.notes, text))

    def show(self, preview: UInt8[np.ndarray, "H W 3"]) -> None:
        """Replace the preview picture. Raises Stopped after `stop`."""
        self.check()
        self.change(preview=preview)

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Counter]:
        """Open a phase that ends with the block, and yield the counter of its steps. Raises Stopped after `stop`."""
        self.check()
        before = self.state.phases
        self.change(phases=(*before, Phase(name, time.monotonic(), total=total)))
        yield Steps(self)
        self.change(phases=(*before, replace(self.state.phases[-1], end=time.monotonic())))

    def change(self, **parts: Any) -> None:
        """Replace these fields of the state, and wake all threads that `wait`."""
        with self._changed:
            self.state = replace(self.state, **parts)
            self._changed.notify_all()

    def wait(self, seen: State | None, seconds: float) -> State:
        """Wait until the state is no longer `seen`, or for this many seconds; returns the current state."""
        with self._changed:
            self._changed.wait_for(lambda: self.state is not seen, seconds)
            return self.state


class Steps:
    """Counts the steps of the phase that was opened last."""

    def __init__(self, reports: JobProgress) -> None:
        self._reports = reports

    def __call__(self) -> None:
        self._reports.check()
        self._change(done=self._reports.state.phases[-1].done + 1)

    def of(self, total: int) -> "Steps":
        """Set the total number of steps."""
        self._reports.check()
        self._change(total=total)
        return self

    def _change(self, **parts: Any) -> None:
        *before, last = self._reports.state.phases
        self._reports.change(phases=(*before, replace(last, **parts)))


class Job:
    """Runs `work` in a thread, with a folder that is deleted together with the job.

    Args:
        work: called with the progress reporter and the folder; returns the result
        folder: created when the job starts
    """

    def __init__(self, work: Callable[[JobProgress, Path], Any], folder: Path) -> None:
        self.reports, self.folder, self._work = JobProgress(), folder, work
        self._thread = threading.Thread(target=self._run, daemon=True)

    def states(self) -> Iterator[State]:
        """Start the job and yield its state, at most every `PATIENCE` seconds; the last one has the result."""
        self._thread.start()
        seen = None
        while seen is None or not seen.over:
            time.sleep(PATIENCE)
            seen = self.reports.wait(seen, 1.0)
            yield seen

    def stop(self) -> None:
        """Stop the work at its next report."""
        self.reports.stop()

    def close(self) -> None:
        """Stop, and delete the folder: now, or as soon as the work has ended."""
        self.stop()
        if self.reports.state.over:
            self._clear()

    def join(self, seconds: float | int) -> bool:
        """Wait for the work to end; False if it takes longer than this many seconds."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.folder.mkdir(parents=True, mode=0o700)
            result = self._work(self.reports, self.folder)
            self.reports.check()
        except BaseException as error:  # shown on the page; there is nobody above a thread
            self._clear()
            self.reports.change(error=error, over=True)
        else:
            self.reports.change(result=result, over=True)
            if self.reports.stopped:  # closed between the last two lines
                self._clear()

    def _clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
