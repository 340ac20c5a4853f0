"""Keeps `last.ckpt`: after every epoch, every few minutes, and when the run is told to stop."""

import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as L
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException
from pytorch_lightning.utilities.rank_zero import rank_zero_info


class LastCheckpoint(Checkpoint):
    """Saves `<dirpath>/last.ckpt` at each epoch's end, every `every_minutes` (null: never), on SIGTERM and on Ctrl-C.

    The file is replaced whole, so a killed run always finds a complete one, and always written between two steps, so
    a run that goes on from it ends with the same weights. Ctrl-C therefore waits for the step; a second one does not.
    Lightning calls checkpoint callbacks last, so every other callback's state is up to date in the file.
    """

    def __init__(self, dirpath: Path | str, every_minutes: float | None = 10.0) -> None:
        super().__init__()
        self.path = Path(dirpath) / "last.ckpt"
        self.every_minutes = every_minutes
        self._saved_at = time.monotonic()
        self._interrupted = False
        self._handler: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_at = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._interrupt)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
        interrupted = trainer.strategy.reduce_boolean_decision(self._interrupted, all=False)
        due = self.every_minutes is not None and time.monotonic() - self._saved_at >= 60 * self.every_minutes
        if trainer.strategy.reduce_boolean_decision(due or interrupted, all=False):
            self._save(trainer)
        if interrupted:
            raise KeyboardInterrupt

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SIGTERMException) and trainer.global_step > 0 and not trainer.sanity_checking:
            self._save(trainer)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
        self._handler, self._interrupted = None, False

    def _interrupt(self, signum: int, frame: object) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        rank_zero_info("stopping after this step; Ctrl-C again to stop at once, without saving")

    def _save(self, trainer: L.Trainer) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self.path, weights_only=False)
        self._saved_at = time.monotonic()
