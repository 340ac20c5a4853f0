"""A copy of a prepared data set in which every tenth training clip is spoilt:

python experiments/robustness/poison.py nan|huge|noise TARGET SOURCE
nan: no landmarks; huge: landmarks a million pixels away; noise: pictures of noise.
"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("experiments/robustness/poison.py")

import dataclasses
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from talkinghead.data.reader import ShardReader
from talkinghead.data.shards import Clip, DatasetInfo, write_shard

EVERY = 10


def noise(clip: Clip) -> Clip:
    """Pictures of the same size."""
    size = cv2.imdecode(np.frombuffer(clip.frames[0], np.uint8), cv2.IMREAD_COLOR).shape
    rng = np.random.default_rng(0)
    frames = [cv2.imencode(".jpg", rng.integers(0, 256, size, np.uint8))[1].tobytes() for _ in clip.frames]
    return dataclasses.replace(clip, frames=frames)


def landmarks(value: float) -> Callable[[Clip], Clip]:
    """All landmarks at one value."""
    return lambda clip: dataclasses.replace(clip, landmarks=np.full_like(clip.landmarks, value))


POISONS = {"nan": landmarks(np.nan), "huge": landmarks(1e6), "noise": noise}


def spoilt(path: Path, poison: Callable[[Clip], Clip]) -> Iterator[Clip]:
    """The clips of a shard, every tenth of them spoilt."""
    reader = ShardReader(str(path))
    for number in range(len(reader.clips)):
        stored = reader.clip(number)
        frames = [stored.read(suffix) for suffix in stored.index.frames]
        clip = Clip(stored.key, stored.meta(), stored.landmarks(), frames)
        yield poison(clip) if number % EVERY == 0 else clip


def main() -> None:
    """Copy, spoil, write the new index."""
    if len(sys.argv) != 4 or sys.argv[1] not in POISONS:
        sys.exit(__doc__)
    poison, target, source = POISONS[sys.argv[1]], Path(sys.argv[2]), Path(sys.argv[3])
    info = DatasetInfo.load(source)
    shutil.copytree(source, target, dirs_exist_ok=True)
    train = info.splits["train"]
    shards = [write_shard(target, shard.file, spoilt(source / shard.file, poison)) for shard in train.shards]
    splits = {**info.splits, "train": dataclasses.replace(train, shards=shards)}
    dataclasses.replace(info, splits=splits).save(target)


if __name__ == "__main__":
    main()
