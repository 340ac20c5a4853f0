"""Who is learned from few shots, and from which frames: the test protocol (arXiv 1905.08233, Sec. 4).

Of every clip some frames are held out, to be reproduced, and of the others T are learned from. The choice depends on
the seed and the clip alone, so every method sees the same; the hold-out frames are the same for every T, and the shots
of a small T are the first ones of a larger T.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8

from talkinghead.data.datamodule import EpisodeDataModule
from talkinghead.data.datasets import Skipped
from talkinghead.data.episodes import is_decodable, make_sample, usable_frames
from talkinghead.data.landmarks import draw_landmarks
from talkinghead.data.reader import ShardPool, StoredClip, UnusableClip
from talkinghead.types import Frames, Person


@dataclass(frozen=True)
class FrameChoice:
    """Which frames of a clip are shots, and which are held out.

    max_shots    the largest T: as many frames of every clip are kept for learning, whatever T is in use
    num_targets  frames to reproduce; of a clip with fewer than `max_shots` beside them, what it has
    min_targets  a clip that leaves fewer than that is not used
    """

    max_shots: int = 32
    num_targets: int = 32
    min_targets: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.max_shots, self.min_targets) < 1 or self.num_targets < self.min_targets:
            raise ValueError(f"{self}: max_shots >= 1 and num_targets >= min_targets >= 1 are needed")

    @property
    def needed(self) -> int:
        """Frames a clip must have."""
        return self.max_shots + self.min_targets

    def __call__(self, frames: Sequence[int], key: str) -> tuple[list[int], list[int]]:
        """Shots in random order, and hold-out frames in order of time; `key` is the clip's."""
        if len(frames) < self.needed:
            raise UnusableClip("too few usable frames", f"clip {key}: {len(frames)}, the protocol needs {self.needed}")
        shuffled = Random(repr((self.seed, key))).sample(list(frames), len(frames))
        num_targets = min(self.num_targets, len(frames) - self.max_shots)
        held_out, shots = shuffled[:num_targets], shuffled[num_targets:]
        return shots[: self.max_shots], sorted(held_out)


@runtime_checkable
class PeopleSource(Protocol):
    """Test people by key. `name` is the data set and the split, as in result rows."""

    name: str
    choice: FrameChoice

    def prepare(self) -> None:
        """Make what can be made; FileNotFoundError says how to get what cannot."""
        ...

    def keys(self) -> tuple[list[str], list[Skipped]]:
        """The people in a fixed order, and who cannot be used and why."""
        ...

    def load(self, key: str) -> Person:
        """One person with `max_shots` shots; UnusableClip where the frames turn out to be broken."""
        ...


class Shards:
    """Clips of a prepared data set by key. What the two sources below share."""

    def __init__(self, data: EpisodeDataModule, size: int) -> None:
        self.data = data
        self.size = size
        self.dataset = Path(data.path.rstrip("/")).name

    def clips(self, split: str) -> dict[str, StoredClip]:
        """All readable clips of a split."""
        splits = self.data.info.splits
        if split not in splits or not splits[split].clips:
            raise ValueError(
                f"{self.data.path} has no clips in split {split!r}: set people.split to one of {sorted(splits)}"
            )
        pool = ShardPool(self.data.path, splits[split].shards, max_open=len(splits[split].shards))
        return {clip.key: clip for clip in readable(pool)}

    def frames(self, clip: StoredClip, numbers: Sequence[int]) -> Frames:
        """Some frames of a clip, decoded."""
        sample = make_sample(clip, clip.landmarks(), list(numbers), self.size, flip=False)
        return as_frames(sample.images, sample.landmarks, sample.points)


@final
class SelfReenactment:
    """Each clip of a split drives itself: T of its frames to learn from, others of them to reproduce.

    num_people  so many clips at most: first one of each identity, then a second one, and so on; None: all
    """

    def __init__(
        self, data: EpisodeDataModule, size: int, choice: FrameChoice, split: str = "test",
        num_people: int | None = None,
    ) -> None:  # fmt: skip
        self.shards, self.choice = Shards(data, size), choice
        self.split, self.num_people = split, num_people
        self.name = f"{self.shards.dataset}/{split}"

    def prepare(self) -> None:
        """Render synthetic heads that are missing."""
        self.shards.data.prepare_data()

    @cached_property
    def clips(self) -> dict[str, StoredClip]:
        return self.shards.clips(self.split)

    def keys(self) -> tuple[list[str], list[Skipped]]:
        """Clips with enough frames."""
        order = one_of_each({key: clip.meta().get("identity", key) for key, clip in self.clips.items()})
        return first_usable(order, self.num_people, lambda key: self._usable(self.clips[key]))

    def load(self, key: str) -> Person:
        """The target is the driving video itself."""
        clip = self.clips[key]
        shots, held_out = self.choice([n for n in self._usable(clip) if is_decodable(clip, n)], key)
        target = self.shards.frames(clip, held_out)
        return Person(key, self.shards.frames(clip, shots), driving=target, target=target)

    def _usable(self, clip: StoredClip) -> list[int]:
        return usable_frames(clip.landmarks(), self.choice.needed, f"clip {clip.key} of {clip.file}").tolist()


@final
class CrossReenactment:
    """One synthetic person driven by another, with exact ground truth (split `cross`, see docs/synthetic.md).

    Shots are those of the person's own test clip in `SelfReenactment`; driving and target frames have the same numbers
    in the driver's test clip and in the clip where the person does what the driver does.
    """

    def __init__(self, data: EpisodeDataModule, size: int, choice: FrameChoice, num_people: int | None = None) -> None:
        self.shards, self.choice, self.num_people = Shards(data, size), choice, num_people
        self.name = f"{self.shards.dataset}/cross"

    def prepare(self) -> None:
        """Render synthetic heads that are missing."""
        self.shards.data.prepare_data()

    @cached_property
    def own(self) -> dict[str, StoredClip]:
        return self.shards.clips("test")

    @cached_property
    def driven(self) -> dict[str, StoredClip]:
        return self.shards.clips("cross")

    def keys(self) -> tuple[list[str], list[Skipped]]:
        """Clips of split `cross` whose two test clips are there."""
        return first_usable(one_of_each({key: key for key in self.driven}), self.num_people, self._frames)

    def load(self, key: str) -> Person:
        """Another one's motion, this one's looks."""
        person, driver, target = self._clips(key)
        shots, held_out = self._frames(key)
        images = self.shards.frames
        return Person(key, images(person, shots), images(driver, held_out), images(target, held_out))

    def _clips(self, key: str) -> tuple[StoredClip, StoredClip, StoredClip]:
        target = self.driven[key]
        meta = target.meta()
        if not {"video", "motion_clip"} <= set(meta) or not {meta["video"], meta["motion_clip"]} <= set(self.own):
            raise UnusableClip("no test clips of person and driver", f"clip {key} of {target.file}")
        return self.own[meta["video"]], self.own[meta["motion_clip"]], target

    def _frames(self, key: str) -> tuple[list[int], list[int]]:
        """Shots in the person's clip, hold-out frames in the other two."""
        person, driver, target = self._clips(key)
        shots, _ = self.choice(_whole(person), person.key)
        both = sorted(set(_whole(driver)) & set(_whole(target)))
        shuffled = Random(repr((self.choice.seed, key))).sample(both, len(both))
        if len(both) < self.choice.min_targets:
            raise UnusableClip("too few usable frames", f"clip {key}: {len(both)} shared with its driver")
        return shots, sorted(shuffled[: self.choice.num_targets])


def _whole(clip: StoredClip) -> list[int]:
    """Frames with landmarks that can be decoded."""
    usable = usable_frames(clip.landmarks(), 1, f"clip {clip.key} of {clip.file}").tolist()
    return [number for number in usable if is_decodable(clip, number)]


class People:
    """The people of one rank, loaded one after the other; what turns out to be unusable goes to `skip`."""

    def __init__(self, source: PeopleSource, keys: Sequence[str], skip: Callable[[list[Skipped]], None]) -> None:
        self.source = source
        self.keys = list(keys)
        self.skip = skip

    def __len__(self) -> int:
        """At least 1: Lightning leaves a rank without batches out of the epoch's end, where the others would wait."""
        return max(1, len(self.keys))

    def __iter__(self) -> Iterator[Person]:
        for key in self.keys:
            try:
                person = self.source.load(key)
            except UnusableClip as error:
                self.skip([Skipped(error.cause, error.detail)])
            else:
                yield person


def readable(pool: ShardPool) -> Iterator[StoredClip]:
    """The clips of a split whose shards can be read; a data set with a broken shard is an error here."""
    for number in range(len(pool)):
        try:
            yield pool.clip(number)
        except UnusableClip as error:
            raise ValueError(f"the test set must be whole: {error}; prepare {pool.location} again") from error


def one_of_each(identities: dict[str, str]) -> list[str]:
    """Keys in a fixed random order: one of each identity, then a second one of each, and so on."""
    groups: dict[str, list[str]] = {}
    for key in Random(0).sample(sorted(identities), len(identities)):
        groups.setdefault(identities[key], []).append(key)
    return [key for turn in zip_longest(*groups.values()) for key in turn if key is not None]


def first_usable(keys: list[str], count: int | None, check: Callable[[str], object]) -> tuple[list[str], list[Skipped]]:
    """The first `count` keys that `check` passes, and what it found wrong with others before them."""
    usable: list[str] = []
    skipped: list[Skipped] = []
    for key in keys:
        if len(usable) == count:
            break
        try:
            check(key)
            usable.append(key)
        except UnusableClip as error:
            skipped.append(Skipped(error.cause, error.detail))
    return usable, skipped


def as_frames(
    images: UInt8[np.ndarray, "N H W 3"], landmarks: UInt8[np.ndarray, "N H W 3"], points: Float[np.ndarray, "N 68 2"]
) -> Frames:
    """Pictures of 0 … 255 to [-1, 1]; pixels stay last in memory, as convolutions like them best."""

    def convert(pictures: UInt8[np.ndarray, "N H W 3"]) -> torch.Tensor:
        return torch.from_numpy(pictures).movedim(-1, 1).float().div_(127.5).sub_(1)

    return Frames(convert(images), convert(landmarks), torch.from_numpy(points))


def draw_frames(images: UInt8[np.ndarray, "N H W 3"], points: Float[np.ndarray, "N 68 2"]) -> Frames:
    """Frames of pictures and their points."""
    return as_frames(images, np.stack([draw_landmarks(face, images.shape[1]) for face in points]), points)
