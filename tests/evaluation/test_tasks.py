"""The protocol's choice of people and frames: disjoint, the same for every method, the smaller T within the larger."""

import shutil
import struct
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from talkinghead.data.datamodule import EpisodeDataModule
from talkinghead.data.reader import UnusableClip
from talkinghead.data.shards import Clip
from talkinghead.evaluation.frame_choice import FrameChoice, evenly
from talkinghead.evaluation.stills import StillsReenactment
from talkinghead.evaluation.tasks import CrossReenactment, People, SelfReenactment, one_of_each
from talkinghead.preparation.clip import Settings
from talkinghead.preparation.runner import Runner
from talkinghead.preparation.sources import VoxCeleb1
from tests.helpers.data_sets import SIZE, frame_points, make_clip, read_frame, write_data_set
from tests.helpers.preparation_videos import GreenFace, green_frame, write_video

CHOICE = FrameChoice(max_shots=8, num_targets=8, min_targets=2)


def open_data(path: Path, size: int = SIZE) -> EpisodeDataModule:
    return EpisodeDataModule(
        path, size=size, num_shots=1, episodes_per_epoch=1, batch_size=1, num_workers=0, seed=0, source_hint=""
    )


def self_reenactment(root: Path, clips: list[Clip], choice: FrameChoice = CHOICE, **options) -> SelfReenactment:
    data = open_data(write_data_set(root, {"test": [clips[:1], clips[1:]] if clips[1:] else [clips]}))
    return SelfReenactment(data, SIZE, choice, **options)


def numbers(points) -> list[int]:
    return [read_frame(face)[1] for face in points.numpy()]


def test_shots_and_hold_out_are_disjoint_and_depend_on_seed_and_clip_alone() -> None:
    shots, held_out = CHOICE(range(20), "a")
    assert len(shots) == 8
    assert len(held_out) == 8
    assert not set(shots) & set(held_out)
    assert held_out == sorted(held_out)
    assert (shots, held_out) == CHOICE(range(20), "a")
    assert (shots, held_out) != CHOICE(range(20), "b")
    assert (shots, held_out) != FrameChoice(8, 8, 2, seed=1)(range(20), "a")
    assert shots != sorted(shots), "the first shot would always be the first frame"


def test_hold_out_frames_come_after_the_shots() -> None:
    shots, held_out = CHOICE(range(40), "a")
    assert max(shots) < 20 <= min(held_out), "halves of the time"
    shots, held_out = CHOICE(range(10), "a")
    assert (sorted(shots), held_out) == (list(range(8)), [8, 9]), "a short clip keeps its shots"
    shots, held_out = CHOICE(range(17), "a")
    assert max(shots) < min(held_out)
    assert (len(shots), len(held_out)) == (8, 8)
    mixed = FrameChoice(8, 8, 2, split="mixed")
    shots, held_out = mixed(range(40), "a")
    assert min(held_out) < max(shots)
    assert mixed(range(20), "a") == (
        [17, 15, 1, 19, 2, 3, 9, 16],
        [5, 8, 10, 11, 12, 13, 14, 18],
    ), "the frames of the shipped tables"


@pytest.mark.parametrize("split", ["parts", "mixed"])
def test_even_shots_are_spread_for_every_T_and_leave_the_hold_out_frames_alone(split: str) -> None:
    even, random = (FrameChoice(32, 32, 8, split=split, shots=shots) for shots in ("even", "random"))
    shots, held_out = even(range(64), "a")
    assert held_out == random(range(64), "a")[1]
    if split == "parts":
        assert sorted(shots) == list(range(32))
        assert sorted(shots[:8]) == [0, 4, 8, 12, 16, 20, 24, 28]
        assert shots[0] == 16, "the middle one"
    assert shots == FrameChoice(32, 32, 8, seed=0, split=split, shots="even")(range(64), "a")[0]
    for count in (1, 2, 3, 7, 8, 32):
        assert sorted(evenly(range(100), count)) == [(2 * n + 1) * 100 // (2 * count) for n in range(count)]


def test_choices_that_are_not_there_are_named() -> None:
    with pytest.raises(ValueError, match=r"frame_choice\.split=half: choose parts or mixed"):
        FrameChoice(split="half")
    with pytest.raises(ValueError, match=r"frame_choice\.shots=first: choose random or even"):
        FrameChoice(shots="first")
    assert str(FrameChoice()) == "parts_random_32_32"


@pytest.mark.parametrize(("frames", "targets"), [(40, 8), (16, 8), (13, 5), (10, 2)])
def test_a_short_clip_gives_fewer_targets_and_as_many_shots(frames: int, targets: int) -> None:
    shots, held_out = CHOICE(range(frames), "a")
    assert (len(shots), len(held_out)) == (8, targets)


def test_a_clip_too_short_is_counted_and_named(tmp_path: Path) -> None:
    with pytest.raises(UnusableClip, match="9, the protocol needs 10"):
        CHOICE(range(9), "a")
    source = self_reenactment(tmp_path, [make_clip(0, 12), make_clip(1, 9)])
    keys, skipped = source.keys()
    assert keys == ["clip000"]
    assert [one.cause for one in skipped] == ["too few usable frames"]
    assert "clip001" in skipped[0].detail


def test_person_of_a_clip(tmp_path: Path) -> None:
    person = self_reenactment(tmp_path, [make_clip(3, 20)]).load("clip003")
    shots, held_out = CHOICE(range(20), "clip003")
    assert numbers(person.shots.points) == shots
    assert numbers(person.target.points) == held_out
    assert person.driving is person.target
    assert person.target.images.shape == person.target.landmarks.shape == (8, 3, SIZE, SIZE)
    green = (person.target.images[:, 1].mean((1, 2)) + 1) * 127.5  # make_clip: green tells the frame
    assert green.round().int().tolist() == pytest.approx([7 * n for n in held_out], abs=3)
    assert -1 <= person.target.images.min() <= person.target.images.max() <= 1


def test_broken_and_faceless_frames_are_not_chosen(tmp_path: Path) -> None:
    clip = make_clip(0, 14)
    clip.landmarks[5] = np.nan
    clip.frames[7] = b"no jpeg"
    person = self_reenactment(tmp_path, [clip]).load("clip000")
    chosen = numbers(person.shots.points) + numbers(person.target.points)
    assert sorted(chosen) == [n for n in range(14) if n not in (5, 7)]


def test_a_person_who_turns_out_unusable_is_left_out(tmp_path: Path) -> None:
    broken = make_clip(0, 12)
    broken.frames[:] = [b"no jpeg"] * 12
    source = self_reenactment(tmp_path, [broken, make_clip(1, 12)])
    found = []
    people = People(source, source.keys()[0], found.extend)
    assert [person.key for person in people] == ["clip001"]
    assert [one.cause for one in found] == ["too few usable frames"]


def test_one_clip_of_each_identity_comes_first(tmp_path: Path) -> None:
    order = one_of_each({"a0": "a", "a1": "a", "a2": "a", "b0": "b", "c0": "c", "c1": "c"})
    assert {key[0] for key in order[:3]} == {"a", "b", "c"}
    assert sorted(order) == ["a0", "a1", "a2", "b0", "c0", "c1"]
    clips = [make_clip(n, 12) for n in range(5)]
    some = self_reenactment(tmp_path / "1", clips, num_people=2).keys()[0]
    assert some == self_reenactment(tmp_path / "2", clips).keys()[0][:2]


def utterances() -> list[Clip]:
    """Two videos of one person with three clips each, one of them without a face, and one of another person."""
    clips = []
    for number, (identity, video) in enumerate([("a", "a/x")] * 3 + [("a", "a/y")] * 3 + [("b", "b/z")]):
        clip = make_clip(number, 6 if identity == "a" else 12)
        clips.append(Clip(clip.key, clip.meta | {"identity": identity, "video": video}, clip.landmarks, clip.frames))
    clips[1].landmarks[:] = np.nan
    return clips


def test_a_video_is_all_its_clips_in_order_of_time(tmp_path: Path) -> None:
    source = self_reenactment(tmp_path, utterances(), unit="video")
    assert source.protocol == "video_parts_random_8_8"
    assert set(source.keys()[0]) == {"a_x", "a_y", "b_z"}
    person = source.load("a_x")
    assert person.identity == "a"
    shots = [read_frame(face) for face in person.shots.points.numpy()]
    held_out = [read_frame(face) for face in person.target.points.numpy()]
    assert {clip for clip, _ in shots + held_out} == {0, 2}, "a clip without a face does not cost the video"
    assert max(shots) < min(held_out)
    assert sorted(shots) != shots
    assert held_out == sorted(held_out)
    green = (person.shots.images[:, 1].mean((1, 2)) + 1) * 127.5  # pictures go with their landmarks, across clips
    assert green.round().int().tolist() == pytest.approx([7 * frame for _, frame in shots], abs=3)
    clips = self_reenactment(tmp_path / "clips", utterances())
    assert clips.keys()[0] == ["clip006"], "the others have six frames each"
    with pytest.raises(ValueError, match=r"people\.unit=person"):
        self_reenactment(tmp_path / "no", utterances(), unit="person")


def test_a_video_at_one_frame_per_second_gathers_64_frames_from_several_utterances(tmp_path: Path) -> None:
    """VoxCeleb1 as the paper used it: utterances of 17 s have 17 frames each, the video has 68."""
    write_video(tmp_path / "videos/abc.mp4", [green_frame(96, 128, 40, 30, 40)] * 140, fps=2)
    for number in range(4):
        text = tmp_path / f"txt/id10270/abc/{number:05d}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{n:06d}\t0.31\t0.31\t0.31\t0.42" for n in range(425 * number, 425 * number + 425)]  # 25 per second
        text.write_text("Identity  : \tid10270\n\nFRAME \tX \tY \tW \tH \n" + "\n".join(lines))
    settings = Settings(image_size=32, fps=1.0, min_frames=1, min_face=20)
    Runner(VoxCeleb1(str(tmp_path)), GreenFace(), settings, str(tmp_path / "data"), 0, 4, "test", None).run()
    clips = SelfReenactment(open_data(tmp_path / "data"), SIZE, FrameChoice())
    assert clips.keys()[0] == []
    video = SelfReenactment(open_data(tmp_path / "data"), SIZE, FrameChoice(), unit="video")
    assert video.keys() == (["id10270_abc"], [])
    person = video.load("id10270_abc")
    assert (len(person.shots.images), len(person.target.images)) == (32, 32)
    numbers = {clip.meta()["clip"]: len(clip.meta()["frame_numbers"]) for clip in video.units["id10270_abc"]}
    assert len(numbers) == 4
    assert all(16 <= count <= 18 for count in numbers.values())


def cross_set(root: Path) -> EpisodeDataModule:
    """Two people; clip number 5 is person 0 doing what person 1 does."""
    own = [make_clip(n, 20) for n in range(2)]
    driven = make_clip(5, 20)
    meta = {**driven.meta, "video": "clip000", "motion_clip": "clip001"}
    return open_data(write_data_set(root, {"test": [own], "cross": [[Clip("0_by_1", meta, *driven_parts(driven))]]}))


def driven_parts(clip: Clip) -> tuple[np.ndarray, list[bytes]]:
    return clip.landmarks, clip.frames


def test_cross_reenactment_pairs_the_same_frames_of_three_clips(tmp_path: Path) -> None:
    data = cross_set(tmp_path)
    source = CrossReenactment(data, SIZE, CHOICE)
    assert source.name == f"{tmp_path.name}/cross"
    assert source.keys() == (["0_by_1"], [])
    person = source.load("0_by_1")
    assert {read_frame(face)[0] for face in person.shots.points.numpy()} == {0}
    assert {read_frame(face)[0] for face in person.driving.points.numpy()} == {1}
    assert {read_frame(face)[0] for face in person.target.points.numpy()} == {5}
    assert numbers(person.driving.points) == numbers(person.target.points)
    alone = SelfReenactment(data, SIZE, CHOICE).load("clip000")
    assert numbers(person.shots.points) == numbers(alone.shots.points), "what is learned is the same in both"


def test_cross_reenactment_needs_synthetic_heads(tmp_path: Path) -> None:
    data = open_data(write_data_set(tmp_path, {"test": [[make_clip(0, 20)]], "cross": [[make_clip(1, 20)]]}))
    keys, skipped = CrossReenactment(data, SIZE, CHOICE).keys()
    assert keys == []
    assert skipped[0].cause == "no test clips of person and driver"


def test_people_that_are_not_those_asked_for_are_no_test(tmp_path: Path) -> None:
    clips = [[make_clip(0, 20)]]
    data = open_data(write_data_set(tmp_path, {"test": clips, "cross": clips}))
    looked_at: list[Sequence[str]] = []

    class Build:
        image_size = SIZE

        def __call__(self, path: Path) -> None:
            raise AssertionError("rendered")

        def check(self, path: Path, splits: Sequence[str]) -> None:
            looked_at.append(splits)
            raise ValueError("holds synthetic heads of other parameters")

    data.build = Build()
    for people in (SelfReenactment(data, SIZE, CHOICE), CrossReenactment(data, SIZE, CHOICE)):
        with pytest.raises(ValueError, match="of other parameters"):
            people.prepare()
    assert looked_at == [["test"], ["test", "cross"]]


def test_people_stored_far_too_small_are_refused(tmp_path: Path) -> None:
    data = open_data(write_data_set(tmp_path, {"test": [[make_clip(0, 20)]]}), size=256)
    with pytest.raises(ValueError, match=r"at 32 px .* wants 256: .*data=synthetic_256.*data\.enlarge=true"):
        SelfReenactment(data, 256, CHOICE).prepare()
    data.enlarge = True
    SelfReenactment(data, 256, CHOICE).prepare()


def test_a_missing_split_is_an_error(tmp_path: Path) -> None:
    data = open_data(write_data_set(tmp_path, {"train": [[make_clip(0, 20)]]}))
    with pytest.raises(ValueError, match="no clips in split 'test'"):
        SelfReenactment(data, SIZE, CHOICE).keys()


def detect(image: np.ndarray) -> np.ndarray | None:
    """Green tells the frame, as in make_clip; frame 3 shows no face."""
    number = round(float(image[..., 1].mean()) / 7)
    scale = np.float32(len(image) / SIZE)
    return None if number == 3 else (frame_points(0, number) + 0.5) * scale - 0.5


def write_stills(folder: Path, frames: range, side: int = 2 * SIZE) -> None:
    folder.mkdir(parents=True)
    for n in frames:
        cv2.imwrite(str(folder / f"{n:03d}.png"), np.full((side, side, 3), (100, 7 * n, 0), np.uint8))


@pytest.mark.parametrize("layout", ["{person}/train|{person}/test", "Train/{person}|Test/{person}"])
def test_folders_of_the_papers_shape(tmp_path: Path, layout: str) -> None:
    for person in ("anna", "bert"):
        learn, reproduce = (tmp_path / part.format(person=person) for part in layout.split("|"))
        write_stills(learn, range(10))
        write_stills(reproduce, range(20, 25))
    source = StillsReenactment(tmp_path, SIZE, CHOICE, detect)
    assert source.keys() == (["anna", "bert"], [])
    person = source.load("bert")
    assert numbers(person.target.points) == [20, 21, 22, 23, 24]
    assert len(person.shots.points) == 8
    assert set(numbers(person.shots.points)) <= {0, 1, 2, 4, 5, 6, 7, 8, 9}, "3 shows no face"
    assert person.shots.images.shape == (8, 3, SIZE, SIZE)


def test_a_face_not_found_does_not_cost_the_person(tmp_path: Path) -> None:
    write_stills(tmp_path / "anna/train", range(6))
    write_stills(tmp_path / "anna/test", range(20, 25))
    write_stills(tmp_path / "bert/train", range(4))
    write_stills(tmp_path / "bert/test", range(20, 27))
    source = StillsReenactment(tmp_path, SIZE, CHOICE, detect)
    shots = numbers(source.load("anna").shots.points)
    assert len(shots) == 8
    assert set(shots) == {0, 1, 2, 4, 5}
    assert shots[5:] == shots[:3]
    with pytest.raises(UnusableClip, match="3 to learn from, 7 to reproduce"):
        source.load("bert")


def test_a_bad_picture_costs_itself_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Half a file, one of too many pixels for OpenCV, and one that is not square."""
    write_stills(tmp_path / "anna/train", range(10, 20))
    write_stills(tmp_path / "anna/test", range(20, 25))
    (tmp_path / "anna/train/half.png").write_bytes((tmp_path / "anna/train/010.png").read_bytes()[:40])
    huge = b"IHDR" + struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + huge + struct.pack(">I", zlib.crc32(huge))
    (tmp_path / "anna/train/huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    cv2.imwrite(str(tmp_path / "anna/test/wide.png"), np.zeros((10, 20, 3), np.uint8))
    source = StillsReenactment(tmp_path, SIZE, FrameChoice(max_shots=10, num_targets=8, min_targets=2), detect)
    person = source.load("anna")
    assert sorted(numbers(person.shots.points)) == list(range(10, 20))
    assert numbers(person.target.points) == [20, 21, 22, 23, 24]
    assert {path.name for path in source.unusable} == {"half.png", "huge.png", "wide.png"}
    for name in ("half.png", "huge.png", "wide.png"):
        assert f"{name} is left out" in caplog.text
    assert "Traceback" not in caplog.text
    assert person.identity == "anna"
    assert source.protocol == "stills_given_random_10_8"


def test_a_flat_folder_is_chosen_from_as_a_clip_is(tmp_path: Path) -> None:
    write_stills(tmp_path / "anna", range(14))
    write_stills(tmp_path / "bert", range(9))
    source = StillsReenactment(tmp_path, SIZE, CHOICE, detect)
    keys, skipped = source.keys()
    assert keys == ["anna"]
    assert skipped[0].cause == "too few pictures"
    person = source.load("anna")
    chosen = numbers(person.shots.points) + numbers(person.target.points)
    assert sorted(chosen) == [n for n in range(14) if n != 3]
    assert len(person.shots.points) == 8


def test_pictures_that_are_not_square_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "anna").mkdir()
    for n in range(12):
        cv2.imwrite(str(tmp_path / "anna" / f"{n}.png"), np.zeros((10, 20, 3), np.uint8))
    with pytest.raises(UnusableClip, match=r"prepare\.py source=stills"):
        StillsReenactment(tmp_path, SIZE, CHOICE, detect).load("anna")
    with pytest.raises(ValueError, match="detector"):
        StillsReenactment(tmp_path, SIZE, CHOICE, None)


CASES = Path(__file__).parents[3] / "shared" / "cases"


@pytest.mark.shared
@pytest.mark.skipif(not CASES.is_dir(), reason="needs the shared cases")
def test_the_shared_folder_with_one_bad_picture_and_a_gigapixel_one(tmp_path: Path) -> None:
    with tarfile.open(CASES / "13_stills_one_bad.tgz") as archive:
        archive.extractall(tmp_path, filter="data")
    shutil.copy(CASES / "16_1_gigapixel.png", tmp_path / "p1/test/gigapixel.png")
    source = StillsReenactment(tmp_path, SIZE, FrameChoice(4, 4, 1), lambda image: frame_points(0, 0))
    keys, skipped = source.keys()
    assert (keys, skipped) == (["p1"], [])
    person = source.load("p1")
    assert len(person.shots.images) == 4
    assert len(person.target.images) >= 1
