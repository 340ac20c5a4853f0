"""A real headless Chromium for tests, where there is one: the system's, Playwright's own, or CHROMIUM=PROGRAM."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Error, Page, Playwright, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WHY = "no Chromium here: apt-get install chromium, or playwright install chromium"


def find_chromium(playwright: Playwright) -> str | None:
    """The program."""
    own = playwright.chromium.executable_path
    known = [os.environ.get("CHROMIUM"), *(shutil.which(name) for name in NAMES), own]
    return next((path for path in known if path and Path(path).is_file()), None)


@contextmanager
def open_chromium() -> Iterator[Browser | None]:
    """The browser; None where there is none, or it does not start."""
    with sync_playwright() as playwright:
        program = find_chromium(playwright)
        root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox refuses to run as root
        arguments = [*root, "--autoplay-policy=no-user-gesture-required"]
        try:
            browser = playwright.chromium.launch(executable_path=program, args=arguments) if program else None
        except Error:
            browser = None
        yield browser
        if browser:
            browser.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for the tests of a module; they are skipped where there is none."""
    with open_chromium() as browser:
        if browser is None:
            pytest.skip(WHY)
        yield browser


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A fresh page. In the end it has asked nobody but this computer for anything."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    asked: set[str | None] = set()
    opened.on("request", lambda request: asked.add(urlsplit(request.url).hostname))
    yield opened
    context.close()
    assert asked <= {"127.0.0.1", None, ""}, "the page calls somebody else"
