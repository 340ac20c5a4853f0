"""Processes that end when they are told to: commands with one line, workers with their parent, even a killed one."""

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
    """Start all workers; Ctrl-C, if it comes meanwhile, is left to this process.

    It reaches all processes of a terminal, and a worker that is still importing would answer with a traceback: so it is
    blocked while they start, which they inherit, and comes here when they have started.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        for _ in range(pool._max_workers):  # type: ignore[attr-defined]  # each starts a worker, where none is idle
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
    """SIGTERM: whatever cleans up after Ctrl-C does so here too."""


def program(name: str) -> None:
    """Call it first in a program, before imports that take seconds: Ctrl-C and SIGTERM end it at once, in one line.

    Threads of torch that wait for each other sleep meanwhile, unless OMP_WAIT_POLICY says otherwise: awake they take
    the cores from whatever else runs there, and from themselves (docs/animate.md).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
    logging.raiseExceptions = False  # no traceback for a line that a full disk has no room for
    plain = sys.excepthook

    def last_words(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt):
            stopped(name, error)
        plain(kind, error, trace)

    _programs.append(name)
    sys.excepthook = last_words
    terminate_cleanly()


def leave(status: int) -> NoReturn:
    """Exit; a program at once, for to take an interpreter with torch in it apart takes seconds."""
    if not _programs:
        sys.exit(status)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def stopped(verb: str, stop: KeyboardInterrupt, kept: str = "") -> NoReturn:
    """One line of what is kept and how to go on; exit 130 after Ctrl-C, 143 after SIGTERM."""
    kept = kept or "the same command goes on, or starts again where nothing was saved"
    print(f"{verb}: {'terminated' if isinstance(stop, Terminated) else 'interrupted'}; {kept}", file=sys.stderr)
    leave(TERMINATED if isinstance(stop, Terminated) else INTERRUPTED)


def terminate_cleanly() -> Any:
    """SIGTERM unwinds as Ctrl-C does, so that half-written files go, and exits with 143. Returns the handler before."""
    before = signal.getsignal(signal.SIGTERM)
    if before is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, terminate)
    return before


def terminate(*_: object) -> NoReturn:
    """The handler of SIGTERM."""
    raise Terminated


@contextmanager
def interruptible(verb: str, kept: str = "") -> Iterator[None]:
    """A command that Ctrl-C and SIGTERM end with one line, and `kept` in it."""
    before = terminate_cleanly()
    try:
        yield
    except KeyboardInterrupt as stop:
        stopped(verb, stop, kept)
    finally:
        signal.signal(signal.SIGTERM, before)
