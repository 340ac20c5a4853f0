"""Pieces of remote files on the local disk, shared by all processes that name the same folder."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from talkinghead.data.remote import DataFault
from talkinghead.machine import lock
from talkinghead.storage import write_atomic

INDEX = "index"  # file name of what is needed at every visit of a shard: goes last
_BLOCK = 4096  # bytes that files occupy multiples of
_AFTER_TRIM = 0.9  # of the limit


class Piece(NamedTuple):
    """A range of bytes of a file, the end excluded. `version` (its sha256) tells files of one URL apart."""

    url: str
    version: str
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Of its file in a cache."""
        return f"{folder_name(self.url, self.version)}/{self.start}-{self.stop}"


def folder_name(url: str, version: str) -> str:
    """The folder of a file's pieces in a cache."""
    return hashlib.sha256(f"{version} {url}".encode()).hexdigest()[:32]


class DiskCache:
    """Pieces by name, at most so many bytes; those that were not used for longest are removed first.

    Reading takes no lock: a file is whole or not there. Writing takes one, so that the limit holds for all processes
    together; the lock's file says how much there is.

    Args:
        folder: made when the first piece comes
        limit: bytes on disk
    """

    def __init__(self, folder: Path | str, limit: float | int) -> None:
        self.folder = Path(folder)
        self.limit = int(limit)

    def get(self, name: str, size: int | None = None) -> bytes | None:
        """The content of a piece; None where it is not there, or not of this size."""
        path = self.folder / name
        try:
            content = path.read_bytes()
            if size is not None and len(content) != size:
                return None
            os.utime(path)
        except FileNotFoundError:  # also between the two: another process has removed it
            return None
        except OSError as error:
            raise self._fault(error) from error
        return content

    def put(self, pieces: Mapping[str, bytes]) -> None:
        """Add pieces, and remove old ones where there are too many.

        Raises:
            DataFault: where the folder cannot be written to.
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
        """Write them; returns how much there is then, of the `used` bytes before (None: not known)."""
        size = sum(on_disk(len(content)) for content in pieces.values())
        if size > self.limit * _AFTER_TRIM:
            return self._trim(self.limit) if used is None else used
        if used is None or used + size > self.limit:
            used = self._trim(int(self.limit * _AFTER_TRIM) - size)
        for name, content in pieces.items():
            write_atomic(self.folder / name, content)
        return used + size

    def _trim(self, most: int) -> int:
        """Remove what was not used for longest until at most so many bytes are left; returns how many are."""
        files = sorted(self._files())
        used = sum(size for *_, size, _ in files)
        for _, _, size, path in files:
            if used <= most:
                break
            Path(path).unlink(missing_ok=True)
            used -= size
        return used

    def _files(self) -> Iterator[tuple[bool, int, int, str]]:
        """Whether it is an index, time of the last use, bytes on disk, path. What a killed process left is removed."""
        for folder in os.scandir(self.folder):
            for file in os.scandir(folder) if folder.is_dir() else ():
                if file.name.endswith(".tmp"):  # of nobody: who writes has the lock
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
