"""Few-shot tasks: clips or whole videos of a data set (arXiv 1905.08233, Sec. 4)."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import NamedTuple, Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8

from talkinghead.data.datamodule import EpisodeDataModule
from talkinghead.data.datasets import Skipped
from talkinghead.data.episodes import is_decodable, make_sample, usable_frames
from talkinghead.data.reader import ShardPool, StoredClip, UnusableClip, read_ahead
from talkinghead.evaluation.frame_choice import FrameChoice
from talkinghead.faces.landmark_image import draw_landmarks
from talkinghead.pixels import as_tensor
from talkinghead.types import Frames, Person


@runtime_checkable
class PeopleSource(Protocol):
    """Test people by key. `name` (data set and split) and `protocol` (unit and choice) go into result rows."""

    name: str
    protocol: str
    choice: FrameChoice

    def prepare(self) -> None:
        """Build what is missing; FileNotFoundError says how to get what cannot be built."""
        ...

    def keys(self) -> tuple[list[str], list[Skipped]]:
        """The people in a fixed order, and those that cannot be used, with reasons."""
        ...

    def load(self, key: str) -> Person:
        """One person with `max_shots` shots; UnusableClip where frames are broken."""
        ...


class Shards:
    """Clips of a prepared data set by key; shared by the two tasks below."""

    def __init__(self, data: EpisodeDataModule, size: int) -> None:
        self.data = data
        self.size = size
        self.dataset = Path(data.path.rstrip("/")).name

    def prepare(self, splits: Sequence[str]) -> None:
        """Render synthetic heads that are missing.

        Raises:
            ValueError: where these splits differ from those asked for, or frames are far smaller than needed.
        """
        self.data.check_build(splits)
        self.data.prepare_data()
        self.data.check_size()

    def clips(self, split: str) -> dict[str, StoredClip]:
        """All readable clips of a split by key. Remote shards without byte ranges are fetched whole."""
        splits = self.data.info.splits
        if split not in splits or not splits[split].clips:
            raise ValueError(
                f"{self.data.path} has no clips in split {split!r}: set people.split to one of {sorted(splits)}"
            )
        pool = ShardPool(
            self.data.path, splits[split].shards, max_open=len(splits[split].shards), cache=self.data.cache
        )
        clips = {clip.key: clip for clip in readable(pool)}
        read_ahead([(clip, ("json",)) for clip in clips.values()])  # identities
        return clips

    def frames(self, chosen: Sequence["PlacedFrame"]) -> Frames:
        """Decode frames of one or several clips, in the given order."""
        numbers: dict[str, list[int]] = {}
        for one in chosen:
            numbers.setdefault(one.clip.key, []).append(one.number)
        decoded: dict[tuple[str, int], tuple[np.ndarray, ...]] = {}
        for clip in {one.clip.key: one.clip for one in chosen}.values():
            sample = make_sample(clip, clip.landmarks(), numbers[clip.key], self.size, flip=False)
            parts = zip(sample.images, sample.landmarks, sample.points, strict=True)
            decoded |= {(clip.key, n): frame for n, frame in zip(numbers[clip.key], parts, strict=True)}
        images, landmarks, points = zip(*(decoded[one.clip.key, one.number] for one in chosen), strict=True)
        return as_frames(np.stack(images), np.stack(landmarks), np.stack(points))


class PlacedFrame(NamedTuple):
    """A frame: its clip, and its number in the clip."""

    clip: StoredClip
    number: int


@final
class SelfReenactment:
    """Each clip or video of a split drives itself: T of its frames are shots, others are to be reproduced.

    Args:
        unit: clip: one clip each (of VoxCeleb, an utterance); video: all clips of a video together, in the order of
            their keys, as the loader of the paper's first author lists them
        num_people: upper bound: first one of each identity, then a second one, and so on; None: all
    """

    def __init__(
        self, data: EpisodeDataModule, size: int, choice: FrameChoice, split: str = "test",
        num_people: int | None = None, unit: str = "clip",
    ) -> None:  # fmt: skip
        if unit not in ("clip", "video"):
            raise ValueError(f"people.unit={unit}: choose clip or video")
        self.shards, self.choice = Shards(data, size), choice
        self.split, self.num_people, self.unit = split, num_people, unit
        self.name = f"{self.shards.dataset}/{split}"
        self.protocol = f"{unit}_{choice}"

    def prepare(self) -> None:
        """Render synthetic heads that are missing."""
        self.shards.prepare([self.split])

    @cached_property
    def units(self) -> dict[str, list[StoredClip]]:
        """The clips of each unit, by the unit's key."""
        clips = self.shards.clips(self.split)
        if self.unit == "clip":
            return {key: [clip] for key, clip in clips.items()}
        videos: dict[str, list[StoredClip]] = {}
        for key in sorted(clips):
            videos.setdefault(str(clips[key].meta().get("video", key)), []).append(clips[key])
        return {name.replace("/", "_"): own for name, own in videos.items()}

    def keys(self) -> tuple[list[str], list[Skipped]]:
        """Keys of the units with enough usable frames, and those skipped."""
        order = one_of_each({key: self._identity(key) for key in self.units})
        return first_usable(order, self.num_people, self._usable)

    def load(self, key: str) -> Person:
        """One person, whose hold-out frames are both driving and target frames."""
        candidates = self._usable(key)
        read_ahead([(one.clip, [one.clip.index.frames[one.number]]) for one in candidates])
        usable = [one for one in candidates if is_decodable(one.clip, one.number)]
        shots, held_out = self.choice(range(len(usable)), key)
        target = self.shards.frames([usable[n] for n in held_out])
        learn = self.shards.frames([usable[n] for n in shots])
        return Person(key, learn, driving=target, target=target, identity=self._identity(key))

    def _identity(self, key: str) -> str:
        return str(self.units[key][0].meta().get("identity", key))

    def _usable(self, key: str) -> list[PlacedFrame]:
        """Frames with landmarks, in order of time."""
        frames = [
            PlacedFrame(clip, number)
            for clip in self.units[key]
            for number in np.flatnonzero(np.isfinite(clip.landmarks()).all(axis=(1, 2))).tolist()
        ]
        if len(frames) < self.choice.needed:
            detail = f"{self.unit} {key}: {len(frames)}, the protocol needs {self.choice.needed}"
            raise UnusableClip("too few usable frames", detail)
        return frames


@final
class CrossReenactment:
    """One synthetic person driven by another, with exact ground truth (split `cross`, see docs/synthetic.md).

    Shots are as in `SelfReenactment`, from the person's own test clip. Driving and target frames have the same numbers
    in the driver's test clip and in the clip that shows the person with the driver's motion.
    """

    def __init__(self, data: EpisodeDataModule, size: int, choice: FrameChoice, num_people: int | None = None) -> None:
        self.shards, self.choice, self.num_people = Shards(data, size), choice, num_people
        self.name = f"{self.shards.dataset}/cross"
        self.protocol = f"clip_{choice}"

    def prepare(self) -> None:
        """Render synthetic heads that are missing."""
        self.shards.prepare(["test", "cross"])

    @cached_property
    def own(self) -> dict[str, StoredClip]:
        return self.shards.clips("test")

    @cached_property
    def driven(self) -> dict[str, StoredClip]:
        return self.shards.clips("cross")

    def keys(self) -> tuple[list[str], list[Skipped]]:
        """Clips of split `cross` for which both test clips exist."""
        return first_usable(one_of_each({key: key for key in self.driven}), self.num_people, self._frames)

    def load(self, key: str) -> Person:
        """One person, with the frames of the driver and the rendered ground truth."""
        person, driver, target = self._clips(key)
        shots, held_out = self._frames(key)

        def images(clip: StoredClip, numbers: Sequence[int]) -> Frames:
            return self.shards.frames([PlacedFrame(clip, number) for number in numbers])

        identity = str(person.meta().get("identity", person.key))
        return Person(key, images(person, shots), images(driver, held_out), images(target, held_out), identity)

    def _clips(self, key: str) -> tuple[StoredClip, StoredClip, StoredClip]:
        target = self.driven[key]
        meta = target.meta()
        if not {"video", "motion_clip"} <= set(meta) or not {meta["video"], meta["motion_clip"]} <= set(self.own):
            raise UnusableClip("no test clips of person and driver", f"clip {key} of {target.file}")
        return self.own[meta["video"]], self.own[meta["motion_clip"]], target

    def _frames(self, key: str) -> tuple[list[int], list[int]]:
        """Frame numbers: shots in the person's clip, hold-out frames in the other two."""
        person, driver, target = self._clips(key)
        shots, _ = self.choice(_whole(person), person.key)
        both = sorted(set(_whole(driver)) & set(_whole(target)))
        shuffled = Random(repr((self.choice.seed, key))).sample(both, len(both))
        if len(both) < self.choice.min_targets:
            raise UnusableClip("too few usable frames", f"clip {key}: {len(both)} shared with its driver")
        return shots, sorted(shuffled[: self.choice.num_targets])


def _whole(clip: StoredClip) -> list[int]:
    """Numbers of the frames that have landmarks and can be decoded."""
    usable = usable_frames(clip.landmarks(), 1, f"clip {clip.key} of {clip.file}").tolist()
    clip.read_ahead([clip.index.frames[number] for number in usable])
    return [number for number in usable if is_decodable(clip, number)]


class People:
    """The people of one rank, loaded one at a time; unusable ones go to `skip`."""

    def __init__(self, source: PeopleSource, keys: Sequence[str], skip: Callable[[list[Skipped]], None]) -> None:
        self.source = source
        self.keys = list(keys)
        self.skip = skip

    def __len__(self) -> int:
        """At least 1: without batches Lightning would not call the end of the epoch, for which other ranks wait."""
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
    """Keys in a fixed random order: one of each identity, then a second of each, and so on."""
    groups: dict[str, list[str]] = {}
    for key in Random(0).sample(sorted(identities), len(identities)):
        groups.setdefault(identities[key], []).append(key)
    return [key for turn in zip_longest(*groups.values()) for key in turn if key is not None]


def first_usable(keys: list[str], count: int | None, check: Callable[[str], object]) -> tuple[list[str], list[Skipped]]:
    """The first `count` keys that pass `check`, and the skipped ones before them, with reasons."""
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
    """Frames from pictures and landmark images of 0 … 255."""
    return Frames(as_tensor(images), as_tensor(landmarks), torch.from_numpy(points))


def draw_frames(images: UInt8[np.ndarray, "N H W 3"], points: Float[np.ndarray, "N 68 2"]) -> Frames:
    """Frames from pictures of 0 … 255; landmark images are drawn from the points."""
    return as_frames(images, np.stack([draw_landmarks(face, images.shape[1]) for face in points]), points)
