"""Callbacks for runs of train.py: what each rank saw and its last weights; a run that waits to be killed."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch

from talkinghead.data.remote import DataFault
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


class LoseData(L.Callback):
    """Lets the data of one rank fail in a certain step."""

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step = rank, step

    def on_train_start(self, trainer: L.Trainer, learner: L.LightningModule) -> None:
        fetcher = trainer.fit_loop._data_fetcher
        assert fetcher is not None
        original = type(fetcher).__next__

        def fails(this: Any) -> Any:
            if trainer.global_rank == self.rank and trainer.fit_loop.total_batch_idx + 1 == self.step:
                raise DataFault("https://host/train/000000.tar cannot be read, tried 6 times")
            return original(this)

        type(fetcher).__next__ = fails  # type: ignore[method-assign]
