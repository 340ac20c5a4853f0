"""A preparation on a Ray cluster: one worker per CPU of all its machines."""

from typing import Any

import cv2

from talkinghead.preparation import partial_results
from talkinghead.preparation.plan import Job
from talkinghead.preparation.workers import Counts, Results, Work
from talkinghead.pretrained import WEIGHTS_VARIABLE, weights_folder


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
        """As in `Cluster`. Raises ImportError without ray, ValueError if no worker fits, RuntimeError if a clip kills
        its workers."""
        try:
            import ray  # noqa: PLC0415
            from ray.exceptions import RayActorError  # noqa: PLC0415
            from ray.util import ActorPool  # noqa: PLC0415
        except ImportError as error:
            raise ImportError("cluster=ray needs ray: pip install -e '.[ray]'") from error
        there = {WEIGHTS_VARIABLE: str(weights_folder().absolute())}
        ray.init(self.address, log_to_driver=False, runtime_env={"env_vars": there})
        try:
            number = min(workers or self.room(ray.cluster_resources()), max(1, len(jobs)))
            options: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus}
            remote: Any = ray.remote(max_restarts=-1, max_task_retries=self.retries, **options)(Worker)
            pool = ActorPool([remote.remote(work) for _ in range(number)])
            yield from pool.map_unordered(lambda worker, job: worker.run.remote(job), jobs)
        except RayActorError as error:
            partial_results.died(work.output, jobs, attempts=self.retries + 1)
            raise RuntimeError(
                f"a clip ended its worker {self.retries + 1} times (memory, or a file that crashes the decoder). "
                f"Run the same command again to go on without it; memory short: raise cluster.cpus. {error}"
            ) from error
        finally:
            ray.shutdown()

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
