"""Writing an MP4 (H.264, yuv420p) with another video's sound; unfinished files never have the final name."""

import logging
import os
import secrets
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace, VideoReformatter
from jaxtyping import UInt8

from talkinghead.provenance import CLAIM, OriginStatement, Signer, mark
from talkinghead.storage import errors_name
from talkinghead.video.container import open_media

COPIED = {"aac", "mp3", "ac3", "alac"}  # codecs that MP4 players support; others are encoded as AAC
PRESET = "faster"  # of x264: 0.3 dB less than the default at the same crf, in 60 % of its time
PRIMING = 0.1  # seconds before the picture for the priming of a sound encoder
BT709, LIMITED = 1, 1  # FFmpeg's codes of the colours that players expect

_logger = logging.getLogger(__name__)


class VideoWriter:
    """A video file being written; a context manager. After an exception, no file is left.

    Args:
        width: pixels, even
        height: pixels, even
        rate: mean frames per second, a hint for the encoder
        time_base: unit of the times given to `write`, seconds; frames may have any times
        sound: a video or sound file whose first audio track is added, if it has one
        sound_start: second of that file at which the picture starts
        crf: quality of H.264; less is better and larger
        card: the statement of origin; None: a recording, without statement
        signer: signs the statement with C2PA; None: plain metadata
    """

    def __init__(
        self, path: Path, width: int, height: int, rate: Fraction, time_base: Fraction, sound: Path | None = None,
        sound_start: float = 0.0, crf: int = 18, card: OriginStatement | None = None, signer: Signer | None = None,
    ) -> None:  # fmt: skip
        self.path, self._time_base, self._card, self._signer = path, time_base, card, signer
        self._temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        with errors_name(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(self._temporary), "w", format="mp4", options={"movflags": "+faststart"})
        try:
            if card:
                self._container.metadata["comment"] = CLAIM
            self._video = self._container.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": PRESET})
            self._video.width, self._video.height, self._video.pix_fmt = width, height, "yuv420p"
            self._video.codec_context.time_base = time_base
            self._video.codec_context.colorspace = BT709
            self._video.codec_context.color_primaries = BT709
            self._video.codec_context.color_trc = BT709
            self._video.codec_context.color_range = LIMITED
            self._sound = AudioTrack(sound, self._container, sound_start) if sound else None
        except BaseException:
            self._discard()
            raise
        self._reformatter = VideoReformatter()
        self._step = max(1, round(1 / (rate * time_base)))
        self._last: int | None = None

    def __enter__(self) -> "VideoWriter":
        return self

    def write(self, image: UInt8[np.ndarray, "H W 3"], pts: int) -> None:
        """Append an RGB picture, shown `pts` time units after the start."""
        if self._sound:
            self._sound.until(float(pts * self._time_base))
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = self._reformatter.reformat(frame, format="yuv420p", dst_colorspace=Colorspace.ITU709, threads=1)
        frame.pts, frame.time_base, frame.duration = pts, self._time_base, self._step
        with errors_name(self.path):
            self._container.mux(self._video.encode(frame))
        self._last = pts

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                with errors_name(self.path):
                    self._finish()
        finally:
            self._discard()

    def _finish(self) -> None:
        if self._last is None:
            raise ValueError(f"{self.path}: no frame was written")
        self._container.mux(self._video.encode())
        if self._sound:
            self._sound.until(float((self._last + self._step) * self._time_base))
            self._sound.finish()
        self._container.close()
        if self._card:
            mark(self._temporary, self._card, self._signer)
        os.replace(self._temporary, self.path)

    def _discard(self) -> None:
        """Close everything, and remove the temporary file unless it was renamed."""
        try:
            if self._sound:
                self._sound.close()
            self._container.close()
        except (AttributeError, av.FFmpegError):  # partly constructed, or empty: the file is discarded anyway
            pass
        self._temporary.unlink(missing_ok=True)


class AudioTrack:
    """The first audio track of a file: packets are copied if MP4 allows their codec, else encoded as AAC.

    Where sound cannot be read, it ends early with a warning; the video is still written.
    """

    def __init__(self, path: Path, output: Any, start: float) -> None:
        self._output, self._start = output, start
        self._input = open_media(path)
        self._packets: Iterator[Any] = iter(())
        self._waiting: Any = None
        self._encoder: Any = None
        if not self._input.streams.audio:
            return
        stream = self._input.streams.audio[0]
        if stream.codec_context.codec.canonical_name in COPIED:  # the decoder itself may be called mp3float
            self._stream = output.add_stream_from_template(stream)
        else:
            layout = "mono" if stream.codec_context.channels == 1 else "stereo"
            self._stream = output.add_stream("aac", rate=min(stream.codec_context.sample_rate, 48000), layout=layout)
            self._encoder = av.AudioResampler(format="fltp", layout=layout, rate=self._stream.rate)
        self._packets = self._read(stream)
        self._waiting = next(self._packets, None)

    def until(self, seconds: float) -> None:
        """Write the sound up to this second of the picture."""
        while self._waiting is not None and self._time(self._waiting) < seconds:
            self._write(self._waiting)
            self._waiting = next(self._packets, None)

    def finish(self) -> None:
        """Flush the encoder, after the last call of `until`."""
        if self._encoder is not None:
            for frame in self._encoder.resample(None):
                self._output.mux(self._stream.encode(frame))
            self._output.mux(self._stream.encode(None))

    def close(self) -> None:
        """Close the file that the sound is read from."""
        self._input.close()

    def _read(self, stream: Any) -> Iterator[Any]:
        """Packets to copy, or frames to encode, from the start of the picture on."""
        try:
            for item in self._input.decode(stream) if self._encoder else self._input.demux(stream):
                if item.pts is not None and self._time(item) > -PRIMING:
                    yield item
        except av.FFmpegError as error:
            _logger.warning("the sound ends early: %s", error)

    def _time(self, item: Any) -> float:
        return float(item.pts * item.time_base) - self._start

    def _write(self, item: Any) -> None:
        shift = round(self._start / item.time_base)
        item.pts -= shift
        if self._encoder is None:
            item.dts = item.pts
            item.stream = self._stream
            self._output.mux(item)
            return
        for frame in self._encoder.resample(item):
            self._output.mux(self._stream.encode(frame))
