"""Tiny videos of a green square, and a detector that takes green squares for faces."""

import time
from pathlib import Path

import av
import numpy as np

from talkinghead.faces.crop import BOX_RAISE, BOX_SIDE
from talkinghead.preparation.clip import Settings
from talkinghead.preparation.runner import Runner
from talkinghead.preparation.sources import Folder
from talkinghead.preparation.workers import Cluster

GREEN = (20, 220, 20)


def template() -> np.ndarray:
    """68 points whose larger extent is 1 and which lie in the box (0, 0, BOX_SIDE, BOX_SIDE) as `face_box` has it."""
    circle = np.linspace(0, 2 * np.pi, 69)[:68]
    shape = np.stack([np.cos(circle), np.sin(circle)], -1) / 2
    return shape - (shape.min(0) + shape.max(0)) / 2 + BOX_SIDE / 2 + np.array([0, BOX_RAISE])


class GreenFace:
    """A `Detector` of green squares. With `tally` it writes a byte there per face, and hangs after `limit` of them."""

    name = "green"
    version = "1"

    def __init__(self, tally: Path | None = None, limit: int = 0) -> None:
        self.tally = tally
        self.limit = limit

    def check(self) -> None:
        pass

    def boxes(self, image: np.ndarray) -> np.ndarray:
        green = (image[..., 1] > 150) & (image[..., 0] < 110) & (image[..., 2] < 110)
        if green.sum() < 9:
            return np.zeros((0, 4))
        rows, columns = np.flatnonzero(green.any(1)), np.flatnonzero(green.any(0))
        return np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], float)

    def landmarks(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        if self.tally is not None:
            with self.tally.open("ab") as file:
                file.write(b".")
            while self.tally.stat().st_size >= self.limit:
                time.sleep(0.01)
        return box[:2] - 0.5 + template() * (box[2] - box[0]) / BOX_SIDE


def green_frame(height: int, width: int, x: int, y: int, side: int) -> np.ndarray:
    """A dark picture with a green square; `side` 0: none."""
    image = np.full((height, width, 3), 40, np.uint8)
    image[y : y + side, x : x + side] = GREEN
    return image


def write_video(path: Path, frames: list[np.ndarray], fps: int = 25, gop: int = 12, **options: str) -> None:
    """Encode RGB frames as H.264."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "12", "preset": "ultrafast", **options})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = gop
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_clip(path: Path, num_frames: int = 12, side: int = 40, height: int = 96, width: int = 128) -> None:
    """A video in which the square moves to the right, one pixel a frame."""
    write_video(path, [green_frame(height, width, 20 + n, 30, side) for n in range(num_frames)])


def make_runner(
    root: Path | str, output: Path | str, workers: int = 0, detector: GreenFace | None = None,
    cluster: Cluster | None = None, work_dir: Path = Path("outputs/prepare"), **options: object,
) -> Runner:  # fmt: skip
    """A preparation of the folder `root` in shards of four clips."""
    settings = Settings(image_size=64, frames_per_clip=10, min_face=20, **options)  # type: ignore[arg-type]
    source = Folder(str(root), {"train": "."})
    return Runner(
        source, detector or GreenFace(), settings, str(output), workers, 4, "test", cluster, work_dir=str(work_dir)
    )


if __name__ == "__main__":  # run by the test that kills it: ROOT OUTPUT TALLY LIMIT
    import sys

    hanging = GreenFace(Path(sys.argv[3]), int(sys.argv[4]))
    make_runner(Path(sys.argv[1]), Path(sys.argv[2]), workers=2, detector=hanging).run()
