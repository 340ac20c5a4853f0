"""Results of single clips, kept on disk until their shard is complete, so that a killed run can resume."""

import json
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from talkinghead.data.shards import Clip, ShardEntry, write_shard
from talkinghead.faces.crop import Framing, measure_framing
from talkinghead.preparation.clip import Drop, Result
from talkinghead.preparation.plan import Job
from talkinghead.storage import write_atomic

WORK_FOLDER = ".work"


class Block(NamedTuple):
    """A finished block: its shard (None when no clip was kept), frames, people, framing per clip, (split, drop)s."""

    entry: ShardEntry | None
    frames: int
    identities: set[str]
    framing: list[Framing]
    drops: list[tuple[str, Drop]]
    videos: list[int]  # row of each clip


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


def died(output: Path, jobs: list[Job], attempts: int = 1) -> None:
    """Count a death for each job that a worker was at when it died."""
    for job in jobs:
        place = folder(output, job) / f"{job.position:06d}"
        note = place.with_suffix(".trying")
        if note.exists() and note.stat().st_size >= attempts:
            with place.with_suffix(".deaths").open("ab") as file:
                file.write(note.read_bytes())
            note.unlink()


def deaths(output: Path, job: Job) -> int:
    """How many workers in a row died at this job."""
    note = folder(output, job) / f"{job.position:06d}.deaths"
    return note.stat().st_size if note.exists() else 0


def quarantine(output: Path, job: Job) -> None:
    """Drop a job that kills its workers."""
    detail = f"ended its worker {deaths(output, job)} times (memory, or a file that crashes the decoder)"
    put(output, job, Result([], [Drop(job.unit.clip, "crashed", detail)], 0))


def done(output: Path, job: Job) -> bool:
    """Whether the job's result is on disk, alone or in its shard."""
    return block_file(output, job).exists() or (folder(output, job) / f"{job.position:06d}.json").exists()


def block_file(output: Path, job: Job) -> Path:
    """The description of a finished block; if it exists, so does its shard."""
    return folder(output, job).with_suffix(".json")


def finish_block(output: Path, jobs: list[Job], size: int) -> None:
    """Write the shard of a block from the results of all its jobs, then its description; delete the single results.

    Args:
        size: of the stored frames, pixels
    """
    place = folder(output, jobs[0])
    clips, drops = [], []
    for job in jobs:
        summary = json.loads((place / f"{job.position:06d}.json").read_text())
        drops += [{"split": job.unit.split, **drop} for drop in summary["drops"]]
        clips += list(read_clips(place / f"{job.position:06d}.tar")) if summary["clips"] else []
    description = {
        "entry": asdict(write_shard(output, jobs[0].shard, clips)) if clips else None,
        "frames": sum(len(clip.frames) for clip in clips),
        "identities": sorted({clip.meta["identity"] for clip in clips}),
        "framing": [measure_framing(clip.landmarks.astype(float), size) for clip in clips],
        "drops": drops,
        "videos": [clip.meta["video_index"] for clip in clips],
    }
    write_atomic(block_file(output, jobs[0]), json.dumps(description).encode())
    shutil.rmtree(place)


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


def sweep(output: Path) -> None:
    """Delete the half-written files of a killed run, and the notes of its workers, which were killed with it."""
    for path in (output / WORK_FOLDER).glob("*/*/*.trying"):
        path.unlink()
    for path in output.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def remove(output: Path) -> None:
    """Delete everything that is not part of the data set."""
    shutil.rmtree(output / WORK_FOLDER, ignore_errors=True)
