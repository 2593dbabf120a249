"""Reads of a remote log that many subscribers make at the same moment: made once.

When an instance dies, all of its clients come back within seconds, with nearly the same cursors: without sharing,
each of them reads the same head and the same pages.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from tidewire.model.cursor import Cursor, Position
from tidewire.model.record import Record
from tidewire.model.record_page import RecordPage
from tidewire.transports.log_base import ReadPage

KEPT = 2.0  # seconds that a page is kept for those who come a little later
MAX_BYTES = 8 * 1024 * 1024  # of memory that the pages kept take


class SharedHead:
    """Heads for all who ask while one read is under way: they share the next one.

    Not the one under way: it may have begun before something that the caller knows to be appended.
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
            self._next = asyncio.create_task(self._fly(self._current))
            self._next.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, if nobody waits
        heads = await asyncio.shield(self._next)  # one caller who leaves does not take it from the others
        return Cursor({name: heads.positions[name] for name in partitions})

    async def aclose(self) -> None:
        """End the reads under way; after the client is closed, a retry of theirs would connect again."""
        await _end(task for task in (self._current, self._next) if task is not None)

    async def _fly(self, before: asyncio.Task[Cursor] | None) -> Cursor:
        if before is not None:
            await asyncio.wait((before,))
        self._current, self._next = self._next, None
        wanted, self._wanted = tuple(self._wanted), {}
        return await self._read(wanted)


class SharedPages:
    """Pages for all who read the same place at nearly the same time, and at most `at_once` reads under way.

    Thousands who come back together would else stand in line for the store's connections with everyone who publishes,
    time out there, and pass for a store that is away. Here they wait for their turn as long as it takes.
    """

    def __init__(self, read_page: ReadPage, at_once: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._turn = asyncio.Semaphore(at_once)
        self._read_page = read_page
        self._clock = clock
        self._pages: OrderedDict[_Key, tuple[float, int, Sequence[Record]]] = OrderedDict()
        self._bytes = 0
        self._reading: dict[_Key, asyncio.Task[Sequence[Record]]] = {}

    async def __call__(self, partition: str, after: Position, until: int) -> Sequence[Record]:
        """Return the next records after a position, at most a page, none past `until`; see `ReadPage`."""
        # The check is part of the key: two histories that count the same numbers share nothing.
        key = (partition, after.epoch, after.offset, after.check)
        self._forget()
        if key in self._pages:
            return _up_to(until, self._pages[key][2])
        reading = self._reading.get(key)
        if reading is not None and (shared := await asyncio.shield(reading)):
            return _up_to(until, shared)
        # Nobody to share with, or the other read found nothing: what our `until` promises may have come since.
        reading = self._reading[key] = asyncio.create_task(self._read(key, after, until))
        reading.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(reading)

    def forget(self, partition: str) -> None:
        """Drop what is kept of a partition: its log is not the one that this was read from."""
        for key in [key for key in self._pages if key[0] == partition]:
            self._drop(key)
        for key in [key for key in self._reading if key[0] == partition]:
            del self._reading[key]

    async def aclose(self) -> None:
        """End the reads under way; see `SharedHead.aclose`."""
        await _end(self._reading.values())

    def _landed(self, key: "_Key", reading: asyncio.Task[Sequence[Record]]) -> None:
        if self._reading.get(key) is reading:
            del self._reading[key]
        if not reading.cancelled():
            reading.exception()  # seen, also where every caller has left meanwhile

    async def _read(self, key: "_Key", after: Position, until: int) -> Sequence[Record]:
        async with self._turn:
            records = await self._read_page(key[0], after, until)
        size = _size(records)
        if records and size <= MAX_BYTES:
            self._drop(key)
            self._pages[key] = (self._clock() + KEPT, size, records)
            self._bytes += size
        return records

    def _forget(self) -> None:
        now = self._clock()
        while self._pages:
            key, (expires, _, _) = next(iter(self._pages.items()))
            if expires > now and self._bytes <= MAX_BYTES:
                return
            self._drop(key)

    def _drop(self, key: "_Key") -> None:
        if (page := self._pages.pop(key, None)) is not None:
            self._bytes -= page[1]


async def _end(reads: Iterable[asyncio.Task[Any]]) -> None:
    ended = list(reads)
    for task in ended:
        task.cancel()
    await asyncio.gather(*ended, return_exceptions=True)


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
