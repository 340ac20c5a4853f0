"""Says after a few steps how long the run will take, and keeps it within a number of minutes."""

import math
import time

import pytorch_lightning as L
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from talkinghead.callbacks.progress import describe_seconds

VALIDATION_SHARE = 0.15  # of the time, before one was measured


class TimeBudget(L.Callback):
    """Logs how long the run will take on this machine; with `minutes`, cuts it to the epochs that fit.

    The estimate comes after `skip` + `steps` steps. A run that is cut ends as any other: at the end of an epoch, with
    a validation, previews and checkpoints. An epoch that is too long by itself becomes shorter. The minutes are those
    of one start: a run that goes on has them anew. Rank 0's clock counts.

    Args:
        minutes: of training and validation together; None: only the estimate
    """

    def __init__(self, minutes: float | int | None = None, skip: int = 3, steps: int = 10) -> None:
        if (minutes is not None and minutes <= 0) or skip < 0 or steps < 1:
            raise ValueError(
                f"callbacks.budget: minutes={minutes}, skip={skip}, steps={steps}: minutes > 0, steps >= 1"
            )
        self.minutes, self.skip, self.steps = minutes, skip, steps
        self._began = self._mark = time.monotonic()
        self._count, self._is_cut = 0, False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began, self._count = time.monotonic(), 0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._count > self.skip + self.steps:  # epochs so far say more than the first steps
            per_epoch = (time.monotonic() - self._began) / self._epochs_done(trainer)
            self._cut(trainer, per_epoch)
        if self._is_cut and self._epochs_left(trainer) == 1:
            trainer.check_val_every_n_epoch = 1  # the last epoch ends with a validation

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
        self._count += 1
        if self._count == self.skip:
            self._mark = time.monotonic()
        if self._count != self.skip + self.steps or not math.isfinite(trainer.num_training_batches):
            return
        began = self._mark if self.skip else self._began
        per_step = trainer.strategy.broadcast((time.monotonic() - began) / self.steps)
        per_epoch = per_step * trainer.num_training_batches / (1 - VALIDATION_SHARE)
        epochs = self._epochs_left(trainer)
        steps = round(epochs * trainer.num_training_batches)
        rank_zero_info(
            f"about {describe_seconds(epochs * per_epoch)} for {steps:,} steps on this machine ({per_step:.2f} s each)"
        )
        self._cut(trainer, per_epoch)

    @staticmethod
    def _epochs_left(trainer: L.Trainer) -> float:
        """Of this start, that of now included."""
        return float(
            math.inf if trainer.max_epochs in (None, -1) else (trainer.max_epochs or 0) - trainer.current_epoch
        )

    def _epochs_done(self, trainer: L.Trainer) -> float:
        return max(self._count / trainer.num_training_batches, 1e-9)

    def _cut(self, trainer: L.Trainer, per_epoch: float) -> None:
        """Make this epoch the last one, or a shorter one, where time does not allow more."""
        if self.minutes is None:
            return
        per_epoch = trainer.strategy.broadcast(per_epoch)
        spent = trainer.strategy.broadcast(time.monotonic() - self._began)
        in_epoch = trainer.fit_loop.epoch_loop.batch_progress.current.ready / trainer.num_training_batches
        fit = in_epoch + (60 * self.minutes - spent) / per_epoch  # epochs, that of now included
        if fit >= self._epochs_left(trainer):
            return
        whole, self._is_cut = max(1, math.floor(fit)), True
        trainer.fit_loop.max_epochs = trainer.current_epoch + whole
        done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if fit < 1:
            batches = max(done + 1, math.floor(fit * trainer.num_training_batches))
            trainer.fit_loop.max_batches = trainer.val_check_batch = min(batches, int(trainer.num_training_batches))
        total = trainer.fit_loop.max_epochs
        if whole == 1:
            trainer.check_val_every_n_epoch = 1
        rank_zero_info(
            f"cut to {total} epoch{'s' if total != 1 else ''} of {trainer.num_training_batches} steps, which fit into "
            f"{self.minutes:g} minutes; callbacks.budget.minutes=null runs all of it"
        )
