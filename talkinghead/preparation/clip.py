"""One clip from its file to its samples: a pure function of the unit and the settings, run by any process anywhere."""

import errno
from collections.abc import Sequence
from dataclasses import dataclass

import av
import cv2
import numpy as np
import simplejpeg
from jaxtyping import Float, UInt8

from talkinghead.data.shards import Clip
from talkinghead.faces.crop import Crop, Framing, clip_crop, cut, face_box, to_crop
from talkinghead.faces.detectors import Detector
from talkinghead.faces.tiled_detection import closer
from talkinghead.faces.tracking import Track, follow
from talkinghead.names import as_path_part, is_name
from talkinghead.options import Range, check_numbers
from talkinghead.preparation.frames import Incomplete, Segment, on_this_machine, read_segments
from talkinghead.preparation.sources import Unit
from talkinghead.storage import FULL

Image = UInt8[np.ndarray, "_ _ 3"]  # frames of a list may differ in size
NUMBERS = {
    "image_size": Range(16, 4096), "frames_per_clip": Range(1, 100_000), "min_frames": Range(1, 100_000),
    "fps": Range(0.01, 1000, whole=False, optional=True), "min_face": Range(1, 10_000), "quality": Range(1, 100),
    "search_every": Range(1, 10_000),
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What the samples are like.

    Attributes:
        image_size: side of the stored frames, pixels
        frames_per_clip: frames of a sample
        fps: None: one sample per clip, its frames spread evenly over it; a rate: frames at that rate, and a clip with
            more than `frames_per_clip` of them becomes several samples of the same video
        min_frames: samples with fewer usable frames are dropped (an episode of K = 8 needs 9)
        min_face: samples whose median face box is narrower, in pixels of the source, are dropped
        margin: side of the crop, in face boxes
        down: how far the crop is shifted down from the face, in face boxes
        quality: JPEG quality
        search_every: the detector searches every n-th frame; landmarks are found in all
    """

    image_size: int = 256
    frames_per_clip: int = 64
    fps: float | None = None
    min_frames: int = 9
    min_face: int = 48
    margin: float = Framing().margin
    down: float = Framing().down
    quality: int = 95
    search_every: int = 1

    def __post_init__(self) -> None:
        check_numbers(self, NUMBERS, "settings.")
        Framing(self.margin, self.down).checked("settings.")


@dataclass(frozen=True)
class Drop:
    """A sample that was not kept, and why."""

    clip: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Result:
    """The outcome of one unit."""

    clips: list[Clip]
    drops: list[Drop]
    decoded: int  # frames that were decoded and searched


def prepare_clip(unit: Unit, key: str, video_index: int, detector: Detector, settings: Settings) -> Result:
    """Decode, track the face, crop, encode. Anything wrong with the file becomes a `Drop`, never an exception.

    Raises:
        DataFault: the remote file cannot be fetched for a reason that is not its own, such as the network.
        OSError: the disk is full, or too many files are open.
    """
    if not unit.paths:
        return Result([], [Drop(unit.clip, "file missing")], 0)
    clips: list[Clip] = []
    drops: list[Drop] = []
    decoded, here = 0, unit
    try:
        with on_this_machine(unit) as here:
            for number, shot in enumerate(read_segments(here, settings.frames_per_clip, settings.fps)):
                decoded += len(shot.images)
                broken = {name: with_urls(why, here, unit) for name, why in shot.broken.items()}
                drops += [Drop(f"{unit.clip}/{name}", "unreadable", why) for name, why in broken.items()]
                ending = "" if settings.fps is None else f"_{number:03d}"
                sample = prepare_segment(here, shot, detector, settings)
                if isinstance(sample, str):
                    drops.append(Drop(unit.clip + ending, sample, f"{len(shot.images)} frames"))
                else:
                    clips.append(as_clip(unit, key + ending, ending, video_index, *sample))
    except Incomplete as error:
        return Result([], [Drop(unit.clip, "incomplete", str(error))], 0)
    except (av.FFmpegError, OSError, cv2.error, ValueError, LookupError, ArithmeticError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno in (*FULL, errno.EMFILE, errno.ENFILE):
            raise  # not the file's fault: it would affect every other file too
        why = with_urls(f"{type(error).__name__}: {error}", here, unit)
        return Result([], [Drop(unit.clip, "unreadable", why)], decoded)
    if not clips and not drops:
        drops.append(Drop(unit.clip, "unreadable", "no frames"))
    return Result(clips, drops, decoded)


def with_urls(text: str, here: Unit, unit: Unit) -> str:
    """A message about temporary copies of files, naming the files themselves."""
    for copy, path in zip((*here.paths, here.boxes), (*unit.paths, unit.boxes), strict=True):
        if copy is not None and path is not None:
            text = text.replace(copy, path)
    return text


def as_clip(
    unit: Unit, key: str, ending: str, video_index: int, meta: dict, points: Float[np.ndarray, "F 68 2"],
    frames: list[bytes],
) -> Clip:  # fmt: skip
    """A sample under the names of its unit; names that are none become file names that are."""
    given = {"video": unit.video, "identity": unit.identity, "clip": unit.clip + ending}
    names = {what: name if is_name(name) else as_path_part(name) for what, name in given.items()}
    return Clip(key, {**names, "video_index": video_index, **meta}, points, frames)


def prepare_segment(
    unit: Unit, shot: Segment, detector: Detector, settings: Settings
) -> tuple[dict, Float[np.ndarray, "F 68 2"], list[bytes]] | str:
    """Meta data, landmarks and JPEG frames of one sample, or the reason why there is none."""
    if len(shot.images) < settings.min_frames:
        return "too short"
    track = find(unit, shot.images, detector, settings)
    if not track.frames:
        return "no face"
    if len(track.frames) < settings.min_frames:
        return "face in too few frames"
    boxes = face_box(track.points)
    face = float(np.median(boxes[:, 2] - boxes[:, 0]))
    if face < settings.min_face:
        return "too small"
    images = shot.images.take(track.frames)
    crops = choose_crops(unit, images, track.points, Framing(settings.margin, settings.down))
    points = np.stack([to_crop(p, c, settings.image_size) for p, c in zip(track.points, crops, strict=True)])
    inside = [n for n, p in enumerate(points) if mostly_inside(p, settings.image_size)]
    if len(inside) < settings.min_frames:
        return "face leaves the crop"
    meta = {
        "fps": shot.fps,
        "frame_numbers": [shot.numbers[track.frames[n]] for n in inside],
        "crop": place(crops[0], shot) if unit.kind == "video" else [place(crops[n], shot) for n in inside],
        "face": round(face, 1),
    }
    frames = [encode(cut(images[n], crops[n], settings.image_size), settings.quality) for n in inside]
    return meta, points[inside].astype(np.float32), frames


def find(unit: Unit, images: Sequence[Image], detector: Detector, settings: Settings) -> Track:
    """The face in each frame: tracked through a video, found separately in each still."""
    if unit.kind == "video":
        return follow_closely(images, detector, settings.search_every)
    tracks = [follow_closely([image], detector) for image in images]
    frames = [n for n, track in enumerate(tracks) if track.frames]
    return Track(frames, np.concatenate([np.zeros((0, 68, 2)), *(track.points for track in tracks)]))


def follow_closely(images: Sequence[Image], detector: Detector, every: int = 1) -> Track:
    """The tracked face of the frames; if no frame shows one, the frames are also searched in tiles."""
    track = follow(images, detector, every)
    if track.frames:
        return track
    near = closer(lambda numbers: [(n, images[n]) for n in numbers], len(images), detector)
    return track if near is detector else follow(images, near, every)


def choose_crops(
    unit: Unit, images: Sequence[Image], points: Float[np.ndarray, "F 68 2"], framing: Framing
) -> list[Crop]:
    """The whole frame (its centre square) if the source is cropped already, else the result of the crop rule."""
    if unit.cropped:
        return [centre_square(*image.shape[:2]) for image in images]
    if unit.kind == "stills":
        return [clip_crop(p[None], i.shape[1], i.shape[0], framing) for p, i in zip(points, images, strict=True)]
    height, width = images[0].shape[:2]
    return [clip_crop(points, width, height, framing)] * len(images)


def centre_square(height: int, width: int) -> Crop:
    """The largest square in the middle of a frame."""
    side = min(height, width)
    return Crop((width - side) // 2, (height - side) // 2, side)


def place(crop: Crop, shot: Segment) -> list[int]:
    """x, y, side of a crop in the frames of the file."""
    return [crop.x + shot.origin[0], crop.y + shot.origin[1], crop.side]


def mostly_inside(points: Float[np.ndarray, "68 2"], size: int) -> bool:
    """Whether at least nine of ten landmarks are inside the picture."""
    return bool(((points >= -0.5) & (points <= size - 0.5)).all(-1).mean() >= 0.9)


def encode(image: UInt8[np.ndarray, "S S 3"], quality: int) -> bytes:
    """JPEG bytes, colours at half resolution as cameras store them."""
    return bytes(simplejpeg.encode_jpeg(image, quality, "RGB", "420", fastdct=False))
