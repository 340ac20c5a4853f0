"""The frames of a unit, sample by sample: of a video, of a face track within a video (VoxCeleb1), or stills."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from talkinghead.data.reader import is_remote
from talkinghead.data.remote import fetch
from talkinghead.images import UnreadableImage, read_image
from talkinghead.names import as_path_part
from talkinghead.preparation.sources import Unit
from talkinghead.storage import read_file
from talkinghead.video.reader import Video, segments

Image = UInt8[np.ndarray, "_ _ 3"]  # frames of a list may differ in size

# VoxCeleb's face tracks count frames at 25 per second. VoxCeleb1 gives boxes in pixels of videos 360 pixels high,
# VoxCeleb2 as fractions of the frame.
TRACK_FPS = 25.0
TRACK_HEIGHT = 360.0
# The region searched around a face track, in sides of the track: room for the crop and for finding the face again.
TRACK_ROOM = 2.2
MISSING = 0.05  # share of the announced frames without which a video is still taken
MEMORY = 512 << 20  # bytes of decoded pictures kept per folder


class Incomplete(ValueError):
    """A video of which a part is missing, as after half a download."""


@dataclass(frozen=True)
class Segment:
    """Frames of one sample before cropping; `origin` is their position in the frames of the file."""

    images: "Pictures"
    numbers: list[int]
    fps: float
    origin: tuple[int, int] = (0, 0)
    broken: dict[str, str] = field(default_factory=dict)  # stills that could not be read, and why


class Pictures(Sequence[Image]):
    """Pictures, or their files, which are decoded at every access to save memory."""

    def __init__(self, items: Iterable[Image | Path] = ()) -> None:
        self._items = list(items)

    def add(self, item: Image | Path) -> None:
        """Append a picture, or the path of one that is decoded when it is accessed."""
        self._items.append(item)

    def take(self, chosen: Iterable[int]) -> "Pictures":
        """The pictures with these numbers, in this order."""
        return Pictures(self._items[n] for n in chosen)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, n: Any) -> Any:
        item = self._items[n]
        return read_image(item) if isinstance(item, Path) else item


class GivenTrack(NamedTuple):
    """One of VoxCeleb's text files: the face's box (x, y, w, h) in each frame of a stretch of a video."""

    frames: Int[np.ndarray, " N"]
    boxes: Float[np.ndarray, "N 4"]


@contextmanager
def on_this_machine(unit: Unit) -> Iterator[Unit]:
    """The unit with temporary copies of its remote files. Raises as `fetch` does."""
    urls = [one for one in (*unit.paths, unit.boxes) if one is not None and is_remote(one)]
    if not urls:
        yield unit
        return
    with TemporaryDirectory(prefix="talkinghead-") as folder:
        copies: dict[str | None, str] = {}
        for number, url in enumerate(urls):
            name = PurePosixPath(url)
            copy = Path(folder) / str(number) / f"{as_path_part(name.stem)}{name.suffix}"
            copy.parent.mkdir()
            with fetch(url) as content, copy.open("wb") as file:
                shutil.copyfileobj(content, file)
            copies[url] = str(copy)
        paths = tuple(copies.get(path, path) for path in unit.paths)
        yield replace(unit, paths=paths, boxes=copies.get(unit.boxes, unit.boxes))


def read_segments(unit: Unit, frames_per_clip: int, fps: float | None) -> Iterator[Segment]:
    """The samples of a unit. Raises OSError or av.FFmpegError if its file cannot be read, Incomplete if it was cut."""
    if unit.kind == "stills":
        yield read_stills([Path(p) for p in unit.paths])
        return
    track = read_track(Path(unit.boxes)) if unit.boxes else None
    with Video(Path(unit.paths[0])) as video:
        if track is None and video.missing > MISSING * video.announced:
            raise Incomplete(f"{video.announced - video.missing} of {video.announced} frames are in the file")
        first, stop = stretch(track, video) if track else (0, video.num_frames)
        parts = segments(first, stop, frames_per_clip, None if fps is None else video.fps / fps)
        part_of = {number: n for n, numbers in enumerate(parts) for number in numbers}
        for _, group in groupby(video.read(sorted(part_of)), key=lambda frame: part_of[frame[0]]):
            frames = list(group)
            images, numbers = [image for _, image in frames], [number for number, _ in frames]
            if track:
                left, top, right, bottom = window(track, *images[0].shape[:2])
                images = [np.ascontiguousarray(image[top:bottom, left:right]) for image in images]
                yield Segment(Pictures(images), numbers, video.fps, (left, top))
            else:
                yield Segment(Pictures(images), numbers, video.fps)


def read_stills(paths: Sequence[Path]) -> Segment:
    """Pictures of a folder as the frames of one sample; unreadable files are named in `broken`."""
    images, left = Pictures(), MEMORY
    numbers: list[int] = []
    broken: dict[str, str] = {}
    for number, path in enumerate(paths):
        try:
            image = read_image(path)
        except UnreadableImage as error:
            broken[path.name] = str(error)
            continue
        left -= image.nbytes
        images.add(image if left >= 0 else path)
        numbers.append(number)
    return Segment(images, numbers, 0.0, broken=broken)


def read_track(path: Path) -> GivenTrack:
    """Read `FRAME X Y W H` lines. Raises OSError if there are none."""
    rows = [line.split() for line in read_file(path).decode(errors="replace").splitlines()]
    values = [row for row in rows if len(row) == 5 and row[0].isdecimal()]
    try:
        numbers = np.array(values, float).reshape(-1, 5)
    except ValueError as error:
        raise OSError(f"{path} has a line that is not FRAME X Y W H: {error}") from error
    if not len(numbers):
        raise OSError(f"{path} has no lines FRAME X Y W H")
    return GivenTrack(numbers[:, 0].astype(int), numbers[:, 1:])


def stretch(track: GivenTrack, video: Video) -> tuple[int, int]:
    """First frame of the track in the video, and the one after its last. Raises OSError if the video is too short."""
    first, stop = (round(n * video.fps / TRACK_FPS) for n in (track.frames.min(), track.frames.max() + 1))
    if first >= video.num_frames:
        raise OSError(f"the track begins at frame {first}, but the video has {video.num_frames}")
    return first, min(stop, video.num_frames)


def window(track: GivenTrack, height: int, width: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the region in which the face moves, in pixels of the video."""
    fractions = track.boxes.max() <= 2.0
    scale = np.array([width, height] * 2) if fractions else np.full(4, height / TRACK_HEIGHT)
    boxes = track.boxes * scale
    room = (TRACK_ROOM - 1) / 2 * np.median(boxes[:, 2:])
    left, top = np.floor((boxes[:, :2] - room).min(0).clip(0)).astype(int)
    right, bottom = np.ceil((boxes[:, :2] + boxes[:, 2:] + room).max(0)).astype(int)
    if left >= width or top >= height:
        raise OSError(f"the face track lies outside the video of {width} x {height} pixels")
    return int(left), int(top), min(int(right), width), min(int(bottom), height)
