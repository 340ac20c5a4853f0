"""Resumable downloads: a file gets its name only when it is complete and its checksum is right."""

import http.client
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console
from rich.progress import DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from talkinghead.machine import lock
from talkinghead.storage import FULL, digest, errors_name

RETRY_DELAYS_S = (1.0, 2.0, 4.0, 8.0, 16.0)  # pauses after connections that broke without having brought anything
TIMEOUT_S = 60.0
_CHUNK = 1 << 18
_LATER = {408, 425, 429}  # of the HTTP errors 4xx, those that may be over in a moment

_logger = logging.getLogger(__name__)


class Broken(OSError):
    """The connection ended before the end of the file."""


def fetch(url: str, target: Path, checksum: str = "", algorithm: str = "sha256") -> None:
    """Download to `target`, continuing from `<target>.part` if a connection broke or a process was stopped.

    Of several processes that want the same file, one downloads it and the others wait.

    Args:
        checksum: all hexadecimal digits of `algorithm`, or the leading ones; "": none is known

    Raises:
        OSError: one line, if the file cannot be downloaded; or if its checksum is wrong, and then it is deleted.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked_part(target) as file:
        part = Path(file.name)
        if target.is_file():  # another process was faster
            part.unlink()
            return
        left_over = _size(file) > 0
        with errors_name(target):
            _download(url, file)
            if left_over and not _is_right(part, checksum, algorithm):  # it may have been of another file
                file.truncate(0)
                _download(url, file)
        if not _is_right(part, checksum, algorithm):
            found = digest(part, algorithm)
            part.unlink()
            raise OSError(f"{url} brought another file: {algorithm} {found}, expected {checksum}…; it is not kept")
        os.replace(part, target)


@contextmanager
def _locked_part(target: Path) -> Iterator[BinaryIO]:
    """The unfinished file, opened for appending and locked, so that only this process writes to it."""
    part = target.with_name(f"{target.name}.part")
    while True:
        with open(part, "ab") as file:
            lock(file)
            if part.exists() and os.path.samestat(os.fstat(file.fileno()), part.stat()):  # nobody has renamed it
                yield file
                return


def _download(url: str, file: BinaryIO) -> None:
    """Append what is missing; a broken connection is opened again as long as data keep coming."""
    failures = 0
    while True:
        before = _size(file)
        try:
            return _append(url, file)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            size = _size(file)
            failures = 1 if size > before else failures + 1
            if _for_good(error) or failures > len(RETRY_DELAYS_S):
                kept = f"; {size / 1e6:.0f} MB are kept, and the same command goes on" if size else ""
                raise OSError(f"{url}: {error}{kept}") from error
            delay = RETRY_DELAYS_S[failures - 1]
            _logger.warning("%s: %s; going on at %.0f MB in %.0f s", url, error, size / 1e6, delay)
            time.sleep(delay)


def _for_good(error: Exception) -> bool:
    """Whether an error is permanent: no such file, no access, no network."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code < 500 and error.code not in _LATER
    return isinstance(error, urllib.error.URLError)


def _append(url: str, file: BinaryIO) -> None:
    """Request the bytes after the end of `file`; from servers without ranges, the whole file."""
    start = _size(file)
    request = urllib.request.Request(url, headers={"User-Agent": "talkinghead"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        if error.headers.get("Content-Range") == f"bytes */{start}":  # there are no more: it is whole
            return
        file.truncate(0)
        return _append(url, file)
    with response:
        if start and not str(response.headers.get("Content-Range")).startswith(f"bytes {start}-"):
            file.truncate(0)
        _copy(response, file)


def _copy(response: Any, file: BinaryIO) -> None:
    """Write the body of a response to the end of `file`, with a bar on a terminal."""
    start, length = _size(file), response.headers.get("Content-Length")
    total = start + int(length) if length is not None else None
    columns = (TextColumn(Path(file.name).stem), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=total, completed=start)
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            bar.update(task, advance=len(chunk))
    if total is not None and _size(file) < total:
        raise Broken(f"the connection ended after {_size(file)} of {total} bytes")
    file.flush()


def _size(file: BinaryIO) -> int:
    return file.seek(0, os.SEEK_END)


def _is_right(path: Path, checksum: str, algorithm: str) -> bool:
    return not checksum or digest(path, algorithm).startswith(checksum)
