"""Taking weights, networks and the config from a checkpoint."""

import logging
import subprocess
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from talkinghead.learners.videos import match_videos

_logger = logging.getLogger(__name__)


def load_weights(learner: nn.Module, path: str | Path) -> None:
    """Take the weights of a checkpoint for a new run, averaged ones where it has them.

    Rows of W are matched by the names of the videos; where those are not known, W starts anew if their number differs.

    Raises ValueError when another weight is missing, unknown or of another shape.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"init_from={path}: there is no such checkpoint")
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    state = {**checkpoint["state_dict"], **checkpoint.get("ema", {}).get("state_dict", {})}
    own = learner.state_dict()
    rows = "discriminator.W.weight"
    if checkpoint.get("videos") and getattr(learner, "videos", None):
        match_videos({"state_dict": state, "videos": checkpoint["videos"]}, learner.videos, own)  # type: ignore[arg-type]
    if rows in state and rows in own and state[rows].shape != own[rows].shape:
        _logger.warning("init_from: W has %d rows there and %d here; it starts anew", len(state[rows]), len(own[rows]))
        state[rows] = own[rows]
    wrong = sorted(key for key in state.keys() | own.keys() if key not in state or key not in own)
    wrong += sorted(key for key in state.keys() & own.keys() if state[key].shape != own[key].shape)
    if wrong:
        raise ValueError(
            f"init_from={path} is of another model: {len(wrong)} weights do not fit, {wrong[0]} first; "
            "choose the model= it was trained with (its config is in the checkpoint)"
        )
    learner.load_state_dict(state)


@cache
def inside(file: str) -> dict[str, Any]:
    """The config that a checkpoint was trained with."""
    config = torch.load(file, map_location="cpu", weights_only=True, mmap=True).get("config")
    if not config or "model" not in config:
        raise ValueError(f"{file} holds no config: it is not a checkpoint of train.py")
    return config


@cache
def networks(file: str, build: Callable[..., Any]) -> nn.ModuleDict:
    """E, G and D of a checkpoint, with averaged weights; shared by all who ask.

    build   makes an object of a section of the config: hydra.utils.instantiate
    """
    model = inside(file)["model"]
    missing = {"embedder", "generator", "discriminator"} - set(model)
    if missing:
        raise ValueError(f"{file} is no checkpoint of ours: its model has no {', '.join(sorted(missing))}")
    parts = nn.ModuleDict({name: build(model[name]) for name in ("embedder", "generator", "discriminator")})
    load_weights(parts, file)
    return parts


def moved(section: Mapping[str, Any], weights_dir: str) -> Any:
    """A section of another run's config, looking for pretrained networks here."""
    return changed(section, {"weights_dir": lambda _: weights_dir})


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
