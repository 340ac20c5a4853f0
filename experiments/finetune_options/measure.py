"""What fine-tuning should do besides the paper's steps: each option alone, then together, on people never seen.

    python experiments/finetune_options/measure.py warp_256 --data VIDEOS [--shots 1 8] [--options ff plain …]
    python experiments/finetune_options/measure.py --table

VIDEOS is a data set of real videos as `evaluate.py data=videos` or `prepare.py` writes it. Adds rows to results.csv
beside itself, those that are there are not done again, and writes the tables into README.md.
"""

import argparse
import csv
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate

from talkinghead.data.datamodule import EpisodeDataModule
from talkinghead.evaluation.tasks import PlacedFrame, Shards
from talkinghead.learners.load import LoadedCheckpoint
from talkinghead.metrics.identity import find_dlib_identity
from talkinghead.metrics.landmarks import find_detector
from talkinghead.metrics.motion import LIDS, LIPS, opening
from talkinghead.metrics.perceptual import PerceptualDistance
from talkinghead.metrics.suite import ImageMetrics
from talkinghead.models.backbones import vgg16
from talkinghead.models.facenet import facenet_synthetic
from talkinghead.reenactment.inputs import MODELS
from talkinghead.types import Frames

HERE = Path(__file__).parent
RESULTS, README = HERE / "results.csv", HERE / "README.md"
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
MOST_SHOTS, NUM_HELD_OUT, EVERY = 32, 16, 3  # distances of every third hold-out frame
METRICS = ("distance", "ssim", "csim_dlib", "lip_correlation", "lip_gain", "lid_correlation", "lid_gain", "cpu_s")
COLUMNS = ("model", "size", "option", "T", "steps", "person", *METRICS)
CONVOLUTIONS = {
    "warp_256": ["from_guide", "down", "middle", "up", "last", "to_parts"],
    "fsth_64": ["down", "middle", "up", "up_attention", "down_attention", "to_image"],
}
PLAIN = {
    "lr_generator": 2e-4, "lr_discriminator": 2e-4, "num_discriminator_steps": 1, "batch_size": 1,
    "weights": {"cnt": 1, "adv": 1, "fm": 10}, "lr_psi": None, "lr_w": None, "augment": [], "frozen": [],
}  # fmt: skip
GROUPS = {"lr_generator": 5e-5, "lr_psi": 5e-3, "lr_w": 5e-3}
MOTION = {"weights": {"cnt": 1, "adv": 1, "fm": 10, "motion": 100}}


def options(model: str) -> dict[str, dict[str, Any] | None]:
    """Numbers of FineTuner by option; None: feed-forward."""
    augment = ["affine", "colour"] if model.startswith("warp") else ["affine"]
    return {
        "ff": None, "plain": PLAIN, "slow": PLAIN | {"lr_generator": 5e-5}, "groups": PLAIN | GROUPS,
        "psi": PLAIN | GROUPS | {"frozen": CONVOLUTIONS[model]}, "motion": PLAIN | MOTION,
        "augment": PLAIN | {"augment": augment}, "mirror": PLAIN | {"augment": ["mirror"]},
        "slow+motion": PLAIN | MOTION | {"lr_generator": 5e-5},
        "groups+motion": PLAIN | GROUPS | MOTION,
        "groups+motion+mirror": PLAIN | GROUPS | MOTION | {"augment": ["mirror"]},
        "all": PLAIN | GROUPS | MOTION | {"augment": augment},
    }  # fmt: skip


def people(data: Path, size: int, count: int) -> Iterator[tuple[Frames, Frames]]:
    """Shots from the first half of the clip, hold-out frames in order of time from the second.

    Those come first whose lips and lids move most in the second half, one clip of each identity.
    """
    shards = Shards(
        EpisodeDataModule(
            str(data), size=size, num_shots=1, episodes_per_epoch=1, batch_size=1, num_workers=0, seed=0
        ),
        size,
    )  # fmt: skip
    best: dict[str, tuple[float, str, Any, np.ndarray]] = {}
    for key, clip in sorted(shards.clips("test").items()):
        points = clip.landmarks()
        seen = np.flatnonzero(np.isfinite(points).all((1, 2)))
        if len(seen) < 2 * MOST_SHOTS:
            continue
        held_out = points[seen[len(seen) // 2 :]]
        moves = float(opening(held_out, LIPS).std() * opening(held_out, LIDS).std())
        identity = str(clip.meta().get("identity", key))
        if identity not in best or moves > best[identity][0]:
            best[identity] = (moves, key, clip, seen)
    for _, _, clip, seen in sorted(best.values(), key=lambda one: -one[0])[:count]:
        half = len(seen) // 2
        parts = (seen[:half], seen[np.linspace(half, len(seen) - 1, NUM_HELD_OUT).round().astype(int)])
        shots, target = (shards.frames([PlacedFrame(clip, int(n)) for n in part]) for part in parts)
        yield shots, target


def spread(count: int, chosen: int) -> torch.Tensor:
    """Which of so many frames are learned from: evenly spread, neither the first nor the last unless all are."""
    if chosen == count:
        return torch.arange(count)
    return torch.linspace(0, count - 1, chosen + 2).round().long()[1:-1]


def measures(x_hat: torch.Tensor, target: Frames, all_frames: ImageMetrics, some: ImageMetrics) -> dict[str, float]:
    """All of METRICS but the time."""
    values = all_frames.measure_clip(x_hat, target.images, target.points)
    few = (x_hat[::EVERY], target.images[::EVERY], target.points[::EVERY])
    return values | some.average(some.measure(*few))


def cpu_seconds() -> float:
    """Of this process."""
    times = os.times()
    return times.user + times.system


def measure(given: argparse.Namespace) -> None:
    """Add the rows that are not there."""
    done = {tuple(row[name] for name in COLUMNS[:6]) for row in rows()}
    network = vgg16(path=given.vgg16, convention=given.convention) if given.vgg16 else facenet_synthetic()
    all_frames = ImageMetrics(find_detector(), similarities={"csim_dlib": find_dlib_identity(every=4)})
    some = ImageMetrics(None, distances={"distance": PerceptualDistance(network)})
    loaded = LoadedCheckpoint(MODELS[given.model], instantiate, PLAIN)
    size = given.size or loaded.size
    generator = loaded.method(0).generator
    generator.preset = generator.preset._replace(image_size=size)  # its layers do not care
    for number, (shots, target) in enumerate(people(given.data, size, given.people)):
        if given.only and number not in given.only:
            continue
        for num_shots in given.shots:
            few = Frames(*(part[spread(len(part), num_shots)] for part in shots))
            for name in given.options or options(given.model):
                numbers = options(given.model)[name]
                steps = 0 if numbers is None else given.steps
                about = (given.model, str(size), name, str(num_shots), str(steps), str(number))
                if about in done:
                    continue
                torch.manual_seed(0)
                loaded.numbers = numbers or PLAIN
                began, method = cpu_seconds(), loaded.method(steps)
                if numbers is not None:
                    method.epochs = -(-steps // num_shots)  # type: ignore[assignment]
                reenact = method.learn(few)
                seconds = cpu_seconds() - began
                with torch.no_grad():
                    values = measures(reenact(target), target, all_frames, some)
                add(dict(zip(COLUMNS, about, strict=False)) | values | {"cpu_s": seconds})
                print(*about, {name: round(values[name], 3) for name in METRICS[:-1]}, round(seconds, 1), flush=True)


def add(row: Mapping[str, Any]) -> None:
    """One line of results.csv."""
    new = not RESULTS.is_file()
    line = {name: round(row[name], 4) if isinstance(row[name], float) else row[name] for name in COLUMNS}
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(line)


def rows() -> list[dict[str, str]]:
    """What was measured."""
    return list(csv.DictReader(RESULTS.open())) if RESULTS.is_file() else []


def table(model: str) -> str:
    """Means over the people of each option, from results.csv; in brackets feed-forward on the same people."""
    mine = [row for row in rows() if row["model"] == model]
    heads = ("distance", "SSIM", "identity", "lips: r", "gain", "lids: r", "gain", "CPU s to learn")
    lines = [f"| px | T | option | steps | people | {' | '.join(heads)} |", "|" + "---|" * (len(heads) + 5)]
    names = list(options(model))
    for size, num_shots in sorted({(int(row["size"]), int(row["T"])) for row in mine}):
        here = [row for row in mine if (int(row["size"]), int(row["T"])) == (size, num_shots)]
        kinds = sorted({(names.index(row["option"]), row["option"], row["steps"]) for row in here})
        for _, name, steps in kinds:
            group = [row for row in here if (row["option"], row["steps"]) == (name, steps)]
            met = {row["person"] for row in group}
            before = [row for row in here if row["option"] == "ff" and row["person"] in met]
            cells = [
                mean(group, metric) + (f" ({mean(before, metric)})" if name != "ff" else "") for metric in METRICS[:-1]
            ]
            cells.append(f"{fmean(float(row['cpu_s']) for row in group):.0f}")
            lines.append(f"| {size} | {num_shots} | {name} | {steps} | {len(group)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def mean(group: list[dict[str, str]], metric: str) -> str:
    """Over the people of whom it is known."""
    values = [float(row[metric]) for row in group if row[metric] != "nan"]
    return f"{fmean(values):.3f}" if values else "-"


def main() -> None:
    """Measure, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", choices=sorted(CONVOLUTIONS))
    parser.add_argument("--data", type=Path, help="a prepared data set of videos")
    parser.add_argument("--size", type=int, help="of the pictures, pixels: fewer than the model's cost less")
    parser.add_argument("--people", type=int, default=4)
    parser.add_argument("--only", type=int, nargs="+", help="of these people, by number")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--options", nargs="+")
    parser.add_argument("--vgg16", help="weights of VGG16 for the distance; without: the project's face network")
    parser.add_argument("--convention", default="caffe_folded", help="of these weights")
    parser.add_argument("--table", action="store_true", help="only write the tables of results.csv")
    given = parser.parse_args()
    if not given.table:
        measure(given)
    if README.is_file():
        README.write_text(BLOCK.sub(lambda match: match[1] + table(match[2]) + match[3], README.read_text()))


if __name__ == "__main__":
    main()
