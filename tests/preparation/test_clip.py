"""Preparation, part by part: crop rule, video reading, tracking, sources, one clip."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image as Picture

from talkinghead.faces.crop import Crop, Framing, clip_crop, cut, face_box, measure_framing, to_crop
from talkinghead.faces.tracking import Detection, best_chain, follow, overlap
from talkinghead.preparation.clip import Settings, prepare_clip
from talkinghead.preparation.frames import GivenTrack, read_track, window
from talkinghead.preparation.plan import make_plan
from talkinghead.preparation.sources import Folder, Stills, Unit, VoxCeleb1, VoxCeleb2, hold_out, keys
from talkinghead.video.reader import Video, segments, spread
from tests.helpers.preparation_videos import GreenFace, green_frame, template, write_clip, write_video

SETTINGS = Settings(image_size=64, frames_per_clip=10, min_face=20)


def face(x: float, y: float, extent: float) -> np.ndarray:
    """Landmarks in a box whose corner is (x, y)."""
    return template() * extent + np.array([x, y])


# ---- crop


def test_crop_is_square_fixed_and_as_wide_as_the_framing_says():
    points = np.stack([face(200 + n, 150, 100) for n in range(11)])
    box = face_box(points)
    assert np.allclose(box[0], [200, 150, 308, 258])
    crop = clip_crop(points, 640, 480)
    assert crop.side == round(1.7 * 108)
    assert abs(crop.x + crop.side / 2 - (205 + 54)) <= 1
    assert abs(crop.y + crop.side / 2 - (150 + 54)) <= 1


def test_crop_moves_into_the_frame_and_shrinks_only_so_far():
    points = face(2, 3, 100)[None]
    assert clip_crop(points, 640, 480) == (0, 0, 184)
    assert clip_crop(points, 640, 170) == (0, 0, 170)
    narrow = clip_crop(points, 120, 130)
    assert narrow.side == round(1.4 * 108)
    assert narrow.x < 0


def test_crop_reproduces_a_measured_framing():
    framing = Framing(margin=2.1, down=0.12)
    points = face(400, 300, 100)[None]
    crop = clip_crop(points, 2000, 2000, framing)
    measured = measure_framing(to_crop(points, crop, 256), 256)
    assert np.allclose(measured, framing, atol=0.02)


@pytest.mark.parametrize("crop", [Crop(30, 20, 128), Crop(-20, 10, 130), Crop(60, 40, 64)])
def test_landmarks_point_at_the_same_thing_after_the_crop(crop: Crop):
    image = np.zeros((160, 200, 3), np.uint8)
    cv2.circle(image, (80, 70), 4, (255, 255, 255), -1)
    patch = cut(image, crop, 64)
    rows, columns = np.nonzero(patch[..., 0] > 60)
    points = np.tile(np.array([80.0, 70.0]), (68, 1))
    moved = to_crop(points, crop, 64)
    assert np.allclose(moved[0], [columns.mean(), rows.mean()], atol=0.35)


def test_beyond_the_frame_its_edge_goes_on():
    image = np.zeros((20, 20, 3), np.uint8)
    image[:, -1] = 200
    assert (cut(image, Crop(10, 0, 20), 20)[:, 10:] == 200).all()


# ---- video


def numbered(count: int) -> list[np.ndarray]:
    """Frames that show their number as eight black or white bars."""
    bars = [[255 * (n >> bit & 1) for bit in range(8)] for n in range(count)]
    return [np.repeat(np.repeat(np.array(b, np.uint8), 16)[None, :, None], 64, 0).repeat(3, -1) for b in bars]


def read_number(image: np.ndarray) -> int:
    return sum(int(image[32, 8 + 16 * bit, 0] > 128) << bit for bit in range(8))


@pytest.mark.parametrize("gop", [5, 250])
@pytest.mark.parametrize("wanted", [[0, 1, 2], [3, 40, 41, 59], list(range(60)), [59]])
def test_video_gives_the_frames_that_were_asked_for(tmp_path: Path, gop: int, wanted: list[int]):
    write_video(tmp_path / "v.mp4", numbered(60), gop=gop, bf="2")
    with Video(tmp_path / "v.mp4") as video:
        assert (video.num_frames, video.fps) == (60, 25.0)
        for _ in range(2):  # reading can be repeated
            found = list(video.read(wanted))
            assert [n for n, _ in found] == wanted
            assert [read_number(image) for _, image in found] == wanted


def test_spread_and_segments():
    assert spread(3, 10) == [0, 1, 2]
    assert spread(100, 3) == [0, 50, 99]
    assert segments(10, 20, 5, None) == [[10, 12, 14, 17, 19]]
    assert segments(0, 10, 3, 2.0) == [[0, 2, 4], [6, 8]]
    assert segments(0, 0, 3, None) == [[]]


# ---- tracking


def test_the_face_that_is_seen_longest_is_followed():
    """A larger face that is there in few frames must not win, nor may the chain jump to it."""
    small = [Detection(n, np.array([10.0 + n, 10, 30 + n, 30])) for n in range(10)]
    large = [Detection(n, np.array([60.0, 10, 100, 50])) for n in range(3)]
    sights = [[*large[n : n + 1], small[n]] for n in range(10)]
    assert best_chain(sights, max_gap=3) == small


def test_gaps_are_bridged_and_long_ones_end_the_chain():
    box = np.array([10.0, 10, 30, 30])
    seen = [0, 1, 3, 4, 9, 10]
    sights = [[Detection(n, box)] if n in seen else [] for n in range(11)]
    assert [sight.frame for sight in best_chain(sights, max_gap=3)] == [0, 1, 3, 4]


def test_landmarks_are_found_between_detections():
    images = [green_frame(96, 128, 20 + n, 30, 40) for n in range(9)]
    for blind in (3, 4):
        images[blind] = images[blind][..., ::-1].copy()  # still green: every third frame is searched
    track = follow(images, GreenFace(), every=3)
    assert track.frames == list(range(9))
    assert np.allclose(face_box(track.points)[:, 0], 19.5 + np.arange(9))


def test_overlap():
    assert overlap(np.array([0.0, 0, 2, 2]), np.array([1.0, 0, 3, 2])) == pytest.approx(1 / 3)


# ---- sources


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def test_voxceleb2_layout(tmp_path: Path):
    touch(tmp_path, "dev/mp4/id1/v1/1.mp4", "dev/mp4/id1/v1/2.mp4", "dev/mp4/id1/v2/1.mp4", "test/mp4/id9/v1/1.mp4")
    touch(tmp_path, "dev/mp4/id1/v1/notes.txt")
    units = VoxCeleb2(str(tmp_path)).units()
    assert [(u.split, u.identity, u.video, u.clip) for u in units] == [
        ("train", "id1", "id1/v1", "id1/v1/1"),
        ("train", "id1", "id1/v1", "id1/v1/2"),
        ("train", "id1", "id1/v2", "id1/v2/1"),
        ("test", "id9", "id9/v1", "id9/v1/1"),
    ]
    jobs = {job.unit.clip: job for job in make_plan(units, 10)}
    assert jobs["id1/v1/1"].video_index == jobs["id1/v1/2"].video_index == 0
    assert (jobs["id1/v2/1"].video_index, jobs["id9/v1/1"].video_index) == (1, 0)
    assert len(VoxCeleb2(str(tmp_path), clips_per_video=1).units()) == 3


def test_folder_layouts(tmp_path: Path):
    touch(tmp_path, "a/ann/1.mp4", "a/ann/2.MOV", "a/bob/talk/1.mp4", "b/flat.webm", "b/.hidden.mp4")
    units = Folder(str(tmp_path), {"train": "a", "val": None, "test": "b"}).units()
    assert [(u.split, u.identity, u.video) for u in units] == [
        ("train", "ann", "ann/1"),
        ("train", "ann", "ann/2"),
        ("train", "bob", "bob/talk"),
        ("test", "flat", "flat"),
    ]


def test_errors_of_sources_say_what_to_set(tmp_path: Path):
    with pytest.raises(ValueError, match=r"source\.root"):
        Folder(str(tmp_path), {"train": "."}).units()
    with pytest.raises(ValueError, match=r"source\.splits\.test"):
        Folder(str(tmp_path), {"train": ".", "test": "nowhere"})
    with pytest.raises(ValueError, match="splits are train, val, test"):
        Folder(str(tmp_path), {"training": "."})
    touch(tmp_path, "ann/1.mp4")
    with pytest.raises(ValueError, match="val_identities=1"):
        Folder(str(tmp_path), {"train": "."}, val_identities=1).units()


def test_val_people_are_apart_and_stay_the_same():
    units = [Unit("train", f"p{n}", f"p{n}/{c}", f"p{n}/{c}", ("x",)) for n in range(20) for c in range(2)]
    held = hold_out(units, 3)
    val = {u.identity for u in held if u.split == "val"}
    assert len(val) == 3
    assert len(held) == len(units)
    assert not val & {u.identity for u in held if u.split == "train"}
    fewer = hold_out([u for u in units if u.identity != "p0"], 3)
    assert len(val & {u.identity for u in fewer if u.split == "val"}) >= 2


def test_keys_are_unique_and_free_of_dots():
    units = [Unit("train", "a", "a", clip, ("x",)) for clip in ("a/b.c", "a/b-c", "a/ok_1")]
    units.append(Unit("test", "a", "a", "a/ok_1", ("x",)))
    found = keys(units)
    assert len(set(found)) == 4
    assert all(key.replace("_", "").replace("-", "").isalnum() for key in found)
    assert found[0].startswith("a_b-c-")


def test_plan_mixes_people_over_training_shards():
    units = [Unit("train", f"p{n:02d}", f"p{n:02d}/{c}", f"p{n:02d}/{c}", ("x",)) for n in range(10) for c in range(10)]
    jobs = make_plan(units, 10)
    first = {job.unit.identity for job in jobs if job.block == 0}
    assert len(first) >= 4
    assert sorted(job.video_index for job in jobs) == list(range(100))


# ---- one clip


def prepare(path: Path, **changes: object):
    settings = Settings(**{**SETTINGS.__dict__, **changes})  # type: ignore[arg-type]
    return prepare_clip(Unit("train", "ann", "ann/1", "ann/1", (str(path),)), "ann_1", 7, GreenFace(), settings)


def test_a_clip_becomes_a_sample(tmp_path: Path):
    write_clip(tmp_path / "v.mp4", num_frames=30)
    result = prepare(tmp_path / "v.mp4")
    (clip,) = result.clips
    assert not result.drops
    assert (len(clip.frames), clip.landmarks.shape, clip.landmarks.dtype) == (10, (10, 68, 2), np.float32)
    assert clip.meta["frame_numbers"] == spread(30, 10)
    assert (clip.meta["video_index"], clip.meta["fps"], clip.meta["identity"]) == (7, 25.0, "ann")
    assert clip.meta["crop"][2] == round(1.7 * 40)
    for frame, points in zip(clip.frames, clip.landmarks, strict=True):
        image = simplejpeg.decode_jpeg(frame)
        assert image.shape == (64, 64, 3)
        assert np.allclose(GreenFace().boxes(image)[0], face_box(points.astype(float)) + 0.5, atol=1.0)
    assert Picture.open(io.BytesIO(clip.frames[0])).quantization[0][0] <= 2  # quality 95


def test_a_rate_makes_several_samples_of_one_video(tmp_path: Path):
    write_clip(tmp_path / "v.mp4", num_frames=60)
    result = prepare(tmp_path / "v.mp4", fps=12.5)
    assert [clip.key for clip in result.clips] == ["ann_1_000", "ann_1_001", "ann_1_002"]
    assert {clip.meta["video_index"] for clip in result.clips} == {7}
    assert result.clips[1].meta["frame_numbers"] == list(range(20, 40, 2))


def test_every_reason_is_told(tmp_path: Path):
    write_clip(tmp_path / "short.mp4", num_frames=5)
    write_clip(tmp_path / "faceless.mp4", side=0)
    write_clip(tmp_path / "small.mp4", side=16)
    frames = [green_frame(96, 128, 20, 30, 40 if n < 4 else 0) for n in range(12)]
    write_video(tmp_path / "leaves.mp4", frames)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "small.mp4").read_bytes()[:600])
    expected = {
        "short": "too short",
        "faceless": "no face",
        "small": "too small",
        "leaves": "face in too few frames",
        "broken": "unreadable",
        "cut": "unreadable",
        "absent": "unreadable",
    }
    for name, reason in expected.items():
        result = prepare(tmp_path / f"{name}.mp4")
        assert not result.clips
        assert [drop.reason for drop in result.drops] == [reason], name


def test_cropped_sources_keep_their_frame(tmp_path: Path):
    write_clip(tmp_path / "v.mp4", height=96, width=96)
    unit = Unit("train", "a", "a", "a", (str(tmp_path / "v.mp4"),), cropped=True)
    (clip,) = prepare_clip(unit, "a", 0, GreenFace(), SETTINGS).clips
    assert clip.meta["crop"] == [0, 0, 96]


def test_voxceleb1_looks_at_the_tracked_face_at_the_right_time(tmp_path: Path):
    """Two faces in the video, at 50 frames per second; the track (25 per second) names the right one."""
    frames = []
    for n in range(80):
        image = green_frame(180, 320, 20, 60, 50)
        image[60:100, 220 + n // 8 : 260 + n // 8] = (20, 220, 20)
        frames.append(image)
    write_video(tmp_path / "videos" / "abc.mp4", frames, fps=50)
    lines = [f"{n:06d}\t{440 + n}\t120\t80\t80" for n in range(10, 40)]
    text = tmp_path / "txt" / "id10270" / "abc" / "00001.txt"
    text.parent.mkdir(parents=True)
    text.write_text("Identity  : \tid10270\nOffset    : \t1\n\nFRAME \tX \tY \tW \tH \n" + "\n".join(lines))
    touch(tmp_path, "txt/id10001/gone/00001.txt")
    units = VoxCeleb1(str(tmp_path)).units()
    assert [(u.split, u.identity, len(u.paths)) for u in units] == [("train", "id10001", 0), ("test", "id10270", 1)]
    (clip,) = prepare_clip(units[1], "k", 0, GreenFace(), SETTINGS).clips
    assert clip.meta["frame_numbers"] == [20 + n for n in spread(60, 10)]
    x, y, side = clip.meta["crop"]
    assert side == round(1.7 * 40)
    assert abs(x + side / 2 - 246) < 4
    assert abs(y + side / 2 - 80) < 2
    assert prepare_clip(units[0], "k", -1, GreenFace(), SETTINGS).drops[0].reason == "file missing"


def test_face_tracks_in_fractions_and_broken_ones(tmp_path: Path):
    track = GivenTrack(np.array([5, 6]), np.array([[0.5, 0.25, 0.1, 0.2], [0.6, 0.25, 0.1, 0.2]]))
    left, top, right, bottom = window(track, 200, 400)
    assert left < 190
    assert 290 < right < 400
    assert top < 40
    assert 100 < bottom < 200
    (tmp_path / "t.txt").write_text("FRAME X Y W H\n")
    with pytest.raises(OSError, match="has no lines"):
        read_track(tmp_path / "t.txt")


def test_stills_are_cropped_each_on_its_own(tmp_path: Path):
    (tmp_path / "ann").mkdir()
    for n in range(10):
        image = green_frame(96 + n, 128, 10 + 5 * n, 30, 40)
        cv2.imwrite(str(tmp_path / "ann" / f"{n}.png"), image[..., ::-1])
    (tmp_path / "ann" / "x.jpg").write_bytes(b"no picture")
    (unit,) = Stills(str(tmp_path), {"train": "."}).units()
    result = prepare_clip(unit, "ann", 0, GreenFace(), SETTINGS)
    (clip,) = result.clips
    assert [drop.clip for drop in result.drops] == ["ann/x.jpg"]
    assert len(clip.frames) == len(clip.meta["crop"]) == 10
    assert clip.meta["crop"][0] != clip.meta["crop"][9]


def test_a_split_by_file_takes_its_videos_alone(tmp_path: Path) -> None:
    for name in ("dev/mp4/id1/a/1", "dev/mp4/id1/b/1", "dev/mp4/id2/c/1", "dev/mp4/id2/c/2", "test/mp4/id3/d/1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.mp4").touch()
    chosen = tmp_path / "chosen.txt"
    chosen.write_text("id2/c\nid1/b val\n\n")
    source = VoxCeleb2(str(tmp_path), split_file=str(chosen))
    assert [(unit.split, unit.clip) for unit in source.units()] == [
        ("val", "id1/b/1"), ("test", "id2/c/1"), ("test", "id2/c/2")
    ]  # fmt: skip
    for text, message in (
        ("id1/a tset", "no split is called 'tset'"),
        ("id9/z", "1 of its videos are missing, as id9/z"),
    ):
        chosen.write_text(text)
        with pytest.raises(ValueError, match=message):
            source.units()
    with pytest.raises(ValueError, match="cannot be read"):
        VoxCeleb2(str(tmp_path), split_file=str(tmp_path / "none.txt")).units()
