"""Random access to the clips of a shard: only the bytes of the frames that are used are read.

Local shards are memory-mapped; remote ones are read by byte ranges (`data.ranges`). Where a server or a command only
provides whole files, a shard is fetched into an unnamed temporary file (`data.remote`), then read like a local one.
"""

import contextlib
import io
import json
import mmap
import os
import shlex
import stat
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO

import numpy as np
from jaxtyping import Float, Int

from talkinghead.data.cache import INDEX, DiskCache
from talkinghead.data.ranges import RangeReader, RemoteFile, has_ranges
from talkinghead.data.remote import fetch, refuse_fault
from talkinghead.data.shards import DATASET_FILE, Content, DatasetInfo, ShardEntry, member_suffixes, unpack_index
from talkinghead.names import as_line, is_name

NAMES = {"identity", "video", "clip", "motion_clip"}  # entries of a clip's description that must be names
_BLOCK = 512  # bytes of a tar header; members are padded to multiples of it


class UnusableClip(Exception):
    """A clip, or its shard, cannot provide this episode. `cause` is a fixed phrase by which they are counted."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause = cause
        self.detail = detail


@dataclass(frozen=True)
class ClipIndex:
    """Names and positions of the members of one clip in its shard."""

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
    """The suffixes that are frames, in order of time."""
    return tuple(sorted(suffix for suffix in suffixes if suffix.endswith(".jpg")))


@dataclass(frozen=True)
class StoredClip:
    """One clip of an open shard; its members are read on demand."""

    file: str
    index: ClipIndex
    content: mmap.mmap | RemoteFile | bytes

    @property
    def key(self) -> str:
        return self.index.key

    def read(self, suffix: str) -> bytes:
        """The bytes of one member; UnusableClip when the clip does not have it."""
        if suffix not in self.index.suffixes:
            raise UnusableClip(f"missing {suffix}", f"clip {self.key} of {self.file}")
        try:
            return self.content[slice(*self._range(suffix))]
        except OSError as error:
            raise UnusableClip("unreadable shard", f"{self.file} ({error})") from error

    def read_ahead(self, suffixes: Iterable[str]) -> None:
        """Fetch members that will be read soon, in parallel; see `read_ahead` of this module."""
        read_ahead([(self, suffixes)])

    def _range(self, suffix: str) -> tuple[int, int]:
        """Byte range of a member, the end excluded."""
        member = self.index.suffixes.index(suffix)
        start = int(self.index.starts[member])
        return start, start + int(self.index.sizes[member])

    def meta(self) -> dict:
        """The clip's json, checked; entries as in `shards.Clip.meta`. UnusableClip where it is wrong."""
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


def read_ahead(wanted: Sequence[tuple[StoredClip, Iterable[str]]]) -> None:
    """Fetch members of clips of one pool that will be read soon, in parallel; does nothing for local clips."""
    pieces = [
        clip.content.piece(*clip._range(suffix))
        for clip, suffixes in wanted
        for suffix in suffixes
        if isinstance(clip.content, RemoteFile) and suffix in clip.index.suffixes
    ]
    if pieces:
        wanted[0][0].content.reader.read_ahead(pieces)  # type: ignore[union-attr]


def read_points(content: bytes, num_frames: int) -> Float[np.ndarray, "F 68 2"]:
    """Points from an npy file, whose header is checked before memory is allocated.

    Raises:
        ValueError: where it cannot be read.
        LookupError: with the shape, where that is not [num_frames, 68, 2].
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


def find_clips(content: Content) -> list[ClipIndex]:
    """The clips of a shard from its index, or from the headers of a tar without index."""
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


def scan_tar(content: Content) -> list[ClipIndex]:
    """The complete clips of a tar. Only headers are read; a truncated tar loses its last clip."""
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


def remote_clips(file: RemoteFile) -> list[ClipIndex]:
    """The clips of a remote shard; cached, so that they are fetched once."""
    cache, name = file.reader.cache, f"{file.folder}/{INDEX}"
    if cache is not None and (packed := cache.get(name)) is not None:
        with contextlib.suppress(ValueError, TypeError, zlib.error):
            return unpack_clips(packed)
    clips = find_clips(RemoteFile(file.url, file.version, file.length))
    if cache is not None:
        cache.put({name: pack_clips(clips)})
    return clips


def pack_clips(clips: list[ClipIndex]) -> bytes:
    """Clip indices as compressed JSON, for the cache."""
    rows = [(clip.key, clip.suffixes, clip.starts.tolist(), clip.sizes.tolist()) for clip in clips]
    return zlib.compress(json.dumps(rows, separators=(",", ":")).encode(), 1)


def unpack_clips(packed: bytes) -> list[ClipIndex]:
    """The clip indices from the output of `pack_clips`."""
    rows = json.loads(zlib.decompress(packed))
    return [ClipIndex(key, tuple(suffixes), np.array(starts), np.array(sizes)) for key, suffixes, starts, sizes in rows]


class ShardReader:
    """An open shard: its clips by number."""

    def __init__(self, url: str, entry: ShardEntry | None = None, ranges: RangeReader | None = None) -> None:
        """Open a shard.

        Args:
            entry: its entry in dataset.json, which a fetched copy must match in length and sha256
            ranges: reads a remote shard piece by piece, and requires `entry`; None: fetch it whole

        Raises:
            OSError: when the shard cannot be opened or fetched.
            DataFault: when no shard can.
            ValueError: when it is empty, not a file, or has more clips than dataset.json says, never seen.
        """
        self.url = url
        self.content: mmap.mmap | RemoteFile
        if ranges is not None and entry is not None:
            self.content = RemoteFile(url, entry.sha256, entry.bytes, ranges)
            self.clips = remote_clips(self.content)
        else:
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
    """All clips of a split, numbered from 0 over its shards; the most recently used shards stay open."""

    def __init__(
        self, location: str, shards: list[ShardEntry], max_open: int = 64, cache: DiskCache | None = None
    ) -> None:
        """`max_open`: shards kept open. `cache`: for pieces of remote shards."""
        self.location = location
        self.cache = cache
        self.shards = shards
        self.max_open = max_open
        self.first = np.cumsum([0] + [shard.samples for shard in shards])
        self._open: OrderedDict[int, ShardReader | UnusableClip] = OrderedDict()

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": OrderedDict()}  # each worker process opens its own

    @cached_property
    def ranges(self) -> RangeReader | None:
        """Reads pieces of remote shards; None for local shards, and where only whole files are provided."""
        far = is_remote(self.location) and has_ranges(join(self.location, DATASET_FILE))
        return RangeReader(self.cache) if far else None

    def forget(self) -> None:
        """Drop what was read ahead (`read_ahead`)."""
        if self.ranges is not None:
            self.ranges.forget()

    def shard_of(self, number: int) -> int:
        """The number of the shard that holds clip `number`."""
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
                self._open[shard] = ShardReader(url, self.shards[shard], self.ranges)
            except (OSError, ValueError) as error:
                refuse_fault(error, url)
                unusable = UnusableClip("unreadable shard", f"{url} ({error})")
                if is_remote(self.location) or not isinstance(error, FileNotFoundError | ValueError):
                    return unusable  # not cached: it may be readable at the next visit
                self._open[shard] = unusable
            if len(self._open) > self.max_open:
                self._open.popitem(last=False)
        self._open.move_to_end(shard)
        return self._open[shard]


def is_remote(location: str) -> bool:
    """Whether a location is a URL (or a `pipe:` command) and not a path."""
    return "://" in location or location.startswith("pipe:")


def join(location: str, file: str) -> str:
    """The URL or path of a file of a data set; in `pipe:aws s3 cp s3://bucket/set/{} -` the braces stand for it.

    A shell runs a `pipe:` that the user gave. The file name comes from dataset.json, which may be a stranger's: it is
    quoted as one word, and `DatasetInfo` allows plain names only.
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
    """Open a local file, or an unnamed temporary copy of a remote one.

    Raises:
        OSError: where it cannot be opened or fetched.
        ValueError: where it is a pipe or a device, which would never end.
    """
    if is_remote(url):
        return fetch(url, (entry.bytes, entry.sha256) if entry else None)
    if not stat.S_ISREG(os.stat(url).st_mode):
        raise ValueError(f"{url} is not a file")
    return open(url, "rb")
