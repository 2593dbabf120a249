"""Clients of an instance over raw HTTP: connections that can be cut at any byte, left unread, and counted."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlencode

from tests.support.processes import HOST, Instance
from tests.support.raw_http import READ_BYTES, Connection, Dechunker, connect, head, parse_head
from tests.support.sinks import RecordingSink
from tests.support.sse_decoder import SseDecoder, SseEvent
from tests.support.waiting import DEADLINE, eventually

AGAIN = 0.02  # seconds between two attempts
ANSWER_SECONDS = 20.0  # several time-outs of Redis


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete response; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def assert_unavailable(self) -> None:
        """Check the response of an outage: a problem with a Retry-After."""
        assert self.status == 503, self
        assert self.headers["content-type"] == "application/problem+json"
        assert int(self.headers["retry-after"]) >= 1
        problem = self.json()
        assert (problem["status"], problem["title"]) == (503, "Service Unavailable")
        assert problem["detail"]
        assert "127.0.0.1" not in problem["detail"], "the response shows the address of Redis"


class Requests:
    """Requests to one instance, one after the other on one connection that is kept."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._connection: Connection | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection; the next request opens another."""
        if self._connection is not None:
            self._connection[1].transport.abort()
            self._connection = None

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return await self._ask(head("GET", path, headers or {}))

    async def publish(self, *events: Mapping[str, Any] | str) -> Answer:
        """Publish one event, or several as one batch; a text is sent as it is."""
        texts = [event if isinstance(event, str) else json.dumps(event) for event in events]
        return await self.post(texts[0] if len(texts) == 1 else f"[{','.join(texts)}]")

    async def post(self, text: str) -> Answer:
        body = text.encode()
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        return await self._ask(head("POST", "/api/publish", headers) + body)

    async def _ask(self, request: bytes) -> Answer:
        """Return the response; raises OSError or EOFError if the connection breaks before its end."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                if self._connection is None:
                    self._connection = await asyncio.open_connection(HOST, self._instance.port)
                reader, writer = self._connection
                writer.write(request)
                status, headers = parse_head(await reader.readuntil(b"\r\n\r\n"))
                body = await reader.readexactly(int(headers.get("content-length", "0")))
        except BaseException:
            self.close()
            raise
        if headers.get("connection") == "close":
            self.close()
        return Answer(status, headers, body)


async def publish(instance: Instance, *events: Mapping[str, Any] | str) -> Answer:
    """Publish on a connection of its own."""
    async with Requests(instance) as requests:
        return await requests.publish(*events)


async def publish_all(instance: Instance, names: Iterable[str]) -> None:
    """Publish one event per name, one after the other."""
    for name in names:
        receipts(await publish(instance, event(name)))


async def get(instance: Instance, path: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Send a GET on a connection of its own."""
    async with Requests(instance) as requests:
        return await requests.get(path, headers)


async def read_page(instance: Instance, **query: str) -> dict[str, Any]:
    """Return one JSON page of GET /api/events."""
    answer = await get(instance, f"/api/events?{urlencode(query)}", {"accept": "application/json"})
    assert answer.status == 200, answer
    page: dict[str, Any] = answer.json()
    return page


async def publish_until_accepted(instance: Instance, *events: Mapping[str, Any]) -> Answer:
    """Publish the same events again while the answer is 503, as a publisher with ids may."""
    async with asyncio.timeout(DEADLINE):
        while (answer := await publish(instance, *events)).status != 202:
            answer.assert_unavailable()
            await asyncio.sleep(AGAIN)
    return answer


async def is_ready(instance: Instance) -> bool:
    """Whether the instance reports that it is ready, and not degraded."""
    answer = await get(instance, "/api/health/ready")
    return answer.status == 200 and answer.json()["status"] == "ready"


async def until_ready(instance: Instance) -> None:
    """Return once the instance is ready."""
    await eventually(lambda: is_ready(instance))


async def reasons(instance: Instance) -> str:
    """The reasons in the 503 of an instance that is not ready."""
    answer = await get(instance, "/api/health/ready")
    answer.assert_unavailable()
    return str(answer.json()["detail"])


async def until_tail_reconnects(instance: Instance, reason: str) -> None:
    """Return once readiness reports a tail that reconnects, with this reason."""

    async def is_reported() -> bool:
        answer = await get(instance, "/api/health/ready")
        reasons = answer.json()["detail"].split("; ") if answer.status == 503 else []
        return any("the tail is reconnecting: " in one and reason in one for one in reasons)

    await eventually(is_reported)


async def metrics(instance: Instance) -> dict[str, float]:
    """Return the values of /api/metrics by name and labels."""
    lines = (await get(instance, "/api/metrics")).body.decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


async def count_subscribers(instance: Instance) -> int:
    """Return the number of subscribers that the instance reports."""
    counted = await metrics(instance)
    return int(sum(value for name, value in counted.items() if name.startswith("realtime_subscribers{")))


async def eventually_subscribed(instance: Instance, count: int) -> None:
    """Return once the instance reports exactly this number of subscribers."""

    async def are_there() -> bool:
        return await count_subscribers(instance) == count

    await eventually(are_there)


class Stream:
    """One connection to GET /api/events, decoded as a browser does.

    With `cut_after`, the connection breaks after so many bytes of the answer, its head included: what the bytes
    before do not complete is never seen.
    """

    def __init__(self, connection: Connection, last_event_id: str, cut_after: int | None) -> None:
        self.status: int | None = None
        self.headers: Mapping[str, str] = {}
        self.decoder = SseDecoder(last_event_id)
        self._reader, self._writer = connection
        self._left = cut_after
        self._head = b""
        self._dechunker = Dechunker()

    async def read(self) -> bytes | None:
        """Return the next bytes of the body, possibly none; None at its end or at the cut."""
        if self._left == 0:
            return None
        data = await self._reader.read(READ_BYTES)
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        if not data:
            return None
        if self.status is None:
            head, end, data = (self._head + data).partition(b"\r\n\r\n")
            if not end:
                self._head = head
                return b""
            self.status, self.headers = parse_head(head)
        if self.headers.get("transfer-encoding") != "chunked":
            return data
        body = self._dechunker.feed(data)
        return None if self._dechunker.ended and not body else body

    async def events(self) -> AsyncIterator[list[SseEvent]]:
        """Yield what a browser dispatches until the connection ends. Raises OSError.

        A refusal has nothing to dispatch, and its connection stays open for the next request: it ends here.
        """
        while (chunk := await self.read()) is not None:
            if self.status == 200:
                yield self.decoder.feed(chunk)
            elif self.status is not None:
                return


@asynccontextmanager
async def open_stream(
    port: int,
    query: Mapping[str, str] | None = None,
    *,
    last_event_id: str = "",
    cut_after: int | None = None,
    receive_buffer: int | None = None,
) -> AsyncIterator[Stream]:
    """Connect, and ask for the events; raises OSError if the port is closed.

    `receive_buffer` bounds what is taken from the server without being read, in bytes.
    """
    headers = {"accept": "text/event-stream"}
    if last_event_id:
        headers["last-event-id"] = last_event_id
    reader, writer = await connect(port, receive_buffer)
    try:
        writer.write(head("GET", f"/api/events?{urlencode(query or {})}", headers))
        yield Stream((reader, writer), last_event_id, cut_after)
    finally:
        writer.transport.abort()


class Follower:
    """A stream on one connection, read all the time; `seen` has what arrived."""

    def __init__(self, stream: Stream, last_event_id: str) -> None:
        self.stream = stream
        self.seen = RecordingSink(last_event_id)
        self._task = asyncio.create_task(self._run())

    async def opened(self) -> Self:
        """Return once the stream is live."""
        await self.seen.ready()
        return self

    async def has(self, *names: str) -> None:
        """Return once the last of these has arrived; then exactly these must have, in this order."""
        await self.seen.until(lambda: bool(names) and names[-1] in self.names)
        assert self.names == list(names)

    @property
    def names(self) -> list[str]:
        """The names of the published events."""
        return [data["name"] for data in self.seen.data]

    @property
    def order(self) -> list[str]:
        """Everything that was dispatched, control events included, in one word each."""
        return [_word(dispatched) for dispatched in self.seen.all]

    @property
    def cursor(self) -> str:
        return self.seen.cursor

    def is_open(self) -> bool:
        return not self._task.done()

    async def ended(self) -> None:
        """Return once the server has ended the stream."""
        async with asyncio.timeout(DEADLINE):
            await asyncio.shield(self._task)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while (chunk := await self.stream.read()) is not None:
                if chunk:
                    assert self.stream.status == 200, chunk
                    self.seen.write(chunk)
        finally:
            self.seen.end(b"")


@asynccontextmanager
async def follow_unready(instance: Instance, *, last_event_id: str = "", **query: str) -> AsyncIterator[Follower]:
    """Open a stream and read it, without waiting for `realtime.ready`."""
    async with open_stream(instance.port, query, last_event_id=last_event_id) as stream:
        follower = Follower(stream, last_event_id)
        try:
            yield follower
        finally:
            await follower.stop()


@asynccontextmanager
async def follow(instance: Instance, *, last_event_id: str = "", **query: str) -> AsyncIterator[Follower]:
    """Open a stream and read it; entered once `realtime.ready` has arrived."""
    async with follow_unready(instance, last_event_id=last_event_id, **query) as follower:
        yield await follower.opened()


def _word(dispatched: SseEvent) -> str:
    data = json.loads(dispatched.data)
    match dispatched.type:
        case "realtime.ready":
            return "ready" if data["recovered"] else "ready after a loss"
        case "realtime.gap" | "realtime.closing":
            return f"{dispatched.type.removeprefix('realtime.')}: {data['reason']}"
        case _:
            return str(data["name"])


def event(name: str, *users: str, type: str = "note", id: str | None = None) -> dict[str, Any]:
    """Return an event for these users or for everyone; its name is also its id."""
    draft: dict[str, Any] = {"type": type, "data": {"name": name}, "id": id or name}
    return {**draft, "userIds": list(users)} if users else draft


def receipts(answer: Answer) -> Sequence[Mapping[str, Any]]:
    """Return the receipts of an accepted publish."""
    assert answer.status == 202, answer
    accepted: list[Mapping[str, Any]] = answer.json()["events"]
    return accepted
