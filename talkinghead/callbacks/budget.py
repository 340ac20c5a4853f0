"""Estimates a run's duration after a few steps, and shortens the run to a number of minutes."""

import math
import time

import pytorch_lightning as L
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from talkinghead.callbacks.progress import describe_seconds

VALIDATION_SHARE = 0.15  # of the time, before one was measured


class TimeBudget(L.Callback):
    """Logs how long the run will take on this machine; with `minutes`, cuts it to the epochs that fit.

    The estimate is made after `skip` + `steps` steps. A shortened run ends as any other: at the end of an epoch, with
    a validation, previews and checkpoints. An epoch that is too long by itself is shortened. The minutes count from
    each start: a resumed run has all of them again. Rank 0's clock decides.

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
        self._count, self._is_cut, self._validated = 0, False, False
        self._asked: float = math.inf  # epochs of the run
        self._every: int | None = 1  # epochs from validation to validation

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began, self._count = time.monotonic(), 0
        self._asked = math.inf if trainer.max_epochs in (None, -1) else float(trainer.max_epochs or 0)
        self._every = trainer.check_val_every_n_epoch

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validate_after_last(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
        self._count += 1
        if self._count == self.skip:
            self._mark = time.monotonic()
        batches = trainer.num_training_batches
        if self._count != self.skip + self.steps or not math.isfinite(batches):
            return
        began = self._mark if self.skip else self._began
        per_step = trainer.strategy.broadcast((time.monotonic() - began) / self.steps)
        per_epoch = per_step * batches / self._training_share(trainer)
        epochs = self._asked - trainer.current_epoch
        rank_zero_info(
            f"about {describe_seconds(epochs * per_epoch)} for {round(epochs * batches):,} steps on this machine "
            f"({per_step:.2f} s each)"
        )
        done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        fit = self._cut(trainer, per_epoch, trainer.current_epoch, done / batches)
        if fit < 1:  # a part of this epoch
            last = min(max(done + 1, math.floor(fit * batches)), int(batches))
            trainer.fit_loop.max_batches = trainer.val_check_batch = last
        self._validate_after_last(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validated = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._is_last(trainer):  # rates have fallen already: the run ends
            return
        if self._count > self.skip + self.steps:  # whole epochs say more than the first steps
            per_epoch = (time.monotonic() - self._began) / (self._count / trainer.num_training_batches)
            self._cut(trainer, per_epoch / self._training_share(trainer), trainer.current_epoch + 1)

    @staticmethod
    def _is_last(trainer: L.Trainer) -> bool:
        return trainer.fit_loop.max_epochs == trainer.current_epoch + 1

    def _validate_after_last(self, trainer: L.Trainer) -> None:
        """Let the last epoch of a shortened run end with a validation."""
        if self._is_cut:
            trainer.check_val_every_n_epoch = 1 if self._is_last(trainer) else self._every

    def _training_share(self, trainer: L.Trainer) -> float:
        """Training's share of the time measured so far; 1 if a validation is included, or if there are none."""
        return 1 - VALIDATION_SHARE if trainer.enable_validation and not self._validated else 1.0

    def _cut(self, trainer: L.Trainer, per_epoch: float, epoch: int, begun: float = 0.0) -> float:
        """End the run after the whole epochs that fit, or restore some that were cut because of a slow start.

        Args:
            per_epoch: seconds
            epoch: the one that begins, or of which the share `begun` is done

        Returns:
            Epochs from the start of `epoch` for which there is time; inf where there is no limit.
        """
        if self.minutes is None:
            return math.inf
        per_epoch = trainer.strategy.broadcast(per_epoch)
        spent = trainer.strategy.broadcast(time.monotonic() - self._began)
        fit = begun + (60 * self.minutes - spent) / per_epoch
        before, total = trainer.fit_loop.max_epochs, epoch + max(math.floor(fit), math.ceil(begun))
        if total >= self._asked and not self._is_cut:
            return fit
        self._is_cut, total = True, round(min(total, self._asked))
        trainer.fit_loop.max_epochs = total
        if total != before or fit < 1:
            rank_zero_info(
                f"cut to {total} epoch{'s' if total != 1 else ''} of {trainer.num_training_batches} steps, which fit "
                f"into {self.minutes:g} minutes; callbacks.budget.minutes=null runs all of it"
            )
        return fit
