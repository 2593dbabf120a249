"""A subscriber's sink for tests: decodes the bytes as a browser does, and can be slow."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Literal

from tidewire.delivery.hub import Hub
from tidewire.model.audience import Interest
from tidewire.model.cursor import Start
from tidewire.protocol.sse import CLOSING, DATA, GAP, READY, Format

from tests.support.sse_decoder import SseDecoder, SseEvent
from tests.support.waiting import DEADLINE, Growing

CONTROL = (READY, GAP, CLOSING)


class RecordingSink(Growing):
    """Keeps all bytes and decodes them; once `full`, every write has to wait for `release`."""

    def __init__(self, last_event_id: str = "") -> None:
        super().__init__()
        self.chunks: list[bytes] = []
        self.all: list[SseEvent] = []
        self.data: list[Any] = []  # of the published events
        self.order: list[Any] = []  # data, or the name of a control event, as it came
        self.full = False
        self.ended = False
        self.last_words = b""  # the argument of `end`, also if there was no room for it
        self.faults: list[str] = []  # wrong uses of the sink
        self._decoder = SseDecoder(last_event_id)
        self._room: asyncio.Future[None] | None = None

    def write(self, chunk: bytes) -> Awaitable[None] | None:
        """Take the bytes; if it is full, return a future that is done after `release`."""
        if self.ended:
            self.faults.append(f"written to after its end: {chunk!r}")
        if self._room is not None:
            self.faults.append(f"written to while it had no room: {chunk!r}")
        self._take(chunk)
        if not self.full:
            return None
        self._room = asyncio.get_running_loop().create_future()
        return self._room

    def end(self, chunk: bytes) -> None:
        """Take the last bytes, unless there is no room."""
        if self.ended:
            self.faults.append("ended twice")
        self.ended = True
        self.last_words = chunk
        if self._room is None:
            self._take(chunk)
        self.grow()

    def release(self) -> None:
        """Have room again, from now on."""
        self.full = False
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    @property
    def buffered(self) -> int:
        """Nothing is behind it."""
        return 0

    @property
    def is_waited_for(self) -> bool:
        """Whether a writer waits for room."""
        return self._room is not None

    @property
    def stream(self) -> bytes:
        """Everything that was written."""
        return b"".join(self.chunks)

    @property
    def cursor(self) -> str:
        """What a reconnect sends as Last-Event-ID."""
        return self._decoder.last_event_id

    @property
    def events(self) -> list[SseEvent]:
        """The published events, without control events."""
        return [event for event in self.all if event.type not in CONTROL]

    @property
    def gaps(self) -> list[str]:
        """The reasons of the gaps so far."""
        return [json.loads(event.data)["reason"] for event in self.all if event.type == GAP]

    @property
    def closing(self) -> str | None:
        """The reason given at the end, or None."""
        reasons = [json.loads(e.data)["reason"] for e in SseDecoder().feed(self.last_words) if e.type == CLOSING]
        return str(reasons[-1]) if reasons else None

    async def ready(self) -> dict[str, Any]:
        """Wait for `realtime.ready`, and return its data."""
        await self.until(lambda: any(event.type == READY for event in self.all))
        content: dict[str, Any] = next(json.loads(e.data) for e in self.all if e.type == READY)
        return content

    async def has(self, data: object, seconds: float = DEADLINE) -> None:
        """Return once an event with this data has come: a sentinel shows that nothing else was before it."""
        await self.until(lambda: data in self.data, seconds)

    async def received(self, count: int, or_data: object = None) -> None:
        """Wait until this many events have come, or one with this data."""
        await self.until(lambda: len(self.data) >= count or or_data in self.data)

    def _take(self, chunk: bytes) -> None:
        self.chunks.append(chunk)
        for event in self._decoder.feed(chunk):
            self.all.append(event)
            if event.type in CONTROL:
                self.order.append(event.type)
            else:
                self.data.append(json.loads(event.data))
                self.order.append(self.data[-1])
        self.grow()

    def __str__(self) -> str:
        return f"{self.order}, full={self.full}, ended={self.ended}, faults={self.faults}"


@asynccontextmanager
async def subscribed(
    hub: Hub,
    user_id: str | None = None,
    types: Iterable[str] | None = None,
    *,
    cursor: str | None = None,
    since: Literal["now", "earliest"] | int = "now",
    format: Format = DATA,
    sink: RecordingSink | None = None,
    issued_at: float = math.inf,
    wait_for_log: bool = False,
) -> AsyncIterator[RecordingSink]:
    """Subscribe as a session does; at the end the sink must have been used as it may be."""
    interest = Interest(user_id, None if types is None else frozenset(types))
    if sink is None:
        sink = RecordingSink(cursor or "")
    start = Start(cursor, since)
    async with hub.subscribe(interest, start, format, issued_at=issued_at, wait_for_log=wait_for_log) as subscriber:
        subscriber.start(sink)
        yield sink
    assert sink.faults == []
