"""Shared by the fronts: requests as Lambda's events, complete responses, and one ASGI app per host."""

import asyncio
import base64
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.deployed.cloud.template import ACCOUNT
from tests.integration.lambda_runtime.runtime_api import PRELUDE_END, Invocation

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_INVOCATION_BYTES = 6 * 1024 * 1024  # of a synchronous invocation, either way (Lambda quotas)


class Whole(NamedTuple):
    """A whole answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    async def send(self, send: Send) -> None:
        """Send it, with its length."""
        length = [("content-length", str(len(self.body)))] if self.status != 204 else []
        kept = [(name, value) for name, value in self.headers if name != "content-length"]
        await start(send, self.status, [*kept, *length])
        await send({"type": "http.response.body", "body": self.body})


def plain(status: int, body: str, kind: str = "application/json") -> Whole:
    """A front's own answer."""
    return Whole(status, [("content-type", kind)], body.encode())


async def start(send: Send, status: int, headers: list[tuple[str, str]]) -> None:
    """Send the head of an answer."""
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": encoded})


async def body_of(receive: Receive) -> bytes:
    """The whole body of a request."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


def headers_of(scope: Scope) -> dict[str, str]:
    """The headers by their names in lower case; those that came twice are joined."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]},{text}" if key in found else text
    return found


def event_of(scope: Scope, body: bytes, domain: str, route: str, parameters: Mapping[str, str]) -> dict[str, Any]:
    """The event that API Gateway (HTTP APIs, payload format 2.0) and function URLs make of a request."""
    headers = headers_of(scope)
    cookies = headers.pop("cookie", "")
    is_text = headers.get("content-type", "").startswith(("text/", "application/json"))
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": route,
        "rawPath": scope["path"],
        "rawQueryString": scope["query_string"].decode("latin-1"),
        "headers": {**headers, "host": domain},
        "requestContext": {
            "accountId": ACCOUNT,
            "apiId": domain.split(".", 1)[0],
            "domainName": domain,
            "domainPrefix": domain.split(".", 1)[0],
            "http": {
                "method": scope["method"],
                "path": scope["path"],
                "protocol": "HTTP/1.1",
                "sourceIp": "127.0.0.1",
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": "id",
            "routeKey": route,
            "stage": "$default",
            "time": time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime()),
            "timeEpoch": int(time.time() * 1000),
        },
        "isBase64Encoded": not is_text,
    }
    if cookies:
        event["cookies"] = [cookie.strip() for cookie in cookies.split(";")]
    if parameters:
        event["pathParameters"] = dict(parameters)
    if body:
        event["body"] = body.decode() if is_text else base64.b64encode(body).decode()
    else:
        event["isBase64Encoded"] = False
    return event


async def chunks(invocation: Invocation) -> AsyncIterator[bytes]:
    """The chunks of a response, as they come; a thread reads them to the end, also after the client has left."""
    loop, found = asyncio.get_running_loop(), asyncio.Queue[bytes | None]()

    def pump() -> None:
        chunk: bytes | None = b""
        while chunk is not None:
            chunk = invocation.chunks.get()
            with suppress(RuntimeError):  # the front was stopped
                loop.call_soon_threadsafe(found.put_nowait, chunk)

    threading.Thread(target=pump, daemon=True).start()
    while (chunk := await found.get()) is not None:
        yield chunk


async def prelude(stream: AsyncIterator[bytes]) -> tuple[bytes, bytes]:
    """The prelude of a streamed response, and the part of the body that came with it."""
    text = b""
    async for chunk in stream:
        text += chunk
        if PRELUDE_END in text:
            break
    head, _, rest = text.partition(PRELUDE_END)
    return head, rest


async def call(app: App, scope: Scope, body: bytes) -> Whole:
    """Ask an app in this process, and return its whole answer."""
    head: dict[str, Any] = {}
    answer = bytearray()

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            head.update(message)
        answer.extend(message.get("body", b""))

    await app(scope, receive, send)
    headers = [(name.decode(), value.decode("latin-1")) for name, value in head["headers"]]
    return Whole(head["status"], headers, bytes(answer))


class Hosts:
    """Routes each request to the app of its host, as DNS does; an unknown name is not found."""

    def __init__(self) -> None:
        self.apps: dict[str, App] = {}

    def add(self, url: str, app: App) -> None:
        """Have this app answer at the host, and port, of a URL."""
        self.apps[urlsplit(url).netloc] = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        app = self.apps.get(headers_of(scope).get("host", ""))
        if app is None:
            await plain(421, "no host of this cloud\n", "text/plain").send(send)
            return
        await app(scope, receive, send)
