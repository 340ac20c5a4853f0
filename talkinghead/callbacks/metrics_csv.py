"""A csv of metrics that a resumed run continues; Lightning's own deletes the files in its folder."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.csv_logs import _ExperimentWriter
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import rank_zero_experiment

from talkinghead.storage import write_atomic

Row = dict[str, str]


class AppendingWriter(ExperimentWriter):
    """Appends rows to an existing `metrics.csv`; the rows of steps that a resumed run repeats are replaced."""

    def _check_log_dir_exists(self) -> None:
        """Keep the file and read its columns; an incomplete last row of a killed run is dropped."""
        self._begun, self._latest = False, set[str | int | None]()
        path = Path(self.metrics_file_path)
        if path.is_file():
            text = path.read_text()
            whole = text[: text.rfind("\n") + 1]
            if whole != text:
                write_atomic(path, whole.encode())
            self.metrics_keys = next(csv.reader(io.StringIO(whole, newline="")), [])

    def log_metrics(self, metrics_dict: dict[str, float], step: int | None = None) -> None:
        """Record the metrics, unless the same step was just recorded: `callbacks.last` does that before it saves."""
        names = {*metrics_dict, step}
        if names != self._latest:
            super().log_metrics(metrics_dict, step)
        self._latest = names

    def save(self) -> None:
        """Append the recorded rows; before the first of them, drop a killed run's rows of the same steps."""
        path = Path(self.metrics_file_path)
        if self.metrics and not self._begun and path.is_file():
            rows = list(csv.DictReader(io.StringIO(path.read_text(), newline="")))
            kept = [row for row in rows if position(row) < position(self.metrics[0])]
            if len(kept) < len(rows):
                self._replace(kept, self.metrics_keys)
        self._begun = self._begun or bool(self.metrics)
        super().save()

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """Rewrite the file with new columns, atomically, because a run may be killed meanwhile."""
        self._replace(
            list(csv.DictReader(io.StringIO(Path(self.metrics_file_path).read_text(), newline=""))), fieldnames
        )

    def _replace(self, rows: list[Row], columns: list[str]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(Path(self.metrics_file_path), text.getvalue().encode())


def position(row: Mapping[str, Any]) -> tuple[int, bool]:
    """Sort key of a row: its step; the row of a validation comes after the row of the step itself."""
    try:
        step = int(row.get("step") or -1)
    except ValueError:  # not ours to judge
        step = -1
    return step, any(name.startswith("val/") for name, value in row.items() if value not in (None, ""))


class MetricsLogger(CSVLogger):
    """`CSVLogger` that keeps the rows of the run that it resumes."""

    @property
    @rank_zero_experiment
    def experiment(self) -> _ExperimentWriter:
        """The writer, created on first use."""
        if self._experiment is None:
            Path(self.root_dir).mkdir(parents=True, exist_ok=True)
            self._experiment = AppendingWriter(log_dir=self.log_dir)
        return self._experiment
