"""Weights & Biases offline: what a run says of itself, its metrics and their best values, pictures, checkpoints."""

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from talkinghead.callbacks.best_checkpoint import HIGHER_IS_BETTER, NEAR_ONE_IS_BEST, summary_of
from talkinghead.callbacks.last_checkpoint import LastCheckpoint
from talkinghead.callbacks.previews import PreviewGrid
from talkinghead.callbacks.wandb_logger import WandbLogger, find_run
from talkinghead.reporting.summary import METRICS, TIMES
from tests.helpers.tiny_learner import STEPS, TinyLearner, fit
from tests.helpers.wandb_run import go_offline, read_runs

CONF = Path(__file__).parents[2] / "conf"


def build(folder: Path, **options: Any) -> WandbLogger:
    return WandbLogger(folder, offline=True, project="p", **options)


def test_a_run_is_what_its_config_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through conf/logger/wandb.yaml and the real Trainer, with a checkpoint, a preview and a clip."""
    go_offline(tmp_path, monkeypatch)
    given = {"offline": "true", "id": "slurm-77", "group": "ablation", "name": "mine", "tags": "[a,b]"}
    given |= {"log_model": "true", "objective": "'val/T=4/l1'"}
    beside = [f"+paths.output_dir={tmp_path}", "+stage=fit", "+name=toy"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(
            overrides=["+logger=wandb", *(f"logger.wandb.{key}={value}" for key, value in given.items()), *beside]
        )
    logger = instantiate(config.logger.wandb)
    logger.log_hyperparams({"learner": {"lr_generator": 0.1}, "git_commit": "abc123"})
    last = LastCheckpoint(tmp_path / "checkpoints")
    fit(TinyLearner(), PreviewGrid(tmp_path / "previews"), last, folder=tmp_path, epochs=2, logger=[logger])
    logger.log_checkpoints([last.path])
    logger.close(0)

    (run,) = read_runs(tmp_path)
    assert (run.run.run_id, run.run.display_name, run.run.run_group, run.run.job_type) == (
        "slurm-77", "mine", "ablation", "fit",
    )  # fmt: skip
    assert run.run.project == "talkinghead"
    assert [*run.run.tags] == ["a", "b"]
    assert run.config["learner"] == {"lr_generator": 0.1}
    assert run.config["git_commit"] == "abc123"
    assert run.exit_code == 0

    assert run.metrics["val/*"].step_metric == "val/step"
    assert run.metrics["val/step"].options.hidden
    logged = run.steps("val/T=4/l1", "val/step")
    assert [step for step, _ in logged] == [STEPS, 2 * STEPS]
    assert run.summary["val/T=4/l1"] == {"min": pytest.approx(min(value for _, value in logged))}
    assert [value for _, value in run.steps("objective", "trainer/global_step")] == [value for _, value in logged]
    assert run.summary["objective"] == pytest.approx(logged[-1][1]), "a number, which a sweep can read"
    assert len(run.steps("loss/cnt", "trainer/global_step")) == 2 * STEPS

    (artifact,) = run.artifacts
    assert (artifact.name, artifact.type, {*artifact.aliases}) == ("model-slurm-77", "model", {"last", "latest"})
    (content,) = artifact.manifest.contents
    assert (content.path, content.size) == ("last.ckpt", last.path.stat().st_size)
    assert Path(content.local_path).read_bytes() == last.path.read_bytes(), "it waits here to be uploaded"
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/images/previews*.png"))) == 2
    assert [step for step, _ in run.steps("previews._type", "trainer/global_step")] == [STEPS, 2 * STEPS]


def test_checkpoints_are_kept_only_where_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = Recorder()
    logger = WandbLogger(tmp_path, offline=True, experiment=recorded)
    logger.log_checkpoints([tmp_path / "last.ckpt"])
    assert not recorded.calls
    logger = WandbLogger(tmp_path, offline=True, log_model=True, experiment=recorded)
    logger.log_checkpoints([tmp_path / "checkpoints/best.ckpt", tmp_path / "checkpoints/last.ckpt"])
    assert [(given["name"], given["aliases"]) for _, given in recorded.calls] == [
        ("model-id", ["best"]), ("model-id", ["last"]),
    ]  # fmt: skip


class Recorder:
    """A run that records what it is told."""

    id = "id"

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.logged: list[dict[str, Any]] = []

    def log_artifact(self, *args: Any, **given: Any) -> None:
        self.calls.append((args, given))

    def define_metric(self, *args: Any, **given: Any) -> None:
        self.calls.append((args, given))

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def finish(self, exit_code: int) -> None:
        self.calls.append((("finish",), {"exit_code": exit_code}))


def test_each_metric_is_defined_once_and_each_family_has_its_step(tmp_path: Path) -> None:
    recorded = Recorder()
    logger = WandbLogger(tmp_path, offline=True, experiment=recorded)
    logger.log_metrics({"loss/cnt": 1.0}, step=0)
    assert not recorded.calls
    for step in (9, 19):
        logger.log_metrics({"val/T=8/ssim": 0.5, "val/T=8/nme": 0.1, "val/T=8/lip_gain": 1.0, "epoch": 0}, step=step)
    logger.log_metrics({"table/set/test/FT/ssim": 0.6}, step=8)
    assert recorded.calls == [
        (("val/step",), {"hidden": True}), (("val/*",), {"step_metric": "val/step"}),
        (("val/T=8/ssim",), {"step_metric": "val/step", "summary": "max"}),
        (("val/T=8/nme",), {"step_metric": "val/step", "summary": "min"}),
        (("val/T=8/lip_gain",), {"step_metric": "val/step", "summary": "last"}),
        (("T",), {"hidden": True}), (("table/*",), {"step_metric": "T"}),
    ]  # fmt: skip
    assert [row.get("val/step") for row in recorded.logged] == [None, 10, 20, None]
    assert recorded.logged[-1] == {"table/set/test/FT/ssim": 0.6, "T": 8}


def test_best_is_what_the_tables_call_better() -> None:
    """One list is of a lower layer than the other."""
    for name, metric in METRICS.items():
        if name in TIMES or name == "user":
            continue
        expected = "last" if name in NEAR_ONE_IS_BEST else "max" if metric.higher_is_better else "min"
        assert summary_of(f"val/T=8/{name}") == expected
    assert {*HIGHER_IS_BETTER, *NEAR_ONE_IS_BEST} <= {*METRICS}


def test_a_second_start_is_the_same_run_and_one_process_may_have_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_offline(tmp_path, monkeypatch)
    assert find_run(tmp_path / "0") is None
    for job, identity in (("0", None), ("0", "same"), ("1", None)):
        logger = build(tmp_path / job, id=find_run(tmp_path / job) if identity else None)
        logger.log_metrics({"loss/cnt": 1.0}, step=0)
        logger.close(0)
    first, again, other = read_runs(tmp_path / "0") + read_runs(tmp_path / "1")
    assert first.run.run_id == again.run.run_id == find_run(tmp_path / "0")
    assert other.run.run_id != first.run.run_id
    assert all(len(run.steps("loss/cnt", "trainer/global_step")) == 1 for run in (first, again, other))


def test_the_newest_run_of_a_folder_is_found(tmp_path: Path) -> None:
    for name, identity in [("run-20260101_000000-a-b", "a-b"), ("offline-run-20260102_000000-c-1", "c")]:
        (tmp_path / "wandb" / name).mkdir(parents=True)
        (tmp_path / "wandb" / name / f"run-{identity}.wandb").touch()
    (tmp_path / "wandb/latest-run").symlink_to(tmp_path / "wandb/run-20260101_000000-a-b")
    assert find_run(tmp_path) == "c"
    (tmp_path / "wandb/run-20260103_000000-a-b").mkdir()
    assert find_run(tmp_path) == "c", "an empty folder tells nothing"
    (tmp_path / "wandb/run-20260103_000000-a-b/run-a-b.wandb").touch()
    assert find_run(tmp_path) == "a-b"


def test_a_clip_is_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_offline(tmp_path, monkeypatch)
    clip = CONF.parent / "talkinghead/reenactment/shipped/drivers/calm.mp4"
    logger = build(tmp_path)
    logger.log_video("example", [str(clip)])
    logger.log_table("table", columns=["T", "ssim"], data=[[1, 0.5], [8, None]])
    logger.close(1)
    (run,) = read_runs(tmp_path)
    (row,) = run.steps("example.videos", "_step")
    assert row[1][0]["_type"] == "video-file"
    (stored,) = tmp_path.glob("wandb/offline-run-*/files/media/videos/*.mp4")
    assert stored.read_bytes() == clip.read_bytes()
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/*.json")
    assert json.loads(table.read_text())["data"] == [[1, 0.5], [8, None]]
    assert run.exit_code == 1
