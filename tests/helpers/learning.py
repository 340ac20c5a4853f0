"""Learning on the CPU in a few lines: episodes of given frames, a quiet Trainer, and weights to compare later."""

from collections.abc import Sequence

import pytorch_lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from talkinghead.types import Episode, Frames


def episode_of(source: Frames, target: Frames, index: Tensor | None = None) -> Episode:
    """An episode.

    Args:
        source: shots, B x K
        target: frames, B
        index: of the videos; None: 0, 1, …
    """
    index = torch.arange(len(target.images)) if index is None else index
    return Episode(
        source.images, source.landmarks, target.images, target.landmarks, source.points, target.points, index,
        [f"clip{n}" for n in range(len(index))],
    )  # fmt: skip


def fit(
    learner: L.LightningModule, episodes: Sequence[Episode], validation: Sequence[Episode] = (), **options: object
) -> L.Trainer:
    """Train for one epoch on batches that are there already; `options` are those of the Trainer."""
    trainer = L.Trainer(**{
        "accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, **options,
    })  # fmt: skip
    trainer.fit(learner, *(DataLoader(list(part), batch_size=None) for part in (episodes, validation) if part))
    return trainer


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """A copy of its state, on the CPU."""
    return {name: value.detach().clone().cpu() for name, value in module.state_dict().items()}
