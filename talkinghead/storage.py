"""Atomic file writes (readers see the old file or the new one, never a part), and rows of csv files."""

import csv
import errno
import hashlib
import io
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from talkinghead.names import as_cell, of_cell

Row = dict[str, str]
FULL = (errno.ENOSPC, errno.EDQUOT)  # errors of a full disk
TRIAL = 2**14  # bytes written to test a folder


def write_atomic(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write under a temporary name, then rename. Missing folders are made; `mode` applies from the first byte on."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with errors_name(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_and_rename(path, temporary, content, mode)


def _write_and_rename(path: Path, temporary: Path, content: bytes, mode: int) -> None:
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Let an OSError in this block name `path`, not a temporary file or, as for a full disk, no file at all."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def check_writable(folder: Path) -> None:
    """Raise a one-line ValueError if files cannot be written into `folder`, or it cannot be made.

    Nothing is left behind: the trial takes place in the nearest existing folder.
    """
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise ValueError(f"{folder} cannot be a folder, for {there} is a file: choose another output")
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(TRIAL))
    except OSError as error:
        full = error.errno in FULL
        reason, way = ("the disk is full", "make room there, or ") if full else (error.strerror, "")
        raise ValueError(f"nothing can be written to {there} ({reason}): {way}choose another folder") from error


def check_file(name: str, path: str | Path, otherwise: str = "") -> Path:
    """The path of a file on a disk, given as the option `name`; a pipe would be waited for without end.

    Args:
        otherwise: added where there is no such file

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is a pipe, a device or a socket, or a folder.
    """
    path = Path(path)
    if path.is_file():
        return path
    if path.is_dir():
        raise ValueError(f"{name}={path}: it is a folder: give a file")
    if path.exists():
        raise ValueError(f"{name}={path}: it is a pipe or a device: save what it holds as a file, and give that")
    raise FileNotFoundError(f"{name}={path}: there is no such file{otherwise}")


def read_file(path: Path) -> bytes:
    """The content of a file on a disk; a pipe would be waited for without end.

    Raises:
        OSError: there is none, or it cannot be read.
        ValueError: it is a pipe, a device or a socket.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(f"{path} is a pipe or a device, not a file")
    return path.read_bytes()


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Hexadecimal checksum of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def in_one_line(error: BaseException) -> str:
    """The message of an error for a user; for a full disk it names the file that had no room."""
    text = str(error)
    if isinstance(error, OSError) and error.errno in FULL:
        text = f"{error.filename or 'a file'} cannot be written: the disk is full; make room there"
    return "; ".join([text, *getattr(error, "__notes__", ())])


def read_csv(path: Path, required: Sequence[str] = (), renamed: Mapping[str, str] | None = None) -> list[Row]:
    """The rows of a csv as text; none if there is no file.

    Args:
        required: columns that the file must have
        renamed: old name -> new name, applied to a file that lacks a required new column

    Raises:
        ValueError: with one line, if it is not a csv with the required columns: a folder, a binary file, odd cells.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the csv file in it")
    if not path.exists():
        return []
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""), strict=True)
        names = list(reader.fieldnames or ())
        if renamed and not {*required} & {*renamed.values()} <= {*names}:
            reader.fieldnames = [renamed.get(name, name) for name in names]
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no csv file ({error}): move it away, or give another") from error
    missing = [name for name in required if name not in (reader.fieldnames or ())]
    separator = next((one for one in ";\t" if len(names) == 1 and one in names[0]), None)
    if missing and separator:
        raise ValueError(f"{path}: its cells are separated by {separator!r}: save it with commas between them")
    if missing and (rows or reader.fieldnames):
        raise ValueError(f"{path} has no column {', '.join(missing)}: it is not a csv of this kind; give another")
    for number, row in enumerate(rows):
        if None in row or None in row.values():
            raise ValueError(f"{path}, row {number + 1} has not as many cells as the header: delete that line")
    return [{name: of_cell(cell) for name, cell in row.items()} for row in rows]


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write rows atomically; a column that a row lacks is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: as_cell(text) for name, text in row.items()} for row in rows)
    write_atomic(path, text.getvalue().encode())
