"""The queue of the studio: one job per visitor, who may stop it while it waits and while it runs."""

import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from talkinghead.studio.job import Job, JobProgress


class JobQueue:
    """Assigns turns. A visitor has at most one; a new turn cancels the one before.

    Args:
        folder: in which each job gets a folder
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._turns: dict[str, str] = {}  # visitor -> turn
        self._jobs: dict[str, Job] = {}  # turn -> job, while it runs
        self._lock = threading.Lock()

    def enter(self, visitor: str) -> str:
        """Cancel the visitor's turn, if any, and return a new one to wait for."""
        self.stop(visitor)
        with self._lock:
            self._turns[visitor] = turn = uuid.uuid4().hex
        return turn

    def begin(self, turn: str, work: Callable[[JobProgress, Path], Any]) -> Job | None:
        """Make the job of this turn; None if the visitor has stopped or left while it waited."""
        with self._lock:
            if turn not in self._turns.values():
                return None
            self._jobs[turn] = job = Job(work, self.folder / turn)
        return job

    def end(self, turn: str) -> None:
        """Stop the job of this turn if it still runs, and delete its files."""
        with self._lock:
            job = self._jobs.pop(turn, None)
        if job:
            job.close()

    def close(self, seconds: float = 20.0) -> None:
        """Cancel all turns, stop all jobs, and wait up to this many seconds for each to end."""
        with self._lock:
            jobs = list(self._jobs.values())
            self._turns.clear()
        for job in jobs:
            job.close()
            job.join(seconds)

    def stop(self, visitor: str) -> None:
        """Cancel the visitor's turn, and stop its job if it runs."""
        with self._lock:
            turn = self._turns.pop(visitor, None)
        if turn:
            self.end(turn)
