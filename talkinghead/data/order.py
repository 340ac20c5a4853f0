"""The order of training episodes: a pure function of seed, epoch, lane and position, free to jump into."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Visit(NamedTuple):
    """One use of a clip: its number, and how often it was used before in this epoch (other frames each time)."""

    clip: int
    repeat: int


class EpochOrder:
    """Which clips an epoch visits, split into lanes (one per rank, or one per worker) that share no visit.

    Shards are shuffled, then clips within a window of shards: close to a full shuffle while few shards are open at a
    time. Every lane walks its own contiguous part of the result, so that far shards are fetched by one lane only.
    A lane that has come to the end of its part starts a new round, with other frames of the clips.
    """

    def __init__(self, shard_sizes: list[int], num_lanes: int, seed: int, window: int = 16) -> None:
        self.num_clips = sum(shard_sizes)
        if self.num_clips == 0:
            raise ValueError("the split has no clips")
        self.shard_sizes = tuple(shard_sizes)
        self.num_lanes = num_lanes
        self.seed = seed
        self.window = window
        self.tiles = -(-num_lanes // self.num_clips)  # > 1 only where lanes outnumber clips

    def __call__(self, epoch: int, lane: int, position: int) -> Visit:
        """Visit number `position` of a lane; every (lane, position) of an epoch is another (clip, repeat)."""
        total = self.tiles * self.num_clips
        start, end = (total * bound // self.num_lanes for bound in (lane, lane + 1))
        lap, offset = divmod(position, end - start)
        tile, place = divmod(start + offset, self.num_clips)
        repeat = lap * self.tiles + tile
        return Visit(int(shuffled_clips(self.shard_sizes, self.window, self.seed, epoch, repeat)[place]), repeat)


@lru_cache(maxsize=4)
def shuffled_clips(
    shard_sizes: tuple[int, ...], window: int, seed: int, epoch: int, repeat: int
) -> Int[np.ndarray, " clips"]:
    """All clips once: shards in random order, clips mixed within each window of shards."""
    rng = np.random.default_rng([seed, epoch, repeat])
    first = np.cumsum([0, *shard_sizes])
    shards = rng.permutation(len(shard_sizes))
    parts = []
    for w in range(0, len(shards), window):
        clips = np.concatenate([np.arange(first[s], first[s + 1]) for s in shards[w : w + window]])
        parts.append(rng.permutation(clips))
    return np.concatenate(parts)
