"""A driver who walks: the crop goes along, and the face that is driven stays in its picture."""

from pathlib import Path

import numpy as np
import pytest

from talkinghead.faces.crop import Framing, cut
from talkinghead.reenactment.driver import follow_driver
from talkinghead.reenactment.moving_crop import averaged, bounded
from tests.helpers.preparation_videos import GreenFace, green_frame, template, write_video


def test_the_crop_follows_a_walk_through_the_picture(tmp_path: Path) -> None:
    frames = [green_frame(96, 400, 10 + 4 * n, 30, 40) for n in range(80)]
    write_video(tmp_path / "walk.mp4", frames)
    driver = follow_driver(tmp_path / "walk.mp4", GreenFace(), Framing())
    points = driver.points_of(64)
    assert points.min() > 0
    assert points.max() < 63, "the face is in all pictures"
    assert np.ptp(points.mean(1)[5:-5, 0]) < 4, "and stays about where it is"
    for n in (0, 40, 79):
        picture = cut(frames[n], driver.crop_of(n), 64)
        where = np.argwhere(picture[..., 1] > 150).mean(0)
        np.testing.assert_allclose(where[1], (points[n].min(0) + points[n].max(0))[0] / 2, atol=1.5)
    assert driver.outside == 0


def test_a_face_that_stays_keeps_one_crop_and_one_that_leaves_is_counted(tmp_path: Path) -> None:
    write_video(tmp_path / "still.mp4", [green_frame(96, 160, 50 + n % 6, 30, 40) for n in range(12)])
    assert follow_driver(tmp_path / "still.mp4", GreenFace(), Framing()).way is None

    class Wide(GreenFace):
        """Knows where the face is beyond the picture."""

        def boxes(self, image: np.ndarray) -> np.ndarray:
            return super().boxes(image) - np.array([20, 0, 0, 0]) * (super().boxes(image)[:, :1] == 0)

    out = [green_frame(96, 160, max(0, 30 - 5 * n), 30, 40 - max(0, 5 * (n - 6))) for n in range(10)]
    write_video(tmp_path / "out.mp4", out)
    assert follow_driver(tmp_path / "out.mp4", Wide(), Framing(), every=1).outside > 0


@pytest.mark.parametrize("size", [64, 256])
def test_bounded_faces_are_inside_and_what_was_inside_stays(size: int) -> None:
    face = (template() - template().mean(0)) * size / 2 + size / 2
    shifts = np.linspace(-2, 2, 201)[:, None, None] * np.array([size, size / 3])
    result = bounded(face + shifts, size)
    assert result.min() >= 0
    assert result.max() <= size - 1
    np.testing.assert_allclose(result[95:106], (face + shifts)[95:106], atol=1e-3)
    steps = np.diff(result.mean(1)[:, 0])
    assert (steps >= -1e-9).all(), "it never turns back"
    assert steps.max() <= np.diff(shifts[:, 0, 0]).max() + 1e-9, "nor jumps"
    huge = bounded(face[None] * 3, size)
    assert np.ptp(huge, axis=1).max() <= size


def test_averages_keep_a_trend() -> None:
    line = np.arange(30.0)[:, None] * [1.0, -2.0]
    np.testing.assert_allclose(averaged(line, 6.0), line, atol=1e-9)
    assert np.abs(averaged(np.tile([1.0, -1.0], 30), 4.0)[15:-15]).max() < 0.1
