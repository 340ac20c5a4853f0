"""Small faces in large pictures: found in parts, where a detector shrinks the whole until it sees none."""

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from talkinghead.faces.crop import Framing
from talkinghead.faces.detectors import shrink
from talkinghead.faces.tiled_detection import PARTS, TiledDetector, closer, starts, tiles
from talkinghead.preparation.clip import prepare_clip
from talkinghead.preparation.sources import Unit
from talkinghead.reenactment.driver import follow_driver
from talkinghead.reenactment.source import read_source
from tests.helpers.preparation_videos import GreenFace, green_frame, write_video
from tests.preparation.test_clip import SETTINGS
from tests.video.test_writer import driver_of


class Shrinking(GreenFace):
    """Searches pictures of at most 256 px, and sees no square below 24 px there. It counts the pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.searched = 0

    def boxes(self, image: np.ndarray) -> np.ndarray:
        self.searched += 1
        small, factor = shrink(image, 256)
        found = super().boxes(small)
        return found[found[:, 2] - found[:, 0] >= 24] * factor


def wide(x: int, y: int, side: int = 60) -> np.ndarray:
    return green_frame(540, 960, x, y, side)


@pytest.mark.parametrize(("x", "y"), [(5, 5), (450, 240), (290, 100), (895, 475), (320, 320), (640, 200)])
def test_a_small_face_is_found_wherever_it_is(x: int, y: int) -> None:
    detector = Shrinking()
    image = wide(x, y)
    assert not len(detector.boxes(image))
    tiled = TiledDetector(detector)
    (box,) = tiled.boxes(image)
    np.testing.assert_allclose(box, (x, y, x + 60, y + 60), atol=3)
    points = tiled.landmarks(image, box)
    np.testing.assert_allclose(points, detector.landmarks(image, box), atol=1e-6)


def test_it_is_searched_where_it_was(tmp_path: Path) -> None:
    detector = Shrinking()
    tiled = TiledDetector(detector)
    tiled.boxes(wide(400, 200))
    first = detector.searched
    for n in range(5):
        assert abs(tiled.boxes(wide(400 + 8 * n, 200))[0, 0] - (400 + 8 * n)) <= 2
    assert detector.searched == first + 5
    assert abs(tiled.boxes(wide(40, 400))[0, 0] - 40) <= 2, "and everywhere again when it has gone"
    assert not len(tiled.boxes(wide(0, 0, 0)))


def test_two_tiles_see_one_face() -> None:
    boxes = TiledDetector(Shrinking()).boxes(wide(300, 150, 80))
    assert len(boxes) == 1


@pytest.mark.parametrize(("width", "height"), [(1920, 1080), (1080, 1920), (3840, 2160), (1000, 1000), (700, 320)])
def test_tiles_cover_the_picture_and_overlap_by_a_face(width: int, height: int) -> None:
    side = max(320, -(-max(width, height) // PARTS))
    for length in (width, height):
        first = starts(length, side)
        assert first[0] == 0
        assert first[-1] + side >= length
        assert all(b - a <= 0.7 * side + 1 for a, b in pairwise(first))
    assert 1 < len(tiles(width, height)) <= 16
    assert tiles(320, 240) == []


def test_videos_with_small_faces_drive_and_are_prepared(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", [wide(300 + 2 * n, 200) for n in range(12)])
    driver = follow_driver(tmp_path / "v.mp4", Shrinking(), Framing())
    np.testing.assert_allclose(np.diff(driver.points[:, :, 0].mean(1)), 2, atol=1)
    unit = Unit("train", "a", "a", "a", (str(tmp_path / "v.mp4"),))
    (clip,) = prepare_clip(unit, "a", 0, Shrinking(), SETTINGS).clips
    assert len(clip.frames) == 10


def test_pictures_with_small_faces(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), wide(700, 60)[..., ::-1])
    (portrait,) = read_source([tmp_path / "a.png"], Shrinking(), Framing())
    np.testing.assert_allclose(portrait.points.mean(0), (729, 92), atol=4)


def test_a_video_whose_faces_are_seen_costs_nothing_more() -> None:
    detector = Shrinking()
    frames = [wide(300, 100, 300)] * 20
    near = closer(lambda numbers: [(n, frames[n]) for n in numbers], 20, detector)
    assert near is detector
    assert detector.searched == 1
    nothing = [wide(0, 0, 0)] * 20
    assert closer(lambda numbers: [(n, nothing[n]) for n in numbers], 20, detector) is detector


def test_no_face_is_told_with_remedies(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", [wide(0, 0, 0)] * 3)
    with pytest.raises(ValueError, match=r"v\.mp4: no face found: .*detector=face_alignment"):
        driver_of(tmp_path / "v.mp4")
