"""Reading a log to the end and proving it complete: what every `Log` shares."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from heapq import heapify, heappop, heapreplace
from itertools import accumulate

from tidewire.model.cursor import Cursor, Position
from tidewire.model.record import Gap, Record
from tidewire.transports.base import Log, PagedLog

PAGE = 500  # records a read: past ~100 a larger one saves the store no time, but us what is done once a page
PAGE_BYTES = 256 * 1024  # of one reader's page: it is held for as long as a slow client takes to read it

FIRST = 32  # records of the first page: 8 MiB of the largest events
GROWTH = 4

ReadPage = Callable[[str, Position, int], Awaitable[Sequence[Record]]]
"""(partition, after, until offset) → the next records after it in that epoch, at most a page, [] where none is left."""

Seek = Callable[[Sequence[str], int | None], Awaitable[Cursor]]


class PageSize:
    """How many records to ask for, so that a page stays within `PAGE_BYTES` however large the events are.

    500 of the largest events are 125 MiB: a few clients that stop reading in the middle of a replay would fill the
    memory with their pages. So the first page is a small one, and each may be `GROWTH` times the one before where its
    records were small; what a log of small events costs for it is a few round trips in a process's life.
    """

    __slots__ = ("records",)

    def __init__(self) -> None:
        self.records = FIRST  # to ask for next

    def fit(self, sizes: Sequence[int]) -> int:
        """Return how many of the records that came, of so many bytes each, make a page; at least one does."""
        total = sum(sizes)
        if sizes:
            fitting = max(1, PAGE_BYTES * len(sizes) // max(total, 1))
            self.records = min(PAGE, fitting, max(self.records, FIRST) * GROWTH)
        if total <= PAGE_BYTES:
            return len(sizes)
        return max(1, sum(1 for end in accumulate(sizes) if end <= PAGE_BYTES))


def chain(check: str, key: str) -> str:
    """Return the check of a record from the one before it: a hash over the whole history, 8 hex digits.

    The same in Lua (append.lua) and SQL. Zero is kept for "unknown".
    """
    digest = hashlib.sha1(f"{check}{key}".encode(), usedforsecurity=False).hexdigest()[:8]
    return "00000001" if digest == "00000000" else digest


def follows(last: Position, record: Record) -> bool:
    """Tell whether `record` is the very next of its partition after `last`, in the same history."""
    position = record.position
    assert position is not None
    return (
        position.epoch == last.epoch
        and position.offset == last.offset + 1
        and (not last.check or position.check == chain(last.check, record.event.chained))
    )


Forget = Callable[[str], None]
"""(partition) → drop the pages that are kept of it: they are of a history that the log has no more."""


def _keeps_none(partition: str) -> None:
    """The `Forget` of a log that reads each page anew."""


async def replay(
    after: Cursor, until: Cursor, *, read_page: ReadPage, seek: Seek, forget: Forget = _keeps_none
) -> AsyncIterator[Record | Gap]:
    """Yield `(after, until]` of every partition, merged by append time, each partition proven complete."""
    async with aclosing(pages(after, until, read_page=read_page, seek=seek, forget=forget)) as found:
        async for page in found:
            for item in page:
                yield item


async def pages_of(log: Log, after: Cursor, until: Cursor) -> AsyncGenerator[Sequence[Record | Gap]]:
    """Yield what `log.replay` does, in its pages where it hands them out, else one by one."""
    if not isinstance(log, PagedLog):
        async for item in log.replay(after, until):
            yield (item,)
        return
    found = log.replay_pages(after, until)
    try:
        async for page in found:
            yield page
    finally:
        if isinstance(found, AsyncGenerator):  # else what it reads ahead would be held until it is collected
            await found.aclose()


async def pages(
    after: Cursor, until: Cursor, *, read_page: ReadPage, seek: Seek, forget: Forget = _keeps_none
) -> AsyncGenerator[Sequence[Record | Gap]]:
    """Yield what `replay` does, page by page."""
    readers = [
        _Reader(name, after.positions[name], end, read_page, seek, forget)
        for name, end in until.positions.items()
        if name in after.positions
    ]
    try:
        opened = [await reader.open() for reader in readers]
        if gaps := [gap for lost, _ in opened for gap in lost]:  # the subscriber must hear of the loss first
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


async def _merge(merged: "list[_Merging]") -> AsyncIterator[Sequence[Record | Gap]]:
    """Yield by time, so that a user's events of several partitions come in the order they happened."""
    heap = [(_time(source.item), index) for index, source in enumerate(merged) if source.item is not None]
    heapify(heap)
    page: list[Record | Gap] = []
    while heap:
        source = merged[heap[0][1]]
        assert source.item is not None
        page.append(source.item)
        if source.is_at_end:  # the next page may have to be waited for, or not come at all
            yield page
            page = []
        following = await source.advance()
        if following is None:
            heappop(heap)
        else:
            heapreplace(heap, (_time(following), heap[0][1]))


def _time(item: Record | Gap) -> int:
    return item.position.time if item.position else 0


class _Merging:
    """A reader's place in its page, and what is there; None at the end."""

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
        """Go on to the next one, and return it."""
        self._at += 1
        if self._at == len(self._page):
            self._page, self._at = await self._reader.next_page(), 0
        self.item = self._page[self._at] if self._page else None
        return self.item


class _Reader:
    """Reads one partition from its position to the end; every jump becomes a Gap."""

    def __init__(
        self, partition: str, after: Position, until: Position, read_page: ReadPage, seek: Seek, forget: Forget
    ) -> None:
        self._partition = partition
        self._at = after
        self._until = until
        self._read_page = read_page
        self._seek = seek
        self._forget = forget
        self._ahead: asyncio.Task[Sequence[Record]] | None = None  # the next page, read while this one is written

    def close(self) -> None:
        """Read no further."""
        if self._ahead is not None:
            self._ahead.cancel()

    async def open(self) -> tuple[list[Gap], Sequence[Record | Gap]]:
        """Verify the start and return the losses known now, to be told before any record, and the first page."""
        at, until = self._at, self._until
        same = at.epoch == until.epoch and at.offset <= until.offset
        if same and at.offset == until.offset and at.check and until.check:
            same = at.check == until.check
        lost: list[Gap] = []
        if not same:
            self._forget(self._partition)  # the pages kept may be of the history that is lost, under the same numbers
            lost.append(await self._restart())
        page = await self.next_page()
        while page and isinstance(page[0], Gap):
            lost.append(page[0])
            page = page[1:]
        return lost, page

    async def next_page(self) -> Sequence[Record | Gap]:
        """Return the next records, and a gap wherever one does not follow the last; [] at the end."""
        records = await self._read()
        if records and not self._fits(records):
            # The numbers fit but the history does not: the store fell back. Perhaps only the page is from before that.
            self._forget(self._partition)
            records = await self._read_page(self._partition, self._at, self._until.offset)
            if records and not self._fits(records):
                return [await self._restart(), *self._verified(await self._read())]
        return self._verified(records)

    def _fits(self, records: Sequence[Record]) -> bool:
        """Tell whether a page goes on where we are, and ends where the head was, in one and the same history."""
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
        """The log is not the one the cursor came from: all that it holds may be unseen."""
        start = (await self._seek((self._partition,), None)).positions[self._partition]
        if start.epoch != self._until.epoch or start.offset > self._until.offset:
            start = self._until  # it changed once more since `until` was read; the next resume tells
        self._at = start
        self._until = self._until._replace(check="")  # it may be of the history that is lost
        return Gap("epoch", self._partition, start)

    def _verified(self, records: Sequence[Record]) -> Sequence[Record | Gap]:
        """Return the records of a page with a gap wherever a number is missing.

        The place before a record that follows a loss is known by its number alone: a lost record has no check.
        """
        if not records:
            if self._at.offset >= self._until.offset:
                return []
            self._at = self._until
            return [Gap("trimmed", self._partition, self._until)]
        first, last = _offset(records[0]), _offset(records[-1])
        if first == self._at.offset + 1 and last - first == len(records) - 1:
            page: Sequence[Record | Gap] = records  # in order and without a hole: the usual case, seen at once
        else:
            page = self._with_gaps(records)
        position = records[-1].position
        assert position is not None
        self._at = position
        if position.offset < self._until.offset:
            self._ahead = asyncio.create_task(self._read_next(position))
            self._ahead.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, if nobody asks
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
