"""Downloads over connections that break, from servers with and without ranges, and the command that uses them."""

import hashlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from talkinghead import downloads, pretrained
from talkinghead.downloads import fetch
from tests.test_pretrained import caffemodel, full_arrays

CONTENT = bytes(range(256)) * 4096  # 1 MB, more than is read at once
DIGEST = hashlib.sha256(CONTENT).hexdigest()
ROOT = Path(__file__).parents[1]


@dataclass
class Server:
    """Serves `files` and remembers what was asked for: path and range.

    break_after   the next connections end after so many bytes of the body each
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    break_after: list[int] = field(default_factory=list)
    ranges: bool = True
    errors: list[int] = field(default_factory=list)
    seconds: float = 0.0
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append((self.path, wanted))
            time.sleep(state.seconds)
            if state.errors:
                return self.send_error(state.errors.pop(0))
            if self.path not in state.files:
                return self.send_error(404)
            return self.answer(state.files[self.path], int(wanted[6:-1]) if wanted and state.ranges else 0)

        def answer(self, content: bytes, start: int) -> None:
            if start >= len(content) > 0:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                return self.end_headers()
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:][: state.break_after.pop(0)] if state.break_after else content[start:])

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        state.url = f"http://127.0.0.1:{http.server_port}"
        state.files["/net.pth"] = CONTENT
        monkeypatch.setattr(downloads, "RETRY_DELAYS_S", (0.0, 0.0))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield state
        http.shutdown()


def get(server: Server, folder: Path, checksum: str = DIGEST) -> Path:
    fetch(f"{server.url}/net.pth", folder / "net.pth", checksum)
    assert [path.name for path in folder.iterdir()] == ["net.pth"]
    return folder / "net.pth"


def test_a_broken_connection_goes_on_where_it_ended(server: Server, tmp_path: Path) -> None:
    server.break_after = [300_000, 200_000]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, "bytes=300000-", "bytes=500000-"]


def test_what_a_stopped_process_left_is_gone_on_with(server: Server, tmp_path: Path) -> None:
    (tmp_path / "net.pth.part").write_bytes(CONTENT[:123_456])
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == ["bytes=123456-"]


def test_a_download_that_had_been_whole_is_not_made_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "net.pth.part").write_bytes(CONTENT)
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 1


@pytest.mark.parametrize("left", [b"another file" * 1000, CONTENT + b"too much"])
def test_what_was_left_of_another_file_is_replaced(server: Server, tmp_path: Path, left: bytes) -> None:
    (tmp_path / "net.pth.part").write_bytes(left)
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == ("/net.pth", None)


def test_a_server_without_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    server.ranges, server.break_after = False, [300_000]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_a_connection_that_brings_nothing_is_given_up_and_what_came_is_kept(server: Server, tmp_path: Path) -> None:
    server.break_after = [300_000, 0, 0, 0]
    with pytest.raises(OSError, match="ended after 300000 of 1048576 bytes; 0 MB are kept, and the same command goes"):
        fetch(f"{server.url}/net.pth", tmp_path / "net.pth", DIGEST)
    assert (tmp_path / "net.pth.part").read_bytes() == CONTENT[:300_000]
    assert not (tmp_path / "net.pth").exists()
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(server: Server, tmp_path: Path) -> None:
    server.errors = [503, 429]
    assert get(server, tmp_path).read_bytes() == CONTENT
    server.asked.clear()
    with pytest.raises(OSError, match="404"):
        fetch(f"{server.url}/other.pth", tmp_path / "other.pth")
    assert len(server.asked) == 1


def test_another_file_than_expected_is_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"brought another file: sha256 {DIGEST}, expected 0123"):
        get(server, tmp_path, "0123")
    assert not list(tmp_path.iterdir())


def test_processes_that_want_the_same_file_download_it_once(server: Server, tmp_path: Path) -> None:
    server.seconds = 0.2
    threads = [threading.Thread(target=get, args=(server, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "net.pth").read_bytes() == CONTENT
    assert len(server.asked) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["net.pth"]


@pytest.fixture
def voxceleb(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """All that the set needs, on the server."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    for name in pretrained.SETS["voxceleb"]:
        source = pretrained.SOURCES[name]
        content = name.encode() * 1000
        server.files[f"/{source.file}"] = content
        digits = hashlib.sha256(content).hexdigest()[:8]
        if source.url:
            found = replace(source, url=f"{server.url}/{source.file}", sha256=digits)
        else:
            server.files["/net.caffemodel"] = content = caffemodel(full_arrays(), new_kind=False)
            archive = pretrained.Archive(
                f"{server.url}/net.caffemodel", hashlib.md5(content).hexdigest(), 1, "convert_vggface"
            )
            found = replace(source, archive=archive)
        monkeypatch.setitem(pretrained.SOURCES, name, found)
    return server


def test_one_command_fetches_all_that_voxceleb_needs(
    voxceleb: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "weights"
    voxceleb.break_after = [1000]
    assert pretrained.main(["--download", "voxceleb", "--weights-dir", str(weights)]) == 0
    names = {pretrained.SOURCES[name].file for name in pretrained.SETS["voxceleb"]}
    assert {path.name for path in weights.iterdir()} == names, "and the archive of VGGFace is gone"
    with safe_open(weights / "vggface.safetensors", "pt") as stored:
        assert len(stored.keys()) == 26
    text = capsys.readouterr().out
    assert "0 of 4 are not here" in text
    assert "research only" in text
    asked = len(voxceleb.asked)
    assert pretrained.main(["--download", "voxceleb", "--weights-dir", str(weights)]) == 0
    assert len(voxceleb.asked) == asked, "nothing is fetched twice"


def test_the_set_of_voxceleb_is_what_its_experiment_reads() -> None:
    backbones = (ROOT / "conf/loss/v2.yaml").read_text()
    assert all(re.search(rf"\b{name}\b", backbones) for name in ("vgg19", "vggface"))
    assert pretrained.SETS["voxceleb"] == pretrained.SETS["meta_voxceleb"]
    assert {"vgg19_caffe", "vggface", "s3fd", "2dfan4"} <= {*pretrained.SETS["voxceleb"]}


def test_a_killed_command_goes_on(server: Server, tmp_path: Path) -> None:
    """kill -9 in the middle, as a machine that goes down: the next start asks for the rest alone."""
    code = f"from pathlib import Path; from talkinghead.downloads import fetch; fetch('{server.url}/net.pth', " + (
        f"Path({str(tmp_path / 'net.pth')!r}), {DIGEST!r})"
    )
    server.break_after, server.seconds = [400_000, 0], 0.0
    killer = f"import os, talkinghead.downloads as d; d.time.sleep = lambda _: os.kill(os.getpid(), 9); {code}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", killer], env=environment, check=False, cwd=ROOT).returncode == -9
    assert (tmp_path / "net.pth.part").stat().st_size == 400_000
    server.break_after.clear()
    server.asked.clear()
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, cwd=ROOT)
    assert server.asked == [("/net.pth", "bytes=400000-")]
    assert (tmp_path / "net.pth").read_bytes() == CONTENT
