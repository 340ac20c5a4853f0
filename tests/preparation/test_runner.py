"""Preparation as a whole: the same shards however often it is killed, reports, real detectors, the command."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from talkinghead.cli.prepare import runner_config
from talkinghead.data.shards import DatasetInfo
from talkinghead.data.videos import load_videos
from talkinghead.faces.crop import face_box
from talkinghead.faces.detectors import Dlib, FaceAlignment
from talkinghead.machine import locked
from talkinghead.preparation import partial_results, plan
from talkinghead.preparation.clip import Result
from talkinghead.preparation.cluster import RayCluster
from talkinghead.preparation.partial_results import read_clips
from talkinghead.preparation.plan import Job, make_plan
from talkinghead.preparation.runner import Runner
from talkinghead.preparation.sources import Unit
from talkinghead.preparation.workers import LocalProcesses
from talkinghead.pretrained import WEIGHTS_VARIABLE
from talkinghead.video.reader import Video
from tests.helpers.preparation_videos import make_runner, write_clip

ROOT = Path(__file__).parents[2]
FACES = ROOT.parent / "shared" / "faces"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve good clips of six people, and three that must be dropped."""
    root = tmp_path_factory.mktemp("videos")
    for n in range(12):
        write_clip(root / f"p{n // 2}" / f"{n % 2}.mp4", num_frames=10 + n, side=36 + n)
    write_clip(root / "p0" / "small.mp4", side=12)
    write_clip(root / "p1" / "short.mp4", num_frames=3)
    (root / "p2" / "broken.mp4").write_bytes(b"no video")
    return root


def hashes(output: Path) -> dict[str, str]:
    """sha256 of every file of a data set but the lock."""
    files = sorted(p for p in output.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(output)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def reference(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of a run that nobody disturbed."""
    output = tmp_path_factory.mktemp("reference") / "data"
    make_runner(videos, output).run()
    return output


def test_data_set_is_complete_and_nothing_else_is_left(reference: Path):
    info = DatasetInfo.load(reference)
    train = info.splits["train"]
    assert (train.clips, train.identities, train.videos, info.num_videos) == (12, 6, 15, 15)
    assert info.detector == {"name": "green", "version": "1"}
    assert info.crop["measured"]["margin"] == pytest.approx(1.7, abs=0.05)
    shards = {entry.file for entry in train.shards}
    assert set(hashes(reference)) == {
        *shards,
        "dataset.json",
        "videos.json",
        "prepare.json",
        "report.json",
        "report.csv",
    }
    clips = [clip for entry in train.shards for clip in read_clips(reference / entry.file)]
    assert len({clip.key for clip in clips}) == len({clip.meta["video_index"] for clip in clips}) == 12
    assert sum(len(clip.frames) for clip in clips) == train.frames == 120
    videos = load_videos(str(reference), info)
    assert [clip.meta["video_index"] for clip in clips] == videos.clips["train"]
    assert all(videos.names[clip.meta["video_index"]] == clip.meta["video"] for clip in clips)
    for entry in train.shards:
        content = (reference / entry.file).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry.bytes, entry.sha256)


def test_report_counts_and_lists_what_was_dropped(reference: Path):
    report = json.loads((reference / "report.json").read_text())["train"]
    assert report["dropped"] == {"too short": 1, "too small": 1, "unreadable": 1}
    lines = (reference / "report.csv").read_text().splitlines()
    assert {line.split(",")[1] for line in lines[1:]} == {"p0/small", "p1/short", "p2/broken"}


def children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def run_and_kill(videos: Path, output: Path, tally: Path, faces: int) -> None:
    """Start a preparation with two workers that hangs after so many faces, and kill it there."""
    command = [
        sys.executable,
        "-m",
        "tests.helpers.preparation_videos",
        str(videos),
        str(output),
        str(tally),
        str(faces),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not tally.exists() or tally.stat().st_size < faces:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    workers = children(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlived the killed run"
        time.sleep(0.01)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers in /proc")
def test_killed_twice_it_ends_with_the_same_bytes(videos: Path, reference: Path, tmp_path: Path):
    output = tmp_path / "data"
    run_and_kill(videos, output, tmp_path / "first", faces=35)  # of 120
    assert list((output / ".work").rglob("*.json")), "nothing was done when it was killed"
    assert not (output / "dataset.json").exists()
    (output / "train").mkdir(exist_ok=True)
    (output / "train" / ".000009.tar.1.tmp").write_bytes(b"half a shard")  # as if killed while writing
    run_and_kill(videos, output, tmp_path / "second", faces=35)
    assert not (output / "dataset.json").exists()
    make_runner(videos, output, workers=2).run()
    assert hashes(output) == hashes(reference)
    times = {p: p.stat().st_mtime_ns for p in output.rglob("*.tar")}
    make_runner(videos, output).run()  # once more: nothing left to do
    assert {p: p.stat().st_mtime_ns for p in output.rglob("*.tar")} == times


def test_stopped_between_any_two_steps_it_ends_with_the_same_bytes(
    videos: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """An exception at the n-th rename of the run, for each n, stands for a kill at each place where files change."""
    real = os.replace
    budget = [0]

    def replace(source: str, target: str) -> None:
        budget[0] -= 1
        if budget[0] < 0:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    output, stops = tmp_path / "data", 0
    while not (output / "dataset.json").exists() and stops < 60:
        budget[0] = 2 + stops % 3
        try:
            make_runner(videos, output).run()
        except KeyboardInterrupt:
            stops += 1
    budget[0] = 99
    make_runner(videos, output).run()
    assert stops >= 10
    assert hashes(output) == hashes(reference)


def test_other_options_do_not_mix(videos: Path, reference: Path):
    with pytest.raises(ValueError, match="quality: 95 then, 50 now"):
        make_runner(videos, reference, quality=50).run()


def test_a_folder_with_other_things_is_left_alone(videos: Path, tmp_path: Path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(ValueError, match="not empty"):
        make_runner(videos, tmp_path).run()


def test_one_preparation_at_a_time(videos: Path, tmp_path: Path):
    with locked(tmp_path / "data", "preparation"), pytest.raises(ValueError, match="another preparation is at work"):
        make_runner(videos, tmp_path / "data").run()


def test_nothing_kept_is_an_error_that_says_why(tmp_path: Path):
    write_clip(tmp_path / "videos" / "a.mp4", side=0)
    with pytest.raises(ValueError, match=r"none of 1 clips could be kept: 1 no face \(such as a\)"):
        make_runner(tmp_path / "videos", tmp_path / "data").run()
    assert "no face" in (tmp_path / "data" / "report.csv").read_text()


# ---- detectors


def test_dlib_settings_are_checked():
    with pytest.raises(ValueError, match=r"detector\.jitters=0"):
        Dlib(jitters=0)


def test_face_alignment_without_weights_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"(?s)s3fd-619a316812\.pth.*https://.*detector=dlib"):
        FaceAlignment().check()


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> FaceAlignment:
    """The real loading code, with untrained weights in files."""
    from face_alignment.detection.sfd.net_s3fd import s3fd  # noqa: PLC0415
    from face_alignment.models import FAN  # noqa: PLC0415

    from talkinghead.faces.fan import load_face_alignment  # noqa: PLC0415

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    torch.save(s3fd().state_dict(), folder / "s3fd.pth")
    torch.save(FAN(4).state_dict(), folder / "fan.pth")
    detector = FaceAlignment(device="cpu", threshold=0.01)
    detector.__dict__["_networks"] = load_face_alignment(
        folder / "s3fd.pth", folder / "fan.pth", "cpu", detector.threshold, False
    )
    return detector


@pytest.mark.slow
def test_face_alignment_loads_its_weight_files_and_runs(untrained: FaceAlignment):
    image = np.random.default_rng(0).integers(0, 255, (96, 96, 3)).astype(np.uint8)
    assert untrained.boxes(image).shape[1:] == (4,)
    points = untrained.landmarks(image, np.array([20.0, 20, 80, 80]))
    assert points.shape == (68, 2)
    assert (np.abs(points - 50) < 90).all()


@pytest.mark.slow
def test_face_alignment_finds_the_same_in_batches(untrained: FaceAlignment):
    """As the package does for one picture, also at the edges and beyond them."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (96, 128, 3)).astype(np.uint8) for _ in range(3)]
    boxes = [np.array(box) for box in ([20.5, 20, 80, 81.25], [-9.0, 3, 30, 52], [100.0, 60, 140, 110])]
    networks = untrained._networks
    expected = [networks.get_landmarks_from_image(i, detected_faces=[b])[0] for i, b in zip(images, boxes, strict=True)]
    for points, one in zip(untrained.landmarks_of(images, boxes), expected, strict=True):
        assert np.abs(points - one).max() < 1e-3
    for image, found in zip(images, untrained.boxes_of(images), strict=True):
        alone = np.array(networks.face_detector.detect_from_image(image)).reshape(-1, 5)
        assert len(alone) > 0
        assert np.abs(found - alone[np.argsort(-alone[:, 4], kind="stable"), :4]).max() < 1e-2
    assert len(untrained.boxes_of([images[0], images[1][:64]])) == 2


@pytest.mark.shared
@pytest.mark.skipif(not FACES.is_dir(), reason="the real clips are not here")
def test_dlib_agrees_with_given_landmarks():
    """Mean distance to the given landmarks at most 2 % of the distance between the eyes, near-frontal clips."""
    detector = Dlib()
    for clip in ("id110/id110_00", "id027/id027_00", "id064/id064_02"):
        given = np.load(FACES / "train" / "landmarks" / f"{clip}.npy").astype(float)
        with Video(FACES / "train" / "videos" / f"{clip}.mp4") as video:
            for number, image in video.read([0, 20, 40]):
                points = detector.landmarks(image, detector.boxes(image)[0])
                size = np.linalg.norm(given[number, 36] - given[number, 45])
                assert np.linalg.norm(points - given[number], axis=-1).mean() / size <= 0.02
                assert (
                    0.8 < (face_box(points)[2:] - face_box(points)[:2])[0] / np.ptp(detector.boxes(image)[0][::2]) < 1.3
                )


# ---- the command


@pytest.mark.parametrize("source", ["voxceleb1", "voxceleb2", "folder", "stills"])
@pytest.mark.parametrize("detector", ["face_alignment", "dlib"])
@pytest.mark.parametrize("cluster", ["local", "ray"])
def test_every_config_builds_a_runner(source: str, detector: str, cluster: str, tmp_path: Path):
    choices = [f"source={source}", f"detector={detector}", f"cluster={cluster}"]
    overrides = [*choices, f"source.root={tmp_path}", f"output={tmp_path / 'out'}"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("prepare", overrides)
    runner = instantiate(runner_config(config))
    assert isinstance(runner, Runner)
    assert (runner.source.name, runner.detector.name) == (source, detector)
    assert isinstance(runner.cluster, {"local": LocalProcesses, "ray": RayCluster}[cluster])


def test_the_command_tells_what_is_wrong_without_a_traceback(tmp_path: Path):
    command = [sys.executable, "prepare.py", "source=folder", f"source.root={tmp_path}", "detector=dlib"]
    result = subprocess.run(
        [*command, f"output={tmp_path / 'out'}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "no video files below" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"clips": 8, plan.LIST: "b"}, r"another list of clips \(clips: 7 then, 8 now\): it takes no new videos"),
        ({plan.LIST: "b"}, r"another list of clips \(other names, splits or source\.cropped\)"),
        ({"image_size": 128}, r"other options \(image_size: 64 then, 128 now\)"),
    ],
)
def test_an_output_of_another_preparation_is_refused_and_why(tmp_path: Path, change: dict, told: str) -> None:
    mine = {"clips": 7, "image_size": 64, plan.LIST: "a"}
    plan.claim(tmp_path, mine)
    plan.claim(tmp_path, mine)
    with pytest.raises(ValueError, match=told):
        plan.claim(tmp_path, {**mine, **change})


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000])
def test_a_plan_that_is_none_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / plan.PLAN_FILE).write_text(text)
    with pytest.raises(ValueError, match=r"cannot be read .*choose another output") as caught:
        plan.claim(tmp_path, {})
    assert "\n" not in str(caught.value)


def test_workers_close_each_shard_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many workers finish at the same moment: one of them writes the shard, and none fails."""
    jobs = make_plan([Unit("train", f"p{n}", f"p{n}", f"p{n}", ("a.mp4",)) for n in range(24)], 8)
    written = []
    monkeypatch.setattr(partial_results, "finish_block", lambda output, job, size, remote: written.append(job.shard))
    for job in jobs:
        partial_results.put(tmp_path, job, Result([], [], 0))
    with ThreadPoolExecutor(24) as threads:
        list(threads.map(lambda job: partial_results.close(tmp_path, job, 64), jobs))
    assert sorted(written) == [f"train/{block:06d}.tar" for block in range(3)]


def test_a_shard_whose_worker_died_while_it_wrote_is_written(videos: Path, reference: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partial_results, "close", die_while_closing)
        with pytest.raises(KeyboardInterrupt):
            make_runner(videos, tmp_path / "data").run()
    assert list((tmp_path / "data/.work").glob("*/*/closing"))
    make_runner(videos, tmp_path / "data").run()
    assert hashes(tmp_path / "data") == hashes(reference)


def die_while_closing(output: Path, job: Job, image_size: int, remote: object) -> None:
    where = partial_results.folder(output, job)
    if len(list(where.glob("*.json"))) == job.size:
        (where / "closing").touch()
        raise KeyboardInterrupt
