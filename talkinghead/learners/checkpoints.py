"""Finding checkpoints, and taking weights, networks and the config from one."""

import logging
import pickle
import subprocess
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from talkinghead.learners.trusted import built, trusted

_logger = logging.getLogger(__name__)


def find_last_checkpoint(outputs_dir: str | Path, name: str) -> Path:
    """The newest `last.ckpt` among the runs of an experiment, for `ckpt_path=last`."""
    found = sorted(Path(outputs_dir).glob(f"{name}/**/checkpoints/last.ckpt"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise FileNotFoundError(
            f"ckpt_path=last: no run under {Path(outputs_dir) / name} has written checkpoints/last.ckpt; "
            "start without ckpt_path, or give the path of a checkpoint"
        )
    _logger.info("going on from %s", found[-1])
    return found[-1]


def read_checkpoint(path: str | Path, option: str = "checkpoint") -> dict[str, Any]:
    """A checkpoint as nested dicts of plain values and tensors; nothing in it is run.

    Raises FileNotFoundError, or ValueError when the file is not a checkpoint of ours, or not whole.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{option}={path}: there is no such checkpoint")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{option}={path} is not a checkpoint of this project, or holds objects that loading would run: "
            "it is refused"
        ) from None
    except Exception as error:  # of many kinds, for bytes that are no checkpoint
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ValueError(f"{option}={path} is no checkpoint, or not whole ({reason}): copy it again") from None
    if not isinstance(checkpoint, dict) or not is_state(checkpoint.get("state_dict")):
        raise ValueError(f"{option}={path} holds no `state_dict` of weights: it is not a checkpoint of train.py")
    return checkpoint


def is_state(state: Any) -> bool:
    """Whether it is a dictionary of tensors by name."""
    return isinstance(state, Mapping) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())


def weights_of(checkpoint: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """The weights of a checkpoint, averaged ones where it has them. Raises ValueError where one is NaN or infinite."""
    average = (checkpoint.get("ema") or {}).get("state_dict") if isinstance(checkpoint.get("ema"), Mapping) else None
    if average is not None and not is_state(average):
        raise ValueError(
            f"{where}: its averaged weights (`ema`) are not tensors by name: it is not a checkpoint of train.py"
        )
    state = {**checkpoint["state_dict"], **(average or {})}
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(
                f"{where}: the weights are not finite ({name}): this training had collapsed, take an earlier one"
            )
    return state


def load_weights(learner: nn.Module, path: str | Path, option: str = "init_from") -> None:
    """Take the weights of a checkpoint for a new run, averaged ones where it has them.

    W stays as it is if the number of videos differs.

    Raises ValueError when another weight is missing, unknown, of another shape or kind, or not finite.
    """
    state = weights_of(read_checkpoint(path, option), f"{option}={path}")
    own = learner.state_dict()
    rows = "discriminator.W.weight"
    if rows in state and rows in own and state[rows].shape != own[rows].shape:
        _logger.warning("%s: W has %d rows there and %d here; it starts anew", option, len(state[rows]), len(own[rows]))
        state[rows] = own[rows]
    wrong = misfits(state, own)
    if wrong:
        raise ValueError(
            f"{option}={path} is of another model: {len(wrong)} weights do not fit, {wrong[0]} first; "
            "choose the model= it was trained with (its config is in the checkpoint)"
        )
    learner.load_state_dict(state)


def misfits(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Names that only one of the two has, or that differ in shape or between numbers with and without a fraction."""
    wrong = sorted(key for key in state.keys() | own.keys() if key not in state or key not in own)
    return wrong + sorted(
        key for key in state.keys() & own.keys()
        if state[key].shape != own[key].shape or state[key].is_floating_point() != own[key].is_floating_point()
    )  # fmt: skip


@cache
def inside(file: str) -> dict[str, Any]:
    """The config that a checkpoint was trained with, as it is: build nothing of it but what `trusted` returns."""
    config = read_checkpoint(file).get("config")
    if not isinstance(config, Mapping) or not isinstance(config.get("model"), Mapping):
        raise ValueError(f"{file} holds no config: it is not a checkpoint of train.py")
    return dict(config)


def section_of(file: str, name: str, weights_dir: str | None = None) -> Any:
    """A section of the config inside a checkpoint, safe to build; see `trusted`."""
    config = inside(file)
    if name not in config:
        raise ValueError(f"{file}: its config has no {name}: it is not a checkpoint of train.py")
    return trusted(config[name], f"{file}: {name}", weights_dir)


def image_size_of(file: str) -> int:
    """Pixels of the pictures that the networks of a checkpoint take."""
    size = section_of(file, "model").get("image_size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 8:
        raise ValueError(
            f"{file}: model.image_size is {size!r}, not a number of pixels: it is not a checkpoint of train.py"
        )
    return size


@cache
def networks(file: str, build: Callable[..., Any]) -> nn.ModuleDict:
    """E, G and D of a checkpoint, with averaged weights; shared by all who ask.

    build   makes an object of a section of the config: hydra.utils.instantiate
    """
    model, names = section_of(file, "model"), ("embedder", "generator", "discriminator")
    missing = set(names) - set(model)
    if missing:
        raise ValueError(f"{file} is no checkpoint of ours: its model has no {', '.join(sorted(missing))}")
    state = weights_of(read_checkpoint(file), file)
    rows = state.get("discriminator.W.weight")
    if rows is not None and isinstance(model["discriminator"], dict):
        model["discriminator"]["num_videos"] = len(rows)
    with torch.device("meta"):  # sizes first: a config of huge networks allocates nothing
        sizes = nn.ModuleDict({name: _network(file, build, model, name) for name in names}).state_dict()
    wrong = misfits(state, sizes)
    if wrong:
        raise ValueError(f"{file}: its weights are not those of its config: {len(wrong)} differ, {wrong[0]} first")
    parts = nn.ModuleDict({name: _network(file, build, model, name) for name in names})
    parts.load_state_dict(state)
    return parts


def _network(file: str, build: Callable[..., Any], model: Mapping[str, Any], name: str) -> nn.Module:
    network = built(build, model[name], f"{file}: model.{name}")
    if not isinstance(network, nn.Module):
        raise ValueError(f"{file}: model.{name} is not a network: it is not a checkpoint of train.py")
    return network


def changed(node: Any, by_key: Mapping[str, Callable[[Any], Any]]) -> Any:
    """A copy of nested dicts and lists in which the values of some keys are others."""
    if isinstance(node, Mapping):
        return {key: by_key[key](value) if key in by_key else changed(value, by_key) for key, value in node.items()}
    return [changed(value, by_key) for value in node] if isinstance(node, list) else node


def git_commit(root: str | Path) -> str:
    """The commit of the code, with `+` for uncommitted changes; `unknown` outside a checkout."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
