"""Ten kill -9 of each generator's training at random moments: it must end as a run left alone, to the bit.

python experiments/robustness/kills.py outputs/robustness/kills DATA    # DATA: a folder for the rendered people
"""

from talkinghead.processes import interruptible, program

if __name__ == "__main__":  # before the imports that take seconds
    program("experiments/robustness/kills.py")

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from talkinghead.reporting.tables import fill_block
from talkinghead.storage import Row, read_csv, write_atomic, write_csv

HERE = Path(__file__).parent
RESULTS, README = HERE / "kills.csv", HERE / "README.md"
COLUMNS = ("generator", "kill", "seconds", "saved", "half_written", "bit_equal")
GENERATORS = {
    "fsth": ("experiment=meta_synthetic",),
    "warp": ("experiment=meta_synthetic_warp", "model=warp_64", "data=synthetic"),
}
LABELS = {"fsth": "the paper's", "warp": "warp-guided"}
SHORT = (
    "data.batch_size=4", "data.episodes_per_epoch=80", "data.val_episodes=4", "validation_shots=[1]",
    "callbacks.budget.minutes=null", "callbacks.last.every_minutes=0.0", "animate_example=false", "trainer=cpu",
    "trainer.max_epochs=4", "trainer.check_val_every_n_epoch=1", "ckpt_path=auto",
)  # fmt: skip
KILLS, LATEST_S = 10, 15.0  # a kill comes so long after the first step, at most
COMPARED = ("state_dict", "optimizer_states", "ema", "rng", "global_step", "videos")


def start(folder: Path, options: tuple[str, ...], data: Path) -> subprocess.Popen:
    """Training in a folder, which goes on from what it has saved there."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "train.py", *options, *SHORT, f"paths.data_dir={data}", f"hydra.run.dir={folder}"]
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def last_of(folder: Path) -> Path:
    """What it saves after every step."""
    return folder / "checkpoints" / "last.ckpt"


def equal(one: Any, other: Any) -> bool:
    """Nested dicts, lists and tensors, to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def kill_often(folder: Path, options: tuple[str, ...], data: Path, began_s: float, seed: int) -> list[Row]:
    """Kill a run `KILLS` times, at moments from the imports on; then let it end. A row for each kill."""
    draw, rows = random.Random(seed), []
    for number in range(1, KILLS + 1):
        before = set(folder.rglob(".*.tmp"))
        process, wait = start(folder, options, data), draw.uniform(0.7 * began_s, began_s + LATEST_S)
        time.sleep(wait)
        if process.poll() is not None:
            raise RuntimeError(f"{folder} ended by itself before kill {number}: more epochs, please")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        saved = torch.load(last_of(folder), weights_only=True)["global_step"] if last_of(folder).exists() else 0
        half = "yes" if set(folder.rglob(".*.tmp")) - before else "no"
        rows.append({"kill": str(number), "seconds": f"{wait:.1f}", "saved": str(saved), "half_written": half})
        print(f"{folder.name}, kill {number} after {wait:.1f} s: {saved} updates saved; a file half written: {half}")
    if start(folder, options, data).wait():
        raise RuntimeError(f"{folder} did not end well: {folder / 'log.txt'}")
    return rows


def measure(name: str, outputs: Path, data: Path) -> list[Row]:
    """One generator: a run left alone, and one that is killed."""
    options, alone, killed = GENERATORS[name], outputs / f"{name}-alone", outputs / f"{name}-killed"
    began, process = time.monotonic(), start(alone, options, data)
    while not last_of(alone).exists() and process.poll() is None:
        time.sleep(0.05)
    first = time.monotonic() - began
    if process.wait():
        raise RuntimeError(f"{alone} did not end well: {alone / 'log.txt'}")
    rows = kill_often(killed, options, data, first, seed=list(GENERATORS).index(name))
    one, other = (torch.load(last_of(folder), weights_only=True) for folder in (alone, killed))
    same = all(equal(one[key], other[key]) for key in COMPARED)
    return [{"generator": name, **row, "bit_equal": "yes" if same else "no"} for row in rows]


def build_table() -> str:
    """Markdown: a line for each generator."""
    lines = ["| generator | kill -9 | while a file was written | ends bit-equal |", "|---|---|---|---|"]
    rows = list(read_csv(RESULTS))
    for name in GENERATORS:
        mine = [row for row in rows if row["generator"] == name]
        half = sum(row["half_written"] == "yes" for row in mine)
        lines.append(f"| {LABELS[name]} | {len(mine)} | {half} | {mine[0]['bit_equal'] if mine else ''} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write kills.csv and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", type=Path)
    parser.add_argument("data", type=Path)
    given = parser.parse_args()
    rows = [row for name in GENERATORS for row in measure(name, given.outputs.absolute(), given.data.absolute())]
    write_csv(RESULTS, COLUMNS, rows)
    write_atomic(README, fill_block(README.read_text(), "kills", build_table()).encode())


if __name__ == "__main__":
    with interruptible("experiments/robustness/kills.py"):
        main()
