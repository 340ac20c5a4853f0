"""Runs a preparation; if it is killed at any moment and started again, it ends with the same shards."""

import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console

from talkinghead.data.reader import is_remote
from talkinghead.data.remote import RemoteFolder
from talkinghead.data.shards import DATASET_FILE, VIDEOS_FILE, DatasetInfo, Split, Videos
from talkinghead.faces.crop import Framing
from talkinghead.faces.detectors import Detector
from talkinghead.machine import locked
from talkinghead.names import as_path_part
from talkinghead.preparation import partial_results
from talkinghead.preparation.clip import Drop, Result, Settings
from talkinghead.preparation.partial_results import State
from talkinghead.preparation.plan import PLAN_FILE, Job, claim, count_videos, fingerprint, make_plan, video_names
from talkinghead.preparation.progress import Progress
from talkinghead.preparation.report import REPORTS, print_report, tell, write_report
from talkinghead.preparation.sources import SPLITS, Source
from talkinghead.preparation.workers import Cluster, LocalProcesses, Work
from talkinghead.storage import check_writable


class Runner:
    """Prepares a source into a data set.

    Args:
        output: folder of the data set, or its URL as `s3://bucket/set`; a stopped preparation with the same options is
            continued there
        workers: number of processes; 0: this process; None: one per CPU
        clips_per_shard: clips per shard, before some are dropped
        command: stored in dataset.json
        cluster: where the workers run; None: processes on this machine
        max_deaths: how often a clip may kill its worker before it is dropped as "crashed"
        exclude: clips to leave out, by their names as in report.csv; they keep their row of W
        work_dir: of an output that is a URL: local folder in which clips wait for the rest of their shard; on a cluster
            all machines must see it

    Raises:
        ValueError: no files can be written at this URL.
    """

    def __init__(
        self,
        source: Source,
        detector: Detector,
        settings: Settings,
        output: str,
        workers: int | None = None,
        clips_per_shard: int = 100,
        command: str = "",
        cluster: Cluster | None = None,
        max_deaths: int = 2,
        exclude: Sequence[str] = (),
        work_dir: str = "outputs/prepare",
    ) -> None:
        self.source = source
        self.detector = detector
        self.settings = settings
        self.remote = RemoteFolder(output) if is_remote(output) else None
        self.output = Path(output if self.remote is None else Path(work_dir) / as_path_part(output)).absolute()
        self.workers = workers
        self.clips_per_shard = clips_per_shard
        self.command = command
        self.cluster = cluster or LocalProcesses()
        self.max_deaths, self.exclude = max_deaths, set(exclude)
        self.console = Console()

    def run(self) -> DatasetInfo:
        """Do what remains. Raises ValueError if nothing could be kept or the output belongs to other options, DataFault
        if an object store cannot be reached."""
        self.detector.check()
        jobs = make_plan(self.source.units(), self.clips_per_shard)
        check_writable(self.output)
        with locked(self.output, "preparation"):
            if self.remote is not None:
                partial_results.download(self.output, self.remote)
            claim(self.output, fingerprint(jobs, self.options()))
            self._upload(PLAN_FILE)
            state = partial_results.scan(self.output)
            if not (self.output / DATASET_FILE).exists():
                self._work(jobs, state)
                self._finish(jobs)
            partial_results.remove(self.output)
        print_report(self.output, self.console, self.remote.url if self.remote else str(self.output))
        info = DatasetInfo.load(self.output)
        if self.remote is not None:
            self.remote.remove(partial_results.WORK_FOLDER)
            shutil.rmtree(self.output, ignore_errors=True)
        return info

    def _upload(self, *names: str) -> None:
        """Copy files of the work folder to the output, if that is a URL."""
        if self.remote is not None:
            for name in names:
                self.remote.write(name, self.output / name)

    def options(self) -> dict:
        """Everything that affects the shards."""
        detector = {"name": self.detector.name, "version": self.detector.version}
        return {
            "source": self.source.name,
            "detector": detector,
            **asdict(self.settings),
            "clips_per_shard": self.clips_per_shard,
        }

    def _work(self, jobs: list[Job], state: State) -> None:
        """Prepare the remaining clips; workers write each shard as soon as its last clip is done."""
        left = []
        for job in (job for job in jobs if not state.done(job)):
            if job.unit.clip in self.exclude:
                partial_results.put(self.output, job, Result([], [Drop(job.unit.clip, "excluded")], 0))
            elif state.deaths.get(partial_results.key_of(job), 0) >= self.max_deaths:
                partial_results.quarantine(self.output, job)
            else:
                left.append(job)
        suspects = [job for job in left if partial_results.key_of(job) in state.deaths]
        work = Work(self.detector, self.settings, self.output, self.max_deaths, suspects, self.remote)
        with (
            Progress(self.console, len(jobs), len(jobs) - len(left)) as progress,
            closing(self.cluster.results(work, left, self.workers)) as results,
        ):
            for _, counts in results:
                progress.advance(*counts)
        finished = partial_results.scan(self.output).blocks
        for job in jobs:  # shards whose last clip was dropped here, or whose worker died while it wrote them
            if job.position == 0 and (job.unit.split, job.block) not in finished:
                partial_results.finish_block(self.output, job, self.settings.image_size, self.remote)

    def _finish(self, jobs: list[Job]) -> None:
        """Write the report, then dataset.json: if it exists, the data set is complete."""
        splits: dict[str, Split] = {}
        drops: list[tuple[str, Drop]] = []
        framing: list[Framing] = []
        rows: dict[str, list[int]] = {}
        for name in SPLITS:
            heads = [job for job in jobs if job.unit.split == name and job.position == 0]
            found = [partial_results.read_block(self.output, job) for job in heads]
            drops += [drop for block in found for drop in block.drops]
            framing += [clip for block in found for clip in block.framing]
            entries = [block.entry for block in found if block.entry is not None]
            if heads:
                rows[name] = [row for block in found for row in block.videos]
                people = set().union(*(block.identities for block in found))
                frames = sum(block.frames for block in found)
                clips = sum(entry.samples for entry in entries)
                splits[name] = Split(entries, clips, frames, count_videos(jobs, name), len(people))
        info = self._info(splits, framing)
        write_report(self.output, info, drops)
        if not any(split.clips for split in splits.values()):
            raise ValueError(
                f"none of {len(jobs)} clips could be kept: {tell(drops)}; see {self.output / 'report.csv'}"
            )
        Videos(video_names(jobs, "train"), rows).save(self.output)
        self._upload(*REPORTS, VIDEOS_FILE)
        info.save(self.output)
        self._upload(DATASET_FILE)

    def _info(self, splits: dict[str, Split], framing: list[Framing]) -> DatasetInfo:
        settings = self.settings
        crop = {"rule": "talkinghead.faces.crop.clip_crop", "margin": settings.margin, "down": settings.down}
        measured = [round(float(np.median(values)), 3) for values in zip(*framing, strict=True)]
        return DatasetInfo(
            name=self.source.name,
            splits=splits,
            image_size=settings.image_size,
            fps=settings.fps or 0.0,  # 0: evenly spread over each clip
            frames_per_clip=settings.frames_per_clip,
            detector={"name": self.detector.name, "version": self.detector.version},
            crop={**crop, "measured": Framing(*measured)._asdict()},
            created_by=self.command,
        )
