"""The worker processes of a preparation, on this machine."""

import logging
import multiprocessing
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import cv2

from talkinghead.data.remote import RemoteFolder
from talkinghead.faces.detectors import Detector
from talkinghead.machine import num_cpus
from talkinghead.preparation import partial_results
from talkinghead.preparation.clip import Settings, prepare_clip
from talkinghead.preparation.plan import Job
from talkinghead.processes import end_with_parent, stopping_at_once

_logger = logging.getLogger(__name__)


class Counts(NamedTuple):
    """The outcome of a job: clips kept and dropped, frames decoded."""

    kept: int
    dropped: int
    decoded: int


class WorkerDied(RuntimeError):
    """A worker process ended; `jobs` are those that were queued or under way."""

    def __init__(self, jobs: list[Job]) -> None:
        super().__init__("a worker died")
        self.jobs = jobs


class Work:
    """Prepares one job, and writes the shard whose last job it was; sent to every worker once."""

    def __init__(
        self, detector: Detector, settings: Settings, output: Path, max_deaths: int = 2, suspects: Sequence[Job] = (),
        remote: RemoteFolder | None = None,
    ) -> None:  # fmt: skip
        self.detector = detector
        self.settings = settings
        self.output, self.remote = output, remote  # where results are gathered; where shards go, if elsewhere
        self.max_deaths = max_deaths  # how often a job may kill its worker
        self.suspects = suspects  # jobs at which workers died in an earlier run

    def __call__(self, job: Job) -> Counts:
        partial_results.begin(self.output, job)
        try:
            result = prepare_clip(job.unit, job.key, job.video_index, self.detector, self.settings)
            partial_results.put(self.output, job, result)
        finally:
            partial_results.end(self.output, job)  # not reached if the worker dies
        self.close(job)
        return Counts(len(result.clips), len(result.drops), result.decoded)

    def set_aside(self, job: Job) -> Counts:
        """Drop a job that kills its workers, in its worker's place."""
        partial_results.quarantine(self.output, job)
        self.close(job)
        return Counts(0, 1, 0)

    def close(self, job: Job) -> None:
        """Write the shard of this job, if it is the last one of it."""
        partial_results.close(self.output, job, self.settings.image_size, self.remote)


Results = Generator[tuple[Job, Counts], None, None]


@runtime_checkable
class Cluster(Protocol):
    """Runs preparation jobs on workers: processes of this machine, a Ray cluster or SLURM."""

    def results(self, work: Work, jobs: list[Job], workers: int | None) -> Results:
        """Yield finished jobs and their counts; results are stored by then. Closing the iterator ends the workers.

        Args:
            workers: number of workers; None: one per CPU
        """
        ...


class LocalProcesses:
    """Processes on this machine; with `workers` 0, this process."""

    def results(self, work: Work, jobs: list[Job], workers: int | None) -> Results:
        """As in `Cluster`. If a process dies, what was under way is tried again, each job in a separate process.

        The job that ends its worker again is dropped after `work.max_deaths`; the others are finished.
        """
        if workers == 0:
            yield from ((job, work(job)) for job in jobs)
            return
        workers, left = workers or num_cpus(), {job.key: job for job in jobs}
        suspects = list(work.suspects)
        while left:
            for job in suspects:
                yield job, self._alone(work, job)
                del left[job.key]
            suspects = []
            try:
                for job, counts in self._together(work, [*left.values()], workers):
                    yield job, counts
                    del left[job.key]
            except WorkerDied as error:
                suspects = partial_results.died(work.output, error.jobs)
                names = ", ".join(f"{job.unit.identity}/{job.unit.clip}" for job in suspects)
                _logger.warning(
                    "a worker died (out of memory, or a file that crashes the decoder) at one of: %s. Each is tried "
                    "again alone; if memory is short, stop and start again with fewer workers",
                    names or "(none had begun)",
                )
                if not suspects:
                    raise RuntimeError(
                        "a worker died before it began a clip (out of memory?): fewer workers"
                    ) from error

    def _alone(self, work: Work, job: Job) -> Counts:
        """The job in a process of its own, as often as it may end one."""
        while True:
            try:
                return next(self._together(work, [job], 1))[1]
            except WorkerDied:
                partial_results.died(work.output, [job])
                if partial_results.deaths(work.output, job) >= work.max_deaths:
                    return work.set_aside(job)

    def _together(self, work: Work, jobs: list[Job], workers: int) -> Results:
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(workers, max(1, len(jobs))), context, start_worker, (work,))
        with stopping_at_once(pool):
            yield from pooled(pool, jobs, 4 * workers)


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
    """Run jobs with at most `ahead` of them queued. Raises WorkerDied."""
    waiting: dict[Future, Job] = {}
    rest = iter(jobs)
    while True:
        with suppress(BrokenProcessPool):  # then the futures tell
            while len(waiting) < ahead and (job := next(rest, None)) is not None:
                waiting[pool.submit(work_on, job)] = job
        if not waiting:
            return
        done = wait(waiting, return_when=FIRST_COMPLETED).done
        well = [future for future in done if not isinstance(future.exception(), BrokenProcessPool)]
        for future in well:
            yield waiting.pop(future), future.result()
        if len(well) < len(done):
            raise WorkerDied([*waiting.values()])
