"""Tiny data sets for tests: flat pictures whose landmarks tell clip and frame."""

from pathlib import Path

import numpy as np
import simplejpeg

from talkinghead.data.datamodule import EpisodeDataModule
from talkinghead.data.shards import Clip, DatasetInfo, Split, write_shard

SIZE = 32


def frame_points(clip: int, frame: int) -> np.ndarray:
    """68 points that differ in every frame of every clip and lie within the picture."""
    circle = np.linspace(0, 2 * np.pi, 68)
    points = np.stack([14 + 8 * np.cos(circle), 14 + 8 * np.sin(circle)], axis=-1)
    points[0] = (clip / 16, frame / 4)
    return points.astype(np.float32)


def read_frame(points: np.ndarray) -> tuple[int, int]:
    """(clip, frame) from the points of an unscaled, unflipped frame."""
    return round(float(points[0, 0]) * 16), round(float(points[0, 1]) * 4)


def colour(clip: int, frame: int) -> tuple[int, int, int]:
    return (5 * clip) % 256, (7 * frame) % 256, 100


def make_clip(number: int, num_frames: int = 12, video_index: int | None = None) -> Clip:
    """A clip of flat frames."""
    frames = [
        simplejpeg.encode_jpeg(np.full((SIZE, SIZE, 3), colour(number, n), np.uint8), quality=95)
        for n in range(num_frames)
    ]
    points = np.stack([frame_points(number, n) for n in range(num_frames)])
    meta = {"video_index": number if video_index is None else video_index, "identity": f"person{number}"}
    return Clip(f"clip{number:03d}", meta, points, frames)


def write_data_set(root: Path, shards: dict[str, list[list[Clip]]]) -> Path:
    """A data set of the given clips: split -> shards -> clips."""
    splits = {}
    for split, groups in shards.items():
        entries = [write_shard(root, f"{split}/{n:06d}.tar", clips) for n, clips in enumerate(groups)]
        clips = [clip for group in groups for clip in group]
        frames = sum(len(clip.frames) for clip in clips)
        splits[split] = Split(entries, len(clips), frames, len(clips), len(clips))
    longest = max(len(clip.frames) for groups in shards.values() for clips in groups for clip in clips)
    DatasetInfo("tiny", splits, SIZE, 25.0, longest, {"name": "none"}, {"rule": "none"}, "tests").save(root)
    return root


_made: list[EpisodeDataModule] = []


def module(path: Path | str, **options) -> EpisodeDataModule:
    """A data module whose worker processes `end_workers` ends."""
    options = {"num_shots": 4, "episodes_per_epoch": 16, "batch_size": 4, "num_workers": 0, "seed": 1, **options}
    _made.append(EpisodeDataModule(path, **{"size": SIZE, "flip": False, "val_shots": 4, **options}))
    return _made[-1]


def end_workers() -> None:
    """End those of every `module` made so far: nobody else does where no trainer runs."""
    while _made:
        _made.pop().teardown("fit")
