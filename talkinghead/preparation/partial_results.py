"""Results of single clips on disk until their shard is complete, from which a killed run resumes.

.work/train/000007/000012.tar     the samples of a clip: position 12 of block 7
                   000012.json    its description, written last
                   000012.trying  one byte per attempt that is under way, or ended its worker
                   000012.deaths  one byte per worker that died at this clip
                   closing        claimed by the worker that writes the shard
.work/train/000007.json           the description of the finished shard train/000007.tar

If the data set is written to a URL, this folder lies on a local disk; shards are uploaded as they are finished, each
with its description (`.work/train/000007.json` there, too), so that a run on another machine knows which ones are.
"""

import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from talkinghead.data.remote import RemoteFolder
from talkinghead.data.shards import DATASET_FILE, VIDEOS_FILE, Clip, ShardEntry, write_shard
from talkinghead.faces.crop import Framing, measure_framing
from talkinghead.preparation.clip import Drop, Result
from talkinghead.preparation.plan import PLAN_FILE, Job
from talkinghead.preparation.report import REPORTS
from talkinghead.preparation.sources import SPLITS
from talkinghead.storage import write_atomic

WORK_FOLDER = ".work"
READERS = 16  # small files read from a URL at a time
_DESCRIPTION = re.compile(rf"{re.escape(WORK_FOLDER)}/({'|'.join(SPLITS)})/\d+\.json")


class Block(NamedTuple):
    """A finished block: its shard (None when no clip was kept), frames, people, framing per clip, (split, drop)s."""

    entry: ShardEntry | None
    frames: int
    identities: set[str]
    framing: list[Framing]
    drops: list[tuple[str, Drop]]
    videos: list[int]  # row of each clip


class State(NamedTuple):
    """What there is of a preparation, by split, block and position."""

    blocks: set[tuple[str, int]]
    results: set[tuple[str, int, int]]
    deaths: dict[tuple[str, int, int], int]

    def done(self, job: Job) -> bool:
        """Whether the job has a result, alone or in its shard."""
        return (job.unit.split, job.block) in self.blocks or key_of(job) in self.results


def key_of(job: Job) -> tuple[str, int, int]:
    """The key of a job in `State`."""
    return job.unit.split, job.block, job.position


def scan(output: Path) -> State:
    """Read each folder of the work folder once; delete half-written files and notes of a killed run."""
    state = State(set(), set(), {})
    for split in (output / WORK_FOLDER / name for name in SPLITS):
        if not split.is_dir():
            continue
        open_blocks = []
        for entry in split.iterdir():
            if entry.suffix == ".json":
                state.blocks.add((split.name, int(entry.stem)))
            elif entry.is_dir():
                open_blocks.append(entry)
            else:
                entry.unlink()  # a description that was being written
        for block in (one for one in open_blocks if (split.name, int(one.name)) not in state.blocks):
            _scan_block(block, split.name, state)
    for shards in (output, *output.glob("*/")):
        for half in shards.glob(".*.tmp"):
            half.unlink(missing_ok=True)
    return state


def _scan_block(block: Path, split: str, state: State) -> None:
    """Add the results and deaths of a block that is not finished."""
    for entry in block.iterdir():
        if entry.suffix == ".json":
            state.results.add((split, int(block.name), int(entry.stem)))
        elif entry.suffix == ".deaths":
            state.deaths[split, int(block.name), int(entry.stem)] = entry.stat().st_size
        elif entry.suffix != ".tar":
            entry.unlink()


def folder(output: Path, job: Job) -> Path:
    """The folder of the results of this job's block until its shard is written."""
    return output / WORK_FOLDER / job.unit.split / f"{job.block:06d}"


def put(output: Path, job: Job, result: Result) -> None:
    """Store the result of a job. The description is written last: if it exists, the result is complete."""
    place = folder(output, job)
    if result.clips:
        write_shard(place, f"{job.position:06d}.tar", result.clips)
    summary = {"drops": [asdict(drop) for drop in result.drops], "clips": len(result.clips), "decoded": result.decoded}
    write_atomic(place / f"{job.position:06d}.json", json.dumps(summary).encode())


def begin(output: Path, job: Job) -> None:
    """Note that a worker has started this job: if the note remains, the job killed its worker."""
    place = folder(output, job) / f"{job.position:06d}.trying"
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("ab") as file:
        file.write(b".")


def end(output: Path, job: Job) -> None:
    """Remove the note: the worker has survived the job."""
    (folder(output, job) / f"{job.position:06d}.trying").unlink(missing_ok=True)


def died(output: Path, jobs: list[Job], attempts: int = 1) -> list[Job]:
    """Count a death for each job that a worker was at when it died, `attempts` times in a row; returns those jobs."""
    found = []
    for job in jobs:
        place = folder(output, job) / f"{job.position:06d}"
        note = place.with_suffix(".trying")
        if note.exists() and note.stat().st_size >= attempts:
            with place.with_suffix(".deaths").open("ab") as file:
                file.write(note.read_bytes())
            note.unlink()
            found.append(job)
    return found


def deaths(output: Path, job: Job) -> int:
    """How many workers in a row died at this job."""
    note = folder(output, job) / f"{job.position:06d}.deaths"
    return note.stat().st_size if note.exists() else 0


def quarantine(output: Path, job: Job) -> None:
    """Drop a job that kills its workers."""
    detail = f"ended its worker {deaths(output, job)} times (memory, or a file that crashes the decoder)"
    put(output, job, Result([], [Drop(job.unit.clip, "crashed", detail)], 0))


def done(output: Path, job: Job) -> bool:
    """Whether one job has a result, alone or in its shard; `scan` finds those of all jobs at once."""
    return block_file(output, job).exists() or (folder(output, job) / f"{job.position:06d}.json").exists()


def block_file(output: Path, job: Job) -> Path:
    """The description of a finished block; if it exists, so does its shard."""
    return folder(output, job).with_suffix(".json")


def close(output: Path, job: Job, image_size: int, remote: RemoteFolder | None = None) -> None:
    """Write the shard of this job's block if all its results are there and no other worker is writing it."""
    where = folder(output, job)
    try:
        if sum(entry.suffix == ".json" for entry in where.iterdir()) == job.size:
            (where / "closing").touch(exist_ok=False)
            finish_block(output, job, image_size, remote)
    except FileNotFoundError:
        if where.exists():  # else it has just been finished
            raise
    except FileExistsError:  # another worker has claimed it
        pass


def finish_block(output: Path, job: Job, image_size: int, remote: RemoteFolder | None = None) -> None:
    """Write the shard of this job's block from its results, then its description; delete the results.

    Args:
        image_size: of the stored frames, pixels
        remote: where the shard goes, if not into `output`
    """
    where = folder(output, job)
    clips, drops = [], []
    for position in range(job.size):
        summary = json.loads((where / f"{position:06d}.json").read_text())
        drops += [{"split": job.unit.split, **drop} for drop in summary["drops"]]
        clips += list(read_clips(where / f"{position:06d}.tar")) if summary["clips"] else []
    description = {
        "entry": asdict(write_shard(output, job.shard, clips)) if clips else None,
        "frames": sum(len(clip.frames) for clip in clips),
        "identities": sorted({clip.meta["identity"] for clip in clips}),
        "framing": [measure_framing(clip.landmarks.astype(float), image_size) for clip in clips],
        "drops": drops,
        "videos": [clip.meta["video_index"] for clip in clips],
    }
    told = json.dumps(description).encode()
    if remote is not None:
        if clips:
            remote.write(job.shard, output / job.shard)
            (output / job.shard).unlink()
        remote.write(str(block_file(output, job).relative_to(output)), told)
    write_atomic(block_file(output, job), told)
    shutil.rmtree(where, ignore_errors=True)  # another worker may be deleting its note; `remove` deletes the rest


def read_block(output: Path, job: Job) -> Block:
    """The block that `finish_block` described."""
    found = json.loads(block_file(output, job).read_text())
    return Block(
        entry=ShardEntry(**found["entry"]) if found["entry"] else None,
        frames=found["frames"],
        identities=set(found["identities"]),
        framing=[Framing(*values) for values in found["framing"]],
        drops=[(drop["split"], Drop(drop["clip"], drop["reason"], drop["detail"])) for drop in found["drops"]],
        videos=found.get("videos", []),
    )


def read_clips(path: Path) -> Iterator[Clip]:
    """The clips of a tar file written by `write_shard`, in order."""
    members: dict[str, dict[str, bytes]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, suffix = member.name.partition(".")
            handle = tar.extractfile(member)
            assert handle is not None
            members.setdefault(key, {})[suffix] = handle.read()
    for key, parts in members.items():
        frames = [parts[name] for name in sorted(parts) if name.endswith(".jpg")]
        yield Clip(key, json.loads(parts["json"]), np.load(BytesIO(parts["landmarks.npy"])), frames)


def remove(output: Path) -> None:
    """Delete everything that is not part of the data set."""
    shutil.rmtree(output / WORK_FOLDER, ignore_errors=True)


def download(output: Path, remote: RemoteFolder) -> None:
    """Make the local folder know what there is at the URL: the plan, the finished shards, a complete data set.

    Raises:
        ValueError: there is something else, or `output` holds what was left of another preparation.
        DataFault: without access or network.
    """
    there = remote.names()
    plan, mine = PurePosixPath(PLAN_FILE), output / PLAN_FILE
    if there and plan not in there:
        raise ValueError(f"{remote.url} is not empty and holds no preparation; choose another output")
    if there:
        content = remote.read(PLAN_FILE)
        if mine.exists() and mine.read_bytes() != content:
            raise ValueError(f"{output} holds a preparation that is not the one in {remote.url}: delete it")
        write_atomic(mine, content)
    known = {DATASET_FILE, VIDEOS_FILE, *REPORTS}
    wanted = [str(path) for path in there if str(path) in known or _DESCRIPTION.fullmatch(str(path))]
    local = {str(path.relative_to(output)) for path in (output / WORK_FOLDER).glob("*/*.json")}
    for old in {DATASET_FILE, *local} - {*wanted}:
        (output / old).unlink(missing_ok=True)  # the URL decides what is done
    missing = [name for name in wanted if not (output / name).exists()]
    with ThreadPoolExecutor(READERS) as readers:
        for name, content in zip(missing, readers.map(remote.read, missing), strict=True):
            write_atomic(output / name, content)
