"""What differs between operating systems: the number of CPUs, and locks between processes."""

import errno
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


PATIENCE_S = 5.0  # seconds of waiting for another process's lock before a message says so
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}  # of file systems mounted without locks

_logger = logging.getLogger(__name__)


def num_cpus() -> int:
    """Number of CPUs that this process may use; if the system does not say (macOS), of all CPUs."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def lock(file: IO, wait: bool = True) -> None:
    """Lock an open file until it is closed. A system without such locks (Windows) runs one process at a time.

    A long wait is logged: the other process may hang, and only its end releases the lock.

    Raises:
        OSError: another process has it and `wait` is False.
    """
    if fcntl is None:
        return
    patient_until = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not wait:
                raise
        if time.monotonic() >= patient_until:
            break
        time.sleep(0.01)
    _logger.warning("waiting for another process, which is at work with %s", file.name)
    fcntl.flock(file, fcntl.LOCK_EX)


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Lock a folder against a second process with the same work. The lock ends with this process, however it ends.

    Args:
        what: the work, for the message

    Raises:
        ValueError: another process has the lock, or the file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        try:
            lock(handle, wait=False)
        except OSError as error:
            if error.errno in NO_LOCKS:
                raise ValueError(
                    f"{folder}: its file system has no file locks ({error.strerror}): mount Lustre with -o flock, NFS "
                    "without nolock, or choose another output"
                ) from error
            raise ValueError(f"another {what} is at work in {folder}; wait for it or choose another output") from error
        yield
