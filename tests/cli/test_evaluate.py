"""How evaluate.py begins and ends: remedies that it names work, and nothing measured is no success."""

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from talkinghead.cli import evaluate
from talkinghead.evaluation.results import Results
from talkinghead.storage import read_csv
from tests.helpers.data_sets import SIZE, frame_points, make_clip, write_data_set

ROOT = Path(__file__).parents[2]
TINY = [
    "trainer=cpu", "logger=csv", "metrics=default", "metrics.detector=null", "metrics.distances=null", "data=folder",
    "set_metrics=none", "frame_choice.max_shots=4", "frame_choice.num_targets=4", "frame_choice.min_targets=2",
    "method=[nearest,mean]", "callbacks=none", f"model.image_size={SIZE}", "shots=[1,4]",
]  # fmt: skip


def configure(root: Path, *overrides: str, name: str = "evaluate") -> DictConfig:
    runtime = [f"hydra.runtime.output_dir={root / 'run'}", f"hydra.runtime.cwd={root}", "hydra.job.num=0"]
    mine = [*TINY, f"data.path={root / 'tiny'}", f"paths.root_dir={root}", f"output={root / 'out'}"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(name, [*runtime, *mine, *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    return config


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_data_set(tmp_path / "tiny", {"test": [[make_clip(n, 12) for n in range(2)]]})
    return tmp_path


def test_a_run_ends_with_its_table(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.test(configure(root))
    assert "tiny/test: mean over identities, 95 % interval" in capsys.readouterr().out
    table = read_csv(root / "run/table.csv")
    assert {(row["T"], row["method"], row["seeds"], row["identities"]) for row in table} == {
        (shots, method, "0", "2") for shots in "14" for method in ("nearest", "mean")
    }
    assert len(read_csv(root / "run/rows.csv")) == len(Results(root / "out/results.csv").rows()) == 8
    assert {row["protocol"] for row in Results(root / "out/results.csv").rows()} == {"clip_parts_random_4_4"}
    assert "table/tiny/test/nearest/ssim" in (root / "run/metrics/metrics.csv").read_text()


def end_of(config: DictConfig) -> str:
    with pytest.raises(SystemExit) as end:
        evaluate.test(config)
    assert isinstance(end.value.code, str), "a message means exit code 1"
    assert "\n" not in end.value.code
    return end.value.code


def write_pictures(folder: Path, count: int, side: int = SIZE) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((side, 2 * SIZE, 3), 7 * number, np.uint8))


class Anywhere:
    """A detector that finds the same face in every picture."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return frame_points(0, 0)


STILLS = ["people=stills", "people.detector={_target_: tests.cli.test_evaluate.Anywhere}"]


def test_nothing_measured_is_no_success(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each picture is found out only when its person is loaded: all of them are wide."""
    write_pictures(root / "faces/anna/train", 5)
    write_pictures(root / "faces/anna/test", 5)
    message = end_of(configure(root, *STILLS, f"people.root={root / 'faces'}"))
    assert "nothing was measured: faces/test: 1 x too few pictures with a face" in message
    assert not (root / "out/results.csv").exists()
    assert "rows:" not in caplog.text
    assert "0.png is left out" in caplog.text


def test_nobody_with_enough_frames_is_said_before_anything_is_done(root: Path) -> None:
    message = end_of(configure(root, "frame_choice.max_shots=40"))
    assert "of 2 clips none has the 42 frames that the protocol needs" in message
    assert "lower frame_choice.max_shots or frame_choice.min_targets" in message
    assert not (root / "out").exists()


def test_a_results_file_that_is_something_else_is_said_at_once(root: Path) -> None:
    (root / "out").mkdir()
    (root / "out/results.csv").write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    assert "results.csv is no csv file" in end_of(configure(root))


# Each message, and the remedy that it names: given, the message is gone.
REMEDIES = [
    (["keep_frames=false", "set_metrics=frechet", "set_metrics.fid=null", "set_metrics.fd_mobilenetv2=null"],
     r"set_metrics=none", ["keep_frames=false", "set_metrics=none"]),
    (["keep_frames=false", "set_metrics=frechet", "set_metrics.fid=null", "set_metrics.fd_mobilenetv2=null"],
     r"keep_frames=true", ["keep_frames=true", "set_metrics=frechet", "set_metrics.fid=null",
                           "set_metrics.fd_mobilenetv2=null"]),
    (["shots=8"], r"frame_choice\.max_shots=8", ["shots=8", "frame_choice.max_shots=8", "frame_choice.num_targets=2"]),
    (["shots=0"], r"shots=\[1,8,32\]", ["shots=[1,2]"]),
    (["frame_choice.max_shots=30"], r"lower frame_choice\.max_shots", ["frame_choice.max_shots=4"]),
    (["frame_choice.num_targets=9", "frame_choice.min_targets=9"], r"frame_choice\.min_targets",
     ["frame_choice.num_targets=9", "frame_choice.min_targets=8"]),
    (["people.split=val"], r"set people\.split to one of \['test'\]", ["people.split=test"]),
    (["people.unit=person"], r"people\.unit=person: choose clip or video", ["people.unit=video"]),
    (["frame_choice.split=half"], r"frame_choice\.split=half: choose parts or mixed", ["frame_choice.split=mixed"]),
    (["frame_choice.shots=first"], r"frame_choice\.shots=first: choose random or even", ["frame_choice.shots=even"]),
    (["method=[nearest,ft]"], r"leave it out of method", ["method=[nearest]"]),
    ([*STILLS, "people.root=nowhere"], r"no folder nowhere: set people\.root", [*STILLS, "people.root=FACES"]),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "message", "right"), REMEDIES, ids=lambda value: str(value)[:40])
def test_every_remedy_that_is_named_works(root: Path, wrong: list[str], message: str, right: list[str]) -> None:
    for number in range(12):
        (root / "faces/anna").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / f"faces/anna/{number}.png"), np.full((SIZE, SIZE, 3), 7 * number, np.uint8))
    assert re.search(message, end_of(configure(root, *wrong)))
    _, learner = evaluate.build(
        evaluate.with_sections_of_checkpoint(
            configure(root, *(text.replace("FACES", str(root / "faces")) for text in right))
        )
    )
    assert learner.candidates


@pytest.mark.parametrize(
    ("name", "overrides", "key"),
    [
        ("config", ["experiment=finetune_synthetic"], "init_from"),
        ("config", ["experiment=finetune_voxceleb"], "init_from"),
        ("evaluate", ["method=[ft]"], "checkpoint"),
        ("evaluate", ["method=[x2face]"], "checkpoints.x2face"),
    ],
)
def test_a_missing_checkpoint_is_asked_for_by_the_key_that_takes_it(name: str, overrides: list[str], key: str) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        runtime = ["hydra.runtime.output_dir=out", "hydra.runtime.cwd=."]
        without, given = (
            compose(name, [*runtime, *overrides, *more], return_hydra_config=True) for more in ([], [f"{key}=a.ckpt"])
        )
    (method,) = without.method
    HydraConfig.instance().set_config(without)
    with pytest.raises(ValueError, match=rf"trained networks: {re.escape(key)}=FILE"):
        evaluate.checkpoint_of(without, method)
    HydraConfig.instance().set_config(given)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint a\.ckpt"):
        evaluate.checkpoint_of(given, method)


def test_animate_offers_the_methods_that_work_there() -> None:
    done = subprocess.run(
        [sys.executable, "animate.py", "method=fast"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr == "animate.py: method=fast: there is no such choice; there are ff, ft\n"


@pytest.mark.parametrize("group", ["method", "adaptation"])
def test_a_list_of_choices_with_one_that_is_not_there_is_told_in_one_line(group: str) -> None:
    command = [sys.executable, "evaluate.py", f"{group}=[{'raw' if group == 'adaptation' else 'ff'},magic]"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    there = sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))
    assert done.stderr == f"evaluate.py: {group}=magic: there is no such choice; there are {', '.join(there)}\n"


def test_options_that_the_checkpoint_decides_are_refused(root: Path) -> None:
    lost = ["model.generator.num_residual=9"]
    ours = configure(root, "method=[ff]", "checkpoint=a.ckpt")
    with pytest.raises(ValueError, match=r"model\.generator\.num_residual would change nothing: a\.ckpt was"):
        evaluate.check_lost(ours, lost)
    with pytest.raises(ValueError, match=r"loss\.weights\.mch would change nothing"):
        evaluate.check_lost(ours, ["seed=1", "+loss.weights.mch=1"])
    evaluate.check_lost(ours, ["model=fsth_64", "metrics.every=2", "checkpoint=a.ckpt"])
    evaluate.check_lost(configure(root), lost)  # nothing is trained: these networks are not used


# Folders of sweeps.


def sweep_folder(*overrides: str) -> str:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        number = ["hydra.job.num=3", "hydra.runtime.cwd=/home"]
        config = compose("config", [*number, *overrides], return_hydra_config=True)
    return str(config.hydra.sweep.subdir)


def test_the_folder_of_a_job_is_short_and_has_no_sign_that_an_override_would_need_quoted() -> None:
    many = ["trainer=ddp_cpu", f"data.path={'x' * 300}", "init_from=/a/very/long/path/last.ckpt", "shots=1", "seed=1"]
    many += ["finetune=small", "loss=synthetic", "row='name=with=signs'"]
    for overrides in ([], ["seed=1"], ["experiment=finetune_synthetic", *many]):
        folder = sweep_folder(*overrides)
        assert folder == "3"
        path = f"outputs/finetune_synthetic/sweep_2026-01-01_00-00-00/{folder}/checkpoints/last.ckpt"
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            assert compose("evaluate", [f"checkpoint={path}"]).checkpoint == path
