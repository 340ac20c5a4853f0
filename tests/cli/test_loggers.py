"""How runs are called, grouped and gone on with at Weights & Biases; a training and an evaluation offline."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from talkinghead.callbacks.wandb_logger import OBJECTIVE
from talkinghead.cli import evaluate, train
from talkinghead.cli.checking import check_options
from talkinghead.cli.loggers import build_loggers, closing
from talkinghead.learners.checkpoints import git_commit
from tests.cli.test_evaluate import TINY, configure
from tests.cli.test_train import TINY as TRAINING
from tests.cli.test_train import data_set, train_on  # noqa: F401, a fixture
from tests.helpers.data_sets import make_clip, write_data_set
from tests.helpers.scripts import finish
from tests.helpers.wandb_run import go_offline, read_runs

ROOT = Path(__file__).parents[2]


def of_job(folder: Path, *overrides: str) -> DictConfig:
    runtime = [f"hydra.runtime.output_dir={folder}", f"hydra.runtime.cwd={folder.parents[2]}", "hydra.job.num=3"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", ["experiment=meta_synthetic", "logger=wandb", "logger.wandb.offline=true",
                                    f"paths.root_dir={folder.parents[2]}", *runtime, *overrides],
                         return_hydra_config=True)  # fmt: skip
    HydraConfig.instance().set_config(config)
    return config


def asked(cfg: DictConfig, resumed: Path | None = None) -> dict[str, Any]:
    """What wandb.init will be given."""
    (logger,) = build_loggers(cfg, resumed)
    return logger._wandb_init  # type: ignore[attr-defined]


def test_a_run_is_called_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_offline(tmp_path, monkeypatch)
    folder = tmp_path / "outputs/meta_synthetic/2026-01-31_12-00-00"
    given = asked(of_job(folder))
    assert given["name"] == "meta_synthetic/2026-01-31_12-00-00"
    assert (given["group"], given["id"], given["resume"], given["job_type"]) == (None, None, "allow", "fit")
    assert [*given["tags"]] == ["meta_synthetic"]
    given = asked(of_job(folder, "logger.wandb.name=mine", "logger.wandb.group=ours", "logger.wandb.id=x"))
    assert (given["name"], given["group"], given["id"]) == ("mine", "ours", "x")


def test_jobs_of_a_sweep_share_a_group_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_offline(tmp_path, monkeypatch)
    folder = tmp_path / "outputs/sweep_2026-01-31_12-00-00/3"
    given = asked(of_job(folder, "hydra.mode=MULTIRUN", "logger.wandb.id=slurm-77", f"paths.root_dir={tmp_path}"))
    assert (given["group"], given["name"], given["id"]) == (
        "sweep_2026-01-31_12-00-00", "sweep_2026-01-31_12-00-00/3", "slurm-77-3",
    )  # fmt: skip


def test_who_goes_on_in_a_folder_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_offline(tmp_path, monkeypatch)
    folder = tmp_path / "outputs/meta_synthetic/one"
    (folder / "wandb/run-20260131_120000-abc").mkdir(parents=True)
    (folder / "wandb/run-20260131_120000-abc/run-abc.wandb").touch()
    last = folder / "checkpoints/last.ckpt"
    assert asked(of_job(folder), last)["id"] == "abc"
    assert asked(of_job(folder))["id"] is None, "a new run, though the folder is not"
    assert asked(of_job(folder, "logger.wandb.id=x"), last)["id"] == "x"
    assert asked(of_job(folder.with_name("two")), last)["id"] is None


@pytest.mark.parametrize(("end", "status"), [(None, 0), (SystemExit(0), 0), (SystemExit(143), 143),
                                             (SystemExit("a line"), 1), (ValueError("x"), 1)])  # fmt: skip
def test_a_run_ends_as_its_block_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: BaseException | None, status: int
) -> None:
    go_offline(tmp_path, monkeypatch)
    (logger,) = build_loggers(of_job(tmp_path / "outputs/a/b"))
    with suppress(SystemExit, ValueError), closing([logger]):
        logger.log_metrics({"loss/cnt": 1.0}, step=0)
        if end:
            raise end
    (run,) = read_runs(tmp_path)
    assert run.exit_code == status


def test_an_evaluation_shows_tables_sheets_and_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_offline(tmp_path, monkeypatch)
    write_data_set(tmp_path / "tiny", {"test": [[make_clip(n, 12) for n in range(2)]]})
    assert {"callbacks=none", "logger=csv"} < {*TINY}
    wanted = ["callbacks=evaluate", "callbacks.clips.num_people=1", "logger=wandb", "logger.wandb.offline=true"]
    evaluate.test(configure(tmp_path, *wanted))
    (run,) = read_runs(tmp_path)
    assert run.run.job_type == "test"
    assert run.config["shots"] == [1, 4]
    assert run.config["git_commit"] == git_commit(ROOT)
    assert run.exit_code == 0

    tables = {key: read_table(tmp_path, key) for key in ("table", "table_intervals", "results")}
    columns, rows = tables["table"]
    assert [row[:3] for row in rows] == [
        ["tiny/test", shots, method] for shots in (1, 4) for method in ("nearest", "mean")
    ]
    assert all(isinstance(row[columns.index("ssim")], float) for row in rows)
    assert len(tables["results"][1]) == 8, "two people, two T, two methods"
    assert {"T", "clip", "ssim"} <= {*tables["results"][0]}
    assert run.metrics["table/*"].step_metric == "T"
    assert [step for step, _ in run.steps("table/tiny/test/nearest/ssim", "T")] == [1, 4]
    assert [step for step, _ in run.steps("test/T=4/nearest/ssim", "trainer/global_step")] == [0]

    media = next(tmp_path.rglob("files/media"))
    for shots in (1, 4):
        (row,) = run.steps(f"people/T={shots}.captions", "_step")
        assert sorted(row[1]) == ["clip000", "clip001"]
        (clip,) = (media / "videos/clips").glob(f"T={shots}_*.mp4")
        (written,) = (tmp_path / f"out/people/tiny/test/T{shots}").glob("*.mp4")  # of one person, as asked
        assert clip.read_bytes() == written.read_bytes()
        with av.open(clip) as video:
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
            assert video.streams.video[0].average_rate == 8
        assert len(frames) == 4, "the hold-out frames"
        assert frames[0].shape[1] > 4 * frames[0].shape[0], "shot, driving, target, two methods"
    assert len(list((media / "images/people").glob("T=*.png"))) == 4


def read_table(folder: Path, key: str) -> tuple[list[str], list[list[Any]]]:
    (path,) = folder.rglob(f"files/media/table/{key}_[0-9]*.json")
    stored = json.loads(path.read_text())
    return stored["columns"], stored["data"]


def test_a_finished_training_hands_over_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_offline(tmp_path, monkeypatch)
    folder = tmp_path / "outputs/a/b"
    clip = ROOT / "talkinghead/reenactment/shipped/drivers/calm.mp4"
    monkeypatch.setattr(train, "write_portable", lambda last, small, loss: small.write_bytes(b"small"))
    monkeypatch.setattr(train, "animate_example", lambda last, output: output.write_bytes(clip.read_bytes()))
    cfg = of_job(folder, "portable=mine.ckpt", "logger.wandb.log_model=true")
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("best", "last"):
        (folder / f"checkpoints/{name}.ckpt").write_text(name)
    loggers = build_loggers(cfg)
    with closing(loggers):
        train.conclude(cfg, folder, None, loggers)
    (run,) = read_runs(tmp_path)
    found = [(one.manifest.contents[0].path, {*one.aliases}) for one in run.artifacts]
    assert found == [(f"{name}.ckpt", {name, "latest"}) for name in ("best", "mine", "last")], "latest is the last one"
    (video,) = folder.glob("wandb/offline-run-*/files/media/videos/example_*.mp4")
    assert video.read_bytes() == clip.read_bytes()


def test_the_search_of_experiments_gives_options_that_there_are() -> None:
    """As an agent of Weights & Biases calls train.py."""
    search = yaml.safe_load((ROOT / "experiments/wandb_sweep.yaml").read_text())
    assert search["command"][-1] == "${args_no_hyphens}"
    assert search["metric"]["name"] == OBJECTIVE
    assert (ROOT / search["program"]).is_file()
    for end in ("min", "max"):
        given = {
            name: one.get("value", one.get(end, one.get("values", [0])[0]))
            for name, one in search["parameters"].items()
        }
        cfg = of_job(ROOT / "outputs/a/b", *(f"{name}={value}" for name, value in given.items()))
        check_options(cfg)
        assert cfg.learner.lr_generator == search["parameters"]["learner.lr_generator"][end]
        assert cfg.logger.wandb.objective == "val/T=8/ssim"


@pytest.mark.slow
def test_a_sweep_and_a_second_start_offline(
    data_set: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through train.py: two jobs are two runs of one group; one that goes on is the run that it was."""
    go_offline(tmp_path, monkeypatch)
    wandb = ["logger=wandb", "logger.wandb.offline=true", "logger.wandb.log_model=true"]
    objective = "optimized_metric='val/T=8/ssim'"
    sweep = tmp_path / "outputs/sweep"
    folders = [f"data.path={data_set}", f"paths.root_dir={tmp_path}", f"hydra.sweep.dir={sweep}"]
    command = [sys.executable, "train.py", "-m", *TRAINING, *folders, *wandb, "trainer.max_epochs=1", objective]
    subprocess.run([*command, "seed=0,1"], cwd=ROOT, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    first, second = read_runs(sweep)
    assert first.run.run_group == second.run.run_group == "sweep"
    assert (first.run.display_name, second.run.display_name) == ("sweep/0", "sweep/1")
    assert (first.config["seed"], second.config["seed"]) == (0, 1)
    assert first.config["learner"]["lr_generator"] == 5e-4
    assert first.config["git_commit"] == git_commit(ROOT)
    assert first.run.run_id != second.run.run_id
    assert {*first.summary["val/T=8/ssim"]} == {"max"}
    assert {*first.summary["val/T=8/nearest/psnr"]} == {"max"}
    assert first.summary["objective"] == first.steps("val/T=8/ssim", "val/step")[-1][1]
    assert [step for step, _ in first.steps("val/T=8/ssim", "val/step")] == [4]
    kept = {alias: artifact.name for artifact in first.artifacts for alias in artifact.aliases if alias != "latest"}
    assert kept == dict.fromkeys(("best", "last"), f"model-{first.run.run_id}")

    for epochs in (1, 2):
        finish(train_on(data_set, "run", *wandb, f"trainer.max_epochs={epochs}", "ckpt_path=auto"))
    before, after = read_runs(tmp_path / "run")
    assert before.run.run_id == after.run.run_id
    assert [step for step, _ in after.steps("val/T=8/ssim", "val/step")] == [8], "epoch 2 alone"
