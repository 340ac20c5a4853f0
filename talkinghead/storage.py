"""Files that are whole at every moment: readers see the old one or the new one, never half; and rows of csv files."""

import csv
import io
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from talkinghead.names import as_cell, of_cell

Row = dict[str, str]


def write_atomic(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write under a temporary name, then rename. Missing folders are made; `mode` holds from the first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_csv(path: Path, required: Sequence[str] = (), renamed: Mapping[str, str] | None = None) -> list[Row]:
    """The rows of a csv as text; none where there is no file.

    Args:
        required: columns that the file must have
        renamed: new names by old ones, for a file that lacks one of the new ones which are required

    Raises:
        ValueError: in one line, for what is no csv with the required columns: a folder, a binary file, odd cells.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the csv file in it")
    if not path.exists():
        return []
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline=""), strict=True)
        names = list(reader.fieldnames or ())
        if renamed and not {*required} & {*renamed.values()} <= {*names}:
            reader.fieldnames = [renamed.get(name, name) for name in names]
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no csv file ({error}): move it away, or give another") from error
    missing = [name for name in required if name not in (reader.fieldnames or ())]
    if missing and (rows or reader.fieldnames):
        raise ValueError(f"{path} has no column {', '.join(missing)}: it is not a csv of this kind; give another")
    for number, row in enumerate(rows):
        if None in row or None in row.values():
            raise ValueError(f"{path}, row {number + 1} has not as many cells as the header: delete that line")
    return [{name: of_cell(cell) for name, cell in row.items()} for row in rows]


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write rows, whole or not at all; a column that a row lacks is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: as_cell(text) for name, text in row.items()} for row in rows)
    write_atomic(path, text.getvalue().encode())
