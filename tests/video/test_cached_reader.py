"""A driver's frames are decoded once while memory lasts, and are the same frames whatever it is."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from talkinghead.faces.crop import Framing
from talkinghead.reenactment.driver import follow_driver
from talkinghead.video.cached_reader import CachedVideo
from talkinghead.video.reader import Video
from tests.helpers.preparation_videos import GreenFace, write_clip

FRAMES = 12


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    write_clip(path, FRAMES)
    return path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that a video opens, one entry each time."""
    files: list[Path] = []

    def open_video(path: Path) -> Video:
        files.append(path)
        return Video(path)

    monkeypatch.setattr("talkinghead.video.cached_reader.Video", open_video)
    return files


def images(path: Path) -> list[np.ndarray]:
    with Video(path) as video:
        return [image for _, image in video.read(range(FRAMES))]


@pytest.mark.parametrize("kept", [0, 1, 5, FRAMES, 100])
def test_any_memory_gives_the_same_frames(clip: Path, kept: int) -> None:
    expected = images(clip)
    video = CachedVideo(clip, FRAMES, memory=kept * expected[0].nbytes)
    for numbers in (range(0, FRAMES, 5), range(FRAMES), [4, 5, 11], []):
        found = list(video.read(numbers))
        assert [n for n, _ in found] == list(numbers)
        assert all(np.array_equal(image, expected[n]) for n, image in found)


def test_what_fits_is_decoded_once(clip: Path, opened: list[Path]) -> None:
    video = CachedVideo(clip, FRAMES)
    for _ in range(3):
        assert len(list(video.read(range(FRAMES)))) == FRAMES
    assert opened == [clip]


def test_no_more_is_kept_than_allowed(clip: Path, opened: list[Path]) -> None:
    size = images(clip)[0].nbytes
    video = CachedVideo(clip, FRAMES, memory=5 * size + size // 2)
    first, again = (dict(video.read(range(FRAMES))) for _ in range(2))
    assert [first[n] is again[n] for n in range(FRAMES)] == [True] * 5 + [False] * 7
    assert len(opened) == 3, "once to keep, and once each time for what is not kept"


def test_kept_frames_cannot_be_painted_over(clip: Path) -> None:
    _, image = next(CachedVideo(clip, FRAMES).read([0]))
    with pytest.raises(ValueError, match="read-only"):
        image[0, 0] = 0


def test_a_driver_is_followed_the_same_with_little_memory(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plenty = follow_driver(clip, GreenFace(), Framing())
    monkeypatch.setattr("talkinghead.reenactment.driver.CachedVideo", partial(CachedVideo, memory=0))
    little = follow_driver(clip, GreenFace(), Framing())
    assert np.array_equal(plenty.points, little.points)
    assert plenty.crop == little.crop
    assert all(np.array_equal(*pair) for pair in zip(plenty.images(), little.images(), strict=True))
