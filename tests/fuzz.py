"""Damaged and hostile files, by the thousand: `python -m tests.fuzz --cases 1000 --table docs/security.md`.

Each case is a small good file, damaged by a seeded mutation, in an empty folder of its own and read the way the verbs
read it, in a process of its own with a limit of CPU time and memory. What can happen:

    ok          it was read; what is missing of it was named
    refused     an error that the verbs print as one line
    traceback   any other error
    hang        more than the limit of CPU time (or it slept), or the process was killed
    loss        something is gone and no one was told, or the given file has changed
    outside     a file beside the case's own output folder
    wrong       it was taken, and what came of it is no picture or number

A case is run again alone with `--kind checkpoint --only 17` and then shows its traceback.
"""

import argparse
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from talkinghead.reporting.tables import fill_block
from talkinghead.storage import write_atomic
from tests import fuzz_kinds

CPU_S, WALL_S, MEMORY = 20, 60, 6 << 30
OUTCOMES = ("ok", "refused", "traceback", "hang", "loss", "outside", "wrong")
BAD = OUTCOMES[2:]


class Outcome(NamedTuple):
    """What became of a case."""

    name: str
    detail: str


def outcome_of(kind: fuzz_kinds.Kind, number: int, seed: int, verbose: bool = False) -> Outcome:
    """One case, in a new folder and a new process."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name) / "case"
        (folder / "output").mkdir(parents=True)
        rng = random.Random(f"{seed} {kind.name} {number}")
        what = kind.make(folder, rng)
        before = listing(Path(name))
        mine, theirs = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("fork").Process(target=run, args=(kind, folder, theirs, verbose))
        child.start()
        theirs.close()
        told = received(mine)
        child.join(5 if told else 0)
        if child.is_alive():
            child.kill()
            child.join()
        if told is None:
            return Outcome("hang", f"{what}: exit code {child.exitcode}")
        result = Outcome(told[0], f"{what}: {told[1]}")
        after = listing(Path(name))
    strange = [path for path in after if path not in before and not path.startswith("case/output/")]
    changed = [path for path in before if after.get(path) != before[path]]
    if strange:
        return Outcome("outside", f"{what}: {strange[0]}")
    return Outcome("loss", f"{what}: {changed[0]} has changed") if changed else result


def received(connection: Connection) -> tuple[str, str] | None:
    """What the child tells; None where it is silent for too long, or was killed."""
    try:
        return connection.recv() if connection.poll(WALL_S) else None
    except EOFError:
        return None


def run(kind: fuzz_kinds.Kind, folder: Path, told: Connection, verbose: bool) -> None:
    """In the child: read the file as the verbs do, and tell what happened."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    most = address_space() + MEMORY  # a fork of a test run that has come far begins with gigabytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    os.chdir(folder)
    if not verbose:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
    try:
        lost = kind.use(folder)
        told.send(("ok", "") if lost is None else (lost.split(":")[0], lost))
    except kind.refusals as error:
        text = str(error)
        one_line = bool(text) and "\n" not in text.strip() and len(text) < 2000
        told.send(("refused" if one_line else "traceback", f"{type(error).__name__}: {text[:200]}"))
    except BaseException as error:
        if verbose:
            traceback.print_exc()
        told.send(("traceback", f"{type(error).__name__}: {str(error)[:200]}"))
    finally:
        told.close()
    os._exit(0)


def address_space() -> int:
    """Bytes that this process has mapped so far; 0 where there is no /proc."""
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[0]) * resource.getpagesize() if pages.is_file() else 0


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and time of change."""
    found = (path for path in folder.rglob("*") if not path.is_dir())
    return {str(p.relative_to(folder)): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in found}


def table_of(counts: dict[str, Counter[str]]) -> str:
    """Markdown: a row for each kind and one for all."""
    rows = [["cases", "tried", *OUTCOMES], ["---"] * (2 + len(OUTCOMES))]
    total = sum(counts.values(), Counter())
    for name, count in [*counts.items(), ("**all**", total)]:
        rows.append([name, str(count.total()), *(str(count[outcome]) for outcome in OUTCOMES)])
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def main() -> int:
    """The command; exits with 1 where a case went badly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000, help="shared out among the kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", nargs="+", default=list(fuzz_kinds.KINDS), choices=list(fuzz_kinds.KINDS))
    parser.add_argument("--only", type=int, help="one case, with its traceback")
    parser.add_argument("--table", type=Path, help="write the table into this file, between its marks")
    args = parser.parse_args()
    counts: dict[str, Counter[str]] = {}
    for name in args.kind:
        kind, counts[name] = fuzz_kinds.KINDS[name], Counter()
        kind.prepare()
        numbers = range(-(-args.cases // len(args.kind))) if args.only is None else [args.only]
        for number in numbers:
            outcome = outcome_of(kind, number, args.seed, args.only is not None)
            counts[name][outcome.name] += 1
            if outcome.name in BAD or args.only is not None:
                print(f"{name} {number}: {outcome.name}: {outcome.detail}", flush=True)
        print(f"{name}: {dict(counts[name])}", flush=True)
    text = table_of(counts)
    print(text)
    if args.table:
        write_atomic(args.table, fill_block(args.table.read_text(), "fuzz", text).encode())
    return int(any(count[outcome] for count in counts.values() for outcome in BAD))


if __name__ == "__main__":
    sys.exit(main())
