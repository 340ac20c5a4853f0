"""Moving clips: for a few test people and each shot count, all hold-out frames and the outputs of each method."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytorch_lightning as L
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from talkinghead.callbacks.previews import draw_grid
from talkinghead.names import as_path_part
from talkinghead.provenance import OriginStatement
from talkinghead.types import Person
from talkinghead.video.writer import VideoWriter


class MovingClips(L.Callback):
    """Writes `<dirpath>/<data>/T8/<person>.mp4`: first shot | driving landmarks | target | each method.

    The hold-out frames are shown in order of time, each for as long as the others. Loggers that take videos have them
    as `clips/T=8`.

    Args:
        num_people: of the first so many people
        frames_per_second: of the video
    """

    def __init__(self, dirpath: Path | str, num_people: int = 4, frames_per_second: int = 8) -> None:
        if num_people < 0 or frames_per_second < 1:
            raise ValueError(f"clips of {num_people} people at {frames_per_second} frames a second: 0 and 1 at least")
        self.dirpath, self.num_people, self.rate = Path(dirpath), num_people, frames_per_second
        self._written: dict[str, list[Path]] = {}

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._written = {}

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Person, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Write the clips of one person, by the first rank."""
        if not trainer.is_global_zero or batch_idx >= self.num_people:
            return
        folder = self.dirpath.joinpath(*map(as_path_part, str(pl_module.data).split("/")))
        shown = {
            "shot": batch.shots.images[:1].expand_as(batch.target.images),
            "driving": batch.driving.landmarks,
            "target": batch.target.images,
        }
        for prefix in dict.fromkeys(name.split("/")[0] for name in outputs):
            mine = {name.split("/")[1]: x_hat for name, x_hat in outputs.items() if name.split("/")[0] == prefix}
            path = folder / prefix.replace("=", "") / f"{as_path_part(batch.key)}.mp4"
            self._write(path, {name: images.float().cpu() for name, images in {**shown, **mine}.items()})
            self._written.setdefault(prefix, []).append(path)

    def _write(self, path: Path, columns: dict[str, Tensor]) -> None:
        frames = [
            draw_grid({name: images[n : n + 1] for name, images in columns.items()})
            for n in range(len(columns["target"]))
        ]
        height, width = frames[0].shape[:2]
        statement = OriginStatement(composite=True)
        with VideoWriter(path, width, height, Fraction(self.rate), Fraction(1, self.rate), card=statement) as video:
            for n, frame in enumerate(frames):
                video.write(frame, n)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log them."""
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if isinstance(logger, WandbLogger):
                for prefix, paths in self._written.items():
                    logger.log_video(f"clips/{prefix}", [str(path) for path in paths], caption=[p.stem for p in paths])
