"""The common part of all logs: `LogBase` makes a log of an adapter's commands, and a `Gap` for missing records.

Every page is proven complete as it is read: offsets are contiguous, and each record's check is chained to the one
before it.
"""

import asyncio
import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from heapq import heapify, heappop, heapreplace
from itertools import accumulate
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from tidewire.model.cursor import Cursor, Position
from tidewire.model.event import Event
from tidewire.model.partition_schemes import Registry
from tidewire.model.partitions import Partitions
from tidewire.model.record import Gap, Record
from tidewire.transports.appending import Answer, Part, Writer
from tidewire.transports.base import Handler, Receipt, Retention, Tail
from tidewire.transports.single_flight import SharedHead, SharedPages

PAGE = 500  # records per read: beyond about 100 a larger page saves the store no time, but us the work per page
PAGE_BYTES = 256 * 1024  # of one reader's page: it is held for as long as a slow client takes to read it

FIRST = 32  # records of the first page: 8 MiB of the largest events
GROWTH = 4


class RunningTail(Tail, Protocol):
    """A tail with the loop that reads."""

    async def run(self) -> None:
        """Read until cancelled."""


TailT = TypeVar("TailT", bound=RunningTail)


class LogBase(ABC, Generic[TailT]):
    """A `Log` on a store's commands: `_append`, `_read_positions`, `_read_page` and `_make_tail`.

    `reads_at_once`: how many pages are read from the store at the same time; the same read by several readers is made
    once. None: the log is in this process, and nothing is shared.
    """

    def __init__(
        self,
        partitions: Partitions,
        retention: Retention,
        *,
        reads_at_once: int | None,
        clock: Callable[[], float] = time.time,
        under_newest_scheme: bool = False,
    ) -> None:
        self._writer = Writer(partitions, retention, self._append, clock, under_newest_scheme=under_newest_scheme)
        self._tails: dict[TailT, None] = {}  # in order: a set would make random tests depend on addresses
        self._heads = SharedHead(self._read_heads) if reads_at_once else None
        self._pages = SharedPages(self._read_page, reads_at_once) if reads_at_once else None

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        """Append all events; see `Transport.publish`."""
        return await self._writer.publish(events)

    @asynccontextmanager
    async def on_message(self, handler: Handler) -> AsyncIterator[TailT]:
        """Open the tail: one for all subscribers; see `Transport.on_message`."""
        tail = self._make_tail(handler)
        self._tails[tail] = None
        task = asyncio.create_task(tail.run())
        try:
            yield tail
        finally:
            del self._tails[tail]
            await stop(task)

    async def head(self, partitions: Sequence[str]) -> Cursor:
        """Return the position after the last record of each partition."""
        return await (self._heads or self._read_heads)(partitions)

    async def seek(self, partitions: Sequence[str], time: int | None) -> Cursor:
        """Return the position before the first record at or after `time`; None is before the oldest kept."""
        return await self._read_positions(partitions, time or 0)

    async def replay(self, after: Cursor, until: Cursor) -> AsyncIterator[Record | Gap]:
        """Yield the records in `(after, until]`; see `Log.replay`."""
        async with aclosing(self.replay_pages(after, until)) as pages:
            async for page in pages:
                for item in page:
                    yield item

    async def replay_pages(self, after: Cursor, until: Cursor) -> AsyncGenerator[Sequence[Record | Gap]]:
        """Yield the same page by page: partitions are merged by append time, and each is proven complete."""
        pages = self._pages
        source = (
            _Source(self._read_page, self.seek, lambda _: None)
            if pages is None
            else _Source(pages, self.seek, pages.forget)
        )
        readers = [
            _Reader(name, after.positions[name], end, source)
            for name, end in until.positions.items()
            if name in after.positions
        ]
        try:
            opened = [await reader.open() for reader in readers]
            if gaps := [gap for lost, _ in opened for gap in lost]:  # a subscriber learns of losses before any record
                yield gaps
            if len(readers) == 1:
                page = opened[0][1]
                while page:
                    yield page
                    page = await readers[0].next_page()
                return
            merged = [_Merging(reader, page) for reader, (_, page) in zip(readers, opened, strict=True)]
            async for page in _merge(merged):
                yield page
        finally:
            for reader in readers:
                reader.close()

    async def aclose(self) -> None:
        """End the reads under way: after the store's connections are closed, a retry would open one again."""
        for shared in (self._heads, self._pages):
            if shared is not None:
                await shared.aclose()

    async def _read_heads(self, partitions: Sequence[str]) -> Cursor:
        return await self._read_positions(partitions, None)

    @abstractmethod
    async def _append(self, expected: str, parts: Sequence[Part]) -> tuple[Sequence[Answer], Registry | None]:
        """Append events if the registry's check is the expected one; see `Append`."""

    @abstractmethod
    async def _read_positions(self, partitions: Sequence[str], time: int | None) -> Cursor:
        """Return the heads (None), or the positions before the first record at or after `time` (ms since 1970)."""

    @abstractmethod
    async def _read_page(self, partition: str, after: Position, until: int) -> Sequence[Record]:
        """Return the next records after a position in its epoch, up to offset `until`; [] if none is left."""

    @abstractmethod
    def _make_tail(self, handler: Handler) -> TailT:
        """Return a tail whose `run` was not called yet."""


async def stop(task: asyncio.Task[Any]) -> None:
    """Cancel a task, and return when it has ended.

    It is cancelled again until it ends: before Python 3.12 the `wait_for` in which redis-py sends may swallow a
    cancellation (python/cpython#86296), and the tail would then finish a whole blocking read.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=0.1)
    if not task.cancelled():
        task.exception()  # retrieved, or asyncio logs it


class PageSize:
    """How many records to request, so that a page stays within `PAGE_BYTES` however large the events are.

    500 of the largest events are 125 MiB: a few clients that stop reading in the middle of a replay would fill the
    memory with their pages. So the first page is small, and each may be `GROWTH` times the previous one while records
    are small; for a log of small events that costs a few round trips in a process's life.
    """

    __slots__ = ("records",)

    def __init__(self) -> None:
        self.records = FIRST  # to request next

    def fit(self, sizes: Sequence[int]) -> int:
        """Return how many of the records that were read, of these sizes in bytes, make a page; at least one does."""
        total = sum(sizes)
        if sizes:
            fitting = max(1, PAGE_BYTES * len(sizes) // max(total, 1))
            self.records = min(PAGE, fitting, max(self.records, FIRST) * GROWTH)
        if total <= PAGE_BYTES:
            return len(sizes)
        return max(1, sum(1 for end in accumulate(sizes) if end <= PAGE_BYTES))


def chain(check: str, key: str) -> str:
    """Return the check of a record from the previous one: a hash over the whole history, 8 hex digits.

    The same as in Lua (append.lua) and SQL. Zero means "unknown".
    """
    digest = hashlib.sha1(f"{check}{key}".encode(), usedforsecurity=False).hexdigest()[:8]
    return "00000001" if digest == "00000000" else digest


def follows(last: Position, record: Record) -> bool:
    """Return whether `record` is the next one of its partition after `last`, in the same history."""
    position = record.position
    assert position is not None
    return (
        position.epoch == last.epoch
        and position.offset == last.offset + 1
        and (not last.check or position.check == chain(last.check, record.event.chained))
    )


class _Source(NamedTuple):
    """How a reader reads its partition."""

    read_page: Callable[[str, Position, int], Awaitable[Sequence[Record]]]
    seek: Callable[[Sequence[str], int | None], Awaitable[Cursor]]
    forget: Callable[[str], None]
    """Drop the pages of a partition that are kept: they are of a history that the log does not hold any more."""


async def _merge(merged: "list[_Merging]") -> AsyncIterator[Sequence[Record | Gap]]:
    """Yield by append time, so that a user's events of several partitions come in the order they happened."""
    heap = [(_time(source.item), index) for index, source in enumerate(merged) if source.item is not None]
    heapify(heap)
    page: list[Record | Gap] = []
    while heap:
        source = merged[heap[0][1]]
        assert source.item is not None
        page.append(source.item)
        if source.is_at_end:  # the next page may take long, or never come
            yield page
            page = []
        item = await source.advance()
        if item is None:
            heappop(heap)
        else:
            heapreplace(heap, (_time(item), heap[0][1]))


def _time(item: Record | Gap) -> int:
    return item.position.time if item.position else 0


class _Merging:
    """A reader's index in its page, and the item there; None at the end."""

    def __init__(self, reader: "_Reader", page: Sequence[Record | Gap]) -> None:
        self.item = page[0] if page else None
        self._page = page
        self._at = 0
        self._reader = reader

    @property
    def is_at_end(self) -> bool:
        """Whether the item is the last one of its page."""
        return self._at == len(self._page) - 1

    async def advance(self) -> Record | Gap | None:
        """Move to the next item, and return it."""
        self._at += 1
        if self._at == len(self._page):
            self._page, self._at = await self._reader.next_page(), 0
        self.item = self._page[self._at] if self._page else None
        return self.item


class _Reader:
    """Reads one partition from its position to the end; missing records become a Gap."""

    def __init__(self, partition: str, after: Position, until: Position, source: _Source) -> None:
        self._partition = partition
        self._at = after
        self._until = until
        self._read_page, self._seek, self._forget = source
        self._ahead: asyncio.Task[Sequence[Record]] | None = None  # the next page, read while this one is written

    def close(self) -> None:
        """Cancel the read of the next page."""
        if self._ahead is not None:
            self._ahead.cancel()

    async def open(self) -> tuple[list[Gap], Sequence[Record | Gap]]:
        """Verify the start, and return the gaps known now, to be yielded before any record, and the first page."""
        at, until = self._at, self._until
        same = at.epoch == until.epoch and at.offset <= until.offset
        if same and at.offset == until.offset and at.check and until.check:
            same = at.check == until.check
        lost: list[Gap] = []
        if not same:
            self._forget(self._partition)  # the pages kept may be of the lost history, with the same offsets
            lost.append(await self._restart())
        page = await self.next_page()
        while page and isinstance(page[0], Gap):
            lost.append(page[0])
            page = page[1:]
        return lost, page

    async def next_page(self) -> Sequence[Record | Gap]:
        """Return the next records, with a gap before each that does not follow the previous one; [] at the end."""
        records = await self._read()
        if records and not self._fits(records):
            # The offsets fit but the history does not: the store fell back. Perhaps only the page is from before that.
            self._forget(self._partition)
            records = await self._read_page(self._partition, self._at, self._until.offset)
            if records and not self._fits(records):
                return [await self._restart(), *self._verified(await self._read())]
        return self._verified(records)

    def _fits(self, records: Sequence[Record]) -> bool:
        """Return whether a page starts at our position and ends at the head, in one and the same history."""
        if _offset(records[0]) == self._at.offset + 1 and not follows(self._at, records[0]):
            return False
        last, until = records[-1].position, self._until
        assert last is not None
        return last.offset != until.offset or not until.check or last.check == until.check

    async def _read(self) -> Sequence[Record]:
        if self._at.offset >= self._until.offset:
            return ()
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            return await ahead
        return await self._read_page(self._partition, self._at, self._until.offset)

    async def _read_next(self, after: Position) -> Sequence[Record]:
        return await self._read_page(self._partition, after, self._until.offset)

    async def _restart(self) -> Gap:
        """Start again at the oldest record: the log is not the one of the cursor, so any record may be unseen."""
        start = (await self._seek((self._partition,), None)).positions[self._partition]
        if start.epoch != self._until.epoch or start.offset > self._until.offset:
            start = self._until  # it changed again since `until` was read; the next resume finds that gap
        self._at = start
        self._until = self._until._replace(check="")  # it may be of the lost history
        return Gap("epoch", self._partition, start)

    def _verified(self, records: Sequence[Record]) -> Sequence[Record | Gap]:
        """Return the records of a page with a gap wherever an offset is missing.

        The position before a record that follows a gap has an offset alone: a lost record has no check.
        """
        if not records:
            if self._at.offset >= self._until.offset:
                return []
            self._at = self._until
            return [Gap("trimmed", self._partition, self._until)]
        first, last = _offset(records[0]), _offset(records[-1])
        if first == self._at.offset + 1 and last - first == len(records) - 1:
            page: Sequence[Record | Gap] = records  # contiguous: the usual case, with one comparison
        else:
            page = self._with_gaps(records)
        position = records[-1].position
        assert position is not None
        self._at = position
        if position.offset < self._until.offset:
            self._ahead = asyncio.create_task(self._read_next(position))
            self._ahead.add_done_callback(
                lambda done: done.cancelled() or done.exception()
            )  # retrieved, or asyncio logs it
        return page

    def _with_gaps(self, records: Sequence[Record]) -> list[Record | Gap]:
        page: list[Record | Gap] = []
        expected = self._at.offset + 1
        for record in records:
            if _offset(record) != expected:
                before = Position(self._until.epoch, _offset(record) - 1, "", _time(record))
                page.append(Gap("trimmed", self._partition, before))
            page.append(record)
            expected = _offset(record) + 1
        return page


def _offset(record: Record) -> int:
    assert record.position is not None
    return record.position.offset
