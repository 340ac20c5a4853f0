"""Weights, networks and config of a checkpoint."""

import logging
import subprocess
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from talkinghead.learners.video_rows import ROWS, match_videos, visited_of
from talkinghead.models.trusted import built, read_checkpoint, section_of, weights_of

_logger = logging.getLogger(__name__)


def load_weights(learner: nn.Module, path: str | Path, option: str = "init_from") -> None:
    """Start a new run from the weights of a checkpoint, the averaged ones where it has them.

    Rows of W are matched by the names of the videos; where those are unknown, W is reset if the number of rows differs.

    Raises:
        ValueError: when any other weight is missing, unknown, of another shape or kind, or not finite.
    """
    checkpoint = read_checkpoint(path, option)
    state = weights_of(checkpoint, f"{option}={path}")
    own = learner.state_dict()
    given = {name: checkpoint.get(name) for name in ("videos", "visited")} | {"state_dict": state}
    if given["videos"] and getattr(learner, "videos", None):
        match_videos(given, learner.videos, own)  # type: ignore[arg-type]
    anew = ROWS in state and ROWS in own and state[ROWS].shape != own[ROWS].shape
    if anew:
        _logger.warning("%s: W has %d rows there and %d here; it starts anew", option, len(state[ROWS]), len(own[ROWS]))
        state[ROWS] = own[ROWS]
    wrong = misfits(state, own)
    if wrong:
        raise ValueError(
            f"{option}={path} is of another model: {len(wrong)} weights do not fit, {wrong[0]} first; "
            "choose the model= it was trained with (its config is in the checkpoint)"
        )
    learner.load_state_dict(state)
    if getattr(learner, "visited", None) is not None and not anew:
        learner.visited = visited_of(given, len(own[ROWS]))


def misfits(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Names that only one of the two has, or whose tensors differ in shape or in kind (floating point or integer)."""
    wrong = sorted(key for key in state.keys() | own.keys() if key not in state or key not in own)
    return wrong + sorted(
        key for key in state.keys() & own.keys()
        if state[key].shape != own[key].shape or state[key].is_floating_point() != own[key].is_floating_point()
    )  # fmt: skip


def image_size_of(file: str) -> int:
    """Side of the pictures that the networks of a checkpoint take, pixels."""
    size = section_of(file, "model").get("image_size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 8:
        raise ValueError(
            f"{file}: model.image_size is {size!r}, not a number of pixels: it is not a checkpoint of train.py"
        )
    return size


@cache
def networks(file: str) -> nn.ModuleDict:
    """E, G and D of a checkpoint, with averaged weights; cached, so every caller gets the same modules."""
    model, names = section_of(file, "model"), ("embedder", "generator", "discriminator")
    missing = set(names) - set(model)
    if missing:
        raise ValueError(f"{file} is no checkpoint of ours: its model has no {', '.join(sorted(missing))}")
    state = weights_of(read_checkpoint(file), file)
    rows = state.get("discriminator.W.weight")
    if rows is not None and isinstance(model["discriminator"], dict):
        model["discriminator"]["num_videos"] = len(rows)
    with torch.device("meta"):  # sizes first: a config of huge networks allocates nothing
        sizes = nn.ModuleDict({name: _network(file, model, name) for name in names}).state_dict()
    wrong = misfits(state, sizes)
    if wrong:
        raise ValueError(f"{file}: its weights are not those of its config: {len(wrong)} differ, {wrong[0]} first")
    parts = nn.ModuleDict({name: _network(file, model, name) for name in names})
    parts.load_state_dict(state)
    return parts


def _network(file: str, model: Mapping[str, Any], name: str) -> nn.Module:
    network = built(model[name], f"{file}: model.{name}")
    if not isinstance(network, nn.Module):
        raise ValueError(f"{file}: model.{name} is not a network: it is not a checkpoint of train.py")
    return network


def changed(node: Any, by_key: Mapping[str, Callable[[Any], Any]]) -> Any:
    """A copy of nested dicts and lists in which the values of these keys are replaced by a function of them."""
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
