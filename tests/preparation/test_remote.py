"""Videos in an object store, and a data set written to one: the same shards, whatever fails on the way."""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

from talkinghead.data import remote
from talkinghead.data.reader import load_info
from talkinghead.data.remote import DataFault, RemoteFolder, Truncated
from talkinghead.data.videos import load_videos
from talkinghead.preparation.clip import Settings
from talkinghead.preparation.runner import Runner
from talkinghead.preparation.sources import Folder, Stills, VoxCeleb1, VoxCeleb2
from tests.helpers.preparation_videos import GreenFace, green_frame, make_runner, write_clip

SOURCE, OUTPUT = "memory://videos", "memory://bucket/set"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine good clips of five people, and one that must be dropped."""
    root = tmp_path_factory.mktemp("videos")
    for n in range(9):
        write_clip(root / f"p{n // 2}" / f"{n % 2}.mp4", num_frames=10 + n, side=36 + n)
    (root / "p2" / "broken.mp4").write_bytes(b"no video")
    return root


@pytest.fixture(scope="module")
def reference(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """sha256 of the shards and lists of a run from disk to disk."""
    output = tmp_path_factory.mktemp("reference") / "data"
    make_runner(videos, output).run()
    return hashes(f"file://{output}", str(videos))


@pytest.fixture(autouse=True)
def store(videos: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A store in memory, with the videos; no pauses between attempts."""
    monkeypatch.setattr(remote, "RETRY_DELAYS_S", (0.0, 0.0))
    memory = fsspec.filesystem("memory")
    upload(videos, SOURCE)
    yield
    memory.store.clear()


def upload(folder: Path, url: str) -> None:
    there = RemoteFolder(url)
    for path in folder.rglob("*.*"):
        there.write(str(path.relative_to(folder)), path)


def hashes(url: str, source: str = SOURCE) -> dict[str, str]:
    """sha256 of every file of a data set, wherever its videos were."""
    there = RemoteFolder(url)
    contents = {str(name): there.read(str(name)) for name in there.names() if name.name != ".lock"}
    return {n: hashlib.sha256(c.replace(source.encode(), b"SOURCE")).hexdigest() for n, c in contents.items()}


def test_a_data_set_from_a_store_to_a_store_is_the_one_from_disk_to_disk(
    tmp_path: Path, reference: dict[str, str]
) -> None:
    info = make_runner(SOURCE, OUTPUT, work_dir=tmp_path / "work").run()
    assert hashes(OUTPUT) == reference
    assert info == load_info(OUTPUT)
    assert info.splits["train"].clips == 9
    assert len(load_videos(OUTPUT, info).names) == 10
    assert not list((tmp_path / "work").iterdir()), "nothing is left on the disk"
    again = make_runner(SOURCE, OUTPUT, detector=Forbidden(), work_dir=tmp_path / "other")
    assert again.run() == info, "what is complete is not prepared again"


def test_worker_processes_write_to_a_url(videos: Path, tmp_path: Path, reference: dict[str, str]) -> None:
    output = f"file://{tmp_path}/set"
    make_runner(f"file://{videos}", output, workers=2, work_dir=tmp_path / "work").run()
    assert hashes(output, f"file://{videos}") == reference


class Forbidden(GreenFace):
    """Must not see a frame."""

    def boxes(self, image: np.ndarray) -> np.ndarray:
        raise AssertionError("prepared again")


class Counting(GreenFace):
    """Counts its frames."""

    seen = 0

    def boxes(self, image: np.ndarray) -> np.ndarray:
        self.seen += 1
        return super().boxes(image)


def failing(fails: Callable[[str], bool], error: Callable[[], Exception]) -> Callable[..., None]:
    """In place of `_write_once`: raises at files whose URL is such."""
    well = remote._write_once

    def write(url: str, content: bytes | Path) -> None:
        if fails(url):
            raise error()
        well(url, content)

    return write


@pytest.mark.parametrize("place", ["prepare.json", "000001.tar", "train/000001.json", "videos.json", "dataset.json"])
@pytest.mark.parametrize("same_machine", [True, False])
def test_a_store_that_fails_ends_the_run_and_another_one_goes_on(
    place: str, same_machine: bool, tmp_path: Path, reference: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(remote, "_write_once", failing(lambda url: url.endswith(place), lambda: OSError("no route")))
        with pytest.raises(DataFault, match=rf"{place} cannot be written, tried 3 times \(no route\)"):
            make_runner(SOURCE, OUTPUT, work_dir=tmp_path / "work").run()
    assert not RemoteFolder(OUTPUT).names() or "dataset.json" not in map(str, RemoteFolder(OUTPUT).names())
    if not same_machine:
        shutil.rmtree(tmp_path / "work")
    detector = Counting()
    make_runner(SOURCE, OUTPUT, detector=detector, work_dir=tmp_path / "work").run()
    assert hashes(OUTPUT) == reference
    if place in ("videos.json", "dataset.json"):
        assert detector.seen == 0, "all shards were there"
    elif same_machine and place != "prepare.json":
        assert detector.seen < 90, "clips that were done are not prepared again"


def test_errors_that_pass_are_retried(
    tmp_path: Path, reference: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: set[str] = set()

    def first_time(url: str) -> bool:
        new = url not in failed
        failed.add(url)
        return new

    monkeypatch.setattr(remote, "_write_once", failing(first_time, lambda: Truncated("5 of its 9 bytes arrived")))
    make_runner(SOURCE, OUTPUT, work_dir=tmp_path).run()
    assert len(failed) > 6
    assert hashes(OUTPUT) == reference


def test_half_a_file_is_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    well, sent = type(memory).pipe_file, []

    def halves(self: Any, path: str, value: bytes, **options: Any) -> None:
        sent.append(path)
        well(self, path, value[: 2 if len(sent) == 1 else None], **options)

    monkeypatch.setattr(type(memory), "pipe_file", halves)
    RemoteFolder(OUTPUT).write("a.json", b"whole")
    assert (len(sent), RemoteFolder(OUTPUT).read("a.json")) == (2, b"whole")


def test_other_options_and_other_files_are_refused(tmp_path: Path) -> None:
    make_runner(SOURCE, OUTPUT, work_dir=tmp_path).run()
    before = hashes(OUTPUT)
    with pytest.raises(ValueError, match=r"was begun with other options \(min_frames: 9 then, 5 now\)"):
        make_runner(SOURCE, OUTPUT, work_dir=tmp_path, min_frames=5).run()
    assert hashes(OUTPUT) == before
    with pytest.raises(ValueError, match="memory://videos is not empty and holds no preparation"):
        make_runner(SOURCE, SOURCE, work_dir=tmp_path).run()


def test_left_overs_of_another_preparation_are_not_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(remote, "_write_once", failing(lambda url: url.endswith(".tar"), lambda: OSError("no route")))
        with pytest.raises(DataFault):
            make_runner(SOURCE, OUTPUT, work_dir=tmp_path, min_frames=5).run()
    RemoteFolder("memory://bucket").remove("set")
    make_runner(SOURCE, OUTPUT, work_dir=tmp_path / "other").run()
    with pytest.raises(ValueError, match="holds a preparation that is not the one in memory://bucket/set: delete it"):
        make_runner(SOURCE, OUTPUT, work_dir=tmp_path, min_frames=5).run()


def test_names_in_a_store_do_not_decide_where_files_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(remote, "_write_once", failing(lambda url: url.endswith(".tar"), lambda: OSError("no route")))
        with pytest.raises(DataFault):
            make_runner(SOURCE, OUTPUT, work_dir=tmp_path / "a/b").run()
    memory = fsspec.filesystem("memory")
    for name in (".work/train/../../../evil.json", ".work/evil.json", "..", "train/x.json"):
        memory.store[f"/bucket/set/{name}"] = memory.store["/bucket/set/prepare.json"]
    make_runner(SOURCE, OUTPUT, work_dir=tmp_path / "a/b").run()
    assert not list(tmp_path.rglob("*evil*"))
    assert not list(tmp_path.rglob("x.json"))


def test_a_file_that_has_gone_costs_the_clip_and_a_refusal_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = make_runner(SOURCE, OUTPUT, work_dir=tmp_path)
    units = runner.source.units()
    monkeypatch.setattr(runner.source, "units", lambda: units)
    RemoteFolder(SOURCE).remove("p0/0.mp4")
    assert runner.run().splits["train"].clips == 8
    rows = RemoteFolder(OUTPUT).read("report.csv").decode().splitlines()
    assert [row.split(",")[1:3] for row in rows if "p0/0" in row] == [["p0/0", "unreadable"]]

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(remote, "_open", refuse)
    with pytest.raises(DataFault, match=r"memory://videos/p\d/\w+\.mp4 cannot be read .* check the permissions"):
        make_runner(SOURCE, "memory://bucket/other", work_dir=tmp_path).run()


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("https://host.invalid/set", "files can be read there, but not written"),
        ("pipe:cat {}", "no files can be listed or written at such an address"),
        ("s4://bucket/set", "no files can be listed or written at such an address"),
    ],
)
def test_an_address_that_cannot_be_written_to(
    output: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    well = RemoteFolder.names
    monkeypatch.setattr(RemoteFolder, "names", lambda self, below="": well(self) if self.url == SOURCE else [])
    with pytest.raises(ValueError, match=told):
        make_runner(SOURCE, output, work_dir=tmp_path / "work").run()


def test_every_source_lists_a_store_as_it_lists_a_disk(tmp_path: Path) -> None:
    for name in (
        "dev/mp4/id1/v/00001.mp4", "dev/mp4/id2/v/00001.mp4", "test/mp4/id3/v/00002.mp4", "txt/id10001/v/1.txt",
        "txt/id10270/w/1.txt", "videos/v.mp4", "pictures/anna/1.jpg", "pictures/anna/2.jpg", "pictures/bea/x/1.png",
        "pictures/anna/.hidden.jpg", "pictures/3.jpg",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    upload(tmp_path, "memory://data")

    def local(text: object) -> object:
        return str(text).replace("memory://data", str(tmp_path))

    def listed(root: str) -> list[str]:
        sources = [
            Folder(root, {"train": "dev", "test": "test/mp4"}), VoxCeleb2(root), VoxCeleb1(root),
            Stills(root, {"train": "pictures"}),
        ]  # fmt: skip
        return [str(local(unit)) for source in sources for unit in source.units()]

    assert listed("memory://data/") == listed(str(tmp_path))
    with pytest.raises(ValueError, match="no video files below memory://nothing"):
        Folder("memory://nothing", {"train": "."}).units()


def test_stills_of_a_store_keep_their_names(tmp_path: Path) -> None:
    for n in range(3):
        (tmp_path / "anna").mkdir(exist_ok=True)
        Image.fromarray(green_frame(96, 96, 20, 30, 40)).save(tmp_path / f"anna/{n}.png")
    (tmp_path / "anna/bad.png").write_bytes(b"no picture")
    upload(tmp_path, "memory://stills")
    settings = Settings(image_size=64, frames_per_clip=10, min_face=20, min_frames=2)
    for root, output in ((str(tmp_path), str(tmp_path / "out")), ("memory://stills", "memory://bucket/stills")):
        source = Stills(root, {"train": "."})
        Runner(source, GreenFace(), settings, output, 0, 4, work_dir=str(tmp_path / "work")).run()
    assert hashes(output, "memory://stills") == hashes(f"file://{tmp_path}/out", str(tmp_path))
    report = RemoteFolder(output).read("report.csv").decode()
    assert 'anna/bad.png,unreadable,"memory://stills/anna/bad.png: cannot be read' in report
