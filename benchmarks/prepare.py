"""Speed of a preparation, and how far its landmarks are from given ones.

python benchmarks/prepare.py speed VIDEOS OUTPUT [--workers 2] [--cropped]
python benchmarks/prepare.py driver [--clips 1090000]          # what the process that starts the run has to do
python benchmarks/prepare.py batches                           # frames per second of S3FD and FAN, by batch size
python benchmarks/prepare.py landmarks OUTPUT LANDMARKS...    # folders of <clip>.npy, [F, 68, 2], pixels of the frames
python benchmarks/prepare.py judge OUTPUT LANDMARKS...        # where the two differ, which does a third model confirm?
"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("benchmarks/prepare.py")

import argparse
import json
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import dlib
import face_recognition_models
import numpy as np
import simplejpeg
from jaxtyping import Float

from talkinghead.data.shards import Clip, DatasetInfo
from talkinghead.faces.detectors import Dlib, FaceAlignment, boxes_of, landmarks_of
from talkinghead.faces.landmark_image import interocular
from talkinghead.faces.tracking import batches as in_batches
from talkinghead.preparation import partial_results
from talkinghead.preparation.clip import Settings
from talkinghead.preparation.partial_results import read_clips
from talkinghead.preparation.plan import Job, make_plan
from talkinghead.preparation.runner import Runner
from talkinghead.preparation.sources import Folder, Unit
from talkinghead.preparation.workers import Counts, Results, Work
from talkinghead.storage import write_atomic


def speed(arguments: argparse.Namespace) -> None:
    """Prepare a folder with dlib from nothing and print frames per second, of the clock and of CPU time."""
    shutil.rmtree(arguments.output, ignore_errors=True)
    source = Folder(arguments.videos, {"train": "."}, cropped=arguments.cropped)
    start = time.monotonic()
    info = Runner(source, Dlib(), Settings(), arguments.output, arguments.workers).run()
    seconds = time.monotonic() - start
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = usage.ru_utime + usage.ru_stime
    frames = info.splits["train"].frames
    print(f"{frames} frames kept in {seconds:.1f} s with {arguments.workers} workers: {frames / seconds:.0f} frames/s,")
    print(
        f"start-up included; {1000 * cpu / frames:.1f} ms of CPU per frame: {frames / cpu:.0f} frames/s and free core"
    )


class Instant:
    """A cluster whose workers take no time: what is left is the work of the process that started them."""

    def results(self, work: Work, jobs: list[Job], workers: int | None) -> Results:
        """Each job as prepared, its shard without clips."""
        for job in jobs:
            if job.position == 0:
                block = {"entry": None, "frames": 0, "identities": [], "framing": [], "drops": [], "videos": []}
                write_atomic(partial_results.block_file(work.output, job), json.dumps(block).encode())
            yield job, Counts(1, 0, 64)


class Listed:
    """A source of clips that are not there: ten to a video, forty to a person."""

    name = "listed"

    def __init__(self, clips: int) -> None:
        self.clips = clips

    def units(self) -> list[Unit]:
        """Names as VoxCeleb2 has them."""
        names = ((f"id{n // 40:05d}", f"id{n // 40:05d}/video{n // 10:06d}", n % 10) for n in range(self.clips))
        return [Unit("train", who, video, f"{video}/{n:05d}", (f"/{video}/{n}.mp4",)) for who, video, n in names]


class Ready:
    """A detector that is never asked."""

    name, version = "none", "0"

    def check(self) -> None:
        """Nothing is missing."""


def driver(arguments: argparse.Namespace) -> None:
    """Run a preparation of listed clips whose workers take no time."""
    with tempfile.TemporaryDirectory() as folder:
        cluster = Instant()
        runner = Runner(Listed(arguments.clips), Ready(), Settings(), folder, cluster=cluster)  # type: ignore[arg-type]
        start = time.process_time()
        jobs = make_plan(runner.source.units(), runner.clips_per_shard)
        planned = time.process_time()
        state = partial_results.scan(runner.output)
        runner._work(jobs, state)
        worked = time.process_time()
        scanned = partial_results.scan(runner.output)
        resumed = sum(scanned.done(job) for job in jobs)
        end = time.process_time()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{arguments.clips} clips in {len(jobs) // runner.clips_per_shard} shards; seconds of CPU of the driver:")
    print(
        f"plan {planned - start:.1f}; all results {worked - planned:.1f}, {len(jobs) / (worked - planned):.0f} clips/s;"
    )
    print(f"to see on a restart what is done {end - worked:.1f} ({resumed} clips); {memory:.1f} GiB of memory")


def batches(arguments: argparse.Namespace) -> None:
    """S3FD at 640 x 360 px and FAN with untrained weights, on the GPU where there is one."""
    import torch  # noqa: PLC0415
    from face_alignment.detection.sfd.net_s3fd import s3fd  # noqa: PLC0415
    from face_alignment.models import FAN  # noqa: PLC0415

    from talkinghead.faces.fan import load_face_alignment  # noqa: PLC0415

    images = [*np.random.default_rng(0).integers(0, 256, (arguments.frames, 360, 640, 3)).astype(np.uint8)]
    boxes = [np.array([200.0, 100, 330, 240])] * len(images)
    with tempfile.TemporaryDirectory() as folder:
        s3fd_file, fan_file = Path(folder, "s3fd.pth"), Path(folder, "fan.pth")
        network = s3fd()
        for name, value in network.state_dict().items():
            if name.endswith("conf.bias"):
                value[-1] = -10  # no faces everywhere, of which a trained network has few
        torch.save(network.state_dict(), s3fd_file)
        torch.save(FAN(4).state_dict(), fan_file)
        for bf16 in (False, True):
            for size in (1, 2, 4, 8, 16):
                detector = FaceAlignment(threshold=0.999, batch_size=size, bf16=bf16)
                detector.__dict__["_networks"] = load_face_alignment(s3fd_file, fan_file, "auto", 0.999, False, bf16)
                seconds = []
                landmarks_of(images[:1], boxes[:1], detector)  # the first call compiles
                for search in (boxes_of, lambda part, one: landmarks_of(part, boxes[: len(part)], one)):
                    start = time.perf_counter()
                    for _, part in in_batches(enumerate(images), detector):
                        search(part, detector)
                    seconds.append((time.perf_counter() - start) / len(images))
                rates = f"S3FD {1 / seconds[0]:.2f}, FAN {1 / seconds[1]:.2f} frames/s"
                print(f"batches of {size:2}, {'bf16' if bf16 else 'fp32'}: {rates}", flush=True)


def clips(output: Path) -> Iterator[Clip]:
    """Every clip of a data set."""
    for split in DatasetInfo.load(output).splits.values():
        for entry in split.shards:
            yield from read_clips(output / entry.file)


def pairs(output: str, folders: list[str]) -> Iterator[tuple[Clip, Float[np.ndarray, "F 68 2"]]]:
    """Clips with the given landmarks of their frames. Exits where there are none."""
    found = 0
    for clip in clips(Path(output)):
        name = f"{clip.meta['clip']}.npy"
        paths = [Path(folder) / name for folder in folders if (Path(folder) / name).is_file()]
        if paths:
            found += 1
            yield clip, np.load(paths[0]).astype(float)[clip.meta["frame_numbers"]]
    if not found:
        raise SystemExit(f"no landmarks for the clips of {output} in {', '.join(folders)}")


def landmarks(arguments: argparse.Namespace) -> None:
    """Mean distance to given landmarks, in distances between the outer eye corners; cropped sources only."""
    rows = []
    for clip, given in pairs(arguments.output, arguments.given):
        distance = np.linalg.norm(clip.landmarks - given, axis=-1).mean(-1) / interocular(given)
        rows.append((clip.meta["clip"], distance[np.isfinite(distance)]))
    errors = np.concatenate([distance for _, distance in rows])
    per_clip = np.array([distance.mean() for _, distance in rows])
    print(f"{len(rows)} clips, {len(errors)} frames; distance in % of the distance between the outer eye corners")
    print(f"frames: mean {100 * errors.mean():.2f}, median {100 * np.median(errors):.2f}")
    print(f"        {100 * (errors <= 0.05).mean():.1f} % of them within 5 %, mean of those", end=" ")
    print(f"{100 * errors[errors <= 0.05].mean():.2f}")
    print(f"clips:  median {100 * np.median(per_clip):.2f}, {100 * (per_clip <= 0.02).mean():.0f} % of them within 2 %")
    print(
        "worst: ", ", ".join(f"{name} {100 * d.mean():.0f}" for name, d in sorted(rows, key=lambda r: -r[1].mean())[:8])
    )


def judge(arguments: argparse.Namespace) -> None:
    """Compare both with dlib's 5-point model (eye corners, nose), trained on other data, on every eighth frame."""
    folder = Path(face_recognition_models.__file__).parent / "models"
    model = dlib.shape_predictor(str(folder / "shape_predictor_5_face_landmarks.dat"))
    detector, rows = Dlib(), []
    for clip, given in pairs(arguments.output, arguments.given):
        for frame, ours, theirs in list(zip(clip.frames, clip.landmarks, given, strict=True))[::8]:
            image = simplejpeg.decode_jpeg(frame)
            boxes = detector.boxes(image)
            if len(boxes):
                shape = model(image, dlib.rectangle(*(round(float(side)) for side in boxes[0])))
                five = np.array([(p.x, p.y) for p in shape.parts()])
                far = [np.linalg.norm(p[[45, 42, 36, 39, 33]] - five, axis=-1).mean() for p in (ours, theirs)]
                apart = np.linalg.norm(ours - theirs, axis=-1).mean()
                rows.append(np.array([apart, *far]) / interocular(theirs))
    found = np.array(rows)
    for name, some in (("within 5 %", found[found[:, 0] <= 0.05]), ("further apart", found[found[:, 0] > 0.05])):
        ours, theirs = 100 * some[:, 1].mean(), 100 * some[:, 2].mean()
        print(f"{name}: {len(some)} frames; from the five points: prepared {ours:.1f} %, given {theirs:.1f} %")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    one = verbs.add_parser("speed")
    one.add_argument("videos")
    one.add_argument("output")
    one.add_argument("--workers", type=int, default=2)
    one.add_argument("--cropped", action="store_true")
    one.set_defaults(run=speed)
    three = verbs.add_parser("driver")
    three.add_argument("--clips", type=int, default=1_090_000, help="VoxCeleb2 has 1.09 million")
    three.set_defaults(run=driver)
    four = verbs.add_parser("batches")
    four.add_argument("--frames", type=int, default=16)
    four.set_defaults(run=batches)
    for verb in (landmarks, judge):
        two = verbs.add_parser(verb.__name__)
        two.add_argument("output")
        two.add_argument("given", nargs="+")
        two.set_defaults(run=verb)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
