"""The table at the end of a sweep of training runs: the last validation of each job, beside its overrides."""

from collections.abc import Sequence
from pathlib import Path

import yaml
from rich import get_console
from rich.table import Table as RichTable

from talkinghead.storage import Row, read_csv, write_csv
from talkinghead.terminal import print_table

VALIDATION, TABLE = "validation.csv", "validation_table.csv"


def show_validations(folder: Path) -> None:
    """Print the table, and write it as `validation_table.csv`; jobs without a validation are named."""
    jobs = sorted((path for path in folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))
    given = own_overrides([overrides_of(job) for job in jobs])
    last = [last_validation(job / VALIDATION) for job in jobs]
    rows = [
        {"job": job.name, **values, **row}
        for job, values, own in zip(jobs, given, last, strict=True)
        for row in own
    ]  # fmt: skip
    if not rows:
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_csv(folder / TABLE, columns, rows)
    keys = len({name for own in given for name in own}) + 1
    print_table(draw(rows, columns), keys)
    if without := [job.name for job, own in zip(jobs, last, strict=True) if not own]:
        get_console().print(f"no validation in job {', '.join(without)}", highlight=False)
    get_console().print(f"last validations of the sweep: {folder / TABLE}", soft_wrap=True, highlight=False)


def overrides_of(job: Path) -> dict[str, str]:
    """The overrides of a job by key; empty if its folder does not record them."""
    path = job / ".hydra/overrides.yaml"
    found = yaml.safe_load(path.read_text()) if path.is_file() else []
    pairs = [str(one).partition("=") for one in found] if isinstance(found, list) else []
    return {key.lstrip("+"): value for key, _, value in pairs}


def own_overrides(jobs: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The overrides of each job whose values differ between jobs."""
    keys = dict.fromkeys(key for job in jobs for key in job)
    differing = [key for key in keys if len({job.get(key) for job in jobs}) > 1]
    return [{key: job.get(key, "") for key in differing} for job in jobs]


def last_validation(path: Path) -> list[Row]:
    """The rows of the last epoch in a `validation.csv`."""
    rows = read_csv(path) if path.is_file() else []
    return [row for row in rows if row.get("step") == rows[-1].get("step")]


def draw(rows: Sequence[Row], columns: Sequence[str]) -> RichTable:
    """The rows as a table for the terminal, with a rule between jobs."""
    shown = RichTable(title="last validation of each job")
    for name in columns:
        shown.add_column(name, justify="left" if name == "method" else "right")
    previous = None
    for row in rows:
        if previous not in (None, row["job"]):
            shown.add_section()
        previous = row["job"]
        shown.add_row(*(row.get(name, "") for name in columns))
    return shown
