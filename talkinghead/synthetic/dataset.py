"""The synthetic data set: people, clips and exact landmarks, rendered into ordinary shards by worker processes."""

import hashlib
import io
import json
import multiprocessing
import tarfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import final

import numpy as np
import simplejpeg
from rich.progress import Progress

from talkinghead.data.shards import DATASET_FILE, Clip, DatasetInfo, ShardEntry, Split, Videos, write_shard
from talkinghead.machine import num_cpus
from talkinghead.options import Range, check_numbers
from talkinghead.processes import end_with_parent, stopping_at_once
from talkinghead.progress import columns
from talkinghead.storage import write_atomic
from talkinghead.synthetic.body import cache_file, keep_body, load_body
from talkinghead.synthetic.extras import make_extras
from talkinghead.synthetic.motion import make_motion, widen
from talkinghead.synthetic.person import make_person
from talkinghead.synthetic.renderer import Renderer
from talkinghead.synthetic.scene import CROP_MIDDLE, CROP_RATIO, Head, film, make_head

LOOKS = (1, 2, 3)  # add one when the same seed gives other pictures, and leave the others as they are
FOCUSED = 0.8  # share of rooms in focus, of looks 2 and 3
PARAMETERS_FILE = "render.json"
FIRST_PERSON = {"train": 0, "val": 400_000, "test": 600_000, "cross": 600_000}


@dataclass(frozen=True)
class ClipPlan:
    """One clip to render: a person, the person whose motion it is, and the room."""

    split: str
    person: int  # number within its split
    mover: int
    clip: int
    video_index: int
    frames: int


@dataclass(frozen=True)
class RenderPlan:
    """What all clips of a data set share."""

    image_size: int
    supersampling: int
    fps: float
    seed: int
    quality: int
    device: str
    looks: int = 1


@final
class SyntheticDataset:
    """Renders the data set into a directory; called again it finds it complete, or goes on where it was stopped.

    Args:
        train: people to train on; nobody is in two splits
        val: people to validate on
        test: people to test on
        clips_per_person: videos per person, each with its own room, light and motion (rows of W for train)
        frames_per_clip: of train; `eval_frames` of val, where 32 shots and a target must fit; `test_frames` of test and
            cross, where 32 shots and 32 hold-out frames should (None: as many as of val)
        cross_clips: for every test person, clips driven by that many other test people (split `cross`): frame n of
            `<person>_by_<mover>` is the person doing what the mover does in frame n of `<mover>_0`
        image_size: pixels of the stored square frames
        fps: frames per second of the motion
        seed: other seed, other people
        looks: 1: bare heads; 2: some wear glasses, hats, scarves, earrings, skin and hair have relief, rooms are in
            focus, and training frames are taken to extremes (`motion.widen`); 3: lit teeth below the upper lip, more
            extremes
        workers: processes; None means one per core. With a CUDA device all is rendered in this process
    """

    def __init__(  # noqa: PLR0917
        self, train: int = 200, val: int = 16, test: int = 16, clips_per_person: int = 1, frames_per_clip: int = 32,
        eval_frames: int = 48, cross_clips: int = 1, image_size: int = 64, supersampling: int = 2, fps: float = 5.0,
        seed: int = 0, workers: int | None = None, quality: int = 95, people_per_shard: int = 4, device: str = "cpu",
        test_frames: int | None = None, looks: int = 1,
    ) -> None:  # fmt: skip
        test_frames = eval_frames if test_frames is None else test_frames
        frames = {"train": frames_per_clip, "val": eval_frames, "test": test_frames, "cross": test_frames}
        if min(train, val, test, clips_per_person, *frames.values(), image_size, people_per_shard) < 1:
            raise ValueError("a synthetic data set needs at least one person, clip, frame and pixel: check the numbers")
        if cross_clips >= test and cross_clips > 0:
            raise ValueError(
                f"cross_clips={cross_clips} needs more test people than test={test}: lower it, or raise test"
            )
        check_numbers({"seed": seed}, {"seed": Range(0, 2**32 - 1)}, "data.build.")
        if looks not in LOOKS:
            raise ValueError(f"looks={looks}: there are {LOOKS}")
        self.people = {"train": train, "val": val, "test": test}
        self.clips_per_person, self.cross_clips = clips_per_person, cross_clips
        self.frames = frames
        self.plan = RenderPlan(image_size, supersampling, float(fps), seed, quality, device, looks)
        self.workers = 1 if device.startswith("cuda") else workers or num_cpus()
        self.people_per_shard = people_per_shard

    def __call__(self, directory: Path) -> None:
        """Render what is missing; raises ValueError when `directory` holds a data set of other parameters."""
        directory = Path(directory)
        if self._is_complete(directory):
            return
        write_atomic(directory / PARAMETERS_FILE, json.dumps(self.parameters, indent=1).encode())
        work = self.shards()
        entries = {file: entry for file in work if (entry := _existing(directory, file))}
        self._render(directory, {file: clips for file, clips in work.items() if file not in entries}, entries)
        videos(work).save(directory)
        self._info(work, entries).save(directory)

    @property
    def image_size(self) -> int:
        """Pixels of the stored frames."""
        return self.plan.image_size

    def check(self, directory: Path, splits: Sequence[str] | None = None) -> None:
        """Raises ValueError when `directory` holds a data set of other parameters.

        Args:
            splits: those that will be used; the numbers of people and frames of others are not compared. None: all
        """
        self._is_complete(directory, splits)

    @property
    def parameters(self) -> dict:
        """All parameters on which the pictures depend."""
        return {
            "people": self.people, "clips_per_person": self.clips_per_person, "cross_clips": self.cross_clips,
            "frames": self.frames, "people_per_shard": self.people_per_shard, "image_size": self.plan.image_size,
            "supersampling": self.plan.supersampling, "fps": self.plan.fps, "seed": self.plan.seed,
            "quality": self.plan.quality, "looks": self.plan.looks,
        }  # fmt: skip

    def shards(self) -> dict[str, list[ClipPlan]]:
        """Every shard file with the clips in it."""
        files: dict[str, list[ClipPlan]] = {}
        for split, people in self.people.items():
            for person in range(people):
                shard = files.setdefault(f"{split}/{person // self.people_per_shard:06d}.tar", [])
                for clip in range(self.clips_per_person):
                    video = person * self.clips_per_person + clip
                    shard.append(ClipPlan(split, person, person, clip, video, self.frames[split]))
        people = self.people["test"]
        for person in range(people if self.cross_clips else 0):
            shard = files.setdefault(f"cross/{person // self.people_per_shard:06d}.tar", [])
            for step in range(1, self.cross_clips + 1):
                video = person * self.cross_clips + step - 1
                shard.append(ClipPlan("cross", person, (person + step) % people, 0, video, self.frames["cross"]))
        return files

    def _is_complete(self, directory: Path, splits: Sequence[str] | None = None) -> bool:
        path = directory / PARAMETERS_FILE
        if not path.is_file():
            if (directory / DATASET_FILE).exists():
                raise ValueError(f"{directory} holds a data set that was not rendered: choose another directory")
            return False
        try:
            found, wanted = json.loads(path.read_text()), json.loads(json.dumps(self.parameters))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} cannot be read ({error}): delete {directory} to render again") from error
        if not isinstance(found, dict):
            raise ValueError(f"{path} holds no parameters: delete {directory} to render again")
        found, wanted = of_splits(found, splits), of_splits(wanted, splits)
        if found != wanted:
            different = [
                f"{key}: {found.get(key)} there, {wanted[key]} asked" for key in wanted if found.get(key) != wanted[key]
            ]
            raise ValueError(
                f"{directory} holds synthetic heads of other parameters ({'; '.join(different)}): "
                "choose another directory, or delete it to render again"
            )
        return (directory / DATASET_FILE).is_file()

    def _render(self, directory: Path, work: dict[str, list[ClipPlan]], entries: dict[str, ShardEntry]) -> None:
        if not work:
            return
        with Progress(*columns("{task.description}", "frames {task.fields[rate]}")) as progress:
            task = progress.add_task("building the head model", total=None, rate="")
            if not cache_file().is_file():
                progress.console.print("building the head model: once on this machine, half a minute or so")
            keep_body(lambda: progress.update(task, advance=1))
            _renderer(16, 1, self.plan.device).compile()
            progress.update(
                task, description="rendering heads", completed=0, total=sum(p.frames for c in work.values() for p in c)
            )
            for file, entry, frames in self._results(directory, work):
                entries[file] = entry
                progress.advance(task, frames)
                progress.update(task, rate=f"{progress.tasks[0].speed or 0:.0f}/s")

    def _results(self, directory: Path, work: dict[str, list[ClipPlan]]):
        if self.workers == 1 or len(work) == 1:
            for file, clips in work.items():
                yield render_shard(directory, file, clips, self.plan)
            return
        context = multiprocessing.get_context("spawn")
        with stopping_at_once(ProcessPoolExecutor(min(self.workers, len(work)), context, _one_thread)) as pool:
            jobs = [pool.submit(render_shard, directory, file, clips, self.plan) for file, clips in work.items()]
            for job in as_completed(jobs):
                yield job.result()

    def _info(self, work: dict[str, list[ClipPlan]], entries: dict[str, ShardEntry]) -> DatasetInfo:
        splits = {}
        for split in dict.fromkeys(file.split("/")[0] for file in work):
            files = [file for file in work if file.startswith(f"{split}/")]
            clips = [clip for file in files for clip in work[file]]
            splits[split] = Split(
                shards=[entries[file] for file in files], clips=len(clips), frames=sum(c.frames for c in clips),
                videos=len({c.video_index for c in clips}), identities=len({c.person for c in clips}),
            )  # fmt: skip
        return DatasetInfo(
            name="synthetic heads", splits=splits, image_size=self.plan.image_size, fps=self.plan.fps,
            frames_per_clip=max(self.frames.values()),
            detector={"name": "points of the mesh", "version": f"anny {version('anny')}, looks {self.plan.looks}"},
            crop={"rule": "side = ratio * mean extent of the landmarks, fixed per clip", "ratio": CROP_RATIO,
                  "middle": CROP_MIDDLE},
            created_by=f"talkinghead.synthetic.dataset.SyntheticDataset {json.dumps(self.parameters)}",
        )  # fmt: skip


def of_splits(parameters: dict, splits: Sequence[str] | None) -> dict:
    """The parameters on which the pictures of these splits depend; None: all parameters."""
    if splits is None:
        return parameters
    chosen = {name: value for name, value in parameters.items() if name not in ("people_per_shard", "cross_clips")}
    for name in {"people", "frames"} & chosen.keys():
        given = chosen[name] if isinstance(chosen[name], dict) else {}
        chosen[name] = {split: count for split, count in given.items() if split in splits}
    return {**chosen, "cross_clips": parameters.get("cross_clips")} if "cross" in splits else chosen


def videos(work: dict[str, list[ClipPlan]]) -> Videos:
    """Names of the rows of W, and the row of each clip."""
    rows: dict[str, list[int]] = {}
    names: dict[int, str] = {}
    for file, clips in work.items():
        split = file.split("/")[0]
        rows.setdefault(split, []).extend(clip.video_index for clip in clips)
        if split == "train":
            names |= {clip.video_index: f"train{clip.person:05d}_{clip.clip}" for clip in clips}
    return Videos([names[row] for row in sorted(names)], rows)


def render_shard(directory: Path, file: str, clips: list[ClipPlan], plan: RenderPlan) -> tuple[str, ShardEntry, int]:
    """Unit of work: one shard file, a pure function of its arguments. Returns file, entry and number of frames."""
    entry = write_shard(directory, file, [render_clip(clip, plan) for clip in clips])
    return file, entry, sum(clip.frames for clip in clips)


def render_clip(clip: ClipPlan, plan: RenderPlan) -> Clip:
    """Render one clip: frames as JPEG, landmarks in pixels, and a description of person and motion."""
    head = _head(person_seed(plan.seed, clip.split, clip.person), plan.image_size, plan.looks)
    mover = person_seed(plan.seed, clip.split, clip.mover)
    names = head.body.action_names.tolist()
    motion = make_motion(make_person(mover, head.body).personality, mover, clip.clip, clip.frames, plan.fps, names)
    renderer = _renderer(plan.image_size, plan.supersampling, plan.device)
    if plan.looks > 1 and clip.split == "train":
        motion = widen(motion, mover * 64 + clip.clip, names, speaking=plan.looks > 2)
    room = head.person.seed * 64 + clip.clip
    in_focus = plan.looks > 1 and bool(np.random.default_rng([room, 11]).uniform() < FOCUSED)
    picture = film(head, motion, renderer, room, in_focus=in_focus)
    home = "test" if clip.split == "cross" else clip.split
    identity, driver = f"{home}{clip.person:05d}", f"{home}{clip.mover:05d}"
    key = f"{identity}_by_{driver}" if clip.split == "cross" else f"{identity}_{clip.clip}"
    meta = {
        "video": f"{identity}_{clip.clip}", "identity": identity, "clip": key, "video_index": clip.video_index,
        "fps": plan.fps, "frame_numbers": list(range(clip.frames)),
        "crop": {"distance": picture.camera.distance, "centre": picture.camera.centre, "half": picture.camera.half},
        "action_names": names, "actions": np.round(motion.actions, 4).tolist(),
        "pose": np.round(motion.pose, 3).tolist(), "motion_identity": driver, "motion_clip": f"{driver}_{clip.clip}",
    }  # fmt: skip
    frames = [
        simplejpeg.encode_jpeg(np.ascontiguousarray(f), quality=plan.quality, colorspace="RGB", colorsubsampling="444")
        for f in picture.frames
    ]
    return Clip(key, meta, picture.landmarks, frames)


def person_seed(seed: int, split: str, number: int) -> int:
    """The seed of one person; splits test and cross show the same people."""
    return seed * 1_000_000 + FIRST_PERSON[split] + number


@lru_cache(maxsize=2)
def _head(seed: int, image_size: int, looks: int) -> Head:
    body = load_body()
    person = make_person(seed, body)
    texture_size = 256 if image_size <= 64 else 384 if image_size <= 128 else 512 if image_size <= 256 else 1024
    return make_head(person, body, texture_size, make_extras(person) if looks > 1 else None, speaking=looks > 2)


@lru_cache(maxsize=2)
def _renderer(size: int, supersampling: int, device: str) -> Renderer:
    return Renderer(size, supersampling, device=device)


def _one_thread() -> None:
    import cv2  # noqa: PLC0415

    cv2.setNumThreads(1)
    end_with_parent()


def _existing(directory: Path, file: str) -> ShardEntry | None:
    """The entry of a shard that an interrupted run has written; None if it is missing or damaged."""
    path = directory / file
    if not path.is_file():
        return None
    content = path.read_bytes()
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            samples = sum(name.endswith(".json") for name in tar.getnames())
    except tarfile.TarError:
        return None
    return ShardEntry(file, samples, len(content), hashlib.sha256(content).hexdigest())
