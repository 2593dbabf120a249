"""One subscriber: from its cursor through the log to the live tail, and back to the log when it cannot keep up."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Literal, NamedTuple

import msgspec

from shared.backoff import Backoff
from shared.cursor import Cursor, Position, encode_one
from shared.errors import TransportUnavailable
from shared.fanout import Fanout, Sink, cursor_text
from shared.filter import Interest
from shared.once import Early
from shared.record import Gap, GapReason, Record
from shared.sse import ClosingReason, DataFormat, Format
from shared.stored import StoredRecords
from shared.transports.base import Log, PagedLog, Transport

logger = logging.getLogger(__name__)

BATCH_BYTES = 64 * 1024  # of replayed frames a write; more would only fill the server's buffer
BATCH_ITEMS = 200  # records read before others have their turn: a log in memory never waits by itself
AGAIN = 1.0  # seconds at most between two looks whether the log is back, of a subscriber who came while it was away
STALLED = 60.0  # seconds without room for one byte: the client is gone or frozen


class Start(msgspec.Struct, frozen=True):
    """Where a subscriber begins: after `cursor` where there is one, else at `since` (a time in ms since 1970)."""

    cursor: str | None = None
    since: Literal["now", "earliest"] | int = "now"


class Stats(msgspec.Struct):
    """What happened to the subscribers of this process since its start."""

    replays: int = 0
    replayed: int = 0
    filtered: int = 0
    slow: int = 0
    back_to_log: int = 0
    gaps: dict[GapReason, int] = {}


class Subscriber:
    """Reads the log from its own place until it meets the tail, then is a member of the fan-out.

    `positions` is the place up to which everything has been matched; while the subscriber is live that is the
    tail's place, and not kept here. No cursor is written before the events that it covers.
    """

    __slots__ = (
        "_before",
        "_closed",
        "_fanout",
        "_farewell",
        "_from",
        "_gaps",
        "_heartbeat",
        "_log",
        "_recovered",
        "_replayed",
        "_seen",
        "_started",
        "_stats",
        "_task",
        "_until",
        "_waits",
        "ending",
        "format",
        "interest",
        "issued_at",
        "live",
        "partitions",
        "positions",
        "sink",
        "written",
    )

    def __init__(
        self,
        transport: Transport,
        fanout: Fanout,
        stats: Stats,
        interest: Interest,
        format: Format,
        partitions: tuple[str, ...],
        heartbeat: float,
    ) -> None:
        self.interest = interest
        self.format = format
        self.partitions = partitions
        self.positions: dict[str, Position] = {}
        self.live = False
        self.issued_at = math.inf  # when the token was, in s since 1970: earlier ones of its user may be revoked
        self.sink: Sink
        self._log = transport if isinstance(transport, Log) else None
        self._fanout = fanout
        self._stats = stats
        self._heartbeat = heartbeat
        self._seen = fanout.ring.end  # the ring's number up to which everything has been matched
        self._from = self._seen  # all from here on was seen, or told to have been lost
        self._before: tuple[tuple[int, int], ...] = ()  # (from, up to) of what was seen before something left the ring
        self._waits: _Waits | None = None
        self._until: Cursor | None = None  # the head to replay to; None: to be read
        self._gaps: list[Gap] = []
        self._replayed = 0
        self._recovered = True
        self._started = False
        self._closed = False
        self._farewell = b""
        self.ending: str | None = None  # why it was closed; None: it was not, or without a word
        self.written = 0  # events while it was live
        self._task: asyncio.Task[None] | None = None

    async def prepare(self, start: Start, heads: Cursor) -> None:
        """Find the place to begin at; `heads` must have been read after the subscriber was made.

        Raises TransportUnavailable.
        """
        self._until = heads
        if self._log is None:
            if start.cursor is not None or start.since != "now":
                self._gaps = [Gap("no-log", self.partitions[0], None)]
            return
        places = dict(heads.positions)
        if start.cursor is not None:
            cursor = Cursor.parse(start.cursor)
            if cursor is None or not cursor.positions:
                places = dict((await self._log.seek(self.partitions, None)).positions)
                self._gaps = [Gap("invalid", self.partitions[0], places[self.partitions[0]])]
            else:
                missing = [name for name in self.partitions if name not in cursor.positions]
                if missing and cursor.time:  # another scheme wrote it: what came since then may be unseen
                    places.update((await self._log.seek(missing, cursor.time)).positions)
                places.update(cursor.positions)
        elif start.since != "now":
            since = None if start.since == "earliest" else start.since
            places = dict((await self._log.seek(self.partitions, since)).positions)
        self.positions = {name: places[name] for name in self.partitions}
        if any(place[:2] > heads.positions[name][:2] for name, place in self.positions.items()):
            # The log moved on while the place was searched in it: past the old head, it would look like a lost log.
            self._until = await self._log.head(self.partitions)

    def wait_for_log(self, start: Start, read_heads: Callable[[Sequence[str]], Awaitable[Cursor]]) -> None:
        """Find the place to begin at when the log is back, instead of `prepare`; until then, write what is told early.

        Without a cursor the place is where the log was at this moment by its own clock.
        """
        if start.cursor is None and start.since == "now":
            start = Start(since=int(time.time() * 1000))
        self._waits = _Waits(start, read_heads)

    @property
    def waiting(self) -> bool:
        """Whether the log has been away since the subscriber came."""
        return self._waits is not None

    @property
    def sent(self) -> int:
        """Events that were written, until it last stopped being live."""
        return self._replayed + self.written

    @property
    def buffered(self) -> int:
        """Bytes written that the kernel does not have yet."""
        return self.sink.buffered if self._started else 0

    def start(self, sink: Sink) -> None:
        """Write to `sink` from now on: gaps, replay, `ready`, then live."""
        self.sink = sink
        self._started = True
        if self._closed:  # while the head of its answer was on the way
            sink.end(self._farewell)
        else:
            self._task = asyncio.create_task(self._run(self._begin))

    async def replay(self, sink: Sink) -> None:
        """Write gaps, replay and `ready` to `sink`, and no more."""
        self.sink = sink
        await self._begin()

    def fall_behind(self, room: Awaitable[None]) -> None:
        """Stop being live until there is room, then read on from where the last write ended."""
        self.live = False
        self.positions = {name: self._fanout.positions[name] for name in self.partitions if self._log}
        self._seen = self._fanout.ring.end
        self._stats.slow += 1
        self._task = asyncio.create_task(self._run(lambda: self._wait(room)))

    def had(self, early: Early) -> bool:
        """Tell whether the subscriber was sent this event when it was told early."""
        number = early.number
        seen = number >= self._from and (self.live or number < self._seen)
        return (seen or any(a <= number < b for a, b in self._before)) and self.interest.matches(early.event)

    def close(self, reason: ClosingReason | None = None) -> None:
        """End the stream, and say why where there is a reason; a second call does nothing.

        The last frame carries no id: what was matched but not written must be read again on the resume.
        """
        if self._closed:
            return
        self._closed = True
        self.ending = reason or "failed"
        if self.live:
            self._fanout.flush()
            self._fanout.leave(self)
            self.live = False
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        self._farewell = b"" if reason is None else self.format.closing(reason)
        if self._started:
            self.sink.end(self._farewell)

    def tell(self, frame: bytes) -> bool:
        """Write a frame without an id between two events; False where the client has no room for it now."""
        if not self.live:
            return False
        self._fanout.write((self,), frame)
        return True

    def cancel(self) -> None:
        """Stop writing at once: the client has gone."""
        self._closed = True
        if self.live:
            self._fanout.leave(self)
            self.live = False
        if self._task is not None:
            self._task.cancel()

    async def _run(self, first: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff()
        try:
            await first()
            while not await self._join():
                self._stats.back_to_log += 1
                await self._catch_up(backoff)
        except _StalledError:
            self.close("slow-consumer")
        except Exception:
            logger.exception("a stream failed and is ended; its client resumes from its cursor")
            self.close()

    async def _begin(self) -> None:
        if self._waits is not None:
            await self._wait_for_log(self._waits)
            self._waits = None
        for gap in self._gaps:
            await self._announce(gap)
        self._gaps = []
        await self._catch_up(Backoff())
        await self._write(self.format.ready(self._cursor(), self._recovered, self._replayed))

    async def _wait_for_log(self, waits: "_Waits") -> None:
        """Write what is told early, at once, and look now and then whether the log is back."""
        cursor = waits.start.cursor or ""  # an empty id is none: the client comes back as it came
        backoff = Backoff(cap=AGAIN)
        while True:
            with suppress(TransportUnavailable):
                await self.prepare(waits.start, await waits.read_heads(self.partitions))
                return
            await self._tell_early_for(backoff.next(), cursor)
            await self._write(self.format.heartbeat(cursor))

    async def _tell_early_for(self, seconds: float, cursor: str) -> None:
        """Write what is told early, at once, for so long."""
        until = asyncio.get_running_loop().time() + seconds
        with suppress(TimeoutError):
            while asyncio.get_running_loop().time() < until:
                await self._tell_early(cursor)
                async with asyncio.timeout_at(until):
                    await self._fanout.moved()

    async def _tell_early(self, cursor: str) -> None:
        """Write from the ring what no log holds yet; what the tail brought is left to the replay: the log holds it."""
        while items := self._fanout.ring.since(self._seen, BATCH_ITEMS):
            frames: list[bytes] = []
            for item in items:
                self._seen += 1
                if isinstance(item, Gap) or item.position is not None or item.partition not in self.partitions:
                    continue
                if self.interest.matches(item.event):
                    frames.append(self.format.record(cursor, item))
                    self._replayed += 1
            await self._flush(frames)
        if items is None:
            self._skip()  # it comes by the log, when that is back

    def _skip(self) -> None:
        """Go on from the end of the ring: what lies before it is to be read from the log."""
        once = self._fanout.once
        if once is not None and (oldest := once.oldest) is not None:
            seen = (*self._before, (self._from, self._seen))
            self._before = tuple(part for part in seen if part[1] > oldest)
        self._seen = self._from = self._fanout.ring.end

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
                    self._until = await self._log.head(self.partitions)
                until, self._until = self._until, None
                await self._replay(self._log, until)
                return
            except TransportUnavailable as error:
                logger.warning("replay interrupted, trying again: %s", error.detail)
                if self._fanout.once is not None:
                    await self._tell_early_for(backoff.next(), self._cursor())
                else:
                    await asyncio.sleep(backoff.next())
                await self._write(self.format.heartbeat(self._cursor()))

    async def _replay(self, log: Log, until: Cursor) -> None:
        self._stats.replays += 1
        frames: list[bytes] = []
        read = size = 0
        try:
            async for page in _pages(log, Cursor(self.positions), until):
                if isinstance(page, StoredRecords) and isinstance(self.format, DataFormat) and self._follows(page):
                    await self._flush(frames)
                    await self._replay_stored(page, self.format)
                    read = size = 0
                    continue
                for item in page:
                    if isinstance(item, Gap):
                        await self._flush(frames)
                        if item.position is not None:
                            self.positions[item.partition] = item.position
                        await self._announce(item)
                        continue
                    size += self._match(item, frames)
                    read += 1
                    if read == BATCH_ITEMS or size >= BATCH_BYTES:
                        await self._write_batch(frames)
                        read = size = 0
        except TransportUnavailable:
            await self._flush(frames)  # our place is after them
            raise
        await self._flush(frames)

    def _follows(self, page: StoredRecords) -> bool:
        """Tell whether a page begins where we are, no other partition is in our cursor, and nothing was told early."""
        ours = self.positions[page.partition]
        at_our_place = (page.epoch, page.first) == (ours.epoch, ours.offset + 1)
        return at_our_place and len(self.partitions) == 1 and self._fanout.once is None

    async def _replay_stored(self, page: StoredRecords, format: DataFormat) -> None:
        """Replay a page without making records of it."""
        batch = max(1, min(BATCH_ITEMS, len(page) * BATCH_BYTES // (page.size + 1)))
        for start in range(0, len(page), batch):
            part = page[start : start + batch]
            frames = format.records(part, self.interest.matches)
            self.positions[page.partition] = part.position(len(part) - 1)
            self._replayed += len(frames)
            self._stats.replayed += len(frames)
            self._stats.filtered += len(part) - len(frames)
            await self._write_batch(frames)

    async def _write_batch(self, frames: list[bytes]) -> None:
        if not frames:  # all filtered out: the cursor moves, and the connection is not silent
            frames.append(self.format.heartbeat(self._cursor()))
        await self._flush(frames)
        await asyncio.sleep(0)

    async def _join(self) -> bool:
        """Take from the ring what the tail brought meanwhile and go live; False where the log must be read again."""
        if not await self._tail_arrives():
            return False
        while (items := self._fanout.ring.since(self._seen, BATCH_ITEMS)) is not None:
            if not items:  # no await between this look and the join: nothing can come in between
                self._check_open()
                self._fanout.join(self)
                self.live, self.positions, self._task = True, {}, None
                return True
            frames: list[bytes] = []
            for item in items:
                self._seen += 1
                if item.partition not in self.partitions:
                    continue
                if isinstance(item, Record):
                    self._match(item, frames)
                    continue
                await self._flush(frames)
                if self._log is not None:
                    return False  # the log may still hold what the tail has missed
                await self._announce(item)
            await self._flush(frames)
        return False

    async def _tail_arrives(self) -> bool:
        """Wait until the tail is where we are; False where it does not come: it is cut off, or the log went back."""
        if self._fanout.has_reached(self.positions):
            return True
        try:
            async with asyncio.timeout(self._heartbeat):
                await self._fanout.reached(self.positions)
            return True
        except TimeoutError:
            await self._write(self.format.heartbeat(self._cursor()))
            return False

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
        place = early.position  # in the ring it is before the record; but the replay may have brought that
        return place is not None and self.positions[record.partition][:2] >= place[:2]

    async def _announce(self, gap: Gap) -> None:
        self._recovered = False
        self._stats.gaps[gap.reason] = self._stats.gaps.get(gap.reason, 0) + 1
        await self._write(self.format.gap(self._cursor(), gap))

    def _cursor(self) -> str:
        return cursor_text(self.positions, self.partitions)

    async def _flush(self, frames: list[bytes]) -> None:
        chunk = b"".join(frames)
        frames.clear()
        await self._write(chunk)

    def _check_open(self) -> None:
        """Go no further once closed: before Python 3.12 a cancellation may be swallowed (python/cpython#86296) by the
        wait_for in which redis-py sends, and the reader of a client that is gone would become a member for good.
        """
        if self._closed:
            raise asyncio.CancelledError

    async def _write(self, chunk: bytes) -> None:
        self._check_open()
        if chunk and (room := self.sink.write(chunk)) is not None:
            await self._wait(room)

    async def _wait(self, room: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(STALLED):
                await room
        except TimeoutError:
            raise _StalledError from None


class _Waits(NamedTuple):
    start: Start
    read_heads: Callable[[Sequence[str]], Awaitable[Cursor]]


async def _pages(log: Log, after: Cursor, until: Cursor) -> AsyncIterator[Sequence[Record | Gap]]:
    if isinstance(log, PagedLog):
        async for page in log.replay_pages(after, until):
            yield page
    else:
        async for item in log.replay(after, until):
            yield (item,)


class _StalledError(Exception):
    """The client took no byte for `STALLED` seconds."""
