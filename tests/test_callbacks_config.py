"""The groups trainer, logger and callbacks of conf/ build what they say."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as L
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from pytorch_lightning.loggers import CSVLogger

from talkinghead.callbacks.precision import best_precision
from talkinghead.callbacks.previews import PreviewGrid
from tests.tiny_learner import TinyLearner, fit

CONF = Path(__file__).parents[1] / "conf"


def composed(overrides: list[str], folder: Path, group: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(overrides=[f"+{group}={overrides[0]}", *overrides[1:], f"+paths.output_dir={folder}",
                                    "+validation_shots=[1,4]"])  # fmt: skip
    return instantiate(config[group])


@pytest.mark.parametrize("name", ["default", "cpu"])
def test_trainer_configs(name: str, tmp_path: Path) -> None:
    trainer = composed([name], tmp_path, "trainer")
    assert isinstance(trainer, L.Trainer)
    assert trainer.precision == best_precision("cpu" if not torch.cuda.is_available() else "auto")
    assert composed([name, "trainer.precision=32-true"], tmp_path, "trainer").precision == "32-true"


def test_distributed_trainer_on_the_cpu(tmp_path: Path) -> None:
    trainer = composed(["ddp_cpu"], tmp_path, "trainer")
    assert trainer.world_size == 2
    assert trainer.strategy.process_group_backend == "gloo"


@pytest.mark.parametrize(("name", "count"), [("default", 2), ("csv", 1), ("tensorboard", 1), ("none", 0)])
def test_logger_configs(name: str, count: int, tmp_path: Path) -> None:
    loggers = list(composed([name], tmp_path, "logger").values())
    assert len(loggers) == count
    fit(TinyLearner(), folder=tmp_path, logger=loggers)
    assert (tmp_path / "metrics" / "metrics.csv").is_file() == any(isinstance(log, CSVLogger) for log in loggers)


@pytest.mark.slow
def test_wandb_offline_takes_previews(tmp_path: Path) -> None:
    loggers = list(composed(["wandb", "logger.wandb.offline=true"], tmp_path, "logger").values())
    fit(TinyLearner(), PreviewGrid(tmp_path / "previews"), folder=tmp_path, logger=loggers)
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/previews*.png"))


def test_callback_configs(tmp_path: Path) -> None:
    callbacks = composed(["default", "callbacks.best.monitor='val/T=4/l1'"], tmp_path, "callbacks")
    fit(TinyLearner(), *callbacks.values(), folder=tmp_path, epochs=2, logger=False)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (tmp_path / "previews" / "latest.png").is_file()
    assert (tmp_path / "validation.csv").is_file()
    assert composed(["default", "callbacks.ema=null"], tmp_path, "callbacks")["ema"] is None
    assert not composed(["none"], tmp_path, "callbacks")


def test_precision_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "cpu", SimpleNamespace(
        _is_avx512_bf16_supported=lambda: False, _is_amx_tile_supported=lambda: False))  # fmt: skip
    assert best_precision() == "32-true"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert best_precision() == "bf16-mixed"
