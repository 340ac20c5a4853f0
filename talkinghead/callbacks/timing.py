"""The speed of a run: seconds per step, the share of it spent waiting for data, frames per second."""

import time
from typing import Any

import pytorch_lightning as L

from talkinghead.types import Episode


class Timing(L.Callback):
    """Logs `time/step_s`, `time/data_s` (of it, waiting for the loader) and `time/frames_per_s`, this rank's.

    A frame is any image that a step reads: K shots and one target per episode.
    """

    def __init__(self) -> None:
        self._start = self._begin = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start = time.perf_counter()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
        self._begin = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Episode, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        step, data = now - self._start, self._begin - self._start
        frames = batch.shots.shape[0] * (batch.shots.shape[1] + 1)
        pl_module.log_dict({"time/step_s": step, "time/data_s": data, "time/frames_per_s": frames / step})
        self._start = now
