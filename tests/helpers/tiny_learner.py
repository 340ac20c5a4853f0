"""A learner of a few weights that keeps the learners' contract, and the real Trainer around it."""

from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.data import DataLoader, Dataset

from talkinghead.callbacks.progress import Progress
from talkinghead.types import Episode

SIZE, SHOTS, BATCH, STEPS = 16, 4, 2, 5


def episode(seed: int) -> Episode:
    generator = torch.Generator().manual_seed(seed)

    def images(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, 3, SIZE, SIZE, generator=generator) * 2 - 1

    points = torch.rand(BATCH, SHOTS + 1, 68, 2, generator=generator) * SIZE
    return Episode(
        images(BATCH, SHOTS), images(BATCH, SHOTS), images(BATCH), images(BATCH), points[:, 1:], points[:, 0],
        torch.zeros(BATCH, dtype=torch.long), ["a", "b"],
    )  # fmt: skip


class Episodes(Dataset):
    """The same batch again and again, so that a resumed run needs no position."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Episode:
        return episode(0)


class TinyLearner(L.LightningModule):
    """Keeps the contract of the learners: parts, named losses, `last_output`, `reenact`."""

    def __init__(self, fault: Any = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(0)
        self.embedder = spectral_norm(nn.Conv2d(6, 3, 3, padding=1))
        self.generator = nn.Sequential(spectral_norm(nn.Conv2d(6, 8, 3, padding=1)), nn.ReLU(), nn.Conv2d(8, 3, 1))
        self.discriminator = nn.Conv2d(3, 1, 3)
        self.last_output: torch.Tensor | None = None
        self.fault = fault
        self.seen: list[torch.Tensor] = []

    def reenact(self, batch: Episode, num_shots: int) -> torch.Tensor:
        batch = batch.take(num_shots)
        pairs = torch.cat([batch.shots, batch.shots_landmarks], dim=2)
        e_hat = self.embedder(pairs.flatten(0, 1)).unflatten(0, pairs.shape[:2]).mean(1)
        return torch.tanh(self.generator(torch.cat([batch.target_landmarks, e_hat], dim=1)))

    def training_step(self, batch: Episode, index: int) -> None:
        optimizer = self.optimizers()
        x_hat = self.reenact(batch, SHOTS)
        loss = (x_hat - batch.target).abs().mean()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        losses = {
            "loss/cnt": loss.detach(),
            "loss/dsc": loss.detach(),
            "score/real": loss * 0 + 1,
            "score/fake": loss * 0,
        }
        self.last_output = x_hat.detach()
        if self.fault is not None:
            losses, self.last_output = self.fault(self.trainer, losses, self.last_output)
        self.log_dict(losses)

    def validation_step(self, batch: Episode, index: int) -> None:
        self.seen.append(self.generator[2].weight.detach().clone())
        for shots in (1, SHOTS):
            error = (self.reenact(batch, shots) - batch.target).abs().mean()
            self.log_dict({f"val/T={shots}/l1": error, f"val/T={shots}/nearest/l1": error + 1})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam([*self.embedder.parameters(), *self.generator.parameters()], 1e-2)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Episodes(STEPS), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Episodes(2), batch_size=None)


def fit(
    learner: TinyLearner,
    *callbacks: L.Callback,
    folder: Path,
    epochs: int = 1,
    ckpt_path: Path | None = None,
    **options: Any,
) -> L.Trainer:
    options = {"logger": False, "enable_checkpointing": any(isinstance(c, Checkpoint) for c in callbacks)} | options
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=list(callbacks), default_root_dir=folder, log_every_n_steps=1,
        enable_progress_bar=any(isinstance(c, Progress) for c in callbacks), enable_model_summary=False,
        num_sanity_val_steps=0, **options,
    )  # fmt: skip
    trainer.fit(learner, ckpt_path=ckpt_path, weights_only=True)
    return trainer
