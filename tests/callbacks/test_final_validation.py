"""A run ends with a validation, whatever ends it."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as L
import torch
from pytorch_lightning.callbacks import Timer

from talkinghead.callbacks.best_checkpoint import BestCheckpoint
from talkinghead.callbacks.final_validation import ValidateAtEnd
from tests.helpers.tiny_learner import STEPS, TinyLearner, fit


class Validations(L.Callback):
    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.steps.append(trainer.fit_loop.total_batch_idx + 1)


@pytest.mark.parametrize(("epochs", "options", "expected"), [
    (1, {"check_val_every_n_epoch": 2}, [STEPS]),
    (3, {"check_val_every_n_epoch": 2}, [2 * STEPS, 3 * STEPS]),
    (4, {"check_val_every_n_epoch": 2}, [2 * STEPS, 4 * STEPS]),
    (9, {"check_val_every_n_epoch": 9, "max_steps": 7}, [7]),
])  # fmt: skip
def test_a_run_ends_with_a_validation(
    epochs: int, options: dict[str, Any], expected: list[int], tmp_path: Path
) -> None:
    seen = Validations()
    fit(TinyLearner(), ValidateAtEnd(), seen, folder=tmp_path, epochs=epochs, **options)
    assert seen.steps == expected


def test_a_run_that_is_out_of_time_ends_with_a_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, learner = Validations(), TinyLearner()
    monkeypatch.setattr(Timer, "time_elapsed", lambda *_: 10 * learner.trainer.global_step)  # ten seconds a step
    options: dict[str, Any] = {"check_val_every_n_epoch": 9, "max_time": "00:00:01:05"}
    fit(learner, ValidateAtEnd(), seen, folder=tmp_path, epochs=9, **options)
    assert seen.steps == [7]


def test_a_short_run_leaves_a_best_checkpoint(tmp_path: Path) -> None:
    best = BestCheckpoint(tmp_path, metric="l1")
    fit(TinyLearner(), ValidateAtEnd(), best, folder=tmp_path, check_val_every_n_epoch=2)
    assert torch.load(best.path, weights_only=True)["epoch"] == 0
