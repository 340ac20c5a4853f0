"""The page "Animate" in a real browser: upload, run, see the video play; a bad file; stop; leave; nothing stays."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import cv2
import pytest
from playwright.sync_api import Page, expect

from talkinghead.provenance.reading import read
from talkinghead.studio.animate_page import Examples
from talkinghead.studio.app import build_app, launch
from talkinghead.studio.job_queue import JobQueue
from talkinghead.study.build import make_study
from tests.helpers.browser import chromium, page  # noqa: F401, fixtures
from tests.helpers.evaluation_pictures import write_evaluation
from tests.helpers.preparation_videos import green_frame, write_clip
from tests.helpers.studio_parts import ENDLESS, LIMITS, make_animator, write_examples

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")]
PATIENCE = 30  # seconds; machines differ
PLAYS = "async video => { const start = video.currentTime; await new Promise(done => setTimeout(done, 300)); "
PLAYS += "return video.readyState >= 2 && video.videoWidth > 0 && video.currentTime != start }"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What visitors leave: `files` and `work`."""
    return tmp_path_factory.mktemp("studio")


@pytest.fixture(scope="module")
def url(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    examples = write_examples(tmp_path_factory.mktemp("examples"))
    app = build_app(
        make_animator(), JobQueue(folder / "work"), examples, "It has never seen a **face**.", folder / "files"
    )
    yield launch(app, "127.0.0.1", None, LIMITS.megabytes, prevent_thread_lock=True)
    app.close()


@pytest.fixture
def studio(page: Page, url: str) -> Page:  # noqa: F811
    """The page, loaded."""
    page.set_default_timeout(1000 * PATIENCE)
    expect.set_options(timeout=1000 * PATIENCE)
    page.goto(url)
    expect(page.locator("#go")).to_be_enabled()
    return page


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A visitor's: two portraits, a driver of two seconds, a text that says it is a picture."""
    for name in ("me.png", "me too.png"):
        cv2.imwrite(str(tmp_path / name), green_frame(120, 120, 30, 30, 60)[..., ::-1])
    write_clip(tmp_path / "my clip.mp4", 50)
    (tmp_path / "letter.jpg").write_text("not a picture")
    (tmp_path / "large.jpg").write_bytes(bytes(3_000_000))
    return tmp_path


def give(page: Page, where: str, *paths: Path) -> None:  # noqa: F811
    """Drop files."""
    page.locator(f"{where} input[type=file]").first.set_input_files([str(path) for path in paths])


def choose_steps(page: Page, steps: int) -> None:  # noqa: F811
    number = page.locator("#steps input[type=number]")
    number.fill(str(steps))
    number.blur()


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_visitors_portraits_and_driver_become_a_video_that_plays(studio: Page, files: Path, folder: Path) -> None:
    expect(studio.locator("#intro")).to_contain_text("It has never seen a face.")
    expect(studio.locator("#consent")).to_contain_text("whose owner has agreed")
    give(studio, "#portraits", files / "me.png", files / "me too.png")
    expect(studio.locator("#portraits .thumbnail-item")).to_have_count(2)
    studio.get_by_label("my own").check()
    give(studio, "#driver", files / "my clip.mp4")
    expect(studio.locator("#driver video")).to_be_visible()
    choose_steps(studio, 3)
    studio.locator("#go").click()
    expect(studio.locator("#panel .row.done")).to_have_count(4)
    video = studio.locator("#result video")
    expect(video).to_be_visible()
    wait_until(lambda: video.evaluate(PLAYS))
    assert video.evaluate("video => video.videoWidth / video.videoHeight") == 3, "source, driver and result"
    assert round(video.evaluate("video => video.duration")) == 2
    expect(studio.locator("#sheet img")).to_be_visible()
    for button in ("#video-file", "#sheet-file"):
        with studio.expect_download() as download:
            studio.locator(button).click()
        content = download.value.path().read_bytes()
        assert any("rainedAlgorithmicMedia" in str(statement) for statement in read(content)), button
    assert not list((folder / "work").iterdir())


@pytest.mark.parametrize(("name", "codec"), [("clip.avi", "mpeg4"), ("phone.mov", "hevc")])
def test_a_driver_that_browsers_do_not_play_is_shown_and_used(
    name: str, codec: str, studio: Page, files: Path, folder: Path
) -> None:
    with av.open(str(files / name), "w") as container:
        stream = container.add_stream(codec, rate=25, width=320, height=240, pix_fmt="yuv420p")
        for n in range(50):
            frame = av.VideoFrame.from_ndarray(green_frame(320, 240, 40 + n, 60, 60), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    give(studio, "#portraits", files / "me.png")
    expect(studio.locator("#portraits .thumbnail-item")).to_have_count(1)
    studio.get_by_label("my own").check()
    give(studio, "#driver", files / name)
    shown = studio.locator("#driver video")
    expect(shown).to_be_visible()
    wait_until(lambda: shown.evaluate("video => video.currentSrc.includes('preview_') && video.readyState >= 2"))
    assert shown.evaluate("video => [video.videoWidth, video.videoHeight]") == [320, 240]
    wait_until(lambda: len(list((folder / "files").rglob("preview_*.mp4"))) == 1)  # Gradio's, which goes with the rest
    choose_steps(studio, 0)
    studio.locator("#go").click()
    expect(studio.locator("#result video")).to_be_visible()
    for copy in (folder / "files").rglob("preview_*.mp4"):
        copy.unlink()


def test_examples_work_at_once(studio: Page) -> None:
    studio.locator("#example-portraits .thumbnail-item").nth(1).click()
    expect(studio.locator("#portraits .thumbnail-item")).to_have_count(1)
    assert studio.locator("#driver video").evaluate("video => video.currentSrc.endsWith('calm.mp4')")
    choose_steps(studio, 0)
    studio.locator("#go").click()
    expect(studio.locator("#result video")).to_be_visible()


def test_bad_files_are_refused_in_words(studio: Page, url: str, files: Path) -> None:
    alert = studio.locator("#panel [role=alert]")
    studio.locator("#go").click()
    expect(alert).to_contain_text("Give at least one portrait")
    give(studio, "#portraits", files / "large.jpg")
    expect(studio.get_by_text("exceed the maximum allowed size")).to_be_visible()
    give(studio, "#portraits", files / "letter.jpg")
    expect(alert).to_contain_text("letter.jpg is not a picture that can be read here: JPEG, PNG, WebP, BMP or TIFF.")
    studio.locator("#go").click()
    expect(alert).to_contain_text("letter.jpg is not a picture")
    expect(studio.locator("#go")).to_be_enabled()
    sent = {"files": {"name": "large.jpg", "mimeType": "image/jpeg", "buffer": bytes(3_000_000)}}
    assert studio.request.post(f"{url}gradio_api/upload", multipart=sent).status == 413, "the server looks, too"


def test_stop_ends_the_work_and_keeps_nothing(studio: Page, folder: Path) -> None:
    studio.locator("#example-portraits .thumbnail-item").first.click()
    expect(studio.locator("#portraits .thumbnail-item")).to_have_count(1)
    choose_steps(studio, ENDLESS)
    studio.locator("#go").click()
    preview = studio.locator("#panel img")
    expect(preview).to_be_visible()
    before = preview.get_attribute("src")
    wait_until(lambda: preview.get_attribute("src") != before)
    expect(studio.locator("#panel")).to_contain_text("s left")
    studio.locator("#stop").click()
    expect(studio.locator("#panel")).to_contain_text("Stopped. Nothing was kept.")
    wait_until(lambda: not list((folder / "work").iterdir()))
    choose_steps(studio, 0)
    studio.locator("#go").click()
    expect(studio.locator("#result video")).to_be_visible()


def test_one_after_the_other_and_who_leaves_is_not_waited_for(studio: Page, url: str, folder: Path) -> None:
    second = studio.context.new_page()
    second.goto(url)
    for one in (studio, second):
        one.locator("#example-portraits .thumbnail-item").first.click()
        expect(one.locator("#portraits .thumbnail-item")).to_have_count(1)
        choose_steps(one, ENDLESS if one is studio else 0)
        one.locator("#go").click()
        if one is studio:
            expect(one.locator("#panel")).to_contain_text("Learning the person")
    expect(second.locator("#panel")).to_contain_text("Waiting for the one before you")
    assert len(list((folder / "work").iterdir())) == 1
    studio.close()
    expect(second.locator("#result video")).to_be_visible()
    wait_until(lambda: not list((folder / "work").iterdir()))


def test_files_go_after_a_while_and_examples_stay(page: Page, files: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "examples").mkdir()
    app = build_app(
        make_animator(),
        JobQueue(tmp_path / "work"),
        write_examples(tmp_path / "examples"),
        "",
        tmp_path / "files",
        keep=1,
    )
    url = launch(app, "127.0.0.1", None, LIMITS.megabytes, prevent_thread_lock=True)
    page.goto(url)
    give(page, "#portraits", files / "me.png")
    expect(page.locator("#portraits .thumbnail-item")).to_have_count(1)
    wait_until(lambda: not list((tmp_path / "files").rglob("me.png")))
    page.reload()
    wait_until(lambda: page.locator("#driver video").evaluate("video => video.readyState >= 1"))
    app.close()


def test_a_broken_studio_says_so_and_is_not_stuck(page: Page, tmp_path: Path) -> None:  # noqa: F811
    class Broken(JobQueue):
        def begin(self, turn: str, work: object) -> None:
            raise KeyError("a secret of the machine")

    (tmp_path / "examples").mkdir()
    queue, examples = Broken(tmp_path / "work"), write_examples(tmp_path / "examples")
    app = build_app(make_animator(), queue, examples, "", tmp_path / "files")
    page.goto(launch(app, "127.0.0.1", None, LIMITS.megabytes, prevent_thread_lock=True))
    page.locator("#go").click()
    expect(page.locator("#panel [role=alert]")).to_contain_text("Something went wrong that should not have.")
    expect(page.locator("#go")).to_be_enabled()
    assert "secret" not in page.content()
    app.close()


def test_the_study_is_the_second_page(page: Page, tmp_path: Path) -> None:  # noqa: F811
    study = make_study(write_evaluation(tmp_path / "evaluation"), tmp_path / "study")
    app = build_app(make_animator(), JobQueue(tmp_path / "work"), Examples({}, {}), "", tmp_path / "files", study=study)
    page.goto(launch(app, "127.0.0.1", None, LIMITS.megabytes, prevent_thread_lock=True))
    expect(page.get_by_role("heading", name="Bring a portrait to life")).to_be_visible()
    page.get_by_role("link", name="User study").click()
    page.get_by_role("button", name="Begin").click()
    page.wait_for_selector('[data-number="1"]')
    page.keyboard.press("1")
    page.wait_for_selector('[data-number="2"]')
    assert len((study.folder / "answers.csv").read_text().splitlines()) == 2
    app.close()
