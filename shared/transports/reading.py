"""Reading a log to the end and proving it complete: what every `Log` shares."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from heapq import heapify, heappop, heapreplace

from shared.cursor import Cursor, Position
from shared.record import Gap, Record

PAGE = 200  # records a read: past ~100 a larger page no longer saves time, and 200 of the largest are 50 MiB

ReadPage = Callable[[str, Position, int], Awaitable[Sequence[Record]]]
"""(partition, after, until offset) → the next records after it in that epoch, at most a page, [] where none is left."""

Seek = Callable[[Sequence[str], int | None], Awaitable[Cursor]]


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
        and (not last.check or position.check == chain(last.check, record.event.key))
    )


async def replay(after: Cursor, until: Cursor, *, read_page: ReadPage, seek: Seek) -> AsyncIterator[Record | Gap]:
    """Yield `(after, until]` of every partition, merged by append time, each partition proven complete."""
    readers = [
        _Reader(name, after.positions[name], end, read_page, seek)
        for name, end in until.positions.items()
        if name in after.positions
    ]
    for reader in readers:
        await reader.open()
    for reader in readers:  # before any record: the subscriber must hear of the loss first
        while reader.gaps:
            yield reader.gaps.pop(0)
    if len(readers) == 1:
        while (item := await readers[0].next()) is not None:
            yield item
        return
    # A merge by time, so that a user's events of several partitions come in the order they happened.
    heap: list[tuple[int, int, Record | Gap]] = []
    for index, reader in enumerate(readers):
        if (item := await reader.next()) is not None:
            heap.append((_time(item), index, item))
    heapify(heap)
    while heap:
        _, index, item = heap[0]
        yield item
        following = await readers[index].next()
        if following is None:
            heappop(heap)
        else:
            heapreplace(heap, (_time(following), index, following))


def _time(item: Record | Gap) -> int:
    return item.position.time if item.position else 0


class _Reader:
    """Reads one partition from its position to the end; every jump becomes a Gap."""

    def __init__(self, partition: str, after: Position, until: Position, read_page: ReadPage, seek: Seek) -> None:
        self.partition = partition
        self.at = after
        self.until = until
        self.gaps: list[Gap] = []
        self._read_page = read_page
        self._seek = seek
        self._page: list[Record] = []  # reversed, so that the next one is the last

    async def open(self) -> None:
        """Verify the start and read the first page, so that a loss known now is told before any record."""
        if not self._same_history():
            await self._restart()
        await self._fill()
        self._check_contiguous()

    async def next(self) -> Record | Gap | None:
        """Return the next record, or the gap before it; None at the end."""
        if not self._page:
            await self._fill()
        self._check_contiguous()
        if self.gaps:
            return self.gaps.pop(0)
        if not self._page:
            return None
        record = self._page.pop()
        assert record.position is not None
        self.at = record.position
        return record

    def _same_history(self) -> bool:
        at, until = self.at, self.until
        if at.epoch != until.epoch or at.offset > until.offset:
            return False
        return not (at.offset == until.offset and at.check and until.check and at.check != until.check)

    async def _restart(self) -> None:
        """The log is not the one the cursor came from: all that it holds may be unseen."""
        start = (await self._seek((self.partition,), None)).positions[self.partition]
        if start.epoch != self.until.epoch or start.offset > self.until.offset:
            start = self.until  # it changed once more since `until` was read; the next resume tells
        self.at = start
        self.gaps.append(Gap("epoch", self.partition, start))

    async def _fill(self) -> None:
        page = await self._next_page()
        if page and not follows(self.at, page[0]) and _offset(page[0]) == self.at.offset + 1:
            await self._restart()  # the number fits but the history does not: the store fell back
            page = await self._next_page()
        self._page = page[::-1]

    async def _next_page(self) -> list[Record]:
        if self.at.offset >= self.until.offset:
            return []
        return list(await self._read_page(self.partition, self.at, self.until.offset))

    def _check_contiguous(self) -> None:
        """Queue a gap, and step over it, where the next record is not the last one plus one."""
        if self._page:
            record = self._page[-1]
            offset = _offset(record)
            if offset == self.at.offset + 1:
                return
            # The place before the next record is known by its number alone: a lost record has no check.
            self.at = Position(self.until.epoch, offset - 1, "", _time(record))
        elif self.at.offset < self.until.offset:
            self.at = self.until
        else:
            return
        self.gaps.append(Gap("trimmed", self.partition, self.at))


def _offset(record: Record) -> int:
    assert record.position is not None
    return record.position.offset
