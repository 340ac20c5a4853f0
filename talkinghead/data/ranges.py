"""Remote files by byte range: many small pieces in parallel, without fetching whole files."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache

from talkinghead.data.cache import DiskCache, Piece, folder_name
from talkinghead.data.remote import Truncated, file_system, is_known, tries

AT_ONCE = 16  # parallel requests of one process
MOST_AHEAD = 256 << 20  # bytes read ahead and not yet used
_GAP = 1024  # bytes; smaller gaps, as a header and padding between members of a tar, cost less than a request


@lru_cache(maxsize=64)
def has_ranges(url: str) -> bool:
    """Whether the server of `url`, which must exist, supports byte ranges; if not, files must be fetched whole."""
    if not is_known(url):
        return False
    if not url.startswith(("http://", "https://")):
        return True
    system, path = file_system(url)
    for attempt in tries(url):
        with attempt:
            if len(system.cat_file(path, start=0, end=1)) == 1:
                return True
            break
    warnings.warn(f"the server of {url} does not serve ranges of bytes: every shard is fetched whole", stacklevel=2)
    return False


class RangeReader:
    """Reads pieces of remote files; those read ahead or cached are not fetched again."""

    def __init__(self, cache: DiskCache | None = None) -> None:
        self.cache = cache
        self._ahead: dict[Piece, bytes] = {}

    def __getstate__(self) -> dict:
        return {"cache": self.cache, "_ahead": {}}

    def read(self, pieces: Sequence[Piece]) -> list[bytes]:
        """The bytes of each piece.

        Raises:
            DataFault, OSError: as `remote.tries` does.
        """
        found = {piece: content for piece in pieces if (content := self._at_hand(piece)) is not None}
        missing = [piece for piece in dict.fromkeys(pieces) if piece not in found]
        if missing:
            fetched = dict(zip(missing, fetch_pieces(missing), strict=True))
            if self.cache is not None:
                self.cache.put({piece.name: content for piece, content in fetched.items()})
            found |= fetched
        return [found[piece] for piece in pieces]

    def read_ahead(self, pieces: Sequence[Piece]) -> None:
        """Fetch pieces that will be needed soon in parallel, and keep them in memory until `forget`.

        Missing pieces are ignored until they are read; faults of the network are raised here.
        """
        try:
            self._ahead |= dict(zip(pieces, self.read(pieces), strict=True))
        except OSError:
            return
        too_many = sum(map(len, self._ahead.values())) - MOST_AHEAD
        while too_many > 0:
            too_many -= len(self._ahead.pop(next(iter(self._ahead))))

    def forget(self) -> None:
        """Drop the pieces read ahead."""
        self._ahead.clear()

    def _at_hand(self, piece: Piece) -> bytes | None:
        content = self._ahead.get(piece)
        if content is None and self.cache is not None:
            content = self.cache.get(piece.name, piece.stop - piece.start)
        return content


@dataclass(frozen=True)
class RemoteFile:
    """A remote file that is sliced like bytes. `version`, its sha256, names it in the cache."""

    url: str
    version: str
    length: int
    reader: RangeReader = field(default_factory=RangeReader, compare=False)

    @property
    def folder(self) -> str:
        """Folder of its pieces in a cache."""
        return folder_name(self.url, self.version)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self.length)
        return self.reader.read([self.piece(start, stop)])[0]

    def piece(self, start: int, stop: int) -> Piece:
        return Piece(self.url, self.version, int(start), int(stop))


@dataclass(frozen=True)
class _Block:
    """A byte range fetched by one request; it covers one piece or several neighbours."""

    url: str
    start: int
    stop: int


def fetch_pieces(pieces: Sequence[Piece]) -> list[bytes]:
    """The bytes of each piece, fetched in parallel; neighbours share a request.

    Raises:
        DataFault, OSError: as `remote.tries` does.
    """
    blocks: list[_Block] = []
    place: dict[Piece, int] = {}  # in `blocks`
    for piece in sorted(pieces):
        last = blocks[-1] if blocks else None
        if last is not None and last.url == piece.url and piece.start - last.stop <= _GAP:
            blocks[-1] = _Block(last.url, last.start, max(last.stop, piece.stop))
        else:
            blocks.append(_Block(piece.url, piece.start, piece.stop))
        place[piece] = len(blocks) - 1
    contents = _fetch([block for block in blocks if block.stop > block.start])
    parts = [(contents.get(blocks[place[piece]], b""), blocks[place[piece]].start) for piece in pieces]
    return [
        content[piece.start - first : piece.stop - first] for piece, (content, first) in zip(pieces, parts, strict=True)
    ]


def _fetch(blocks: list[_Block]) -> dict[_Block, bytes]:
    """Fetch all blocks; those that fail, or arrive incomplete, are requested again."""
    found: dict[_Block, bytes] = {}
    if not blocks:
        return found
    for attempt in tries(blocks[0].url):
        with attempt:
            missing = [block for block in blocks if block not in found]
            errors: list[Exception] = []
            for block, content in zip(missing, _ask(missing), strict=True):
                size = block.stop - block.start
                if isinstance(content, bytes) and len(content) == size:
                    found[block] = content
                    continue
                error = content if isinstance(content, Exception) else Truncated(f"{len(content)} bytes of {size} came")
                error.url_of_block = block.url  # type: ignore[attr-defined]
                errors.append(error)
            if not errors:
                return found
            raise errors[0]
    raise AssertionError


def _ask(blocks: list[_Block]) -> list[bytes | Exception]:
    """One request for each block, in parallel; exceptions are returned."""
    system = file_system(blocks[0].url)[0]
    paths = [system._strip_protocol(block.url) for block in blocks]
    starts, stops = [block.start for block in blocks], [block.stop for block in blocks]
    if system.async_impl:
        return system.cat_ranges(paths, starts, stops, on_error="return", batch_size=AT_ONCE)

    def one(path: str, start: int, stop: int) -> bytes | Exception:
        try:  # without a cache that reads ahead megabytes for a frame
            return system.cat_file(path, start=start, end=stop, cache_type="none")
        except Exception as error:
            return error

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(one, paths, starts, stops))
