"""The groups trainer, logger and callbacks of conf/ build what they say."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as L
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from pytorch_lightning.loggers import CSVLogger

from talkinghead.precision import best_accelerator, best_precision
from tests.helpers.tiny_learner import TinyLearner, fit

CONF = Path(__file__).parents[2] / "conf"


def composed(overrides: list[str], folder: Path, group: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(overrides=[f"+{group}={overrides[0]}", *overrides[1:], f"+paths.output_dir={folder}",
                                    "+validation_shots=[1,4]", "+stage=fit"])  # fmt: skip
    return instantiate(config[group])


@pytest.mark.parametrize("name", ["default", "cpu"])
def test_trainer_configs(name: str, tmp_path: Path) -> None:
    trainer = composed([name], tmp_path, "trainer")
    assert isinstance(trainer, L.Trainer)
    assert trainer.precision == best_precision("cpu" if not torch.cuda.is_available() else "auto")
    assert composed([name, "trainer.precision=32-true"], tmp_path, "trainer").precision == "32-true"


def test_apples_gpu_is_never_taken_silently(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert best_accelerator() == "cpu"
    assert type(composed(["default"], tmp_path, "trainer").accelerator).__name__ == "CPUAccelerator"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert best_accelerator() == "gpu"


def test_distributed_trainer_on_the_cpu(tmp_path: Path) -> None:
    trainer = composed(["ddp_cpu"], tmp_path, "trainer")
    assert trainer.world_size == 2
    assert trainer.strategy.process_group_backend == "gloo"
    assert trainer.strategy._timeout.total_seconds() == 1800
    shorter = composed(["ddp_cpu", "trainer.strategy.timeout.minutes=5"], tmp_path, "trainer")
    assert shorter.strategy._timeout.total_seconds() == 300


@pytest.mark.parametrize(("name", "count"), [("csv", 1), ("tensorboard", 1), ("none", 0)])
def test_logger_configs(name: str, count: int, tmp_path: Path) -> None:
    loggers = list(composed([name], tmp_path, "logger").values())
    assert len(loggers) == count
    fit(TinyLearner(), folder=tmp_path, logger=loggers)
    assert (tmp_path / "metrics" / "metrics.csv").is_file() == any(isinstance(log, CSVLogger) for log in loggers)


def test_callback_configs(tmp_path: Path) -> None:
    callbacks = composed(["default", "callbacks.best.metric=l1"], tmp_path, "callbacks")
    fit(TinyLearner(), *callbacks.values(), folder=tmp_path, epochs=2, logger=False)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (tmp_path / "previews" / "latest.png").is_file()
    assert (tmp_path / "validation.csv").is_file()
    assert composed(["default", "callbacks.ema=null"], tmp_path, "callbacks")["ema"] is None


def test_no_callbacks_means_no_checkpoints(tmp_path: Path) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["callbacks=none", "trainer=cpu", f"trainer.default_root_dir={tmp_path}"])
    assert not config.callbacks
    trainer = instantiate(config.trainer, max_epochs=1, logger=False, enable_progress_bar=False)
    trainer.fit(TinyLearner())
    assert not list(tmp_path.rglob("*.ckpt"))


def test_facenet_experiment_trains_without_checkpoints() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["experiment=facenet_synthetic"])
    assert not config.callbacks
    assert config.trainer.enable_checkpointing is False


@pytest.mark.parametrize("debug", ["default", "overfit", "profile"])
def test_a_debugging_run_has_a_folder_of_its_own(debug: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["experiment=meta_synthetic", f"debug={debug}"], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        plain = compose("config", ["experiment=meta_synthetic"])
        assert config.name != plain.name
        assert config.name.startswith("meta_synthetic_")


def test_metrics_go_on_where_they_were(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        logger = composed(["csv"], tmp_path, "logger")["csv"]
        logger.log_metrics({"loss/cnt": value, **({"late": 7.0} if value == 2 else {})}, step=int(value))
        logger.finalize("success")
    with open(tmp_path / "metrics/metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["loss/cnt"], row["late"]) for row in rows] == [("1", "1.0", ""), ("2", "2.0", "7.0")]


def test_wandb_goes_on_as_the_run_that_the_job_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "slurm-77")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["logger=wandb"])
    assert (config.logger.wandb.id, config.logger.wandb.resume) == ("slurm-77", "allow")
    assert {"name", "group", "job_type"} <= set(config.logger.wandb)
    assert config.logger.wandb.job_type == "fit"


def test_precision_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "cpu", SimpleNamespace(
        _is_avx512_bf16_supported=lambda: False, _is_amx_tile_supported=lambda: False))  # fmt: skip
    assert best_precision() == "32-true"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert best_precision() == "bf16-mixed"
