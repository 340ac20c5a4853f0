"""Random access to the clips of a shard: only the bytes of the frames that are used are read.

A local shard is memory-mapped; a remote one (any URL that webdataset opens: http, s3 or gs through `pipe:`, hf ...)
is streamed once into an unnamed temporary file, then read the same way.
"""

import io
import json
import mmap
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import webdataset
from jaxtyping import Float, Int

from talkinghead.data.shards import DATASET_FILE, DatasetInfo, ShardEntry, member_suffixes, unpack_index

_BLOCK = 512  # bytes of a tar header, and what members are padded to
_COPY_CHUNK = 1 << 20


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
            return json.loads(self.read("json"))
        except ValueError as error:
            raise UnusableClip("unreadable json", f"clip {self.key} of {self.file} ({error})") from error

    def landmarks(self) -> Float[np.ndarray, "F 68 2"]:
        """Points in pixels of the stored frames, one row per frame; NaN where no face was found."""
        try:
            points = np.load(io.BytesIO(self.read("landmarks.npy")), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise UnusableClip("unreadable landmarks", f"clip {self.key} of {self.file} ({error})") from error
        if points.shape != (len(self.index.frames), 68, 2):
            found = f"landmarks {points.shape} for {len(self.index.frames)} frames"
            raise UnusableClip("landmarks and frames differ", f"clip {self.key} of {self.file}: {found}")
        return points


def find_clips(content: mmap.mmap | bytes) -> list[ClipIndex]:
    """The clips of a shard by its index; by walking through the headers of a tar that has none."""
    packed = unpack_index(content)
    if packed is None:
        return scan_tar(content)
    sizes = np.array(packed.sizes)
    padded = _BLOCK + -(-sizes // _BLOCK) * _BLOCK
    starts = np.cumsum(padded) - padded + _BLOCK
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
        if header[257:262] != b"ustar" or start + size > len(content):
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

    def __init__(self, url: str) -> None:
        """Raises OSError when the shard cannot be opened or fetched, ValueError when it is empty."""
        self.url = url
        with open_local(url) as file:
            self.content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.clips = find_clips(self.content)

    def clip(self, number: int) -> StoredClip:
        """Clip `number` of this shard; UnusableClip when the file ends before it."""
        if number >= len(self.clips):
            raise UnusableClip("truncated shard", f"{self.url} holds {len(self.clips)} whole clips, not {number + 1}")
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

    def clip(self, number: int) -> StoredClip:
        """Clip `number`; UnusableClip when its shard cannot be read or ends too early."""
        shard = int(np.searchsorted(self.first, number, side="right")) - 1
        reader = self._reader(shard)
        if isinstance(reader, UnusableClip):
            raise reader
        return reader.clip(number - int(self.first[shard]))

    def _reader(self, shard: int) -> ShardReader | UnusableClip:
        if shard not in self._open:
            url = join(self.location, self.shards[shard].file)
            try:
                self._open[shard] = ShardReader(url)
            except (OSError, ValueError) as error:
                self._open[shard] = UnusableClip("unreadable shard", f"{url} ({error})")
            if len(self._open) > self.max_open:
                self._open.popitem(last=False)
        self._open.move_to_end(shard)
        return self._open[shard]


def is_remote(location: str) -> bool:
    """Whether a location is a URL (or a `pipe:` command) and not a path."""
    return "://" in location or location.startswith("pipe:")


def join(location: str, file: str) -> str:
    """The URL or path of a file of a data set; `pipe:aws s3 cp s3://bucket/set/{} -` has its own place for it."""
    return location.replace("{}", file) if "{}" in location else f"{location.rstrip('/')}/{file}"


def load_info(location: str) -> DatasetInfo:
    """Read `dataset.json` of a local or remote data set."""
    if not is_remote(location):
        return DatasetInfo.load(Path(location))
    url = join(location, DATASET_FILE)
    try:
        with webdataset.gopen(url) as stream:
            text = stream.read()
    except OSError as error:
        raise FileNotFoundError(f"no data set at {location}: {url} cannot be read ({error})") from error
    return DatasetInfo.parse(text, url)


def open_local(url: str) -> BinaryIO:
    """A real file with the content of `url`: the file itself, or a nameless temporary copy of what is far away."""
    if not is_remote(url):
        return open(url, "rb")
    copy = tempfile.TemporaryFile()  # noqa: SIM115, closed by the caller
    with webdataset.gopen(url) as stream:
        while chunk := stream.read(_COPY_CHUNK):
            copy.write(chunk)
    copy.flush()
    return copy
