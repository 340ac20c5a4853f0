"""A web server on this machine that serves a folder by ranges of bytes, counts, and fails as it is told to."""

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one packet: in two, the second waits for an acknowledgement of the first
    server: "RangeServer"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        size = path.stat().st_size
        first, last = 0, size - 1
        asked = self.headers["Range"] if self.server.ranges else None
        if asked:
            start, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(end or last), last)
        mood = self.server.mood(self.path, first, last)
        if isinstance(mood, int):
            self.send_error(mood)
        elif mood == "drop":
            self.close_connection = True
        elif first > last:
            self.send_error(416)
        else:
            self._send(path, first, last, total=size if asked else None, mood=mood)

    def _send(self, path: Path, first: int, last: int, total: int | None, mood: object) -> None:
        with open(path, "rb") as file:
            file.seek(first)
            body = file.read(last + 1 - first)
        told = len(body) // 2 if mood == "short" else len(body)  # short: as if that were all that was asked for
        body = body[: len(body) // 2] if mood in ("short", "cut") else body
        self.send_response(200 if total is None else 206)
        if total is not None:
            self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
        self.send_header("Content-Length", str(told))
        self.end_headers()
        self.wfile.write(body)
        self.server.count(self.path, len(body))
        self.close_connection = mood == "cut"


class RangeServer(http.server.ThreadingHTTPServer):
    """Attributes:
    ranges: whether it serves ranges
    moods: what happens to the next requests of shards: a status to answer with, "drop" (no answer), "cut" (half
        of what was promised), "short" (half, as if that were all) or "well"
    always: the same for all further ones
    asked: (path, first, last) of each request; sent: bytes of each path's bodies
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder)))
        self.ranges = True
        self.moods: list[object] = []
        self.always: object = "well"
        self.asked: list[tuple[str, int, int]] = []
        self.sent: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def mood(self, path: str, first: int, last: int) -> object:
        with self._lock:
            self.asked.append((path, first, last))
            if not path.endswith(".tar"):
                return "well"
            return self.moods.pop(0) if self.moods else self.always

    def count(self, path: str, size: int) -> None:
        with self._lock:
            self.sent[path] = self.sent.get(path, 0) + size

    def sent_of_shards(self) -> int:
        """Bytes of shards sent so far."""
        with self._lock:
            return sum(size for path, size in self.sent.items() if path.endswith(".tar"))

    def handle_error(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[RangeServer]:
    """A server of `folder` while the block runs."""
    server = RangeServer(folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
