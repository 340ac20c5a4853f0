"""Episodes per second and core: `python benchmarks/data.py [--path DIR] [--shots 8] [--workers 0] [--augmented]`.

Without workers everything runs on one core; time of CPU is what counts where other programs run beside it.

Without --path it makes a data set of smooth pictures (256 px, JPEG quality 95, 64 frames a clip) in a temporary folder.
The first pass warms the page cache and is not counted.
"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("benchmarks/data.py")

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
import torch

from talkinghead.data.augmentation import Augmentation
from talkinghead.data.datamodule import EpisodeDataModule
from talkinghead.data.loader import TrainLoader
from talkinghead.data.reader import ShardReader
from talkinghead.data.shards import Clip, DatasetInfo, Split, write_shard

FRAMES = 64
STORED_SIZE = 256


def make_clip(number: int, rng: np.random.Generator) -> Clip:
    """A coarse random picture that drifts, with a ring of landmarks; some 20 kB a frame."""
    coarse = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (STORED_SIZE + FRAMES, STORED_SIZE + FRAMES), interpolation=cv2.INTER_CUBIC)
    crops = [np.ascontiguousarray(picture[n : n + STORED_SIZE, n : n + STORED_SIZE]) for n in range(FRAMES)]
    frames = [simplejpeg.encode_jpeg(crop, quality=95, colorsubsampling="420") for crop in crops]
    angle = np.linspace(0, 2 * np.pi, 68)
    ring = 128 + 80 * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    points = (ring + rng.normal(0, 2, (FRAMES, 68, 2))).astype(np.float32)
    meta = {"video": str(number), "identity": str(number), "clip": "0", "video_index": number, "fps": 25.0}
    return Clip(f"clip{number:06d}", {**meta, "frame_numbers": list(range(FRAMES))}, points, frames)


def make_data_set(root: Path, num_shards: int, clips_per_shard: int) -> None:
    """Write it, ready to train on."""
    rng = np.random.default_rng(0)
    shards = [
        write_shard(
            root,
            f"train/{s:06d}.tar",
            (make_clip(n, rng) for n in range(s * clips_per_shard, (s + 1) * clips_per_shard)),
        )
        for s in range(num_shards)
    ]
    clips = num_shards * clips_per_shard
    split = Split(shards, clips, clips * FRAMES, clips, clips)
    DatasetInfo("benchmark", {"train": split}, STORED_SIZE, 25.0, FRAMES, {}, {}, "benchmarks/data.py").save(root)


def measure(loader: TrainLoader) -> tuple[float, float]:
    """Episodes per second, and per second of this process' CPU time, of one epoch after another one that warms up."""
    for epoch in range(2):
        loader.position = lambda epoch=epoch: (epoch, 0)  # type: ignore[misc]
        start, cpu_start, episodes = time.perf_counter(), time.process_time(), 0
        for batch in loader:
            episodes += len(batch.key)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return episodes / seconds, episodes / cpu_seconds


def measure_opening(path: str) -> float:
    """Milliseconds to open a shard, per clip of it, page cache warm."""
    shard = str(next(Path(path).glob("train/*.tar")))
    ShardReader(shard)
    start = time.perf_counter()
    reader = ShardReader(shard)
    return 1000 * (time.perf_counter() - start) / len(reader.clips)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", help="a prepared data set; default: a temporary one")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--clips-per-shard", type=int, default=50)
    parser.add_argument("--augmented", action="store_true", help="faults of photographs, looks of paintings")
    options = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        path = options.path or temporary
        if options.path is None:
            make_data_set(Path(path), options.shards, options.clips_per_shard)
        data = EpisodeDataModule(
            path,
            size=options.size,
            num_shots=options.shots,
            episodes_per_epoch=options.episodes,
            batch_size=8,
            num_workers=options.workers,
            seed=0,
            augmentation=Augmentation() if options.augmented else None,
        )
        rate, cpu_rate = measure(data.train_dataloader())
        opening = measure_opening(path)
    by_cpu = f", {cpu_rate:.0f} per second of CPU time" if options.workers == 0 else ""
    print(
        f"{options.size} px, K = {options.shots}, {options.workers} workers: {rate:.0f} episodes/s{by_cpu}; "
        f"opening a shard: {opening:.3f} ms per clip; torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
