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
from talkinghead.losses import ContentLoss
from talkinghead.models.fsth import Discriminator, Embedder, Generator
from talkinghead.models.trusted import built, read_checkpoint, section_of, weights_of
from talkinghead.models.warp_guided import WarpGuidedGenerator

ROLES: dict[str, Any] = {
    "embedder": Embedder, "generator": Generator | WarpGuidedGenerator, "discriminator": Discriminator,
}  # fmt: skip
DEFAULT_SIZE = 256  # pixels: of networks whose config does not say

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
        empty = nn.ModuleDict({name: _network(file, model, name) for name in names})
    check_together(empty, model, file)
    wrong = misfits(state, empty.state_dict())
    if wrong:
        raise ValueError(f"{file}: its weights are not those of its config: {len(wrong)} differ, {wrong[0]} first")
    parts = nn.ModuleDict({name: _network(file, model, name) for name in names})
    parts.load_state_dict(state)
    return parts


def _network(file: str, model: Mapping[str, Any], name: str) -> nn.Module:
    network = built(model[name], f"{file}: model.{name}")
    if not isinstance(network, ROLES[name]):
        raise ValueError(f"{file}: model.{name} is no {name}: it is not a checkpoint of train.py")
    return network


def check_together(parts: nn.ModuleDict, model: Mapping[str, Any], file: str) -> None:
    """Raise ValueError for E, G and D of which one could not work with another's output."""
    embedder: Any = parts["embedder"]
    generator: Any = parts["generator"]
    discriminator: Any = parts["discriminator"]
    lengths = embedder.embedding_size, generator.embedding_size, discriminator.W.embedding_dim
    if len({*lengths}) > 1:
        told = "{} numbers in its E, {} in its G, {} in its D".format(*lengths)
        raise ValueError(f"{file}: e has {told}: they cannot work together")
    sizes = [model.get("image_size"), *(model[name].get("image_size", DEFAULT_SIZE) for name in parts)]
    if len({*sizes}) > 1:
        raise ValueError(f"{file}: its model is for pictures of {sizes[0]} px, its E, G, D for {sizes[1:]}")


def content_in(file: str) -> ContentLoss:
    """L_CNT as a checkpoint's config has it. Raises what `built` does."""
    loss = section_of(file, "loss")
    if not isinstance(loss.get("content"), Mapping):
        raise ValueError(f"{file}: its loss has no content: give loss=NAME")
    content = built(loss["content"], f"{file}: loss.content")
    if not isinstance(content, ContentLoss):
        raise ValueError(f"{file}: loss.content is no content loss: give loss=NAME")
    return content


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
