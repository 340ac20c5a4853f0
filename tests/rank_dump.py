"""A callback for the two-rank test: what each rank saw, and the weights it ended with."""

from pathlib import Path

import pytorch_lightning as L
import torch

from talkinghead.types import Episode


class RankDump(L.Callback):
    """Writes `<dirpath>/<rank>.pt`: per epoch the batches' keys and target points, and the final state dict."""

    def __init__(self, dirpath: str) -> None:
        self.dirpath = Path(dirpath)
        self.seen: list[tuple[int, str, bytes]] = []

    def on_train_batch_start(self, trainer: L.Trainer, learner: L.LightningModule, batch: Episode, _: int) -> None:
        for key, points in zip(batch.key, batch.target_points, strict=True):
            self.seen.append((trainer.current_epoch, key, points.numpy().tobytes()))

    def on_train_end(self, trainer: L.Trainer, learner: L.LightningModule) -> None:
        content = {"seen": self.seen, "weights": learner.state_dict(), "step": trainer.global_step}
        torch.save(content, self.dirpath / f"{trainer.global_rank}.pt")
