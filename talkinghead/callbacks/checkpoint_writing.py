"""Writing a checkpoint whole or not at all, and never one of NaN weights."""

import os
from pathlib import Path

import pytorch_lightning as L
import torch
from torch import nn

from talkinghead.callbacks.guard import TrainingCollapsed


def save_whole(trainer: L.Trainer, path: Path) -> None:
    """Write a checkpoint beside its place, then move it there; every rank calls this. A debugging run writes none.

    Lightning's own save goes through the folder for temporary files, and from another file system that is a copy,
    which a killed run leaves half done.

    Raises:
        TrainingCollapsed: where weights are NaN or infinite: what was saved before stays.
    """
    bad = not_finite(trainer.lightning_module)
    if trainer.strategy.reduce_boolean_decision(bad is not None, all=False):
        raise TrainingCollapsed(
            f"training stopped in step {trainer.fit_loop.total_batch_idx + 1}: {bad or 'another rank'} is NaN "
            f"or infinite. {path} is as it was saved before, or not there; go on from it with a smaller learning rate"
        )
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    temporary = path.with_name(f".{path.name}.tmp")
    trainer.save_checkpoint(temporary, weights_only=False)  # returns when every rank is done
    if trainer.is_global_zero:
        os.replace(temporary, path)


@torch.no_grad()
def not_finite(module: nn.Module) -> str | None:
    """The first parameter or buffer that is NaN or infinite."""
    state = {name: value for name, value in module.state_dict().items() if value.is_floating_point()}
    finite = torch.stack([value.isfinite().all().cpu() for value in state.values()]).tolist() if state else []
    return next((name for name, fine in zip(state, finite, strict=True) if not fine), None)
