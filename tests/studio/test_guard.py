"""What may reach the studio: its own pages' requests. And what it leaves, however it ends: nothing."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from talkinghead.studio.guard import LARGEST_CALL, Guard
from talkinghead.studio.work_folder import LOCK, PREFIX, sweep, workplace

ROOT = Path(__file__).parents[2]
QUEUE = "/gradio_api/queue/join"
CALL = {
    "fn_index": 2,
    "session_hash": "abc",
    "data": [1, None, {"path": "/tmp/gradio/a.jpg", "url": "http://127.0.0.1/x"}],
}


async def behind(scope: Scope, receive: Receive, send: Send) -> None:
    """Says what has reached it."""
    body = await Request(scope, receive).body()
    await JSONResponse({"path": scope["path"], "body": body.decode("latin-1")})(scope, receive, send)


def ask(
    path: str,
    method: str = "GET",
    content: bytes = b"",
    host: str = "127.0.0.1",
    name: str = "127.0.0.1:7860",
    names: tuple[str, ...] = (),
    **headers: str,
) -> httpx.Response:
    """The answer of a studio that listens on `host`, called by `name`."""

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(Guard(behind, host, lambda: {0, 1, 2}, names))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860") as client:
            return await client.request(method, path, content=content, headers={"host": name, **headers})

    return asyncio.run(asked())


def call(content: object, path: str = QUEUE) -> httpx.Response:
    return ask(path, "POST", content if isinstance(content, bytes) else json.dumps(content).encode())


def test_its_own_pages_pass() -> None:
    assert ask("/").status_code == 200
    assert ask("/gradio_api/file=/tmp/gradio/a.mp4").json()["path"] == "/gradio_api/file=/tmp/gradio/a.mp4"
    assert json.loads(call(CALL).json()["body"]) == CALL
    assert call(CALL, "/gradio_api/run/predict").status_code == 200, "what needs no turn in the queue"
    own = ask(QUEUE, "POST", json.dumps(CALL).encode(), origin="http://127.0.0.1:7860")
    assert own.status_code == 200
    large = ask("/gradio_api/upload", "POST", b"x" * (LARGEST_CALL + 1))
    assert len(large.json()["body"]) == LARGEST_CALL + 1


@pytest.mark.parametrize(("host", "name", "passes"), [
    ("127.0.0.1", "localhost:7860", True), ("127.0.0.1", "[::1]:7860", True), ("127.0.0.1", "evil.example:7860", False),
    ("127.0.0.1", "192.168.1.5:7860", False), ("127.0.0.1", "", False), ("127.0.0.1", "[::1", False),
    ("0.0.0.0", "192.168.1.5:7860", True), ("0.0.0.0", "evil.example", False), ("studio.lan", "studio.lan", True),
])  # fmt: skip
def test_it_answers_to_its_own_names(host: str, name: str, passes: bool) -> None:
    assert ask("/", host=host, name=name).status_code == (200 if passes else 421)


def test_behind_another_server_it_answers_to_that_ones_name() -> None:
    mine, origin = ("Studio.example.org",), {"origin": "https://studio.example.org"}
    assert ask("/", name="studio.example.org", names=mine).status_code == 200
    sent = json.dumps(CALL).encode()
    assert ask(QUEUE, "POST", sent, name="studio.example.org", names=mine, **origin).status_code == 200
    assert ask("/", name="studio.example.org").status_code == 421
    assert ask("/", name="evil.example", names=mine).status_code == 421


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
def test_pages_of_others_are_refused(origin: str) -> None:
    assert ask(QUEUE, "POST", json.dumps(CALL).encode(), origin=origin).status_code == 403
    assert ask("/", origin=origin).status_code == 403


@pytest.mark.parametrize("path", [
    "/gradio_api/file=http://example.com/x", "/gradio_api/file=HTTPS://example.com/x", "/file=http:/x",
    "/gradio_api/file=http%3A%2F%2Fexample.com", "/gradio_api/proxy=https://a.hf.space/x",
])  # fmt: skip
def test_nothing_is_fetched_from_elsewhere(path: str) -> None:
    assert ask(path).status_code == 403


@pytest.mark.parametrize("data", [
    [{"path": "http://example.com/a.jpg", "meta": {"_type": "gradio.FileData"}}], [[{"a": {"path": "HTTPS://x/y"}}]],
    [{"path": "//example.com/a"}], [{"path": "ftp://example.com/a"}],
])  # fmt: skip
def test_no_file_by_its_address(data: list) -> None:
    assert call({**CALL, "data": data}).status_code == 403


@pytest.mark.parametrize(("content", "status"), [
    (b"{", 400), (b"[]", 400), (b"7", 400), (b"\xff", 400), (b"[" * 100_000, 400), ({**CALL, "fn_index": 999}, 404),
    ({**CALL, "fn_index": True}, 404), ({**CALL, "fn_index": "0"}, 404), ({**CALL, "data": {}}, 400),
    ({"data": []}, 400),
    ({**CALL, "session_hash": None}, 400), (b"x" * (LARGEST_CALL + 1), 413),
])  # fmt: skip
def test_odd_calls_are_the_callers_fault(content: object, status: int) -> None:
    answer = call(content)
    assert answer.status_code == status
    assert answer.text.count("\n") == 1


@pytest.mark.parametrize("path", ["/gradio_api/api/x", "/gradio_api/call/v2/x"])
def test_there_is_no_interface_for_programs(path: str) -> None:
    assert call(CALL, path).status_code == 404


def test_a_folder_goes_with_its_studio_and_a_killed_ones_with_the_next(tmp_path: Path) -> None:
    killed, young, other = (tmp_path / f"{PREFIX}{name}" for name in ("killed", "young", "other"))
    for folder in (killed, young, other):
        (folder / "files").mkdir(parents=True)
    (killed / LOCK).write_text("")
    (link := tmp_path / f"{PREFIX}link").symlink_to(other)
    with workplace(tmp_path) as first:
        assert not killed.exists()
        assert young.is_dir(), "a studio that is just starting"
        (first / "files").mkdir()
        with workplace(tmp_path) as second:
            assert first.is_dir()
            assert second != first
        assert not second.exists()
    assert not first.exists()
    os.utime(young, (1, 1))
    assert sweep(tmp_path) == [young]
    assert other.is_dir()
    assert link.is_symlink()


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    """The real command, in a world whose proxy leads nowhere."""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9",
                   "OMP_NUM_THREADS": "1"}  # fmt: skip
    command = [sys.executable, "-m", "talkinghead.studio", "port=null", "provenance=metadata"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = next(line for line in process.stdout if "http://" in line)
    yield process, line.split()[1]
    process.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_command_ends_at_once_and_leaves_nothing(
    studio: tuple[subprocess.Popen, str], tmp_path: Path, sign: signal.Signals
) -> None:
    process, url = studio
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:  # an open connection does not hold it
        assert client.get("/").status_code == 200
        assert client.get("/", headers={"host": "evil.example"}).status_code == 421
        assert client.post(QUEUE, content=b"{}").status_code == 400
        assert list(tmp_path.glob(f"{PREFIX}*"))
        began = time.monotonic()
        process.send_signal(sign)
        process.wait(30)
        assert time.monotonic() - began < 2
    if sign == signal.SIGKILL:
        sweep(tmp_path)
    assert not list(tmp_path.glob(f"{PREFIX}*"))
