"""Single flight: reads of a remote log that many subscribers make at the same moment are made once.

When an instance dies, all of its clients reconnect elsewhere within seconds, with nearly the same cursors: each of them
would read the same heads and the same pages.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from tidewire.model.cursor import Cursor, Position
from tidewire.model.record import Record
from tidewire.model.record_page import RecordPage

KEPT = 2.0  # seconds for which a page is kept for readers that come a little later
MAX_BYTES = 8 * 1024 * 1024  # of memory, for all pages that are kept

ReadPage = Callable[[str, Position, int], Awaitable[Sequence[Record]]]
"""(partition, after, until offset) → the next records in the epoch of `after`, at most a page, [] if none is left."""


class SharedHead:
    """Heads for many callers: those that come while one read is under way share the next one.

    They cannot share the one under way: it may have begun before an append that the caller knows of.
    """

    def __init__(self, read: Callable[[Sequence[str]], Awaitable[Cursor]]) -> None:
        self._read = read
        self._wanted: dict[str, None] = {}
        self._current: asyncio.Task[Cursor] | None = None
        self._next: asyncio.Task[Cursor] | None = None

    async def __call__(self, partitions: Sequence[str]) -> Cursor:
        """Return the heads of `partitions`, read after this call began. Raises TransportUnavailable."""
        self._wanted.update(dict.fromkeys(partitions))
        if self._next is None:
            self._next = asyncio.create_task(self._run(self._current))
            self._next.add_done_callback(lambda done: done.cancelled() or done.exception())  # or asyncio logs it
        heads = await asyncio.shield(self._next)  # a cancelled caller does not cancel the others' read
        return Cursor({name: heads.positions[name] for name in partitions})

    async def aclose(self) -> None:
        """Cancel the reads under way: after the store's connections are closed, a retry would open one again."""
        await _cancel(task for task in (self._current, self._next) if task is not None)

    async def _run(self, before: asyncio.Task[Cursor] | None) -> Cursor:
        if before is not None:
            await asyncio.wait((before,))
        self._current, self._next = self._next, None
        wanted, self._wanted = tuple(self._wanted), {}
        return await self._read(wanted)


class SharedPages:
    """Pages for readers of the same position at nearly the same time, and at most `at_once` reads under way.

    Thousands of readers would else queue for the store's connections together with publishers, time out there, and
    make the store look unavailable. Here they wait for their turn as long as it takes.
    """

    def __init__(self, read_page: ReadPage, at_once: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._turn = asyncio.Semaphore(at_once)
        self._read_page = read_page
        self._clock = clock
        self._pages: OrderedDict[_Key, tuple[float, int, Sequence[Record]]] = OrderedDict()  # expiry, bytes, records
        self._bytes = 0
        self._reading: dict[_Key, asyncio.Task[Sequence[Record]]] = {}

    async def __call__(self, partition: str, after: Position, until: int) -> Sequence[Record]:
        """Return the next records after a position, at most a page, none past `until`; see `ReadPage`."""
        # The check is part of the key: two histories that count the same offsets share nothing.
        key = (partition, after.epoch, after.offset, after.check)
        self._drop_expired()
        if key in self._pages:
            return _up_to(until, self._pages[key][2])
        reading = self._reading.get(key)
        if reading is not None and (shared := await asyncio.shield(reading)):
            return _up_to(until, shared)
        # Nothing to share, or the other read found nothing: what our `until` promises may have been appended since.
        reading = self._reading[key] = asyncio.create_task(self._read(key, after, until))
        reading.add_done_callback(lambda done: self._end(key, done))
        return await asyncio.shield(reading)

    def forget(self, partition: str) -> None:
        """Drop the pages of a partition: its log is not the one that they were read from."""
        for key in [key for key in self._pages if key[0] == partition]:
            self._drop(key)
        for key in [key for key in self._reading if key[0] == partition]:
            del self._reading[key]

    async def aclose(self) -> None:
        """Cancel the reads under way; see `SharedHead.aclose`."""
        await _cancel(self._reading.values())

    def _end(self, key: "_Key", reading: asyncio.Task[Sequence[Record]]) -> None:
        if self._reading.get(key) is reading:
            del self._reading[key]
        if not reading.cancelled():
            reading.exception()  # retrieved, or asyncio logs it if every caller was cancelled

    async def _read(self, key: "_Key", after: Position, until: int) -> Sequence[Record]:
        async with self._turn:
            records = await self._read_page(key[0], after, until)
        size = _size(records)
        if records and size <= MAX_BYTES:
            self._drop(key)
            self._pages[key] = (self._clock() + KEPT, size, records)
            self._bytes += size
        return records

    def _drop_expired(self) -> None:
        now = self._clock()
        while self._pages:
            key, (expires, _, _) = next(iter(self._pages.items()))
            if expires > now and self._bytes <= MAX_BYTES:
                return
            self._drop(key)

    def _drop(self, key: "_Key") -> None:
        if (page := self._pages.pop(key, None)) is not None:
            self._bytes -= page[1]


async def _cancel(reads: Iterable[asyncio.Task[Any]]) -> None:
    tasks = list(reads)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


_Key = tuple[str, int, int, str]


def _size(records: Sequence[Record]) -> int:
    if isinstance(records, RecordPage):
        return records.kept_bytes
    return sum(record.event.kept_bytes for record in records)


def _up_to(until: int, records: Sequence[Record]) -> Sequence[Record]:
    if isinstance(records, RecordPage):
        return records.up_to(until)
    last = records[-1].position
    if last is None or last.offset <= until:
        return records
    return [record for record in records if record.position is not None and record.position.offset <= until]
