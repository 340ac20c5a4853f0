"""A SLURM of one node: sbatch reads a script's directives, srun has the rules of a version, scontrol requeues.

Rules of versions, from their release notes:

- before 22.05, srun takes --cpus-per-task over from sbatch; from then on, a step without it gets one CPU a task
- 23.02.0 to 23.02.4 leave SLURM_NTASKS out of the batch script's environment where sbatch got --ntasks-per-node
- from 23.11 on, SLURM_TRES_PER_TASK says the CPUs of a task, too; srun ends where an environment contradicts itself
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

VERSIONS = ("20.11.9", "21.08.8", "22.05.2", "23.02.3", "23.02.7", "23.11.1", "24.05.4", "25.05.2")
DIRECTIVE = re.compile(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", re.MULTILINE)


class Slurm:
    """Runs one job; each srun leaves a line in `steps`: tasks, CPUs of each, command.

    Args:
        folder: for its programs and records
        version: of SLURM, e.g. 23.02.3
    """

    def __init__(self, folder: Path, version: str) -> None:
        self.version = tuple(int(part) for part in version.split("."))
        self.steps, self.requeued, self.tasks = folder / "steps", folder / "requeued", folder / "tasks"
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        program = f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" "$0" "$@"\n'
        for name in ("srun", "scontrol", "sbatch", "sacct", "scancel"):
            (self.bin / name).write_text(program)
            (self.bin / name).chmod(0o755)

    def sbatch(self, root: Path, script: Path, *arguments: str, restarts: int = 0, **options: str) -> subprocess.Popen:
        """Start the script in `root` as SLURM would; `options` override its directives, as on sbatch's command line."""
        given = {name.replace("-", "_"): value for name, value in DIRECTIVE.findall(script.read_text())} | options
        nodes, per_node = given.get("nodes", "1"), given.get("ntasks_per_node", "1")
        job = {
            "SLURM_JOB_ID": "77", "SLURM_JOBID": "77", "SLURM_JOB_NAME": given["job_name"],
            "SLURM_SUBMIT_DIR": str(root),
            "SLURM_NNODES": nodes, "SLURM_JOB_NUM_NODES": nodes, "SLURM_NTASKS_PER_NODE": per_node,
            "SLURM_JOB_NODELIST": "localhost", "SLURM_NODELIST": "localhost",
        }  # fmt: skip
        if not (23, 2) <= self.version < (23, 2, 5):
            job["SLURM_NTASKS"] = job["SLURM_NPROCS"] = str(int(nodes) * int(per_node))
        if "cpus_per_task" in given:
            job["SLURM_CPUS_PER_TASK"] = given["cpus_per_task"]
            if self.version >= (23, 11):
                job["SLURM_TRES_PER_TASK"] = f"cpu={given['cpus_per_task']}"
        if restarts:
            job["SLURM_RESTART_COUNT"] = str(restarts)
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SRUN", "WANDB"))}
        environment = {**outside, **job, **self.environment()}
        return subprocess.Popen(
            ["bash", str(script), *arguments], cwd=root, env=environment, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip

    def environment(self) -> dict[str, str]:
        """The variables with which SLURM's programs are found, and find this."""
        fake = {f"FAKE_{name.upper()}": str(path) for name, path in vars(self).items() if isinstance(path, Path)}
        version = ".".join(map(str, self.version))
        return {**fake, "FAKE_VERSION": version, "PATH": f"{self.bin}:{os.environ['PATH']}"}

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all processes of the step, as SLURM does before the time is up; not to the batch script."""
        for task in self.tasks.read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(task), number)


def cpus_of(options: dict[str, str]) -> int:
    """How many CPUs each task of a step gets."""
    version = tuple(int(part) for part in os.environ["FAKE_VERSION"].split("."))
    inherited = os.environ.get("SLURM_CPUS_PER_TASK" if version < (22, 5) else "SRUN_CPUS_PER_TASK")
    said = os.environ.get("SLURM_TRES_PER_TASK", "").removeprefix("cpu=")
    if inherited and said and inherited != said and "cpus-per-task" not in options:
        sys.exit(f"srun: fatal: cpus-per-task set by two different environment variables: {inherited} != {said}")
    return int(options.get("cpus-per-task") or inherited or 1)


def srun(arguments: list[str]) -> int:
    """Start the tasks of a step, each in a process group of its own; returns the largest exit status."""
    options = {}
    while arguments[0].startswith("--"):
        name, equals, value = arguments.pop(0)[2:].partition("=")
        options[name] = arguments.pop(0) if name in ("output", "error") and not equals else value
    cpus = cpus_of(options)
    nodes = int(os.environ["SLURM_NNODES"])
    count = int(os.environ.get("SLURM_NTASKS") or nodes * int(os.environ["SLURM_NTASKS_PER_NODE"]))
    with open(os.environ["FAKE_STEPS"], "a") as file:
        file.write(f"{count} {cpus} {' '.join(arguments)}\n")
    tasks = []
    for number in range(count):
        places = {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number % (count // nodes)), "SLURM_STEP_ID": "0",
                  "SLURM_NODEID": str(number // (count // nodes)), "SLURM_NTASKS": str(count),
                  "SLURM_CPUS_PER_TASK": str(cpus)}  # fmt: skip
        streams = {stream: opened(options[name], number) for stream, name in STREAMS.items() if name in options}
        tasks.append(subprocess.Popen(arguments, env={**os.environ, **places}, start_new_session=True, **streams))
    Path(os.environ["FAKE_TASKS"]).write_text(" ".join(str(task.pid) for task in tasks))
    return max(abs(task.wait()) for task in tasks)


STREAMS = {"stdout": "output", "stderr": "error"}


def opened(pattern: str, task: int) -> Any:
    """A file of output with the numbers of job, element and task in its name."""
    names = {"%A": os.environ.get("SLURM_ARRAY_JOB_ID", ""), "%a": os.environ.get("SLURM_ARRAY_TASK_ID", ""),
             "%j": os.environ["SLURM_JOB_ID"], "%t": str(task)}  # fmt: skip
    for name, value in names.items():
        pattern = pattern.replace(name, value)
    return open(pattern, "ab")


def sbatch(arguments: list[str]) -> int:
    """Run the elements of an array one after the other, behind the back of who has submitted it."""
    script = Path(arguments[0])
    given = dict(DIRECTIVE.findall(script.read_text()))
    first, last = given.get("array", "0-0").split("%")[0].split("-")
    with open(os.environ["FAKE_STEPS"], "a") as file:
        file.write(f"{sorted(given.items())}\n")
    print("Submitted batch job 77")
    if os.fork():
        return 0
    os.setsid()
    for stream in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    for element in range(int(first), int(last) + 1):
        array = {"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": str(element)} if "array" in given else {}
        job = {"SLURM_JOB_ID": str(77 + element), "SLURM_NNODES": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS": "1",
               "SLURM_JOB_NODELIST": "localhost", "SLURM_CPUS_PER_TASK": given.get("cpus-per-task", "1")}  # fmt: skip
        subprocess.run(["bash", str(script)], env={**os.environ, **job, **array}, check=False)
    os._exit(0)


def sacct(arguments: list[str]) -> int:
    """All jobs are running: their results say when they are done."""
    print("JobID|State|NodeList\n77|RUNNING|localhost")
    return 0


def scancel(arguments: list[str]) -> int:
    """Note what is cancelled."""
    with open(os.environ["FAKE_REQUEUED"], "a") as file:
        file.write(f"cancelled {' '.join(arguments)}\n")
    return 0


def scontrol(arguments: list[str]) -> int:
    """`scontrol requeue JOB`."""
    with open(os.environ["FAKE_REQUEUED"], "a") as file:
        file.write(f"{' '.join(arguments)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(globals()[Path(sys.argv[1]).name](sys.argv[2:]))
