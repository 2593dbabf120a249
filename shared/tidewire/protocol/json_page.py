"""The JSON form of GET /api/events: a format for its items, and the page that collects them.

A `PageFormat` is stateless, as every format: each frame is a head (kind, length of the cursor, length of the item), the
cursor and the item. A `Page` is the sink that such frames are written to. So nothing counts as sent before it was
written.
"""

import asyncio
import struct
from collections.abc import Awaitable, Callable, Iterator

import msgspec

from tidewire.model.cursor import Cursor
from tidewire.model.record import Gap, Record
from tidewire.protocol.sse import ClosingReason, cloudevent, rfc3339

MAX_EVENTS = 500
MAX_BYTES = 1024 * 1024  # of events; one more than fits is left for the next page

_EVENT, _GAP, _READY, _HEARTBEAT = b"e", b"g", b"r", b"h"
_HEAD = struct.Struct(">cHI")  # kind, bytes of the cursor, bytes of the item


class PageFormat:
    """Frames for a `Page`; `encode` makes the JSON object of an event."""

    def __init__(self, encode: Callable[[Record], bytes]) -> None:
        self._encode = encode

    def record(self, cursor: str | None, record: Record) -> bytes:
        """Return the frame of an event."""
        return _frame(_EVENT, cursor, self._encode(record))

    def gap(self, cursor: str, gap: Gap) -> bytes:
        """Return the frame of a loss."""
        return _frame(_GAP, cursor, gap.reason.encode())

    def ready(self, cursor: str, recovered: bool, replayed: int) -> bytes:
        """Return the end of the replay: the cursor after it, also if nothing matched."""
        return _frame(_READY, cursor)

    def heartbeat(self, cursor: str | None) -> bytes:
        """Return a cursor alone."""
        return _frame(_HEARTBEAT, cursor)

    def expiring(self, seconds: int) -> bytes:
        """Return nothing: a page ends before its client could do anything about it."""
        return b""

    def closing(self, reason: ClosingReason) -> bytes:
        """Return nothing: the page ends anyway."""
        return b""


class Page:
    """Collects the frames of a `PageFormat` until the page is full, as the sink of a subscriber or of one replay."""

    def __init__(self, start: str | None = None) -> None:
        """Collect what comes after the cursor `start`."""
        self.cursor: str | None = None  # the place after the last event of the page; None while nothing was written
        self.replayed = asyncio.Event()  # the page is full, or the replay has ended
        self.settled = asyncio.Event()  # there is something to respond with, or no reason to wait for more
        self.is_full = False
        self._start = start
        self._complete = True
        self._events: list[bytes] = []
        self._bytes = 0
        self._gap: str | None = None

    def write(self, chunk: bytes) -> Awaitable[None] | None:
        """Take the frames; a full page leaves the rest to the next one, and is never writable again."""
        for kind, cursor, item in _frames(chunk):
            if self.is_full or (kind == _GAP and (self._events or self._gap)):
                self.is_full = True  # a gap comes before anything else: it opens the next page
                break
            self.cursor = cursor or self.cursor
            if kind == _GAP:
                self._gap = item.decode()
            elif kind == _EVENT:
                self._events.append(item)
                self._bytes += len(item)
                self.is_full = len(self._events) >= MAX_EVENTS or self._bytes >= MAX_BYTES
            elif kind == _READY:
                self.replayed.set()
        if self.is_full:
            self.replayed.set()
        if self.replayed.is_set() and (self._events or self._gap):
            self.settled.set()
        return asyncio.get_running_loop().create_future() if self.is_full else None

    def end(self, chunk: bytes) -> None:
        """Respond with what there is."""
        self.replayed.set()
        self.settled.set()

    @property
    def buffered(self) -> int:
        """Nothing goes to a socket before the page is whole."""
        return 0

    def cut_off(self) -> bool:
        """End here, because it took too long; False if nothing was read, and the next try would begin here too."""
        self._complete = self.replayed.is_set()
        if self.cursor is None:
            return False
        moved = bool(self._events) or self._gap is not None or _places(self.cursor) != _places(self._start)
        return moved or self._complete

    def body(self) -> bytes:
        """Return the page: `{"events": […], "cursor": "…", "gap": null or {…}}`; `"complete": false` if cut off."""
        gap = None if self._gap is None else {"reason": self._gap, "recovered": False}
        rest = msgspec.json.encode(
            {"cursor": self.cursor, "gap": gap} | ({} if self._complete else {"complete": False})
        )
        return b'{"events":[' + b",".join(self._events) + b"]," + rest[1:]


def plain(record: Record) -> bytes:
    """Return the record as `{"id", "type", "time", "data"}`, `data` as published; the audience is not part of it."""
    event = record.event
    head: dict[str, str] = {"id": event.id, "type": event.type}
    if record.position is not None:
        head["time"] = rfc3339(record.position.time)
    return msgspec.json.encode(head)[:-1] + b',"data":' + event.data + b"}"


DATA_PAGE = PageFormat(plain)
CLOUDEVENTS_PAGE = PageFormat(cloudevent)


def _frame(kind: bytes, cursor: str | None, item: bytes = b"") -> bytes:
    place = b"" if cursor is None else cursor.encode()
    return _HEAD.pack(kind, len(place), len(item)) + place + item


def _frames(chunk: bytes) -> Iterator[tuple[bytes, str, bytes]]:
    at = 0
    while at < len(chunk):
        kind, cursor, item = _HEAD.unpack_from(chunk, at)
        start = at + _HEAD.size
        at = start + cursor + item
        yield kind, chunk[start : start + cursor].decode(), chunk[start + cursor : at]


def _places(cursor: str | None) -> dict[str, tuple[int, int]] | None:
    parsed = Cursor.parse(cursor) if cursor is not None else None
    return None if parsed is None else {name: at[:2] for name, at in parsed.positions.items()}
