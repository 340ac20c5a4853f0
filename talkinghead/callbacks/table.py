"""The validation table: the method and the nearest-frame baseline at each shot count T, as csv and on the terminal."""

from collections.abc import Mapping
from pathlib import Path

import pytorch_lightning as L
from rich.table import Table
from torch import Tensor

from talkinghead.storage import read_csv, write_csv
from talkinghead.terminal import print_table

LEARNER = "model"  # name of the method whose metrics stand without a prefix


class ValidationTable(L.Callback):
    """Adds the metrics `val/T=8[/<method>]/ssim` … of each validation to `<dirpath>/validation.csv`, and prints them.

    One row per epoch, T and method; `show=false` only writes.
    """

    def __init__(self, dirpath: Path | str, show: bool = True) -> None:
        self.path = Path(dirpath) / "validation.csv"
        self.show = show

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        rows = validation_rows(trainer.callback_metrics)
        if trainer.sanity_checking or not trainer.is_global_zero or not rows:
            return
        step = trainer.fit_loop.total_batch_idx + 1
        rows = [{"epoch": str(trainer.current_epoch), "step": str(step), **row} for row in rows]
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            append_csv(self.path, rows)
        if self.show:
            print_table(as_table(rows), keys=2)


def validation_rows(metrics: Mapping[str, Tensor]) -> list[dict[str, str]]:
    """One row per T and method, sorted by T, the learner before its baselines."""
    rows: dict[tuple[int, bool, str], dict[str, str]] = {}
    for name, value in metrics.items():
        parts = name.split("/")
        if len(parts) in (3, 4) and parts[0] == "val" and parts[1].startswith("T="):
            method = parts[2] if len(parts) == 4 else LEARNER
            shots = int(parts[1].removeprefix("T="))
            row = rows.setdefault((shots, method != LEARNER, method), {"T": str(shots), "method": method})
            row[parts[-1]] = f"{float(value):.4f}"
    return [rows[key] for key in sorted(rows)]


def append_csv(path: Path, rows: list[dict[str, str]]) -> None:
    """Add rows to a csv file, which is replaced atomically; old rows get empty cells in new columns.

    Old rows of the same or later steps are dropped: a killed run wrote them, and the resumed run repeats these steps.
    """
    old = read_csv(path)
    first = min((int(row["step"]) for row in rows if "step" in row), default=None)
    if first is not None:
        old = [row for row in old if not (row.get("step") or "").isdigit() or int(row["step"]) < first]
    columns = dict.fromkeys(name for row in [*old, *rows] for name in row)
    write_csv(path, list(columns), [*old, *rows])


def as_table(rows: list[dict[str, str]]) -> Table:
    """The rows as a table for the terminal; epochs count from one as in the progress bar, in the csv from zero."""
    title = f"validation after epoch {int(rows[0]['epoch']) + 1}, step {rows[0]['step']}"
    table = Table(title=title, min_width=len(title) + 4)
    columns = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in ("epoch", "step")]
    for name in columns:
        table.add_column(name, justify="left" if name == "method" else "right")
    for row in rows:
        table.add_row(*(row.get(name, "") for name in columns))
    return table
