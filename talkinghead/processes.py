"""Clean ends of processes: commands end with one line, workers end with their parent, even a killed one."""

import atexit
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, NoReturn

TERMINATED, INTERRUPTED = 128 + signal.SIGTERM, 128 + signal.SIGINT

_programs: list[str] = []  # the name of the program that this process is


@contextmanager
def stopping_at_once(pool: ProcessPoolExecutor) -> Iterator[ProcessPoolExecutor]:
    """Start the pool, and shut it down at the end of the block; on an exception (Ctrl-C, SIGTERM) without waiting for
    its jobs.

    The jobs must write whole files or none: their processes are killed.
    """
    try:
        _start_workers(pool)
        yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):  # Python 3.14 has pool.kill_workers()
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown(wait=True, cancel_futures=True)


def _start_workers(pool: ProcessPoolExecutor) -> None:
    """Start all workers; Ctrl-C in the meantime is left to this process.

    Ctrl-C reaches all processes of a terminal, and a worker that is still importing would print a traceback. So the
    signal is blocked while they start, which they inherit, and delivered here once they have started.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        for _ in range(pool._max_workers):  # type: ignore[attr-defined]  # each starts a worker, unless one is idle
            pool.submit(int)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Initializer of a worker: leave Ctrl-C to the parent; end when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None, "only in a worker process"
    threading.Thread(target=lambda: wait([parent.sentinel]) and os._exit(1), daemon=True).start()


class Terminated(KeyboardInterrupt):
    """SIGTERM: triggers the same cleanup as Ctrl-C."""


def program(name: str) -> None:
    """Call it first in a program, before imports that take seconds: Ctrl-C and SIGTERM end it at once, with one line.

    Threads of torch sleep while they wait for each other, unless OMP_WAIT_POLICY says otherwise: spinning threads take
    the cores from other processes, and from each other (docs/animate.md).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
    logging.raiseExceptions = False  # no traceback if the disk has no room for the line
    plain = sys.excepthook

    def last_words(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt):
            stopped(name, error)
        plain(kind, error, trace)

    _programs.append(name)
    sys.excepthook = last_words
    terminate_cleanly()


def leave(status: int) -> NoReturn:
    """Exit; a program at once, because tearing down an interpreter with torch takes seconds."""
    if not _programs:
        sys.exit(status)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def stopped(verb: str, stop: KeyboardInterrupt, kept: str = "") -> NoReturn:
    """Print one line on what is kept and how to continue; exit with 130 after Ctrl-C, 143 after SIGTERM."""
    kept = kept or "the same command goes on, or starts again where nothing was saved"
    print(f"{verb}: {'terminated' if isinstance(stop, Terminated) else 'interrupted'}; {kept}", file=sys.stderr)
    leave(TERMINATED if isinstance(stop, Terminated) else INTERRUPTED)


def terminate_cleanly() -> Any:
    """Let SIGTERM unwind as Ctrl-C does, removing half-written files, and exit with 143. Returns the old handler."""
    before = signal.getsignal(signal.SIGTERM)
    if before is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, terminate)
    return before


def terminate(*_: object) -> NoReturn:
    """Signal handler for SIGTERM: raise Terminated."""
    raise Terminated


@contextmanager
def interruptible(verb: str, kept: str = "") -> Iterator[None]:
    """Run a command that Ctrl-C and SIGTERM end with one line, which includes `kept`."""
    before = terminate_cleanly()
    try:
        yield
    except KeyboardInterrupt as stop:
        stopped(verb, stop, kept)
    finally:
        signal.signal(signal.SIGTERM, before)
