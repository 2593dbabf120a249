"""A stand-in for Upstash's REST API over a real Redis, which fails on demand.

It follows https://upstash.com/docs/redis/features/restapi: a JSON command to `/`, a list of them to `/pipeline` and
`/multi-exec`; `{"result": …}` or `{"error": …}` for each; base64 if `Upstash-Encoding` is base64; 400, 401 and
405. Commands that block are refused.
"""

import asyncio
import base64
import json
import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
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
        self.faults: deque[Fault] = deque()  # one for each request, from the next one on
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
        writer.write(whole[:keep])
        return keep is None

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
