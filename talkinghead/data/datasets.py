"""Episodes by number: training ones from the epoch's order, fixed ones from a list made once."""

from itertools import islice
from random import Random
from typing import NamedTuple

from torch.utils.data import Dataset

from talkinghead.data.augmentation import Augmentation
from talkinghead.data.episodes import Sample, choose_frames, is_decodable, make_sample, usable_frames
from talkinghead.data.reader import ShardPool, StoredClip, UnusableClip
from talkinghead.data.remote import DataFault
from talkinghead.data.sampling import EpochOrder

_MAX_REPLACEMENTS = 1000


class Request(NamedTuple):
    """Which training episode: the epoch travels with it, so worker processes may live as long as they like."""

    epoch: int
    lane: int
    position: int


class Skipped(NamedTuple):
    """A clip that could not give an episode, on its way from a worker to the main process."""

    cause: str
    detail: str


class Loaded(NamedTuple):
    """An episode, and what was skipped to get it."""

    sample: Sample
    skipped: list[Skipped]


class Failed(NamedTuple):
    """Why no episode can be had any more: a line on its way from a worker to the main process, without a traceback."""

    message: str
    skipped: list[Skipped]


class TrainEpisodes(Dataset[Loaded | Failed]):
    """Training episodes: a fresh choice of K+1 distinct frames at every visit of a clip, half of them mirrored.

    An episode whose clip is unusable is replaced by the lane's next visit beyond the epoch (`lane_length` further), so
    that neither the number of episodes nor any other episode changes.
    """

    def __init__(
        self, pool: ShardPool, order: EpochOrder, size: int, num_shots: int, flip: bool, lane_length: int,
        num_videos: int | None = None, augmentation: Augmentation | None = None,
    ) -> None:  # fmt: skip
        self.augmentation = augmentation
        self.pool = pool
        self.order = order
        self.size = size
        self.num_shots = num_shots
        self.flip = flip
        self.lane_length = lane_length
        self.num_videos = num_videos  # rows of W, which a clip's video must be one of; None: not checked

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

    def _sample(self, epoch: int, number: int, repeat: int) -> Sample:
        clip = self.pool.clip(number)
        points = clip.landmarks()
        usable = usable_frames(points, self.num_shots + 1, f"clip {clip.key} of {clip.file}")
        seed = (self.order.seed, epoch, number)
        frames = usable[choose_frames(len(usable), self.num_shots, seed, repeat)]
        flip = self.flip and Random(repr((*seed, repeat))).random() < 0.5
        augmentation, visit = self.augmentation, (*seed, repeat)
        points = augmentation.points(points, visit) if augmentation else points
        sample = make_sample(clip, points, frames.tolist(), self.size, flip)
        if augmentation:
            sample = sample._replace(images=augmentation.images(sample.images, visit))
        if self.num_videos is not None and not 0 <= sample.video_index < self.num_videos:
            found = f"video_index {sample.video_index} of {self.num_videos} videos"
            raise UnusableClip("video_index outside W", f"clip {clip.key} of {clip.file}: {found}")
        return sample


class Fixed(NamedTuple):
    """One validation episode: a clip and its frames, the target last."""

    clip: int
    frames: list[int]


class FixedEpisodes(Dataset[Loaded | Failed]):
    """Always the same episodes, never mirrored."""

    def __init__(self, pool: ShardPool, plan: list[Fixed], size: int) -> None:
        self.pool = pool
        self.plan = plan
        self.size = size

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> Loaded | Failed:
        try:
            clip = self.pool.clip(self.plan[number].clip)
            return Loaded(make_sample(clip, clip.landmarks(), self.plan[number].frames, self.size, flip=False), [])
        except (UnusableClip, DataFault) as error:  # it could be read when the plan was made
            return Failed(f"a clip to validate on can no longer be read: {error}; start again when it can", [])


def plan_fixed_episodes(pool: ShardPool, num_shots: int, num_episodes: int) -> tuple[list[Fixed], list[Skipped]]:
    """Up to `num_episodes` of them: one target of every clip, then a second one of every clip, and so on.

    A clip keeps its shots for all its targets. Depends on nothing but the data: every method and run sees the same.
    Every frame that will be used is decoded here once, so that validation itself meets no broken one.
    """
    skipped: list[Skipped] = []
    frames: dict[int, list[int]] = {}
    turns = -(-num_episodes // len(pool)) if len(pool) else 0
    drawn = iter(Random(0).sample(range(len(pool)), len(pool)))
    while missing := list(islice(drawn, num_episodes - len(frames))):
        found: dict[int, list[int]] = {}
        for number in sorted(missing):  # shard by shard, so that each is fetched once
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


def _fixed_frames(clip: StoredClip, num_shots: int, wanted: int) -> list[int]:
    """Up to `wanted` frames of the clip in a random but fixed order; UnusableClip when not more than `num_shots`."""
    where = f"clip {clip.key} of {clip.file}"
    usable = usable_frames(clip.landmarks(), num_shots + 1, where).tolist()
    shuffled = Random(clip.key).sample(usable, len(usable))
    frames = list(islice((frame for frame in shuffled if is_decodable(clip, frame)), wanted))
    if len(frames) <= num_shots:
        raise UnusableClip("corrupt JPEG", f"{where}: {len(frames)} good frames, an episode needs {num_shots + 1}")
    return frames


def error_line(skipped: Skipped) -> str:
    """One line for a message: cause, file and clip."""
    return f"{skipped.cause}: {skipped.detail}"
