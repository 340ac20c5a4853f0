"""Learning rates and loss weights over a run: warm-up, full rate, half a cosine; some losses fade in."""

import math
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as L


class Schedule(L.Callback):
    """Sets every optimizer's rate and some loss weights before each step; a pure function of the step.

    Args:
        warmup: steps in which the rate rises to its full value
        hold: share of the run, in [0, 1), after which the rate falls along half a cosine
        floor: the rate falls no lower than this share of the full rate
        fading: losses whose weights are 0 up to the share `fade_from` of the run, and full from `fade_to` on

    The run is `max_epochs` epochs long. `TimeBudget` lowers that number, so the cosine of a shortened run ends with it.
    """

    def __init__(
        self, warmup: int = 200, hold: float = 0.5, floor: float = 0.03, fading: Sequence[str] = ("adv", "fm"),
        fade_from: float = 0.08, fade_to: float = 0.18,
    ) -> None:  # fmt: skip
        if warmup < 0 or not 0 <= hold < 1 or not 0 <= floor <= 1 or not 0 <= fade_from < fade_to <= 1:
            raise ValueError(
                f"callbacks.schedule: warmup={warmup}, hold={hold}, floor={floor}, fade_from={fade_from}, "
                f"fade_to={fade_to}: warmup >= 0, shares in 0 … 1, fade_from < fade_to"
            )
        self.warmup, self.hold, self.floor = warmup, hold, floor
        self.fading, self.fade_from, self.fade_to = tuple(fading), fade_from, fade_to
        self._weights: dict[str, float] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        learner: Any = pl_module
        if unknown := [name for name in self.fading if name not in learner.weights]:
            raise ValueError(
                f"callbacks.schedule.fading: {unknown[0]} is no loss of this run; {[*learner.weights]} are"
            )
        if not math.isfinite(self._steps(trainer)):
            raise ValueError("callbacks.schedule needs an end: give trainer.max_epochs")
        self._weights = {name: learner.weights[name] for name in self.fading}
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])  # goes into checkpoints, as torch's own schedulers have it

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
        learner: Any = pl_module
        step = trainer.fit_loop.total_batch_idx + 1
        done = step / self._steps(trainer)
        rate = self.rate(step, done)
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * rate
        share = min(1.0, max(0.0, (done - self.fade_from) / (self.fade_to - self.fade_from)))
        learner.weights |= {name: weight * share for name, weight in self._weights.items()}

    def rate(self, step: int, done: float) -> float:
        """The factor of all learning rates at `step`, when the share `done` of the run is over."""
        falling = max(0.0, (min(1.0, done) - self.hold) / (1 - self.hold))
        cosine = 0.5 * (1 + math.cos(math.pi * falling))
        return min(1.0, step / max(1, self.warmup)) * max(self.floor, cosine)

    @staticmethod
    def _steps(trainer: L.Trainer) -> float:
        epochs = trainer.max_epochs
        return math.inf if epochs in (None, -1) else float((epochs or 0) * trainer.num_training_batches)
