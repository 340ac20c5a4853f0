"""Whole files or none."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from talkinghead.data.reader import load_info
from talkinghead.data.videos import load_videos
from talkinghead.preparation.frames import read_track
from talkinghead.preparation.plan import read_plan
from talkinghead.preparation.sources import chosen_by
from talkinghead.storage import read_csv, write_atomic
from tests.helpers.data_sets import make_clip, write_data_set


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    write_atomic(path, b"old, and longer")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("moment", ["write", "replace"])
def test_a_failure_leaves_what_was_there(moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(*{"write": ("builtins.open", fail), "replace": (os, "replace", fail)}[moment])
    with pytest.raises(OSError, match="full"):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_secret_is_never_readable_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes, rename = [], os.replace

    def look(source: Path, target: Path) -> None:
        modes.append(source.stat().st_mode & 0o777)
        rename(source, target)

    monkeypatch.setattr(os, "replace", look)
    write_atomic(tmp_path / "key.pem", b"secret", 0o600)
    assert modes == [0o600]
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600


def test_a_csv_that_a_spreadsheet_has_saved(tmp_path: Path) -> None:
    """Its byte order mark is no part of the first column's name; other separators are told."""
    path = tmp_path / "results.csv"
    path.write_bytes("\ufeffdata,T\nfaces,8\n".encode())
    assert list(read_csv(path, ("data", "T"))) == [{"data": "faces", "T": "8"}]
    for separator in ";\t":
        path.write_text(f"data{separator}T\nfaces{separator}8\n")
        with pytest.raises(ValueError, match=r"its cells are separated by .*: save it with commas"):
            read_csv(path, ("data", "T"))


@pytest.fixture
def _ten_seconds() -> Iterator[None]:
    """What waits longer is ended."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("_ten_seconds")
def test_a_pipe_in_place_of_a_file_is_told_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "videos.json"
    data = write_data_set(tmp_path / "data", {"train": [[make_clip(0)]]})
    info = load_info(str(data))
    os.mkfifo(pipe)
    (data / "videos.json").unlink(missing_ok=True)
    pipe.rename(data / "videos.json")
    pipe = data / "videos.json"
    reads = (lambda: load_videos(str(data), info), lambda: read_track(pipe), lambda: chosen_by(str(pipe), []),
             lambda: read_plan(pipe))  # fmt: skip
    for read in reads:
        with pytest.raises(ValueError, match=r"videos\.json.* is a pipe or a device, not a file"):
            read()
