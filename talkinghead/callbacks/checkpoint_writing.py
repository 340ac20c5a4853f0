"""Writes a checkpoint completely or not at all, and never one with NaN weights."""

import os
import shutil
import tempfile
from pathlib import Path

import pytorch_lightning as L
import torch
from torch import nn

from talkinghead.callbacks.guard import TrainingCollapsed
from talkinghead.storage import errors_name

MEGABYTE = 2**20


def save_whole(trainer: L.Trainer, path: Path) -> None:
    """Write a checkpoint under a temporary name beside its place, then rename it; all ranks must call this.

    A debugging run (`fast_dev_run`) writes none. Lightning's own save goes through the system's folder for temporary
    files; if that is on another file system, the final move is a copy, which a killed run leaves incomplete.

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
    try:
        with errors_name(path):
            trainer.save_checkpoint(temporary, weights_only=False)  # returns when every rank is done
        if trainer.is_global_zero:
            os.replace(temporary, path)
    except OSError as error:
        if shutil.disk_usage(tempfile.gettempdir()).free < MEGABYTE:
            error.add_note(f"or in {tempfile.gettempdir()} (TMPDIR), through which a checkpoint goes")
        raise
    finally:
        if trainer.is_global_zero:
            temporary.unlink(missing_ok=True)


def save_alone(trainer: L.Trainer, path: Path) -> None:
    """Write a checkpoint from this rank, without the others; weights that are not finite are not saved."""
    if not_finite(trainer.lightning_module) or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    temporary = path.with_name(f".{path.name}.{trainer.global_rank}.tmp")
    try:
        with errors_name(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(trainer._checkpoint_connector.dump_checkpoint(weights_only=False), temporary)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@torch.no_grad()
def not_finite(module: nn.Module) -> str | None:
    """The first parameter or buffer that is NaN or infinite."""
    state = {name: value for name, value in module.state_dict().items() if value.is_floating_point()}
    finite = torch.stack([value.isfinite().all().cpu() for value in state.values()]).tolist() if state else []
    return next((name for name, fine in zip(state, finite, strict=True) if not fine), None)
