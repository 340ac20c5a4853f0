"""Videos of all sorts as drivers, and the videos that are written: time, sound, rotation, and nothing half-done."""

import struct
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from talkinghead.faces.crop import Framing
from talkinghead.reenactment.animation import Look, animate, driving_points
from talkinghead.reenactment.driver import Driver, follow_driver, record
from talkinghead.types import Frames
from talkinghead.video.writer import VideoWriter
from tests.helpers.preparation_videos import GreenFace, green_frame, write_clip, write_video

SIZE = 32


def write_sounding(path: Path, times_ms: list[int], codec: str = "aac", container: str | None = None) -> None:
    """A green square shown at these times, with a tone of 440 Hz; the sound starts with the picture."""
    rate = 16000
    with av.open(str(path), "w", format=container) as out:
        video = out.add_stream("libx264", rate=25, options={"crf": "12", "preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 128, 96, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        audio = out.add_stream(codec, rate=rate, layout="mono")
        seconds = (times_ms[-1] - times_ms[0] + 40) / 1000
        tone = (np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate) * 8000).astype(np.int16)
        for n, time in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(green_frame(96, 128, 20 + 2 * n, 30, 40), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            out.mux(video.encode(frame))
        out.mux(video.encode())
        resampler = av.AudioResampler(format=audio.codec_context.format, layout="mono", rate=rate)
        for first in range(0, len(tone), 1024):
            sound = av.AudioFrame.from_ndarray(tone[None, first : first + 1024], format="s16", layout="mono")
            sound.sample_rate, sound.time_base = rate, Fraction(1, rate)
            sound.pts = first + times_ms[0] * rate // 1000
            for part in resampler.resample(sound):
                out.mux(audio.encode(part))
        out.mux(audio.encode())


def times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [round(float(frame.pts * frame.time_base), 3) for frame in container.decode(video=0)]


def sound(path: Path) -> tuple[str, np.ndarray, float]:
    """Codec, samples and the second of the first one."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        codec = container.streams.audio[0].codec_context.codec.canonical_name
        samples = np.concatenate([frame.to_ndarray().mean(0) for frame in frames])
        return codec, samples, float(frames[0].pts * frames[0].time_base)


def driver_of(path: Path, **options) -> Driver:
    return follow_driver(path, GreenFace(), Framing(), **options)


def echo(driving: Frames) -> torch.Tensor:
    """A method that shows the driver."""
    return driving.images


def render(driver: Driver, output: Path, look: Look = Look(size=64, sheet=3), reenact=echo) -> Path | None:  # noqa: B008
    points = driving_points(driver, driver.points_of(SIZE)[0], SIZE)
    return animate(reenact, driver, points, None, output, look, SIZE, batch=4)


UNEVEN = [200, 240, 300, 340, 440, 480, 520, 640]


@pytest.mark.parametrize(
    ("codec", "ending", "kept"),
    [
        ("aac", "mp4", "aac"), ("pcm_s16le", "mkv", "aac"), ("libmp3lame", "mp4", "mp3"), ("libmp3lame", "mkv", "mp3"),
        ("libmp3lame", "ts", "mp3"),
    ],
)  # fmt: skip
def test_frames_keep_their_times_and_the_sound_goes_along(tmp_path: Path, codec: str, ending: str, kept: str) -> None:
    source, output = tmp_path / f"driver.{ending}", tmp_path / "out.mp4"
    write_sounding(source, UNEVEN, codec)
    first = times(source)[0]
    assert render(driver_of(source), output) == tmp_path / "out.png"
    np.testing.assert_allclose(times(output), np.array(times(source)) - first, atol=0.0015)
    name, samples, start = sound(output)
    assert name == kept
    assert abs(start) < 0.03
    assert 0.35 < len(samples) / 16000 < 0.65
    spectrum = np.abs(np.fft.rfft(samples[2000:6096]))
    assert abs(np.argmax(spectrum) * 16000 / 4096 - 440) < 10, "it is the tone"
    with av.open(str(output)) as container:
        video = container.streams.video[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (video.width, video.height) == (64, 64)


def test_a_driver_without_sound_and_one_that_shall_be_silent(tmp_path: Path) -> None:
    write_clip(tmp_path / "mute.mp4", 5)
    write_sounding(tmp_path / "loud.mp4", UNEVEN)
    render(driver_of(tmp_path / "mute.mp4"), tmp_path / "a.mp4")
    render(driver_of(tmp_path / "loud.mp4"), tmp_path / "b.mp4", Look(sound=False, size=None, sheet=0))
    assert not (tmp_path / "b.png").exists()
    for name, frames in (("a.mp4", 5), ("b.mp4", len(UNEVEN))):
        with av.open(str(tmp_path / name)) as container:
            assert not container.streams.audio
            assert sum(1 for _ in container.decode(video=0)) == frames


def test_the_result_shows_what_the_method_draws(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", 5)
    render(driver_of(tmp_path / "clip.mp4"), tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        frame = next(container.decode(video=0))
    assert frame.colorspace == 1, "the colours say what they are: BT.709"
    np.testing.assert_allclose(frame.to_ndarray(format="rgb24")[32, 32], (20, 220, 20), atol=6)


def test_a_turned_phone_video_is_seen_upright(tmp_path: Path) -> None:
    path = tmp_path / "phone.mp4"
    write_video(path, [green_frame(96, 128, 10 + n, 5, 40) for n in range(4)])
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    quarter = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    content = path.read_bytes()
    track = content.index(b"tkhd")
    path.write_bytes(content[:track] + content[track:].replace(identity, quarter, 1))
    driver = driver_of(path)
    assert next(iter(driver.images())).shape == (128, 96, 3)
    way = driver.points[-1].mean(0) - driver.points[0].mean(0)
    np.testing.assert_allclose(way, (0, 3), atol=0.3)  # to the right in the file is down on the screen
    render(driver, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        frame = next(container.decode(video=0))
        assert frame.rotation == 0
        assert frame.to_ndarray(format="rgb24")[32, 32, 1] > 180


def test_an_interrupted_video_leaves_no_file_and_an_old_one_as_it_was(tmp_path: Path) -> None:
    write_sounding(tmp_path / "clip.mp4", UNEVEN)
    driver = driver_of(tmp_path / "clip.mp4")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "old.mp4").write_bytes(b"old")
    calls = []

    def interrupted(driving: Frames) -> torch.Tensor:
        calls.append(1)
        if len(calls) % 2 == 0:
            raise KeyboardInterrupt
        return driving.images

    for name in ("old.mp4", "new.mp4"):
        with pytest.raises(KeyboardInterrupt):
            render(driver, folder / name, reenact=interrupted)
    assert [path.name for path in folder.iterdir()] == ["old.mp4"]
    assert (folder / "old.mp4").read_bytes() == b"old"


def test_a_movie_without_frames_is_an_error_and_no_file(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="no frame"),
        VideoWriter(tmp_path / "a.mp4", 64, 64, Fraction(25), Fraction(1, 25)),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_long_clip_may_be_cut_and_the_sound_with_it(tmp_path: Path) -> None:
    write_sounding(tmp_path / "clip.mp4", list(range(0, 1600, 40)))
    driver = driver_of(tmp_path / "clip.mp4", max_frames=10)
    assert len(driver.points) == 10
    render(driver, tmp_path / "out.mp4")
    assert len(times(tmp_path / "out.mp4")) == 10
    assert len(sound(tmp_path / "out.mp4")[1]) / 16000 < 0.6


def test_what_is_wrong_with_a_driver_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4"):
        driver_of(tmp_path / "gone.mp4")
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.mp4: cannot be read as a video \(Invalid data"):
        driver_of(tmp_path / "text.mp4")
    write_video(tmp_path / "empty.mp4", [green_frame(96, 128, 0, 0, 0)] * 3)
    with pytest.raises(ValueError, match=r"empty\.mp4: no face found"):
        driver_of(tmp_path / "empty.mp4")
    write_clip(tmp_path / "small.mp4", 3, side=20)
    with pytest.raises(ValueError, match=r"small\.mp4: the face is 20 pixels wide"):
        driver_of(tmp_path / "small.mp4")


def test_points_of_a_driver_for_a_person_without_landmarks(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", 3)
    driver = driver_of(tmp_path / "clip.mp4")
    assert np.array_equal(driving_points(driver, None, SIZE, "absolute"), driver.points_of(SIZE))
    with pytest.raises(ValueError, match="source=FILE, or adapt=absolute"):
        driving_points(driver, None, SIZE)
    with pytest.raises(ValueError, match="frames 0 to 2"):
        driving_points(driver, driver.points_of(SIZE)[0], SIZE, reference=3)


class Camera:
    """Gives five pictures (BGR), then is pulled out."""

    def __init__(self, number: int) -> None:
        self.left = 5 if number == 0 else 0

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(0.01)
        self.left -= 1
        return self.left >= 0, green_frame(97, 129, 30, 20, 40)[..., ::-1] if self.left >= 0 else None

    def release(self) -> None:
        pass


def test_a_camera_is_recorded_and_then_a_driver_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("talkinghead.reenactment.driver.cv2.VideoCapture", Camera)
    told: list[str] = []
    record(0, 60.0, tmp_path / "camera.mp4", told.append)
    assert len(told) == 1
    driver = driver_of(tmp_path / "camera.mp4")
    assert len(driver.points) == 5
    assert next(iter(driver.images())).shape == (96, 128, 3)
    with pytest.raises(ValueError, match="driving=1: the camera gives no picture"):
        record(1, 60.0, tmp_path / "none.mp4")
    assert not (tmp_path / "none.mp4").exists()


def test_pictures_that_are_not_finite_are_no_video(tmp_path: Path) -> None:
    def broken(frames: Frames) -> torch.Tensor:
        return torch.full_like(frames.images, torch.nan)

    write_clip(tmp_path / "driver.mp4", 5)
    with pytest.raises(ValueError, match="driving frames 0 to 3 is not finite"):
        render(driver_of(tmp_path / "driver.mp4"), tmp_path / "out.mp4", reenact=broken)
    assert [path.name for path in tmp_path.iterdir()] == ["driver.mp4"]
