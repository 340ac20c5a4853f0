"""The one folder in which a studio keeps what visitors leave: it goes with the studio, a killed one's with the next."""

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
    """A new folder below `root` (the system's for temporary files), removed at the end. Removes those of killed ones.

    Its lock is held by this process as long as it lives, so that the next studio knows whether anybody is there.
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
    """Remove folders of studios that are no more; only this user's, and no links."""
    gone = [path for path in root.glob(f"{PREFIX}*") if is_abandoned(path)]
    for path in gone:
        shutil.rmtree(path, ignore_errors=True)
    return gone


def is_abandoned(folder: Path) -> bool:
    """A folder of ours whose lock nobody holds."""
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
