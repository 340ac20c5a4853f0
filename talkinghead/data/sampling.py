"""The order of training episodes: a pure function of seed, epoch and position, so runs can resume anywhere."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Visit(NamedTuple):
    """One use of a clip: its number, and the number of earlier rounds in the epoch, which decides the frames."""

    clip: int
    repeat: int


class EpochOrder:
    """Which clips an epoch visits: one sequence for all ranks, or lanes (one per worker) that share no visit.

    A round visits every video once, by one of its clips drawn at random (Sec. 3.2: "a training video sequence i"); or,
    where `videos` is None, every clip once. Shards are shuffled, then clips within a window of shards: close to a full
    shuffle while few shards are open at a time. Every lane has its own contiguous part of the round. At the end of its
    part, a lane starts a new round, with other clips of the videos and other frames of the clips.

    Args:
        shard_sizes: number of clips in each shard
        num_lanes: streams of episodes: one or, where workers fetch whole shards, one per worker of each rank
        window: number of shards whose clips are mixed
        videos: the video index of each clip; None: clips are drawn, not videos

    >>> order = EpochOrder(shard_sizes=[4, 4], num_lanes=2, seed=0, videos=[0, 0, 1, 1, 2, 2, 3, 3])
    >>> [[order(epoch=0, lane=lane, position=n).clip for n in range(2)] for lane in (0, 1)]  # one clip of each video
    [[3, 5], [0, 7]]
    >>> order(epoch=0, lane=0, position=2).repeat  # the lane has finished its part: other clips, other frames
    1
    """

    def __init__(
        self, shard_sizes: list[int], num_lanes: int, seed: int, window: int = 16, videos: Sequence[int] | None = None
    ) -> None:
        self.num_clips = sum(shard_sizes)
        if self.num_clips == 0:
            raise ValueError("the split has no clips")
        if videos is not None and len(videos) != self.num_clips:
            raise ValueError(f"videos of {len(videos)} clips are given, there are {self.num_clips}")
        self.first = np.cumsum([0, *shard_sizes])
        self.num_lanes = num_lanes
        self.seed = seed
        self.window = window
        self.over_videos = videos is not None
        numbers = np.arange(self.num_clips) if videos is None else np.asarray(videos)
        self._by_video = np.argsort(numbers, kind="stable")
        # Clips sorted by video: where each video begins among them, and how many clips it has.
        self._starts = np.flatnonzero(np.diff(numbers[self._by_video], prepend=-2))
        self._counts = np.diff([*self._starts, self.num_clips])
        self.round = len(self._starts)  # visits
        self.tiles = -(-num_lanes // self.round)  # > 1 only where lanes outnumber videos
        self._recent: dict[tuple[int, int], Int[np.ndarray, " round"]] = {}

    def __call__(self, epoch: int, lane: int, position: int) -> Visit:
        """Visit number `position` of a lane; each (lane, position) of an epoch is a different visit."""
        total = self.tiles * self.round
        start, end = (total * bound // self.num_lanes for bound in (lane, lane + 1))  # this lane's part
        lap, offset = divmod(position, end - start)  # how often the part is finished, and where in it
        tile, place = divmod(start + offset, self.round)
        repeat = lap * self.tiles + tile
        return Visit(int(self.clips(epoch, repeat)[place]), repeat)

    def clips(self, epoch: int, repeat: int) -> Int[np.ndarray, " round"]:
        """One round: shards in random order, clips mixed within each window of shards, one clip of each video."""
        if (epoch, repeat) not in self._recent:
            while len(self._recent) >= 4:
                del self._recent[next(iter(self._recent))]
            self._recent[epoch, repeat] = self._shuffle(np.random.default_rng([self.seed, epoch, repeat]))
        return self._recent[epoch, repeat]

    def _shuffle(self, rng: np.random.Generator) -> Int[np.ndarray, " round"]:
        shards = rng.permutation(len(self.first) - 1)
        parts = []
        for w in range(0, len(shards), self.window):
            near = shards[w : w + self.window]
            clips = np.concatenate([np.arange(self.first[s], self.first[s + 1]) for s in near])
            parts.append(rng.permutation(clips))
        drawn = np.zeros(self.num_clips, bool)  # one clip of each video
        drawn[self._by_video[self._starts + rng.integers(self._counts)]] = True
        clips = np.concatenate(parts)
        return clips[drawn[clips]]
