"""Keeps `last.ckpt`: after every epoch, every few minutes, and when the run is told to stop."""

import time
from pathlib import Path

import pytorch_lightning as L
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException


class LastCheckpoint(Checkpoint):
    """Saves `<dirpath>/last.ckpt` at each epoch's end, every `every_minutes`, at the end, on SIGTERM and on Ctrl-C.

    The file is replaced whole, so a killed run always finds a complete one. `every_minutes=null` leaves the clock out.
    Lightning calls checkpoint callbacks last, so every other callback's state is up to date in the file.
    """

    def __init__(self, dirpath: Path | str, every_minutes: float | None = 10.0) -> None:
        super().__init__()
        self.path = Path(dirpath) / "last.ckpt"
        self.every_minutes = every_minutes
        self._saved_at = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_at = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
        if self.every_minutes is None:
            return
        due = time.monotonic() - self._saved_at >= 60 * self.every_minutes
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        started = trainer.global_step > 0 and not trainer.sanity_checking
        if started and isinstance(exception, SIGTERMException | KeyboardInterrupt):
            self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self.path, weights_only=False)
        self._saved_at = time.monotonic()
