"""Preview grids: fixed validation episodes as one picture, source | landmarks | outputs | target | nearest."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytorch_lightning as L
import torch
from jaxtyping import Float, UInt8
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor

from talkinghead.models.nearest_frame import nearest_frame
from talkinghead.pixels import as_pictures
from talkinghead.provenance import OriginStatement, marked
from talkinghead.storage import write_atomic
from talkinghead.types import Episode

HEADER_PX = 22
GAP_PX = 4
MIN_CELL_PX = 128
GROUND = 255  # white

Row = dict[str, Tensor]  # column name -> image [3, H, W]


class PreviewGrid(L.Callback):
    """Writes `<dirpath>/epoch=…-step=….png` and `<dirpath>/latest.png` after each validation, and logs the picture.

    The rows are validation episodes of `num_rows` different clips (several of a clip if there are fewer clips). `shots`
    are the shot counts T of the output columns; those for which an episode has too few frames are left out. The
    outputs are the learner's `reenact(episode, num_shots)`.
    """

    def __init__(self, dirpath: Path | str, num_rows: int = 8, shots: Sequence[int] = (1, 8, 32)) -> None:
        self.dirpath = Path(dirpath)
        self.num_rows = num_rows
        self.shots = tuple(shots)
        self._rows: dict[str, list[Row]] = {}  # clip -> its episodes

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._rows = {}

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Episode,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or dataloader_idx > 0:
            return
        chosen = [n for n, key in enumerate(batch.key) if self._wants(key, batch.key[:n])]
        if chosen:
            with torch.no_grad(), trainer.precision_plugin.val_step_context():
                columns = self._reenact(pl_module, select(batch, chosen))
            for n, index in enumerate(chosen):
                row = {name: images[n] for name, images in columns.items()}
                self._rows.setdefault(batch.key[index], []).append(row)

    def _wants(self, key: str, before: list[str]) -> bool:
        """Whether rows are missing and this is a new clip, or a further episode of one because there are few clips."""
        clips = {*self._rows, *before}
        total = sum(len(rows) for rows in self._rows.values()) + len(before)
        return len(clips) < self.num_rows if key not in clips else total < self.num_rows

    def _reenact(self, learner: Any, episode: Episode) -> dict[str, Tensor]:
        available = episode.shots.shape[1]
        counts = [count for count in self.shots if count <= available] or [available]
        columns = {"source": episode.shots[:, 0], "landmarks": episode.target_landmarks}
        columns |= {f"output T={count}": learner.reenact(episode, count) for count in counts}
        columns |= {"target": episode.target, f"nearest of {counts[-1]}": nearest_frame(episode, counts[-1])}
        return {name: images.float().cpu() for name, images in columns.items()}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._rows:
            return
        first, further = (
            [rows[0] for rows in self._rows.values()],
            [row for rows in self._rows.values() for row in rows[1:]],
        )
        rows = [*first, *further][: self.num_rows]
        self._rows = {}
        grid = draw_grid({name: torch.stack([row[name] for row in rows]) for name in rows[0]})
        step = trainer.fit_loop.total_batch_idx + 1
        write_png(self.dirpath / f"epoch={trainer.current_epoch:04d}-step={step:07d}.png", grid)
        write_png(self.dirpath / "latest.png", grid)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("previews", grid, step, dataformats="HWC")
            elif isinstance(logger, WandbLogger):
                logger.log_image("previews", [grid], step)


def select(episode: Episode, indices: list[int]) -> Episode:
    """The episodes of a batch at these indices."""
    images = {name: value[indices] for name, value in episode._asdict().items() if isinstance(value, Tensor)}
    return episode._replace(**images, key=[episode.key[n] for n in indices])


def draw_grid(columns: Mapping[str, Float[Tensor, "B 3 H W"]]) -> UInt8[np.ndarray, "height width 3"]:
    """Named columns of images in [-1, 1] side by side, a row per episode, the names above."""
    size = next(iter(columns.values())).shape[-1]
    cell = max(size, MIN_CELL_PX)
    drawn = [draw_column(name, images, cell) for name, images in columns.items()]
    gap = np.full((len(drawn[0]), GAP_PX, 3), GROUND, np.uint8)
    return np.concatenate([part for column in drawn for part in (column, gap)][:-1], axis=1)


def draw_column(name: str, images: Float[Tensor, "B 3 H W"], cell: int) -> UInt8[np.ndarray, "height cell 3"]:
    """One column of the grid: its name, then its images brought to `cell` pixels."""
    header = np.full((HEADER_PX, cell, 3), GROUND, np.uint8)
    cv2.putText(header, name, (2, HEADER_PX - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    gap = np.full((GAP_PX, cell, 3), GROUND, np.uint8)
    rows = [header]
    for image in as_pictures(images):
        resized = image if image.shape[0] == cell else cv2.resize(image, (cell, cell), interpolation=cv2.INTER_CUBIC)
        rows += [resized, gap]
    return np.concatenate(rows[:-1])


def write_png(path: Path, image: UInt8[np.ndarray, "height width 3"]) -> None:
    """Write an RGB picture atomically; its metadata state that it contains generated parts."""
    _, content = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))
    write_atomic(path, marked(content.tobytes(), OriginStatement(composite=True)))
