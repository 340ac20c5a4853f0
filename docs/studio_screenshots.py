"""The pictures of docs/studio.md: `python -m docs.studio_screenshots docs`: a minute on a CPU, synthetic faces."""

import sys
import tempfile
from pathlib import Path

from hydra import compose, initialize_config_dir
from playwright.sync_api import Page, expect

from talkinghead.cli import CONF
from talkinghead.cli.studio import about_model, build_animator, find_examples
from talkinghead.provenance import OriginStatement, marked
from talkinghead.studio.animate_page import Examples
from talkinghead.studio.app import build_app, launch
from talkinghead.studio.job_queue import JobQueue
from tests.helpers.browser import WHY, open_chromium


def save(content: bytes, path: Path) -> None:
    """A JPEG; it says that generated pixels are in it."""
    path.write_bytes(marked(content, OriginStatement(composite=True)))
    print(path, f"{path.stat().st_size / 1000:.0f} kB")


def show(page: Page, url: str, target: Path, folder: Path) -> None:
    """Refused, learning, done."""
    page.set_default_timeout(120_000)
    expect.set_options(timeout=120_000)
    page.goto(url)
    letter = folder / "letter.jpg"
    letter.write_text("not a picture")
    page.locator("#portraits input[type=file]").first.set_input_files(str(letter))
    expect(page.locator("#panel [role=alert]")).to_be_visible()
    save(page.locator("#panel").screenshot(type="jpeg", quality=90), target / "studio_refused.jpg")
    page.locator("#example-portraits .thumbnail-item").first.click()
    page.get_by_label("lively").check()
    page.wait_for_timeout(1500)
    page.locator("#go").click()
    for _ in range(600):  # until well into learning
        page.wait_for_timeout(200)
        bar = page.locator("#panel .row.now + .bar[aria-label='Learning the person']")
        if bar.count() and int(bar.get_attribute("aria-valuenow") or 0) > 60 and page.locator("#panel img").count():
            break
    save(page.screenshot(full_page=True, type="jpeg", quality=85), target / "studio_learning.jpg")
    expect(page.locator("#result video")).to_be_visible()
    page.locator("#result video").evaluate("video => { video.pause(); video.currentTime = 2.5 }")
    expect(page.locator("#sheet img")).to_be_visible()
    page.wait_for_timeout(1500)
    save(page.screenshot(full_page=True, type="jpeg", quality=85), target / "studio.jpg")


def main(target: Path) -> None:
    """Start the studio as it comes, and look at it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("studio", [f"paths.root_dir={CONF.parent}", f"hydra.runtime.cwd={CONF.parent}"])
    animator = build_animator(cfg)
    with tempfile.TemporaryDirectory() as folder, open_chromium() as browser:
        if browser is None:
            sys.exit(WHY)
        queue, examples = JobQueue(Path(folder) / "work"), Examples(**find_examples())
        app = build_app(animator, queue, examples, about_model(cfg, animator), Path(folder) / "files")
        url = launch(app, "127.0.0.1", None, animator.limits.megabytes, prevent_thread_lock=True)
        show(browser.new_page(viewport={"width": 1280, "height": 800}), url, target, Path(folder))
        app.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
