"""Callbacks for runs of train.py: what each rank saw and its last weights; a run that waits to be killed."""

import time
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


class HangAfterSave(L.Callback):
    """Waits before the first batch after `path` was saved, for ever."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        while self.path.is_file():
            time.sleep(0.1)
