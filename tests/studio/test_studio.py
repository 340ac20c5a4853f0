"""The studio without a browser: uploads, words, jobs that end when told to, files that go away."""

import errno
import io
import logging
import os
import socket
import struct
import time
import zlib
from pathlib import Path

import av
import cv2
import gradio
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from talkinghead.cli import studio as entry
from talkinghead.cli.launch import VERBS
from talkinghead.learners.finetune import FineTuningFailed
from talkinghead.provenance.reading import read
from talkinghead.reenactment.animation import Look
from talkinghead.reenactment.inputs import SHIPPED, file_arguments
from talkinghead.studio.animate_page import AnimatePage, Examples, original_of
from talkinghead.studio.animator import AnimateRequest, Animator
from talkinghead.studio.app import launch
from talkinghead.studio.job import Job, JobProgress, Phase, State, Stopped
from talkinghead.studio.job_queue import JobQueue
from talkinghead.studio.messages import OUT_OF_MEMORY, UNEXPECTED, explain
from talkinghead.studio.uploads import (
    Limits,
    Refused,
    admit_pictures,
    admit_video,
    check_picture,
    check_video,
    playable,
    write_preview,
)
from talkinghead.studio.view import draw_message, draw_state
from talkinghead.video.reader import Video
from tests.helpers.preparation_videos import green_frame, write_clip
from tests.helpers.studio_parts import ENDLESS, LIMITS, make_animator, make_networks, write_examples


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return write_examples(tmp_path_factory.mktemp("examples"))


@pytest.fixture
def animator() -> Animator:
    return make_animator()


def wish_for(examples: Examples, steps: int = 0, **look: bool) -> AnimateRequest:
    return AnimateRequest((examples.portraits["ann"],), examples.drivers["calm"], steps, look=Look(size=64, **look))


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and is not."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT")
    parts = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.jpg", b"this is not a picture", "text.jpg is not a picture that can be read here: JPEG"),
        ("empty.png", b"", "empty.png is empty"),
        ("phone.jpg", b"\0\0\0\x18ftypheic\0\0\0\0", "Telephones can save pictures as JPEG"),
        ("bomb.png", png_of(60000, 60000), "damaged, or far too large"),
        ("large.png", png_of(3000, 1000), "3000 x 1000 pixels: make it smaller, 2 million"),
        ("broken.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF\0broken", "cannot be read as a picture"),
        ("huge.jpg", b"\xff\xd8\xff" + bytes(2_100_000), "huge.jpg has 2 MB: 2 MB are the limit"),
    ],
)
def test_pictures_are_judged_by_their_content(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refused, match=message):
        check_picture(tmp_path / name, LIMITS)


def sound_only() -> bytes:
    """An MP4 without pictures."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for n in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.rate, frame.pts = 16000, n * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.mp4", b"this is not a video, but long enough", "text.mp4 is not a video that can be read here: MP4"),
        ("list.mp4", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "not a video"),  # FFmpeg would open what it names
        ("list.avi", b"ffconcat version 1.0\nfile /etc/passwd\n", "not a video"),
        ("phone.mp4", b"\0\0\0\x18ftypheic\0\0\0\0", "not a video"),
        ("sound.mp4", sound_only(), "only sound"),
        ("broken.mp4", b"\0\0\0\x18ftypisom\0\0\0\0" + bytes(100), "damaged"),
    ],
)
def test_videos_are_judged_by_their_content(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refused, match=message):
        check_video(tmp_path / name, LIMITS)


@pytest.mark.parametrize(
    ("name", "codec", "suffix"),
    [
        ("a.mov", "libx264", ".mp4"),
        ("a.webm", "libvpx-vp9", ".mkv"),
        ("a.mkv", "libx264", ".mkv"),
        ("a.avi", "mpeg4", ".avi"),
    ],
)
def test_the_usual_videos_are_taken(animator: Animator, tmp_path: Path, name: str, codec: str, suffix: str) -> None:
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for n in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(green_frame(96, 128, 30 + n, 30, 40), "rgb24")))
        container.mux(stream.encode())
    assert check_video(tmp_path / name, LIMITS) == suffix
    cv2.imwrite(str(tmp_path / "me.jpg"), green_frame(120, 120, 30, 30, 60)[..., ::-1])
    state, _ = run(animator, AnimateRequest((tmp_path / "me.jpg",), tmp_path / name), tmp_path / "work")
    assert state.error is None
    assert state.phases[-1].done == 5


def test_uploads_are_limited_and_copied_under_plain_names(examples: Examples, tmp_path: Path) -> None:
    misnamed = tmp_path / "<b>evil name.mov.jpg"
    misnamed.write_bytes(examples.drivers["calm"].read_bytes())
    (folder := tmp_path / "work").mkdir()
    assert admit_video(misnamed, folder, LIMITS) == {folder / "driver.mp4": misnamed.name}
    with pytest.raises(Refused, match=r"0 seconds long: cut it first, 0\.2 seconds"):
        admit_video(misnamed, folder, Limits(seconds=0.2))
    portraits = list(examples.portraits.values())
    assert list(admit_pictures(portraits, folder, LIMITS)) == [folder / "portrait 1.png", folder / "portrait 2.png"]
    with pytest.raises(Refused, match="4 pictures are too many: choose up to 3"):
        admit_pictures([*portraits, *portraits], folder, LIMITS)
    with pytest.raises(Refused, match="at least one portrait"):
        admit_pictures([], folder, LIMITS)
    with pytest.raises(Refused, match="Choose a driver"):
        admit_video(None, folder, LIMITS)
    with pytest.raises(ValueError, match=r"limits\.seconds=0: a number from 0\.01"):
        Limits(seconds=0)


def run(
    animator: Animator, asked: AnimateRequest, folder: Path, reports: JobProgress | None = None
) -> tuple[State, dict[Path, str]]:
    """One job to its end."""
    names: dict[Path, str] = {}
    job = Job(lambda reports, folder: animator(asked, names, reports, folder), folder)
    job.reports = reports or job.reports
    return list(job.states())[-1], names


def test_a_wish_becomes_a_video_that_says_it_is_generated(
    animator: Animator, examples: Examples, tmp_path: Path
) -> None:
    state, _ = run(animator, wish_for(examples, side_by_side=True), tmp_path / "work")
    assert state.error is None
    assert [phase.name for phase in state.phases] == [
        "looking at the source", "following the driver", "learning the person", "drawing",
    ]  # fmt: skip
    assert all(phase.end is not None for phase in state.phases)
    with av.open(str(state.result.video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert np.shape(frames) == (12, 64, 3 * 64, 3)
    for file in state.result:
        assert any("rainedAlgorithmicMedia" in str(statement) for statement in read(file.read_bytes()))


def test_learning_shows_previews_and_leaves_the_networks_as_they_were(examples: Examples, tmp_path: Path) -> None:
    parts = make_networks()
    before = {name: value.clone() for name, value in parts.state_dict().items()}
    animator, seen = make_animator(parts=parts), []
    reports = JobProgress()
    show = reports.show
    reports.show = lambda preview: (seen.append(preview), show(preview))[1]  # type: ignore[method-assign]
    learned, _ = run(animator, wish_for(examples, 4), tmp_path / "a", reports)
    assert [picture.shape for picture in seen] == [(128, 4 * 128, 3)] * 4
    assert np.abs(seen[0].astype(int) - seen[-1]).max() > 2, "the person changes"
    assert learned.phases[2].done == learned.phases[2].total == 4
    for name, value in parts.state_dict().items():
        assert torch.equal(value, before[name]), name
    again, _ = run(animator, wish_for(examples, 4), tmp_path / "b")
    assert again.result.video.stat().st_size == learned.result.video.stat().st_size


class StopIn(JobProgress):
    """Is told to stop by the first sign of a phase."""

    def __init__(self, phase: str, done: int) -> None:
        super().__init__()
        self.place = phase, done

    def change(self, **parts: object) -> None:
        super().change(**parts)
        if self.state.phases and (self.state.phases[-1].name, self.state.phases[-1].done) == self.place:
            self.stop()


@pytest.mark.parametrize(
    ("phase", "done", "steps"),
    [
        ("looking at the source", 0, 0),
        ("following the driver", 3, 0),
        ("learning the person", 2, ENDLESS),
        ("drawing", 4, 0),
    ],
)
def test_it_stops_in_every_phase_and_leaves_nothing(
    animator: Animator, examples: Examples, tmp_path: Path, phase: str, done: int, steps: int
) -> None:
    state, _ = run(animator, wish_for(examples, steps), tmp_path / "work", StopIn(phase, done))
    assert isinstance(state.error, Stopped)
    assert (state.phases[-1].name, state.phases[-1].done) == (phase, done)
    assert not (tmp_path / "work").exists()
    after, _ = run(animator, wish_for(examples), tmp_path / "next")
    assert after.result.video.is_file(), "the next one is not kept waiting"


def test_what_went_wrong_is_told_with_the_visitors_names(animator: Animator, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "my wall.png"), green_frame(100, 100, 0, 0, 0))
    cv2.imwrite(str(tmp_path / "crowd.png"), green_frame(100, 100, 40, 40, 20))
    write_clip(tmp_path / "my clip.mp4", 4)
    write_clip(tmp_path / "nobody.mp4", 4, side=0)
    told = {}
    for portrait, driver in (("my wall.png", "my clip.mp4"), ("crowd.png", "my clip.mp4"), ("face.png", "nobody.mp4")):
        cv2.imwrite(str(tmp_path / "face.png"), green_frame(100, 100, 20, 20, 60))
        state, names = run(animator, AnimateRequest((tmp_path / portrait,), tmp_path / driver), tmp_path / "work")
        assert state.error is not None
        told[portrait] = explain(state.error, names)
        assert str(tmp_path) not in told[portrait]
        assert not (tmp_path / "work").exists()
    assert told["my wall.png"].startswith("No face was found in my wall.png. Use one in which")
    assert told["crowd.png"].startswith("The face in crowd.png is too small: ")
    assert told["face.png"].startswith("No face was found in nobody.mp4.")


def test_damaged_and_missing_uploads_are_the_visitors(animator: Animator, tmp_path: Path) -> None:
    good = cv2.imencode(".png", green_frame(100, 100, 20, 20, 60))[1].tobytes()
    (tmp_path / "half.png").write_bytes(good[: len(good) // 2])
    Image.fromarray(np.zeros((64, 64), np.float32), mode="F").save(tmp_path / "float.tif")
    (tmp_path / "whole.png").write_bytes(good)
    write_clip(tmp_path / "clip.mp4", 4)
    for portrait, driver, told in (
        ("half.png", "clip.mp4", "half.png is damaged, or of an unusual kind"),
        ("float.tif", "clip.mp4", "float.tif is damaged, or of an unusual kind"),
        ("gone.png", "clip.mp4", "is not here any more"),
        ("whole.png", "gone.mp4", "is not here any more"),
    ):
        asked = AnimateRequest((tmp_path / portrait,), tmp_path / driver)
        state, names = run(animator, asked, tmp_path / "work")
        assert state.error is not None
        assert told in explain(state.error, names), (portrait, driver)


@pytest.mark.parametrize(("error", "told"), [
    (ValueError("a.png: shows another person than b.png, and they would be blended"), "shows another person"),
    (ValueError("what the networks draw of driving frames 0 to 7 is not finite: the checkpoint"), "Try fewer steps"),
    (FineTuningFailed("fine-tuning failed in step 3: cnt is nan; try smaller"), "Try fewer steps"),
    (ValueError("only 46 of 100 frames are in /x/driver.mp4: was it half downloaded?"), "Only 46 of 100 frames are in"),
    (OSError(errno.ENOSPC, "No space left on device", "/tmp/x.mp4"), "is full"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "/tmp/x.png"), "not here any more"),
])  # fmt: skip
def test_errors_of_the_pipeline_have_sentences(error: Exception, told: str) -> None:
    assert told in explain(error, {})
    assert explain(error, {}) != UNEXPECTED


def test_unforeseen_errors_are_logged_and_told_kindly(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    with caplog.at_level(logging.ERROR):
        assert explain(KeyError(f"no {secret}"), {}) == UNEXPECTED
    assert str(secret) in caplog.text
    assert "KeyError" in caplog.text
    assert explain(MemoryError(), {}) == OUT_OF_MEMORY
    assert explain(Refused("<b>Too long.</b>"), {}) == "<b>Too long.</b>"
    assert "&lt;b&gt;" in draw_message("<b>Too long.</b>", wrong=True)


def test_the_time_left_follows_the_pace() -> None:
    phase = Phase("drawing", start=100.0, done=20, total=80)
    assert phase.left(110.0) == 30.0
    assert Phase("drawing", 100.0, total=80).left(110.0) is None
    now = time.monotonic()
    panel = draw_state(State((Phase("drawing", now - 10, 20, 80),)), ["a <note>"])
    assert 'aria-valuenow="25"' in panel
    assert "20 of 80, about 30 s left" in panel
    assert "a &lt;note&gt;" in panel


@pytest.fixture
def behind(animator: Animator, examples: Examples, tmp_path: Path) -> AnimatePage:
    return AnimatePage(animator, JobQueue(tmp_path / "work"), examples)


def test_the_page_hands_out_files_and_then_removes_them(
    behind: AnimatePage, examples: Examples, tmp_path: Path
) -> None:
    for outputs in behind.run(behind.enter("visitor"), wish_for(examples)):
        panel, video, *_, go, stop = outputs
        if video.value is None:
            assert (go.interactive, stop.interactive) == (False, True)
    assert (go.interactive, stop.interactive) == (True, False)
    assert "Drawing the video" in panel
    assert not list((tmp_path / "work").iterdir())


def test_a_visitor_stops_or_leaves_and_the_work_ends(behind: AnimatePage, examples: Examples, tmp_path: Path) -> None:
    going = behind.run(behind.enter("visitor"), wish_for(examples, ENDLESS))
    panel = next(going)[0]
    while "Learning the person" not in panel or " of " not in panel:
        panel = next(going)[0]
    assert "Stopped" in behind.stop("visitor")[0]
    assert all(outputs[1].value is None for outputs in going)
    leaving = behind.run(behind.enter("other"), wish_for(examples, ENDLESS))
    next(leaving)
    leaving.close()  # what Gradio does when a visitor's connection is gone
    deadline = time.monotonic() + 60
    while list((tmp_path / "work").iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_end_of_the_studio_ends_the_work(behind: AnimatePage, examples: Examples, tmp_path: Path) -> None:
    going = behind.run(behind.enter("visitor"), wish_for(examples, ENDLESS))
    next(going)
    behind.queue.close()
    assert not list((tmp_path / "work").iterdir())
    assert "Stopped" in list(going)[-1][0]


def test_who_stops_while_waiting_is_not_begun(behind: AnimatePage, examples: Examples, tmp_path: Path) -> None:
    turn = behind.enter("visitor")
    behind.stop("visitor")
    assert not list(behind.run(turn, wish_for(examples)))
    first, second = behind.enter("visitor"), behind.enter("visitor")
    assert not list(behind.run(first, wish_for(examples)))
    assert list(behind.run(second, wish_for(examples)))[-1][1].value is not None
    assert not list((tmp_path / "work").iterdir())


def test_files_are_looked_at_as_soon_as_they_come(behind: AnimatePage, examples: Examples, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    panel, kept = behind.look_at_portraits([examples.portraits["ann"], tmp_path / "text.jpg"])
    assert 'role="alert"' in panel
    assert kept == [str(tmp_path / "text.jpg")], "the example goes when a picture of the visitor's comes"
    assert behind.look_at_portraits([examples.portraits["ann"]])[0] == draw_message("")
    assert 'role="alert"' in behind.look_at_driver(tmp_path / "text.jpg")[0]


def configured(tmp_path: Path, *overrides: str) -> DictConfig:
    """What `python -m talkinghead.studio` composes from this command line."""
    with initialize_config_dir(str(entry.CONF), version_base="1.3"):
        given = [f"paths.root_dir={tmp_path}", "provenance=metadata", *overrides]
        return compose("studio", file_arguments(given, VERBS["studio"].files))


def test_the_command_loads_what_ships_and_says_what_it_is(tmp_path: Path) -> None:
    cfg = configured(tmp_path)
    assert (cfg.host, cfg.port) == ("127.0.0.1", 7860), "nobody else may come unless told otherwise"
    if not SHIPPED.is_file():
        pytest.skip("no shipped model in this checkout")
    animator = entry.build_animator(cfg)
    about = entry.about_model(cfg, animator)
    assert "synthetic heads only" in about
    assert "never seen a real face" in about
    assert animator.method(0) is not animator.method(3)
    examples = entry.find_examples()
    assert len(examples["portraits"]) >= 3
    assert len(examples["drivers"]) >= 2
    for path in examples["portraits"].values():
        assert check_picture(path, animator.limits) == ".jpg"
    for path in examples["drivers"].values():
        assert check_video(path, animator.limits) == ".mp4"
    assert "never" not in entry.about_model(configured(tmp_path, f"checkpoint={SHIPPED}"), animator)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["checkpoint=/nowhere/my model.ckpt"], r"checkpoint=/nowhere/my model\.ckpt: there is no such checkpoint"),
        (["limits.seconds=0"], r"limits\.seconds=0: a number from 0\.01"),
        (["study=/nowhere/study"], "/nowhere/study is no study"),
        (["settings.precision=fp8"], "precision=fp8: choose"),
    ],
)
def test_the_command_ends_with_one_line(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=f"studio: .*{message}"):
        entry.run_or_exit(configured(tmp_path, *overrides))


def test_a_taken_port_is_told() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"port={port} is taken: choose another"):
            launch(gradio.Blocks(), "127.0.0.1", port, 1)


def test_no_telemetry() -> None:
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert not gradio.analytics.analytics_enabled()


def test_a_video_that_browsers_do_not_play_gets_a_copy_that_they_do(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", 10)
    assert playable(tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, width=640, height=480, pix_fmt="yuv420p")
        for n in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((480, 640, 3), 20 * n, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert not playable(tmp_path / "clip.avi")
    assert playable(write_preview(tmp_path / "clip.avi", tmp_path / "preview.mp4"))
    with Video(tmp_path / "preview.mp4") as video:
        pictures = [image for _, image in video.read(range(video.num_frames))]
        assert video.fps == 25
    assert [image.shape for image in pictures] == [(360, 480, 3)] * 10
    assert [round(float(image.mean())) for image in pictures] == pytest.approx([20 * n for n in range(10)], abs=8)


def test_the_video_that_was_uploaded_is_used_and_not_the_copy_that_is_shown() -> None:
    assert original_of("/cache/9f/preview_1.mp4", {"preview_1.mp4": "/cache/3a/clip.avi"}) == Path("/cache/3a/clip.avi")
    assert original_of("/cache/9f/calm.mp4", {"preview_1.mp4": "/cache/3a/clip.avi"}) == Path("/cache/9f/calm.mp4")
    assert original_of(None, {}) is None
