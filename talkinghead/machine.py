"""What differs between operating systems: how many CPUs there are, and locks between processes."""

import os
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def num_cpus() -> int:
    """CPUs that this process may use; where the system does not say (macOS), those that there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def lock(file: IO, wait: bool = True) -> None:
    """Lock an open file until it is closed. A system without such locks (Windows) runs one process at a time.

    Raises OSError where another process has it and `wait` is False.
    """
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
