"""Where fine-tuning's D' starts, and what becomes of it: L1 on hold-out frames over the steps, for each start of w'.

    python experiments/finetune_start/measure.py [--people 8] [--steps 80]

Renders its people, learns each of them with the model that ships (`finetune=small`), writes trace.csv beside itself
and the table into README.md. About ten minutes of one core.
"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("experiments/finetune_start/measure.py")

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch

from talkinghead.data.datamodule import EpisodeDataModule
from talkinghead.evaluation.tasks import PlacedFrame, Shards
from talkinghead.learners.finetune import FineTuner, Progress
from talkinghead.learners.load import LoadedCheckpoint
from talkinghead.reenactment.inputs import MODELS
from talkinghead.reporting.tables import fill_block
from talkinghead.synthetic.dataset import SyntheticDataset
from talkinghead.types import Frames

HERE = Path(__file__).parent
TRACE, README = HERE / "trace.csv", HERE / "README.md"
LOOK_AT = (1, 2, 4, 8, 12, 20, 40, 60, 80)  # steps
NUM_FRAMES, NUM_HELD_OUT = 40, 16
KEY = ("init_w", "adv", "T", "identity")
COLUMNS = (*KEY, "step", "l1", "cnt", "real", "fake")


class Row(NamedTuple):
    """A way to start: what w' is, and how much L_ADV counts."""

    init_w: str
    adv: float
    shots: tuple[int, ...]


ROWS = (
    Row("scaled", 1, (1, 8)),
    Row("embedding", 10, (1,)),  # up to the release that has this file
    Row("w0", 1, (1,)),
    Row("random", 1, (1,)),
    Row("embedding", 1, (1,)),
    Row("scaled", 10, (1,)),
    Row("embedding", 10, (8,)),
)


def people(number: int, folder: Path) -> Iterator[tuple[str, Frames, Frames]]:
    """Key, shots from the first part of the clip, hold-out frames from the last part."""
    build = SyntheticDataset(1, 1, number, cross_clips=0, image_size=64, fps=2.5, eval_frames=NUM_FRAMES, workers=1)
    data = EpisodeDataModule(
        folder / f"finetune_start_{number}", size=64, num_shots=1, episodes_per_epoch=1, batch_size=1, num_workers=0,
        seed=0, build=build,
    )  # fmt: skip
    data.prepare_data()
    shards = Shards(data, 64)
    learn = torch.linspace(0, NUM_FRAMES - NUM_HELD_OUT - 1, 8).round().int().tolist()
    for key, clip in sorted(shards.clips("test").items()):
        shots, held_out = (
            shards.frames([PlacedFrame(clip, n) for n in part])
            for part in (learn, range(NUM_FRAMES - NUM_HELD_OUT, NUM_FRAMES))
        )
        yield key, shots, held_out


def trace(method: FineTuner, shots: Frames, held_out: Frames, about: dict[str, Any]) -> list[dict[str, Any]]:
    """One row before the first step, and one after each of `LOOK_AT`."""
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []

    @torch.no_grad()
    def distance(generator: torch.nn.Module) -> float:
        generator.eval()
        value = float((generator(held_out.landmarks) - held_out.images).abs().mean())
        generator.train()
        return round(value, 4)

    def watch(at: Progress) -> None:
        if at.step == 1:
            rows[0].update({name: round(value, 2) for name, value in at.scores.items()})
        if at.step in LOOK_AT:
            rows.append({**about, "step": at.step, "l1": distance(at.generator), "cnt": round(at.losses["cnt"], 3)})

    generator, discriminator = method.personalize(shots)
    rows.append({**about, "step": 0, "l1": distance(generator)})
    method.fine_tune(generator, discriminator, shots, watch)
    return rows


def measure(number: int, steps: int, data: Path) -> list[dict[str, Any]]:
    """All rows of all people; those that trace.csv has already are kept."""
    numbers = {
        "lr_generator": 2e-4, "lr_psi": 2e-4, "lr_w": 2e-4, "lr_discriminator": 2e-4, "batch_size": 8,
        "num_discriminator_steps": 1,
    }  # fmt: skip
    found, rows = list(people(number, data)), list(csv.DictReader(TRACE.open())) if TRACE.is_file() else []
    there = {tuple(str(row[name]) for name in KEY) for row in rows}
    loaded = LoadedCheckpoint(MODELS["fsth_64"], numbers)
    for row in ROWS:
        loaded.numbers = {
            **numbers,
            "init_w": row.init_w,
            "weights": {"cnt": 1, "adv": row.adv, "fm": 10, "motion": 0},
        }
        for num_shots in row.shots:
            for key, shots, held_out in found:
                about = dict(zip(KEY, (row.init_w, row.adv, num_shots, key), strict=True))
                if tuple(map(str, about.values())) in there:
                    continue
                chosen = Frames(*(part[:: 8 // num_shots] for part in shots))
                rows += trace(loaded.method(steps), chosen, held_out, about)
                save(rows)
            print(f"{row.init_w}, adv {row.adv}, T = {num_shots}", flush=True)
    return rows


def save(rows: list[dict[str, Any]]) -> None:
    """Write trace.csv."""
    with TRACE.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def table() -> str:
    """Means over the people, from trace.csv."""
    rows = list(csv.DictReader(TRACE.open()))
    steps = sorted({int(row["step"]) for row in rows})
    lines = [
        "| w' | weight of L_ADV | T | D'(real), D'(fake) at step 0 | " + " | ".join(f"step {n}" for n in steps) + " |",
        "|---|---|---|---|" + "---|" * len(steps),
    ]
    for start, adv, num_shots in dict.fromkeys((row["init_w"], row["adv"], row["T"]) for row in rows):
        mine = [row for row in rows if (row["init_w"], row["adv"], row["T"]) == (start, adv, num_shots)]
        real, fake = (fmean(float(row[name]) for row in mine if row[name]) for name in ("real", "fake"))
        means = [fmean(float(row["l1"]) for row in mine if int(row["step"]) == n) for n in steps]
        cells = [f"`{start}`", adv, num_shots, f"{real:.1f}, {fake:.1f}", *(f"{mean:.4f}" for mean in means)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder for the rendered people")
    parser.add_argument("--table", action="store_true", help="only write the table of trace.csv")
    given = parser.parse_args()
    if not given.table:
        measure(given.people, given.steps, given.data)
    README.write_text(fill_block(README.read_text(), "finetune_start", table()))


if __name__ == "__main__":
    main()
