"""The log in this process's memory: the local default, and the model that the other logs are tested against."""

import asyncio
import math
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from heapq import heapify, heapreplace

from tidewire.model.cursor import Cursor, Position
from tidewire.model.event import Event, text_bytes
from tidewire.model.partition_schemes import Registry, read_announcement
from tidewire.model.partitions import SCHEMES, Partitions
from tidewire.model.record import Gap, Record
from tidewire.transports import log_base
from tidewire.transports.appending import FOREVER, Answer, Part, Placed, Writer
from tidewire.transports.base import Handler, Receipt, Retention
from tidewire.transports.log_follower import control_first

MAX_BYTES = 128 * 1024 * 1024
ID_BYTES = 200  # an id's slot; its position is the record's
COMPACT_BYTES = 1024 * 1024
FORGET_AT_ONCE = 64  # of one partition, before the others are looked at again


async def _no_pause() -> None:
    """The production checkpoint: a memory log does no I/O. Tests yield here, as a networked log would."""


class MemoryLog:
    """A log that lives and dies with the process; one process is all it reaches."""

    def __init__(
        self,
        partitions: Partitions = Partitions(),
        retention: Retention = Retention(),
        *,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.time,
        pause: Callable[[], Awaitable[None]] = _no_pause,
    ) -> None:
        self._writer = Writer(partitions, retention, self._append, clock)
        self._retention = retention
        self._max_bytes = max_bytes
        self._appended = 0  # bytes since the room was looked at the last time
        self._clock = clock
        self._pause = pause
        self._partitions: dict[str, _Partition] = {}
        self._tails: set[_MemoryTail] = set()

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        """Append all events at once; see `Transport.publish`."""
        await self._pause()
        receipts = await self._writer.publish(events)
        if self._appended * 64 > self._max_bytes:
            self._appended = 0
            self._make_room()
        for tail in self._tails:
            tail.ring()
        await self._pause()
        return receipts

    @asynccontextmanager
    async def on_message(self, handler: Handler) -> AsyncIterator["_MemoryTail"]:
        """Open the tail; see `Transport.on_message`."""
        tail = _MemoryTail(self, handler)
        self._tails.add(tail)
        task = asyncio.create_task(tail.run())
        try:
            yield tail
        finally:
            self._tails.discard(tail)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def head(self, partitions: Sequence[str]) -> Cursor:
        """Return the place after the last record of each partition."""
        await self._pause()
        return Cursor({name: self._partition(name).last for name in partitions})

    async def seek(self, partitions: Sequence[str], time: int | None) -> Cursor:
        """Return the place before the first record at or after `time`; None is before the oldest kept."""
        await self._pause()
        return Cursor({name: self._partition(name).before(time) for name in partitions})

    def replay(self, after: Cursor, until: Cursor) -> AsyncIterator[Record | Gap]:
        """Yield what lies in `(after, until]`; see `Log.replay`."""
        return log_base.replay(after, until, read_page=self._read_page, seek=self.seek)

    def replay_pages(self, after: Cursor, until: Cursor) -> AsyncIterator[Sequence[Record | Gap]]:
        """Yield the same page by page; see `PagedLog`."""
        return log_base.pages(after, until, read_page=self._read_page, seek=self.seek)

    async def ping(self) -> None:
        """Return at once: the process is its own log."""

    async def aclose(self) -> None:
        """Forget everything."""
        self._partitions.clear()

    async def _read_page(self, partition: str, after: Position, until: int) -> Sequence[Record]:
        await self._pause()
        return self._partition(partition).after(after, until)

    def _partition(self, name: str) -> "_Partition":
        if name not in self._partitions:
            self._partitions[name] = _Partition(name, epoch=int(self._clock() * 1000))
        return self._partitions[name]

    def _make_room(self) -> None:
        """Forget the oldest records and ids of all partitions, a little more than is necessary; none of our own."""
        surplus = sum(partition.bytes for partition in self._partitions.values()) - self._max_bytes
        if surplus <= 0:
            return
        surplus += self._max_bytes // 16
        oldest = [
            (partition.oldest, name) for name, partition in self._partitions.items() if not name.startswith("realtime.")
        ]
        heapify(oldest)
        while surplus > 0 and oldest and oldest[0][0] < math.inf:
            partition = self._partitions[oldest[0][1]]
            surplus -= partition.forget(FORGET_AT_ONCE)
            heapreplace(oldest, (partition.oldest, partition.name))

    async def _append(self, expected: str, parts: Sequence[Part]) -> tuple[list[Answer], Registry | None]:
        schemes = self._partition(SCHEMES)
        if schemes.last.check != expected:
            return [None] * len(parts), schemes.registry()
        return [self._append_part(part) for part in parts], None

    def _append_part(self, part: Part) -> Answer:
        partition, now = self._partition(part.partition), self._clock()
        retention = FOREVER if part.partition == SCHEMES else self._retention
        window = int(retention.idempotency_window * 1000)
        if part.others and partition.known(part.scope, now, window) is None:
            found = {other: self._partition(other[0]).known(other[1], now, window) for other in part.others}
            if elsewhere := {other: position for other, position in found.items() if position is not None}:
                return elsewhere
        before = partition.bytes
        placed = partition.append(part.event, part.scope, retention, now)
        self._appended += max(partition.bytes - before, 0)
        return placed


JUMP = 1_000  # ms that the clock may lie behind the last time without being looked at
PATIENCE = 10_000  # ms that it must stay behind, at most; where less is kept, that
MARKS = 8  # of one partition; past that the oldest go, and the next one holds for their records


class _Partition:
    def __init__(self, name: str, epoch: int) -> None:
        self.name = name
        self.last = Position(epoch, 0, "", epoch)  # the log's start is the oldest time that its readers may have missed
        self._records: list[tuple[Position, Record]] = []
        self._trimmed = 0  # entries at the front of the list that are no longer kept
        self._trimmed_bytes = 0
        self._ids: OrderedDict[str, Position] = OrderedDict()  # in order of time, so that the oldest leave first
        self.bytes = 0  # of memory, records and ids
        self._behind: int | None = None  # ms: since when the clock has been behind the last time
        self._marks: list[tuple[int, int]] = []  # (offset, ms): all up to the offset was appended by then

    def known(self, scope: str, now: float, window: int) -> Position | None:
        """Return where the event of this scope was appended within the window (ms), None if it was not."""
        oldest = int(now * 1000) - window
        while self._oldest_id() <= oldest:
            self._forget_id()
        return self._ids.get(scope)

    def registry(self) -> Registry:
        """Return what this partition says, which is the control partition."""
        announced = [(read_announcement(record.event), position.time) for position, record in self._records]
        return Registry(self.last.check, [(one, time) for one, time in announced if one is not None])

    def append(self, event: Event, scope: str, retention: Retention, now: float) -> Placed:
        """Append unless its scope is known; return its position and whether it was known."""
        clock = int(now * 1000)
        time = self._next_time(clock, retention)
        if (known := self.known(scope, now, int(retention.idempotency_window * 1000))) is not None:
            return Placed(known, True)
        check = log_base.chain(self.last.check, event.chained)
        self.last = Position(self.last.epoch, self.last.offset + 1, check, time)
        self._records.append((self.last, Record(event, self.name, self.last)))
        self._ids[scope] = self.last
        self.bytes += event.kept_bytes + ID_BYTES + text_bytes(scope)
        self._trim(clock - retention.age * 1000, retention.events)
        return Placed(self.last, False)

    @property
    def oldest(self) -> float:
        """The time of the oldest that is kept, an id or a record; infinity where nothing is."""
        return min(self._oldest_id(), self._oldest_record())

    def forget(self, maximum: int) -> int:
        """Forget the oldest ids and records, `most` of them at most; return their bytes."""
        before = self.bytes
        for _ in range(maximum):
            if self._ids and self._oldest_id() <= self._oldest_record():
                self._forget_id()
            elif self._trimmed < len(self._records):
                self._forget_record()
            else:
                break
        self._compact()
        return before - self.bytes

    def before(self, time: int | None) -> Position:
        """Return the place before the first record at or after `time` (None: before the oldest kept)."""
        index = bisect_left(self._records, time or 0, self._trimmed, key=lambda entry: self._time_of(entry[0]))
        if index == len(self._records):
            return self.last
        if index > self._trimmed:
            return self._records[index - 1][0]
        first = self._records[index][0]
        return Position(first.epoch, first.offset - 1, "", first.time)

    def after(self, position: Position, until: int) -> list[Record]:
        """Return the next records after `position` up to offset `until`, at most a page."""
        if position.epoch != self.last.epoch:
            return []
        behind = self.last.offset - len(self._records)  # the offset before the list's first entry
        start = max(position.offset - behind, self._trimmed)
        stop = min(until - behind, start + log_base.PAGE)
        return [record for _, record in self._records[start:stop]]

    def _next_time(self, now: int, retention: Retention) -> int:
        """Return the time of the next record: never back, since seek searches by time, unless the clock stays behind.

        One that was far ahead for one append would else stop trimming, and every search by time, until it gets there
        again. One that stays behind for `PATIENCE` has the last word: see append.lua.
        """
        last = self.last.time
        if last - now <= JUMP:
            self._behind = None
        elif self._behind is None or now < self._behind:
            self._behind = now
        elif now - self._behind >= min(PATIENCE, retention.age * 1000):
            earlier = [mark for mark in self._marks if mark[1] < now]  # others say less than the new one
            self._marks = [*earlier[1 - MARKS :], (self.last.offset, now)]
            self._behind = None
            return now
        return max(last, now)

    def _time_of(self, position: Position) -> int:
        """Return when a record was appended, as far as is known now; this never goes back along the offsets."""
        for last, at in self._marks:
            if position.offset <= last:
                return min(position.time, at)
        return position.time

    def _trim(self, oldest: float, maximum: int) -> None:
        surplus = len(self._records) - maximum if maximum else 0
        while self._trimmed < surplus or self._oldest_record() <= oldest:
            self._forget_record()
        self._compact()

    def _oldest_record(self) -> float:
        return self._time_of(self._records[self._trimmed][0]) if self._trimmed < len(self._records) else math.inf

    def _oldest_id(self) -> float:
        return self._time_of(next(iter(self._ids.values()))) if self._ids else math.inf

    def _forget_record(self) -> None:
        size = self._records[self._trimmed][1].event.kept_bytes
        self.bytes -= size
        self._trimmed_bytes += size
        self._trimmed += 1

    def _forget_id(self) -> None:
        key, _ = self._ids.popitem(last=False)
        self.bytes -= ID_BYTES + text_bytes(key)

    def _compact(self) -> None:
        """Let go of trimmed records; seldom, so that trimming costs O(1) a record, and before they take much memory."""
        if self._trimmed_bytes > COMPACT_BYTES or (self._trimmed > 1_000 and self._trimmed * 2 > len(self._records)):
            del self._records[: self._trimmed]
            self._trimmed = self._trimmed_bytes = 0


class _MemoryTail:
    """Follows positions like a reader of any log would, so that what the hub sees is the same everywhere."""

    running = True

    def __init__(self, log: MemoryLog, handler: Handler) -> None:
        self._log = log
        self._handler = handler
        self._at: dict[str, Position] = {}
        self._doorbell = asyncio.Event()

    def follow(self, positions: Mapping[str, Position | None]) -> None:
        for name, position in positions.items():
            if position is not None:
                self._at.setdefault(name, position)
        self.ring()

    def unfollow(self, partitions: Sequence[str]) -> None:
        for name in partitions:
            self._at.pop(name, None)

    async def verify(self) -> None:
        """Look at once whether the log is the one that was read; see `Verifying`."""
        await self._deliver_moved()

    def ring(self) -> None:
        self._doorbell.set()

    async def run(self) -> None:
        while True:
            await self._doorbell.wait()
            self._doorbell.clear()
            await self._deliver_moved()

    async def _deliver_moved(self) -> None:
        while moved := await self._moved():
            for name in control_first(moved):
                await self._deliver(name, moved[name])

    async def _moved(self) -> dict[str, Position]:
        heads = (await self._log.head(tuple(self._at))).positions
        return {
            name: head for name, head in heads.items() if (at := self._at.get(name)) is not None and _differ(head, at)
        }

    async def _deliver(self, name: str, head: Position) -> None:
        at = self._at.get(name)
        if at is None:
            return
        async for item in self._log.replay(Cursor({name: at}), Cursor({name: head})):
            if self._at.get(name) != at:
                return  # left meanwhile, and perhaps followed again further on: read on from there
            assert item.position is not None
            at = self._at[name] = item.position
            self._handler(item)


def _differ(head: Position, at: Position) -> bool:
    return head[:2] != at[:2] or (bool(at.check) and head.check != at.check)
