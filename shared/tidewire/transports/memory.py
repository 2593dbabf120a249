"""The log in this process's memory: the local default, and the model that the other logs are tested against."""

import asyncio
import math
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from heapq import heapify, heapreplace
from typing import NamedTuple

from tidewire.model.cursor import Cursor, Position
from tidewire.model.event import Event, text_bytes
from tidewire.model.partition_schemes import Registry, read_announcement
from tidewire.model.partitions import SCHEMES, Partitions
from tidewire.model.record import Record
from tidewire.transports import log_base
from tidewire.transports.appending import FOREVER, Answer, Part, Placed
from tidewire.transports.base import Handler, Receipt, Retention
from tidewire.transports.log_base import LogBase
from tidewire.transports.log_follower import control_first

MAX_BYTES = 128 * 1024 * 1024
ID_BYTES = 200  # of an id's slot; its position is the record's
COMPACT_BYTES = 1024 * 1024
EVICT_BATCH = 64  # records or ids of one partition that are evicted before the oldest partition is chosen again


async def _no_pause() -> None:
    """The production checkpoint: a memory log does no I/O. Tests yield here, as a networked log would."""


class MemoryLog(LogBase["_MemoryTail"]):
    """A log that lives and ends with the process; other processes cannot reach it."""

    def __init__(
        self,
        partitions: Partitions = Partitions(),
        retention: Retention = Retention(),
        *,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.time,
        pause: Callable[[], Awaitable[None]] = _no_pause,
    ) -> None:
        super().__init__(partitions, retention, reads_at_once=None, clock=clock)
        self._retention = retention
        self._max_bytes = max_bytes
        self._appended = 0  # bytes since the partitions were last measured
        self._clock = clock
        self._pause = pause
        self._partitions: dict[str, _Partition] = {}

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        """Append all events at once; see `Transport.publish`."""
        await self._pause()
        receipts = await super().publish(events)
        if self._appended * 64 > self._max_bytes:
            self._appended = 0
            self._evict_oldest()
        for tail in self._tails:
            tail.wake()
        await self._pause()
        return receipts

    async def ping(self) -> None:
        """Return at once: the process is its own log."""

    async def aclose(self) -> None:
        """Forget everything."""
        await super().aclose()
        self._partitions.clear()

    def stored(self, partition: str) -> "Stored":
        """Return what is kept of a partition."""
        return self._partition(partition).stored

    async def _read_positions(self, partitions: Sequence[str], time: int | None) -> Cursor:
        await self._pause()
        found = {name: self._partition(name) for name in partitions}
        return Cursor({name: one.last if time is None else one.before(time) for name, one in found.items()})

    async def _read_page(self, partition: str, after: Position, until: int) -> Sequence[Record]:
        await self._pause()
        return self._partition(partition).after(after, until)

    def _make_tail(self, handler: Handler) -> "_MemoryTail":
        return _MemoryTail(self, handler)

    def _partition(self, name: str) -> "_Partition":
        if name not in self._partitions:
            self._partitions[name] = _Partition(name, epoch=int(self._clock() * 1000))
        return self._partitions[name]

    def _evict_oldest(self) -> None:
        """Evict the oldest records and ids of all partitions but our own, down to a little below the limit."""
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
            surplus -= partition.evict(EVICT_BATCH)
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


JUMP = 1_000  # ms that the clock may lie behind the last record's time
PATIENCE = 10_000  # ms for which it must stay behind to be believed; or the retention, if that is shorter
MARKS = 8  # per partition; beyond that the oldest are dropped, and the next one covers their records


class Stored(NamedTuple):
    """What is kept of a partition; `records` and `ids` are numbers, `records` includes trimmed ones not deleted yet."""

    records: int
    ids: int
    bytes: int


class _Partition:
    def __init__(self, name: str, epoch: int) -> None:
        self.name = name
        self.last = Position(epoch, 0, "", epoch)  # the log's start: its readers may have missed anything since
        self._records: list[tuple[Position, Record]] = []
        self._trimmed = 0  # entries at the front of the list that are no longer kept
        self._trimmed_bytes = 0
        self._ids: OrderedDict[str, Position] = OrderedDict()  # in order of time: the oldest is evicted first
        self.bytes = 0  # of memory, records and ids
        self._behind: int | None = None  # ms: when the clock was first behind the last record's time
        self._marks: list[tuple[int, int]] = []  # (offset, ms): all up to the offset was appended by then

    def known(self, scope: str, now: float, window: int) -> Position | None:
        """Return the position of the event of this scope if it was appended within the window (ms), else None."""
        oldest = int(now * 1000) - window
        while self._oldest_id() <= oldest:
            self._evict_id()
        return self._ids.get(scope)

    def registry(self) -> Registry:
        """Return the registry that this partition holds, which is the control partition."""
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
        """The time of the oldest record or id that is kept; infinity if nothing is."""
        return min(self._oldest_id(), self._oldest_record())

    @property
    def stored(self) -> "Stored":
        """What is kept."""
        return Stored(len(self._records), len(self._ids), self.bytes)

    def evict(self, maximum: int) -> int:
        """Evict at most `maximum` of the oldest ids and records; return their bytes."""
        before = self.bytes
        for _ in range(maximum):
            if self._ids and self._oldest_id() <= self._oldest_record():
                self._evict_id()
            elif self._trimmed < len(self._records):
                self._evict_record()
            else:
                break
        self._compact()
        return before - self.bytes

    def before(self, time: int) -> Position:
        """Return the position before the first record at or after `time` (ms since 1970)."""
        index = bisect_left(self._records, time, self._trimmed, key=lambda entry: self._time_of(entry[0]))
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
        """Return the time of the next record: not before the last one's, since `seek` searches by time.

        A clock that was far ahead for one append would stop trimming and every search by time until it is there again.
        So a clock that stays behind for `PATIENCE` is believed; see append.lua.
        """
        last = self.last.time
        if last - now <= JUMP:
            self._behind = None
        elif self._behind is None or now < self._behind:
            self._behind = now
        elif now - self._behind >= min(PATIENCE, retention.age * 1000):
            earlier = [mark for mark in self._marks if mark[1] < now]  # a later one adds nothing to the new one
            self._marks = [*earlier[1 - MARKS :], (self.last.offset, now)]
            self._behind = None
            return now
        return max(last, now)

    def _time_of(self, position: Position) -> int:
        """Return the append time of a record, corrected by the marks; it never decreases with the offset."""
        for last, at in self._marks:
            if position.offset <= last:
                return min(position.time, at)
        return position.time

    def _trim(self, oldest: float, maximum: int) -> None:
        surplus = len(self._records) - maximum if maximum else 0
        while self._trimmed < surplus or self._oldest_record() <= oldest:
            self._evict_record()
        self._compact()

    def _oldest_record(self) -> float:
        return self._time_of(self._records[self._trimmed][0]) if self._trimmed < len(self._records) else math.inf

    def _oldest_id(self) -> float:
        return self._time_of(next(iter(self._ids.values()))) if self._ids else math.inf

    def _evict_record(self) -> None:
        size = self._records[self._trimmed][1].event.kept_bytes
        self.bytes -= size
        self._trimmed_bytes += size
        self._trimmed += 1

    def _evict_id(self) -> None:
        key, _ = self._ids.popitem(last=False)
        self.bytes -= ID_BYTES + text_bytes(key)

    def _compact(self) -> None:
        """Delete trimmed records: rarely, so that trimming costs O(1) per record, but before they take much memory."""
        if self._trimmed_bytes > COMPACT_BYTES or (self._trimmed > 1_000 and self._trimmed * 2 > len(self._records)):
            del self._records[: self._trimmed]
            self._trimmed = self._trimmed_bytes = 0


class _MemoryTail:
    """Follows positions like the tail of any other log, so that the hub sees the same everywhere."""

    running = True

    def __init__(self, log: MemoryLog, handler: Handler) -> None:
        self._log = log
        self._handler = handler
        self._positions: dict[str, Position] = {}
        self._wake = asyncio.Event()

    def follow(self, positions: Mapping[str, Position | None]) -> None:
        """Read these partitions too; see `Tail.follow`."""
        for name, position in positions.items():
            if position is not None:
                self._positions.setdefault(name, position)
        self.wake()

    def unfollow(self, partitions: Sequence[str]) -> None:
        """Stop reading these partitions."""
        for name in partitions:
            self._positions.pop(name, None)

    async def verify(self) -> None:
        """Compare the tail's positions with the heads now; see `Verifying`."""
        await self._deliver_all()

    def wake(self) -> None:
        """Deliver new records soon."""
        self._wake.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._deliver_all()

    async def _deliver_all(self) -> None:
        while heads := await self._changed_heads():
            for name in control_first(heads):
                await self._deliver(name, heads[name])

    async def _changed_heads(self) -> dict[str, Position]:
        heads = (await self._log.head(tuple(self._positions))).positions
        return {
            name: head
            for name, head in heads.items()
            if (at := self._positions.get(name)) is not None and _differ(head, at)
        }

    async def _deliver(self, name: str, head: Position) -> None:
        at = self._positions.get(name)
        if at is None:
            return
        async for item in self._log.replay(Cursor({name: at}), Cursor({name: head})):
            if self._positions.get(name) != at:
                return  # unfollowed meanwhile, and perhaps followed again from a later position
            assert item.position is not None
            at = self._positions[name] = item.position
            self._handler(item)


def _differ(head: Position, at: Position) -> bool:
    return head[:2] != at[:2] or (bool(at.check) and head.check != at.check)
