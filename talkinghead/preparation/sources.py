"""Where the videos are: lists the clips of VoxCeleb2, of any folder of videos, and of folders of stills.

A folder is a path, or a URL as `s3://bucket/videos` (`data.remote.RemoteFolder`).
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable

from talkinghead.data.reader import is_remote
from talkinghead.data.remote import RemoteFolder
from talkinghead.images import IMAGE_SUFFIXES
from talkinghead.storage import read_file
from talkinghead.video.container import VIDEO_SUFFIXES

_LONGEST_KEY = 64  # characters: a tar member's name has 100 for key, number and suffix
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Unit:
    """One clip to prepare, described by plain values: it can be sent to another process or machine.

    Attributes:
        split: train, val or test
        identity: name of the person
        video: name of the video; clips with the same split and video share a row of W
        clip: name of the clip
        paths: the video file, or the stills of a folder, as paths or URLs; empty where the file is missing
        kind: "video" or "stills"
        cropped: the frame is a face crop already and stays as it is
        boxes: text file with the face's box for each frame (VoxCeleb1); None: the face must be searched
    """

    split: str
    identity: str
    video: str
    clip: str
    paths: tuple[str, ...]
    kind: str = "video"
    cropped: bool = False
    boxes: str | None = None


@runtime_checkable
class Source(Protocol):
    """A collection of videos. `name` goes into dataset.json."""

    name: str

    def units(self) -> list[Unit]:
        """All clips, in an order that depends only on names. Raises ValueError if there are none."""
        ...


class Folder:
    """Any folder of videos: `<identity>/<clip>.mp4`, `<identity>/<video>/<clip>.mp4`, or flat: each file is a person.

    Args:
        splits: folder of each split below `root`, "." for root itself, None for no such split
        cropped: the videos are square face crops already
        val_identities: how many people to move from train to val, chosen by a hash of their names
    """

    name = "folder"

    def __init__(
        self, root: str, splits: Mapping[str, str | None], cropped: bool = False, val_identities: int = 0
    ) -> None:
        self.root = absolute(root)
        self.folders = split_folders(self.root, splits)
        self.cropped = cropped
        self.val_identities = val_identities

    def units(self) -> list[Unit]:
        """Video files below the split folders."""
        units = []
        for split, folder in self.folders.items():
            for path in files(folder, VIDEO_SUFFIXES):
                parts = path.with_suffix("").parts
                video = "/".join(parts if len(parts) < 3 else parts[:-1])
                where = (below(folder, path),)
                units.append(Unit(split, parts[0], video, "/".join(parts), where, cropped=self.cropped))
        units = distinct(some(units, self.root, "video files"))
        return hold_out(units, self.val_identities)


class VoxCeleb2:
    """VoxCeleb2 as unpacked: `dev/mp4/<id>/<video>/<clip>.mp4` is train, `test/mp4/...` is test.

    Args:
        clips_per_video: maximum number of clips per video; None: all
        cropped: VoxCeleb2's own crops (224 px) are kept as they are
        split_file: text file of `<id>/<video> <split>` lines (`chosen_by`); None: as unpacked
    """

    name = "voxceleb2"
    PARTS: Mapping[str, str] = {"train": "dev/mp4", "test": "test/mp4"}

    def __init__(
        self, root: str, val_identities: int = 0, clips_per_video: int | None = None, cropped: bool = True,
        split_file: str | None = None,
    ) -> None:  # fmt: skip
        self.root = absolute(root)
        self.val_identities = val_identities
        self.clips_per_video = clips_per_video
        self.cropped, self.split_file = cropped, split_file

    def units(self) -> list[Unit]:
        """Clips of dev and test; either may be missing."""
        units = []
        for split, part in self.PARTS.items():
            folder = below(self.root, part)
            for path in files(folder, VIDEO_SUFFIXES, depth=3):
                identity, video, clip = path.with_suffix("").parts
                name, where = f"{identity}/{video}", (below(folder, path),)
                units.append(Unit(split, identity, name, f"{name}/{clip}", where, cropped=self.cropped))
        units = some(units, self.root, "dev/mp4/<id>/<video>/<clip>.mp4 or test/mp4/<id>/<video>/<clip>.mp4")
        units = chosen_by(self.split_file, units)
        return hold_out(first_clips(units, self.clips_per_video), self.val_identities)


class VoxCeleb1:
    """VoxCeleb1: its face tracks `txt/<id>/<video>/<clip>.txt` and the videos they were made from.

    The text files are searched in `txt`, `dev/txt` and `test/txt`, the videos in `videos` as `<video>.mp4` or
    `<id>/<video>.mp4` (any video suffix). People id10270 to id10309 are VoxCeleb1's test set.
    """

    name = "voxceleb1"
    TEXTS = ("txt", "dev/txt", "test/txt")
    TEST = range(10270, 10310)

    def __init__(
        self, root: str, videos: str = "videos", val_identities: int = 0, clips_per_video: int | None = None,
        split_file: str | None = None,
    ) -> None:  # fmt: skip
        self.root = absolute(root)
        self.videos, self.split_file = videos, split_file
        self.val_identities = val_identities
        self.clips_per_video = clips_per_video

    def units(self) -> list[Unit]:
        """One unit per text file; those without a video are listed too, so that the report counts them."""
        videos = below(self.root, self.videos)
        found = {path.stem: below(videos, path) for path in files(videos, VIDEO_SUFFIXES)}
        units = []
        for folder in (below(self.root, part) for part in self.TEXTS):
            for path in files(folder, {".txt"}, depth=3):
                identity, video, clip = path.with_suffix("").parts
                number = identity.removeprefix("id")
                split = "test" if number.isdecimal() and int(number) in self.TEST else "train"
                name = f"{identity}/{video}"
                paths = (found[video],) if video in found else ()
                units.append(Unit(split, identity, name, f"{name}/{clip}", paths, boxes=below(folder, path)))
        units = chosen_by(self.split_file, some(units, self.root, "txt/<id>/<video>/<clip>.txt"))
        if not any(unit.paths for unit in units):
            raise ValueError(f"no video of the {len(units)} clips lies in {videos}; set source.videos")
        return hold_out(first_clips(units, self.clips_per_video), self.val_identities)


class Stills:
    """Folders of pictures: each folder that holds pictures is one clip, its first folder below the split is the person.

    Each picture is cropped separately, unless `cropped`.
    """

    name = "stills"

    def __init__(
        self, root: str, splits: Mapping[str, str | None], cropped: bool = False, val_identities: int = 0
    ) -> None:
        self.root = absolute(root)
        self.folders = split_folders(self.root, splits)
        self.cropped = cropped
        self.val_identities = val_identities

    def units(self) -> list[Unit]:
        """One unit per folder of pictures."""
        units = []
        for split, folder in self.folders.items():
            pictures: dict[PurePosixPath, list[str]] = {}
            for path in files(folder, IMAGE_SUFFIXES):
                pictures.setdefault(path.parent, []).append(below(folder, path))
            for parent, paths in pictures.items():
                parts = parent.parts or (own_name(folder),)
                name = "/".join(parts)
                units.append(Unit(split, parts[0], name, name, tuple(paths), "stills", self.cropped))
        return hold_out(some(units, self.root, "pictures"), self.val_identities)


def absolute(root: str) -> str:
    """A folder by a name that is the same for a worker elsewhere; a URL stays as it is."""
    return root.rstrip("/") if is_remote(root) else str(Path(root).absolute())


def below(folder: str, path: str | PurePosixPath) -> str:
    """The path or URL of what has this path relative to a folder."""
    return f"{folder}/{path}" if is_remote(folder) else str(Path(folder) / path)


def own_name(folder: str) -> str:
    """The last part of a folder's path, links followed, or of its URL."""
    return folder.rpartition("/")[2] if is_remote(folder) else Path(folder).resolve().name


def split_folders(root: str, splits: Mapping[str, str | None]) -> dict[str, str]:
    """The folder of each split. Raises ValueError for an unknown split or a missing folder."""
    unknown = set(splits) - set(SPLITS)
    if unknown:
        raise ValueError(f"source.splits has {sorted(unknown)}; splits are {', '.join(SPLITS)}")
    names = {split: name for split in SPLITS if (name := splits.get(split)) is not None}
    folders = {split: root if name == "." else below(root, name) for split, name in names.items()}
    for split, folder in folders.items():
        if not (is_remote(folder) or Path(folder).is_dir()):
            raise ValueError(f"{folder} (split {split}) is no folder; set source.root and source.splits.{split}")
    return folders


def files(folder: str, suffixes: Iterable[str], depth: int | None = None) -> list[PurePosixPath]:
    """Files below a folder with one of these suffixes, relative to it, sorted; `depth` 3 means exactly a/b/file.

    Raises:
        ValueError: files at such a URL cannot be listed.
        DataFault: there is no access to the URL, or no network.
    """
    wanted = set(suffixes)
    if is_remote(folder):
        found = [path for path in RemoteFolder(folder).names() if depth in (None, len(path.parts))]
    else:
        pattern = "**/*" if depth is None else "/".join("*" * depth)
        found = [PurePosixPath(path.relative_to(folder)) for path in Path(folder).glob(pattern)]
    kept = (path for path in found if path.suffix.lower() in wanted and not path.name.startswith("."))
    return sorted(kept, key=lambda path: path.parts)


def some(units: list[Unit], root: str, what: str) -> list[Unit]:
    """The units; raises ValueError if there are none."""
    if not units:
        raise ValueError(f"no {what} below {root}; set source.root to the folder that holds them")
    return units


def distinct(units: list[Unit]) -> list[Unit]:
    """Append the suffix to the names of files that differ only in it, because they are different clips."""
    count = Counter((unit.split, unit.clip) for unit in units)
    renamed = []
    for unit in units:
        if count[unit.split, unit.clip] > 1:
            suffix = Path(unit.paths[0]).suffix
            video = unit.video + suffix if unit.video == unit.clip else unit.video
            identity = unit.identity + suffix if unit.identity == unit.clip else unit.identity
            unit = replace(unit, identity=identity, video=video, clip=unit.clip + suffix)  # noqa: PLW2901
        renamed.append(unit)
    return renamed


def chosen_by(split_file: str | None, units: list[Unit]) -> list[Unit]:
    """The units of the videos in a text file, such as the split of a published evaluation, in the split it names.

    Args:
        split_file: lines `<id>/<video> <split>`; a line without a split means test; None: all units, as they are

    Raises:
        ValueError: the file cannot be read, names a split that does not exist, or a video that is not there.
    """
    if split_file is None:
        return units
    try:
        lines = [line.split() for line in read_file(Path(split_file)).decode().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise ValueError(f"source.split_file={split_file}: cannot be read ({error})") from error
    split_of = {name: (rest or ["test"])[0] for name, *rest in lines}
    if wrong := sorted({*split_of.values()} - {*SPLITS}):
        raise ValueError(f"source.split_file={split_file}: no split is called {wrong[0]!r}: {', '.join(SPLITS)}")
    if missing := sorted({*split_of} - {unit.video for unit in units}):
        raise ValueError(f"source.split_file={split_file}: {len(missing)} of its videos are missing, as {missing[0]}")
    return [replace(unit, split=split_of[unit.video]) for unit in units if unit.video in split_of]


def first_clips(units: list[Unit], count: int | None) -> list[Unit]:
    """The first `count` units of each video."""
    if count is None:
        return units
    seen: Counter[tuple[str, str]] = Counter()
    kept = []
    for unit in units:
        seen[unit.split, unit.video] += 1
        if seen[unit.split, unit.video] <= count:
            kept.append(unit)
    return kept


def hold_out(units: list[Unit], count: int) -> list[Unit]:
    """Move `count` people from train to val: those whose names hash lowest, so that more data moves few of them."""
    people = {unit.identity for unit in units if unit.split == "train"}
    if count == 0 or not people:
        return units
    if any(unit.split == "val" for unit in units):
        raise ValueError("source.val_identities and a val folder are both given; choose one")
    if not 0 < count < len(people):
        raise ValueError(f"source.val_identities={count}, but train has {len(people)} people; choose fewer")
    held = set(sorted(people, key=lambda name: hashlib.sha256(os.fsencode(name)).hexdigest())[:count])
    moved = [u for u in units if u.split == "train" and u.identity in held]
    rest = [u for u in units if not (u.split == "train" and u.identity in held)]
    val = [Unit(**{**unit.__dict__, "split": "val"}) for unit in moved]
    return [*(u for u in rest if u.split == "train"), *val, *(u for u in rest if u.split == "test")]


def keys(units: list[Unit]) -> list[str]:
    """One name per unit for the members of a shard: letters, digits, `_` and `-`, no two alike.

    Names differ by more than capitals, because they become file names, which some file systems compare without case.
    """
    plain = ["_".join(PurePosixPath(unit.clip).parts) for unit in units]
    plain = [re.sub(r"[^A-Za-z0-9_-]", "-", key)[:_LONGEST_KEY] for key in plain]
    count = Counter(key.lower() for key in plain)
    return [
        key
        if count[key.lower()] == 1 and len(key) < _LONGEST_KEY
        else f"{key}-{hashlib.sha256(os.fsencode(f'{unit.split}/{unit.clip}')).hexdigest()[:8]}"
        for key, unit in zip(plain, units, strict=True)
    ]
