"""Writing a checkpoint whole or not at all."""

import os
from pathlib import Path

import pytorch_lightning as L


def save_whole(trainer: L.Trainer, path: Path) -> None:
    """Write a checkpoint beside its place, then move it there; every rank calls this. A debugging run writes none.

    Lightning's own save goes through the folder for temporary files, and from another file system that is a copy,
    which a killed run leaves half done.
    """
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    temporary = path.with_name(f".{path.name}.tmp")
    trainer.save_checkpoint(temporary, weights_only=False)  # returns when every rank is done
    if trainer.is_global_zero:
        os.replace(temporary, path)
