"""Twenty kills of the real commands, at seeded moments of what they write; the same command goes on each time."""

import hashlib
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from talkinghead.data.shards import DatasetInfo
from talkinghead.evaluation.results import Results
from tests.cli.test_animate import GREEN_DETECTOR, LOSS, MODEL
from tests.cli.test_train import TINY, assert_bit_equal
from tests.helpers.data_sets import make_clip, write_data_set
from tests.helpers.preparation_videos import green_frame, write_clip
from tests.helpers.scripts import environment

ROOT = Path(__file__).parents[1]
EVALUATION = [
    "trainer=cpu", "logger=csv", "metrics=default", "metrics.detector=null", "metrics.distances=null", "data=folder",
    "set_metrics=none", "frame_choice.max_shots=4", "frame_choice.num_targets=4", "frame_choice.min_targets=2",
    "method=[nearest,mean]", "callbacks=none", "model.image_size=32", "shots=[1,4]",
]  # fmt: skip
ENDS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names of open files")]


def run(folder: Path, names: str, moment: int, how: int, *command: str) -> subprocess.CompletedProcess:
    arguments = [
        sys.executable,
        "-m",
        "tests.helpers.killing",
        str(folder),
        names,
        str(moment),
        str(int(how)),
        *command,
    ]
    return subprocess.run(
        arguments, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False, timeout=600
    )


def kill_and_go_on(
    folder: Path, names: str, kills: list[signal.Signals], seed: int, check: Callable[[], None], *command: str
) -> None:
    """Undisturbed but for the kills: each run does what the one before left, the last one ends by itself.

    The moments are drawn so that all the kills fit into the work there is: `check` looks at the folder after each.
    """
    draw = random.Random(seed)
    for how in kills:
        before = set(folder.rglob(".*.tmp"))  # what a kill -9 left
        ended = run(folder, names, draw.randint(1, 6), how, *command)
        assert ended.returncode == ENDS[how], ended.stdout[-2000:] + ended.stderr[-4000:]
        assert "Traceback" not in ended.stderr
        if how != KILL:
            assert set(folder.rglob(".*.tmp")) <= before, "a run that is told to end leaves no temporary files"
        check()
    ended = run(folder, names, 0, KILL, *command)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
    check()


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock" and path.name != ".lock"
    }


def finished(folder: Path, *command: str) -> None:
    ended = run(folder, "x", 0, KILL, *command)
    assert ended.returncode == 0, ended.stderr[-4000:]


def test_training_killed_seven_times_is_bit_equal(tmp_path: Path) -> None:
    clips = [make_clip(n) for n in range(10)]
    data = write_data_set(tmp_path / "tiny", {"train": [clips[:4], clips[4:8]], "val": [clips[8:]]})

    def command(name: str) -> list[str]:
        return ["train.py", *TINY, f"data.path={data}", f"paths.root_dir={tmp_path}", "trainer.max_epochs=6",
                f"hydra.run.dir={tmp_path / name}", "ckpt_path=auto", "callbacks.last.every_minutes=0.0",
                "trainer.log_every_n_steps=1"]  # fmt: skip

    last = tmp_path / "killed/checkpoints/last.ckpt"

    def whole() -> None:
        if last.exists():
            saved = torch.load(last, weights_only=True)
            assert all(bool(value.isfinite().all()) for value in saved["state_dict"].values())

    finished(tmp_path / "through", *command("through"))
    kills = [KILL, KILL, TERM, KILL, INT, KILL, KILL]
    kill_and_go_on(tmp_path / "killed", r"last\.ckpt", kills, 1, whole, *command("killed"))
    one, other = (
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in ("through", "killed")
    )
    for key in ("state_dict", "optimizer_states", "ema", "rng", "global_step"):
        assert_bit_equal(one[key], other[key], key)
    for name in ("metrics/metrics.csv", "validation.csv"):
        steps = [
            [line.split(",") for line in (tmp_path / run / name).read_text().splitlines()]
            for run in ("through", "killed")
        ]
        assert len(steps[0]) == len(steps[1]), name


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for n in range(8):
        write_clip(tmp_path / "videos" / f"p{n // 2}" / f"{n % 2}.mp4", num_frames=10 + n, side=36 + n)
    return tmp_path / "videos"


def test_preparation_killed_five_times_ends_with_the_same_bytes(videos: Path, tmp_path: Path) -> None:
    def command(output: Path) -> list[str]:
        settings = [
            "settings.image_size=64",
            "settings.frames_per_clip=10",
            "settings.min_face=20",
            "clips_per_shard=2",
        ]
        return ["prepare.py", "source=folder", f"source.root={videos}", "detector=dlib", *GREEN_DETECTOR, *settings,
                "workers=0", f"output={output}", "max_deaths=9"]  # fmt: skip

    def shards_are_whole() -> None:
        if (tmp_path / "killed/dataset.json").exists():
            for entry in DatasetInfo.load(tmp_path / "killed").splits["train"].shards:
                content = (tmp_path / "killed" / entry.file).read_bytes()
                assert hashlib.sha256(content).hexdigest() == entry.sha256

    finished(tmp_path / "through", *command(tmp_path / "through"))
    kills = [KILL, TERM, KILL, INT, KILL]
    names = r"\.tar|\.json"
    kill_and_go_on(tmp_path / "killed", names, kills, 2, shards_are_whole, *command(tmp_path / "killed"))
    one, other = hashes(tmp_path / "through"), hashes(tmp_path / "killed")
    assert one.keys() == other.keys()
    assert {name for name in one if one[name] != other[name]} <= {
        "prepare.json",
        "dataset.json",
    }  # the command's output=


def test_evaluation_killed_three_times_has_each_row_once(tmp_path: Path) -> None:
    write_data_set(tmp_path / "tiny", {"test": [[make_clip(n, 12) for n in range(3)]]})

    def command(name: str) -> list[str]:
        return ["evaluate.py", *EVALUATION, f"data.path={tmp_path / 'tiny'}", f"paths.root_dir={tmp_path}",
                f"hydra.run.dir={tmp_path / name / 'run'}", f"output={tmp_path / name}"]  # fmt: skip

    def rows(name: str) -> list[tuple[str, ...]]:
        measured = Results(tmp_path / name / "results.csv").rows()
        return sorted((row["method"], row["T"], row["clip"], row["ssim"], row["psnr"]) for row in measured)

    def each_once() -> None:
        found = [row[:3] for row in rows("killed")]
        assert len(found) == len(set(found))

    finished(tmp_path / "through", *command("through"))
    kill_and_go_on(tmp_path / "killed", r"results\.csv(?!\.lock)", [KILL, TERM, INT], 3, each_once, *command("killed"))
    assert rows("killed") == rows("through")
    assert len(rows("through")) == 2 * 2 * 3


def test_a_video_killed_three_times_never_has_its_name_unmarked(tmp_path: Path) -> None:
    torch.manual_seed(0)
    parts = nn.ModuleDict({name: instantiate(MODEL[name]) for name in ("embedder", "generator", "discriminator")})
    content = {"state_dict": parts.state_dict(), "config": {"model": MODEL, "loss": LOSS}}
    torch.save(content, tmp_path / "last.ckpt")
    cv2.imwrite(str(tmp_path / "portrait.png"), green_frame(120, 160, 60, 30, 50)[..., ::-1])
    write_clip(tmp_path / "clip.mp4", 6)
    output = tmp_path / "out"
    command = ["animate.py", f"source={tmp_path / 'portrait.png'}", f"driving={tmp_path / 'clip.mp4'}", "method=ff",
               f"model={tmp_path / 'last.ckpt'}", "provenance=metadata", *GREEN_DETECTOR, f"paths.root_dir={tmp_path}",
               f"output={output / 'out.mp4'}"]  # fmt: skip

    def marked() -> None:
        for path in output.glob("out.*"):
            assert b"rainedAlgorithmicMedia" in path.read_bytes(), path

    kill_and_go_on(output, r"out\.", [KILL, TERM, INT], 4, marked, *command)
    assert (output / "out.mp4").is_file()


def test_rendering_killed_twice_ends_with_the_same_bytes(tmp_path: Path) -> None:
    finished(tmp_path / "through", "render", str(tmp_path / "through"))
    kill_and_go_on(
        tmp_path / "killed", r"\.tar|\.json", [KILL, INT], 5, lambda: None, "render", str(tmp_path / "killed")
    )
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "through")
