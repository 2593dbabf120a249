"""One subscriber: reads the log from its position up to the live tail, and again when it cannot keep up."""

import asyncio
import enum
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Literal, NamedTuple

from tidewire.delivery import replay
from tidewire.delivery.early_delivery import Early, ReadNumbers
from tidewire.delivery.fanout import Fanout
from tidewire.delivery.followed_tail import FollowedTail
from tidewire.delivery.groups import Sink
from tidewire.delivery.replay import NotWritableError, Place, Replay, Stats
from tidewire.errors import TransportUnavailable
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor
from tidewire.model.record import Gap, Record
from tidewire.primitives.backoff import Backoff
from tidewire.protocol.sse import ClosingReason, Format

logger = logging.getLogger(__name__)

HOLD = 0.5  # seconds for which a page of the log is held for a client without room; then it is read again
STALLED = 60.0  # seconds without room for one byte: the client is gone or frozen
RETRY_CAP = 1.0  # seconds between two tries to reach a log that was unavailable when the subscriber came


class State(enum.Enum):
    """What a subscriber does now; the value is the metric's label."""

    WAITING = "waiting"  # for a log that has been unavailable since the subscriber came
    REPLAYING = "catching-up"
    LIVE = "live"
    CLOSED = "closed"


class Shared(NamedTuple):
    """What all subscribers of a hub share."""

    tail: FollowedTail
    fanout: Fanout
    stats: Stats
    heartbeat: float  # seconds between two


class AwaitedLog(NamedTuple):
    """The start of a subscriber while the log is unavailable: `find_place` raises TransportUnavailable until then."""

    cursor: str | None  # what the client came with, if it is a cursor
    find_place: Callable[[], Awaitable[Place]]


class Subscriber:
    """Reads the log from its own place until it meets the tail, then is a member of the fan-out.

    `partitions` are those that the tail follows for it. While it is live, its place is the tail's.
    """

    __slots__ = (
        "_begin_at",
        "_number",
        "_read_numbers",
        "_replay",
        "_replayed",
        "_shared",
        "_task",
        "ending",
        "format",
        "interest",
        "issued_at",
        "partitions",
        "sink",
        "state",
        "written",
    )

    def __init__(
        self,
        shared: Shared,
        interest: Interest,
        format: Format,
        partitions: tuple[str, ...],
        issued_at: float = math.inf,
    ) -> None:
        """`issued_at` is when its token was issued (s since 1970): earlier ones of its user may be revoked."""
        self.interest = interest
        self.format = format
        self.partitions = partitions
        self.issued_at = issued_at
        self.state = State.REPLAYING
        self.sink: Sink = _NOT_STARTED
        self.ending: ClosingReason | Literal["failed"] | None = None
        self.written = 0  # events while it was live
        self._replayed = 0  # events before it was live the last time
        self._shared = shared
        self._number = shared.fanout.ring.end  # everything before it in the ring has been matched
        early = shared.fanout.early
        self._read_numbers = None if early is None else ReadNumbers(early, interest, self._number)
        self._begin_at: Place | AwaitedLog | None = None
        self._replay: Replay | None = None
        self._task: asyncio.Task[None] | None = None

    def begin_at(self, place: Place | AwaitedLog) -> None:
        """Set where `start` begins."""
        self._begin_at = place
        if isinstance(place, AwaitedLog):
            self.state = State.WAITING

    @property
    def live(self) -> bool:
        """Whether it is a member of the fan-out."""
        return self.state is State.LIVE

    @property
    def sent(self) -> int:
        """Events that were written, until it was last live."""
        return self._replayed + self.written + (0 if self._replay is None else self._replay.events)

    @property
    def buffered(self) -> int:
        """Bytes written that the kernel does not have yet."""
        return self.sink.buffered

    def start(self, sink: Sink) -> None:
        """Write to `sink` from now on: gaps, replay, `ready`, then live."""
        self.sink = sink
        if self.state is State.CLOSED:  # while the head of its response was on the way
            sink.end(self._farewell())
        else:
            self._task = asyncio.create_task(self._run(self._begin))

    def fall_behind(self, writable: Awaitable[None] | None) -> None:
        """Stop being live, and read on from the tail's place once the sink is writable; see `Member.fall_behind`."""
        positions = self._shared.fanout.positions
        self.state = State.REPLAYING
        self._replay = self._make_replay(
            Place(self.partitions, {name: positions[name] for name in self.partitions if self._shared.tail.log})
        )
        self._number = self._shared.fanout.ring.end
        self._shared.stats.slow += writable is not None
        self._task = asyncio.create_task(self._run(lambda: self._read_on(writable)))

    def received(self, early: Early) -> bool:
        """Return whether it was sent this event before the log held it; only while it is live."""
        assert self._read_numbers is not None
        return self._read_numbers.received(early, None)

    def write_control(self, frame: bytes) -> bool:
        """Write a frame without an id after everything that is pending; False if it cannot be written now."""
        self._shared.fanout.flush()
        if not self.live:
            return False
        self._shared.fanout.write((self,), frame)
        return True

    def close(self, reason: ClosingReason | None = None) -> None:
        """End the stream, and send the reason if there is one; a second call does nothing.

        The last frame carries no id, so that a client that resumes receives what was matched and not written.
        """
        if self.state is State.CLOSED:
            return
        if self.live:
            self._shared.fanout.flush()
        self.ending = reason or "failed"
        self.cancel()
        self.sink.end(self._farewell())

    def cancel(self) -> None:
        """Stop writing at once: the client has gone, or the last frame is all that is still to be written."""
        if self.live:
            self._shared.fanout.leave(self)
        self.state = State.CLOSED
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    async def write(self, chunk: bytes, *, held: bool = False) -> None:
        """Write while it is not live, and wait for room; see `Outlet.write`. Raises StalledError if there is none."""
        self._check_open()
        if not chunk or (writable := self.sink.write(chunk)) is None:
            return
        if held:
            writable = asyncio.ensure_future(writable)
            await asyncio.wait((writable,), timeout=HOLD)
            if not writable.done():
                raise NotWritableError(writable)
        await self.wait_until_writable(writable, STALLED)

    async def wait_until_writable(self, writable: Awaitable[None], seconds: float = STALLED - HOLD) -> None:
        """Wait for as long as a client may take nothing; see `Outlet`. Raises StalledError."""
        try:
            async with asyncio.timeout(seconds):
                await writable
        except TimeoutError:
            raise StalledError from None

    async def pause(self, seconds: float) -> None:
        """Write meanwhile what a fallback delivers early; see `Outlet`."""
        await self._write_early(seconds, self._progress().cursor)

    def _farewell(self) -> bytes:
        return b"" if self.ending is None or self.ending == "failed" else self.format.closing(self.ending)

    def _check_open(self) -> None:
        """Go no further once closed: before Python 3.12 a cancellation may be swallowed (python/cpython#86296) by the
        wait_for in which redis-py sends, and the reader of a client that is gone would become a member for good.
        """
        if self.state is State.CLOSED:
            raise asyncio.CancelledError

    def _progress(self) -> Replay:
        """Return our place while we are not live."""
        self._check_open()
        assert self._replay is not None
        return self._replay

    async def _run(self, first: Callable[[], Awaitable[None]]) -> None:
        try:
            await first()
            while not await self._join():
                self._shared.stats.back_to_log += 1
                await self._read_log(None)
        except StalledError:
            self.close("slow-consumer")
        except Exception:
            logger.exception("a stream failed and is ended; its client resumes from its cursor")
            self.close()

    async def _begin(self) -> None:
        begin, self._begin_at = self._begin_at, None
        assert begin is not None
        if isinstance(begin, AwaitedLog):
            begin = await self._wait_for_log(begin)
            self._check_open()
            self.state = State.REPLAYING
        progress = self._replay = self._make_replay(begin)
        for gap in begin.gaps:
            await progress.announce(gap)
        await self._read_log(begin.until)
        progress.narrow_to(self.partitions)
        await self._wait_for_first_read(progress)
        replayed = self._replayed + progress.events
        await self.write(self.format.ready(progress.cursor, progress.recovered, replayed))

    async def _wait_for_first_read(self, progress: Replay) -> None:
        """Wait until the tail's read of our partitions was answered: `ready` promises what is appended from then on."""
        reading = asyncio.create_task(self._shared.tail.wait_for_first_read(self.partitions))
        try:
            await asyncio.wait((reading,), timeout=RETRY_CAP)
            while not reading.done():
                await self.pause(RETRY_CAP)
                await self.write(self.format.heartbeat(progress.cursor))
        finally:
            reading.cancel()

    async def _wait_for_log(self, awaited: AwaitedLog) -> Place:
        """Write what is delivered early, at once, and try now and then whether the log is back."""
        backoff = Backoff(cap=RETRY_CAP)
        while True:
            with suppress(TransportUnavailable):
                return await awaited.find_place()
            await self._write_early(backoff.next(), awaited.cursor)
            await self.write(self.format.heartbeat(awaited.cursor))

    async def _read_on(self, writable: Awaitable[None] | None) -> None:
        """Wait for room, or else read the log: then the ring does not hold what comes next."""
        if writable is None:
            await self._read_log(None)
        else:
            await self.wait_until_writable(writable, STALLED)

    async def _read_log(self, until: Cursor | None) -> None:
        """Read the log from our place to its head; without a log, announce what has left the ring."""
        progress = self._progress()
        if self._shared.tail.log is not None:
            await progress.run(until)
        elif until is None:
            self._skip_ring()
            await progress.announce(Gap("no-log", self.partitions[0], None))

    async def _join(self) -> bool:
        """Take from the ring what the tail brought meanwhile and go live; False if the log must be read again."""
        progress, fanout = self._progress(), self._shared.fanout
        if not await self._wait_for_tail(progress):
            return False
        while (items := fanout.ring.since(self._number, replay.BATCH_ITEMS)) is not None:
            if not items:  # no await between this and the join: nothing can come in between
                self._check_open()
                fanout.join(self)
                self.state = State.LIVE
                self._replayed += progress.events
                self._replay = self._task = None
                return True
            frames: list[bytes] = []
            for item in items:
                self._number += 1
                if item.partition not in self.partitions:
                    continue
                if isinstance(item, Record):
                    progress.match(item, frames)
                    continue
                await progress.flush(frames)
                if self._shared.tail.log is not None:
                    return False  # the log may still hold what the tail has missed
                await progress.announce(item)
            await progress.flush(frames)
        return False

    async def _wait_for_tail(self, progress: Replay) -> bool:
        """Wait until the tail is where we are; False if it does not come: it is cut off, or the log went back."""
        fanout = self._shared.fanout
        if fanout.waiters.has_reached(progress.positions):
            return True
        if fanout.last_gap >= self._number:  # perhaps of another partition: the ring alone would not hold us back
            return False
        try:
            async with asyncio.timeout(self._shared.heartbeat):
                await fanout.waiters.reached(progress.positions)
            return True
        except TimeoutError:
            await self.write(self.format.heartbeat(progress.cursor))
            return False

    def _make_replay(self, place: Place) -> Replay:
        is_repetition = None if self._read_numbers is None else self._is_repetition
        shared = self._shared
        return Replay(
            shared.tail.log, place, self, self.interest, self.format, shared.stats, self._next_heads, is_repetition
        )

    async def _next_heads(self, partitions: Sequence[str]) -> Cursor:
        self._skip_ring()  # before the heads are read: what comes later is in the ring
        return await self._shared.tail.heads(partitions)

    def _skip_ring(self) -> None:
        """Go on from the end of the ring: what lies before it has to be read from the log."""
        end = self._shared.fanout.ring.end
        if self._read_numbers is not None:
            self._read_numbers.skip(self._number, end)
        self._number = end

    def _is_repetition(self, record: Record) -> bool:
        assert self._read_numbers is not None
        place = {} if self._replay is None else self._replay.positions
        return self._read_numbers.is_repetition(record, self._number, place)

    async def _write_early(self, seconds: float, cursor: str | None) -> None:
        """For so long, write what a fallback delivers before the log holds it."""
        if self._read_numbers is None:
            await asyncio.sleep(seconds)
            return
        until = asyncio.get_running_loop().time() + seconds
        with suppress(TimeoutError):
            while True:
                await self._write_early_items(cursor)
                async with asyncio.timeout_at(until):
                    await self._shared.fanout.waiters.any_item()

    async def _write_early_items(self, cursor: str | None) -> None:
        """Write the ring's items without a position; the log holds the others, and the replay brings them."""
        ring = self._shared.fanout.ring
        while items := ring.since(self._number, replay.BATCH_ITEMS):
            frames: list[bytes] = []
            for item in items:
                self._number += 1
                if isinstance(item, Gap) or item.position is not None or not self.interest.matches(item.event):
                    continue
                if not self._is_repetition(item):
                    frames.append(self.format.record(cursor, item))
                    self._replayed += 1
            await self.write(b"".join(frames))
        if items is None:
            self._skip_ring()  # the log brings it when it is back


class StalledError(Exception):
    """The client took no byte for `STALLED` seconds."""


class _NotStarted:
    """The sink of a subscriber whose response has not begun."""

    buffered = 0

    def write(self, chunk: bytes) -> None:
        """Take nothing: nothing is written before the start."""

    def end(self, chunk: bytes) -> None:
        """End nothing: `start` ends the sink that it is given."""


_NOT_STARTED = _NotStarted()
