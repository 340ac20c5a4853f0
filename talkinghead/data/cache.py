"""Pieces of remote files on the local disk, shared by all processes that name the same folder."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from talkinghead.data.remote import DataFault
from talkinghead.machine import lock
from talkinghead.storage import write_atomic

INDEX = "index"  # file name of a shard's index, needed at every visit: removed last
_BLOCK = 4096  # bytes; files occupy multiples of it
_AFTER_TRIM = 0.9  # of the limit


class Piece(NamedTuple):
    """A byte range of a file, the end excluded. `version` (its sha256) distinguishes files at the same URL."""

    url: str
    version: str
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Name of its file in a cache."""
        return f"{folder_name(self.url, self.version)}/{self.start}-{self.stop}"


def folder_name(url: str, version: str) -> str:
    """Folder name, in a cache, for all pieces of one version of a file."""
    return hashlib.sha256(f"{version} {url}".encode()).hexdigest()[:32]


class DiskCache:
    """Pieces by name, up to a limit of bytes; the least recently used are removed first.

    Reading takes no lock, because files are written atomically. Writing takes one, so that the limit holds for all
    processes together; the lock file records the bytes in use.

    Args:
        folder: created with the first piece
        limit: bytes on disk
    """

    def __init__(self, folder: Path | str, limit: float | int) -> None:
        self.folder = Path(folder)
        self.limit = int(limit)

    def get(self, name: str, size: int | None = None) -> bytes | None:
        """The content of a piece; None where it is missing, or has another size."""
        path = self.folder / name
        try:
            content = path.read_bytes()
            if size is not None and len(content) != size:
                return None
            os.utime(path)
        except FileNotFoundError:  # also where another process removed it in between
            return None
        except OSError as error:
            raise self._fault(error) from error
        return content

    def put(self, pieces: Mapping[str, bytes]) -> None:
        """Add pieces, and remove old ones beyond the limit.

        Raises:
            DataFault: where the folder is not writable.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.folder / ".size", "a+") as file:
                lock(file)
                file.seek(0)
                text = file.read()
                new = {name: content for name, content in pieces.items() if not self._has(name, len(content))}
                used = self._add(new, int(text) if text.isdecimal() else None)
                file.truncate(0)
                file.write(str(used))
        except OSError as error:
            raise self._fault(error) from error

    def _add(self, pieces: Mapping[str, bytes], used: int | None) -> int:
        """Write pieces; returns the bytes in use afterwards. `used`: before (None: unknown)."""
        size = sum(on_disk(len(content)) for content in pieces.values())
        if size > self.limit * _AFTER_TRIM:
            return self._trim(self.limit) if used is None else used
        if used is None or used + size > self.limit:
            used = self._trim(int(self.limit * _AFTER_TRIM) - size)
        for name, content in pieces.items():
            write_atomic(self.folder / name, content)
        return used + size

    def _trim(self, most: int) -> int:
        """Remove the least recently used files until at most `most` bytes are left; returns the bytes left."""
        files = sorted(self._files())
        used = sum(size for *_, size, _ in files)
        for _, _, size, path in files:
            if used <= most:
                break
            Path(path).unlink(missing_ok=True)
            used -= size
        return used

    def _files(self) -> Iterator[tuple[bool, int, int, str]]:
        """(is index, time of last use, bytes on disk, path) of each file. Removes files that killed processes left."""
        for folder in os.scandir(self.folder):
            for file in os.scandir(folder) if folder.is_dir() else ():
                if file.name.endswith(".tmp"):  # nobody writes it: we hold the lock
                    Path(file.path).unlink(missing_ok=True)
                    continue
                status = file.stat()
                yield file.name == INDEX, status.st_mtime_ns, on_disk(status.st_size), file.path

    def _has(self, name: str, size: int) -> bool:
        try:
            return (self.folder / name).stat().st_size == size
        except FileNotFoundError:
            return False

    def _fault(self, error: OSError) -> DataFault:
        return DataFault(
            f"data.cache_dir={self.folder} cannot be used ({error}): make room there, lower data.cache_gb, or give "
            "another folder (null: none)"
        )


def on_disk(size: int) -> int:
    """Bytes that a file of `size` bytes occupies."""
    return -(-size // _BLOCK) * _BLOCK
