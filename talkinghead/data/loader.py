"""Batches: the requests of a rank, from any position in the epoch, and the reports of its workers."""

import signal
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import cv2
import torch
from torch.utils.data import DataLoader, Sampler
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from talkinghead.data.datasets import Failed, Loaded, Request, Skipped, error_line
from talkinghead.data.episodes import collate
from talkinghead.data.remote import DataFault
from talkinghead.types import Episode

_LATEST = 4  # batches after a fault: Lightning fetches some ahead, and saves after a step


class SkipReport:
    """Counts skipped clips by cause, and warns of the first one of each cause.

    Args:
        max_share: share of an epoch's episodes above which skipping is a `fault`; None: never

    Attributes:
        fault: why the run must end, or None; `callbacks.last` then saves and ends it
    """

    def __init__(self, max_share: float | int | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.max_share = max_share
        self.fault: str | None = None
        self._epoch: Counter[str] = Counter()
        self._last: dict[str, str] = {}  # of each cause, the file and clip
        self._episodes = 0

    def start_epoch(self, episodes: int) -> None:
        """Reset the count of the epoch, which has this number of episodes on this rank."""
        self._epoch, self._episodes = Counter(), episodes

    def add(self, skipped: list[Skipped]) -> None:
        """Count the clips that a worker skipped; called in the main process."""
        for one in skipped:
            self.counts[one.cause] += 1
            self._epoch[one.cause] += 1
            self._last[one.cause] = one.detail
            if self.counts[one.cause] == 1:
                warnings.warn(f"skipped, {error_line(one)} (further ones are only counted)", stacklevel=2)
        if self.max_share is not None and self._epoch.total() > self.max_share * self._episodes > 0:
            self.fault = self.fault or self._told(self.max_share)

    def _told(self, max_share: float | int) -> str:
        """The message for an epoch with too many skipped clips: the causes, and an example of the commonest one."""
        most, _ = self._epoch.most_common(1)[0]
        return (
            f"more than {max_share:.1%} of an epoch's {self._episodes} episodes could not be read "
            f"({', '.join(f'{cause}: {n}' for cause, n in self._epoch.most_common())}), mostly for {most}, as "
            f"{self._last[most]}. Mend the data and go on with ckpt_path=<last.ckpt>, or allow more: "
            "data.max_skipped=0.1 (a share; null: any)"
        )


class Resumed(NamedTuple):
    """Where a resumed run continues: batch `batch` of epoch `epoch` begins with visit `visit` of that epoch."""

    epoch: int
    batch: int
    visit: int


class EpochBatches(Sampler[list[Request]]):
    """The requests of one rank's batches, from any position in the epoch.

    The visits of an epoch are one global sequence, of which each step takes the next world * batch_size, a run of
    batch_size for each rank. So the number of ranks may change from start to start: `resume` says how many visits are
    done. With `lanes`, for workers that fetch whole shards, the sequence is split into world * lanes ones instead:
    batch b belongs to lane b mod `lanes` of the rank.

    >>> batches = EpochBatches(episodes=24, batch_size=2, rank=1, world=2)
    >>> [request.position for request in next(iter(batches))]  # rank 0 has 0 and 1
    [2, 3]
    >>> grown = EpochBatches(episodes=24, batch_size=2, rank=0, world=4)
    >>> grown.num_batches, grown.resume(epoch=0, visits=8)  # two batches of 4 done: 16 visits are two of 8
    (3, 1)
    >>> grown.start = 1
    >>> [[request.position for request in batch] for batch in grown]
    [[8, 9], [16, 17]]
    """

    def __init__(self, episodes: int, batch_size: int, rank: int = 0, world: int = 1, lanes: int | None = None) -> None:
        self.episodes = episodes
        self.batch_size = batch_size
        self.rank, self.world = rank, world
        self.lanes = lanes
        self.num_batches = episodes // self.step
        self.epoch = 0
        self.start = 0  # batches of this epoch already done
        self.resumed = Resumed(0, 0, 0)

    @property
    def step(self) -> int:
        """Episodes of all ranks together in a step."""
        return self.world * self.batch_size

    @property
    def lane_length(self) -> int:
        """Visits of a lane, or of all ranks together, per epoch: replacements of unusable clips lie beyond."""
        return -(-self.num_batches // self.lanes) * self.batch_size if self.lanes else self.episodes

    def resume(self, epoch: int, visits: int) -> int:
        """Go on after the first `visits` of an epoch, whatever the number of ranks was; returns the batches done.

        As many batches follow as the rest fills, so that no visit comes twice, and none is lost but at the epoch's end.
        """
        done = self.num_batches - (self.episodes - visits) // self.step
        self.resumed = Resumed(epoch, done, visits)
        return done

    def visits(self, epoch: int, batch: int) -> int:
        """Visits of the epoch before this batch."""
        begun = self.resumed  # batches before it may have had another size, so they cannot be multiplied out
        if epoch == begun.epoch and batch >= begun.batch:
            return begun.visit + (batch - begun.batch) * self.step
        return batch * self.step

    def __len__(self) -> int:
        return self.num_batches - self.start

    def __iter__(self) -> Iterator[list[Request]]:
        for batch in range(self.start, self.num_batches):
            if self.lanes:  # as DataLoader gives batch b to worker b mod num_workers: each worker reads one lane
                turn, lane = divmod(batch, self.lanes)
                lane, first = self.rank * self.lanes + lane, turn * self.batch_size
            else:
                lane, first = 0, self.visits(self.epoch, batch) + self.rank * self.batch_size
            yield [Request(self.epoch, lane, position) for position in range(first, first + self.batch_size)]


class EpisodeLoader:
    """Wraps a DataLoader, whose sampler Lightning would replace under DDP."""

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader

    @property
    def _iterator(self) -> object:
        """The attribute by which Lightning ends the worker processes of a finished or failed run."""
        return self.loader._iterator

    @_iterator.setter
    def _iterator(self, iterator: None) -> None:
        self.loader._iterator = iterator

    def end_workers(self) -> None:
        """End the workers now, not when they are garbage-collected: until then they receive signals to all children."""
        if isinstance(self.loader._iterator, _MultiProcessingDataLoaderIter):
            self.loader._iterator._shutdown_workers()
        self.loader._iterator = None


class TrainLoader(EpisodeLoader):
    """The training batches of an epoch, from the trainer's position in it.

    Args:
        position: returns the epoch and the number of its batches already done. Called for the first batch, not at
            `iter()`, which Lightning calls before it knows the position of a resumed run
        moved: called if a resumed epoch has another number of batches than before, because the number of ranks or the
            batch size has changed; arguments: batches done of it, its batches, its batches before
    """

    def __init__(
        self, loader: DataLoader, batches: EpochBatches, report: SkipReport, position: Callable[[], tuple[int, int]],
        moved: Callable[[int, int, int], None],
    ) -> None:  # fmt: skip
        super().__init__(loader)
        self.batches = batches
        self.report = report
        self.position = position
        self.moved = moved

    def __len__(self) -> int:
        return self.batches.num_batches

    def __iter__(self) -> Iterator[Episode]:
        self.batches.epoch, self.batches.start = self.position()
        self.report.start_epoch(self.batches.num_batches * self.batches.batch_size)
        yield from checked(self.loader, self.report)

    def state_dict(self) -> dict:
        """The number of visits done in the epoch, and all numbers that determine the order."""
        batches, order = self.batches, self.loader.dataset.order  # type: ignore[attr-defined]
        epoch, done = self.position()
        return {
            "reader": "ranges",
            "seed": order.seed,
            "clips": order.num_clips,
            "episodes_over": "videos" if order.over_videos else "clips",
            "lanes": order.num_lanes,
            "num_batches": batches.num_batches,
            "batch_size": batches.batch_size,
            "epoch": epoch,
            "visits": batches.visits(epoch, done),
        }

    def load_state_dict(self, state: dict) -> None:
        """Resume after the visits done, with any number of ranks; warn if the order has changed."""
        here, batches = self.state_dict(), self.batches
        # One sequence for all ranks continues from the visits done, however they are grouped into batches from here on.
        elastic = batches.lanes is None and state.get("lanes") == here["lanes"] and "visits" in state
        may_differ = {"epoch", "visits", *(("num_batches", "batch_size") if elastic else ())}
        changed = [
            f"{name} {state.get(name)} -> {now}"
            for name, now in here.items()
            if name not in may_differ and state.get(name, now) != now
        ]
        if changed:
            warnings.warn(
                f"the order of episodes is not the one this run began with ({', '.join(changed)}): "
                "the rest of the epoch may repeat some episodes and miss others",
                stacklevel=2,
            )
        if not elastic:
            return
        # Lightning restores the batches done, counted in the batch size and ranks of the run before. An epoch that was
        # over stays over.
        _, done = self.position()
        is_over = done >= state["num_batches"]
        now = batches.num_batches if is_over else batches.resume(state["epoch"], state["visits"])
        if (now, batches.num_batches) != (done, state["num_batches"]):
            self.moved(now, batches.num_batches, state["num_batches"])


def checked(batches: Iterable[tuple[Episode | str, list[Skipped]]], report: SkipReport) -> Iterator[Episode]:
    """Yield the episodes of these batches, and report skipped clips. Raises DataFault if the data cannot be read."""
    late = 0
    for episode, skipped in batches:
        report.add(skipped)
        if isinstance(episode, str):
            raise DataFault(episode)
        late += report.fault is not None
        if late > _LATEST:  # no callback has ended the run
            raise DataFault(report.fault)
        yield episode


class EndlessLoader(EpisodeLoader):
    """A fixed number of batches per epoch from an endless data set, whose order cannot be resumed.

    Args:
        position: returns the epoch and the number of its batches already done
    """

    def __init__(
        self, loader: DataLoader, num_batches: int, batch_size: int, report: SkipReport,
        position: Callable[[], tuple[int, int]],
    ) -> None:  # fmt: skip
        super().__init__(loader)
        self.num_batches, self.batch_size, self.report, self.position = num_batches, batch_size, report, position
        self._batches: Iterator[tuple[Episode | str, list[Skipped]]] | None = None

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Episode]:
        _, done = self.position()
        self.report.start_epoch(self.num_batches * self.batch_size)
        if self._batches is None:  # the same workers go on in the next epoch
            self._batches = iter(self.loader)
        yield from checked(islice(self._batches, self.num_batches - done), self.report)

    def end_workers(self) -> None:
        super().end_workers()
        self._batches = None

    def state_dict(self) -> dict:
        """Only the name of the reader: there is no position to resume."""
        return {"reader": "webdataset"}

    def load_state_dict(self, state: dict) -> None:
        warnings.warn(
            "data.reader=webdataset: the rest of this epoch has other episodes than it would have had without the "
            "interruption; data.reader=ranges resumes exactly",
            stacklevel=2,
        )


class FixedLoader(EpisodeLoader):
    """Validation batches: uint8 and pinned like training ones, float on the device (`on_after_batch_transfer`)."""

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Episode]:
        for episode, _ in self.loader:
            if isinstance(episode, str):
                raise DataFault(episode)
            yield episode


def collate_loaded(loaded: list[Loaded | Failed]) -> tuple[Episode | str, list[Skipped]]:
    """A batch, or the reason why there is none; and the clips skipped for it."""
    skipped = [skip for one in loaded for skip in one.skipped]
    failed = [one.message for one in loaded if isinstance(one, Failed)]
    if failed:
        return failed[0], skipped
    return collate([one.sample for one in loaded if isinstance(one, Loaded)]), skipped


def prepare_worker(_: int) -> None:
    """Limit a worker to one thread; OpenCV and torch would each start one per core.

    A worker outlives the first SIGTERM, which a scheduler sends to the whole process group, by half a minute, in which
    the main process ends its batch, saves and shuts the workers down. A second SIGTERM ends it.
    """

    def leave_later(*_: object) -> None:
        signal.alarm(30)  # seconds; SIGALRM, if nobody handles it, ends the process
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, leave_later)
    for number in (signal.SIGINT, signal.SIGUSR1):  # sent to the whole process group; the training process handles them
        signal.signal(number, signal.SIG_IGN)
