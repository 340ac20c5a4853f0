"""Faces found and followed, and the face put back into its picture."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from talkinghead.faces.crop import Crop, Framing, face_box
from talkinghead.faces.face_track import UpscalingDetector, find_face, track_face
from talkinghead.reenactment.paste_back import Paste
from talkinghead.reenactment.side_by_side import Column, even, side_by_side, write_sheet
from talkinghead.reenactment.source import read_source, shots_of
from tests.helpers.preparation_videos import GREEN, GreenFace, green_frame, write_clip


class GreenFaces(GreenFace):
    """Sees every green square of a picture, in no order of size."""

    def boxes(self, image: np.ndarray) -> np.ndarray:
        green = (image[..., 1] > 150) & (image[..., 0] < 110) & (image[..., 2] < 110)
        _, _, stats, _ = cv2.connectedComponentsWithStats(green.astype(np.uint8))
        return np.array([(x, y, x + w, y + h) for x, y, w, h, area in stats[1:] if area > 8], float).reshape(-1, 4)


def test_the_largest_face_is_taken_and_face_chooses_others() -> None:
    image = green_frame(200, 300, 20, 40, 50)
    image[30:120, 150:240] = GREEN
    for number, (x, side) in enumerate([(150, 90), (20, 50)], start=1):
        box = face_box(find_face(image, GreenFaces(), number))
        np.testing.assert_allclose([box[0], box[2] - box[0]], [x - 0.5, side], atol=1)
    with pytest.raises(ValueError, match="2 faces found, face=3"):
        find_face(image, GreenFaces(), 3)
    with pytest.raises(ValueError, match="no face found in 300 x 200 pixels"):
        find_face(green_frame(200, 300, 0, 0, 0), GreenFaces())


def test_small_pictures_are_looked_at_enlarged_and_answered_in_their_own_pixels() -> None:
    image, detector = green_frame(48, 64, 20, 10, 24), GreenFace()
    glass = UpscalingDetector(detector, 256)
    assert detector.boxes(np.repeat(np.repeat(image, 4, 0), 4, 1))[0][2] == 4 * 44
    np.testing.assert_allclose(glass.boxes(image), detector.boxes(image), atol=0.6)
    box = detector.boxes(image)[0]
    np.testing.assert_allclose(glass.landmarks(image, box), detector.landmarks(image, box), atol=1e-9)


def reader(frames: list[np.ndarray]):
    return lambda numbers: ((n, frames[n]) for n in numbers)


def test_frames_without_a_face_are_interpolated() -> None:
    frames = [green_frame(96, 160, 10 + 4 * n, 30, 40 if n not in (0, 3, 4, 8) else 0) for n in range(9)]
    found = track_face(reader(frames), 9, GreenFace())
    left = found.points[:, :, 0].min(1)
    np.testing.assert_allclose(np.diff(left), [0, 4, 4, 4, 4, 4, 4, 0], atol=0.1)
    sparse = track_face(reader(frames), 9, GreenFace(), every=2, max_gap=3)
    np.testing.assert_allclose(sparse.points[2:7], found.points[2:7], atol=0.5)
    with pytest.raises(ValueError, match="no face found"):
        track_face(reader([frames[0]] * 3), 3, GreenFace())


def test_the_second_face_of_a_video_can_be_followed() -> None:
    frames = [green_frame(120, 200, 10, 20 + n, 60) for n in range(5)]
    for n, frame in enumerate(frames):
        frame[40:80, 100 + n : 140 + n] = GREEN
    assert track_face(reader(frames), 5, GreenFaces()).points[0, :, 0].max() < 80
    second = track_face(reader(frames), 5, GreenFaces(), face=2).points
    np.testing.assert_allclose(np.diff(second[:, 0, 0]), 1, atol=0.1)
    assert second[..., 0].min() > 95
    with pytest.raises(ValueError, match="2 faces found, face=3"):
        track_face(reader(frames), 5, GreenFaces(), face=3)


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[..., ::-1])
    return path


def test_a_source_is_pictures_folders_or_a_video(tmp_path: Path) -> None:
    one = save(tmp_path / "one.png", green_frame(96, 128, 30, 20, 50))
    for name in ("b.png", "a.png"):
        save(tmp_path / "many" / name, green_frame(96, 128, 40, 20, 40))
    save(tmp_path / "many" / "landscape.png", green_frame(96, 128, 0, 0, 0))
    write_clip(tmp_path / "clip.mp4", 12)
    told: list[str] = []
    read = lambda *paths, **options: read_source(list(paths), GreenFace(), Framing(), tell=told.append, **options)  # noqa: E731
    assert [Path(p.name).name for p in read(tmp_path / "many", one)] == ["a.png", "b.png", "one.png"]
    assert len(told) == 1
    assert "landscape.png: no face" in told[0]
    clip = read(tmp_path / "clip.mp4")
    assert len(clip) == 8
    assert len({portrait.crop for portrait in clip}) == 1, "one crop for a video"
    assert len(read(tmp_path / "clip.mp4", one, shots=3)) == 3
    shots = shots_of(clip, 32)
    assert shots.images.shape == shots.landmarks.shape == (8, 3, 32, 32)
    assert shots.images[0, 1, 16, 16] > 0.5, "the face is in the middle"
    assert shots.images[0, 0, 16, 16] < -0.5


def test_what_is_wrong_with_a_source_names_the_file(tmp_path: Path) -> None:
    read = lambda path, **options: read_source([path], GreenFace(), Framing(), **options)  # noqa: E731
    with pytest.raises(FileNotFoundError, match=r"nothing\.jpg"):
        read(tmp_path / "nothing.jpg")
    with pytest.raises(ValueError, match="folder holds no pictures"):
        read(tmp_path)
    for name in ("text.jpg", "text.mp4"):
        (tmp_path / name).write_text("hello")
        with pytest.raises(ValueError, match=f"{name}: cannot be read"):
            read(tmp_path / name)
    tiny = save(tmp_path / "tiny.png", green_frame(96, 128, 30, 20, 20))
    with pytest.raises(ValueError, match=r"tiny\.png: the face is 20 pixels wide, at least 32"):
        read(tiny)
    assert len(read(tiny, min_face=16)) == 1
    with pytest.raises(ValueError, match=r"tiny\.png: 1 faces found, face=2"):
        read(tiny, face=2)


def test_paste_changes_the_crop_alone_and_has_no_seam() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    patch = np.full((32, 32, 3), 200, np.uint8)
    crop = Crop(30, 20, 50)
    whole = Paste(picture, crop, 0.2)(patch)
    assert (whole[35:55, 45:65] == 200).all(), "the middle is the result"
    outside = np.ones((90, 120), bool)
    outside[20:70, 30:80] = False
    assert np.array_equal(whole[outside], picture[outside])
    edge = np.abs(whole[20, 30:80].astype(int) - picture[20, 30:80])
    assert edge.max() <= 4, "at the border of the crop the picture has hardly changed"
    assert np.array_equal(Paste(picture, crop)(cv2.resize(picture[20:70, 30:80], (50, 50))), picture)


def test_paste_shows_no_square_where_colours_differ() -> None:
    """A wall that the networks draw in another colour: the wall's own at the seam, no step anywhere."""
    wall = np.full((240, 240, 3), (60, 90, 120), np.uint8)
    patch = np.full((64, 64, 3), (100, 70, 90), np.uint8)
    patch[24:40, 24:40] = 230  # the face
    whole = Paste(wall, Crop(40, 40, 160), 0.12)(patch).astype(int)
    assert np.abs(whole[40:52, 40:200] - wall[40:52, 40:200]).max() <= 16, "close to the border it is the wall's"
    line = whole[120, 40:92]
    assert np.abs(np.diff(line, axis=0)).max() <= 3, "and changes slowly"
    assert (whole[110:130, 110:130] == 230).all(), "the face keeps its colours"
    hard = Paste(wall, Crop(40, 40, 160), 0.0)(patch)
    assert (hard[40, 40:200] == (100, 70, 90)).all()


def test_paste_where_the_crop_ends_with_the_picture_or_beyond() -> None:
    picture = np.zeros((60, 60, 3), np.uint8)
    patch = np.full((64, 64, 3), 200, np.uint8)
    assert (Paste(picture, Crop(0, 0, 60), 0.3)(patch) == 200).all(), "nothing to blend with"
    beyond = Paste(picture, Crop(-10, -20, 60), 0.2)(patch)
    assert (beyond[:22, :32] == 200).all()
    assert (beyond[41:] == 0).all()
    assert (beyond[:, 51:] == 0).all()
    large = np.zeros((200, 400, 3), np.uint8)
    small = Paste(large, Crop(100, 50, 100), 0.0, longest=100)(patch)
    assert small.shape == (50, 100, 3)
    assert (small[13:37, 26:49] == 200).all()
    with pytest.raises(ValueError, match="feather"):
        Paste(picture, Crop(0, 0, 60), 0.7)


def test_panels_have_one_height_and_even_sides(tmp_path: Path) -> None:
    panels = [np.full((20, 30, 3), 1, np.uint8), np.full((64, 64, 3), 2, np.uint8), np.full((41, 51, 3), 3, np.uint8)]
    row = side_by_side(panels)
    assert row.shape == (41, 62 + 41 + 51, 3)
    assert even(row).shape == (40, 154, 3)
    write_sheet(tmp_path / "sheet.png", None, [Column(*panels)] * 2, tile=40)
    assert cv2.imread(str(tmp_path / "sheet.png")).shape == (120, 40 + 2 * 44, 3)
