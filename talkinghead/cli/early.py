"""Answers before the slow imports: --help, --cfg, and errors in the overrides."""

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from talkinghead.cli import CONF
from talkinghead.cli.help import help_text
from talkinghead.machine import locked
from talkinghead.names import as_line
from talkinghead.storage import check_writable

FLAGS = {"--cfg", "-c", "--info", "-i", "--hydra-help", "--version", "--shell-completion", "-sc"}
INSTEAD = {  # of trainer flags that need Lightning's automatic optimization
    "trainer.gradient_clip_val": "learner.gradient_clip_norm",
    "trainer.accumulate_grad_batches": "learner.accumulate",
}
ELSEWHERE = {
    **INSTEAD, "methods": "method", "adaptations": "adaptation",
    "baseline@method": "method", "learner@finetune": "finetune",
}  # fmt: skip
SLURM = ("hydra/launcher=slurm", "hydra/launcher=submitit_slurm")
PLUGINS = {  # launchers and sweepers of Hydra
    "submitit_slurm": "pip install -c constraints.txt -e '.[slurm]'",
    "submitit_local": "pip install -c constraints.txt -e '.[slurm]'",
    "optuna": "pip install -c constraints.txt -e '.[optuna]'",
    "ax": "pip install hydra-ax-sweeper",
}


def answer(name: str, command: str, offers: Mapping[str, Sequence[str]] | None = None) -> None:
    """Print what was asked for and exit, or exit with a line that names the wrong override; else return.

    Args:
        name: the file in conf/ that the verb composes
        command: how the verb is called, for the help text, for example `python train.py`
        offers: choices per group, where the verb accepts only some of a group
    """
    if {"-m", "--multirun"} & set(sys.argv[2:]):  # wherever it stands; the parser wants it before the overrides
        sys.argv[1:] = ["-m", *(one for one in sys.argv[1:] if one not in ("-m", "--multirun"))]
    given = sys.argv[1:]
    if {"--help", "-h"} & set(given):
        text = help_text(CONF, name, command, offers or {})
        if command.startswith("talkinghead "):  # the examples in conf/ are for a checkout
            text = re.sub(r"python (-m talkinghead\.)?(\w+?)(\.py)? ", r"talkinghead \2 ", text)
        print(text, end="")
        sys.exit()
    verb = command.rsplit(maxsplit=1)[-1]
    wrong = next((one for one in given if one.startswith("--") and not known(one)), None)
    if wrong is not None:
        fail(f"{verb}: {wrong}: options are written without dashes, as key=value (--help lists them)")
    arguments = get_args_parser().parse_args(given)
    if (mistake := mistaken(name, arguments, offers or {})) is not None:
        fail(f"{verb}: {mistake}")
    try:
        config = compose(name, arguments)
        missing = keys_of(config, only_missing=True)
    except OverrideParseException as error:
        fail(f"{verb}: {unreadable(error)}")
    except (HydraException, OmegaConfBaseException) as error:
        fail(f"{verb}: {explain(str(error), name, arguments, offers or {})}")
    except Exception as error:
        fail(f"{verb}: these options cannot be composed ({error}): {' '.join(arguments.overrides)[:200]}")
    asked = any(one.split("=")[0] in FLAGS for one in given)
    if missing and not asked:
        fail(f"{verb}: {missing[0]}=… is needed (--help has examples)")
    if asked:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(lambda cfg: None)()
        sys.exit()
    check_outputs(verb, config, arguments.multirun)


def mistaken(name: str, arguments: Any, offers: Mapping[str, Sequence[str]]) -> str | None:
    """What is wrong with flags, or with groups and sections without a value; None: nothing."""
    empty = (one.split("=")[0] for one in arguments.overrides if one.lower().endswith(("=null", "=none", "=")))
    for key in empty:
        there = list(offers.get(key, sorted(path.stem for path in (CONF / key).glob("*.yaml"))))
        if there and "none" not in there:
            return f"{key}=null: one of its choices is wanted: {', '.join(there)}"
        options: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
        if not there and isinstance(options.get(key), dict):
            return f"{key}=null: its options are given one by one, as {key}.NAME=VALUE (--help lists them)"
    if arguments.multirun and not shutil.which("srun") and any(one in SLURM for one in arguments.overrides):
        return "hydra/launcher=slurm: there is no srun here; start this where sbatch and srun are"
    if arguments.multirun and (arguments.cfg or arguments.info):
        return "-m runs a sweep, --cfg and --info print what one run would be: leave one of them out"
    if several := sweeps(arguments):
        return f"{several}: several values want -m, for a sweep; a list is written {several.split('=')[0]}=[a,b]"
    return None


def check_outputs(verb: str, config: DictConfig, multirun: bool) -> None:
    """Exit with one line if Hydra could not write its outputs, which it does before the verb itself starts."""
    state = HydraConfig.instance()
    state.set_config(config)  # the paths contain choices
    try:
        folder = Path(config.hydra.sweep.dir if multirun else config.hydra.run.dir)
        if folder != Path():  # Hydra writes nothing into the working directory
            check_writable(folder)
        if verb.startswith("train") and not multirun and folder.is_dir() and is_first_rank():
            with locked(folder, "training"):  # before Hydra overwrites the other one's options
                pass
    except (ValueError, OmegaConfBaseException) as error:
        fail(f"{verb}: {str(error).splitlines()[0]}")
    finally:
        state.cfg = None


def is_first_rank() -> bool:
    """Whether this is the first process of a run, not a further rank started by Lightning, torchrun or SLURM."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def fail(text: str) -> NoReturn:
    """Exit with status 1 and this line."""
    sys.exit(as_line(text, 1500))


def known(flag: str) -> bool:
    """Whether Hydra has this flag."""
    return flag.split("=", maxsplit=1)[0] in get_args_parser()._option_string_actions  # there is no public list


def compose(name: str, arguments: Any, only_groups: bool = False) -> DictConfig:
    """The configuration of this command line; for a sweep, of its first job."""
    overrides = [first_of(one) for one in OverridesParser.create().parse_overrides(arguments.overrides)]
    if arguments.config_dir:
        overrides.append(f"hydra.searchpath=[file://{Path(arguments.config_dir).absolute()}]")
    if only_groups:
        overrides = [one for one in overrides if "." not in one.split("=")[0] and is_choice(one)]
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(arguments.config_name or name, overrides, return_hydra_config=True)


def sweeps(arguments: Any) -> str | None:
    """The first override that has several values on a command line without -m, or None."""
    try:
        overrides = OverridesParser.create().parse_overrides([] if arguments.multirun else arguments.overrides)
    except HydraException:
        return None
    return next((str(one.input_line) for one in overrides if one.is_sweep_override()), None)


def first_of(override: Any) -> str:
    """An override; if it sweeps, with its first value."""
    if not override.is_sweep_override():
        return str(override.input_line)
    try:
        value = next(iter(override.sweep_string_iterator()))
    except (HydraException, ValueError, TypeError, StopIteration):  # a glob or an interval: left to the sweeper
        return "hydra.job.name=sweep"
    return f"{override.input_line.split('=')[0]}={value}"


def is_choice(override: str) -> bool:
    """Whether an override chooses a file of an existing group."""
    key, _, value = override.lstrip("+").partition("=")
    return (CONF / key.split("@")[0] / f"{value}.yaml").is_file()


def unreadable(error: OverrideParseException) -> str:
    """One line for an override that cannot be parsed."""
    reason = str(error.message if hasattr(error, "message") else error).splitlines()[0]
    if "=" not in error.override:
        return f"{error.override}: options are written as key=value (--help lists them)"
    key, _, value = error.override.partition("=")
    quoted = f"'{key}=\"{value}\"'"
    return f"{error.override}: cannot be read ({reason}). With = , [ ] ( ) or blanks in it a value is quoted: {quoted}"


def explain(text: str, name: str, arguments: Any, offers: Mapping[str, Sequence[str]]) -> str:
    """One line for an override that does not exist, with the nearest one that does."""
    given = [one.lstrip("+~") for one in arguments.overrides]
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1]
        there = [one for one in keys_with(name, arguments) if one != key]
        mistake = next((one for one in given if one.split("=")[0] == key), key)
        near = f"; here it is {ELSEWHERE[key]}" if key in ELSEWHERE else nearest(key, there)
        return f"{mistake}: there is no such option{near}; --help lists them, +{key}=… adds a new one"
    missing = re.search(r"Could not (?:find|load) '([^']+)/([^'/]+)'", text)
    if missing and missing[2] in PLUGINS:
        return f"{missing[1]}={missing[2]}: its package is not installed: {PLUGINS[missing[2]]}"
    if match := re.search(
        r"Could not find '([^']+)/([^'/]+)'.*?Available options in '[^']+':(.*?)\n(?!\t)", text + "\n", re.S
    ):
        there = list(offers.get(match[1], match[3].split()))
        return f"{match[1]}={match[2]}: there is no such choice{nearest(match[2], there)}; there are {', '.join(there)}"
    if match := re.search(r"Could not load '([^']+)/([^'/]+)'", text):  # for a group that takes a list
        there = list(offers.get(match[1], sorted(path.stem for path in (CONF / match[1]).glob("*.yaml"))))
        return f"{match[1]}={match[2]}: there is no such choice{nearest(match[2], there)}; there are {', '.join(there)}"
    if match := re.search(r"You must specify '([^']+)'.*?Available options:(.*)", text, re.S):
        return f"{match[1]}=… is needed: {' | '.join(match[2].split())} (--help has examples)"
    return " ".join(text.split())


def keys_with(name: str, arguments: Any) -> list[str]:
    """All keys of these choices of groups; none if a chosen file cannot be composed."""
    try:
        return keys_of(compose(name, arguments, only_groups=True))
    except (HydraException, OmegaConfBaseException):
        return []


def nearest(word: str, there: Sequence[str]) -> str:
    """`; the nearest is …`, or nothing."""
    last = {one: one.split(".")[-1] for one in there}
    found = get_close_matches(word, there, 1, 0.75)
    found = found or [one for one in there if get_close_matches(word.rsplit(".", maxsplit=1)[-1], [last[one]], 1, 0.8)]
    return f"; the nearest is {found[0]}" if found else ""


def keys_of(config: Any, prefix: str = "", only_missing: bool = False) -> list[str]:
    """All dotted keys, or only those whose values are missing."""
    found = []
    for key, value in config.items_ex(resolve=False):
        if prefix + key == "hydra":  # Hydra checks its own keys
            continue
        if not only_missing or OmegaConf.is_missing(config, key):
            found.append(f"{prefix}{key}")
        if OmegaConf.is_dict(value) and not (value._is_none() or value._is_interpolation() or value._is_missing()):
            found += keys_of(value, f"{prefix}{key}.", only_missing)
    return found
