"""A video that is read several times: as far as memory allows, frames are decoded once."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from talkinghead.video.reader import Video

Image = UInt8[np.ndarray, "_ _ 3"]
MEMORY = 256 << 20  # bytes: 54 s of 256 px at 25 frames a second, 43 frames of full HD


class CachedVideo:
    """The first `num_frames` frames of a video file, numbered as `Video` numbers them.

    Args:
        memory: bytes of decoded frames to keep, from the first frame on; later ones are decoded at each read

    Frames are shared: treat them as read-only.
    """

    def __init__(self, path: Path, num_frames: int, memory: int = MEMORY) -> None:
        self.path, self.num_frames = path, num_frames
        self._left = memory
        self._kept: dict[int, Image] = {}
        self._end = 0  # number of kept frames

    def __len__(self) -> int:
        return self.num_frames

    def read(self, numbers: Sequence[int]) -> Iterator[tuple[int, Image]]:
        """The frames with these numbers (ascending), as RGB. A frame that the file does not yield is left out."""
        if self._left > 0 and self._end < self.num_frames:
            self._keep()
        yield from ((n, self._kept[n]) for n in numbers if n in self._kept)
        if beyond := [n for n in numbers if n >= self._end]:
            with Video(self.path) as video:
                yield from video.read(beyond)

    def _keep(self) -> None:
        """Decode until the memory is used up or all frames are kept."""
        with Video(self.path) as video:
            for n, image in video.read(range(self._end, self.num_frames)):
                self._left -= image.nbytes
                if self._left < 0:
                    self._end = n
                    return
                image.flags.writeable = False
                self._kept[n] = image
        self._end = self.num_frames
