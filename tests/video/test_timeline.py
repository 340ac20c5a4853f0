"""One wrong time stamp costs itself alone: times are repaired where they are wrong, never thrown away as a whole."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from talkinghead.faces.crop import Framing
from talkinghead.reenactment.driver import follow_driver
from talkinghead.video.reader import Video
from talkinghead.video.timeline import Stamp, make_index
from tests.helpers.preparation_videos import GreenFace, green_frame
from tests.video.test_writer import driver_of, render, sound, times

MS = Fraction(1, 1000)
SHOWN = [0, 40, 80, 120, 160, 220, 260, 300, 340, 380, 420, 460, 500, 540, 580, 620, 660, 700, 740, 780, 820]
STORED = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8, 12, 10, 11, 15, 13, 14, 18, 16, 17, 20, 19]  # with B-frames


def seconds(pts: list[int | None], keys: tuple[int, ...] = (0,)) -> list[float]:
    """When frames are shown, of packets with these stamps in milliseconds."""
    index = make_index([Stamp(time, n in keys) for n, time in enumerate(pts)], MS, Fraction(25))
    assert all(a < b for a, b in zip(index.timeline.pts, index.timeline.pts[1:], strict=False))
    assert sorted(number for numbers in index.numbers.values() for number in numbers) == list(range(len(pts)))
    return [float(time * index.timeline.time_base) for time in index.timeline.pts]


@pytest.mark.parametrize("order", [range(len(SHOWN)), STORED], ids=["plain", "b-frames"])
@pytest.mark.parametrize(
    ("wrong", "stamp", "right"),
    [
        (7, 260, 300), (7, None, 300), (8, 300, 340), (3, None, 120), (12, 460, 500),
    ],
)  # fmt: skip
def test_a_wrong_stamp_costs_itself_alone(order: list[int], wrong: int, stamp: int | None, right: int) -> None:
    """A repeated one, and a missing one: the frame gets the time that is left free."""
    pts: list[int | None] = [SHOWN[n] for n in order]
    pts[list(order).index(wrong)] = stamp
    fixed = [*SHOWN[:wrong], right, *SHOWN[wrong + 1 :]]
    np.testing.assert_allclose(seconds(pts), np.array(fixed) / 1000, atol=1e-9)


@pytest.mark.parametrize("stamp", [90_000, -5000, 400])
def test_a_jump_costs_itself_alone(stamp: int) -> None:
    assert seconds([*SHOWN[:7], stamp, *SHOWN[8:]]) == pytest.approx(
        [time / 1000 for time in [*SHOWN[:7], 300, *SHOWN[8:]]]
    )


def test_a_jump_is_found_with_b_frames_too() -> None:
    times = [40 * n for n in range(100)]
    stored = [0, *(n for last in range(3, 100, 3) for n in (last, last - 2, last - 1))]
    assert sorted(stored) == list(range(100))
    pts: list[int | None] = [times[n] for n in stored]
    pts[stored.index(50)] = 10**7
    np.testing.assert_allclose(seconds(pts), np.array(times) / 1000, atol=1e-9)


def test_repeated_stamps_share_the_time_up_to_the_next() -> None:
    assert seconds([0, 0, 0, 120, 160]) == [0, 0.04, 0.08, 0.12, 0.16]
    assert seconds([0, 1, 1, 1, 2, 3]) == pytest.approx([0, 0.001, 0.004 / 3, 0.005 / 3, 0.002, 0.003], abs=1e-5)
    assert seconds([0, 40, 80, 80]) == [0, 0.04, 0.08, 0.12], "at the end as the others"
    assert seconds([None, 40, 80, 120, 160, 200, 240, 280, 320, 360]) == pytest.approx(np.arange(10) * 0.04)


def test_a_first_frame_of_another_clock() -> None:
    """Recordings of streams begin so."""
    later = [3_600_000 + 40 * n for n in range(20)]
    assert seconds([0, *later]) == pytest.approx([3600 - 0.04 + 0.04 * n for n in range(21)])
    assert seconds([*later, 9_999_999_999]) == pytest.approx([3600 + 0.04 * n for n in range(21)])


def test_stamps_that_say_nothing() -> None:
    """All alike, or none: frames are counted, at the file's rate."""
    for pts in ([5] * 20, [None] * 20, [*range(10), *[None] * 10]):
        index = make_index([Stamp(time, False) for time in pts], MS, Fraction(50))
        assert index.numbers == {}
        assert index.timeline == (list(range(20)), Fraction(1, 50), Fraction(50))
    assert make_index([], MS, None).timeline.pts == []
    assert make_index([Stamp(3, True)], MS, None).timeline.rate == 25


def test_true_times_stay_as_they_are() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        shown = np.cumsum(random.integers(1, 400, 60)).tolist()
        assert seconds(shown) == [time / 1000 for time in shown]
    index = make_index([Stamp(SHOWN[n], n in (0, 9)) for n in STORED], MS, Fraction(1000))
    assert index.timeline.pts == SHOWN
    assert index.starts == [(0, None), (9, 380)]
    assert float(index.timeline.rate) == pytest.approx(20 / 0.82, rel=0.01), "what the file says is far off"


def write_stamped(path: Path, stamps: dict[int, int], num_frames: int = 24) -> None:
    """A video of 25 frames a second with sound of which some packets carry the stamp of another; a key each 6."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25, options={"crf": "12", "preset": "ultrafast", "bf": "0"})
        video.width, video.height, video.pix_fmt, video.gop_size = 128, 96, "yuv420p", 6
        audio = out.add_stream("aac", rate=16000, layout="mono")
        packets = []
        for n in range(num_frames):
            image = green_frame(96, 128, 20 + 2 * n, 30, 40)
            packets += video.encode(av.VideoFrame.from_ndarray(image, format="rgb24"))
        for n, packet in enumerate([*packets, *video.encode()]):
            packet.pts = packet.dts = stamps.get(n, n)
            out.mux(packet)
        wave = (np.sin(np.arange(640 * num_frames) / 5) * 9000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        frame.sample_rate = 16000
        for part in av.AudioResampler(format="fltp", layout="mono", rate=16000, frame_size=1024).resample(frame):
            out.mux(audio.encode(part))
        out.mux(audio.encode())


def test_a_driver_with_one_repeated_stamp_keeps_its_length_and_its_sound(tmp_path: Path) -> None:
    write_stamped(tmp_path / "d.mkv", {10: 9})
    driver = driver_of(tmp_path / "d.mkv")
    left = driver.points[:, :, 0].mean(1)
    np.testing.assert_allclose(np.diff(left), 2, atol=0.3)
    render(driver, tmp_path / "out.mp4")
    np.testing.assert_allclose(times(tmp_path / "out.mp4"), np.arange(24) * 0.04, atol=0.0015)
    assert abs(len(sound(tmp_path / "out.mp4")[1]) / 16000 - 0.96) < 0.15


@pytest.mark.parametrize("numbers", [[10], [9, 11], [10, 23], [0, 5, 19], list(range(24))])
def test_frames_are_found_by_number_around_a_repeated_stamp(tmp_path: Path, numbers: list[int]) -> None:
    """Also where a key frame's is repeated: 12 and 18 are keys."""
    write_stamped(tmp_path / "d.mkv", {10: 9, 19: 18})
    with Video(tmp_path / "d.mkv") as video:
        found = {n: GreenFace().boxes(image)[0, 0] for n, image in video.read(numbers)}
    assert found.keys() == set(numbers)
    for n, left in found.items():
        assert abs(left - (20 + 2 * n)) <= 1, n


def test_a_cut_driver_keeps_its_times(tmp_path: Path) -> None:
    write_stamped(tmp_path / "d.mkv", {3: 2})
    timeline = follow_driver(tmp_path / "d.mkv", GreenFace(), Framing(), max_frames=6).timeline
    assert [float((t - timeline.pts[0]) * timeline.time_base) for t in timeline.pts] == pytest.approx(
        np.arange(6) * 0.04, abs=0.0015
    )
