"""A stand-in for Upstash's REST API over a real Redis, which fails on demand.

It follows https://upstash.com/docs/redis/features/restapi: a JSON command to `/`, a list of them to `/pipeline` and
`/multi-exec`; `{"result": …}` or `{"error": …}` for each; base64 if `Upstash-Encoding` is base64; 400, 401 and
405. Commands that block are refused. `/subscribe/<channel>` is an event stream: `data: subscribe,<channel>,1`, then
`data: message,<channel>,<message>`. The documentation names no keepalives, and there are none.
"""

import asyncio
import base64
import json
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import hiredis

from tests.support.processes import HOST, free_port
from tests.support.raw_http import parse_head

TOKEN = "AYNgAS2553feg6a2d9842h2a0gcdb5f8efe9934DQ="
REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed"}
BLOCKING = {"SUBSCRIBE", "PSUBSCRIBE", "BLPOP", "BRPOP", "BZPOPMIN", "BZPOPMAX"}


@dataclass(frozen=True)
class Fault:
    """What happens to one request instead of a good answer. By default the commands are not run."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b'{"error":"ERR no"}'
    run: bool = False  # … the commands, and then answer, as far as that goes
    keep: int | None = None  # bytes of the answer that are sent before the connection breaks
    silent: bool = False  # the request is read, and that is all


Ring = Callable[[str], Sequence[tuple[float, str]]]
"""A published message → what the subscriber gets instead, and after how many seconds."""


def at_once(message: str) -> Sequence[tuple[float, str]]:
    """Deliver each message as it was published."""
    return ((0.0, message),)


@dataclass(frozen=True)
class Request:
    """One request, with its headers and body."""

    path: str
    headers: Mapping[str, str]
    commands: Sequence[Sequence[Any]]


class StandIn:
    """Serves in a thread of its own, so that a test may block, or count requests while it is idle."""

    def __init__(self, redis_port: int) -> None:
        self.port = free_port()
        self.redis_port = redis_port
        self.token = TOKEN
        self.requests: list[Request] = []
        self.connections = 0
        self.faults: deque[Fault] = deque()  # one for each request but SUBSCRIBE, from the next one on
        self.stream_faults: deque[Fault] = deque()  # one for each SUBSCRIBE, from the next one on
        self.ring: Ring = at_once
        self.streams = 0  # that are open
        self.latency = 0.0  # seconds of a round trip
        self._subscribers: set[asyncio.Task[None]] = set()
        self.replica_offset: int | None = None  # plain reads see no entry after it: a replica that is behind
        self.most_bytes: int | None = None  # of one command's reply
        self.most_request_bytes: int | None = None  # of a request
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"stand-in-{self.port}", daemon=True)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def commands(self) -> Counter[str]:
        """How many of each command came by now: what would be billed."""
        return Counter(str(command[0]) for request in list(self.requests) for command in request.commands)

    def __enter__(self) -> Self:
        self._thread.start()
        self.resume()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def resume(self) -> None:
        """Listen, from the start or after a `stop`."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    def stop(self) -> None:
        """Cut every connection and refuse new ones."""
        asyncio.run_coroutine_threadsafe(self._refuse(), self._loop).result()

    def cut_streams(self) -> None:
        """End every event stream."""

        async def cut() -> None:
            for task in list(self._subscribers):
                task.cancel()

        asyncio.run_coroutine_threadsafe(cut(), self._loop).result()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, HOST, self.port, limit=2**20)

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while await self._serve_one(reader, writer):
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side has gone, or we go
        finally:
            self._tasks.discard(task)
            writer.transport.abort() if task.cancelling() else writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection stays open."""
        head = await reader.readuntil(b"\r\n\r\n")
        method, path, _ = head.split(b"\r\n")[0].decode().split(" ")
        _, headers = parse_head(b"HTTP/1.1 200 OK" + head[head.index(b"\r\n") :])
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        if path.startswith("/subscribe/"):
            await self._serve_stream(path, headers, reader, writer)
            return False
        await asyncio.sleep(self.latency / 2)
        commands = self._commands(path, body)
        self.requests.append(Request(path, headers, commands or []))
        fault = self.faults.popleft() if self.faults else None
        if fault is not None and fault.silent:
            await asyncio.Event().wait()
        if fault is not None and not fault.run:
            status, extra, answer = fault.status, fault.headers, fault.body
        elif self.most_request_bytes is not None and len(body) > self.most_request_bytes:
            status, extra, answer = 400, {}, b'{"error":"ERR max request size exceeded"}'
        else:
            status, extra, answer = await self._answer(method, path, headers, commands)
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Other')}", f"content-length: {len(answer)}"]
        lines += [f"{name}: {value}" for name, value in extra.items()]
        whole = ("\r\n".join(lines) + "\r\n\r\n").encode() + answer
        keep = None if fault is None else fault.keep
        await asyncio.sleep(self.latency / 2)
        writer.write(whole[:keep])
        return keep is None

    async def _serve_stream(
        self, path: str, headers: Mapping[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        channel = path.removeprefix("/subscribe/")
        self.requests.append(Request(path, headers, [["SUBSCRIBE", channel]]))
        fault = self.stream_faults.popleft() if self.stream_faults else None
        if fault is not None and fault.silent:
            await asyncio.Event().wait()
        if fault is None and headers.get("authorization") != f"Bearer {self.token}":
            fault = Fault(401, body=b'{"error":"WRONGPASS invalid or missing auth token"}')
        if fault is not None:
            lines = [f"HTTP/1.1 {fault.status} Other", f"content-length: {len(fault.body)}", "connection: close"]
            lines += [f"{name}: {value}" for name, value in fault.headers.items()]
            if fault.keep is not None:
                lines[1:2] = []
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + fault.body)
            await writer.drain()
            if fault.keep is not None:
                await reader.read()  # the head was sent, and no more until the client leaves
            return
        await asyncio.sleep(self.latency / 2)
        task = asyncio.create_task(self._stream(channel, writer))
        self._subscribers.add(task)
        self.streams += 1
        try:
            await asyncio.wait((task, gone := asyncio.create_task(reader.read())), return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
        finally:
            task.cancel()
            self._subscribers.discard(task)
            self.streams -= 1

    async def _stream(self, channel: str, writer: asyncio.StreamWriter) -> None:
        """Write what Redis publishes on the channel, changed by `ring`."""
        loop = asyncio.get_running_loop()
        redis, to_redis = await asyncio.open_connection(HOST, self.redis_port)
        parser = hiredis.Reader()

        def write(data: str) -> None:
            if not writer.is_closing():
                event = f"data: {data}\n\n".encode()
                writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")

        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        packed: Any = ("SUBSCRIBE", channel)
        to_redis.write(hiredis.pack_command(packed))
        try:
            while data := await redis.read(2**16):
                parser.feed(data)
                while (reply := parser.gets()) is not False:
                    kind, of, message = (str(part.decode() if isinstance(part, bytes) else part) for part in reply)
                    for delay, text in self.ring(message) if kind == "message" else ((0.0, message),):
                        loop.call_later(delay + self.latency / 2, write, f"{kind},{of},{text}")
        finally:
            to_redis.close()

    def _commands(self, path: str, body: bytes) -> list[list[Any]] | None:
        """Return the commands, or None if the body has none."""
        try:
            content = json.loads(body)
        except ValueError:
            return None
        commands = [content] if path == "/" else content
        good = isinstance(commands, list) and all(isinstance(each, list) and each for each in commands)
        return commands if good else None

    async def _answer(
        self, method: str, path: str, headers: Mapping[str, str], commands: list[list[Any]] | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        if headers.get("authorization") != f"Bearer {self.token}":
            return 401, {}, b'{"error":"WRONGPASS invalid or missing auth token"}'
        if method != "POST":
            return 405, {}, b'{"error":"ERR method not allowed"}'
        if path not in ("/", "/pipeline", "/multi-exec"):
            return 404, {}, b'{"error":"ERR not found"}'
        if commands is None:
            return 400, {}, b'{"error":"ERR failed to parse the request"}'
        encoded = headers.get("upstash-encoding") == "base64"
        replies = [self._reply(reply, encoded) for reply in await self._run(commands)]
        sync = {"upstash-sync-token": f"token-{len(self.requests)}"}
        if path != "/":
            return 200, sync, json.dumps(replies, ensure_ascii=False).encode()
        return (400 if "error" in replies[0] else 200), sync, json.dumps(replies[0], ensure_ascii=False).encode()

    async def _run(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Return the reply of Redis; a command that REST does not allow is not sent."""
        replies = []
        redis, writer = await asyncio.open_connection(HOST, self.redis_port, limit=2**26)
        try:
            for command in commands:
                words = [str(word).upper() for word in command]
                if words[0] in BLOCKING or (words[0] == "XREAD" and "BLOCK" in words):
                    replies.append(hiredis.ReplyError(f"ERR Command is not available: {words[0]}"))
                    continue
                packed: Any = tuple(map(str, command))
                writer.write(hiredis.pack_command(packed))
                replies.append(self._as_replica(words[0], await _read(redis)))
        finally:
            writer.close()
        return replies

    def _as_replica(self, name: str, reply: Any) -> Any:
        if self.replica_offset is None or not isinstance(reply, list):
            return reply
        if name == "XREAD":
            seen = [(stream, self._as_replica("XRANGE", entries)) for stream, entries in reply]
            return [[stream, entries] for stream, entries in seen if entries] or None
        if name == "XRANGE":
            return [entry for entry in reply if int(entry[0].partition(b"-")[2]) <= self.replica_offset]
        return reply

    def _reply(self, reply: Any, encoded: bool) -> dict[str, Any]:
        if isinstance(reply, hiredis.ReplyError):
            return {"error": str(reply)}
        result = _as_json(reply, encoded)
        if self.most_bytes is not None and (size := len(json.dumps(result))) > self.most_bytes:
            return {"error": f"ERR max request size exceeded. Limit: {self.most_bytes} bytes, Actual: {size} bytes"}
        return {"result": result}


async def _read(redis: asyncio.StreamReader) -> Any:
    reader = hiredis.Reader()
    while (reply := reader.gets()) is False:
        data = await redis.read(2**16)
        if not data:
            raise ConnectionResetError
        reader.feed(data)
    return reply


def _as_json(reply: Any, encoded: bool) -> Any:
    if isinstance(reply, list):
        return [_as_json(item, encoded) for item in reply]
    if isinstance(reply, bytes):
        if encoded and reply != b"OK":
            return base64.b64encode(reply).decode()
        return reply.decode(errors="replace")
    return reply
