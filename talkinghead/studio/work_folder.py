"""The temporary folder of a studio: deleted when the studio ends; that of a killed one, when the next one starts."""

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from talkinghead import machine

PREFIX, LOCK = "talkinghead-studio-", ".lock"
YOUNG = 60.0  # seconds in which a studio that starts may not have locked its folder yet


@contextmanager
def workplace(root: Path | None = None) -> Iterator[Path]:
    """A new folder below `root` (default: the system's temporary folder), deleted at the end of the block.

    Folders of killed studios are deleted first. This process locks its folder as long as it lives, so that the next
    studio can tell whether it is in use.
    """
    root = Path(root or tempfile.gettempdir())
    sweep(root)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
    try:
        with (folder / LOCK).open("w") as lock:
            machine.lock(lock)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(root: Path) -> list[Path]:
    """Delete the folders of killed studios, only those of this user, following no links; returns their paths."""
    gone = [path for path in root.glob(f"{PREFIX}*") if is_abandoned(path)]
    for path in gone:
        shutil.rmtree(path, ignore_errors=True)
    return gone


def is_abandoned(folder: Path) -> bool:
    """Whether a folder is this user's and no process holds its lock."""
    try:
        about = folder.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
            return False
        if not (folder / LOCK).is_file():
            return time.time() - about.st_mtime > YOUNG
        with (folder / LOCK).open() as lock:
            machine.lock(lock, wait=False)
    except OSError:  # held, or not ours
        return False
    return True
