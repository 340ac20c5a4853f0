"""Tables on the terminal: no cell is cut, however narrow the terminal is."""

import copy

from rich import get_console
from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table

WIDEST = 10_000


def print_table(table: Table, keys: int = 0, console: Console | None = None) -> None:
    """Print a table without cutting a cell.

    A terminal that is too narrow gets several tables below each other, each with the first `keys` columns; a file or
    a pipe, which has no width, one as wide as it takes.
    """
    console = console or get_console()
    if not console.is_terminal:
        if (width := natural_width(table, console)) > console.width:
            console = Console(file=console.file, width=width, highlight=False)
        console.print(table)
        return
    for part in split_columns(table, keys, console):
        console.print(part)


def natural_width(table: Table, console: Console) -> int:
    """Width of the table, in characters, if nothing is wrapped."""
    return Measurement.get(console, console.options.update(width=WIDEST, max_width=WIDEST), table).maximum


def split_columns(table: Table, keys: int, console: Console) -> list[Table]:
    """The table in parts that fit the width, each with the first `keys` columns and at least one more."""
    head, rest = table.columns[:keys], table.columns[keys:]
    parts: list[list[Column]] = [[]]
    for column in rest:
        if parts[-1] and natural_width(with_columns(table, [*head, *parts[-1], column]), console) > console.width:
            parts.append([])
        parts[-1].append(column)
    return [with_columns(table, [*head, *part]) for part in parts]


def with_columns(table: Table, columns: list[Column]) -> Table:
    """A copy of the table with only these columns."""
    part = copy.copy(table)
    part.columns = [copy.copy(column) for column in columns]
    for n, column in enumerate(part.columns):
        column._index = n
    return part
