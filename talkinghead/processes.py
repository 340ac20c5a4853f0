"""Worker processes that end when they are told to, and with their parent, even a killed one."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait


@contextmanager
def stopping_at_once(pool: ProcessPoolExecutor) -> Iterator[ProcessPoolExecutor]:
    """Shut the pool down at the end of the block; on an exception (Ctrl-C, SIGTERM) without waiting for its jobs.

    The jobs must write whole files or none: their processes are killed.
    """
    try:
        yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):  # Python 3.14 has pool.kill_workers()
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown(wait=True, cancel_futures=True)


def end_with_parent() -> None:
    """Initializer of a worker: leave Ctrl-C to the parent; end when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None, "only in a worker process"
    threading.Thread(target=lambda: wait([parent.sentinel]) and os._exit(1), daemon=True).start()
