"""The progress of a preparation in a log: how often it is told, and its numbers by hand."""

import io

import pytest
from rich.console import Console

from talkinghead.preparation import progress
from talkinghead.preparation.progress import Progress


class Clock:
    """Seconds that pass as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def log() -> Console:
    return Console(file=io.StringIO(), width=200)


def lines(log: Console) -> list[str]:
    assert isinstance(log.file, io.StringIO)
    return log.file.getvalue().splitlines()


def test_the_last_line_counts_what_this_run_did_and_guesses_what_is_left(clock: Clock, log: Console) -> None:
    with Progress(log, total=10, done=4) as shown:
        for kept, dropped, decoded in ((1, 0, 300), (0, 2, 100)):
            clock.wait(10)
            shown.advance(kept, dropped, decoded)
    assert lines(log) == [
        "going on after 4 of 10 clips",
        "6 of 10 clips, 2 dropped, 400 frames in 20.0 s, 20 frames/s, 40 s left",  # 2 clips in 20 s, 4 are left
    ]


def test_a_log_has_a_line_a_minute_however_many_clips_there_are(clock: Clock, log: Console) -> None:
    with Progress(log, total=100, done=0) as shown:
        for _ in range(25):
            clock.wait(5)
            shown.advance(1, 0, 10)
        assert [line.split(" clips")[0] for line in lines(log)] == ["13 of 100"], "after 65 s; the next is due at 130 s"
        clock.wait(5)
        shown.advance(1, 0, 10)
        assert [line.split(" clips")[0] for line in lines(log)] == ["13 of 100", "26 of 100"]


def test_a_run_that_had_nothing_to_do_or_failed_has_no_last_line(clock: Clock, log: Console) -> None:
    with Progress(log, total=3, done=3):
        pass
    assert lines(log) == ["going on after 3 of 3 clips"]
    shown = Progress(log, total=3, done=0)
    shown.__enter__()
    shown.advance(1, 0, 10)
    shown.__exit__(KeyError, KeyError("frames"), None)
    assert len(lines(log)) == 1


def test_a_terminal_has_a_bar(clock: Clock) -> None:
    terminal = Console(file=io.StringIO(), width=200, force_terminal=True)
    with Progress(terminal, total=4, done=1) as shown:
        clock.wait(2)
        shown.advance(1, 3, 100)
    assert isinstance(terminal.file, io.StringIO)
    text = terminal.file.getvalue()
    assert "2/4" in text
    assert "50 frames/s, 3 dropped" in text
