"""Animation: milliseconds a frame of G', and frames a second from a portrait and a driver to the finished video.

python benchmarks/animate.py                                    # all of it, on a quiet machine
python benchmarks/animate.py generator --repeats 9 [--compile]
python benchmarks/animate.py video --sizes 64 256 --driving talkinghead/reenactment/shipped/drivers/lively.mp4
python benchmarks/animate.py command

`--cpu-time` counts the processor's time instead of the clock's: for a machine that others use, with `--threads 1`.
"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("benchmarks/animate.py")

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

from talkinghead.faces.crop import Framing
from talkinghead.faces.detectors import Dlib
from talkinghead.learners.checkpoints import networks
from talkinghead.learners.finetune import FeedForward, PersonReenactor
from talkinghead.models.fast_generator import FastGenerator
from talkinghead.models.fsth import PersonalGenerator
from talkinghead.provenance import find_signer
from talkinghead.reenactment import animation, pipeline
from talkinghead.reenactment.animation import Look
from talkinghead.reenactment.driver import Driver
from talkinghead.reenactment.inputs import MODELS, SHIPPED
from talkinghead.reenactment.pipeline import NewPerson, Pipeline, Settings
from talkinghead.reenactment.source import read_source, shots_of
from talkinghead.video import writer
from talkinghead.video.cached_reader import CachedVideo
from talkinghead.video.writer import VideoWriter

ROOT = Path(__file__).parents[1]
PORTRAIT, DRIVER = SHIPPED.parent / "portraits" / "anna.jpg", SHIPPED.parent / "drivers" / "lively.mp4"
FRAMING = Framing(1.8, 0.0)


# G' alone.


def random_person(model: str) -> PersonalGenerator:
    """G' of a preset with random weights: as fast as any."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("evaluate", [f"model={model}", "num_videos=1", "paths.root_dir=."])
    generator = instantiate(cfg.model.generator).eval()
    return generator.personalize(torch.rand(1, generator.projection.in_features)).fold()


def drawing_ways(person: PersonalGenerator, compiled: bool) -> dict[str, Callable[[Tensor], Tensor]]:
    """By name, all that draw the same pictures; the first is what the others are compared with."""
    bf16 = torch.bfloat16

    def autocast(y: Tensor) -> Tensor:
        with torch.autocast("cpu", bf16):
            return person(y)

    cast = PersonalGenerator.of(person.preset)
    cast.load_state_dict({name: value.to(bf16) for name, value in person.state_dict().items()}, assign=True)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "G' fp32": person, "G' bf16 autocast": autocast, "G' bf16 weights": cast.fold(),
        "quick G' fp32": FastGenerator(person), "quick G' bf16": FastGenerator(person, bf16),
    }  # fmt: skip
    if compiled:
        ways["quick G' bf16 compiled"] = torch.compile(FastGenerator(person, bf16))
    return ways


@torch.no_grad()
def time_generator(name: str, person: PersonalGenerator, y: Tensor, args: argparse.Namespace, compiled: bool) -> None:
    """A line per way: median milliseconds a frame, how many times as fast as the first, and how near to its pictures.

    The ways take turns, so that whatever else the machine does meets all of them.
    """
    ways = drawing_ways(person, compiled)
    began = time.perf_counter()
    pictures = {way: draw(y).float() for way, draw in ways.items()}
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(args.repeats):
        for way, draw in ways.items():
            start = args.clock()
            draw(y)
            seconds[way].append((args.clock() - start) / len(y))
    first, exact = next(iter(ways)), pictures[next(iter(ways))]
    print(f"\n{name}, {len(y)} pictures at a time (first pictures of all: {time.perf_counter() - began:.1f} s in all)")
    for way, values in seconds.items():
        median, least = statistics.median(values), min(values)
        ratio = statistics.median(a / b for a, b in zip(seconds[first], values, strict=True))
        error = (pictures[way] - exact).square().mean()
        near = f"max {float((pictures[way] - exact).abs().max()):.4f}, {float(10 * torch.log10(4 / error)):.1f} dB"
        print(
            f"  {way:24} {1000 * median:7.1f} ms  (least {1000 * least:6.1f})  {ratio:4.2f} x"
            + (f"  {near}" if error else "")
        )


def measure_generator(args: argparse.Namespace) -> None:
    """The paper's size with random weights, and the paper's networks that ship with theirs."""
    person = random_person(args.model)
    size = person.preset.image_size
    noise = torch.rand(args.batch, 3, size, size) * 2 - 1
    time_generator(f"{args.model}, random weights on noise", person, noise, args, args.compile)
    parts: Any = networks(str(MODELS["fsth_64"]))
    size = parts["generator"].preset.image_size
    shots = shots_of(read_source([PORTRAIT], Dlib(), FRAMING), size)
    known = FeedForward(parts["embedder"], parts["generator"]).learn(shots)
    driving = shots_of(read_source([DRIVER], Dlib(), FRAMING, shots=8), size)
    time_generator(f"the shipped model, {size} px", known.generator, driving.landmarks, args, args.compile)


# The whole way.


class Stopwatch:
    """Seconds by name; a part inside another is not counted twice."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.seconds, self._open = clock, defaultdict(float), [0.0]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts the block, without the parts inside it."""
        start = self.clock()
        self._open.append(0.0)
        try:
            yield
        finally:
            elapsed = self.clock() - start
            self.seconds[name] += elapsed - self._open.pop()
            self._open[-1] += elapsed

    def watch(self, owner: Any, method: str, name: str) -> Any:
        """A patch under which every call of the function is such a part."""
        function = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return patch.object(owner, method, timed)

    # As a `Reporter`: what a phase does besides the parts.

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator["Stopwatch"]:
        with self.part(f"{name}, else"):
            yield self

    def of(self, total: int) -> "Stopwatch":
        return self

    def __call__(self) -> None: ...

    def tell(self, text: str) -> None: ...


PARTS = {
    "decoding": [(CachedVideo, "_keep")],
    "face search": [(Dlib, "boxes")],
    "landmarks": [(Dlib, "landmarks")],
    "adapting the landmarks": [(pipeline, "driving_points")],
    "crops and landmark images": [(animation, "as_frames"), (animation, "cut")],
    "G'": [(PersonReenactor, "__call__")],
    "composing": [(animation.Composer, "__call__")],
    "encoding": [(VideoWriter, "write"), (VideoWriter, "_finish")],
    "statements of origin": [(writer, "mark"), (animation, "sheet_of")],
}


def animate_once(watch: Stopwatch, size: int, args: argparse.Namespace, person: NewPerson) -> int:
    """Portrait and driver to video; the number of frames."""
    look, settings = Look(size=size or None), Settings(precision=args.precision)
    run = Pipeline(args.detector, FRAMING, settings, watch, signer=args.signer)
    frames: list[int] = []

    def count(driver: Driver, *rest: Any) -> Any:
        frames.append(len(driver.points))
        return points(driver, *rest)

    points = pipeline.driving_points
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stack.enter_context(patch.object(pipeline, "driving_points", count))
        for name, functions in PARTS.items():
            for owner, method in functions:
                stack.enter_context(watch.watch(owner, method, name))
        with watch.part("else"):
            run([PORTRAIT], args.driving, person, look, Path(folder) / "video.mp4")
    return frames[0]


def measure_video(args: argparse.Namespace) -> None:
    """Milliseconds a frame of each part, and frames a second."""
    parts: Any = networks(str(MODELS[args.shipped]))
    person = NewPerson("ff", FeedForward(parts["embedder"], parts["generator"]), parts["generator"].preset.image_size)
    args.detector, args.signer = Dlib(), find_signer()
    for size in args.sizes:
        rows: dict[str, list[float]] = defaultdict(list)
        for n in range(args.repeats + 1):
            watch = Stopwatch(args.clock)
            frames = animate_once(watch, size, args, person)
            for name, seconds in watch.seconds.items() if n else ():  # the first is for warming up
                rows[name].append(1000 * seconds / frames)
            if n:
                rows["all"].append(1000 * sum(watch.seconds.values()) / frames)
        total = statistics.median(rows.pop("all"))
        print(
            f"\n{args.driving.name}, {frames} frames, to {size or 'the networks own'} px: {1000 / total:.1f} frames/s",
            end="",
        )
        print(f", {total:.2f} ms a frame, FF; statements of origin {'signed' if args.signer else 'plain'}")
        for name, values in sorted(rows.items(), key=lambda row: -statistics.median(row[1])):
            print(f"  {statistics.median(values):7.2f} ms  {statistics.median(values) / total:6.1%}  {name}")


def measure_command(args: argparse.Namespace) -> None:
    """Seconds of whole commands, Python's start included."""
    with tempfile.TemporaryDirectory() as folder:
        given = [
            f"source={PORTRAIT}",
            f"driving={args.driving}",
            f"output={folder}/video.mp4",
            f"precision={args.precision}",
        ]
        commands = {
            "import of animate.py": ["-c", "from talkinghead.cli import animate"],
            "animate.py, FF": ["animate.py", *given, "method=ff"],
            "animate.py, FT": ["animate.py", *given, "method=ft"],
        }
        print()
        for name, command in commands.items():
            seconds = []
            for _ in range(args.repeats if "FT" not in name else 1):
                start = time.perf_counter()
                subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)
                seconds.append(time.perf_counter() - start)
            print(f"{name}: {statistics.median(seconds):.1f} s")


def main() -> None:
    """Parse, run, print."""
    measures = {"generator": measure_generator, "video": measure_video, "command": measure_command}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help=f"{', '.join(measures)}; all if none is given")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu-time", action="store_true", help="the processor's time instead of the clock's")
    parser.add_argument("--model", default="fsth_256", help="generator: of conf/model")
    parser.add_argument("--batch", type=int, default=1, help="generator: pictures at a time")
    parser.add_argument("--compile", action="store_true", help="generator: torch.compile too; needs a C++ compiler")
    parser.add_argument("--driving", type=Path, default=DRIVER)
    parser.add_argument("--sizes", type=int, nargs="+", default=[0, 256], help="video: look.size; 0: the networks' own")
    parser.add_argument("--precision", default="auto")
    args = parser.parse_args()
    if unknown := set(args.what) - set(measures):
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(measures)}")
    args.clock = time.process_time if args.cpu_time else time.perf_counter
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    torch.manual_seed(0)
    kind = "processor" if args.cpu_time else "clock"
    print(f"{processor()}, {args.threads} threads, torch {torch.__version__}; {kind} time, medians of {args.repeats}")
    for what in args.what or measures:
        measures[what](args)


def processor() -> str:
    """What the machine calls its CPU."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.is_file()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
