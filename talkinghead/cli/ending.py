"""How a verb ends: one line for a mistake; what was saved, where, and how to resume after an interruption."""

import logging
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import InstantiationException

from talkinghead.cli import command_of, name_of
from talkinghead.cli.checking import OFFLINE
from talkinghead.processes import INTERRUPTED, TERMINATED, leave, stopped, terminate_cleanly
from talkinghead.storage import in_one_line

MENDABLE = (ValueError, OSError, ImportError)
KEPT = {  # files of a run's folder: what they are, and where
    "checkpoints": ("checkpoints/last.ckpt", "checkpoints/best.ckpt"),
    "table": ("validation.csv", "results.csv"),
    "metrics": ("metrics/metrics.csv",),
    "previews": ("previews/latest.png", "people"),
    "network": ("facenet_synthetic.safetensors",),
    "time": ("fit-profile.txt", "test-profile.txt"),
}
WARNINGS = (
    "sync_dist",
    "Sparse invariant checks",
    "does not have many workers",
    "LeafSpec",
    "smaller than the logging interval",
)
HINTS = ("Tip:", "TPU available", "HPU available", "was configured so 100%")


@contextmanager
def errors_in_one_line(verb: str, *also: type[Exception]) -> Iterator[None]:
    """End with one line if the user can fix the error, or stopped the run; HYDRA_FULL_ERROR=1 shows tracebacks."""
    before = terminate_cleanly()
    try:
        yield
    except KeyboardInterrupt as stop:
        stopped(name_of(verb), stop)
    except SystemExit as end:
        if end.code in (INTERRUPTED, TERMINATED):
            leave(int(end.code))
        if end.code != 1 or not isinstance(end.__context__, KeyboardInterrupt):
            raise  # except Lightning's exit after Ctrl-C
        stopped(name_of(verb), end.__context__)
    except Exception as error:
        cause = (error.__cause__ or error) if isinstance(error, InstantiationException) else error
        account = type(cause).__module__.split(".")[0] == "wandb"  # or the connection to it
        if os.environ.get("HYDRA_FULL_ERROR") or not (account or isinstance(cause, (*MENDABLE, *also))):
            raise
        if account:
            sys.exit(f"{name_of(verb)}: logger=wandb: {str(cause).strip(' .')}; {OFFLINE}")
        sys.exit(f"{name_of(verb)}: {in_one_line(cause)}")
    finally:
        signal.signal(signal.SIGTERM, before)


def what_it_left(folder: Path) -> list[str]:
    """One line per kind of file in a run's folder, with paths relative to it."""
    found = {kind: [name for name in names if (folder / name).exists()] for kind, names in KEPT.items()}
    return [f"  {kind:<11} {', '.join(names)}" for kind, names in found.items() if names]


def nearby(path: Path) -> str:
    """The path, relative to the working directory if it is inside."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def of_this_job(arguments: list[str], overrides: Sequence[str]) -> list[str]:
    """The arguments that run a single job of a sweep: the common flags, and the job's own overrides."""
    flags = [one for one in arguments if one.startswith("-") or ("=" not in one and not one.startswith("~"))]
    return [*(one for one in flags if one not in ("-m", "--multirun")), *overrides]


def go_on(arguments: list[str], checkpoint: Path) -> str:
    """The command that resumes from a checkpoint."""
    rest = [one for one in arguments if not one.startswith(("ckpt_path=", "init_from=", "hydra.run.dir="))]
    value = nearby(checkpoint)
    quoted = f'ckpt_path="{value}"' if any(sign in value for sign in "=,[](){} ") else f"ckpt_path={value}"
    return f"{command_of('train')} {shlex.join([*rest, quoted])}"


def without_noise() -> None:
    """Silence warnings and hints of libraries that the user cannot act on."""
    for text in WARNINGS:
        warnings.filterwarnings("ignore", message=f".*{text}")
    hints = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    hints.addFilter(lambda record: not any(hint in record.getMessage() for hint in HINTS))
