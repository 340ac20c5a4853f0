"""The source: pictures or a video of the person, the face in them, and the crop for the networks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from jaxtyping import Float, UInt8

from talkinghead.faces.crop import Crop, Framing, clip_crop, cut, face_box, to_crop
from talkinghead.faces.detectors import Detector
from talkinghead.faces.face_track import find_face
from talkinghead.faces.landmark_image import draw_landmarks
from talkinghead.images import IMAGE_SUFFIXES, is_image, read_image
from talkinghead.pixels import as_tensor
from talkinghead.storage import check_file
from talkinghead.types import Frames
from talkinghead.video.reader import Video, reason, spread

VIDEO_SHOTS = 8  # frames taken from a source video by default

Image = UInt8[np.ndarray, "_ _ 3"]


class Portrait(NamedTuple):
    """A source frame: the whole picture, the face's landmarks in its pixels, and the crop around the face."""

    name: str
    image: Image
    points: Float[np.ndarray, "68 2"]
    crop: Crop


def read_source(
    sources: Sequence[Path | np.ndarray], detector: Detector, framing: Framing, *, shots: int | None = None,
    face: int = 1, min_face: int = 32, tell: Callable[[str], None] = print,
    start: Callable[[int], Callable[[], None]] = lambda total: lambda: None,
) -> list[Portrait]:  # fmt: skip
    """The portraits of pictures, of folders of pictures, and of frames spread over videos.

    Args:
        sources: files, folders, and pictures as uint8 [H, W, 3]
        shots: upper bound of source frames; None: all pictures, eight frames of a video
        face: 1 is the largest face of a picture, 2 the second largest, …
        min_face: smallest usable face box, pixels
        tell: called with a line for each picture that is left out
        start: called with the number of files; returns a function that is called after each

    Raises:
        FileNotFoundError: that names a missing file.
        ValueError: that names the first file, where none is usable.
    """
    portraits: list[Portrait] = []
    reasons: list[str] = []
    items = expand(sources)
    tick = start(len(items))
    for number, item in enumerate(items):
        wanted = None if shots is None else shots - len(portraits)
        if wanted is not None and wanted <= 0:
            break
        found: list[Portrait] = []
        try:
            frames = [checked_picture(item, number)] if isinstance(item, np.ndarray) else pictures(item, wanted)
        except ValueError as error:  # it names the file; others may be usable
            frames, reasons = [], [*reasons, str(error)]
        for name, image in frames:
            try:
                points = find_face(image, detector, face)
                found.append(Portrait(name, image, points, checked_crop(points, image, framing, min_face)))
            except ValueError as error:
                reasons.append(f"{name}: {error}")
        if len(found) > 1:  # a video: one crop for all its frames
            height, width = found[0].image.shape[:2]
            crop = clip_crop(np.stack([portrait.points for portrait in found]), width, height, framing)
            found = [portrait._replace(crop=crop) for portrait in found]
        portraits += found
        tick()
    if not portraits:
        more = f" (and {len(reasons) - 1} other pictures)" if len(reasons) > 1 else ""
        raise ValueError(reasons[0] + more)
    for line in reasons:
        tell(f"left out: {line}")
    return portraits


def checked_crop(
    points: Float[np.ndarray, "68 2"], image: UInt8[np.ndarray, "H W 3"], framing: Framing, min_face: int
) -> Crop:
    """The crop of one picture by the crop rule. Raises ValueError where the face is too small."""
    box = face_box(points)
    if box[2] - box[0] < min_face:
        raise ValueError(f"the face is {box[2] - box[0]:.0f} pixels wide, at least {min_face} are needed (min_face)")
    return clip_crop(points[None], image.shape[1], image.shape[0], framing)


def checked_picture(image: np.ndarray, number: int) -> tuple[str, Image]:
    """An array, with a name for messages. Raises ValueError where it is not uint8 RGB."""
    name = f"picture {number}"
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < 1:
        raise ValueError(f"{name} is {image.dtype} {list(image.shape)}: uint8 [H, W, 3] is wanted, RGB")
    return name, image


def expand(sources: Sequence[Path | np.ndarray]) -> list[Path | np.ndarray]:
    """Replace folders by their pictures, sorted by name. Raises FileNotFoundError; ValueError for an empty folder."""
    files: list[Path | np.ndarray] = []
    for path in sources:
        if isinstance(path, np.ndarray):
            files.append(path)
            continue
        if not path.exists():
            raise FileNotFoundError(f"source={path}: there is no such file or folder")
        if not path.is_dir():
            files.append(check_file("source", path))
            continue
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
        if not inside:
            raise ValueError(f"source={path}: the folder holds no pictures ({', '.join(sorted(IMAGE_SUFFIXES))})")
        files += inside
    if not files:
        raise ValueError("source=FILE: give a picture, a list [a.jpg,b.jpg], a folder of pictures or a video")
    return files


def pictures(path: Path, shots: int | None) -> list[tuple[str, Image]]:
    """A picture, or frames spread over a video, as RGB with their names. Raises ValueError that names the file."""
    if path.suffix.lower() in IMAGE_SUFFIXES or is_image(path):
        return [(str(path), read_image(path))]
    try:
        with Video(path) as video:
            numbers = spread(video.num_frames, VIDEO_SHOTS if shots is None else shots)
            frames = [(f"{path}, frame {n}", image) for n, image in video.read(numbers)]
    except (av.FFmpegError, OSError, ValueError) as error:
        raise ValueError(f"{path}: {reason(error, 'a picture or a video')}") from error
    if not frames:
        raise ValueError(f"{path}: the video has no frames")
    return frames


def points_of(portrait: Portrait, size: int) -> Float[np.ndarray, "68 2"]:
    """The landmarks in pixels of the crop, resized to `size`."""
    return to_crop(portrait.points, portrait.crop, size)


def shots_of(portraits: Sequence[Portrait], size: int) -> Frames:
    """Crops of the portraits with landmarks and landmark images, as methods learn from them."""
    images = np.stack([cut(portrait.image, portrait.crop, size) for portrait in portraits])
    return as_frames(images, np.stack([points_of(portrait, size) for portrait in portraits]))


def as_frames(images: UInt8[np.ndarray, "N S S 3"], points: Float[np.ndarray, "N 68 2"]) -> Frames:
    """Frames from pictures of 0 … 255 and landmarks in their pixels."""
    return Frames(as_tensor(images), landmark_images(points, images.shape[1]), torch.from_numpy(points).float())


def landmark_images(points: Float[np.ndarray, "N 68 2"], size: int) -> Float[torch.Tensor, "N 3 S S"]:
    """Landmark images of `size` pixels, in [-1, 1]."""
    return as_tensor(np.stack([draw_landmarks(face, size) for face in points]))
