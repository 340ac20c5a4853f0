"""The driving video: landmarks, time and crop of every frame."""

import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from talkinghead.faces.crop import Crop, Framing, clip_crop, face_box, to_crop
from talkinghead.faces.detectors import Detector
from talkinghead.faces.face_track import UpscalingDetector, track_face
from talkinghead.faces.tiled_detection import closer
from talkinghead.images import rescale_points
from talkinghead.reenactment.moving_crop import stays, walk
from talkinghead.storage import check_file
from talkinghead.video.cached_reader import CachedVideo
from talkinghead.video.reader import Video, reason
from talkinghead.video.timeline import Timeline
from talkinghead.video.writer import VideoWriter

Image = UInt8[np.ndarray, "_ _ 3"]
MAX_LOST = 1.0  # seconds for which a face may be lost and come back elsewhere


class Driver(NamedTuple):
    """A driving video with one tracked face."""

    video: CachedVideo
    timeline: Timeline
    points: Float[np.ndarray, "F 68 2"]  # pixels of the frames
    seen: Bool[np.ndarray, " F"]  # False: interpolated
    crop: Crop
    way: Float[np.ndarray, "F 3"] | None = None  # x, y, side of each frame's crop, if the face leaves `crop`
    outside: int = 0  # frames in which the face is partly beyond the picture
    missing: int = 0  # frames that the file announces and does not have

    def points_of(self, size: int) -> Float[np.ndarray, "F 68 2"]:
        """The landmarks in pixels of the crops, resized to `size`."""
        if self.way is None:
            return to_crop(self.points, self.crop, size)
        return rescale_points(self.points - self.way[:, None, :2], size / self.way[:, None, 2:])

    def crop_of(self, frame: int) -> Crop:
        """The crop of a frame: fixed, or following the face."""
        return self.crop if self.way is None else Crop(*np.round(self.way[frame]).astype(int).tolist())

    def images(self) -> Iterator[Image]:
        """All frames in order; one that cannot be decoded is replaced by the one before it."""
        shown, last = 0, None
        for n, image in self.video.read(range(len(self.points))):
            yield from [image if last is None else last] * (n - shown)
            yield image
            shown, last = n + 1, image
        if last is not None:
            yield from [last] * (len(self.points) - shown)


def follow_driver(
    path: Path, detector: Detector, framing: Framing, *, face: int = 1, every: int = 5, min_face: int = 32,
    max_frames: int | None = None, start: Callable[[int], Callable[[], None]] = lambda total: lambda: None,
) -> Driver:  # fmt: skip
    """Find and track the face of a driving video.

    Args:
        face: 1 is the face that is large for longest, 2 the next, …
        every: faces are detected in every n-th frame
        start: called with the number of frames; returns a function that is called after each

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: that names the file, where it is not a video or shows no such face.
    """
    check_file("driving", path)
    try:
        with Video(path) as video:
            num_frames, fps = min(video.num_frames, max_frames or video.num_frames), video.fps
            timeline = video.timeline._replace(pts=video.timeline.pts[:num_frames])
            missing = video.missing if num_frames == video.num_frames else 0
        if num_frames == 0:
            raise ValueError("the video has no frames")
        cached, tick = CachedVideo(path, num_frames), start(num_frames)
        gap = max(3, round(MAX_LOST * fps / every))
        detector = closer(cached.read, num_frames, UpscalingDetector(detector))
        points, seen = track_face(cached.read, num_frames, detector, face=face, every=every, max_gap=gap, tick=tick)
        height, width = next(cached.read([int(np.argmax(seen))]))[1].shape[:2]
    except (av.FFmpegError, OSError, ValueError) as error:
        raise ValueError(f"{path}: {reason(error)}") from error
    sides = face_box(points)
    side = float(np.median(sides[:, 2] - sides[:, 0]))
    if side < min_face:
        raise ValueError(f"{path}: the face is {side:.0f} pixels wide, at least {min_face} are needed (min_face)")
    crop = clip_crop(points, width, height, framing)
    way = None if stays(points, crop) else walk(points, width, height, framing, fps)
    outside = ((points < -0.5) | (points > np.array([width, height]) - 0.5)).any(-1).mean(1) > 0.1
    return Driver(cached, timeline, points, seen, crop, way, int(outside.sum()), missing)


def record(camera: int, seconds: float, path: Path, tell: Callable[[str], None] = print) -> None:
    """Record a camera into a video file. Raises ValueError when it gives no picture."""
    loudness = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # it prints a lot where there is no camera
    capture = cv2.VideoCapture(camera)
    try:
        good, image = capture.read()
        if not good:
            raise ValueError(f"driving={camera}: the camera gives no picture; is it connected, and free?")
        tell(f"recording {seconds:g} s, look into the camera")
        height, width = (side // 2 * 2 for side in image.shape[:2])
        start = time.monotonic()
        with VideoWriter(path, width, height, Fraction(30), Fraction(1, 1000)) as writer:
            last = -1
            while good and (now := round((time.monotonic() - start) * 1000)) < seconds * 1000:
                if now > last:
                    writer.write(np.ascontiguousarray(image[:height, :width, ::-1]), now)
                    last = now
                good, image = capture.read()
    finally:
        capture.release()
        cv2.utils.logging.setLogLevel(loudness)
