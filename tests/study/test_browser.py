"""The user study in a real browser: two people at once take it to its end with the keyboard; what they are told."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import gradio
import pytest
from playwright.sync_api import Browser, BrowserContext, Response

from talkinghead.study.answers import Answers
from talkinghead.study.build import make_study
from talkinghead.study.page import build_study
from talkinghead.study.study import Study
from tests.helpers.browser import chromium  # noqa: F401, a fixture
from tests.helpers.evaluation_pictures import write_evaluation

COUNT = 4
TWO_KEYS = "keys => keys.forEach(key => document.dispatchEvent(new KeyboardEvent('keydown', {key})))"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(write_evaluation(tmp_path / "evaluation"), tmp_path / "study")


@pytest.fixture
def url(study: Study) -> Iterator[str]:
    """The study as the second page of an app of its own."""
    with gradio.Blocks(analytics_enabled=False) as app:
        gradio.Markdown("the first page")
    with app.route("User study", "study"):
        build_study(app, study, COUNT)
    _, address, _ = app.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", inbrowser=False)
    yield address
    app.close()


@pytest.fixture
def people(chromium: Browser) -> Iterator[list[BrowserContext]]:  # noqa: F811
    """Two browsers that know nothing of each other, and ask nobody but this computer (for fonts, say)."""
    contexts = [chromium.new_context() for _ in range(2)]
    for context in contexts:
        context.route(lambda url: not url.startswith(("http://127.0.0.1:", "data:")), lambda route: route.abort())
    yield contexts
    for context in contexts:
        context.close()


def test_the_study_is_taken_to_its_end_with_the_keyboard(study: Study, url: str, people: list[BrowserContext]) -> None:
    pages = [context.new_page() for context in people]
    told: list[str] = []
    pages[0].on("response", lambda response: told.append(response.url))
    pages[0].on("response", lambda response: told.append(text_of(response)))
    for page in pages:
        page.goto(f"{url}study")
        page.get_by_role("button", name="Begin").wait_for()
        page.keyboard.press("Enter")
    for number in range(1, COUNT + 1):
        for page, key in zip(pages, "13", strict=True):
            page.wait_for_selector(f'[data-number="{number}"]')
            assert page.locator(".place").inner_text() == f"{number} of {COUNT}"
            if number == 3:
                before = page.locator(".triplet").get_attribute("style")
                page.reload()
                page.wait_for_selector('[data-number="3"]')
                assert page.locator(".triplet").get_attribute("style") == before, "a reload shows the same triplet"
            if number < COUNT:
                assert "data-done" not in page.content()
            if number == 2:
                page.evaluate(TWO_KEYS, [key, "2"])  # the second comes too late: the answer is given
            else:
                page.keyboard.press(key)
    for page in pages:
        page.wait_for_selector("[data-done]")

    answers = Answers(study.folder / "answers.csv")
    rows = answers.rows()
    participants = list(dict.fromkeys(row["participant"] for row in rows))
    assert Counter((row["participant"], row["answer"]) for row in rows) == {
        (participants[0], "1"): COUNT, (participants[1], "3"): COUNT,
    }  # fmt: skip
    assert all(0 <= float(row["seconds"]) < 60 for row in rows)
    by_id = {triplet.id: triplet for triplet in study.triplets}
    for row in rows:
        assert row["correct"] == str(int(row["answer"] == str(by_id[row["triplet"]].position)))
    found = sum(row["correct"] == "1" for row in rows if row["participant"] == participants[0])
    assert f"{found} of {COUNT}" in pages[0].locator("[data-done] b").inner_text()
    assert pages[0].locator("tbody tr").count() == 4, "two methods at two shot counts"
    pages[0].reload()
    pages[0].wait_for_selector("[data-done]")
    assert len(answers.rows()) == 2 * COUNT, "who is done stays so"

    until_the_end = told[: next(n for n, text in enumerate(told) if "data-done" in text)]
    assert len([text for text in until_the_end if "data:image/jpeg" in text]) >= COUNT
    secret = ["ours", "person0", "0123456789ab", *by_id]
    assert not [word for word in secret for text in until_the_end if word in text]


def text_of(response: Response) -> str:
    """The body where it is data, not the program of the page."""
    kind = response.headers.get("content-type", "")
    return response.text() if "json" in kind or "event-stream" in kind or "html" in kind else ""


def test_pictures_can_be_clicked_and_no_file_is_served(study: Study, url: str, people: list[BrowserContext]) -> None:
    page = people[0].new_page()
    page.goto(f"{url}study")
    page.get_by_role("button", name="Begin").click()
    page.get_by_role("button", name="Picture 2").click()
    page.wait_for_selector('[data-number="2"]')
    (row,) = Answers(study.folder / "answers.csv").rows()
    assert row["answer"] == "2"
    assert row["correct"] == str(int(row["position"] == "2"))
    for path in ("triplets.json", "answers.csv", f"pictures/{study.triplets[0].id}.jpg"):
        response = page.request.get(f"{url}gradio_api/file={study.folder / path}")
        assert response.status in (403, 404), path
