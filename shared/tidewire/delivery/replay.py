"""Reading the log for one subscriber: from its own place to the head, and again where it could not keep up."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import aclosing
from typing import Protocol

import msgspec

from tidewire.delivery.early_delivery import Early
from tidewire.delivery.fanout import Fanout, Sink, cursor_text
from tidewire.errors import TransportUnavailable
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor, Position, encode_one
from tidewire.model.record import Gap, GapReason, Record
from tidewire.model.record_page import RecordPage
from tidewire.primitives.backoff import Backoff
from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.protocol.sse import DataFormat, Format
from tidewire.transports.base import Log, Transport

logger = logging.getLogger(__name__)
warnings = ThrottledLog(logger)  # of all streams: each tries again by itself

BATCH_BYTES = 64 * 1024  # of replayed frames a write; more would only fill the server's buffer
BATCH_ITEMS = 200  # records read before others have their turn: a log in memory never waits by itself
SILENT = 1.0  # seconds in which all that is read may be for others, without a word to the client
HOLD = 0.5  # seconds for which a page of the log is held for a client that has no room; then it is read again
STALLED = 60.0  # seconds without room for one byte: the client is gone or frozen


class Stats(msgspec.Struct):
    """What happened to the subscribers of this process since its start."""

    replays: int = 0
    replayed: int = 0
    filtered: int = 0
    slow: int = 0
    back_to_log: int = 0
    gaps: dict[GapReason, int] = {}


class StalledError(Exception):
    """The client took no byte for `STALLED` seconds."""


class Reads(Protocol):
    """What a subscriber asks of the hub, which knows the tail."""

    async def heads(self, partitions: Sequence[str]) -> Cursor:
        """Return the log's heads, none of them behind what the tail has brought. Raises TransportUnavailable."""

    async def followed(self, partitions: Sequence[str]) -> None:
        """Return once the tail's read of these partitions was answered."""


class Reader:
    """One subscriber's place, and the way from there to the log's head.

    `positions` is the place up to which everything has been matched; while the subscriber is live that is the
    tail's place, and not kept here. No cursor is written before the events that it covers.
    """

    __slots__ = (
        "_before",
        "_closed",
        "_fanout",
        "_from",
        "_log",
        "_reads",
        "_recovered",
        "_replayed",
        "_seen",
        "_stats",
        "_until",
        "format",
        "interest",
        "live",
        "partitions",
        "positions",
        "sink",
    )

    def __init__(
        self,
        transport: Transport,
        reads: Reads,
        fanout: Fanout,
        stats: Stats,
        interest: Interest,
        format: Format,
        partitions: tuple[str, ...],
    ) -> None:
        self.interest = interest
        self.format = format
        self.partitions = partitions
        self.positions: dict[str, Position] = {}
        self.live = False
        self.sink: Sink
        self._log = transport if isinstance(transport, Log) else None
        self._reads = reads
        self._fanout = fanout
        self._stats = stats
        self._seen = fanout.ring.end  # the ring's number up to which everything has been matched
        self._from = self._seen  # all from here on was seen, or told to have been lost
        self._before: tuple[tuple[int, int], ...] = ()  # (from, up to) of what was seen before something left the ring
        self._until: Cursor | None = None  # the head to replay to; None: to be read
        self._replayed = 0
        self._recovered = True
        self._closed = False

    def had(self, early: Early) -> bool:
        """Tell whether the subscriber was sent this event when it was told early."""
        number = early.number
        seen = number >= self._from and (self.live or number < self._seen)
        return (seen or any(a <= number < b for a, b in self._before)) and self.interest.matches(early.event)

    async def _catch_up(self, backoff: Backoff) -> None:
        """Read the log from our place to its head, however long it is away meanwhile.

        The stream stays open: an EventSource gives up for good when a reconnection is refused, but it waits
        on a silent stream.
        """
        if self._log is None:
            if self._until is None:  # fallen out of the ring, and nothing remembers what left it
                self._skip()
                await self._announce(Gap("no-log", self.partitions[0], None))
            self._until = None
            return
        while True:
            try:
                if self._until is None:
                    self._skip()  # before the head is read: what comes later is in the ring
                    self._until = await self._reads.heads(self.partitions)
                until, self._until = self._until, None
                if (room := await self._replay(self._log, until)) is None:
                    return
                self._until = until
                await self._wait(room, STALLED - HOLD)
            except TransportUnavailable as error:
                warnings.warn(f"replay interrupted, trying again: {error.detail}")
                await self._pause(backoff.next())
                await self._write(self.format.heartbeat(self._cursor()))

    async def _replay(self, log: Log, until: Cursor) -> Awaitable[None] | None:
        """Write what lies between our place and `until`.

        Where the client stops reading meanwhile, return the room that it waits for, and hold no page of the log for it:
        a thousand such clients would hold a thousand.
        """
        self._stats.replays += 1
        try:
            async with aclosing(log.replay_pages(Cursor(self.positions), until)) as pages:
                await self._replay_pages(pages)
        except _FullError as full:
            return full.room
        return None

    async def _replay_pages(self, pages: AsyncIterator[Sequence[Record | Gap]]) -> None:
        frames: list[bytes] = []
        read = size = 0
        clock = asyncio.get_running_loop().time
        heard = clock()
        try:
            async for page in pages:
                written = False
                if isinstance(page, RecordPage) and isinstance(self.format, DataFormat) and self._follows(page):
                    written = await self._replay_stored(page, self.format)
                    await asyncio.sleep(0)
                else:
                    for item in page:
                        if isinstance(item, Gap):
                            await self._flush(frames, held=True)
                            if item.position is not None:
                                self.positions[item.partition] = item.position
                            await self._announce(item)
                            continue
                        size += self._match(item, frames)
                        read += 1
                        if read == BATCH_ITEMS or size >= BATCH_BYTES:
                            await self._write_batch(frames)
                            read = size = 0
                            written = True
                is_silent = clock() - heard > SILENT
                if frames:  # the next page may be long in coming
                    await self._flush(frames, held=True)
                    read = size = 0
                    written = True
                elif is_silent and not written:
                    await self._write_batch(frames)
                    written = True
                if written:
                    heard = clock()
        except TransportUnavailable:
            await self._flush(frames)  # our place is after them
            raise
        await self._flush(frames)

    def _follows(self, page: RecordPage) -> bool:
        """Tell whether a page begins where we are, no other partition is in our cursor, and nothing was told early."""
        ours = self.positions[page.partition]
        at_our_place = (page.epoch, page.first) == (ours.epoch, ours.offset + 1)
        return at_our_place and len(self.partitions) == 1 and self._fanout.once is None

    async def _replay_stored(self, page: RecordPage, format: DataFormat) -> bool:
        """Replay a page without making records of it; tell whether there was something in it for us."""
        indexes = page.matching(self.interest)
        self._stats.filtered += len(page) - len(indexes)
        batch = max(1, min(BATCH_ITEMS, len(page) * BATCH_BYTES // (page.size + 1)))
        for start in range(0, len(indexes), batch):
            part = indexes[start : start + batch]
            self.positions[page.partition] = page.position(part[-1])
            self._replayed += len(part)
            self._stats.replayed += len(part)
            await self._write(b"".join(format.records(page, part)), held=True)
            await asyncio.sleep(0)
        self.positions[page.partition] = page.position(len(page) - 1)
        return bool(indexes)

    async def _write_batch(self, frames: list[bytes]) -> None:
        if not frames:  # all filtered out: the cursor moves, and the connection is not silent
            frames.append(self.format.heartbeat(self._cursor()))
        await self._flush(frames, held=True)
        await asyncio.sleep(0)

    async def _pause(self, seconds: float) -> None:
        """Wait before the next try while the log is away."""
        await asyncio.sleep(seconds)

    def _skip(self) -> None:
        """Go on from the end of the ring: what lies before it is to be read from the log."""
        once = self._fanout.once
        if once is not None and (oldest := once.oldest) is not None:
            seen = (*self._before, (self._from, self._seen))
            self._before = tuple(part for part in seen if part[1] > oldest)
        self._seen = self._from = self._fanout.ring.end

    def _match(self, record: Record, frames: list[bytes]) -> int:
        """Move our place over the record, and add its frame where it is for us; one we had already is dropped.

        Returns the bytes added.
        """
        event, partition, position = record
        if position is not None:
            ours = self.positions[partition]
            if (position.epoch == ours.epoch and position.offset <= ours.offset) or position.epoch < ours.epoch:
                return 0
            self.positions[partition] = position
        if not self.interest.matches(event):
            self._stats.filtered += 1
            return 0
        if self._fanout.once is not None and self._is_second(record):
            return 0
        if position is not None and len(self.partitions) == 1:  # the usual case, without a look at the others
            cursor = encode_one(partition, position)
        else:
            cursor = self._cursor()
        frame = self.format.record(cursor, record)
        frames.append(frame)
        self._replayed += 1
        self._stats.replayed += 1
        return len(frame)

    def _is_second(self, record: Record) -> bool:
        """Tell whether this subscriber was sent the event already, by the other of the two roads."""
        once = self._fanout.once
        assert once is not None
        if record.position is not None:
            early = once.hear(record)  # the tail of this process may have begun after it
            return early is not None and self.had(early)
        early = once.find(record)
        if early is None:
            return False
        # In the ring it is before the record; but the replay may have brought that.
        place, ours = early.position, self.positions.get(record.partition)
        return place is not None and ours is not None and ours[:2] >= place[:2]

    async def _announce(self, gap: Gap) -> None:
        self._recovered = False
        self._stats.gaps[gap.reason] = self._stats.gaps.get(gap.reason, 0) + 1
        await self._write(self.format.gap(self._cursor(), gap))

    def _cursor(self) -> str:
        return cursor_text(self.positions, self.partitions)

    async def _flush(self, frames: list[bytes], *, held: bool = False) -> None:
        chunk = b"".join(frames)
        frames.clear()
        await self._write(chunk, held=held)

    def _check_open(self) -> None:
        """Go no further once closed: before Python 3.12 a cancellation may be swallowed (python/cpython#86296) by the
        wait_for in which redis-py sends, and the reader of a client that is gone would become a member for good.
        """
        if self._closed:
            raise asyncio.CancelledError

    async def _write(self, chunk: bytes, *, held: bool = False) -> None:
        """Write, and wait for room: where pages of the log are `held`, `HOLD` seconds, and then raise _FullError."""
        self._check_open()
        if not chunk or (room := self.sink.write(chunk)) is None:
            return
        if held:
            room = asyncio.ensure_future(room)
            await asyncio.wait((room,), timeout=HOLD)
            if not room.done():
                raise _FullError(room)
        await self._wait(room, STALLED)

    async def _wait(self, room: Awaitable[None], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await room
        except TimeoutError:
            raise StalledError from None


class _FullError(Exception):
    """The client takes no more for now; all that was matched is written."""

    def __init__(self, room: Awaitable[None]) -> None:
        super().__init__()
        self.room = room
