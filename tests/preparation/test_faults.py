"""What must not stop a preparation, nor be lost: crashing clips, odd names, full disks, other machines."""

import csv
import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from talkinghead import machine
from talkinghead.data.shards import DatasetInfo
from talkinghead.data.videos import load_videos
from talkinghead.names import is_name
from talkinghead.preparation import workers
from talkinghead.preparation.clip import Settings, prepare_clip
from talkinghead.preparation.plan import make_plan
from talkinghead.preparation.sources import VIDEO_SUFFIXES, Folder, Unit, keys
from talkinghead.reenactment.inputs import SHIPPED
from tests.helpers.preparation_videos import GreenFace, make_runner, write_clip


class Deadly(GreenFace):
    """Ends its process at a face wider than 40 pixels."""

    def landmarks(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        if box[2] - box[0] > 40:
            os._exit(1)
        return super().landmarks(image, box)


def dropped(output: Path) -> list[list[str]]:
    return list(csv.reader((output / "report.csv").read_text().splitlines()))[1:]


@pytest.mark.slow
def test_a_clip_that_kills_its_worker_is_dropped_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for n, side in enumerate((36, 60, 37)):
        write_clip(tmp_path / f"videos/p{n}/a.mp4", num_frames=10, side=side)
    info = make_runner(tmp_path / "videos", tmp_path / "data", workers=2, detector=Deadly()).run()
    assert info.splits["train"].clips == 2
    ((_, clip, reason, detail),) = dropped(tmp_path / "data")
    assert (clip, reason) == ("p1/a", "crashed")
    assert "a worker died" in caplog.text
    assert "p1/a" in caplog.text
    assert "2 times" in detail


def test_excluded_clips_are_told_and_keep_their_row(tmp_path: Path) -> None:
    for n in range(2):
        write_clip(tmp_path / f"videos/p{n}/a.mp4", num_frames=10)
    runner = make_runner(tmp_path / "videos", tmp_path / "data")
    runner.exclude = {"p0/a"}
    info = runner.run()
    assert (info.splits["train"].clips, info.num_videos) == (1, 2)
    assert [row[1:3] for row in dropped(tmp_path / "data")] == [["p0/a", "excluded"]]
    assert load_videos(str(tmp_path / "data"), info).clips == {"train": [1]}


class Failing(GreenFace):
    """Raises what it is given."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def boxes(self, image: np.ndarray) -> np.ndarray:
        raise self.error


def test_an_error_of_the_device_costs_the_clip_and_a_full_disk_the_run(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", num_frames=10)
    unit = Unit("train", "a", "a", "a", (str(tmp_path / "a.mp4"),))
    settings = Settings(image_size=64, frames_per_clip=10, min_face=20)
    result = prepare_clip(unit, "a", 0, Failing(RuntimeError("CUDA out of memory")), settings)
    assert [drop.reason for drop in result.drops] == ["unreadable"]
    assert "CUDA out of memory" in result.drops[0].detail
    with pytest.raises(OSError, match="No space"):
        prepare_clip(unit, "a", 0, Failing(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))), settings)


def test_long_and_odd_names_do_not_stop_it(tmp_path: Path) -> None:
    names = ["x" * 120, "x" * 119 + "y", "короткое", os.fsdecode(b"not\xffutf8")]
    for name in names:
        write_clip(tmp_path / "videos" / name / "a.mp4", num_frames=10)
    info = make_runner(tmp_path / "videos", tmp_path / "data").run()
    assert (info.splits["train"].clips, info.num_videos) == (4, 4)
    assert not dropped(tmp_path / "data")
    assert len(load_videos(str(tmp_path / "data"), info).names) == 4
    listed = json.loads((tmp_path / "data/videos.json").read_text())
    listed["names"][0] = "two\nlines"
    (tmp_path / "data/videos.json").write_text(json.dumps(listed))
    read = load_videos(str(tmp_path / "data"), info).names
    assert all(map(is_name, read)), "whatever a stranger's file calls them"
    assert len(set(read)) == 4


def test_keys_fit_into_a_tar_and_none_are_alike() -> None:
    units = [
        Unit("train", "p", c, c, ("f",)) for c in ["a", "a b", "a-b", "z" * 64, "z" * 65, "z" * 64 + "y", "z" * 300]
    ]
    found = keys(units)
    assert len(set(found)) == len(units)
    assert max(map(len, found)) <= 80
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", key) for key in found)
    assert found[0] == "a"
    capitals = keys([Unit("train", "p", c, c, ("f",)) for c in ["Anna/1", "anna/1", "ANNA/1", "Bea/1"]])
    assert len({key.lower() for key in capitals}) == 4, "not all file systems tell capitals apart"
    assert capitals[3] == "Bea_1"


def test_files_of_one_name_and_other_suffixes_are_other_clips(tmp_path: Path) -> None:
    for name in ("p/a.mp4", "p/a.mkv", "p/b.mp4"):
        write_clip(tmp_path / name, num_frames=10)
    jobs = make_plan(Folder(str(tmp_path), {"train": "."}).units(), 4)
    assert sorted(job.unit.clip for job in jobs) == ["p/a.mkv", "p/a.mp4", "p/b"]
    assert len({job.key for job in jobs}) == len({job.video_index for job in jobs}) == 3
    assert {job.unit.identity for job in jobs} == {"p"}


@pytest.mark.parametrize("suffix", [".flv", ".gif", ".wmv", ".3gp", ".ogv"])
def test_more_kinds_of_video_are_taken(suffix: str, tmp_path: Path) -> None:
    assert suffix in VIDEO_SUFFIXES
    (tmp_path / f"a{suffix.upper()}").write_bytes(b"")
    assert len(Folder(str(tmp_path), {"train": "."}).units()) == 1


def test_other_systems_count_cpus_and_lock_as_they_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert machine.num_cpus() == 3
    assert workers.num_cpus() == 3
    monkeypatch.setattr(machine, "fcntl", None)
    write_clip(tmp_path / "videos/a.mp4", num_frames=10)
    make_runner(tmp_path / "videos", tmp_path / "data").run()
    assert DatasetInfo.load(tmp_path / "data").splits["train"].clips == 1


def test_nobody_else_asks_for_what_linux_alone_has() -> None:
    package = Path(machine.__file__).parent
    asking = [p for p in package.rglob("*.py") if re.search("fcntl|sched_getaffinity", p.read_text())]
    assert asking == [package / "machine.py"]


def test_half_a_video_is_no_clip(tmp_path: Path) -> None:
    whole = SHIPPED.parent / "drivers/calm.mp4"
    content = whole.read_bytes()
    (tmp_path / "half.mp4").write_bytes(content[: len(content) // 2])
    unit = Unit("train", "a", "a", "a", (str(tmp_path / "half.mp4"),))
    settings = Settings(image_size=64, frames_per_clip=10, min_face=20)
    (drop,) = prepare_clip(unit, "a", 0, GreenFace(), settings).drops
    assert drop.reason == "incomplete"
    assert re.fullmatch(r"\d+ of \d+ frames are in the file", drop.detail)
