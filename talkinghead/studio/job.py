"""Work that a visitor has asked for: in a thread of its own, with a state to show, and an end when it is asked for."""

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
    """The visitor does not want it any more. No Exception: nobody on the way takes it for a failure."""


@dataclass(frozen=True)
class Phase:
    """One part of the work; times in seconds of the monotonic clock."""

    name: str
    start: float
    done: int = 0
    total: int | None = None
    end: float | None = None

    def left(self, now: float) -> float | None:
        """Seconds that the rest will take, at the pace so far."""
        if not self.total or not self.done:
            return None
        return (now - self.start) / self.done * (self.total - self.done)


@dataclass(frozen=True)
class State:
    """What there is to show."""

    phases: tuple[Phase, ...] = ()
    notes: tuple[str, ...] = ()
    preview: UInt8[np.ndarray, "H W 3"] | None = None
    result: Any = None
    error: BaseException | None = None  # Stopped where it was stopped
    over: bool = False


class JobProgress:
    """A `Reporter` that keeps a state; every report is also the moment at which the work can be stopped."""

    def __init__(self) -> None:
        self.state = State()
        self._stop, self._changed = threading.Event(), threading.Condition()

    def stop(self) -> None:
        """The next report raises Stopped."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        """It has been asked to stop."""
        return self._stop.is_set()

    def check(self) -> None:
        """Raises Stopped after `stop`."""
        if self.stopped:
            raise Stopped

    def tell(self, text: str) -> None:
        """A note."""
        self.check()
        self.change(notes=(*self.state.notes, text))

    def show(self, preview: UInt8[np.ndarray, "H W 3"]) -> None:
        """What it looks like now."""
        self.check()
        self.change(preview=preview)

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Counter]:
        """A part of the work, from here to the end of the block."""
        self.check()
        before = self.state.phases
        self.change(phases=(*before, Phase(name, time.monotonic(), total=total)))
        yield Steps(self)
        self.change(phases=(*before, replace(self.state.phases[-1], end=time.monotonic())))

    def change(self, **parts: Any) -> None:
        """Another state."""
        with self._changed:
            self.state = replace(self.state, **parts)
            self._changed.notify_all()

    def wait(self, seen: State | None, seconds: float) -> State:
        """The state as soon as it is another than this one, or after a while."""
        with self._changed:
            self._changed.wait_for(lambda: self.state is not seen, seconds)
            return self.state


class Steps:
    """Counts the steps of the last phase."""

    def __init__(self, reports: JobProgress) -> None:
        self._reports = reports

    def __call__(self) -> None:
        self._reports.check()
        self._change(done=self._reports.state.phases[-1].done + 1)

    def of(self, total: int) -> "Steps":
        """There will be so many."""
        self._reports.check()
        self._change(total=total)
        return self

    def _change(self, **parts: Any) -> None:
        *before, last = self._reports.state.phases
        self._reports.change(phases=(*before, replace(last, **parts)))


class Job:
    """Does the work in a folder of its own, which goes away with it.

    Args:
        work: is given the reports and the folder; what it returns is the result
    """

    def __init__(self, work: Callable[[JobProgress, Path], Any], folder: Path) -> None:
        self.reports, self.folder, self._work = JobProgress(), folder, work
        self._thread = threading.Thread(target=self._run, daemon=True)

    def states(self) -> Iterator[State]:
        """Start, and yield states at a readable pace until it is over; the last one says how it ended."""
        self._thread.start()
        seen = None
        while seen is None or not seen.over:
            time.sleep(PATIENCE)
            seen = self.reports.wait(seen, 1.0)
            yield seen

    def stop(self) -> None:
        """End the work at its next report."""
        self.reports.stop()

    def close(self) -> None:
        """Stop, and leave nothing: the folder goes now, or as soon as the work has stopped."""
        self.stop()
        if self.reports.state.over:
            self._clear()

    def join(self, seconds: float | int) -> bool:
        """Wait for the end of the work; False where it takes longer."""
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
