"""Files that once went wrong, where they lie beside the checkout; small ones like them are made in other tests."""

import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from talkinghead.data.reader import UnusableClip
from talkinghead.evaluation.stills import read_square
from talkinghead.faces.crop import Framing
from talkinghead.faces.detectors import Dlib
from talkinghead.images import UnreadableImage, read_image
from talkinghead.preparation.clip import Settings, prepare_clip
from talkinghead.preparation.frames import read_stills
from talkinghead.preparation.sources import Unit
from talkinghead.reenactment.animation import Look, animate
from talkinghead.reenactment.driver import Driver, follow_driver
from talkinghead.reenactment.inputs import SHIPPED
from talkinghead.reenactment.source import read_source
from talkinghead.video.reader import Video
from tests.video.test_writer import echo, times

CASES = Path(__file__).parents[2] / "shared" / "cases"
ANNA = SHIPPED.parent / "portraits" / "anna.jpg"
pytestmark = [pytest.mark.shared, pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not here")]


@pytest.fixture(scope="module")
def detector() -> Dlib:
    pytest.importorskip("dlib")
    return Dlib()


def drive(name: str, detector: Dlib) -> Driver:
    return follow_driver(CASES / name, detector, Framing(1.8))


def test_one_duplicate_timestamp(detector: Dlib, tmp_path: Path) -> None:
    driver = drive("05_one_duplicate_timestamp.webm", detector)
    points = driver.points_of(64)
    animate(echo, driver, points, None, tmp_path / "out.mp4", Look(size=64, sheet=0), 64)
    shown = times(tmp_path / "out.mp4")
    assert shown[-1] == pytest.approx(3.48, abs=0.002)
    around = [time for time in shown if 1.1 < time < 1.22]
    assert around == pytest.approx([1.12, 1.16, 1.2], abs=0.002), "1.12 was there twice"


def test_half_a_picture() -> None:
    with pytest.raises(UnreadableImage, match="half downloaded"):
        read_image(CASES / "06_half_downloaded.jpg")
    assert read_stills([CASES / "06_half_downloaded.jpg", ANNA]).numbers == [1]


def test_transparent_picture() -> None:
    image = read_image(CASES / "07_transparent.png")
    alpha = cv2.imread(str(CASES / "07_transparent.png"), cv2.IMREAD_UNCHANGED)[..., 3]
    assert (image[alpha == 0] == 128).all()
    assert (alpha == 0).any()


def test_hdr() -> None:
    with Video(CASES / "08_hdr_pq.mov") as video:
        image = next(video.read([0]))[1]
    assert np.abs(image.astype(int) - cv2.resize(read_image(ANNA), (512, 512))).mean() < 6, "it was 20"


def test_pixels_that_are_not_square(detector: Dlib) -> None:
    assert next(drive("09_nonsquare_pixels.mp4", detector).images()).shape == (256, 256, 3)


@pytest.mark.parametrize(("name", "frames"), [("10_sorenson.flv", 100), ("10_raw.h264", 25)])
def test_files_that_cannot_be_sought_in(detector: Dlib, name: str, frames: int) -> None:
    driver = drive(name, detector)
    assert len(driver.points) == frames
    assert driver.seen.all()


def test_a_small_face_in_full_hd(detector: Dlib) -> None:
    assert drive("11_full_hd_face_150px.mp4", detector).seen.all()
    (portrait, *_) = read_source([CASES / "11_full_hd_face_150px.mp4"], detector, Framing(1.8), shots=1)
    assert 100 < portrait.crop.side < 400
    unit = Unit("train", "a", "a", "a", (str(CASES / "11_full_hd_face_150px.mp4"),))
    assert len(prepare_clip(unit, "a", 0, detector, Settings(image_size=64)).clips) == 1


def test_one_bad_picture_among_stills(tmp_path: Path) -> None:
    with tarfile.open(CASES / "13_stills_one_bad.tgz") as tar:
        tar.extractall(tmp_path, filter="data")
    bad = []
    for path in sorted(tmp_path.rglob("*.jpg")):
        try:
            read_square(path)
        except UnusableClip:
            bad.append(path.name)
    assert len(bad) == 1


def test_a_gigapixel() -> None:
    with pytest.raises(UnreadableImage, match="1089 million pixels, 120 million are the most"):
        read_image(CASES / "16_1_gigapixel.png")
