"""Random access to the clips of a shard: only the bytes of the frames that are used are read.

A local shard is memory-mapped; a remote one is fetched into an unnamed temporary file (`data.remote`), then read alike.
"""

import io
import json
import mmap
import os
import shlex
import stat
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO

import numpy as np
from jaxtyping import Float, Int

from talkinghead.data.remote import fetch, refuse_fault
from talkinghead.data.shards import DATASET_FILE, DatasetInfo, ShardEntry, member_suffixes, unpack_index
from talkinghead.names import as_line, is_name

NAMES = {"identity", "video", "clip", "motion_clip"}  # of a clip's description
_BLOCK = 512  # bytes of a tar header, and what members are padded to


class UnusableClip(Exception):
    """A clip, or its shard, cannot give this episode. `cause` is a fixed phrase that counts are kept by."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause = cause
        self.detail = detail


@dataclass(frozen=True)
class ClipIndex:
    """Where the members of one clip lie in its shard."""

    key: str
    suffixes: tuple[str, ...]
    starts: Int[np.ndarray, " members"]
    sizes: Int[np.ndarray, " members"]

    @property
    def frames(self) -> tuple[str, ...]:
        """Suffixes of the frames, in order of time."""
        return frame_suffixes(self.suffixes)


@lru_cache(maxsize=1024)
def frame_suffixes(suffixes: tuple[str, ...]) -> tuple[str, ...]:
    """Those that are frames, in order of time."""
    return tuple(sorted(suffix for suffix in suffixes if suffix.endswith(".jpg")))


@dataclass(frozen=True)
class StoredClip:
    """One clip of an open shard; nothing of it is read before it is asked for."""

    file: str
    index: ClipIndex
    content: mmap.mmap

    @property
    def key(self) -> str:
        return self.index.key

    def read(self, suffix: str) -> bytes:
        """The bytes of one member; UnusableClip when the clip does not have it."""
        if suffix not in self.index.suffixes:
            raise UnusableClip(f"missing {suffix}", f"clip {self.key} of {self.file}")
        member = self.index.suffixes.index(suffix)
        start = self.index.starts[member]
        return self.content[start : start + self.index.sizes[member]]

    def meta(self) -> dict:
        """The description, see `shards.Clip`."""
        try:
            meta = json.loads(self.read("json"))
        except (ValueError, RecursionError) as error:
            raise UnusableClip("unreadable json", f"clip {self.key} of {self.file} ({error})") from error
        if not isinstance(meta, dict):
            raise UnusableClip("unreadable json", f"clip {self.key} of {self.file} (not a description)")
        for name in NAMES & meta.keys():
            if not is_name(meta[name]):
                raise UnusableClip("no name", f"clip {self.key} of {self.file}: {name} is {as_line(meta[name], 40)!r}")
        return meta

    def landmarks(self) -> Float[np.ndarray, "F 68 2"]:
        """Points in pixels of the stored frames, one row per frame; NaN where no face was found."""
        try:
            return read_points(self.read("landmarks.npy"), len(self.index.frames))
        except (ValueError, EOFError, SyntaxError, TypeError, RecursionError, MemoryError, TokenError) as error:
            raise UnusableClip("unreadable landmarks", f"clip {self.key} of {self.file} ({error})") from error
        except LookupError as error:
            found = f"landmarks {error.args[0]} for {len(self.index.frames)} frames"
            raise UnusableClip("landmarks and frames differ", f"clip {self.key} of {self.file}: {found}") from error


def read_points(content: bytes, num_frames: int) -> Float[np.ndarray, "F 68 2"]:
    """Points out of an npy file, whose header is looked at before anything as large as it says is made.

    Raises:
        ValueError: when it cannot be read, LookupError with the shape when that is not [num_frames, 68, 2].
    """
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"npy of version {version}")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(stream)
    if dtype.kind != "f":
        raise ValueError(f"values of type {dtype}")
    if shape != (num_frames, 68, 2):
        raise LookupError(shape)
    return np.load(io.BytesIO(content), allow_pickle=False)


def find_clips(content: mmap.mmap | bytes) -> list[ClipIndex]:
    """The clips of a shard by its index; by walking through the headers of a tar that has none."""
    packed = unpack_index(content)
    if packed is None:
        return scan_tar(content)
    sizes = np.array(packed.sizes, dtype=np.int64)
    padded = _BLOCK + -(-sizes // _BLOCK) * _BLOCK
    starts = np.cumsum(padded) - padded + _BLOCK
    if len(starts) and starts[-1] + sizes[-1] > len(content):  # not of this tar
        return scan_tar(content)
    first = np.cumsum([0, *packed.members]).tolist()
    return [
        ClipIndex(key, member_suffixes(stop - start - 2), starts[start:stop], sizes[start:stop])
        for key, start, stop in zip(packed.keys, first[:-1], first[1:], strict=True)
    ]


def scan_tar(content: mmap.mmap | bytes) -> list[ClipIndex]:
    """The complete clips of a tar. Only headers are read; a tar that has been cut loses its last clip."""
    clips: dict[str, list[tuple[str, int, int]]] = {}
    offset, whole = 0, False
    while offset + _BLOCK <= len(content):
        header = content[offset : offset + _BLOCK]
        if header[0] == 0:  # the end mark is a block of zeros
            whole = True
            break
        try:
            size = int(header[124:136].rstrip(b" \0"), 8)
            name = header[:100].rstrip(b"\0").decode()
        except ValueError:
            break
        start = offset + _BLOCK
        if header[257:262] != b"ustar" or size < 0 or start + size > len(content):
            break
        if header[156:157] in b"0\0":
            key, _, suffix = name.partition(".")
            clips.setdefault(key, []).append((suffix, start, size))
        offset = start + -(-size // _BLOCK) * _BLOCK
    if clips and not whole:
        clips.popitem()
    return [
        ClipIndex(
            key, tuple(m[0] for m in members), np.array([m[1] for m in members]), np.array([m[2] for m in members])
        )
        for key, members in clips.items()
    ]


class ShardReader:
    """One open shard."""

    def __init__(self, url: str, entry: ShardEntry | None = None) -> None:
        """`entry`: what dataset.json says of it; a copy of a remote shard must be that.

        Raises:
            OSError: when the shard cannot be opened or fetched, DataFault.
            ValueError: when it is empty, no file, or holds clips that dataset.json does not count: those would never be
                seen.
        """
        self.url = url
        with open_local(url, entry) as file:
            self.content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.clips = find_clips(self.content)
        if entry and len(self.clips) > entry.samples:
            raise ValueError(f"{len(self.clips)} clips, {DATASET_FILE} says {entry.samples}; prepare the data again")

    def clip(self, number: int) -> StoredClip:
        """Clip `number` of this shard; UnusableClip when the file ends before it."""
        if number >= len(self.clips):
            raise UnusableClip("truncated shard", f"{self.url} holds {len(self.clips)} whole clips, not {number + 1}")
        if not is_name(key := self.clips[number].key):
            raise UnusableClip("no name", f"clip {number} of {self.url} is called {as_line(key, 40)!r}")
        return StoredClip(self.url, self.clips[number], self.content)


class ShardPool:
    """All clips of a split, numbered from 0 over its shards; the shards used last stay open."""

    def __init__(self, location: str, shards: list[ShardEntry], max_open: int = 64) -> None:
        self.location = location
        self.shards = shards
        self.max_open = max_open
        self.first = np.cumsum([0] + [shard.samples for shard in shards])
        self._open: OrderedDict[int, ShardReader | UnusableClip] = OrderedDict()

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": OrderedDict()}  # each worker process opens its own

    def shard_of(self, number: int) -> int:
        """The shard in which clip `number` lies."""
        return int(np.searchsorted(self.first, number, side="right")) - 1

    def clip(self, number: int) -> StoredClip:
        """Clip `number`; UnusableClip when its shard cannot be read or ends too early, DataFault when no shard can."""
        shard = self.shard_of(number)
        reader = self._reader(shard)
        if isinstance(reader, UnusableClip):
            raise reader
        return reader.clip(number - int(self.first[shard]))

    def _reader(self, shard: int) -> ShardReader | UnusableClip:
        if shard not in self._open:
            url = join(self.location, self.shards[shard].file)
            try:
                self._open[shard] = ShardReader(url, self.shards[shard])
            except (OSError, ValueError) as error:
                refuse_fault(error, url)
                unusable = UnusableClip("unreadable shard", f"{url} ({error})")
                if is_remote(self.location) or not isinstance(error, FileNotFoundError | ValueError):
                    return unusable  # it may be there again at the next visit
                self._open[shard] = unusable
            if len(self._open) > self.max_open:
                self._open.popitem(last=False)
        self._open.move_to_end(shard)
        return self._open[shard]


def is_remote(location: str) -> bool:
    """Whether a location is a URL (or a `pipe:` command) and not a path."""
    return "://" in location or location.startswith("pipe:")


def join(location: str, file: str) -> str:
    """The URL or path of a file of a data set; `pipe:aws s3 cp s3://bucket/set/{} -` has its own place for it.

    The location is the user's and a `pipe:` is run by a shell; the name comes out of dataset.json, which may be a
    stranger's: there it is one quoted word, and `DatasetInfo` takes plain names only.
    """
    name = shlex.quote(file) if location.startswith("pipe:") else file
    return location.replace("{}", name) if "{}" in location else f"{location.rstrip('/')}/{name}"


def load_info(location: str) -> DatasetInfo:
    """Read `dataset.json` of a local or remote data set."""
    if not is_remote(location):
        return DatasetInfo.load(Path(location))
    url = join(location, DATASET_FILE)
    try:
        with fetch(url) as copy:
            text = copy.read()
    except OSError as error:
        refuse_fault(error, url)
        raise FileNotFoundError(f"no data set at {location}: {url} cannot be read ({error})") from error
    return DatasetInfo.parse(text, url)


def open_local(url: str, entry: ShardEntry | None = None) -> BinaryIO:
    """A real file with the content of `url`: the file itself, or a nameless temporary copy of what is far away.

    Raises OSError, ValueError where `url` is a pipe or a device, which would never end.
    """
    if is_remote(url):
        return fetch(url, (entry.bytes, entry.sha256) if entry else None)
    if not stat.S_ISREG(os.stat(url).st_mode):
        raise ValueError(f"{url} is not a file")
    return open(url, "rb")
