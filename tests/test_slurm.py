"""slurm/train.sbatch under the rules of several SLURM versions; requeued ranks end as if never stopped."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from tests.cli.test_train import TINY, assert_bit_equal, data_set  # noqa: F401, a fixture
from tests.helpers.slurm import VERSIONS, Slurm

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "slurm/train.sbatch"
ECHO = '#!/bin/sh\necho "$WANDB_RUN_ID $WANDB_RESUME $SLURM_CPUS_PER_TASK"\n'


def checkout(folder: Path, python: str) -> Path:
    """A folder from which the script can be submitted."""
    (interpreter := folder / ".venv/bin/python").parent.mkdir(parents=True)
    interpreter.write_text(python)
    interpreter.chmod(0o755)
    (folder / "train.py").symlink_to(ROOT / "train.py")
    return folder


@pytest.mark.parametrize("version", VERSIONS)
def test_each_rank_gets_its_cpus_and_a_requeued_job_goes_on(version: str, tmp_path: Path) -> None:
    root, slurm = checkout(tmp_path, ECHO), Slurm(tmp_path / "slurm", version)
    for restarts in (0, 1):
        job = slurm.sbatch(root, SCRIPT, "experiment=meta_synthetic", restarts=restarts, nodes="2")
        printed, _ = job.communicate(timeout=60)
        assert job.returncode == 0, printed
        assert printed.splitlines() == ["slurm-77 allow 10"] * 16, "two nodes of eight ranks of ten CPUs"
        (last := root / "outputs/slurm/77/checkpoints/last.ckpt").parent.mkdir(parents=True, exist_ok=True)
        last.touch()
    first, second = (line.split() for line in slurm.steps.read_text().splitlines())
    assert first[:2] == ["16", "10"]
    assert {"trainer.num_nodes=2", "hydra.run.dir=outputs/slurm/77", "experiment=meta_synthetic"} <= {*first}
    assert second == [*first, "ckpt_path=auto"]


@pytest.mark.parametrize("version", ["22.05.2", "24.05.4"])
def test_without_its_option_srun_would_give_one_cpu(version: str, tmp_path: Path) -> None:
    """Of the stand-in: it does what the script has to guard against."""
    root, slurm = checkout(tmp_path, ECHO), Slurm(tmp_path / "slurm", version)
    careless = tmp_path / "careless.sbatch"
    careless.write_text(re.sub(r"--cpus-per-task=\"\S+\"", "", SCRIPT.read_text()))
    printed, _ = slurm.sbatch(root, careless).communicate(timeout=60)
    assert printed.splitlines() == ["slurm-77 allow 1"] * 8


def test_the_log_is_written_into_a_folder_that_exists() -> None:
    assert Path(re.search(r"^#SBATCH --output=(.+)$", SCRIPT.read_text(), re.MULTILINE)[1]).parent == Path()


def test_a_checkout_without_its_environment_is_told(tmp_path: Path) -> None:
    job = Slurm(tmp_path / "slurm", VERSIONS[-1]).sbatch(tmp_path, SCRIPT)
    printed, _ = job.communicate(timeout=60)
    assert (job.returncode, printed) == (1, "no .venv here: run 'make setup' first\n")


@pytest.mark.slow
def test_two_ranks_are_requeued_and_end_as_if_never_stopped(data_set: Path) -> None:  # noqa: F811
    """SIGUSR1 to the step: both ranks save and end, the job is requeued once, and goes on by itself."""
    folder = data_set.parent
    python = f'#!/bin/sh\nOMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= exec "{sys.executable}" "$@"\n'
    options = [*TINY, f"data.path={data_set}", "trainer=ddp_cpu", "trainer.devices=2", "trainer.max_epochs=30",
               "trainer.check_val_every_n_epoch=1000", "callbacks.last.every_minutes=0.002"]  # fmt: skip
    ends = {}
    for name in ("whole", "stopped"):
        root, slurm = checkout(folder / name, python), Slurm(folder / name / "slurm", VERSIONS[-1])
        given, tasks = [*options, f"paths.root_dir={root}"], {"ntasks_per_node": "2", "cpus_per_task": "1"}
        job = slurm.sbatch(root, SCRIPT, *given, **tasks)
        last = root / "outputs/slurm/77/checkpoints/last.ckpt"
        if name == "stopped":
            wait_for(last, job)
            slurm.signal(signal.SIGUSR1)
            printed, _ = job.communicate(timeout=300)
            assert job.returncode == 0, printed[-3000:]
            assert slurm.requeued.read_text() == "requeue 77\n"
            half = torch.load(last, weights_only=True)["global_step"]
            job = slurm.sbatch(root, SCRIPT, *given, restarts=1, **tasks)
        printed, _ = job.communicate(timeout=600)
        assert job.returncode == 0, printed[-3000:]
        ends[name] = torch.load(last, weights_only=True)
    assert 0 < half < ends["whole"]["global_step"] == 60
    for key in ("state_dict", "optimizer_states", "ema"):
        assert_bit_equal(ends["whole"][key], ends["stopped"][key], key)


def wait_for(file: Path, job: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not file.is_file() and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def test_jobs_of_a_sweep_get_their_cpus() -> None:
    """What submitit puts before its srun is run by a shell."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", ["experiment=meta_synthetic", "hydra/launcher=slurm"], return_hydra_config=True)
    (line,) = config.hydra.launcher.setup
    shell = ["bash", "-c", f'{line}; echo "$SRUN_CPUS_PER_TASK"']
    done = subprocess.run(shell, env={"SLURM_CPUS_PER_TASK": "8"}, capture_output=True, text=True, check=True)
    assert done.stdout == "8\n"
