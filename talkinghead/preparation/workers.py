"""The worker processes of a preparation, on this machine."""

import multiprocessing
import os
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import cv2

from talkinghead.preparation import spool
from talkinghead.preparation.clip import Settings, prepare_clip
from talkinghead.preparation.detectors import Detector
from talkinghead.preparation.plan import Job
from talkinghead.processes import end_with_parent, stopping_at_once


class Counts(NamedTuple):
    """What became of a job: clips kept and dropped, frames decoded."""

    kept: int
    dropped: int
    decoded: int


class Work:
    """Prepares one job into the spool; sent to every worker once."""

    def __init__(self, detector: Detector, settings: Settings, output: Path) -> None:
        self.detector = detector
        self.settings = settings
        self.output = output

    def __call__(self, job: Job) -> Counts:
        result = prepare_clip(job.unit, job.key, job.video_index, self.detector, self.settings)
        spool.put(self.output, job, result)
        return Counts(len(result.clips), len(result.drops), result.decoded)


Results = Generator[tuple[Job, Counts], None, None]


@runtime_checkable
class Cluster(Protocol):
    """Where the workers are."""

    def results(self, work: Work, jobs: list[Job], workers: int | None) -> Results:
        """Jobs with their counts, as they finish; their results are in the spool by then. Closing it ends the workers.

        workers     how many; None: one per CPU there is
        """
        ...


class LocalProcesses:
    """Processes of this machine; `workers` 0 works in this one."""

    def results(self, work: Work, jobs: list[Job], workers: int | None) -> Results:
        """As in `Cluster`; raises RuntimeError when a process dies."""
        if workers == 0:
            yield from ((job, work(job)) for job in jobs)
            return
        workers = workers or len(os.sched_getaffinity(0))
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(workers, max(1, len(jobs))), context, start_worker, (work,))
        with stopping_at_once(pool):
            yield from pooled(pool, jobs, 4 * workers)


_work: list[Callable[[Job], Counts]] = []  # of a worker process


def start_worker(work: Work) -> None:
    """One thread each; leave Ctrl-C to the parent; end when the parent is gone, even if it was killed."""
    cv2.setNumThreads(1)
    end_with_parent()
    _work[:] = [work]


def work_on(job: Job) -> Counts:
    """What a worker process runs."""
    return _work[0](job)


def pooled(pool: ProcessPoolExecutor, jobs: list[Job], ahead: int) -> Iterator[tuple[Job, Counts]]:
    """Run jobs with at most `ahead` of them waiting. Raises RuntimeError when a process dies."""
    waiting: dict[Future, Job] = {}
    rest = iter(jobs)
    while True:
        while len(waiting) < ahead and (job := next(rest, None)) is not None:
            waiting[pool.submit(work_on, job)] = job
        if not waiting:
            return
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
            try:
                yield waiting[future], future.result()
            except BrokenProcessPool as error:
                suspects = ", ".join(f"{job.unit.identity}/{job.unit.clip}" for job in waiting.values())
                raise RuntimeError(
                    "a worker died (out of memory, or a file that crashes the decoder). Run the same command again to "
                    f"go on, with fewer workers if memory was short. It was working on one of: {suspects}"
                ) from error
            del waiting[future]
