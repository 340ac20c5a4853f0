"""Frames of a video file by their numbers: only what is asked for is converted, and long gaps are sought over."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from jaxtyping import UInt8

Image = UInt8[np.ndarray, "_ _ 3"]  # frames of a list may differ in size


class Video:
    """An open video file; decodes on one thread. Frames are numbered from 0 in the order they are shown.

    Errors of the file are `av.FFmpegError` or OSError.
    """

    def __init__(self, path: Path) -> None:
        self._container = av.open(str(path))
        try:
            if not self._container.streams.video:
                raise av.InvalidDataError(0, "no video stream", str(path))
            self._stream = self._container.streams.video[0]
            self._stream.thread_count = 1
            self._stream.thread_type = "NONE"
            self._index()
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
        """Frames per second, 25 where the file does not say."""
        return float(self._stream.average_rate or Fraction(25))

    @property
    def num_frames(self) -> int:
        """Frames of the file, counted, not estimated."""
        return len(self._times)

    def _index(self) -> None:
        """One pass over the packets, none of them decoded: when each frame is shown and where decoding can start."""
        packets = [p for p in self._container.demux(self._stream) if p.size and not p.is_discard]
        times = [p.pts for p in packets]
        self._timed = all(t is not None for t in times) and len(set(times)) == len(times)
        self._times = sorted(t for t in times if t is not None) if self._timed else list(range(len(times)))
        keys = {p.pts for p in packets if p.is_keyframe} if self._timed else {0}
        self._starts = [n for n, t in enumerate(self._times) if t in keys] or [0]

    def read(self, numbers: Sequence[int]) -> Iterator[tuple[int, Image]]:
        """The frames with these numbers (ascending), as RGB. A frame that the file does not yield is left out."""
        self._seek(0)
        decoded, wanted = self._decode(0), iter(numbers)
        position, target = -1, next(wanted, None)
        while target is not None:
            start = self._starts[max(0, bisect_right(self._starts, target) - 1)]
            if self._timed and start > position + 1:
                self._seek(start)
                decoded = self._decode(start)
            found = next(((n, frame) for n, frame in decoded if n >= target), None)
            if found is None:
                return
            position, frame = found
            while target is not None and target < position:  # frames that the file does not yield
                target = next(wanted, None)
            if target == position:
                yield position, _upright(frame)
                target = next(wanted, None)

    def _seek(self, number: int) -> None:
        time = self._times[number] if self._timed and number else 0
        first = self._times[0] if self._timed and self._times else 0
        self._container.seek(max(time, first) if number else min(0, first), stream=self._stream, backward=True)

    def _decode(self, number: int) -> Iterator[tuple[int, av.VideoFrame]]:
        numbers = {time: n for n, time in enumerate(self._times)} if self._timed else {}
        for frame in self._container.decode(self._stream):
            if not self._timed:
                yield number, frame
                number += 1
            elif frame.pts in numbers:
                yield numbers[frame.pts], frame


def _upright(frame: av.VideoFrame) -> Image:
    """RGB, turned as a player shows it (telephones store a rotation)."""
    image = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def spread(total: int, count: int) -> list[int]:
    """At most `count` numbers out of range(total), evenly spread, the first and the last included."""
    return [int(n) for n in np.unique(np.linspace(0, total - 1, min(count, total)).round())] if total else []


def segments(first: int, stop: int, count: int, step: float | None) -> list[list[int]]:
    """Which frames of range(first, stop) make a sample: one sample of `count` evenly spread frames, or, with a `step`
    between frames, one sample after the other of up to `count` frames."""
    if step is None:
        return [[first + n for n in spread(stop - first, count)]]
    steps = int((stop - first - 1) / max(step, 1.0)) + 1 if stop > first else 0
    numbers = [first + round(n * max(step, 1.0)) for n in range(steps)]
    numbers = [n for n in numbers if n < stop]
    return [numbers[n : n + count] for n in range(0, len(numbers), count)]
