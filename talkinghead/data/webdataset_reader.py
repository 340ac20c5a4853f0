"""The plain path of training data, `data.reader=webdataset`: that library reads whole shards in an order of its own.

Every rank and worker draws shards at random, with replacement, and shuffles their clips in a buffer. So there may be
fewer shards than workers, no two ranks need to agree, and all have as many batches. What it costs: every frame of a
shard is read, no order is repeated, a resumed run sees other episodes than one that was not interrupted, and clips are
drawn, not videos.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from random import Random
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from talkinghead.data.datasets import Failed, Loaded, SampleMaker, Skipped, error_line
from talkinghead.data.episodes import Sample, choose_frames, usable_frames
from talkinghead.data.reader import ClipIndex, StoredClip, UnusableClip, join, open_local
from talkinghead.data.remote import DataFault
from talkinghead.data.shards import ShardEntry
from talkinghead.names import as_line, is_name

SHUFFLED = 100  # clips in the buffer of a worker
MOST_SKIPPED = 1000  # in a row


class WebDatasetEpisodes(IterableDataset[Loaded | Failed]):
    """Training episodes without end.

    Args:
        location: directory or URL of the data set
        shards: of its training split
        num_shots: K
        make: an episode from a clip and its chosen frames
    """

    def __init__(self, location: str, shards: list[ShardEntry], num_shots: int, make: SampleMaker) -> None:
        super().__init__()
        self.location, self.num_shots, self.make = location, num_shots, make
        self.shards = {join(location, shard.file): shard for shard in shards}

    def __iter__(self) -> Iterator[Loaded | Failed]:
        random, skipped = Random(), list[Skipped]()  # seeded by the system: no order is promised
        try:
            for clip in self._clips(skipped):
                try:
                    loaded = Loaded(self._sample(clip, random), skipped[:])
                except UnusableClip as error:
                    self._skip(skipped, error.cause, error.detail)
                else:
                    skipped.clear()
                    yield loaded
        except DataFault as error:
            yield Failed(str(error), skipped)

    def _clips(self, skipped: list[Skipped]) -> Iterable[dict[str, Any]]:
        """Clips as webdataset has them: `__key__`, `__url__`, and bytes by suffix."""
        import webdataset  # noqa: PLC0415, where it is asked for

        def unreadable(error: Exception) -> bool:
            """Go on with the next shard, unless no shard can be read."""
            if isinstance(error, DataFault):
                raise error
            self._skip(skipped, "unreadable shard", " ".join(str(part) for part in error.args))
            return True

        return webdataset.DataPipeline(
            webdataset.ResampledShards(list(self.shards)),
            lambda shards: self._opened(shards, unreadable),
            partial(webdataset.tariterators.tar_file_expander, handler=unreadable),
            partial(webdataset.tariterators.group_by_keys, handler=unreadable),
            webdataset.shuffle(SHUFFLED),
        )

    def _opened(self, shards: Iterable[dict[str, Any]], unreadable: Any) -> Iterator[dict[str, Any]]:
        for shard in shards:
            url = shard["url"]
            try:
                file = open_local(url, self.shards[url])
            except (OSError, ValueError, DataFault) as error:
                unreadable(error if isinstance(error, DataFault) else ValueError(f"{url} ({error})"))
                continue
            with file:
                yield {"url": url, "stream": file}

    def _skip(self, skipped: list[Skipped], cause: str, detail: str) -> None:
        skipped.append(Skipped(cause, detail))
        if len(skipped) > MOST_SKIPPED:
            raise DataFault(
                f"{MOST_SKIPPED} clips in a row give no episode of {self.num_shots + 1} frames; the last one: "
                f"{error_line(skipped[-1])}; check the data set at {self.location}, or lower num_shots"
            )

    def _sample(self, found: dict[str, Any], random: Random) -> Sample:
        clip = stored(found)
        points = clip.landmarks()
        usable = usable_frames(points, self.num_shots + 1, f"clip {clip.key} of {clip.file}")
        visit = (random.getrandbits(63),)
        chosen = choose_frames(len(usable), self.num_shots, visit, 0)
        return self.make(clip, points, usable[chosen].tolist(), visit)


def stored(found: dict[str, Any]) -> StoredClip:
    """A clip whose members lie in memory. UnusableClip where its key is no name."""
    key, url = found["__key__"], found["__url__"]
    if not is_name(key):
        raise UnusableClip("no name", f"a clip of {url} is called {as_line(key, 40)!r}")
    members = {suffix: content for suffix, content in found.items() if not suffix.startswith("__")}
    sizes = np.array([len(content) for content in members.values()], dtype=np.int64)
    index = ClipIndex(key, tuple(members), np.cumsum(sizes) - sizes, sizes)
    return StoredClip(url, index, b"".join(members.values()))
