"""Shards: tar files of clips with a `dataset.json` beside them, the one format between preparation and training.

train/000123.tar     <key>.json, <key>.landmarks.npy, <key>.000.jpg ... for each clip
dataset.json         see `DatasetInfo`
videos.json          see `Videos`
"""

import hashlib
import io
import json
import os
import re
import struct
import tarfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, runtime_checkable

import numpy as np

from talkinghead.names import LONGEST, as_line
from talkinghead.storage import errors_name, write_atomic

DATASET_FILE = "dataset.json"
VIDEOS_FILE = "videos.json"
FORMAT_VERSION = 1

_MOST, _MOST_VIDEOS = 1 << 50, 10_000_000  # larger numbers of a dataset.json are mistakes
_LEAST_CLIP = 512  # bytes: one header of a tar
_SHARD = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)*", re.ASCII)  # relative, below the data set's folder
_INDEX_MARK = b"clipindx"
_INDEX_TAIL = 16  # bytes of the index's length and mark, the last ones of a shard


@dataclass(frozen=True)
class Clip:
    """One sample of a shard: the frames and landmarks of one clip.

    Attributes:
        key: unique in the data set; letters, digits, `_` and `-` only (webdataset splits names at the first dot)
        meta: {"video", "identity", "clip", "video_index", "fps", "frame_numbers", "crop", ...}, JSON types
        landmarks: float32 [F, 68, 2], pixels of the stored frames, x right, y down; NaN where no face was found
        frames: F JPEG files
    """

    key: str
    meta: dict
    landmarks: np.ndarray
    frames: list[bytes]


@dataclass(frozen=True)
class ShardEntry:
    """One line of the index: a shard file relative to `dataset.json`."""

    file: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """Shards and counts of one split. `videos` of train is the number of rows of W."""

    shards: list[ShardEntry] = field(default_factory=list)
    clips: int = 0
    frames: int = 0
    videos: int = 0
    identities: int = 0


@dataclass(frozen=True)
class DatasetInfo:
    """The content of `dataset.json`: splits, image size, detector, crop rule, and every shard with its sha256."""

    name: str
    splits: dict[str, Split]
    image_size: int
    fps: float
    frames_per_clip: int
    detector: dict  # {"name", "version"}
    crop: dict  # the rule and its numbers
    created_by: str  # the command
    format_version: int = FORMAT_VERSION

    @property
    def num_videos(self) -> int:
        """Rows of W: videos of the training split."""
        return self.splits["train"].videos if "train" in self.splits else 0

    def save(self, directory: Path) -> None:
        """Write `dataset.json` into the directory, atomically."""
        text = json.dumps({**asdict(self), "num_videos": self.num_videos}, indent=1)
        write_atomic(directory / DATASET_FILE, text.encode())

    @classmethod
    def parse(cls, text: str | bytes, where: str) -> "DatasetInfo":
        """Read the text of a `dataset.json`; `where` names it in errors."""
        try:
            found = json.loads(text)
            if not isinstance(found, dict):
                raise TypeError("not an object")
            found.pop("num_videos", None)
            splits = {
                name: Split(**{**split, "shards": [ShardEntry(**s) for s in split["shards"]]})
                for name, split in found.pop("splits").items()
            }
            info = cls(splits=splits, **found)
            check_types(info)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            told = next(iter(str(error).splitlines()), type(error).__name__)
            raise ValueError(
                f"{where} is not a dataset.json of this project ({told}); prepare the data again"
            ) from error
        if info.format_version != FORMAT_VERSION:
            raise ValueError(
                f"{where} has format {info.format_version}, this version reads {FORMAT_VERSION}; prepare the data again"
            )
        return info

    @classmethod
    def load(cls, directory: Path) -> "DatasetInfo":
        """Read `dataset.json` of a local data set."""
        path = Path(directory) / DATASET_FILE
        if not path.is_file():
            raise FileNotFoundError(f"no data set at {directory}: {path} does not exist; make it with prepare.py")
        return cls.parse(path.read_bytes(), str(path))


def check_types(info: DatasetInfo) -> None:
    """Raises TypeError or ValueError where values of a `dataset.json` have a wrong type or are impossible."""
    kinds = {"str": str, "int": int, "float": int | float, "dict": dict, "dict[str, Split]": dict,
             "list[ShardEntry]": list}  # fmt: skip
    shards = [(f"splits.{name}.shards", shard) for name, split in info.splits.items() for shard in split.shards]
    parts: list[tuple[str, Any]] = [
        ("", info),
        *((f"splits.{name}", split) for name, split in info.splits.items()),
        *shards,
    ]
    for where, part in [("", info), *parts, *shards]:
        for one in fields(part):
            value = getattr(part, one.name)
            kind = getattr(one.type, "__name__", str(one.type)) if isinstance(one.type, type) else str(one.type)
            wanted = kinds.get(kind.replace("talkinghead.data.shards.", ""), object)
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise TypeError(f"{where}.{one.name}".lstrip(".") + f" is {str(value)[:40]!r}, not {kind}")
            if isinstance(value, int | float) and not 0 <= value < _MOST:
                raise ValueError(f"{where}.{one.name}".lstrip(".") + f" is {value}")
    for where, shard in shards:
        if not _SHARD.fullmatch(shard.file) or len(shard.file) > LONGEST:
            raise ValueError(f"{where}: {as_line(shard.file, 60)!r} is no name of a shard below the data set's folder")
        if shard.samples * _LEAST_CLIP > shard.bytes:
            raise ValueError(f"{where}: {shard.file} of {shard.bytes} bytes cannot hold {shard.samples} clips")
    for name, split in info.splits.items():
        if split.clips != (counted := sum(shard.samples for shard in split.shards)):
            raise ValueError(f"splits.{name}.clips is {split.clips}, its shards hold {counted}")
    if info.num_videos > _MOST_VIDEOS:
        raise ValueError(f"splits.train.videos is {info.num_videos}")


@runtime_checkable
class Content(Protocol):
    """Bytes of a file, wherever they are: in memory, mapped, or remote."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> bytes: ...


class ShardIndex(NamedTuple):
    """Positions in a shard: members follow each other from byte 0, each after a header of one tar block."""

    keys: list[str]  # of the clips
    members: list[int]  # how many each clip has
    sizes: list[int]  # bytes of each member of all clips, without padding


@dataclass(frozen=True)
class Videos:
    """The videos of a data set: `names` of the rows of W, in order; `clips`: each split's video index per clip."""

    names: list[str]
    clips: dict[str, list[int]]

    def save(self, directory: Path) -> None:
        """Write `videos.json` into the directory, atomically."""
        write_atomic(directory / VIDEOS_FILE, json.dumps(asdict(self), separators=(",", ":")).encode())


class _HashedFile:
    """A file opened for writing that keeps count of its length and sha256."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.bytes = 0
        self.sha256 = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.bytes += len(content)
        self.sha256.update(content)
        return self.file.write(content)

    def tell(self) -> int:
        return self.bytes


def write_shard(root: Path, file: str, clips: Iterable[Clip]) -> ShardEntry:
    """Write clips to `root/file` atomically. Same clips, same bytes: no times or owners are stored.

    After the end mark of the tar, where tar readers stop, follows an index (`pack_index`), so that a frame is found
    without reading all headers.
    """
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    index = ShardIndex([], [], [])
    try:
        with errors_name(path), open(temporary, "wb") as raw:
            shard = _HashedFile(raw)
            with tarfile.open(fileobj=shard, mode="w", format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[call-overload]
                for clip in clips:
                    members = clip_members(clip)
                    index.keys.append(clip.key)
                    index.members.append(len(members))
                    index.sizes.extend(len(content) for _, content in members)
                    for suffix, content in members:
                        member = tarfile.TarInfo(f"{clip.key}.{suffix}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
            shard.write(pack_index(index))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return ShardEntry(file, len(index.keys), shard.bytes, shard.sha256.hexdigest())


def pack_index(index: ShardIndex) -> bytes:
    """Compact bytes of an index: JSON, its length, a magic number."""
    text = json.dumps(index, separators=(",", ":")).encode()
    return text + struct.pack("<Q8s", len(text), _INDEX_MARK)


def unpack_index(shard: Content) -> ShardIndex | None:
    """The index at the end of a shard; None in a tar from other tools, or a truncated one."""
    if len(shard) < _INDEX_TAIL:
        return None
    length, mark = struct.unpack("<Q8s", shard[-_INDEX_TAIL:])
    if mark != _INDEX_MARK or length + _INDEX_TAIL > len(shard):
        return None
    try:
        index = ShardIndex(*json.loads(shard[-_INDEX_TAIL - length : -_INDEX_TAIL]))
        return index if _fits(index, len(shard)) else None
    except (ValueError, TypeError, RecursionError):
        return None


def _fits(index: ShardIndex, length: int) -> bool:
    """Whether an index is plausible for a shard of `length` bytes, checked before memory is allocated by it."""
    keys, members, sizes = index
    numbers = all(type(n) is int and 0 <= n <= length for n in [*members, *sizes])
    return numbers and (
        all(isinstance(key, str) for key in keys)
        and len(keys) == len(members)
        and min(members, default=2) >= 2
        and sum(members) == len(sizes)
    )


@lru_cache(maxsize=1024)
def member_suffixes(num_frames: int) -> tuple[str, ...]:
    """Names of the members of a clip after its key, in the order they are written."""
    return ("json", "landmarks.npy", *(f"{n:03d}.jpg" for n in range(num_frames)))


def clip_members(clip: Clip) -> list[tuple[str, bytes]]:
    """The files of one clip: (suffix, content), the description first so that a reader can choose frames early."""
    if clip.landmarks.shape != (len(clip.frames), 68, 2):
        raise ValueError(
            f"clip {clip.key}: landmarks have shape {clip.landmarks.shape}, expected ({len(clip.frames)}, 68, 2)"
        )
    npy = io.BytesIO()
    np.save(npy, clip.landmarks.astype(np.float32))
    contents = [json.dumps(clip.meta).encode(), npy.getvalue(), *clip.frames]
    return list(zip(member_suffixes(len(clip.frames)), contents, strict=True))
