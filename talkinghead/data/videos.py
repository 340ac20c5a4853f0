"""`videos.json` beside `dataset.json`: the video of every row of W, and of every clip.

Rows of W are numbered; the names match them when a data set has been prepared again.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from talkinghead.data.reader import is_remote, join
from talkinghead.data.remote import fetch, refuse_fault
from talkinghead.data.shards import VIDEOS_FILE, DatasetInfo, Videos
from talkinghead.names import as_path_part, is_name
from talkinghead.storage import read_file


def load_videos(location: str, info: DatasetInfo) -> Videos | None:
    """Read `videos.json`; None where it is missing, as in older data sets.

    Raises:
        ValueError: where it does not belong to the data set.
    """
    url = join(location, VIDEOS_FILE)
    try:
        if is_remote(location):
            with fetch(url) as copy:
                text = copy.read()
        else:
            text = read_file(Path(url))
    except OSError as error:
        refuse_fault(error, url)
        return None
    try:
        videos = Videos(**json.loads(text))
        fits = len(videos.names) == info.num_videos and all(isinstance(name, str) for name in videos.names)
        for name, split in info.splits.items():
            numbers = videos.clips[name]
            fits &= len(numbers) == split.clips and all(type(n) is int and n >= 0 for n in numbers)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{url} is not a list of videos ({error!r}); prepare the data again") from error
    if not fits:
        raise ValueError(f"{url} is not the list of videos of this data set; prepare the data again")
    names = [name if is_name(name) else as_path_part(name) for name in videos.names]  # as the clips call them
    return dataclasses.replace(videos, names=names)


def match_rows(
    rows: Shaped[Tensor, "M N"], theirs: Sequence[str], mine: Sequence[str], fresh: Shaped[Tensor, "V N"]
) -> tuple[Shaped[Tensor, "V N"], int]:
    """A table with a row per video, reordered by the names of the videos, and the number of names found.

    Args:
        rows: the table
        theirs: names of its rows
        mine: names of the rows of the result
        fresh: rows of the result for names that are not in `theirs`
    """
    place = {name: n for n, name in enumerate(theirs)}
    found: Int[Tensor, " V"] = torch.tensor([place.get(name, -1) for name in mine])
    matched = fresh.clone()
    matched[found >= 0] = rows[found[found >= 0]].to(fresh)
    return matched, int((found >= 0).sum())
