"""Ends a run with a validation, so that there is a table, a preview and a best checkpoint."""

import pytorch_lightning as L
from pytorch_lightning.callbacks import Timer


class ValidateAtEnd(L.Callback):
    """Validates after the last epoch even if that is not a multiple of `trainer.check_val_every_n_epoch`."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
        late = any(isinstance(one, Timer) and one.time_remaining() <= 0 for one in trainer.callbacks)  # type: ignore[attr-defined,operator]
        done = 0 <= trainer.max_steps <= trainer.global_step
        last = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
        trainer.should_stop = trainer.should_stop or done
        if trainer.should_stop or late or last:
            trainer.check_val_every_n_epoch = 1
