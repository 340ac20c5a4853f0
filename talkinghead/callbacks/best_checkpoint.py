"""Keeps `best.ckpt`: the run as it was after its best validation."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as L
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from talkinghead.callbacks.checkpoint_writing import save_whole
from talkinghead.storage import write_atomic

PREFERRED = ("nme", "ssim")  # SSIM favours blur, so it decides only where no landmarks are measured
HIGHER_IS_BETTER = ("ssim", "psnr", "csim", "csim_dlib", "face_found", "lip_correlation", "lid_correlation")
NEAR_ONE_IS_BEST = ("lip_gain", "lid_gain")


class BestCheckpoint(Checkpoint):
    """Saves `<dirpath>/best.ckpt` after each validation that is better than all before it.

    Args:
        metric: by its log name, e.g. lpips; null: nme where landmarks are measured, else ssim

    What decides is the mean of `val/T=…/<metric>` over the shot counts T. For nme an output without a face counts 1.

    Raises ValueError after a validation that did not log a metric that was asked for.
    """

    def __init__(self, dirpath: Path | str, metric: str | None = None) -> None:
        super().__init__()
        self.path = Path(dirpath) / "best.ckpt"
        self.metric = metric
        self.best: dict[str, float] = {}  # one metric, its value so far

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Copy the best checkpoint of a resumed run into this run's folder."""
        source = Path(trainer.ckpt_path).with_name("best.ckpt") if trainer.ckpt_path else self.path
        if self.best and source.is_file() and not self.path.exists() and trainer.is_global_zero:
            write_atomic(self.path, source.read_bytes())

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        if trainer.strategy.broadcast(self._improves(trainer.callback_metrics)):
            save_whole(trainer, self.path)

    def _improves(self, metrics: Mapping[str, Tensor]) -> bool:
        """Whether this validation is the best so far; if so, its value is remembered."""
        names = [self.metric] if self.metric else PREFERRED
        means = {name: mean for name in names if (mean := mean_over_shots(metrics, name)) is not None}
        if not means and self.metric:
            logged = sorted(name for name in metrics if name.startswith("val/")) or "nothing"
            raise ValueError(
                f"callbacks.best.metric={self.metric}, but validation did not log it: there is {logged}; "
                "name another one, or null for the first there is of nme and ssim"
            )
        if not means:
            rank_zero_warn("validation measures neither nme nor ssim: there will be no best.ckpt")
            return False
        name, mean = next(iter(means.items()))
        sign = 1 if name in HIGHER_IS_BETTER else -1
        if sign * mean > sign * self.best.get(name, -sign * math.inf):
            self.best = {name: mean}
            return True
        return False

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]


def mean_over_shots(metrics: Mapping[str, Tensor], name: str) -> float | None:
    """Mean of the learner's own `val/T=…/<name>`, not of baselines; None if there is none. NaN is never the best."""
    values = []
    for key, value in metrics.items():
        if match := re.fullmatch(rf"(val/T=\d+)/{re.escape(name)}", key):
            found = float(metrics.get(f"{match[1]}/face_found", 1)) if name == "nme" else 1
            values.append((found * float(value) if found else 0) + (1 - found))
    return sum(values) / len(values) if values else None


def summary_of(name: str) -> str:
    """The value that summarises a validation metric's history: `min`, `max`, or `last` where neither is best.

    >>> [summary_of(name) for name in ("val/T=8/ssim", "val/T=8/nearest/nme", "val/T=8/lip_gain")]
    ['max', 'min', 'last']
    """
    metric = name.rsplit("/", maxsplit=1)[-1]
    if metric in NEAR_ONE_IS_BEST:
        return "last"
    return "max" if metric in HIGHER_IS_BETTER else "min"
