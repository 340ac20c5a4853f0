"""A filter in front of the studio: only requests that its own pages send pass; all others are refused with one line.

Gradio fetches URLs for anyone who asks (a file route with a URL, a file given by its URL, a proxy route), answers to
any host name, and fails with status 500 on malformed calls. Behind this filter no URL is fetched, a foreign page cannot
reach the studio by a host name that points here (DNS rebinding), and malformed calls get status 4xx.
"""

import ipaddress
import json
import socket
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_CALL = 1 << 20  # bytes; files come by the route for uploads, which has a limit of its own
UPLOAD = "/upload"
FETCHED = ("proxy=", "file=http:", "file=https:", "file/http:", "file/https:")  # what Gradio would fetch from elsewhere


CLOSED = ("/gradio_api/api/", "/gradio_api/call/", "/gradio_api/component_server")


class Guard:
    """ASGI middleware that refuses foreign host names, foreign origins, URLs to fetch, and malformed calls.

    Args:
        app: the ASGI app behind the filter
        host: address that the studio listens on
        functions: returns the numbers (`fn_index`) of the functions that the pages call
        names: further host names that it answers to, for example that of a reverse proxy
    """

    def __init__(
        self, app: ASGIApp, host: str, functions: Callable[[], Collection[int]], names: Collection[str] = ()
    ) -> None:
        self.app, self.host, self.functions, self.names = app, host, functions, {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on to the app, or answer with a refusal."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self.refusal(scope, headers)
        if refusal is None and scope["type"] == "http" and scope["method"] == "POST" and not upload(scope):
            body = await whole(receive)
            refusal = self.refusal_of_call(scope["path"], body)
            receive = again(body or b"", receive)
        if refusal is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            status, text = refusal
            await PlainTextResponse(f"{text}\n", status)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": refusal[1]})

    def refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and reason, judged by host, origin and path; None: the request may pass."""
        host = headers.get("host", "")
        if not self.is_mine(host):
            return 421, "the studio does not answer to this name"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "the studio answers to its own pages only"
        path = unquote(scope["path"]).lower()
        if any(part in path for part in FETCHED) or "://" in path:
            return 403, "the studio fetches nothing from elsewhere"
        if any(part in path for part in CLOSED):
            return 404, "the studio has pages and no interface for programs"
        return None

    def is_mine(self, host: str) -> bool:
        """Whether a Host header names this computer: localhost, its own name, one of `names`, or an IP address."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in ("localhost", self.host, *self.names):
            return True
        try:
            number = ipaddress.ip_address(name)
        except ValueError:
            return not is_loopback(self.host) and name in (socket.gethostname().lower(), socket.getfqdn().lower())
        return number.is_loopback or not is_loopback(self.host)

    def refusal_of_call(self, path: str, body: bytes | None) -> tuple[int, str] | None:
        """Status and reason, judged by the body of a call; None: the call may pass."""
        if body is None:
            return 413, f"a call has at most {LARGEST_CALL} bytes"
        try:
            call = json.loads(body or b"{}")
        except (ValueError, RecursionError):
            return 400, "a call is JSON"
        if not isinstance(call, dict):
            return 400, "a call is a JSON object"
        number, calls = call.get("fn_index"), "/queue/join" in path or "/run/" in path
        known = number is None or (type(number) is int and number in self.functions())
        named = number is not None and isinstance(call.get("session_hash"), str)
        faults = (
            (404, "there is no such function", not known),
            (400, "a call names its function and its session", calls and not named),
            (400, "the data of a call are a list", not isinstance(call.get("data", []), list)),
            (403, "the studio fetches nothing from elsewhere", names_elsewhere(call)),
        )
        return next(((status, text) for status, text, faulty in faults if faulty), None)


def upload(scope: Scope) -> bool:
    """Whether the request is an upload, which has its own size limit."""
    return str(scope["path"]).rstrip("/").endswith(UPLOAD)


def is_loopback(host: str) -> bool:
    """Whether an address is reachable from this computer only."""
    return host == "localhost" or (host.replace(".", "").isdigit() and host.startswith("127.")) or host == "::1"


def names_elsewhere(node: Any) -> bool:
    """Whether a file in nested dicts and lists is given by a URL, which Gradio would fetch."""
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            path = one.get("path")
            if isinstance(path, str) and ("://" in path or path.lower().startswith(("http:", "https:", "//"))):
                return True
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return False


async def whole(receive: Receive) -> bytes | None:
    """The body of a request; None if it exceeds `LARGEST_CALL` bytes."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > LARGEST_CALL:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def again(body: bytes, receive: Receive) -> Receive:
    """A receive channel that first replays a body that was already read, then continues with the original one."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return waiting.pop() if waiting else await receive()

    return received
