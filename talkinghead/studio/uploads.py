"""Checks of uploads: by content, size and length, before they are used and copied under a plain name."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
from PIL import Image

from talkinghead.options import Range, check_numbers
from talkinghead.video.container import NoVideo, find_video, open_media
from talkinghead.video.reader import Video
from talkinghead.video.writer import VideoWriter

PICTURES = (
    (0, b"\xff\xd8\xff", ".jpg"), (0, b"\x89PNG\r\n\x1a\n", ".png"), (8, b"WEBP", ".webp"), (0, b"BM", ".bmp"),
    (0, b"II*\0", ".tif"), (0, b"MM\0*", ".tif"),
)  # fmt: skip
VIDEOS = ((4, b"ftyp", ".mp4"), (4, b"moov", ".mp4"), (0, b"\x1aE\xdf\xa3", ".mkv"), (8, b"AVI ", ".avi"))
NO_PICTURES = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif")  # what telephones write in the container of MP4
WIDEST = 4096  # pixels of the longest side of a video
PLAYED = {(codec, "yuv420p") for codec in ("h264", "vp8", "vp9", "av1")}  # by all browsers, with this pixel format
PLAYED_IN = (".mp4", ".webm", ".m4v", ".mov")
PREVIEW_HEIGHT = 360  # pixels
NUMBERS = {
    "megabytes": Range(0.001, 1e6, whole=False), "megapixels": Range(0.001, 1e6, whole=False),
    "pictures": Range(1, 10_000), "seconds": Range(0.01, 1e6, whole=False), "steps": Range(0, 1_000_000),
}  # fmt: skip


class Refused(ValueError):
    """An upload or a request is unusable; the message tells the visitor why, and what would be accepted."""


@dataclass(frozen=True)
class Limits:
    """Limits of what a visitor may upload and ask for. Raises InputError for numbers out of range."""

    megabytes: float | int = 50  # of a file
    megapixels: float | int = 40  # of a picture
    pictures: int = 16
    seconds: float | int = 30  # of a video
    steps: int = 200  # of fine-tuning

    def __post_init__(self) -> None:
        check_numbers(self, NUMBERS, "limits.")


def admit_pictures(given: list[Path], folder: Path, limits: Limits) -> dict[Path, str]:
    """Copy the pictures into the folder; returns {copy: the visitor's name}. Raises Refused."""
    if not given:
        raise Refused("Give at least one portrait: drop a picture, or take one of the examples.")
    if len(given) > limits.pictures:
        raise Refused(f"{len(given)} pictures are too many: choose up to {limits.pictures} of them.")
    admitted = {}
    for number, path in enumerate(given, start=1):
        suffix = check_picture(path, limits)
        admitted[shutil.copyfile(path, folder / f"portrait {number}{suffix}")] = path.name
    return admitted


def admit_video(given: Path | None, folder: Path, limits: Limits) -> dict[Path, str]:
    """Copy the video into the folder; returns {copy: the visitor's name}. Raises Refused."""
    if given is None:
        raise Refused("Choose a driver: drop a video of a face, or take one of the examples.")
    suffix = check_video(given, limits)
    return {shutil.copyfile(given, folder / f"driver{suffix}"): given.name}


def check_picture(path: Path, limits: Limits) -> str:
    """The suffix by the picture's content. Raises Refused; only the header is decoded."""
    head = read_head(path, limits)
    suffix = find(PICTURES, head)
    if suffix is None:
        telephone = " Telephones can save pictures as JPEG." if head[8:12] in NO_PICTURES else ""
        raise Refused(f"{path.name} is not a picture that can be read here: JPEG, PNG, WebP, BMP or TIFF.{telephone}")
    try:
        with Image.open(path) as image:
            width, height = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Refused(f"{path.name} is damaged, or far too large: it cannot be read as a picture.") from error
    if width * height > limits.megapixels * 1e6:
        raise Refused(
            f"{path.name} has {width} x {height} pixels: make it smaller, {limits.megapixels:g} million are the limit."
        )
    return suffix


def check_video(path: Path, limits: Limits) -> str:
    """The suffix by the video's content. Raises Refused; no frame is decoded.

    Playlists and scripts, which would make FFmpeg open other files, are refused.
    """
    head = read_head(path, limits)
    suffix = None if head[8:12] in NO_PICTURES else find(VIDEOS, head)
    if suffix is None:
        raise Refused(f"{path.name} is not a video that can be read here: MP4, MOV, WebM, MKV or AVI.")
    try:
        with open_media(path, {".mp4": "mov", ".mkv": "matroska", ".avi": "avi"}[suffix]) as container:
            if not container.streams.video and not container.streams.audio:
                raise Refused(f"{path.name} is damaged: it cannot be read as a video.")
            if not container.streams.video:
                raise Refused(f"{path.name} has no picture, only sound: a video of a face is needed.")
            stream = container.streams.video[0]
            width, height = stream.codec_context.width, stream.codec_context.height
            times = [float(p.pts * p.time_base) for p in container.demux(stream) if p.size and p.pts is not None]
    except (av.FFmpegError, OSError, NoVideo) as error:
        raise Refused(f"{path.name} is damaged: it cannot be read as a video.") from error
    if not times:
        raise Refused(f"{path.name} is empty: it has no pictures.")
    if (seconds := max(times) - min(times)) > limits.seconds:
        raise Refused(
            f"{path.name} is {seconds:.0f} seconds long: cut it first, {limits.seconds:g} seconds are the limit."
        )
    if max(width, height) > WIDEST:
        raise Refused(f"{path.name} has {width} x {height} pixels: at most {WIDEST} along a side, please.")
    return suffix


def playable(path: Path) -> bool:
    """Whether all browsers play this file: H.264, VP8, VP9 or AV1 in MP4 or WebM."""
    with open_media(path) as container:
        context = find_video(container, path).codec_context
        return (context.codec.canonical_name, context.pix_fmt) in PLAYED and path.suffix.lower() in PLAYED_IN


def write_preview(path: Path, preview: Path) -> Path:
    """Write a small H.264 copy with sound, at most `PREVIEW_HEIGHT` pixels high; returns its path."""
    with Video(path) as video:
        times = video.timeline
        height, width = next(video.read([0]))[1].shape[:2]
        scale = min(1.0, PREVIEW_HEIGHT / height)
        size = (max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2))
        start = float(times.pts[0] * times.time_base)
        with VideoWriter(preview, *size, times.rate, times.time_base, path, start, crf=28) as writer:
            for number, image in video.read(range(video.num_frames)):
                small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
                writer.write(small, times.pts[number] - times.pts[0])
    return preview


def read_head(path: Path, limits: Limits) -> bytes:
    """The first 16 bytes. Raises Refused if the file is empty or too large."""
    size = path.stat().st_size
    if size > limits.megabytes * 1e6:
        raise Refused(f"{path.name} has {size / 1e6:.0f} MB: {limits.megabytes:g} MB are the limit.")
    if size == 0:
        raise Refused(f"{path.name} is empty.")
    with open(path, "rb") as file:
        return file.read(16)


def find(kinds: tuple[tuple[int, bytes, str], ...], head: bytes) -> str | None:
    """The suffix of the first kind whose signature is in the header; None if there is none."""
    return next((suffix for place, magic, suffix in kinds if head[place : place + len(magic)] == magic), None)
