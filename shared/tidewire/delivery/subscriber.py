"""One subscriber: from its cursor through the log to the live tail, and back to the log when it cannot keep up."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from tidewire.delivery import replay
from tidewire.delivery.fanout import Fanout, Sink
from tidewire.delivery.known_schemes import KnownSchemes
from tidewire.delivery.replay import Reader, Reads, StalledError, Stats
from tidewire.errors import TransportUnavailable
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor, Position, Start
from tidewire.model.record import Gap, Record
from tidewire.primitives.backoff import Backoff
from tidewire.protocol.sse import ClosingReason, Format
from tidewire.transports.base import Transport

logger = logging.getLogger(__name__)

AGAIN = 1.0  # seconds at most between two looks whether the log is back, of a subscriber who came while it was away


class Subscriber(Reader):
    """Reads the log from its own place until it meets the tail, then is a member of the fan-out."""

    __slots__ = (
        "_farewell",
        "_gaps",
        "_heartbeat",
        "_schemes",
        "_started",
        "_task",
        "_waits",
        "ending",
        "followed",
        "issued_at",
        "written",
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
        heartbeat: float,
        schemes: KnownSchemes,
    ) -> None:
        super().__init__(transport, reads, fanout, stats, interest, format, partitions)
        self.followed = partitions  # by the tail, for this subscriber; `partitions` has more until the replay ends
        self._schemes = schemes
        self.issued_at = math.inf  # when the token was, in s since 1970: earlier ones of its user may be revoked
        self.ending: str | None = None  # why it was closed; None: it was not, or without a word
        self.written = 0  # events while it was live
        self._heartbeat = heartbeat
        self._waits: _Waits | None = None
        self._gaps: list[Gap] = []
        self._started = False
        self._farewell = b""
        self._task: asyncio.Task[None] | None = None

    async def prepare(self, start: Start, heads: Cursor) -> None:
        """Find the place to begin at; `heads` must have been read after the subscriber was made.

        Raises TransportUnavailable.
        """
        self._until = heads
        self.partitions = self.followed
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
                    for begin, names in self._schemes.starts(self.interest, missing, cursor.time).items():
                        places.update((await self._log.seek(names, begin)).positions)
                places.update(cursor.positions)
                await self._read_out(cursor, places)
        elif start.since != "now":
            since = None if start.since == "earliest" else start.since
            places = dict((await self._log.seek(self.partitions, since)).positions)
        self.positions = {name: places[name] for name in self.partitions}
        until = self._until.positions
        if any(place[:2] > until[name][:2] for name, place in self.positions.items()):
            # The log moved on while the place was searched in it: past the old head, it would look like a lost log.
            self._until = await self._reads.heads(self.partitions)

    async def _read_out(self, cursor: Cursor, places: dict[str, Position]) -> None:
        """Read to their heads, and then no more, partitions that the cursor names and no scheme in use needs."""
        assert self._log is not None
        assert self._until is not None
        readable, lost = self._schemes.left_over(self.interest, cursor)
        if lost:
            self._gaps = [Gap("trimmed", self.partitions[0], places[self.partitions[0]])]
        if readable:
            heads = await self._reads.heads(readable)
            self._until = Cursor({**self._until.positions, **heads.positions})
            self.partitions = (*self.followed, *readable)

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

    def fall_behind(self, room: Awaitable[None] | None) -> None:
        """Stop being live, and read on from the tail's place once there is room; see `Member.fall_behind`."""
        self.live = False
        self.positions = {name: self._fanout.positions[name] for name in self.partitions if self._log}
        self._seen = self._fanout.ring.end
        self._stats.slow += room is not None
        self._task = asyncio.create_task(self._run(lambda: self._read_on(room)))

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
        """Write a frame without an id after all that is pending; False where the client has no room for it now."""
        self._fanout.flush()
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
        except StalledError:
            self.close("slow-consumer")
        except Exception:
            logger.exception("a stream failed and is ended; its client resumes from its cursor")
            self.close()

    async def _read_on(self, room: Awaitable[None] | None) -> None:
        """Wait for room, or else read the log: the ring does not hold what comes next."""
        if room is None:
            await self._catch_up(Backoff())
        else:
            await self._wait(room, replay.STALLED)

    async def _begin(self) -> None:
        if self._waits is not None:
            await self._wait_for_log(self._waits)
            self._waits = None
        for gap in self._gaps:
            await self._announce(gap)
        self._gaps = []
        await self._catch_up(Backoff())
        if self.partitions is not self.followed:
            self.partitions = self.followed
            self.positions = {name: at for name, at in self.positions.items() if name in self.followed}
        if self._started:
            await self._tail_follows()
        await self._write(self.format.ready(self._cursor(), self._recovered, self._replayed))

    async def _tail_follows(self) -> None:
        """Wait until the tail's read of our partitions was answered: `ready` promises what is appended from then on."""
        following = asyncio.create_task(self._reads.followed(self.partitions))
        try:
            await asyncio.wait((following,), timeout=AGAIN)
            while not following.done():
                await self._pause(AGAIN)
                await self._write(self.format.heartbeat(self._cursor()))
        finally:
            following.cancel()

    async def _wait_for_log(self, waits: "_Waits") -> None:
        """Write what is told early, at once, and look now and then whether the log is back."""
        # What the client sent is written back to it only where it is a cursor: an id could forge a frame.
        named = waits.start.cursor
        cursor = named if named is not None and Cursor.parse(named) is not None else None
        backoff = Backoff(cap=AGAIN)
        while True:
            with suppress(TransportUnavailable):
                await self.prepare(waits.start, await waits.read_heads(self.partitions))
                return
            await self._tell_early_for(backoff.next(), cursor)
            await self._write(self.format.heartbeat(cursor))

    async def _pause(self, seconds: float) -> None:
        """Write meanwhile what a fallback tells early."""
        if self._fanout.once is not None:
            await self._tell_early_for(seconds, self._cursor())
        else:
            await super()._pause(seconds)

    async def _tell_early_for(self, seconds: float, cursor: str | None) -> None:
        """Write what is told early, at once, for so long."""
        until = asyncio.get_running_loop().time() + seconds
        with suppress(TimeoutError):
            while asyncio.get_running_loop().time() < until:
                await self._tell_early(cursor)
                async with asyncio.timeout_at(until):
                    await self._fanout.moved()

    async def _tell_early(self, cursor: str | None) -> None:
        """Write from the ring what no log holds yet; what the tail brought is left to the replay: the log holds it."""
        while items := self._fanout.ring.since(self._seen, replay.BATCH_ITEMS):
            frames: list[bytes] = []
            for item in items:
                self._seen += 1
                if isinstance(item, Gap) or item.position is not None or item.partition not in self.partitions:
                    continue
                if self.interest.matches(item.event) and not self._is_second(item):
                    frames.append(self.format.record(cursor, item))
                    self._replayed += 1
            await self._flush(frames)
        if items is None:
            self._skip()  # it comes by the log, when that is back

    async def _join(self) -> bool:
        """Take from the ring what the tail brought meanwhile and go live; False where the log must be read again."""
        if not await self._tail_arrives():
            return False
        while (items := self._fanout.ring.since(self._seen, replay.BATCH_ITEMS)) is not None:
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
        if self._fanout.last_gap >= self._seen:
            return False
        try:
            async with asyncio.timeout(self._heartbeat):
                await self._fanout.reached(self.positions)
            return True
        except TimeoutError:
            await self._write(self.format.heartbeat(self._cursor()))
            return False


class _Waits(NamedTuple):
    start: Start
    read_heads: Callable[[Sequence[str]], Awaitable[Cursor]]
