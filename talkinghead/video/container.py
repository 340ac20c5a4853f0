"""Opening an untrusted media file: self-contained video formats only, so that no other file is opened."""

from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from talkinghead.images import is_animation, is_image

# Suffixes of videos in folders; files that the user names are judged by their content.
VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".vob", ".flv", ".f4v",
    ".wmv", ".asf", ".3gp", ".3g2", ".ogv", ".ogg", ".gif", ".mxf",
    ".h264", ".264", ".h265", ".265", ".hevc",
})  # fmt: skip
# FFmpeg's names of formats that hold their pictures and sound themselves. Playlists, scripts (ffconcat, HLS, DASH, SDP)
# and numbered pictures are none: they would make it open other files, or connections.
DEMUXERS = (
    "mov,matroska,avi,flv,live_flv,mpegts,mpeg,mpegvideo,h264,hevc,vvc,av1,obu,ivf,m4v,h263,h261,vc1,vc1test,dv,ogg,asf,"
    "gif,mxf,rm,nut,wtv,dhav,nsv,yuv4mpegpipe,aac,mp3,wav,flac,ac3,eac3,caf,aiff,amr"
)
PICTURE = "it is a picture, not a video: give a video here (a portrait to bring to life is source=FILE)"
MOVING = "it is an animated picture, of a kind that is not read: convert it to MP4 or GIF"
MAX_PIXELS = 40_000_000  # per frame; 8K has 33 million


class NoVideo(ValueError):
    """A file is not a usable video; the message says what it is, the catcher adds its name."""


def open_media(path: Path, demuxers: str = DEMUXERS) -> InputContainer:
    """Open a file for reading. Raises NoVideo, av.FFmpegError or OSError.

    Args:
        demuxers: FFmpeg's names of the formats that may be read
    """
    if not path.is_file():
        raise FileNotFoundError(2, "it is no file" if path.exists() else "there is no such file", str(path))
    if path.stat().st_size == 0:
        raise NoVideo("the file is empty")
    options = {"format_whitelist": demuxers, "protocol_whitelist": "file"}
    try:
        return av.open(str(path.absolute()), options=options, metadata_errors="replace")
    except av.FFmpegError as error:
        if what := foreign(path, error):
            raise NoVideo(what) from error
        raise


def foreign(path: Path, error: av.FFmpegError) -> str | None:
    """Description of a file in a format that is not allowed or not a video; None where it may be a damaged video."""
    if is_image(path):
        return MOVING if is_animation(path) else PICTURE
    if isinstance(error, av.ArgumentError):  # FFmpeg knows the format, but the list above excludes it
        return "it is no video file: playlists, scripts and streams, which would open other files, are not read"
    return None


def find_video(container: InputContainer, path: Path) -> VideoStream:
    """The video stream of an open file. Raises NoVideo where there is none, or its frames exceed `MAX_PIXELS`."""
    stream = container.streams.best("video")
    if stream is None or stream.disposition & Disposition.attached_pic:
        raise NoVideo("it holds sound but no video" if container.streams.audio else "it holds no video")
    assert isinstance(stream, VideoStream)
    if is_image(path):  # FFmpeg reads HEIC and AVIF as videos of one frame
        raise NoVideo(PICTURE)
    context = stream.codec_context
    if context is None:
        raise NoVideo("its video is of a kind that cannot be decoded")
    if context.width * context.height > MAX_PIXELS:
        raise NoVideo(f"its frames have {context.width} x {context.height} pixels: make them smaller (8K is the most)")
    return stream
