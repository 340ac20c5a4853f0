"""Stops a run that has gone wrong: NaN or infinite losses, outputs without variance, a discriminator that has won."""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
from jaxtyping import Float
from torch import Tensor

from talkinghead.storage import write_atomic
from talkinghead.types import Episode

MIN_TARGET_SPREAD = 0.02  # of images in [-1, 1]; where the targets themselves vary less, nothing can be said
MIN_STEPS = 50  # of a short run, before which nothing is said of its end


class TrainingCollapsed(RuntimeError):
    """Training cannot go on; the message says why, since when, and where the batch was saved."""


class CollapseGuard(L.Callback):
    """Looks at the losses `loss/*`, the scores and the learner's `last_output` after every `every`-th step.

    A run that ends before a limit is reached, but is bad up to its end, raises the error at its end.

    Args:
        dirpath: folder for `collapse-step=….pt`, the batch at which training collapsed
        min_spread: outputs are flat, or all the same, where they vary less than this share of what the targets vary
        flat_steps: number of such steps in a row that ends the run
        saturated_loss: D has won where loss/dsc is below this and
        saturated_gap: score/real - score/fake above this (2 is enough for a hinge loss of zero)
        saturated_steps: number of such steps in a row that ends the run
        every: steps between two checks, each of which makes the host wait for the GPU; a NaN is seen that much later
    """

    def __init__(
        self, dirpath: Path | str, min_spread: float = 0.05, flat_steps: int = 500, saturated_gap: float = 20.0,
        saturated_loss: float = 1e-3, saturated_steps: int = 1000, every: int = 10,
    ) -> None:  # fmt: skip
        if every < 1:
            raise ValueError(f"callbacks.guard.every={every} must be at least 1")
        self.dirpath, self.every = Path(dirpath), every
        self.min_spread = min_spread
        self.saturated_gap, self.saturated_loss = saturated_gap, saturated_loss
        self.limits = {"flat": flat_steps, "same": flat_steps, "saturated": saturated_steps}
        self.counts = dict.fromkeys(self.limits, 0)
        self.signs: dict[str, str] = {}
        self.suspect: tuple[Mapping[str, Tensor], Tensor, Episode] | None = None  # values, output, batch of a bad step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Episode, batch_idx: int
    ) -> None:
        learner: Any = pl_module
        x_hat, step = learner.last_output, trainer.fit_loop.total_batch_idx + 1
        if step % self.every and step != 1:
            return
        values = {name: v for name, v in trainer.callback_metrics.items() if name.startswith(("loss/", "score/"))}
        reason = not_finite({**values, "output": x_hat}) or self.collapsed(values, x_hat, batch.target)
        self.suspect = (values, x_hat, batch) if self.signs else None
        if not trainer.strategy.reduce_boolean_decision(reason is not None, all=False):
            return
        if reason is None:
            raise TrainingCollapsed(
                f"training stopped in step {step}: another rank saw a fault, its message says which"
            )
        path = save_evidence(self._path(trainer, step), reason, values, x_hat, batch)
        raise TrainingCollapsed(f"training stopped in step {step}: {reason}. The batch that did it: {path}")

    def collapsed(
        self, values: Mapping[str, Tensor], x_hat: Float[Tensor, "B 3 H W"], x: Float[Tensor, "B 3 H W"]
    ) -> str | None:
        """Count bad steps in a row; returns what has lasted too long, or None."""
        absent = torch.full((), torch.nan)
        scores = [values.get(name, absent).detach().float() for name in ("loss/dsc", "score/real", "score/fake")]
        numbers = [*spread(x_hat), *spread(x), *(score.to(x_hat.device) for score in scores)]
        flat, same, flat_x, same_x, loss, real, fake = torch.stack(numbers).tolist()
        signs = {
            "flat": (flat_x > MIN_TARGET_SPREAD and flat < self.min_spread * flat_x)
            and f"outputs are flat: they vary {flat:.4f} over their pixels, the targets {flat_x:.4f}",
            "same": (same_x > MIN_TARGET_SPREAD and same < self.min_spread * same_x)
            and f"outputs are all the same: they vary {same:.4f} over the batch, the targets {same_x:.4f}",
            "saturated": (loss < self.saturated_loss and real - fake > self.saturated_gap)
            and f"the discriminator has won: loss/dsc {loss:.2g}, score/real {real:.1f}, score/fake {fake:.1f}",
        }
        self.counts = {name: self.counts[name] + self.every if sign else 0 for name, sign in signs.items()}
        self.signs = {name: f"{sign} ({self.counts[name]} steps in a row)" for name, sign in signs.items() if sign}
        return "; ".join(sign for name, sign in self.signs.items() if self.counts[name] >= self.limits[name]) or None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        steps = trainer.fit_loop.total_batch_idx + 1
        bad = [sign for name, sign in self.signs.items() if self.counts[name] >= max(steps / 2, MIN_STEPS)]
        if trainer.strategy.reduce_boolean_decision(bool(bad), all=False):
            told = "; ".join(bad) or "another rank says why"
            if bad and self.suspect is not None:
                told += f". A batch of it: {save_evidence(self._path(trainer, steps), told, *self.suspect)}"
            raise TrainingCollapsed(f"training has led nowhere: {told}")

    def _path(self, trainer: L.Trainer, step: int) -> Path:
        return self.dirpath / f"collapse-step={step:07d}-rank={trainer.global_rank}.pt"

    def state_dict(self) -> dict[str, Any]:
        return {"counts": self.counts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.counts = {**self.counts, **state_dict["counts"]}


def not_finite(values: Mapping[str, Tensor]) -> str | None:
    """The names of the values that are NaN or infinite; None if there are none."""
    sums = torch.stack([value.detach().float().sum() for value in values.values()]).cpu()
    bad = [f"{name} is {total}" for name, total in zip(values, sums.tolist(), strict=True) if not math.isfinite(total)]
    return ", ".join(bad) or None


def spread(x: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, Tensor]:
    """Standard deviation over the pixels of each image, and over the images at each pixel; both averaged."""
    x = x.detach().float()
    square = x.square()  # moments: far faster on the CPU than torch.std
    over_pixels = (square.mean((2, 3)) - x.mean((2, 3)).square()).clamp(min=0).sqrt().mean()
    over_images = (square.mean(0) - x.mean(0).square()).clamp(min=0).sqrt().mean()
    return over_pixels, over_images


def save_evidence(path: Path, reason: str, values: Mapping[str, Tensor], x_hat: Tensor, batch: Episode) -> Path:
    """Write batch, output and losses as one file for `torch.load`, atomically; returns its path."""
    episode = {name: field.cpu() if isinstance(field, Tensor) else field for name, field in batch._asdict().items()}
    content = {"reason": reason, "values": {name: float(value) for name, value in values.items()}}
    buffer = io.BytesIO()
    torch.save({**content, "output": x_hat.cpu(), "episode": episode}, buffer)
    write_atomic(path, buffer.getvalue())
    return path
