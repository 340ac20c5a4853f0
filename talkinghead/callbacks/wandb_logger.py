"""Weights & Biases: validation over its own step with its best values, tables over T, checkpoints as artifacts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import loggers
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from talkinghead.callbacks.best_checkpoint import summary_of

OBJECTIVE = "objective"  # what a sweep of Weights & Biases optimises: its own metrics have several values in a summary


class WandbLogger(loggers.WandbLogger):
    """Lightning's logger with separate step axes for validations and tables, best values as summaries, and artifacts.

    - The step of `val/*` is `val/step`, the number of training steps before the validation, as in validation.csv. The
      summary of each metric is its best value: `val/T=8/ssim.max`, `val/T=8/nme.min`.
    - The step of `table/*` is the number of shots T.

    Args:
        log_model: keep checkpoints as artifacts, see `log_checkpoints`. Lightning's own option of this name sees only
            its own ModelCheckpoint.
        objective: log name of the metric that a sweep optimises; it is also logged as `objective`
        options: further arguments of Lightning's logger and of wandb.init
    """

    def __init__(
        self, save_dir: str | Path = ".", name: str | None = None, id: str | None = None, offline: bool = False,
        log_model: bool = False, objective: str | None = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(name=name, save_dir=str(save_dir), id=id, offline=offline, log_model=False, **options)
        self.keeps_checkpoints, self._objective = log_model, objective
        self._defined: set[str] = set()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log metrics, with the steps of `val/*` and `table/*`."""
        steps = {"val/": "val/step", "table/": "T"}
        used = {axis for prefix, axis in steps.items() if any(name.startswith(prefix) for name in metrics)}
        self._define([name for name in metrics if name.startswith("val/")], used)
        values = {**metrics}
        if step is not None:  # Lightning names a step by its index, and a validation comes after it
            values |= {axis: step + (axis == "val/step") for axis in used}
        if self._objective and self._objective in metrics:
            values[OBJECTIVE] = metrics[self._objective]
        super().log_metrics(values, None if "T" in used else step)

    def _define(self, names: Sequence[str], axes: set[str]) -> None:
        """Define the step and the summary of metrics that were not logged before."""
        run = self.experiment
        for axis, pattern in (("val/step", "val/*"), ("T", "table/*")):
            if axis in axes and axis not in self._defined:
                run.define_metric(axis, hidden=True)
                run.define_metric(pattern, step_metric=axis)
        for name in (name for name in names if name not in self._defined):
            run.define_metric(name, step_metric="val/step", summary=summary_of(name))
        self._defined |= {*names, *axes}

    @rank_zero_only
    def log_checkpoints(self, files: Sequence[Path]) -> None:
        """Log these files as versions of the artifact `model-<run>`, if `log_model` says so.

        The alias of each is its file's name: `best.ckpt` is `model-<run>:best`; the last one is also `latest`.
        """
        for file in files if self.keeps_checkpoints else ():
            self.experiment.log_artifact(
                str(file), name=f"model-{self.experiment.id}", type="model", aliases=[file.stem]
            )

    @rank_zero_only
    def close(self, status: int) -> None:
        """End the run if it has begun, so that the next job of a sweep in this process starts a new one."""
        if self._experiment is not None:
            self._experiment.finish(exit_code=status)


def find_run(folder: Path) -> str | None:
    """The id of the run that was logged last into `folder`; None where there is none."""
    files = folder.glob("wandb/*run-*-*/run-*.wandb")  # run-20260131_120000-<id>/run-<id>.wandb, or offline-run-…
    newest = max(files, key=lambda file: file.parent.name.removeprefix("offline-"), default=None)
    return newest.stem.removeprefix("run-") if newest else None
