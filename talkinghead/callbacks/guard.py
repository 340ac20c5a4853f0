"""Stops a run that has gone wrong: NaN or infinite losses, outputs without variance, a discriminator that has won."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
from jaxtyping import Float
from torch import Tensor

from talkinghead.data.shards import write_atomic
from talkinghead.types import Episode


class TrainingCollapsed(RuntimeError):
    """Training cannot go on; the message says why, since when, and where the batch was saved."""


class CollapseGuard(L.Callback):
    """Looks at the losses `loss/*`, the scores and the learner's `last_output` after every step.

    dirpath               folder for `collapse-step=….pt`, the batch that did it
    min_spread            outputs count as flat, or as all the same, below this share of the targets' own spread
    flat_steps            so many steps in a row end the run
    saturated_gap         D has won when L_DSC is below `saturated_loss` and score/real - score/fake above this
    saturated_steps       so many steps in a row end the run
    """

    def __init__(
        self, dirpath: Path | str, min_spread: float = 0.05, flat_steps: int = 200, saturated_gap: float = 20.0,
        saturated_loss: float = 1e-3, saturated_steps: int = 1000,
    ) -> None:  # fmt: skip
        self.dirpath = Path(dirpath)
        self.min_spread = min_spread
        self.saturated_gap, self.saturated_loss = saturated_gap, saturated_loss
        self.limits = {"flat": flat_steps, "same": flat_steps, "saturated": saturated_steps}
        self.counts = dict.fromkeys(self.limits, 0)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Episode, batch_idx: int
    ) -> None:
        x_hat = pl_module.last_output
        losses = {
            name: value for name, value in trainer.callback_metrics.items() if name.startswith(("loss/", "score/"))
        }
        reason = self.not_finite(losses, x_hat) or self.collapsed(losses, x_hat, batch.target)
        if trainer.strategy.reduce_boolean_decision(reason is not None, all=False):
            reason = reason or "another rank saw it, see its message"
            path = (
                self.dirpath / f"collapse-step={trainer.fit_loop.total_batch_idx + 1:07d}-rank={trainer.global_rank}.pt"
            )
            save_evidence(path, reason, losses, x_hat, batch)
            raise TrainingCollapsed(
                f"training stopped in step {trainer.fit_loop.total_batch_idx + 1}: {reason}. Batch: {path}"
            )

    def not_finite(self, losses: Mapping[str, Tensor], x_hat: Float[Tensor, "B 3 H W"]) -> str | None:
        """Names what is NaN or infinite."""
        values = {
            **{name: value.detach().float().sum() for name, value in losses.items()},
            "output": x_hat.float().sum(),
        }
        finite = torch.isfinite(torch.stack([value.to(x_hat.device) for value in values.values()])).tolist()
        bad = [
            f"{name} is {value.item()}" for (name, value), good in zip(values.items(), finite, strict=True) if not good
        ]
        return ", ".join(bad) or None

    def collapsed(
        self, losses: Mapping[str, Tensor], x_hat: Float[Tensor, "B 3 H W"], x: Float[Tensor, "B 3 H W"]
    ) -> str | None:
        """Counts bad steps in a row, and names what has lasted too long."""
        flat, same = (spread(x_hat) / spread(x).clamp(min=1e-3)).tolist()
        gap = float(losses.get("score/real", torch.nan)) - float(losses.get("score/fake", torch.nan))
        signs = {
            "flat": (
                flat < self.min_spread,
                f"outputs are flat, their spread over pixels is {flat:.3f} of the targets'",
            ),
            "same": (
                same < self.min_spread and len(x) > 1,
                f"outputs are the same for all episodes ({same:.3f} of the targets' spread)",
            ),
            "saturated": (
                float(losses.get("loss/dsc", torch.nan)) < self.saturated_loss and gap > self.saturated_gap,
                f"the discriminator has won: its loss is below {self.saturated_loss}, real - fake scores {gap:.1f}",
            ),
        }
        self.counts = {name: self.counts[name] + 1 if bad else 0 for name, (bad, _) in signs.items()}
        reasons = [
            f"{text} for {self.limits[name]} steps"
            for name, (_, text) in signs.items()
            if self.counts[name] >= self.limits[name]
        ]
        return "; ".join(reasons) or None

    def state_dict(self) -> dict[str, Any]:
        return {"counts": self.counts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.counts = {**self.counts, **state_dict["counts"]}


def spread(x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "2"]:
    """Standard deviation over the pixels of each image, and over the images at each pixel; both averaged."""
    x = x.detach().float()
    return torch.stack([x.std(dim=(2, 3), correction=0).mean(), x.std(dim=0, correction=0).mean()])


def save_evidence(path: Path, reason: str, losses: Mapping[str, Tensor], x_hat: Tensor, batch: Episode) -> None:
    """Batch, output and losses as one file for `torch.load`, whole or not at all."""
    episode = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in batch._asdict().items()}
    content = {"reason": reason, "losses": {name: float(v) for name, v in losses.items()}, "output": x_hat.cpu()}
    buffer = io.BytesIO()
    torch.save({**content, "episode": episode}, buffer)
    write_atomic(path, buffer.getvalue())
