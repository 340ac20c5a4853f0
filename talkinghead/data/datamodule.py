"""Episodes for training, validation and test, streamed from shards: local or remote, over ranks and workers."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import TypeVar

import pytorch_lightning as L
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch.utils.data import DataLoader

from talkinghead.data.augmentation import Augmentation
from talkinghead.data.cache import DiskCache
from talkinghead.data.datasets import FixedEpisodes, SampleMaker, TrainEpisodes, plan_fixed_episodes
from talkinghead.data.episodes import as_float
from talkinghead.data.loader import (
    EndlessLoader,
    EpisodeLoader,
    EpochBatches,
    FixedLoader,
    SkipReport,
    TrainLoader,
    collate_loaded,
    prepare_worker,
)
from talkinghead.data.reader import ShardPool, is_remote, load_info
from talkinghead.data.sampling import EpochOrder
from talkinghead.data.shards import DATASET_FILE, VIDEOS_FILE, DatasetInfo
from talkinghead.data.videos import load_videos
from talkinghead.data.webdataset_reader import WebDatasetEpisodes
from talkinghead.machine import lock
from talkinghead.options import Range, check_numbers
from talkinghead.types import Episode

_MAX_ENLARGED = 1.25  # VoxCeleb2's 224 px are enough for 256

NUMBERS = {
    **dict.fromkeys(("size", "num_shots", "val_shots", "batch_size", "episodes_per_epoch", "window"), Range(1)),
    "val_episodes": Range(1), "val_batch_size": Range(1), "num_workers": Range(0, 1024),
    "cache_gb": Range(0.001, whole=False),
}  # fmt: skip
RENDERED = {64: "synthetic", 128: "synthetic_128", 256: "synthetic_256"}  # choices in conf/data

Loader = TypeVar("Loader", bound=EpisodeLoader)


class EpisodeDataModule(L.LightningDataModule):
    """Episodes of a prepared data set.

    Args:
        path: directory or URL with `dataset.json`
        size: pixels of the episodes' images; stored frames are resized
        num_shots: K
        episodes_per_epoch: over all ranks; rounded down to whole batches per rank
        batch_size: episodes per rank and step
        num_workers: processes per rank; 0 loads in the training process
        seed: of the order and the choice of frames
        flip: mirror half of the training episodes
        val_shots: shots of a validation or test episode
        val_episodes: upper bound of validation episodes, and of test episodes, over all ranks
        build: makes a missing data set; called with its path
        source_hint: advice in the error message where the data set is missing
        window: number of shards whose clips are mixed at a time
        episodes_over: videos (the paper): a video is drawn, then a clip of it; clips: every clip equally often
        max_skipped: share of an epoch's episodes above which unreadable ones end the run; None: never
        enlarge: allow frames that are stored at less than 4/5 of `size`
        augmentation: faults of photographs and looks of paintings for training episodes; None: none
        cache_dir: folder for pieces of remote shards, which processes of a machine may share; None: no cache
        cache_gb: limit of the cache, gigabytes
        reader: ranges (an order that is resumed exactly; of remote shards only the bytes of the chosen frames) or
            webdataset (that library reads training shards whole, in an order of its own)
        drawn_shots: K of each training batch is drawn from these, none above `num_shots`; None: always `num_shots`
    """

    def __init__(
        self,
        path: str | Path,
        *,
        size: int,
        num_shots: int,
        episodes_per_epoch: int,
        batch_size: int,
        num_workers: int,
        seed: int,
        flip: bool = True,
        val_shots: int = 32,
        val_episodes: int = 64,
        val_batch_size: int = 1,
        build: Callable[[Path], None] | None = None,
        source_hint: str = "make one with prepare.py",
        window: int = 16,
        episodes_over: str = "videos",
        max_skipped: float | int | None = None,
        enlarge: bool = False,
        augmentation: Augmentation | None = None,
        drawn_shots: Sequence[int] | None = None,
        cache_dir: str | Path | None = None,
        cache_gb: float | int = 10,
        reader: str = "ranges",
    ) -> None:
        super().__init__()
        if drawn_shots is not None and not all(1 <= shots <= num_shots for shots in drawn_shots or [0]):
            raise ValueError(f"data.drawn_shots={[*drawn_shots]}: give numbers from 1 to shots={num_shots}")
        if episodes_over not in ("videos", "clips"):
            raise ValueError(f"episodes_over={episodes_over}: there are videos and clips")
        if reader not in ("ranges", "webdataset"):
            raise ValueError(f"data.reader={reader}: choose ranges or webdataset")
        given = {"size": size, "num_shots": num_shots, "val_shots": val_shots, "batch_size": batch_size,
                 "episodes_per_epoch": episodes_per_epoch, "val_episodes": val_episodes, "window": window,
                 "val_batch_size": val_batch_size, "num_workers": num_workers, "cache_gb": cache_gb}  # fmt: skip
        check_numbers(given, NUMBERS, "data.")
        self.path = str(path)
        self.size = size
        self.num_shots = num_shots
        self.episodes_per_epoch = episodes_per_epoch
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.flip = flip
        self.val_shots, self.val_episodes, self.val_batch_size = val_shots, val_episodes, val_batch_size
        self.reader = reader
        self.build = build
        self.source_hint = source_hint
        self.window = window
        self.episodes_over, self.enlarge = episodes_over, enlarge
        self.augmentation, self.drawn_shots = augmentation, drawn_shots
        self.cache = None if cache_dir is None else DiskCache(cache_dir, cache_gb * 1e9)
        self.report = SkipReport(max_skipped)
        self._loaders: list[EpisodeLoader] = []
        self._info: DatasetInfo | None = None

    @property
    def info(self) -> DatasetInfo:
        """`dataset.json`, read once; FileNotFoundError with `source_hint` where there is none."""
        if self._info is None:
            try:
                self._info = load_info(self.path)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{error}\n{self.source_hint}") from error
        return self._info

    @property
    def num_videos(self) -> int:
        """Number of training videos: the rows of W."""
        return self.info.num_videos

    @property
    def image_size(self) -> int:
        """Side of the episodes' images, pixels."""
        return self.size

    @property
    def video_names(self) -> list[str] | None:
        """The video of each row of W; None where the data set does not name them."""
        videos = load_videos(self.path, self.info)
        return None if videos is None else videos.names

    @property
    def skipped(self) -> dict[str, int]:
        """Number of clips skipped so far, by cause."""
        return dict(self.report.counts)

    @property
    def fault(self) -> str | None:
        """Why the run must end, once too many episodes were skipped; else None."""
        return self.report.fault

    def prepare_data(self) -> None:
        """Build a missing data set if `build` is given; raises FileNotFoundError where it is still missing."""
        if self.build is not None and not is_remote(self.path):
            build_once(Path(self.path), self.build)
        _ = self.info

    def check_build(self, splits: Sequence[str] | None = None) -> None:
        """Before anything is built: raise ValueError where the data set is not, or would not be, the one asked for.

        Args:
            splits: those to check; None: all
        """
        if self.build is None or is_remote(self.path):
            return
        self._check_size(getattr(self.build, "image_size", self.size))
        if (Path(self.path) / DATASET_FILE).is_file():
            getattr(self.build, "check", lambda path, splits: None)(Path(self.path), splits)

    def check_size(self) -> None:
        """Raise ValueError where frames are stored much smaller than `size` and `enlarge` does not allow it."""
        self._check_size(self.info.image_size)

    def check(self, validates: bool) -> None:
        """Raise ValueError where the data set cannot provide the training and, if `validates`, validation episodes."""
        self.check_size()
        self._pool("train", self.num_shots, "num_shots")
        if validates:
            self._pool("val", self.val_shots, "val_shots")

    def _check_size(self, stored: int) -> None:
        if stored * _MAX_ENLARGED < self.size and not self.enlarge:
            rendered = f" (rendered heads: data={RENDERED[self.size]})" if self.size in RENDERED else ""
            raise ValueError(
                f"{self.path}: frames are stored at {stored} px and the model wants {self.size}: prepare the data with "
                f"settings.image_size={self.size}{rendered}, choose a smaller model, or say data.enlarge=true"
            )

    def train_dataloader(self) -> TrainLoader | EndlessLoader:
        """Batches of `batch_size` episodes; images are uint8 until `on_after_batch_transfer`."""
        world, rank = self._world()
        if self.episodes_per_epoch < self.batch_size * world:
            raise ValueError(
                f"episodes_per_epoch={self.episodes_per_epoch} is less than one batch on each rank "
                f"({world} x batch_size={self.batch_size}); raise it"
            )
        pool = self._pool("train", self.num_shots, "num_shots")
        make = SampleMaker(self.size, self.flip, self.num_videos, self.augmentation)
        if self.reader == "webdataset":
            stream = WebDatasetEpisodes(self.path, pool.shards, self.num_shots, make)
            loader = self._loader(stream, batch_size=self.batch_size)
            num_batches = self.episodes_per_epoch // (self.batch_size * world)
            return self._remember(EndlessLoader(loader, num_batches, self.batch_size, self.report, self._position))
        whole = is_remote(self.path) and pool.ranges is None
        lanes = max(1, self.num_workers) if whole else None  # whole shards: no two workers should fetch the same
        batches = EpochBatches(self.episodes_per_epoch, self.batch_size, rank, world, lanes)
        sizes, videos = [shard.samples for shard in pool.shards], self._videos(pool)
        order = EpochOrder(sizes, world * lanes if lanes else 1, self.seed, self.window, videos)
        episodes = TrainEpisodes(pool, order, self.num_shots, batches.lane_length, make)
        loader = self._loader(episodes, batch_sampler=batches)
        return self._remember(TrainLoader(loader, batches, self.report, self._position, self._move))

    def val_dataloader(self) -> FixedLoader:
        """The fixed validation episodes of this rank; ValueError where the data set has none."""
        return self._fixed_loader("val")

    def test_dataloader(self) -> FixedLoader:
        """The fixed test episodes of this rank."""
        return self._fixed_loader("test")

    def on_after_batch_transfer(self, batch: Episode, dataloader_idx: int) -> Episode:
        """Convert to [-1, 1] on the device; in training, keep the number of shots drawn for this step."""
        trainer = self.trainer
        if self.drawn_shots is not None and trainer is not None and trainer.training:
            step = Random(repr((self.seed, "shots", trainer.global_step)))  # the same on every rank and after resuming
            batch = batch.take(step.choice(self.drawn_shots))
        return as_float(batch)

    def teardown(self, stage: str) -> None:
        """End all worker processes; Lightning ends only those of the loader in use."""
        for loader in self._loaders:
            loader.end_workers()
        self._loaders.clear()

    def on_exception(self, exception: BaseException) -> None:
        """End all worker processes of a run that fails."""
        self.teardown("fit")

    def _remember(self, loader: Loader) -> Loader:
        self._loaders.append(loader)
        return loader

    def _fixed_loader(self, split: str) -> FixedLoader:
        pool = self._pool(split, self.val_shots, "val_shots")
        plan, skipped = plan_fixed_episodes(pool, self.val_shots, self.val_episodes)
        self.report.add(skipped)
        world, rank = self._world()
        if len(plan) < world:
            raise ValueError(
                f"{self.path}: {len(plan)} episodes of val_shots={self.val_shots} shots and one target in its {split} "
                f"split, for {world} ranks (skipped: {dict(Counter(s.cause for s in skipped))}); lower val_shots"
            )
        mine = plan[: len(plan) // world * world][rank::world]
        return self._remember(
            FixedLoader(self._loader(FixedEpisodes(pool, mine, self.size), batch_size=self.val_batch_size))
        )

    def _pool(self, split: str, num_shots: int, option: str) -> ShardPool:
        if split not in self.info.splits or not self.info.splits[split].clips:
            there = [name for name, counts in self.info.splits.items() if counts.clips]
            remedy = ": prepare it with source.val_identities=N (people to move from train)" if split == "val" else ""
            raise ValueError(f"{self.path} has no clips in split {split!r}, only in {there}{remedy}")
        counts = self.info.splits[split]
        longest = max(self.info.frames_per_clip, counts.frames // counts.clips)
        if longest <= num_shots:
            raise ValueError(
                f"{self.path}: clips have up to {longest} frames, {option}={num_shots} needs one "
                f"more for the target; lower {option}"
            )
        if not is_remote(self.path):
            self._check_lengths(split)
        return ShardPool(self.path, self.info.splits[split].shards, max_open=2 * self.window, cache=self.cache)

    def _check_lengths(self, split: str) -> None:
        """Warn of local shards whose length differs from dataset.json: truncated, or from another preparation."""
        shards = self.info.splits[split].shards
        paths = [Path(self.path) / shard.file for shard in shards]
        wrong = [p for p, s in zip(paths, shards, strict=True) if p.is_file() and p.stat().st_size != s.bytes]
        if wrong:
            rank_zero_warn(
                f"{len(wrong)} of {len(shards)} shards of split {split} are not as long as dataset.json says, first "
                f"{wrong[0]}: they were cut or changed; copy or prepare them again"
            )

    def _videos(self, pool: ShardPool) -> list[int] | None:
        """The video of each training clip; None where clips are drawn, or videos are unknown."""
        counts = self.info.splits["train"]
        if self.episodes_over == "clips" or counts.videos >= counts.clips:
            return None
        videos = load_videos(self.path, self.info)
        if videos is None:
            rank_zero_warn(
                f"{self.path} has no {VIDEOS_FILE}, which says whose clips are whose: episodes are drawn over clips, "
                "so that a video of many clips is seen more often. Prepare again, or set data.episodes_over=clips"
            )
        return None if videos is None else videos.clips["train"]

    def _loader(self, dataset: TrainEpisodes | FixedEpisodes | WebDatasetEpisodes, **options) -> DataLoader:
        return DataLoader(
            dataset,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=collate_loaded,
            worker_init_fn=prepare_worker if self.num_workers else None,
            # Not torch's global generator: a resumed run starts workers once more, which would advance it.
            generator=torch.Generator().manual_seed(self.seed),
            **options,
        )

    def _world(self) -> tuple[int, int]:
        """Number of ranks, and which one this is."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _position(self) -> tuple[int, int]:
        """(epoch, batches of it already done). With `overfit_batches` every epoch is epoch 0."""
        if self.trainer is None:
            return 0, 0
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        overfit = self.trainer.overfit_batches  # type: ignore[attr-defined]
        return (0 if overfit else self.trainer.current_epoch), done

    def _move(self, done: int, batches: int, batches_before: int) -> None:
        """Convert Lightning's count of batches done from those of the run before to this run's."""
        assert self.trainer is not None
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        over = progress.total.ready - progress.current.ready  # batches of the epochs before this one
        over = round(over / batches_before * batches)
        for count, wanted in ((progress.total, over + done), (progress.current, done)):
            shift = wanted - count.ready  # their differences say at which hook the run was saved
            for name in ("ready", "started", "processed", "completed"):
                setattr(count, name, getattr(count, name) + shift)


def build_once(path: Path, build: Callable[[Path], None]) -> None:
    """Call `build(path)` unless the data set exists; one of several processes builds, the others wait."""
    if (path / DATASET_FILE).is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as file:
        lock(file)
        if not (path / DATASET_FILE).is_file():
            build(path)
