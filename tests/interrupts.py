"""How soon every verb ends when it is told to: `python -m tests.interrupts [--table FILE]` measures and prints a table.

Each case is a real command at work. It gets Ctrl-C, as a terminal sends it to the whole process group, or SIGTERM, as
a scheduler sends it to the process; then it is measured how long it takes until no process of the group is left.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import torch
from hydra.utils import instantiate
from torch import nn

from talkinghead.reporting.tables import fill_block
from talkinghead.storage import write_atomic
from tests.cli.test_animate import GREEN_DETECTOR, LOSS, MODEL
from tests.cli.test_train import TINY
from tests.helpers.data_sets import make_clip, write_data_set
from tests.helpers.preparation_videos import green_frame, write_clip
from tests.test_kills import EVALUATION

ROOT = Path(__file__).parents[1]
STARTED_S, PATIENCE_S, LIMIT_S = 300, 120, 2.0
HOW = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Case(NamedTuple):
    """A command, and when it is at work: its output says so (a regular expression), or a file is there.

    code    it ends with, where not 130 and 143
    """

    name: str
    command: list[str]
    says: str | None = None
    writes: Path | None = None
    after: float = 0.0
    code: int | None = None


class End(NamedTuple):
    """How it ended: its exit code, what it wrote, and the seconds from the signal until the whole group was gone."""

    code: int
    output: str
    seconds: float


def end(case: Case, how: signal.Signals) -> End:
    """Run a case and end it. Raises AssertionError where it never comes to work or never ends."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(ROOT),
        "PYTHONFAULTHANDLER": "1",
    }
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, its children too
    process = subprocess.Popen(
        [sys.executable, *case.command], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    lines: list[str] = []
    assert process.stdout is not None
    reading = threading.Thread(target=lambda out=process.stdout: [lines.append(one.decode()) for one in out])
    reading.start()
    try:
        wait_for(lambda: process.poll() is not None or is_at_work(case, lines), STARTED_S, f"{case.name} never works")
        time.sleep(case.after)
        assert process.poll() is None, "".join(lines)[-4000:]
        began = time.monotonic()
        (os.killpg if how == signal.SIGINT else os.kill)(process.pid, how)
        wait_for(lambda: process.poll() is not None, PATIENCE_S, f"{case.name} does not end")
        wait_for(lambda: not members(process.pid), PATIENCE_S, f"{case.name} leaves processes behind")
        seconds = time.monotonic() - began
    except AssertionError as error:
        if process.poll() is None:
            process.send_signal(signal.SIGABRT)  # says where it is
            process.wait()
        raise AssertionError(f"{error}: {''.join(lines)[-4000:]}") from error
    finally:
        if members(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reading.join()
    return End(process.returncode, "".join(lines), seconds)


def is_at_work(case: Case, lines: list[str]) -> bool:
    """Whether the moment of a case has come."""
    said = case.says is None or re.search(case.says, "".join(lines)) is not None
    return said and (case.writes is None or case.writes.exists())


def wait_for(condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
    """Until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.01)


def members(group: int) -> list[int]:
    """Living processes of a group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = path.read_text().rsplit(")", 1)[1].split()[:3]
        except OSError:  # it has just ended
            continue
        if int(its_group) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


def cases(folder: Path) -> list[Case]:
    """All of them; what they need is made in the folder."""
    return [*learning(folder), *preparing(folder), *animating(folder), *tables(folder), *starting(folder)]


def learning(folder: Path) -> list[Case]:
    """Training, a sweep of it, two ranks; evaluation, with fine-tuning and without."""
    clips = [make_clip(n) for n in range(10)]
    data = write_data_set(folder / "tiny", {"train": [clips[:4], clips[4:8]], "val": [clips[8:]]})
    many = write_data_set(folder / "many", {"test": [[make_clip(n, 12) for n in range(400)]]})
    common = ["train.py", *TINY, f"data.path={data}", f"paths.root_dir={folder}", "trainer.max_epochs=100000",
              "callbacks.budget=null"]  # fmt: skip
    evaluation = ["evaluate.py", *EVALUATION, f"paths.root_dir={folder}", f"data.path={many}"]
    save_model(folder / "model.ckpt")
    sized = [one for one in evaluation if not one.startswith("model.")]  # by the checkpoint
    finetuning = ["method=[ft]", f"checkpoint={folder / 'model.ckpt'}", "finetune.epochs=100000"]
    return [
        Case("train.py", [*common, f"hydra.run.dir={folder / 'one'}"], writes=folder / "one/checkpoints/last.ckpt"),
        Case("train.py, two ranks", [*common, "trainer=ddp_cpu", f"hydra.run.dir={folder / 'two'}"],
             writes=folder / "two/checkpoints/last.ckpt"),
        Case("train.py -m", ["train.py", "-m", *common[1:], "seed=0,1", f"hydra.sweep.dir={folder / 'sweep'}"],
             writes=folder / "sweep/0/checkpoints/last.ckpt"),
        Case("evaluate.py", [*evaluation, f"output={folder / 'rows'}"], writes=folder / "rows/results.csv"),
        Case("evaluate.py, fine-tuning", [*sized, *finetuning, f"output={folder / 'ft'}"], says="D' starts"),
        Case("evaluate.py -m", ["evaluate.py", "-m", *evaluation[1:], "seed=0,1", f"output={folder / 'swept'}",
             f"hydra.sweep.dir={folder / 'sweep2'}"], writes=folder / "swept/results.csv"),
        Case("rendering", ["train.py", "experiment=meta_synthetic", f"paths.root_dir={folder / 'rendering'}",
             "trainer=cpu"], after=20),
    ]  # fmt: skip


def preparing(folder: Path) -> list[Case]:
    """In this process, and by two workers."""
    write_clip(folder / "videos/p0/0.mp4", num_frames=12, side=40)
    for n in range(1, 400):
        (folder / f"videos/p{n}").mkdir()
        shutil.copy(folder / "videos/p0/0.mp4", folder / f"videos/p{n}/0.mp4")
    settings = ["settings.image_size=64", "settings.frames_per_clip=10", "settings.min_face=20", "clips_per_shard=2"]

    def case(workers: int) -> Case:
        output = folder / f"prepared{workers}"
        command = ["prepare.py", "source=folder", f"source.root={folder / 'videos'}", "detector=dlib", *GREEN_DETECTOR,
                   *settings, f"workers={workers}", f"output={output}"]  # fmt: skip
        return Case(f"prepare.py, {workers or 'no'} workers", command, writes=output / "train/000000.tar")

    return [case(0), case(2)]


def save_model(path: Path) -> None:
    """A checkpoint of untrained networks."""
    torch.manual_seed(0)
    parts = nn.ModuleDict({name: instantiate(MODEL[name]) for name in ("embedder", "generator", "discriminator")})
    torch.save({"state_dict": parts.state_dict(), "config": {"model": MODEL, "loss": LOSS}}, path)


def animating(folder: Path) -> list[Case]:
    """A person learned without end, by the command and in the studio."""
    save_model(folder / "last.ckpt")
    cv2.imwrite(str(folder / "portrait.png"), green_frame(120, 160, 60, 30, 50)[..., ::-1])
    write_clip(folder / "clip.mp4", 6)
    files = [f"source={folder / 'portrait.png'}", f"driving={folder / 'clip.mp4'}", f"model={folder / 'last.ckpt'}"]
    command = ["animate.py", *files, *GREEN_DETECTOR, f"paths.root_dir={folder}", f"output={folder / 'out.mp4'}",
               f"save_person={folder / 'person'}", "method=ft",
               "finetune.steps=1000000"]  # fmt: skip
    studio = ["-m", "tests.helpers.busy_studio", f"model={folder / 'last.ckpt'}", "port=null", "limits.steps=1000000",
              *GREEN_DETECTOR, f"paths.root_dir={folder}", str(folder / "portrait.png"),
              str(folder / "clip.mp4")]  # fmt: skip
    return [
        Case("animate.py, save_person", command, says="following the driver", after=2),
        Case("studio, a job at work", studio, says="the job is at work", code=0),
    ]


def tables(folder: Path) -> list[Case]:
    """Those of experiments/, in a copy."""
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    shutil.copy(ROOT / "README.md", folder)
    return [Case(f"{path.parent.name}/table.py", [str(path)], after=0.6)
            for path in sorted((folder / "experiments").glob("*/table.py"))]  # fmt: skip


def starting(folder: Path) -> list[Case]:
    """While a verb is imported."""
    return [
        Case(f"{' '.join(command)}, {after:g} s after its start", [*command, *options], after=after)
        for command, options in (
            (["train.py"], ["experiment=meta_synthetic", f"paths.root_dir={folder / 'start'}"]),
            (["evaluate.py"], [f"output={folder / 'none'}"]),
            (["prepare.py"], ["source=folder", f"source.root={folder}", f"output={folder / 'none'}"]),
            (["animate.py"], [f"source={folder / 'portrait.png'}", f"driving={folder / 'clip.mp4'}"]),
            (["-m", "talkinghead.studio"], ["port=null"]),
        )
        for after in (1.0, 2.0)  # later, one without work may have ended by itself
    ]  # fmt: skip


def faults(case: Case, how: signal.Signals, ended: End, limit: float) -> list[str]:
    """What is wrong with an end."""
    wanted = 128 + how if case.code is None else case.code
    found = [f"exit code {ended.code} instead of {wanted}"] if ended.code != wanted else []
    found += ["a traceback"] if "Traceback" in ended.output else []
    return found + ([f"{ended.seconds:.1f} s"] if ended.seconds > limit else [])


def row(case: Case, how: signal.Signals) -> str:
    """A line of the table."""
    try:
        ended = end(case, how)
    except AssertionError as error:
        print(error, file=sys.stderr)
        return f"| {case.name} | {HOW[how]} | {' '.join(str(error).split())[:80]} | | |"
    if faults(case, how, ended, LIMIT_S):
        print(ended.output[-3000:], file=sys.stderr)
    last = re.search(r"^.*\b(interrupted|terminated|stopped after|ended)\b[^;]*", ended.output, re.MULTILINE)
    return f"| {case.name} | {HOW[how]} | {ended.seconds:.1f} | {ended.code} | {last[0] if last else '-'} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a regular expression of names")
    parser.add_argument("--table", type=Path, help="a Markdown file whose block it replaces")
    given = parser.parse_args()
    lines = ["| at work | told by | seconds | exit code | its last words |", "|---|---|---|---|---|"]
    for how in HOW:
        with tempfile.TemporaryDirectory(prefix="interrupts-") as name:
            for case in cases(Path(name)):
                if re.search(given.only, case.name):
                    lines.append(row(case, how))
                    print(lines[-1], flush=True)
    if given.table:
        text = fill_block(given.table.read_text(), "interrupts", "\n".join(lines))
        write_atomic(given.table, text.encode())


if __name__ == "__main__":
    main()
