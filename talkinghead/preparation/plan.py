"""The plan of a preparation: which clip goes into which shard, known before the first one is decoded.

Because row of W, name and place of every clip follow from the list of clips alone, shards do not depend on the order
in which workers finish, on their number, or on how often the run was interrupted.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from talkinghead.preparation.sources import SPLITS, Unit, keys
from talkinghead.storage import read_file, write_atomic

PLAN_FILE = "prepare.json"
LIST = "clips_sha256"  # of names and places of all clips


@dataclass(frozen=True)
class Job:
    """A unit and its place: `position` among the `size` units of block `block` of its split, which becomes a shard."""

    unit: Unit
    key: str
    video_index: int
    block: int
    position: int
    size: int

    @property
    def shard(self) -> str:
        """The shard file this clip goes to, relative to the data set."""
        return f"{self.unit.split}/{self.block:06d}.tar"


def make_plan(units: list[Unit], clips_per_shard: int) -> list[Job]:
    """Jobs in the order of the shards. Training clips are shuffled by a hash of their names, to mix people in a shard;
    videos are numbered from 0 in each split, in the order of their names."""
    if clips_per_shard < 1:
        raise ValueError(f"clips_per_shard={clips_per_shard}: must be at least 1")
    jobs: list[Job] = []
    key_of = dict(zip(units, keys(units), strict=True))
    for split in SPLITS:
        mine = sorted((u for u in units if u.split == split), key=lambda u: u.clip)
        rows = {video: n for n, video in enumerate(sorted({u.video for u in mine if u.paths}))}
        if split == "train":
            mine.sort(key=lambda u: hashlib.sha256(u.clip.encode(errors="surrogateescape")).digest())
        for n, unit in enumerate(mine):
            block, position = divmod(n, clips_per_shard)
            size = min(clips_per_shard, len(mine) - block * clips_per_shard)
            jobs.append(Job(unit, key_of[unit], rows.get(unit.video, -1), block, position, size))
    return jobs


def count_videos(jobs: list[Job], split: str) -> int:
    """Rows that a split needs: one per listed video, whether or not its clips could be kept."""
    return 1 + max((job.video_index for job in jobs if job.unit.split == split), default=-1)


def video_names(jobs: list[Job], split: str) -> list[str]:
    """The name of each row of W, in order."""
    names = {job.video_index: job.unit.video for job in jobs if job.unit.split == split and job.video_index >= 0}
    return [names[row] for row in range(len(names))]


def fingerprint(jobs: list[Job], options: dict) -> dict:
    """What must be equal for a run to resume another one."""
    names = "\n".join(f"{job.shard} {job.unit.clip} {job.video_index} {job.unit.cropped}" for job in jobs)
    return {**options, "clips": len(jobs), LIST: hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()}


def claim(output: Path, mine: dict) -> None:
    """Write the fingerprint into an empty output folder; raises ValueError if another preparation owns it."""
    path = output / PLAN_FILE
    if not path.exists():
        if output.is_dir() and any(p for p in output.iterdir() if not p.name.startswith(".")):
            raise ValueError(f"{output} is not empty and holds no preparation; choose another output")
        write_atomic(path, json.dumps(mine, indent=1).encode())
        return
    theirs = read_plan(path)
    changed = sorted(name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name))
    told = ", ".join(f"{name}: {theirs.get(name)} then, {mine.get(name)} now" for name in changed if name != LIST)
    if not set(changed) <= {"clips", LIST}:
        raise ValueError(
            f"{output} was begun with other options ({told}); repeat those, choose another output, or delete it"
        )
    if changed:
        told = told or "other names, splits or source.cropped"
        raise ValueError(
            f"{output} was begun with another list of clips ({told}): it takes no new videos, because they would move "
            "rows and shards; prepare all of them into another output"
        )


def read_plan(path: Path) -> dict:
    """The fingerprint in an output folder; raises a one-line ValueError if it cannot be read."""
    try:
        found = json.loads(read_file(path))
        if not isinstance(found, dict):
            raise TypeError("not an object")
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({error}): choose another output, or delete {path.parent}") from error
    return found
