"""Starts a verb: help and option mistakes are answered before imports that take seconds."""

import importlib
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from talkinghead.processes import program


class Verb(NamedTuple):
    """A command.

    Attributes:
        about: one line for `talkinghead --help`
        config: the file in conf/ that it composes; None: a module that parses its own arguments
        files: options that are file names, although Hydra has groups of these names
        offers: for a group of which this verb takes only some choices, those choices
    """

    about: str
    config: str | None = None
    files: Sequence[str] = ()
    offers: Mapping[str, Sequence[str]] = {}


VERBS = {
    "animate": Verb("a portrait moved by a driving video", "animate",
                    ("source", "driving", "output", "checkpoint", "save_person"), {"method": ("ff", "ft")}),
    "prepare": Verb("raw video to shards", "prepare"),
    "train": Verb("meta-learning, fine-tuning, the baselines", "config"),
    "evaluate": Verb("methods on new people, for T shots: rows and tables", "evaluate"),
    "studio": Verb("pages in the browser", "studio", ("checkpoint", "study")),
    "provenance": Verb("what a file says about how it was made"),
    "pretrained": Verb("pretrained networks: list, check, download"),
}  # fmt: skip


def main() -> None:
    """Entry point of the installed command: `talkinghead VERB …`."""
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb in ("--help", "-h", "help"):
        sys.exit(print(overview()))
    if verb not in VERBS:
        from talkinghead.cli.early import nearest  # noqa: PLC0415, it imports Hydra

        sys.exit(f"talkinghead: {verb}: there is no such command{nearest(verb, list(VERBS))} (--help lists them)")
    # Lightning starts a process per device as `python <argv[0]> …`, so this must be a file that runs the same command
    sys.argv = [str(Path(__file__).with_name(f"{verb}.py")), *sys.argv[2:]]
    launch(verb, f"talkinghead {verb}")


def launch(name: str, command: str | None = None) -> Any:
    """Run a verb with the options in `sys.argv`; `command` is what the user typed, by default `python <name>.py`."""
    verb, command = VERBS[name], command or f"python {name}.py"
    if verb.config is None:
        return runpy.run_module(f"talkinghead.{name}", run_name="__main__")
    program(command.removeprefix("python ").removeprefix("-m talkinghead."))
    from talkinghead.cli import early  # noqa: PLC0415, it imports Hydra
    from talkinghead.reenactment.inputs import dashed, file_arguments, with_shipped  # noqa: PLC0415

    if verb.files:
        if hint := dashed(sys.argv[1:], verb.files):
            sys.exit(f"{command.removeprefix('python ')}: {hint}")
        sys.argv[1:] = file_arguments(sys.argv[1:], verb.files)
    elif name in ("train", "evaluate"):
        sys.argv[1:] = with_shipped(sys.argv[1:])
    early.answer(verb.config, command, verb.offers)
    return imported(name, command).main()


def imported(name: str, command: str) -> Any:
    """The module of a verb; a missing package ends the program with one line."""
    try:
        return importlib.import_module(f"talkinghead.cli.{name}")
    except ModuleNotFoundError as error:
        if str(error.name).startswith("talkinghead"):
            raise
        from talkinghead.cli.checking import missing_package  # noqa: PLC0415, it imports Hydra

        sys.exit(f"{command.removeprefix('python ')}: {missing_package(error)}")


def overview() -> str:
    """All commands, one per line."""
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {verb.about}" for name, verb in VERBS.items()]
    return "\n".join([
        "Few-shot adversarial talking heads: https://arxiv.org/abs/1905.08233", "",
        "usage: talkinghead COMMAND [key=value ...]", "", *lines, "", "talkinghead COMMAND --help lists its options.",
    ])  # fmt: skip
