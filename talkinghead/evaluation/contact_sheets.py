"""Contact sheets: for every test person and shot count, a few hold-out frames and the outputs of each method."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from talkinghead.callbacks.previews import draw_grid, write_png
from talkinghead.names import as_path_part
from talkinghead.types import Person


class PeopleFiles(L.Callback):
    """Abstract: writes a file per test person and shot count, `<dirpath>/<data>/T8/<person>`, and logs it to wandb."""

    suffix = ""

    def __init__(self, dirpath: Path | str) -> None:
        self.dirpath = Path(dirpath)
        self._written: dict[str, list[Path]] = {}

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._written = {}

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Person, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Write the files of one person; every rank writes those of its own people."""
        if not self.wanted(batch_idx):
            return
        folder = self.dirpath.joinpath(*map(as_path_part, str(pl_module.data).split("/")))
        for prefix in dict.fromkeys(name.split("/")[0] for name in outputs):
            mine = {name.split("/")[1]: x_hat for name, x_hat in outputs.items() if name.split("/")[0] == prefix}
            path = folder / prefix.replace("=", "") / f"{as_path_part(batch.key)}{self.suffix}"
            self.write(path, batch, mine)
            self._written.setdefault(prefix, []).append(path)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the files of the first rank."""
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if isinstance(logger, WandbLogger):
                for prefix, paths in self._written.items():
                    self.show(logger, prefix, paths)

    def wanted(self, number: int) -> bool:
        """Whether person `number` of this rank gets files."""
        return True

    def write(self, path: Path, person: Person, outputs: Mapping[str, Tensor]) -> None:
        """Write the file of one person and shot count; `outputs`: method -> [F, 3, H, W] in [-1, 1]."""
        raise NotImplementedError

    def show(self, logger: WandbLogger, prefix: str, paths: Sequence[Path]) -> None:
        """Log the files of one shot count; `prefix` is `T=8`, for example."""
        raise NotImplementedError


class ContactSheets(PeopleFiles):
    """Writes `<dirpath>/<data>/T8/<person>.png`: first shot | driving landmarks | target | each method.

    Args:
        num_rows: number of hold-out frames shown, evenly spaced
        num_logged: number of people whose sheets are logged to Weights & Biases, as `people/T=8`
    """

    suffix = ".png"

    def __init__(self, dirpath: Path | str, num_rows: int = 4, num_logged: int = 8) -> None:
        super().__init__(dirpath)
        self.num_rows, self.num_logged = num_rows, num_logged

    def write(self, path: Path, person: Person, outputs: Mapping[str, Tensor]) -> None:
        """Write a sheet with `num_rows` hold-out frames; `outputs`: method -> [F, 3, H, W] in [-1, 1]."""
        write_png(path, draw_grid(self._columns(person, outputs)))

    def show(self, logger: WandbLogger, prefix: str, paths: Sequence[Path]) -> None:
        """Log the sheets of one shot count as pictures, `people/T=8`."""
        shown = paths[: self.num_logged]
        logger.log_image(f"people/{prefix}", [str(path) for path in shown], caption=[path.stem for path in shown])

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
