"""Match rows of W by the names of the videos: a data set that was prepared again may number them differently."""

import logging
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from talkinghead.data.videos import match_rows

ROWS = "discriminator.W.weight"

_logger = logging.getLogger(__name__)


def match_videos(
    checkpoint: MutableMapping[str, Any], mine: Sequence[str] | None, own: MutableMapping[str, Tensor]
) -> None:
    """Reorder W, the state of its optimizer and `visited` in a checkpoint of other videos; log how many match.

    Args:
        mine: names of the videos of this run; None: unknown, so only the numbers of rows are compared
        own: the learner's state dict, whose rows are kept for new videos

    Raises:
        ValueError: where the numbers of rows differ and names are unknown.
    """
    theirs, state = checkpoint.get("videos"), checkpoint.get("state_dict", {})
    if ROWS not in state or ROWS not in own or theirs == (None if mine is None else list(mine)):
        return
    rows, fresh = state[ROWS], own[ROWS]
    if theirs is None or mine is None or len(theirs) != len(rows):
        if len(rows) != len(fresh):
            raise ValueError(
                f"the checkpoint has {len(rows)} rows of W and the data set {len(fresh)} videos, and names are not "
                "known: train on the data set it began with, or start a new run with init_from="
            )
        return
    state[ROWS], found = match_rows(rows, theirs, mine, fresh)
    seen = visited_of(checkpoint, len(rows)).view(-1, 1)
    checkpoint["visited"] = match_rows(seen, theirs, mine, torch.zeros(len(mine), 1, dtype=torch.bool))[0].view(-1)
    for optimizer in checkpoint.get("optimizer_states", []):
        for values in optimizer["state"].values():
            for name, value in values.items():
                if isinstance(value, Tensor) and value.shape == rows.shape:
                    values[name], _ = match_rows(value, theirs, mine, torch.zeros_like(fresh))
    _logger.warning(
        "the videos of the data set are not those of the checkpoint: %d of %d rows of W are matched by name, %d are "
        "new, %d are gone", found, len(mine), len(mine) - found, len(theirs) - found,
    )  # fmt: skip


def visited_of(checkpoint: Mapping[str, Any], count: int) -> Bool[Tensor, " R"]:
    """Which rows of W a run with `first_visit` has filled so far; without it rows are trained, so all count as visited.

    Raises:
        ValueError: what the checkpoint says of it is not that.
    """
    found = checkpoint.get("visited")
    if found is None:
        return torch.ones(count, dtype=torch.bool)
    if not isinstance(found, Tensor) or found.dtype != torch.bool or found.shape != (count,):
        raise ValueError(f"the checkpoint's `visited` is not true or false for each of its {count} rows of W")
    return found.cpu()
