"""Frames of a video file by number: only requested frames are converted, and long gaps are skipped by seeking."""

import errno
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from jaxtyping import UInt8

from talkinghead.video.colours import ToRGB
from talkinghead.video.container import MAX_PIXELS, find_video, open_media
from talkinghead.video.timeline import Stamp, Timeline, make_index

Image = UInt8[np.ndarray, "_ _ 3"]  # frames of a list may differ in size


class Video:
    """An open video file, decoded on one thread. Frames are numbered from 0 in the order they are shown.

    Errors of the file are av.FFmpegError, OSError or ValueError; `reason` describes them in one line.

    Attributes:
        announced: frames that the file says it has
        missing: how many of them are not in it, as where it was half downloaded
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._can_seek = True  # false for raw streams, and FLV without an index
        self._open()
        try:
            packets = [p for p in self._container.demux(self._stream) if p.size]
            self.announced = max(self._stream.frames, len(packets))  # where the file has been cut, more than are there
            self.missing = self.announced - len(packets)
            stamps = [Stamp(p.pts, bool(p.is_keyframe)) for p in packets if not p.is_discard]
            self._index = make_index(stamps, self._stream.time_base, self._stream.average_rate)
            self._starts = [number for number, _ in self._index.starts]
            self._first = min([0, *(stamp.pts for stamp in stamps if stamp.pts is not None)])
            context = self._stream.codec_context
            shape = float(self._stream.sample_aspect_ratio or 1)
            self._to_rgb = ToRGB(context.width, context.height, shape)
        except BaseException:
            self._container.close()
            raise

    def _open(self) -> None:
        self._container = open_media(self.path)
        try:
            self._stream = find_video(self._container, self.path)
            self._stream.thread_count = 1
            self._stream.thread_type = "NONE"
            self._stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> "Video":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    @property
    def fps(self) -> float:
        """Mean frames per second; 25 where the file does not say."""
        return float(self._index.timeline.rate)

    @property
    def num_frames(self) -> int:
        """Number of frames, counted from the packets, not estimated."""
        return len(self._index.timeline.pts)

    @property
    def timeline(self) -> Timeline:
        """Presentation times of all frames."""
        return self._index.timeline

    def read(self, numbers: Sequence[int]) -> Iterator[tuple[int, Image]]:
        """The frames with these numbers (ascending), as RGB. A frame that the file does not yield is left out."""
        decoded, wanted = self._decode(0), iter(numbers)
        position, target, sought = -1, next(wanted, None), False
        while target is not None:
            start = self._starts[bisect_right(self._starts, target) - 1]
            if self._can_seek and start > position + 1:
                decoded, sought = self._decode(start), True
            found = next(((n, frame) for n, frame in decoded if n >= target), None)
            if sought and (found is None or found[0] > target):  # seeking went too far, as in files without an index
                self._can_seek, sought, decoded = False, False, self._decode(0)
                continue
            if found is None:
                return
            (position, frame), sought = found, False
            while target is not None and target < position:  # missing frames
                target = next(wanted, None)
            if target == position:
                target = next(wanted, None)
                if not (frame.is_corrupt and position == self.num_frames - 1):  # cut-off last frame
                    yield position, self._to_rgb(frame)

    def _decode(self, start: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decoded frames with their numbers, from one of the keyframes in the index."""
        start = self._go_to(start)
        passed: Counter[int | None] = Counter()  # frames seen, by time stamp
        for count, frame in enumerate(self._container.decode(self._stream)):
            if not self._index.numbers:
                yield count, frame
                continue
            numbers = [n for n in self._index.numbers.get(frame.pts, []) if n >= start]
            if passed[frame.pts] < len(numbers):
                yield numbers[passed[frame.pts]], frame
            passed[frame.pts] += 1

    def _go_to(self, start: int) -> int:
        """Seek to a keyframe, or to the beginning in files without seeking; returns where decoding starts."""
        if self._can_seek and self._index.numbers:
            stamp = self._index.starts[bisect_right(self._starts, start) - 1][1]
            try:
                self._container.seek(self._first if stamp is None else stamp, stream=self._stream, backward=True)
                return start
            except av.FFmpegError:  # FLV without an index
                self._can_seek = False
        self._container.close()
        self._open()
        return 0


def reason(error: Exception, wanted: str = "a video") -> str:
    """One line that describes an error of a file; `wanted`: what it should have been."""
    if isinstance(error, ValueError) and not isinstance(error, av.FFmpegError):
        return str(error)
    if isinstance(error, OSError) and error.errno == errno.EACCES:
        return "the file may not be read (permission denied)"
    more = ": is it damaged, or half downloaded?" if isinstance(error, av.InvalidDataError) else ""
    return f"cannot be read as {wanted} ({getattr(error, 'strerror', None) or error}){more}"


def spread(total: int, count: int) -> list[int]:
    """At most `count` evenly spaced numbers of range(total), including the first and the last.

    >>> spread(100, 4)
    [0, 33, 66, 99]
    """
    return [int(n) for n in np.unique(np.linspace(0, total - 1, min(count, total)).round())] if total else []


def segments(first: int, stop: int, count: int, step: float | None) -> list[list[int]]:
    """Divide the frames of range(first, stop) into samples: one sample of `count` evenly spaced frames or, with a
    `step` between frames, consecutive samples of up to `count` frames."""
    if step is None:
        return [[first + n for n in spread(stop - first, count)]]
    steps = int((stop - first - 1) / max(step, 1.0)) + 1 if stop > first else 0
    numbers = [first + round(n * max(step, 1.0)) for n in range(steps)]
    numbers = [n for n in numbers if n < stop]
    return [numbers[n : n + count] for n in range(0, len(numbers), count)]
