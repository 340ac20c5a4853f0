"""A face that goes and comes back, a cutaway, a film that is cut to another person: nobody is made up, nobody mixed."""

from collections.abc import Iterator, Sequence
from itertools import islice, permutations
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from talkinghead.faces.appearance import is_cut, likeness, patch_of, view_of
from talkinghead.faces.face_track import track_face
from talkinghead.faces.tracking import Detection, best_chain, follow, overlap
from talkinghead.images import read_image
from talkinghead.reenactment.inputs import SHIPPED
from tests.helpers.preparation_videos import GreenFace, green_frame

BARS = np.repeat(np.array([(200, 20, 20), (20, 20, 200), (200, 20, 200), (230, 230, 230)], np.uint8), 40, 0)
SIDE, WIDTH, HEIGHT = 80, 320, 140  # of people who cross
PEOPLE = ("anna", "bela", "dayo", "mira")
EMPTY = green_frame(96, 160, 0, 0, 0)


def scene(num_frames: int, x: int = 40, background: int = 40) -> list[np.ndarray]:
    """A green square that wanders, in front of a wall."""
    frames = []
    for n in range(num_frames):
        frame = green_frame(96, 160, x + n % 5, 30, 40)
        frame[frame == 40] = background
        frames.append(frame)
    return frames


def cutaway(num_frames: int) -> list[np.ndarray]:
    return [np.tile(BARS, (96, 1, 1))] * num_frames


def seen(frames: list[np.ndarray], every: int = 1, detector: object = None) -> list[int]:
    """The numbers of frames in which the face is not seen."""
    found = track_face(
        lambda numbers: ((n, frames[n]) for n in numbers), len(frames), detector or GreenFace(), every=every
    )  # type: ignore[arg-type]
    assert np.isfinite(found.points).all()
    return np.flatnonzero(~found.seen).tolist()


@pytest.mark.parametrize("every", [1, 5])
def test_no_landmarks_on_a_cutaway(every: int) -> None:
    frames = [*scene(10), *cutaway(8), *scene(10)]
    assert seen(frames, every) == list(range(10, 18))
    assert follow(frames, GreenFace(), every).frames == [*range(10), *range(18, 28)], "preparation stores none of them"


@pytest.mark.parametrize("every", [1, 5])
def test_who_comes_back_after_a_long_time_is_no_stranger(every: int) -> None:
    frames = [*scene(10), *[EMPTY] * 30, *scene(12)]
    assert seen(frames, every) == list(range(10, 40))


def test_who_appears_elsewhere_or_in_another_size_is_another() -> None:
    assert seen([*scene(12), *[EMPTY] * 20, *scene(10, x=110)]) == list(range(12, 42))


@pytest.mark.parametrize("every", [1, 5])
def test_a_cut_to_another_scene_ends_a_clip(every: int) -> None:
    frames = [*scene(12), *scene(18, background=210)]
    first = 12 if every == 1 else 15  # the first that is searched
    assert follow(frames, GreenFace(), every).frames == list(range(first, 30)), "the longer part"
    assert seen(frames, every) == list(range(first))
    again = [*scene(12), *scene(8, background=210), *scene(12)]
    assert follow(again, GreenFace(), every).frames == [*range(12), *range(20, 32)], "there and back"


def test_a_movement_is_no_cut_and_a_wall_no_face() -> None:
    still, moved = green_frame(96, 160, 10, 30, 40), green_frame(96, 160, 110, 30, 40)
    assert not is_cut(view_of(still), view_of(moved))
    assert is_cut(view_of(still), view_of(cutaway(1)[0]))
    box, away = np.array([10.0, 30, 50, 70]), np.array([-30.0, 60, 10, 100])
    face = patch_of(still, box)
    assert likeness(face, patch_of(moved, box + np.array([100, 0, 100, 0]))) > 0.99
    assert likeness(face, patch_of(EMPTY, box)) == 0
    assert patch_of(still, away).shape == face.shape


@pytest.mark.slow
def test_shipped_drivers_with_a_cutaway_and_a_cut() -> None:
    """With dlib on synthetic heads."""
    pytest.importorskip("dlib")
    from talkinghead.faces.detectors import Dlib  # noqa: PLC0415 (an extra)

    calm, lively = (read(SHIPPED.parent / "drivers" / f"{name}.mp4", 30) for name in ("calm", "lively"))
    bars = [np.tile(np.repeat(BARS, 2, 0)[:256], (256, 1, 1))[:, :256]] * 10
    bars = [np.pad(bar, ((0, 0), (0, 256 - bar.shape[1]), (0, 0)), mode="edge") for bar in bars]
    assert seen([*calm[:15], *bars, *calm[15:]], 5, Dlib()) == list(range(15, 25))
    assert len(seen([*calm[:20], *lively], 5, Dlib())) in (20, 30), "one of both"
    assert seen(lively, 5, Dlib()) == []


def read(path: Path, count: int) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in islice(container.decode(video=0), count)]


class Batches(GreenFace):
    """Takes up to `batch_size` pictures, and counts them."""

    batch_size = 4

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def boxes_of(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.sizes.append(len(images))
        return [self.boxes(image) for image in images]

    def landmarks_of(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.sizes.append(len(images))
        return [self.landmarks(image, box) for image, box in zip(images, boxes, strict=True)]


@pytest.mark.parametrize("every", [1, 5])
def test_a_detector_with_batches_gets_them_and_finds_the_same(every: int) -> None:
    frames = [*scene(10), *cutaway(8), *scene(12)]
    detector = Batches()
    found, expected = follow(frames, detector, every), follow(frames, GreenFace(), every)
    assert found.frames == expected.frames
    assert np.array_equal(found.points, expected.points)
    assert max(detector.sizes) == 4
    assert sum(detector.sizes) == len(found.frames) + len({*range(0, 30, every), 29})
    assert seen(frames, every, Batches()) == seen(frames, every)


def face_of(name: str) -> np.ndarray:
    image = read_image(SHIPPED.parent / f"portraits/{name}.jpg")
    edge = image.shape[0] // 6
    return cv2.resize(image[edge:-edge, edge:-edge], (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def crossing(front: str, behind: str, speed: float, every: int) -> Iterator[tuple[list[Detection], list[str]]]:
    """Of every n-th of 60 frames, the detected faces and their names: one of two that overlap hides the other."""
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    disc = (rows**2 + columns**2 < SIDE**2 / 4)[..., None]
    for frame in range(0, 60, every):
        image, found = np.full((HEIGHT, WIDTH, 3), 90, np.uint8), []
        for name, x in ((behind, WIDTH - 100 - speed * frame), (front, 20 + speed * frame)):
            left = int(np.clip(x, 0, WIDTH - SIDE))
            part = image[30 : 30 + SIDE, left : left + SIDE]
            part[:] = np.where(disc, face_of(name), part)
            found.append((name, np.array([left, 30.0, left + SIDE, 30.0 + SIDE])))
        if overlap(found[0][1], found[1][1]) >= 0.35:
            found = found[1:]
        view = view_of(image)
        yield [Detection(frame, box, patch_of(image, box), view) for _, box in found], [name for name, _ in found]


@pytest.mark.parametrize("every", [1, 5, 8])
@pytest.mark.parametrize("speed", [3.0, 4.2])
def test_people_who_cross_are_not_confused(every: int, speed: float) -> None:
    for front, behind in permutations(PEOPLE, 2):
        sights = [*crossing(front, behind, speed, every)]
        name_of = {id(face): name for faces, names in sights for face, name in zip(faces, names, strict=True)}
        chain = best_chain([faces for faces, _ in sights], max_gap=3)
        assert len({name_of[id(face)] for face in chain}) == 1, (front, behind)
        assert len(chain) > 40 / every
