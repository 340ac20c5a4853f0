"""A preparation on many machines: on a Ray cluster, or as arrays of SLURM jobs."""

import logging
import math
import subprocess
import time
from collections.abc import Iterable, Mapping
from typing import Any

import cv2

from talkinghead.preparation import partial_results
from talkinghead.preparation.plan import Job
from talkinghead.preparation.workers import Counts, Results, Work
from talkinghead.pretrained import WEIGHTS_VARIABLE, weights_folder

_logger = logging.getLogger(__name__)

CPUS = 'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"'  # srun of Slurm 22.05 and later gives one otherwise


class RayCluster:
    """Workers on a Ray cluster, whose machines all see the source and the output under the same paths.

    Args:
        address: of the cluster; None: RAY_ADDRESS if set, else a new cluster on this machine only
        cpus: CPUs per worker
        gpus: GPUs per worker; may be a fraction
        retries: how often a clip is retried whose worker died (a lost machine, out of memory)
    """

    def __init__(
        self, address: str | None = None, cpus: float | int = 1, gpus: float | int = 0, retries: int = 2
    ) -> None:
        self.address, self.cpus, self.gpus, self.retries = address, cpus, gpus, retries

    def results(self, work: Work, jobs: list[Job], workers: int | None) -> Results:
        """As in `Cluster`; a clip that ends its worker `retries` + 1 times is dropped. Raises ImportError without ray,
        ValueError if no worker fits, RuntimeError if workers end before they begin."""
        try:
            import ray  # noqa: PLC0415
        except ImportError as error:
            raise ImportError("cluster=ray needs ray: pip install -e '.[ray]'") from error
        there = {WEIGHTS_VARIABLE: str(weights_folder().absolute())}
        ray.init(self.address, runtime_env={"env_vars": there})
        left = {job.key: job for job in jobs}
        try:
            while left:
                yield from self._pooled(work, left, workers)
        finally:
            ray.shutdown()

    def _pooled(self, work: Work, left: dict[str, Job], workers: int | None) -> Results:
        """Take jobs out of `left` until all are done, or one has ended its worker too often, which is dropped."""
        import ray  # noqa: PLC0415
        from ray.exceptions import RayActorError  # noqa: PLC0415
        from ray.util import ActorPool  # noqa: PLC0415

        number = min(workers or self.room(ray.cluster_resources()), len(left))
        options: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        remote: Any = ray.remote(max_restarts=-1, max_task_retries=self.retries, **options)(Worker)
        actors = [remote.remote(work) for _ in range(number)]
        try:
            pool = ActorPool(actors)
            for job, counts in pool.map_unordered(lambda worker, job: worker.run.remote(job), [*left.values()]):
                del left[job.key]
                yield job, counts
        except RayActorError as error:
            for actor in actors:  # before the rest is given to others
                ray.kill(actor)
            lost = partial_results.died(work.output, [*left.values()], attempts=self.retries + 1)
            if not lost:
                raise RuntimeError(
                    f"workers end before they begin a clip (memory?); raise cluster.cpus. {error}"
                ) from error
            for job in lost:
                _logger.warning("%s ended its worker %d times: it is set aside", job.unit.clip, self.retries + 1)
                del left[job.key]
                yield job, work.set_aside(job)

    def room(self, resources: dict[str, Any]) -> int:
        """How many workers fit the cluster. Raises ValueError if none does."""
        room = resources.get("CPU", 0) / self.cpus if self.cpus else float("inf")
        room = min(room, resources.get("GPU", 0) / self.gpus) if self.gpus else room
        if room < 1 or room == float("inf"):
            raise ValueError(f"no worker of {self.cpus} CPUs and {self.gpus} GPUs fits the cluster; set cluster.cpus")
        return int(room)


class Worker:
    """One worker process of the cluster."""

    def __init__(self, work: Work) -> None:
        cv2.setNumThreads(1)
        self.work = work

    def run(self, job: Job) -> tuple[Job, Counts]:
        """Prepare one job; its result goes into the folder of partial results."""
        return job, self.work(job)


class SlurmCluster:
    """Workers as tasks of a SLURM array, by submitit; all nodes see the source and the output under the same paths.

    Each task prepares whole shards, in one process. What a task leaves undone (its node failed, a clip ended it) is
    submitted again; a clip that ends its task twice is dropped.

    Args:
        options: of each task, in submitit's names: `timeout_min`, `cpus_per_task`, `gpus_per_node`, `mem_gb`,
            `slurm_partition`, `slurm_account`, ... A task whose time is up is queued again and resumes.
        max_tasks: per array, at most SLURM's MaxArraySize
        poll_s: seconds between two looks at the tasks
        executor: submitit's; "local", processes of this machine, is for tests: it leaves them alone when stopped
    """

    ROUNDS = 4  # in which what was left undone is submitted again

    def __init__(
        self, options: Mapping[str, Any] | None = None, max_tasks: int = 1000, poll_s: float | int = 10,
        executor: str = "slurm",
    ) -> None:  # fmt: skip
        self.options, self.max_tasks, self.poll_s, self.executor = dict(options or {}), max_tasks, poll_s, executor

    def results(self, work: Work, jobs: list[Job], workers: int | None) -> Results:
        """As in `Cluster`; `workers` is the number of tasks at a time. Raises ImportError without submitit,
        ValueError for an option that it does not know or where there is no SLURM, RuntimeError when tasks keep failing.
        """
        left = {job.key: job for job in jobs}
        for _ in range(self.ROUNDS):
            if not left:
                return
            for job, counts in self._array(work, [*left.values()], workers):
                yield job, counts
                del left[job.key]
            for job in partial_results.died(work.output, [*left.values()]):
                if partial_results.deaths(work.output, job) >= work.max_deaths:
                    yield job, work.set_aside(job)
                    del left[job.key]
        if left:
            logs = work.output / partial_results.WORK_FOLDER / "submitit"
            raise RuntimeError(f"{len(left)} clips are left after {self.ROUNDS} arrays of tasks; their logs: {logs}")

    def _array(self, work: Work, jobs: list[Job], workers: int | None) -> Results:
        """Submit one array and wait for it; a task that fails is logged."""
        parts = share_out(jobs, self.max_tasks)
        executor = self._executor(work, workers or len(parts))
        with executor.batch():
            tasks = [executor.submit(Task(work, part)) for part in parts]
        waiting = list(tasks)
        try:
            while waiting:
                done = [task for task in waiting if task.done()]
                waiting = [task for task in waiting if task not in done]
                for task in done:
                    if task.exception() is None:
                        yield from task.result()
                    else:
                        logs = task.paths.stderr
                        _logger.warning("SLURM task %s ended early (%s); its log: %s", task.job_id, task.state, logs)
                if waiting and not done:
                    time.sleep(self.poll_s)
        finally:
            if waiting and self.executor == "slurm":  # by their array, for there may be a thousand
                subprocess.run(["scancel", *{task.job_id.split("_")[0] for task in waiting}], check=False)

    def _executor(self, work: Work, workers: int) -> Any:
        try:
            import submitit  # noqa: PLC0415
        except ImportError as error:
            raise ImportError("cluster=slurm needs submitit: pip install -c constraints.txt -e '.[slurm]'") from error
        folder = work.output / partial_results.WORK_FOLDER / "submitit"
        try:
            executor = submitit.AutoExecutor(folder, cluster=self.executor)
            setup = [CPUS, *self.options.get("slurm_setup", ())]
            limits = {"slurm_array_parallelism": workers, "slurm_setup": setup} if self.executor == "slurm" else {}
            executor.update_parameters(name="talkinghead-prepare", **{**self.options, **limits})
        except (RuntimeError, NameError, TypeError, ValueError) as error:  # no srun; an unknown option
            raise ValueError(f"cluster=slurm: {str(error).splitlines()[0]}") from error
        return executor


class Task:
    """The work of one task of an array; if it is started again, it skips the jobs that are done."""

    def __init__(self, work: Work, jobs: list[Job]) -> None:
        self.work, self.jobs = work, jobs

    def __call__(self) -> list[tuple[Job, Counts]]:
        cv2.setNumThreads(1)
        return [(job, self._do(job)) for job in self.jobs]

    def _do(self, job: Job) -> Counts:
        if partial_results.done(self.work.output, job):  # before this task was queued again
            self.work.close(job)
            return Counts(0, 0, 0)
        return self.work(job)

    def checkpoint(self) -> Any:
        """Tells submitit to submit the same task again when its time is up."""
        from submitit.helpers import DelayedSubmission  # noqa: PLC0415

        return DelayedSubmission(self)


def share_out(jobs: Iterable[Job], count: int) -> list[list[Job]]:
    """At most `count` parts of whole shards, of nearly equal size; neighbouring shards stay together."""
    shards: dict[str, list[Job]] = {}
    for job in jobs:
        shards.setdefault(job.shard, []).append(job)
    per_part = max(1, math.ceil(len(shards) / count))
    blocks = [*shards.values()]
    return [[job for block in blocks[n : n + per_part] for job in block] for n in range(0, len(blocks), per_part)]
