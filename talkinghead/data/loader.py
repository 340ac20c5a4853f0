"""Batches: the requests of a rank, from any position in the epoch, and the reports of its workers."""

import signal
import warnings
from collections import Counter
from collections.abc import Callable, Iterator

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
        """What to say of an epoch of which too much was skipped: most of all why."""
        most, _ = self._epoch.most_common(1)[0]
        return (
            f"more than {max_share:.1%} of an epoch's {self._episodes} episodes could not be read "
            f"({', '.join(f'{cause}: {n}' for cause, n in self._epoch.most_common())}), mostly for {most}, as "
            f"{self._last[most]}. Mend the data and go on with ckpt_path=<last.ckpt>, or allow more: "
            "data.max_skipped=0.1 (a share; null: any)"
        )


class EpochBatches(Sampler[list[Request]]):
    """The requests of one rank's batches: batch b belongs to lane b mod `lanes` of the rank."""

    def __init__(self, num_batches: int, batch_size: int, rank: int, lanes: int) -> None:
        self.num_batches = num_batches
        self.batch_size = batch_size
        self.rank = rank
        self.lanes = lanes
        self.epoch = 0
        self.start = 0  # batches of this epoch already done

    @property
    def lane_length(self) -> int:
        """Episodes of a lane per epoch."""
        return -(-self.num_batches // self.lanes) * self.batch_size

    def __len__(self) -> int:
        return self.num_batches - self.start

    def __iter__(self) -> Iterator[list[Request]]:
        for batch in range(self.start, self.num_batches):
            turn, lane = divmod(batch, self.lanes)
            first = turn * self.batch_size
            positions = range(first, first + self.batch_size)
            yield [Request(self.epoch, self.rank * self.lanes + lane, position) for position in positions]


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

    `position` returns the epoch and the number of its batches already done. It is called for the first batch, not at
    `iter()`, which Lightning calls before it knows the position of a resumed run.
    """

    def __init__(
        self, loader: DataLoader, batches: EpochBatches, report: SkipReport, position: Callable[[], tuple[int, int]]
    ) -> None:
        super().__init__(loader)
        self.batches = batches
        self.report = report
        self.position = position

    def __len__(self) -> int:
        return self.batches.num_batches

    def __iter__(self) -> Iterator[Episode]:
        self.batches.epoch, self.batches.start = self.position()
        self.report.start_epoch(self.batches.num_batches * self.batches.batch_size)
        late = 0
        for episode, skipped in self.loader:
            self.report.add(skipped)
            if isinstance(episode, str):
                raise DataFault(episode)
            late += self.report.fault is not None
            if late > _LATEST:  # no callback has ended the run
                raise DataFault(self.report.fault)
            yield episode

    def state_dict(self) -> dict:
        """The numbers that decide the order, apart from the trainer's count of epochs and batches."""
        batches, order = self.batches, self.loader.dataset.order  # type: ignore[attr-defined]
        return {
            "seed": order.seed,
            "clips": order.num_clips,
            "episodes_over": "videos" if order.over_videos else "clips",
            "lanes": order.num_lanes,
            "num_batches": batches.num_batches,
            "batch_size": batches.batch_size,
        }

    def load_state_dict(self, state: dict) -> None:
        """Warn where a resumed run has another order of episodes than before."""
        changed = [
            f"{name} {state.get(name)} -> {now}"
            for name, now in self.state_dict().items()
            if state.get(name, now) != now
        ]
        if changed:
            warnings.warn(
                f"the order of episodes is not the one this run began with ({', '.join(changed)}): "
                "the rest of the epoch may repeat some episodes and miss others",
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
        signal.alarm(30)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, leave_later)
    for number in (signal.SIGINT, signal.SIGUSR1):  # sent to the whole process group; the training process handles them
        signal.signal(number, signal.SIG_IGN)
