"""The JSON form of GET /api/events: one page from the same cursor, by the same road as a stream."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Coroutine
from typing import Literal

import msgspec

from tidewire.model.cursor import Cursor
from tidewire.model.record import Gap, Record
from tidewire.protocol.sse import ClosingReason, cloudevent, rfc3339

MAX_EVENTS = 500
MAX_BYTES = 1024 * 1024  # of events; one more than fits is left for the next page


class Page:
    """Collects what a subscriber is sent, as its format and its sink in one.

    As a format it puts each frame in a queue and hands the hub one byte for it; as a sink it takes as many from
    the queue as it is written bytes. So nothing counts as sent before the hub has written it.
    """

    def __init__(self, format: Literal["data", "cloudevents"], start: str | None = None) -> None:
        """Collect what comes after the cursor `start`."""
        self.replayed = asyncio.Event()  # the page is full, or there is no more to replay
        self.cursor: str | None = None  # the place after what is on the page; None while nothing was read
        self.settled = asyncio.Event()  # there is something to answer, or no reason to wait for more
        self._encode = cloudevent if format == "cloudevents" else _plain
        self._queue: deque[tuple[str | None, bytes | Gap | None]] = deque()
        self._events: list[bytes] = []
        self._bytes = 0
        self._gap: Gap | None = None
        self._full = False
        self._complete = True
        self._start = start

    def cut_off(self) -> bool:
        """End here, because it took too long; False where nothing was read, and the next try would begin here too."""
        self._complete = self.replayed.is_set()
        if self.cursor is None:
            return False
        moved = bool(self._events) or self._gap is not None or _places(self.cursor) != _places(self._start)
        return moved or self._complete

    def withhold(self) -> None:
        """Forget everything: nobody may read it."""
        self._events, self._gap, self.cursor = [], None, None

    def body(self) -> bytes:
        """Return the page: `{"events": […], "cursor": "…", "gap": null or {…}}`; `"complete": false` where cut off."""
        gap = None if self._gap is None else {"reason": self._gap.reason, "recovered": False}
        rest = msgspec.json.encode(
            {"cursor": self.cursor, "gap": gap} | ({} if self._complete else {"complete": False})
        )
        return b'{"events":[' + b",".join(self._events) + b"]," + rest[1:]

    async def filled_by(self, replay: Coroutine[None, None, None]) -> None:
        """Run a replay into this page until it ends or the page is full."""
        reading = asyncio.create_task(replay)
        full = asyncio.create_task(self.replayed.wait())
        try:
            await asyncio.wait((reading, full), return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
        finally:
            reading.cancel()
            full.cancel()

    def write(self, chunk: bytes) -> Awaitable[None] | None:
        """Take the frames; a full page leaves the rest to the next one and never has room again."""
        for _ in chunk:
            cursor, item = self._queue.popleft()
            if self._full or (isinstance(item, Gap) and (self._events or self._gap)):
                self._full = True  # a gap comes before anything else: it opens the next page
                break
            self.cursor = cursor
            if isinstance(item, Gap):
                self._gap = item
            elif item is not None:
                self._events.append(item)
                self._bytes += len(item)
                self._full = len(self._events) >= MAX_EVENTS or self._bytes >= MAX_BYTES
        if self._full:
            self.replayed.set()
        if self.replayed.is_set() and (self._events or self._gap):
            self.settled.set()
        return asyncio.get_running_loop().create_future() if self._full else None

    def end(self, chunk: bytes) -> None:
        """Answer with what there is."""
        self.replayed.set()
        self.settled.set()

    @property
    def buffered(self) -> int:
        """Nothing goes to a socket before the page is whole."""
        return 0

    def record(self, cursor: str | None, record: Record) -> bytes:
        """Queue an event."""
        return self._put(cursor, self._encode(record))

    def gap(self, cursor: str, gap: Gap) -> bytes:
        """Queue a loss."""
        return self._put(cursor, gap)

    def ready(self, cursor: str, recovered: bool, replayed: int) -> bytes:
        """Queue the end of the replay: the cursor after it, also where nothing matched."""
        self.replayed.set()
        return self._put(cursor, None)

    def heartbeat(self, cursor: str | None) -> bytes:
        """Queue a cursor alone."""
        return self._put(cursor, None)

    def closing(self, reason: ClosingReason) -> bytes:
        """Nothing to queue: the page ends anyway."""
        return b""

    def _put(self, cursor: str | None, item: bytes | Gap | None) -> bytes:
        self._queue.append((cursor, item))
        return b"."


def _places(cursor: str | None) -> dict[str, tuple[int, int]] | None:
    parsed = Cursor.parse(cursor) if cursor is not None else None
    return None if parsed is None else {name: at[:2] for name, at in parsed.positions.items()}


def _plain(record: Record) -> bytes:
    """Return the record as `{"id", "type", "time", "data"}`, `data` as published; the audience is not part of it."""
    event = record.event
    head: dict[str, str] = {"id": event.id, "type": event.type}
    if record.position is not None:
        head["time"] = rfc3339(record.position.time)
    return msgspec.json.encode(head)[:-1] + b',"data":' + event.data + b"}"
