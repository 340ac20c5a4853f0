"""Map-style data sets of episodes: training episodes by position in the epoch, fixed ones from a list made once."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from random import Random
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch.utils.data import Dataset

from talkinghead.data.augmentation import Augmentation
from talkinghead.data.episodes import Sample, choose_frames, is_decodable, make_sample, usable_frames
from talkinghead.data.ranges import AT_ONCE
from talkinghead.data.reader import ShardPool, StoredClip, UnusableClip, read_ahead
from talkinghead.data.remote import DataFault
from talkinghead.data.sampling import EpochOrder, Visit

_MAX_REPLACEMENTS = 1000


class Request(NamedTuple):
    """Which training episode. It includes the epoch, so persistent workers need no other state."""

    epoch: int
    lane: int
    position: int


class Skipped(NamedTuple):
    """A clip that gave no episode; sent from a worker to the main process."""

    cause: str
    detail: str


class Loaded(NamedTuple):
    """An episode, and the clips that were skipped before it."""

    sample: Sample
    skipped: list[Skipped]


class Failed(NamedTuple):
    """Why no episode can be read any more; sent from a worker to the main process as one line, without a traceback."""

    message: str
    skipped: list[Skipped]


class SampleMaker(NamedTuple):
    """Makes a training episode from a clip and its chosen frames: mirrored in half of the visits, and augmented.

    Attributes:
        size: of the images, pixels
        num_videos: rows of W: larger video indices make a clip unusable; None: not checked
    """

    size: int
    flip: bool
    num_videos: int | None = None
    augmentation: Augmentation | None = None

    def __call__(
        self, clip: StoredClip, points: Float[np.ndarray, "F 68 2"], frames: list[int], visit: tuple[int, ...]
    ) -> Sample:
        """The episode; `visit` is the seed of what is random. UnusableClip where the clip provides none."""
        augmentation = self.augmentation
        flip = self.flip and Random(repr(visit)).random() < 0.5
        points = augmentation.points(points, visit) if augmentation else points
        sample = make_sample(clip, points, frames, self.size, flip)
        if augmentation:
            sample = sample._replace(images=augmentation.images(sample.images, visit))
        if self.num_videos is not None and not 0 <= sample.video_index < self.num_videos:
            found = f"video_index {sample.video_index} of {self.num_videos} videos"
            raise UnusableClip("video_index outside W", f"clip {clip.key} of {clip.file}: {found}")
        return sample


class TrainEpisodes(Dataset[Loaded | Failed]):
    """Training episodes: a new choice of K + 1 distinct frames at every visit of a clip, half of them mirrored.

    An episode whose clip is unusable is replaced by the lane's visit `lane_length` further, beyond the epoch, so that
    neither the number of episodes nor any other episode changes.
    """

    def __init__(
        self, pool: ShardPool, order: EpochOrder, num_shots: int, lane_length: int, make: SampleMaker
    ) -> None:  # fmt: skip
        self.pool, self.order, self.make = pool, order, make
        self.num_shots, self.lane_length = num_shots, lane_length

    def __getitems__(self, requests: list[Request]) -> list[Loaded | Failed]:
        """A batch. Remote clips are read in two rounds: descriptions and landmarks first, then the chosen frames."""
        try:
            self._read_ahead([self.order(*request) for request in requests], requests[0].epoch)
        except DataFault as error:
            return [Failed(str(error), [])] * len(requests)
        return [self[request] for request in requests]

    def __getitem__(self, request: Request) -> Loaded | Failed:
        skipped: list[Skipped] = []
        for attempt in range(_MAX_REPLACEMENTS):
            position = request.position + attempt * self.lane_length
            try:
                return Loaded(self._sample(request.epoch, *self.order(request.epoch, request.lane, position)), skipped)
            except UnusableClip as error:
                skipped.append(Skipped(error.cause, error.detail))
            except DataFault as error:
                return Failed(str(error), skipped)
        message = (
            f"{_MAX_REPLACEMENTS} clips in a row give no episode of {self.num_shots + 1} frames; the last one: "
            f"{error_line(skipped[-1])}; check the data set at {self.pool.location}, or lower num_shots"
        )
        return Failed(message, skipped)

    def _read_ahead(self, visits: list[Visit], epoch: int) -> None:
        """Fetch the bytes of these visits together; `__getitem__` deals with unusable clips."""
        if self.pool.ranges is None:
            return
        self.pool.forget()
        clips = {}
        for visit in visits:
            with suppress(UnusableClip):
                clips[visit] = self.pool.clip(visit.clip)
        read_ahead([(clip, ("json", "landmarks.npy")) for clip in clips.values()])
        frames = []
        for visit, clip in clips.items():
            with suppress(UnusableClip):
                _, chosen = self._choose(clip, epoch, *visit)
                frames.append((clip, [clip.index.frames[frame] for frame in chosen]))
        read_ahead(frames)

    def _choose(
        self, clip: StoredClip, epoch: int, number: int, repeat: int
    ) -> tuple[Float[np.ndarray, "F 68 2"], list[int]]:
        """The clip's points, and the numbers of this visit's frames, the target last."""
        points = clip.landmarks()
        usable = usable_frames(points, self.num_shots + 1, f"clip {clip.key} of {clip.file}")
        chosen = choose_frames(len(usable), self.num_shots, (self.order.seed, epoch, number), repeat)
        return points, usable[chosen].tolist()

    def _sample(self, epoch: int, number: int, repeat: int) -> Sample:
        clip = self.pool.clip(number)
        points, frames = self._choose(clip, epoch, number, repeat)
        return self.make(clip, points, frames, (self.order.seed, epoch, number, repeat))


class Fixed(NamedTuple):
    """One validation episode: a clip and its frames, the target last."""

    clip: int
    frames: list[int]


class FixedEpisodes(Dataset[Loaded | Failed]):
    """The same episodes every time, never mirrored."""

    def __init__(self, pool: ShardPool, plan: list[Fixed], size: int) -> None:
        self.pool = pool
        self.plan = plan
        self.size = size

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> Loaded | Failed:
        try:
            self.pool.forget()
            clip = self.pool.clip(self.plan[number].clip)
            return Loaded(make_sample(clip, clip.landmarks(), self.plan[number].frames, self.size, flip=False), [])
        except (UnusableClip, DataFault) as error:  # it was readable when the plan was made
            return Failed(f"a clip to validate on can no longer be read: {error}; start again when it can", [])


def plan_fixed_episodes(pool: ShardPool, num_shots: int, num_episodes: int) -> tuple[list[Fixed], list[Skipped]]:
    """Choose up to `num_episodes`: one target of every clip, then a second one of every clip, and so on.

    A clip has the same shots for all its targets. The plan depends on the data alone, so all methods and runs share it.
    Every chosen frame is decoded here once, so that validation meets no broken one.
    """
    skipped: list[Skipped] = []
    frames: dict[int, list[int]] = {}
    turns = -(-num_episodes // len(pool)) if len(pool) else 0
    drawn = iter(Random(0).sample(range(len(pool)), len(pool)))
    while missing := list(islice(drawn, num_episodes - len(frames))):
        found: dict[int, list[int]] = {}
        for number in _near_first(pool, sorted(missing)):  # in order of shards, so that each is fetched once
            try:
                found[number] = _fixed_frames(pool.clip(number), num_shots, num_shots + turns)
            except UnusableClip as error:
                skipped.append(Skipped(error.cause, error.detail))
        frames |= {number: found[number] for number in missing if number in found}
    plan = [
        Fixed(number, [*order[:num_shots], order[num_shots + turn]])
        for turn in range(turns)
        for number, order in frames.items()
        if num_shots + turn < len(order)
    ]
    return plan[:num_episodes], skipped


def _near_first(pool: ShardPool, numbers: list[int]) -> Iterator[int]:
    """These clips, in groups whose descriptions and landmarks are fetched together."""
    for first in range(0, len(numbers), AT_ONCE):
        near = numbers[first : first + AT_ONCE]
        if pool.ranges is not None:
            pool.ranges.forget()
            with suppress(UnusableClip):
                read_ahead([(pool.clip(number), ("landmarks.npy",)) for number in near])
        yield from near


def _fixed_frames(clip: StoredClip, num_shots: int, wanted: int) -> list[int]:
    """Up to `wanted` decodable frames in a random but fixed order; UnusableClip for `num_shots` or fewer."""
    where = f"clip {clip.key} of {clip.file}"
    usable = usable_frames(clip.landmarks(), num_shots + 1, where).tolist()
    shuffled = Random(clip.key).sample(usable, len(usable))
    clip.read_ahead(clip.index.frames[frame] for frame in shuffled[:wanted])
    frames = list(islice((frame for frame in shuffled if is_decodable(clip, frame)), wanted))
    if len(frames) <= num_shots:
        raise UnusableClip("corrupt JPEG", f"{where}: {len(frames)} good frames, an episode needs {num_shots + 1}")
    return frames


def error_line(skipped: Skipped) -> str:
    """One line for a message: cause, file and clip."""
    return f"{skipped.cause}: {skipped.detail}"
