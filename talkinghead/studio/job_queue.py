"""Whose turn it is: one job for each visitor, who may stop it while it waits and while it runs."""

import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from talkinghead.studio.job import Job, JobProgress


class JobQueue:
    """Gives out turns. A visitor has one at most: who takes another gives up the one before.

    Args:
        folder: of the jobs' folders
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._turns: dict[str, str] = {}  # visitor -> turn
        self._jobs: dict[str, Job] = {}  # turn -> job, while it runs
        self._lock = threading.Lock()

    def enter(self, visitor: str) -> str:
        """A turn to wait for."""
        self.stop(visitor)
        with self._lock:
            self._turns[visitor] = turn = uuid.uuid4().hex
        return turn

    def begin(self, turn: str, work: Callable[[JobProgress, Path], Any]) -> Job | None:
        """The job of this turn; None where the visitor has stopped or left while it waited."""
        with self._lock:
            if turn not in self._turns.values():
                return None
            self._jobs[turn] = job = Job(work, self.folder / turn)
        return job

    def end(self, turn: str) -> None:
        """Stop the job of this turn if it still runs, and remove its files."""
        with self._lock:
            job = self._jobs.pop(turn, None)
        if job:
            job.close()

    def close(self, seconds: float = 20.0) -> None:
        """End everything, and wait for the job that runs."""
        with self._lock:
            jobs = list(self._jobs.values())
            self._turns.clear()
        for job in jobs:
            job.close()
            job.join(seconds)

    def stop(self, visitor: str) -> None:
        """End what the visitor waits for or has running."""
        with self._lock:
            turn = self._turns.pop(visitor, None)
        if turn:
            self.end(turn)
