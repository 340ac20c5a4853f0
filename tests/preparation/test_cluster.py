"""Preparation on a Ray cluster and as SLURM tasks: the same bytes as in one process, also when workers die."""

import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from talkinghead.preparation.cluster import RayCluster, SlurmCluster, share_out
from talkinghead.preparation.plan import make_plan
from talkinghead.preparation.sources import Unit
from tests.helpers.preparation_videos import GreenFace, make_runner, write_clip
from tests.helpers.slurm import Slurm


class Deadly(GreenFace):
    """Ends its process at a face wider than 40 pixels, as long as that happened less than `times`."""

    def __init__(self, folder: Path, times: int) -> None:
        super().__init__()
        self.folder, self.times = folder, times

    def landmarks(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        deaths = len(list(self.folder.iterdir()))
        if box[2] - box[0] > 40 and deaths < self.times:
            (self.folder / str(deaths)).touch()
            os._exit(1)
        return super().landmarks(image, box)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips, of which the last has the largest face, and one that must be dropped."""
    root = tmp_path_factory.mktemp("videos")
    for n in range(6):
        write_clip(root / f"p{n // 2}" / f"{n % 2}.mp4", num_frames=10, side=36 + n)
    write_clip(root / "p0" / "small.mp4", side=12)
    return root


def hashes(output: Path) -> dict[str, str]:
    """sha256 of every file of a data set but the lock."""
    files = sorted(p for p in output.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(output)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.slow
@pytest.mark.parametrize("deaths", [0, 1])
def test_a_cluster_writes_the_same_bytes(deaths: int, videos: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    make_runner(videos, tmp_path / "one").run()
    (tmp_path / "deaths").mkdir()
    relative = Path(os.path.relpath(tmp_path / "many"))  # workers run elsewhere
    detector = Deadly(tmp_path / "deaths", deaths)
    make_runner(videos, relative, workers=2, detector=detector, cluster=RayCluster()).run()
    assert len(list((tmp_path / "deaths").iterdir())) == deaths
    assert hashes(tmp_path / "many") == hashes(tmp_path / "one")


@pytest.mark.slow
def test_a_clip_that_ends_every_worker_is_set_aside(videos: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    (tmp_path / "deaths").mkdir()
    detector = Deadly(tmp_path / "deaths", 99)
    runner = make_runner(videos, tmp_path / "data", workers=1, detector=detector, cluster=RayCluster(retries=1))
    assert runner.run().splits["train"].clips == 5
    assert len(list((tmp_path / "deaths").iterdir())) == 2
    assert 'p2/1,crashed,"ended its worker 2 times' in (tmp_path / "data/report.csv").read_text()


def test_as_many_workers_as_fit() -> None:
    assert RayCluster().room({"CPU": 6.0}) == 6
    assert RayCluster(cpus=2, gpus=0.25).room({"CPU": 64.0, "GPU": 2.0}) == 8
    with pytest.raises(ValueError, match="no worker of 1 CPUs and 1 GPUs fits"):
        RayCluster(gpus=1).room({"CPU": 6.0})


def test_without_ray_it_says_what_to_install(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[ray\]'"):
        make_runner(videos, tmp_path / "data", cluster=RayCluster()).run()


@pytest.mark.slow
@pytest.mark.parametrize("deaths", [0, 1])
def test_slurm_tasks_write_the_same_bytes(
    deaths: int, videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_runner(videos, tmp_path / "one").run()
    (tmp_path / "deaths").mkdir()
    relative = Path(os.path.relpath(tmp_path / "many"))
    cluster = SlurmCluster(executor="local", poll_s=0.1)
    make_runner(videos, relative, workers=2, detector=Deadly(tmp_path / "deaths", deaths), cluster=cluster).run()
    assert len(list((tmp_path / "deaths").iterdir())) == deaths
    assert hashes(tmp_path / "many") == hashes(tmp_path / "one")
    assert ("SLURM task" in caplog.text) == bool(deaths)


@pytest.mark.slow
def test_a_clip_that_ends_its_task_twice_is_dropped(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "deaths").mkdir()
    cluster = SlurmCluster(executor="local", poll_s=0.1)
    runner = make_runner(videos, tmp_path / "data", detector=Deadly(tmp_path / "deaths", 99), cluster=cluster)
    info = runner.run()
    assert info.splits["train"].clips == 5
    assert 'p2/1,crashed,"ended its worker 2 times' in (tmp_path / "data/report.csv").read_text()


def test_slurm_says_what_it_needs(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match='cluster=slurm: Could not detect "srun"'):
        make_runner(videos, tmp_path / "a", cluster=SlurmCluster()).run()
    with pytest.raises(ValueError, match=r"cluster=slurm: .*memory"):
        make_runner(videos, tmp_path / "b", cluster=SlurmCluster({"memory": 4}, executor="local")).run()
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ImportError, match=r"pip install -c constraints.txt -e '\.\[slurm\]'"):
        make_runner(videos, tmp_path / "c", cluster=SlurmCluster()).run()


@pytest.mark.parametrize(
    ("clips", "tasks", "parts"), [(25, 10, [10, 10, 5]), (25, 2, [20, 5]), (25, 1, [25]), (0, 9, [])]
)
def test_tasks_get_whole_shards(clips: int, tasks: int, parts: list[int]) -> None:
    jobs = make_plan([Unit("train", str(n), str(n), str(n), ("a.mp4",)) for n in range(clips)], 10)
    shared = share_out(jobs, tasks)
    assert [len(part) for part in shared] == parts
    assert [job for part in shared for job in part] == jobs


@pytest.mark.slow
def test_an_array_is_submitted_as_asked(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By submitit's own sbatch file, to a SLURM that runs it on this machine."""
    slurm = Slurm(tmp_path / "slurm", "24.05.4")
    for name, value in slurm.environment().items():
        monkeypatch.setenv(name, value)
    options = {"timeout_min": 7, "cpus_per_task": 2, "slurm_partition": "day", "slurm_account": None}
    cluster = SlurmCluster(options, max_tasks=2, poll_s=0.1)
    make_runner(videos, tmp_path / "one").run()
    make_runner(videos, tmp_path / "many", workers=1, cluster=cluster).run()
    assert hashes(tmp_path / "many") == hashes(tmp_path / "one")
    submitted, *steps = slurm.steps.read_text().splitlines()
    for part in ("('array', '0-1%1')", "('cpus-per-task', '2')", "('partition', 'day')", "('time', '7')"):
        assert part in submitted
    assert [step.split()[:2] for step in steps] == [["1", "2"]] * 2, "tasks with both of their CPUs"


@pytest.mark.slow
def test_a_stopped_run_cancels_its_array(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = Slurm(tmp_path / "slurm", "24.05.4")
    for name, value in slurm.environment().items():
        monkeypatch.setenv(name, value)

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("talkinghead.preparation.cluster.time.sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_runner(videos, tmp_path / "data", cluster=SlurmCluster(max_tasks=2)).run()
    assert slurm.requeued.read_text() == "cancelled 77\n"
