"""The progress of a preparation: clips done, frames per second, time left."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import Progress as Bar

from talkinghead.progress import columns


class Progress:
    """A bar on a terminal; one line per minute in a log."""

    def __init__(self, console: Console, total: int, done: int) -> None:
        self._console = console
        shown = columns("preparing", "clips", "{task.fields[rate]:.0f} frames/s, {task.fields[dropped]} dropped")
        self._bar = Bar(*shown, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("preparing", total=total, completed=done, rate=0.0, dropped=0)
        self._total, self._before, self._done = total, done, done
        self._kept = self._dropped = self._decoded = 0
        self._start = self._told = time.monotonic()

    def __enter__(self) -> "Progress":
        self._bar.start()
        if self._before:
            self._console.print(f"going on after {self._before} of {self._total} clips")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if error is None and self._done > self._before:
            self._console.print(self._line())

    def advance(self, kept: int, dropped: int, decoded: int) -> None:
        """One more clip is done: samples kept, samples dropped, frames decoded."""
        self._done += 1
        self._kept += kept
        self._dropped += dropped
        self._decoded += decoded
        rate = self._decoded / max(1e-9, time.monotonic() - self._start)
        self._bar.update(self._task, advance=1, rate=rate, dropped=self._dropped)
        if not self._console.is_terminal and time.monotonic() - self._told > 60:
            self._told = time.monotonic()
            self._console.print(self._line())

    def _line(self) -> str:
        seconds = max(1e-9, time.monotonic() - self._start)
        left = (self._total - self._done) * seconds / max(1, self._done - self._before)
        return (
            f"{self._done} of {self._total} clips, {self._dropped} dropped, {self._decoded} frames in {seconds:.1f} s, "
            f"{self._decoded / seconds:.0f} frames/s, {left:.0f} s left"
        )
