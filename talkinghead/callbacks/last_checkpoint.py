"""Keeps `last.ckpt`: after every epoch, every few minutes, and when the run is told to stop."""

import logging
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytorch_lightning as L
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import SIGTERMException
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from talkinghead.callbacks.checkpoint_writing import save_alone, save_whole
from talkinghead.callbacks.metrics_csv import MetricsLogger
from talkinghead.data.remote import DataFault

STOP = (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM)
REQUEUE_TIMEOUT_S = 60
# Ranks on GPUs ask each other only after so many steps whether to save or stop: the host waits for the GPU then.
ASK_EVERY = 4
TERMINATED = 128 + signal.SIGTERM  # exit status; a requeued job has not failed

log = logging.getLogger(__name__)


class LastCheckpoint(Checkpoint):
    """Saves `<dirpath>/last.ckpt` at each epoch's end, every `every_minutes` (null: never), and on three signals.

    SIGTERM and Ctrl-C stop the run; SIGUSR1, which SLURM sends before a job's time is up, also requeues the job.
    A signal to any rank stops all of them. The file is replaced atomically, so a killed run leaves a complete one, and
    only between two training steps, so a resumed run ends with the same weights. After a step that is followed by a
    validation, it is written after the validation. Signals therefore wait for the step (with several GPUs, for up to
    `ASK_EVERY` steps) and for a validation in progress; a second Ctrl-C does not.
    Lightning calls checkpoint callbacks last, so every other callback's state is up to date in the file.
    """

    def __init__(self, dirpath: Path | str, every_minutes: float | None = 10.0) -> None:
        super().__init__()
        self.path = Path(dirpath) / "last.ckpt"
        self.every_minutes = every_minutes
        self._saved_at = time.monotonic()
        self._received: set[int] = set()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_at = time.monotonic()
        self._received = set()
        if threading.current_thread() is threading.main_thread():
            for name in STOP:  # in place of Lightning's, which save and talk to other ranks wherever a step just is
                signal.signal(name, self._receive)  # when the run ends, Lightning puts back what was before it began

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
        every = ASK_EVERY if trainer.world_size > 1 and trainer.strategy.root_device.type != "cpu" else 1
        if (trainer.fit_loop.total_batch_idx + 1) % every:
            return
        due = self.every_minutes is not None and time.monotonic() - self._saved_at >= 60 * self.every_minutes
        wanted = due or bool(self._received) or self._fault(trainer) is not None
        if trainer.strategy.reduce_boolean_decision(wanted, all=False) and not validation_or_end_follows(trainer):
            received = self._received_anywhere(trainer)
            if received:
                log_step(trainer, trainer.loggers)
            elif logs_this_step(trainer):  # Lightning will, but a kill until then must not cost the row
                log_step(trainer, [logger for logger in trainer.loggers if isinstance(logger, MetricsLogger)])
            self._save(trainer)
            self._stop(trainer, received)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        received = self._received_anywhere(trainer)
        if received and not logs_this_step(trainer):
            log_step(trainer, trainer.loggers)
        self._save(trainer)
        self._stop(trainer, received)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save what was learned if the run ends between two steps because training data cannot be read.

        With several ranks, the one that cannot read saves: after a step all hold the same state, and the others wait
        for it in the next one. Nothing is saved within a validation, which a resumed run would skip.
        """
        started = trainer.training and trainer.fit_loop.total_batch_idx >= 0
        if isinstance(exception, DataFault) and started:
            if trainer.world_size == 1:
                self._save(trainer)
            else:
                save_alone(trainer, self.path)

    @staticmethod
    def _fault(trainer: L.Trainer) -> str | None:
        """Why the data ends the run; None: it does not."""
        return getattr(getattr(trainer, "datamodule", None), "fault", None)

    def _received_anywhere(self, trainer: L.Trainer) -> list[signal.Signals]:
        """The signals that any rank has received."""
        return [name for name in STOP if trainer.strategy.reduce_boolean_decision(name in self._received, all=False)]

    def _stop(self, trainer: L.Trainer, received: list[signal.Signals]) -> None:
        """End the run on all ranks if a signal or a fault of the data demands it."""
        if signal.SIGINT in received:
            raise KeyboardInterrupt
        if signal.SIGUSR1 in received and trainer.is_global_zero:
            requeue()
        if received:
            raise SIGTERMException(TERMINATED if signal.SIGTERM in received else 0)
        fault = self._fault(trainer)
        if trainer.strategy.reduce_boolean_decision(fault is not None, all=False):
            raise DataFault(fault or "another rank could not read its data; its message says why")

    def _receive(self, signum: int, frame: object) -> None:
        if signum == signal.SIGINT:
            if signum in self._received:
                raise KeyboardInterrupt
            after = "this step, and its validation if one is due"
            rank_zero_info(f"stopping after {after}; Ctrl-C again to stop at once, without saving")
        self._received.add(signum)

    def _save(self, trainer: L.Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()  # so that a run that goes on from the checkpoint finds its steps
        save_whole(trainer, self.path)
        self._saved_at = time.monotonic()


def validation_or_end_follows(trainer: L.Trainer) -> bool:
    """Whether the current step is the last of its epoch, or is followed by a validation.

    From a checkpoint saved there, Lightning (2.6.6) resumes with the next epoch, without the validation, and miscounts
    the epochs: a checkpoint of that epoch then repeats a step.
    """
    loop, every = trainer.fit_loop.epoch_loop, trainer.val_check_batch or math.inf
    steps = 1 + (loop.total_batch_idx if trainer.check_val_every_n_epoch is None else loop.batch_idx)
    ends = trainer.is_last_batch or loop.batch_idx + 1 >= trainer.num_training_batches
    return ends or trainer.should_stop or (math.isfinite(every) and steps % every == 0)


def logs_this_step(trainer: L.Trainer) -> bool:
    """Whether Lightning will log the losses of the current step at its end."""
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return (trainer.fit_loop.total_batch_idx + 1) % max(1, every) == 0


def log_step(trainer: L.Trainer, loggers: Iterable[Logger]) -> None:
    """Log the current step as Lightning would after the callbacks, which a run that ends now does not reach."""
    values = {name: float(value) for name, value in trainer.logged_metrics.items() if not name.startswith("val/")}
    for logger in loggers:
        logger.log_metrics({**values, "epoch": trainer.current_epoch}, step=trainer.fit_loop.total_batch_idx)


def requeue() -> None:
    """Ask SLURM to run this job again; does nothing outside SLURM. A refusal is logged: the run stops anyway."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=REQUEUE_TIMEOUT_S)
        log.info("requeued job %s", job)
    except (OSError, subprocess.SubprocessError) as error:
        log.error("job %s was not requeued: %s. Submit it again with ckpt_path=<its last.ckpt>", job, error)
