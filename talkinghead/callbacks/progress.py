"""Progress: a Rich bar with s/it, time left and the losses; without a terminal, a line every few seconds."""

import math
import time
from datetime import timedelta
from typing import Any

import pytorch_lightning as L
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import (
    BatchesProcessedColumn,
    CustomBarColumn,
    RichProgressBarTheme,
)
from rich import get_console
from rich.progress import ProgressColumn, Task, TextColumn
from rich.text import Text

BAR_WIDTH = 16  # columns: with five losses a line has 120
SMOOTHING = 0.9  # of the step time that a line shows


class SpeedColumn(ProgressColumn):
    """Seconds per iteration, or iterations per second if there is more than one in a second."""

    def render(self, task: Task) -> Text:
        return Text(describe_speed(1 / task.speed if task.speed else math.nan))


class RunColumn(ProgressColumn):
    """Time left of the whole run, validations included."""

    def __init__(self, bar: "Progress") -> None:
        super().__init__()
        self.bar = bar

    def render(self, task: Task) -> Text:
        return Text(f"run {describe_seconds(self.bar.seconds_left())} left")


class Progress(RichProgressBar):
    """Rich progress bar; where output is no terminal (a log file, a batch job), a line every `plain_every_seconds`.

    The losses shown are the learner's `loss/*`.
    """

    def __init__(self, plain_every_seconds: float = 30.0, refresh_rate: int = 4, leave: bool = False) -> None:
        theme = RichProgressBarTheme(metrics_format=".3g")
        super().__init__(refresh_rate=refresh_rate, leave=leave, theme=theme)
        self.plain_every_seconds = plain_every_seconds
        self.plain = not (get_console().is_terminal or get_console().is_jupyter)
        if self.plain:
            self.disable()
        self._began = self._printed = self._mark = time.monotonic()
        self._done_before, self._step_seconds = 0, math.nan

    def enable(self) -> None:
        """Enable the bar, unless the output is no terminal."""
        if not self.plain:
            super().enable()

    def configure_columns(self, trainer: L.Trainer) -> list[Any]:
        return [
            TextColumn("{task.description}"),
            CustomBarColumn(
                complete_style=self.theme.progress_bar,
                finished_style=self.theme.progress_bar_finished,
                pulse_style=self.theme.progress_bar_pulse,
                bar_width=BAR_WIDTH,
            ),
            BatchesProcessedColumn(style=self.theme.batch_progress),
            SpeedColumn(),
            RunColumn(self),
        ]

    def _get_train_description(self, current_epoch: int) -> str:
        return f"epoch {current_epoch + 1}/{self.trainer.max_epochs}"  # as the lines without a terminal have it

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """The losses by their short names."""
        metrics = trainer.callback_metrics
        return {name.removeprefix("loss/"): value for name, value in metrics.items() if name.startswith("loss/")}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._began = self._printed = self._mark = time.monotonic()
        self._done_before = self._done(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        self._mark = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        seconds, self._mark = time.monotonic() - self._mark, time.monotonic()
        smooth = SMOOTHING if math.isfinite(self._step_seconds) else 0.0
        self._step_seconds = smooth * (self._step_seconds if smooth else 0.0) + (1 - smooth) * seconds
        due = time.monotonic() - self._printed >= self.plain_every_seconds
        if self.plain and trainer.is_global_zero and (due or trainer.is_last_batch):
            self._printed = time.monotonic()
            print(self.line(trainer, pl_module, batch_idx), flush=True)

    def line(self, trainer: L.Trainer, pl_module: L.LightningModule, batch_idx: int) -> str:
        """One line for a log file: `epoch 3/75  12/400  0.52 s/it  run 0:12:34 left  cnt 1.234 …`"""
        losses = "  ".join(f"{name} {float(value):.3f}" for name, value in self.get_metrics(trainer, pl_module).items())
        return (
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {batch_idx + 1}/{trainer.num_training_batches}  "
            f"{describe_speed(self._step_seconds)}  run {describe_seconds(self.seconds_left())} left  {losses}"
        )

    def seconds_left(self) -> float:
        """Time left of the whole run, validations included, from its pace so far; infinite if it has no end."""
        steps = self._done(self.trainer) - self._done_before
        epochs = self.trainer.max_epochs if self.trainer.max_epochs is not None else -1
        total = epochs * self.trainer.num_training_batches if epochs >= 0 else math.inf
        if self.trainer.max_steps >= 0:
            total = min(total, self.trainer.max_steps)
        per_step = (time.monotonic() - self._began) / steps if steps > 0 else math.nan
        return max(0, total - self._done(self.trainer)) * per_step

    @staticmethod
    def _done(trainer: L.Trainer) -> int:
        return trainer.fit_loop.total_batch_idx + 1


def describe_speed(seconds: float) -> str:
    """Speed as text: `0.52 s/it` or `12.3 it/s`."""
    if not math.isfinite(seconds) or seconds <= 0:
        return "-- s/it"
    return f"{seconds:.2f} s/it" if seconds >= 0.1 else f"{1 / seconds:.1f} it/s"


def describe_seconds(seconds: float) -> str:
    """A duration as text: `0:12:34`; dashes if it is unknown."""
    return str(timedelta(seconds=round(seconds))) if math.isfinite(seconds) else "-:--:--"
