"""The worker processes of a preparation, on this machine."""

import multiprocessing
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import cv2

from talkinghead.faces.detectors import Detector
from talkinghead.machine import num_cpus
from talkinghead.preparation import partial_results
from talkinghead.preparation.clip import Settings, prepare_clip
from talkinghead.preparation.plan import Job
from talkinghead.processes import end_with_parent, stopping_at_once


class Counts(NamedTuple):
    """The outcome of a job: clips kept and dropped, frames decoded."""

    kept: int
    dropped: int
    decoded: int


class Work:
    """Prepares one job into the folder of partial results; sent to every worker once."""

    def __init__(self, detector: Detector, settings: Settings, output: Path, max_deaths: int = 2) -> None:
        self.detector = detector
        self.settings = settings
        self.output = output
        self.max_deaths = max_deaths  # how often a job may kill its worker

    def __call__(self, job: Job) -> Counts:
        partial_results.begin(self.output, job)
        try:
            result = prepare_clip(job.unit, job.key, job.video_index, self.detector, self.settings)
            partial_results.put(self.output, job, result)
        finally:
            partial_results.end(self.output, job)  # not reached if the worker dies
        return Counts(len(result.clips), len(result.drops), result.decoded)


Results = Generator[tuple[Job, Counts], None, None]


@runtime_checkable
class Cluster(Protocol):
    """Runs jobs on workers."""

    def results(self, work: Work, jobs: list[Job], workers: int | None) -> Results:
        """Finished jobs with their counts; their results are stored by then. Closing the iterator ends the workers.

        Args:
            workers: number of workers; None: one per CPU
        """
        ...


class LocalProcesses:
    """Processes on this machine; with `workers` 0, this process."""

    def results(self, work: Work, jobs: list[Job], workers: int | None) -> Results:
        """As in `Cluster`; raises RuntimeError if a process dies.

        Jobs at which workers died before are done first, each in a separate process, to find out which one it was;
        that one is dropped after `work.max_deaths`.
        """
        if workers == 0:
            yield from ((job, work(job)) for job in jobs)
            return
        workers = workers or num_cpus()
        suspects = [job for job in jobs if partial_results.deaths(work.output, job)]
        for job in suspects:
            yield from self._alone(work, job)
        yield from self._together(work, [job for job in jobs if job not in suspects], workers)

    def _alone(self, work: Work, job: Job) -> Results:
        try:
            yield from self._together(work, [job], 1)
        except RuntimeError:
            if partial_results.deaths(work.output, job) < work.max_deaths:
                raise
            partial_results.quarantine(work.output, job)
            yield job, Counts(0, 1, 0)

    def _together(self, work: Work, jobs: list[Job], workers: int) -> Results:
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(workers, max(1, len(jobs))), context, start_worker, (work,))
        try:
            with stopping_at_once(pool):
                yield from pooled(pool, jobs, 4 * workers)
        except RuntimeError:
            partial_results.died(work.output, jobs)
            raise


_work: list[Callable[[Job], Counts]] = []  # the worker process's own


def start_worker(work: Work) -> None:
    """Initializer of a worker: one thread; leave Ctrl-C to the parent; end when the parent is gone, even if killed."""
    cv2.setNumThreads(1)
    end_with_parent()
    _work[:] = [work]


def work_on(job: Job) -> Counts:
    """Run a job in a worker process."""
    return _work[0](job)


def pooled(pool: ProcessPoolExecutor, jobs: list[Job], ahead: int) -> Iterator[tuple[Job, Counts]]:
    """Run jobs with at most `ahead` of them queued. Raises RuntimeError if a process dies."""
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
                    "go on, with fewer workers if memory was short; a clip that ends its worker again is dropped as "
                    f"crashed, and exclude=[CLIP] leaves one out. It was working on one of: {suspects}"
                ) from error
            del waiting[future]
