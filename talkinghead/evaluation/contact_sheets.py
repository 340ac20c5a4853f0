"""Contact sheets: for every test person and shot count, a few hold-out frames and the outputs of each method."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from talkinghead.callbacks.previews import draw_grid, write_png
from talkinghead.names import as_path_part
from talkinghead.types import Person


class ContactSheets(L.Callback):
    """Writes `<dirpath>/<data>/T8/<person>.png`: first shot | driving landmarks | target | each method.

    Args:
        num_rows: number of hold-out frames shown, evenly spaced
        num_logged: so many people are shown to loggers that take pictures, as `people/T=8`
    """

    def __init__(self, dirpath: Path | str, num_rows: int = 4, num_logged: int = 8) -> None:
        self.dirpath = Path(dirpath)
        self.num_rows, self.num_logged = num_rows, num_logged
        self._written: dict[str, list[Path]] = {}

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._written = {}

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Person, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Write the sheets of one person; every rank writes those of its own people."""
        folder = self.dirpath.joinpath(*map(as_path_part, str(pl_module.data).split("/")))
        for prefix in dict.fromkeys(name.split("/")[0] for name in outputs):
            mine = {name.split("/")[1]: x_hat for name, x_hat in outputs.items() if name.split("/")[0] == prefix}
            path = folder / prefix.replace("=", "") / f"{as_path_part(batch.key)}.png"
            write_png(path, draw_grid(self._columns(batch, mine)))
            self._written.setdefault(prefix, []).append(path)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the sheets of the first people of this rank."""
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if isinstance(logger, WandbLogger):
                for prefix, paths in self._written.items():
                    shown = paths[: self.num_logged]
                    names = [path.stem for path in shown]
                    logger.log_image(f"people/{prefix}", [str(path) for path in shown], caption=names)

    def _columns(self, person: Person, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        num_targets = len(person.target.images)
        chosen = torch.linspace(0, num_targets - 1, min(self.num_rows, num_targets)).round().long()
        columns = {
            "shot": person.shots.images[:1].expand(len(chosen), -1, -1, -1),
            "driving": person.driving.landmarks[chosen],
            "target": person.target.images[chosen],
            **{name: x_hat[chosen] for name, x_hat in outputs.items()},
        }
        return {name: images.float().cpu() for name, images in columns.items()}
