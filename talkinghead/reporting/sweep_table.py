"""The table at the end of an evaluation or a sweep of them: grouped by T, on the terminal, as csv and logged."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from rich import get_console
from rich.table import Table as RichTable

from talkinghead.evaluation.results import Results
from talkinghead.reporting.overview import COLUMNS, Overview, build_overview, explain_missing, flatten
from talkinghead.reporting.summary import Estimate, Lines, Table, find_metric
from talkinghead.reporting.sweep_validations import show_validations
from talkinghead.reporting.tables import print_counts
from talkinghead.storage import Row, write_csv
from talkinghead.terminal import print_table

ROWS, TABLE = "rows.csv", "table.csv"
WORDS = ("data", "method", "variant", "clip", "identity", "checkpoint", "config", "config_hash", "protocol", "clips")


class SweepTable:
    """A Hydra callback that prints, after all jobs, one table of the results in their folders.

    The `rows.csv` of evaluations become `table.csv`; for the `validation.csv` of training runs see `sweep_validations`.
    """

    def on_multirun_end(self, config: Any, **_: Any) -> None:
        """Print the table, and write it into the sweep's folder; jobs without rows are skipped."""
        folder = Path(config.hydra.sweep.dir)
        rows: dict[tuple[str, ...], Row] = {}
        for path in sorted(folder.glob(f"*/{ROWS}")):
            for row in Results(path).rows():
                rows[key_of(row)] = row
        if rows:
            finish(list(rows.values()), folder, "the sweep")
        if folder.is_dir():
            show_validations(folder)

    def on_run_start(self, config: Any, **_: Any) -> None: ...

    def on_run_end(self, config: Any, **_: Any) -> None: ...

    def on_multirun_start(self, config: Any, **_: Any) -> None: ...

    def on_job_start(self, config: Any, **_: Any) -> None: ...

    def on_job_end(self, config: Any, **_: Any) -> None: ...

    def on_compose_config(self, config: Any, **_: Any) -> None: ...


def key_of(row: Row) -> tuple[str, ...]:
    """The key of a row; a row of a later job replaces an earlier one with the same key."""
    names = ("data", "method", "variant", "T", "seed", "clip", "checkpoint", "config", "config_hash", "protocol")
    return (*(row.get(name, "-") for name in names), row.get("clips", "-"))


def finish(rows: Sequence[Row], folder: Path, of: str, loggers: Sequence[Logger] = ()) -> None:
    """Print the table of the rows, write it as `table.csv`, and log it."""
    overview = build_overview(rows)
    for table, lines in overview:
        print_table(draw(table, lines), keys=4)
    if note := explain_missing(rows):
        get_console().print(note, soft_wrap=True, highlight=False)
    flat = flatten(overview)
    write_csv(folder / TABLE, COLUMNS, flat)
    get_console().print(f"table of {of}: {folder / TABLE}", soft_wrap=True, highlight=False)
    for logger in loggers:
        log(logger, overview)
        log_tables(logger, overview, flat, rows)


def draw(table: Table, lines: Lines) -> RichTable:
    """The table for the terminal: each mean, and below it its 95 % interval over identities."""
    shown = RichTable(title=f"{table.data}: mean over identities, 95 % interval")
    names = [name for name in table.metrics if any(("measured", name) in line for line in lines.values())]
    for name in ("T", "method", "seeds", "identities"):
        shown.add_column(name, justify="left" if name == "method" else "right")
    for name in names:
        metric = find_metric(name)
        shown.add_column(f"{name} {'↑' if metric.higher_is_better else '↓'}", justify="right")
    previous = None
    for shots, method in sorted(lines, key=lambda one: one[0]):
        if previous not in (None, shots):
            shown.add_section()
        line, previous = lines[shots, method], shots
        cells = [cell(line.get(("measured", name)), name) for name in names]
        shown.add_row(str(shots), method, *print_counts(line), *cells)
    return shown


def cell(value: Estimate | None, name: str) -> str:
    """A mean, and on the next line the bounds of its interval."""
    if value is None:
        return ""
    digits = find_metric(name).digits
    bounds = "" if value.interval is None else "\n" + " … ".join(f"{bound:.{digits}f}" for bound in value.interval)
    return f"{value.mean:.{digits}f}{bounds}"


def log(logger: Logger, overview: Overview) -> None:
    """Log `table/<data>/<method>/<metric>` with T as the step, so that loggers plot it over T."""
    for table, lines in overview:
        for shots in sorted({shots for shots, _ in lines}):
            values = {
                f"table/{table.data}/{label}/{name}": value.mean
                for (number, label), line in lines.items() if number == shots
                for (_, name), value in line.items()
            }  # fmt: skip
            logger.log_metrics(values, step=shots)
    logger.save()


def log_tables(logger: Logger, overview: Overview, flat: Sequence[Row], rows: Sequence[Row]) -> None:
    """Log three tables, if the logger has tables (wandb): means by T and method, their intervals, and all rows."""
    if hasattr(logger, "log_table"):
        means = spread(overview)
        for key, lines in (("table", means), ("table_intervals", flat), ("results", rows)):
            names = list(dict.fromkeys(name for line in lines for name in line))
            columns = [typed(name, [line.get(name, "") for line in lines]) for name in names]
            logger.log_table(key, columns=names, data=[list(cells) for cells in zip(*columns, strict=True)])


def spread(overview: Overview) -> list[Row]:
    """A row per data set, T and method, with the mean of each metric in a column."""
    found = []
    for table, lines in overview:
        for shots, method in sorted(lines, key=lambda one: one[0]):
            line = lines[shots, method]
            head = dict(zip(("seeds", "identities"), print_counts(line), strict=True))
            means = {name: f"{value.mean:.6g}" for (_, name), value in line.items()}
            found.append({"data": table.data, "T": str(shots), "method": method, **head, **means})
    return found


def typed(name: str, texts: Sequence[str]) -> Sequence[str | float | None]:
    """A column as numbers, None for empty cells; unchanged if it contains text."""
    try:
        return texts if name in WORDS else [float(text) if text else None for text in texts]
    except ValueError:
        return texts
